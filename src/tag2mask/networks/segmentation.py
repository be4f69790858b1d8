"""The segmentation network: a backbone and a head, from images to the logits of background and classes."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tag2mask.networks.backbones.base import Backbone, NormalisingNetwork, image_cells, to_grid
from tag2mask.networks.backbones.registry import build_backbone, family_of
from tag2mask.networks.backbones.weights import Notify
from tag2mask.networks.heads import ConcatHead, Head, LargeFovHead, SegformerHead, SumHead
from tag2mask.networks.pot_network import check_classes
from tag2mask.networks.settings import SegmentationNetworkSettings

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


class ParameterGroups(NamedTuple):
    """The trainable parameters, each in one group; biases include other vectors, norms are scales and shifts."""

    backbone_weights: list[nn.Parameter]
    backbone_biases: list[nn.Parameter]
    backbone_norms: list[nn.Parameter]
    head_weights: list[nn.Parameter]
    head_biases: list[nn.Parameter]
    head_norms: list[nn.Parameter]


class SegmentationNetwork(NormalisingNetwork):
    """From images to logits of background and classes, on the grid of the head.

    Exactly the trainable parameters require a gradient: all except scale and shift of batch norm with fixed
    ``batch_norm_affine``, and those that do not affect the stages that the head reads.

    Attributes:
        classes: C names, without background; class id = channel of the logits, 0 is background.
        stride: pixels per cell of the logits.
        upsampling: the interpolation of `to_pixels`.
        licence: a note on the initial weights, saved in the checkpoint.
        intensity: for images of more than 8 bits, the values of black and white in training, saved in the checkpoint;
            None: 0 to 65535.

    Raises:
        UsageError: no classes, too many, or one twice.
    """

    def __init__(self, backbone: Backbone, classes: tuple[str, ...], settings: SegmentationNetworkSettings) -> None:
        super().__init__(backbone)
        check_classes(classes)
        self.classes, self.settings = tuple(classes), settings
        self.head = _head(backbone, len(classes) + 1, settings)
        self.stride = self.head.stride
        self.upsampling = settings.upsampling or self.head.upsampling
        self.licence = licence_note(settings)
        self.intensity: tuple[float, float] | None = None
        self._apply_policy()

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits float32 (N, C + 1, h, w), background first; arguments as of `normalise`.

        With ``scales`` in the settings they are the maximum over all scales; in training mode the result is then the
        list of `multi_scale`, for the published loss.
        """
        every = self._all_logits(images, valid)
        return every if self.training and len(every) > 1 else every[-1]

    def full_logits(self, images: Tensor) -> Tensor:
        """Logits of every pixel, float32 (N, C + 1, H, W), as `forward` in evaluation mode."""
        logits = self._all_logits(images, None)[-1]
        return self.to_pixels(logits, (int(images.shape[2]), int(images.shape[3])))

    def to_pixels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (N, ·, h, w) of images of ``size`` = (H, W), bilinear to (N, ·, H, W).

        With ``upsampling`` `corners` the centres of the outer cells lie on the outer pixels, as in a ResNet whose
        stride divides H - 1. With `cells` they keep their position and the last ones are cropped. With `stretched` a
        cell has H / h × W / w pixels.
        """
        if self.upsampling == "cells":
            return to_grid(logits, self.stride, 1, size)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=self.upsampling == "corners")

    def parameter_groups(self) -> ParameterGroups:
        """The trainable parameters in groups for learning rates and weight decay."""
        return ParameterGroups(*_by_kind(self.backbone), *_by_kind(self.head))

    def train(self, mode: bool = True) -> "SegmentationNetwork":
        """As `nn.Module.train`, but fixed batch norm stays in evaluation mode, in the backbone and in the head."""
        super().train(mode)
        if self.settings.head_batch_norm == "fixed":
            for module in _batch_norms(self.head):
                module.eval()
        return self

    def _apply_policy(self) -> None:
        settings = self.settings
        self.backbone.apply_policy(settings.batch_norm, freeze_stem=False)
        if settings.batch_norm_momentum is not None:
            for module in _batch_norms(self.backbone):
                module.momentum = settings.batch_norm_momentum
        self.backbone.freeze_unreached(self.head.levels)
        trained = not self.backbone.pretrained or settings.head == "segformer"
        if settings.batch_norm_affine == "fixed" or (settings.batch_norm_affine == "auto" and not trained):
            for module in _batch_norms(self):
                module.requires_grad_(False)
        self.train(self.training)

    def _all_logits(self, images: Tensor, valid: Tensor | None) -> list[Tensor]:
        normalised = self.normalise(images, valid)
        if not self.settings.scales:
            return [self._logits(normalised, valid)]
        stretched = self.upsampling == "stretched"
        return multi_scale(self._logits, normalised, valid, self.settings.scales, stretched=stretched)

    def _logits(self, normalised: Tensor, valid: Tensor | None) -> Tensor:
        """Float32 logits of one scale."""
        stretched = self.upsampling == "stretched"
        maps = self.backbone.uncut_maps(normalised) if stretched else self.backbone(normalised)
        inside = None
        if valid is not None:
            grid = int(maps[-1].shape[2]), int(maps[-1].shape[3])
            inside = image_cells(valid, grid, stride=None if stretched else self.backbone.stages[-1].stride)
        logits: Tensor = self.head(maps, inside)
        return logits.float()


def multi_scale(
    logits_of: Callable[[Tensor, Tensor | None], Tensor],
    images: Tensor,
    valid: Tensor | None,
    scales: tuple[float, ...],
    *,
    stretched: bool,
) -> list[Tensor]:
    """The logits of images at several scales, and their maximum.

    Args:
        logits_of: from images (N, 3, H, W), normalised, and ``valid`` (N, H, W) to logits (N, K, h, w).
        valid: bool (N, H, W), False = padding, or None. A scaled pixel is valid if any part of it is.
        scales: the scaled sides are (side - 1) · scale + 1, rounded down: 321 gives 161 and 241, whose cells of 8
            pixels are aligned with those of the image. Scaling is bilinear, corners not aligned.
        stretched: the scaled sides are side · scale, rounded down, as in the port: 321 gives 160 and 240.

    Returns:
        (N, K, h, w) of the images, (N, K, ·, ·) of each scale on its own grid, and the maximum of all, on the first
        grid.

    Source: Chen et al., DeepLab, TPAMI 2018, "MSC"; ``stretched`` as its PyTorch port on torch 1.6 or newer. With an
    older torch the port samples at ratios of the sides instead of the scale.
    """
    every = [logits_of(images, valid)]
    for scale in scales:
        if stretched and min(images.shape[2:]) * scale >= 1:  # a smaller image has no such size
            scaled = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        else:
            size = [int((side - 1) * scale) + 1 for side in images.shape[2:]]
            scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        inside = None
        if valid is not None:
            inside = F.adaptive_max_pool2d(valid.unsqueeze(1).float(), scaled.shape[2:]).squeeze(1) > 0
        every.append(logits_of(scaled, inside))
    grid = every[0].shape[2:]
    on_one_grid = [F.interpolate(each, size=grid, mode="bilinear", align_corners=False) for each in every[1:]]
    return [*every, torch.stack([every[0], *on_one_grid]).amax(dim=0)]


def build_segmentation_network(
    settings: SegmentationNetworkSettings, classes: tuple[str, ...], *, seed: int, notify: Notify | None = None
) -> SegmentationNetwork:
    """A new segmentation network, on the CPU, in training mode. The global random state does not change.

    Raises:
        UsageError: the settings or the classes are wrong.
        Tag2maskError: weights could not be fetched.
    """
    check_classes(classes)
    dilated = family_of(settings.backbone).can_dilate
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = build_backbone(settings.backbone_settings(), dilated=dilated, notify=notify)
        return SegmentationNetwork(backbone, classes, settings)


def licence_note(settings: SegmentationNetworkSettings) -> str:
    """A note on the origin and licence of a network's initial weights."""
    start = settings.backbone_settings()
    if start.wants_random:
        return "begun from random weights"
    public = family_of(settings.backbone).public.get(settings.backbone)
    if public and start.wants_pretrained:
        return f"begun from {public.licence}"
    source = settings.backbone if start.wants_pretrained else settings.weights
    name = Path(source).name if Path(source).exists() else source
    return f"begun from the weights {name}, whose licence their source states"


def _head(backbone: Backbone, outputs: int, settings: SegmentationNetworkSettings) -> Head:
    stages, momentum = backbone.stages, settings.head_batch_norm_momentum
    if settings.head == "sum":
        return SumHead(stages, outputs)
    if settings.head == "concat":
        return ConcatHead(stages, outputs, momentum=momentum)
    if settings.head == "largefov":
        return LargeFovHead(stages, outputs, momentum=momentum)
    # The last stage is always included: otherwise a part of the backbone would not receive a gradient.
    levels = tuple(sorted({*backbone.default_levels, len(stages) - 1}))
    return SegformerHead(stages, outputs, levels=levels, momentum=momentum, **backbone.segformer_head)


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def _by_kind(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """The trainable weights; biases and other vectors; parameters of norms."""
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
