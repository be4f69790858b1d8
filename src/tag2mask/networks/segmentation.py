"""The segmentation network: a backbone and a head, from images to the logits of background and classes."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tag2mask.networks.backbone import build_backbone
from tag2mask.networks.deeplab import ConcatHead, Head, LargeFovHead, SumHead
from tag2mask.networks.grids import photograph_cells, to_grid
from tag2mask.networks.hub_backbones import SegformerEncoder
from tag2mask.networks.pot_network import check_classes
from tag2mask.networks.public_weights import IMAGENET, Notify
from tag2mask.networks.resnet import RESNETS
from tag2mask.networks.segformer import SegformerHead
from tag2mask.networks.settings import SegmentationNetworkSettings
from tag2mask.networks.stages import Backbone, normalise

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


class ParameterGroups(NamedTuple):
    """All parameters that train, each in one group; a group may be empty.

    Published learning rates, for the backbone's weights times: DeepLab on pseudo masks 1, biases 2, head 10, its
    biases 20, no weight decay for biases; norms are not trained there.

    Attributes:
        backbone_weights: of convolutions and linear layers, and embeddings.
        backbone_biases: theirs, and other vectors.
        backbone_norms: scale and shift of norms of all kinds.
        head_weights: as those of the backbone.
        head_biases: as those of the backbone.
        head_norms: as those of the backbone.
    """

    backbone_weights: list[nn.Parameter]
    backbone_biases: list[nn.Parameter]
    backbone_norms: list[nn.Parameter]
    head_weights: list[nn.Parameter]
    head_biases: list[nn.Parameter]
    head_norms: list[nn.Parameter]


class SegmentationNetwork(nn.Module):
    """From images to logits of background and classes, on the grid of the head.

    Everything trains, but for scale and shift of batch norm where ``norm_affine`` fixes them, and what no stage that
    the head reads depends on. A parameter that does not train does not require a gradient, and one that does gets one
    in every step.

    Attributes:
        backbone: the stages; taken over, and its norm policy set anew.
        head: what reads them.
        classes: C names, without background; class id = channel of the logits, 0 is background.
        settings: what it was built with.
        stride: pixels a cell of the logits.
        align_corners: how `to_pixels` scales.
        licence: a note about the weights that it began with; it goes into its checkpoint.
        intensity: of images of more than 8 bits, the values that were black and white in training; None for 0 to 65535.
            Images are to be read with it; it goes into its checkpoint.

    Raises:
        UsageError: no classes, too many, or one twice.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, backbone: Backbone, classes: tuple[str, ...], settings: SegmentationNetworkSettings) -> None:
        """A new head, from torch's global generator; see `build_segmentation_network`."""
        super().__init__()
        check_classes(classes)
        self.backbone, self.classes, self.settings = backbone, tuple(classes), settings
        self.head = _head(backbone, len(classes) + 1, settings)
        self.stride = self.head.stride
        self.align_corners = self.head.align_corners if settings.align_corners is None else settings.align_corners
        self.licence = licence_note(settings)
        self.intensity: tuple[float, float] | None = None
        for name, colour in (("pixel_mean", backbone.mean), ("pixel_std", backbone.std)):
            self.register_buffer(name, torch.tensor(colour).view(1, 3, 1, 1), persistent=False)
        self._apply_policy()

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits float32 (N, C + 1, h, w), background first.

        With ``scales`` in the settings they are the maximum over all scales. In training mode the result is then a
        list, as the published loss wants it: the logits of the image itself, those of each scale on a grid of its
        own, and the maximum.

        Args:
            images: float (N, 3, H, W), RGB in [0, 1]; the normalisation is the network's own.
            valid: bool (N, H, W), False where ``images`` is padding, which takes the mean colour; None means that
                there is none.

        Raises:
            UsageError: ``images`` is not (N, 3, H, W).
        """
        every = self._all_logits(images, valid)
        return every if self.training and len(every) > 1 else every[-1]

    def full_logits(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logits of every pixel, float32 (N, C + 1, H, W); of the maximum, where there are more scales.

        With ``align_corners`` an image that is padded has its logits stretched over the padding, too: there, images
        of one size belong together.

        Args:
            images: as for `forward`.
            valid: as for `forward`.

        Raises:
            UsageError: ``images`` is not (N, 3, H, W).
        """
        logits = self._all_logits(images, valid)[-1]
        return self.to_pixels(logits, (int(images.shape[2]), int(images.shape[3])))

    def to_pixels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (N, ·, h, w) of images of ``size`` = (H, W), bilinear to (N, ·, H, W).

        With ``align_corners`` the centres of the outer cells come onto the outer pixels, which is where a ResNet has
        them if stride divides H - 1. Otherwise cells stay where they are and the last ones are cut off.
        """
        if self.align_corners:
            return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
        return to_grid(logits, self.stride, 1, size)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the backbone."""
        return [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the head, which are new."""
        return [parameter for parameter in self.head.parameters() if parameter.requires_grad]

    def parameter_groups(self) -> ParameterGroups:
        """The trainable parameters in groups that may differ in learning rate and decay."""
        return ParameterGroups(*_by_kind(self.backbone), *_by_kind(self.head))

    def train(self, mode: bool = True) -> "SegmentationNetwork":
        """As `nn.Module.train`, but fixed batch norm stays in evaluation mode, in the backbone and in the head."""
        super().train(mode)
        if self.settings.head_norm == "fixed":
            for module in _batch_norms(self.head):
                module.eval()
        return self

    def _apply_policy(self) -> None:
        settings = self.settings
        self.backbone.apply_policy(settings.norm, freeze_stem=False)
        if settings.norm_momentum is not None:
            for module in _batch_norms(self.backbone):
                module.momentum = settings.norm_momentum
        self.backbone.freeze_unreached(self.head.levels)
        trained = not self.backbone.pretrained or settings.head == "segformer"
        if settings.norm_affine == "fixed" or (settings.norm_affine == "auto" and not trained):
            for module in _batch_norms(self):
                module.requires_grad_(False)
        self.train(self.training)

    def _all_logits(self, images: Tensor, valid: Tensor | None) -> list[Tensor]:
        normalised = normalise(images, valid, self.pixel_mean, self.pixel_std)
        if not self.settings.scales:
            return [self._logits(normalised, valid)]
        return multi_scale(self._logits, normalised, valid, self.settings.scales)

    def _logits(self, normalised: Tensor, valid: Tensor | None) -> Tensor:
        """Float32 logits of one scale."""
        maps = self.backbone(normalised)
        inside = None
        if valid is not None:
            grid = int(maps[-1].shape[2]), int(maps[-1].shape[3])
            inside = photograph_cells(valid, grid, stride=self.backbone.stages[-1].stride)
        logits: Tensor = self.head(maps, inside)
        return logits.float()


def multi_scale(
    logits_of: Callable[[Tensor, Tensor | None], Tensor],
    images: Tensor,
    valid: Tensor | None,
    scales: tuple[float, ...],
) -> list[Tensor]:
    """One network on the images and on smaller ones, and the maximum of what it says.

    Args:
        logits_of: the network: (N, 3, H, W) and (N, H, W) to (N, K, h, w).
        images: float (N, 3, H, W), normalised.
        valid: bool (N, H, W), False where there is padding, or None. A pixel of a smaller image that has anything of
            the photograph in it is valid.
        scales: of the other images, whose sides are (side - 1) · scale + 1, rounded down: so 321 gives 161 and 241,
            whose cells of 8 pixels lie on those of the image. Scaling is bilinear, corners not aligned.

    Returns:
        (N, K, h, w) of the images, (N, K, ·, ·) of each scale on its own grid, and the maximum of all, on the first
        grid.

    Source: Chen et al., DeepLab, TPAMI 2018, "MSC"; its PyTorch port, which rounds side · scale down and comes to the
    same cells at the published size.
    """
    every = [logits_of(images, valid)]
    for scale in scales:
        size = [int((side - 1) * scale) + 1 for side in images.shape[2:]]
        scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        seen = None if valid is None else F.adaptive_max_pool2d(valid.unsqueeze(1).float(), size).squeeze(1) > 0
        every.append(logits_of(scaled, seen))
    grid = every[0].shape[2:]
    on_one_grid = [F.interpolate(each, size=grid, mode="bilinear", align_corners=False) for each in every[1:]]
    return [*every, torch.stack([every[0], *on_one_grid]).amax(dim=0)]


def build_segmentation_network(
    settings: SegmentationNetworkSettings, classes: tuple[str, ...], *, seed: int, notify: Notify | None = None
) -> SegmentationNetwork:
    """A new segmentation network, on the CPU, in training mode; the caller's random state is left as it was.

    Args:
        settings: backbone, weights and head.
        classes: C names, without background.
        seed: of all weights that are random.
        notify: as for `build_backbone`.

    Raises:
        UsageError: the settings or the classes are wrong.
        Tag2maskError: weights could not be fetched.
    """
    check_classes(classes)
    dilated = settings.backbone in RESNETS
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = build_backbone(settings.backbone_settings(), dilated=dilated, notify=notify)
        return SegmentationNetwork(backbone, classes, settings)


def licence_note(settings: SegmentationNetworkSettings) -> str:
    """What to know about the weights that a network of these settings begins with; a note, not legal advice."""
    start = settings.backbone_settings()
    if start.wants_random:
        return "begun from random weights"
    if settings.backbone in IMAGENET and start.wants_pretrained:
        file = IMAGENET[settings.backbone].file
        return f"begun from torchvision's {file} (BSD-3-Clause), trained on ImageNet, whose photographs have own terms"
    source = settings.backbone if start.wants_pretrained else settings.weights
    name = Path(source).name if Path(source).exists() else source
    return f"begun from the weights {name}, whose licence their source states"


def _head(backbone: Backbone, outputs: int, settings: SegmentationNetworkSettings) -> Head:
    stages, momentum = backbone.stages, settings.head_momentum
    if settings.head == "sum":
        return SumHead(stages, outputs)
    if settings.head == "concat":
        return ConcatHead(stages, outputs, momentum=momentum)
    if settings.head == "largefov":
        return LargeFovHead(stages, outputs, momentum=momentum)
    # The last stage always counts: what of the backbone is read by nobody would never get a gradient.
    levels = tuple(sorted({*backbone.default_levels, len(stages) - 1}))
    if not isinstance(backbone, SegformerEncoder):
        return SegformerHead(stages, outputs, levels=levels, momentum=momentum)
    width, dropout = backbone.config.decoder_hidden_size, backbone.config.classifier_dropout_prob
    return SegformerHead(stages, outputs, levels=levels, width=width, dropout=dropout, momentum=momentum)


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def _by_kind(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters: weights, biases and other vectors, those of norms."""
    weights, vectors, norms = [], [], []
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, _NORMS):
                norms.append(parameter)
            elif parameter.ndim > 1:
                weights.append(parameter)
            else:
                vectors.append(parameter)
    return weights, vectors, norms
