"""Backbones as named stages with strides, and the grids of their maps.

A stride s divides H × W pixels into ceil(H / s) × ceil(W / s) cells; cell i starts at pixel s · i. All changes of grid
keep that alignment, also where the last cell is cut off.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tag2mask.core.errors import UsageError
from tag2mask.networks.backbones.weights import Notify, PublicCheckpoint
from tag2mask.networks.settings import NetworkSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Colour = tuple[float, float, float]


class Stage(NamedTuple):
    """One output of a backbone; ``stride`` is the number of input pixels per cell, along both sides."""

    name: str
    channels: int
    stride: int


def offered(stages: Iterable[Stage]) -> str:
    """The available levels for an error message: ``"0 (layer1: 256 channels at stride 4), …"``."""
    return ", ".join(
        f"{index} ({stage.name}: {stage.channels} channels at stride {stage.stride})"
        for index, stage in enumerate(stages)
    )


class Backbone(nn.Module):
    """A network from images to one map per stage."""

    stages: tuple[Stage, ...]  # in the order of computation; the last one feeds the classifier
    mean: Colour = IMAGENET_MEAN  # of the input normalisation, RGB in [0, 1]
    std: Colour = IMAGENET_STD
    pretrained: bool = False  # whether the weights are pretrained; decides what is frozen
    default_levels: tuple[int, ...]  # indices of the stages of the default joint feature
    segformer_head: Mapping[str, Any] = {}  # arguments of `SegformerHead` that the backbone's publication sets
    norm_fixed: bool = False  # whether batch norm keeps its running statistics while training
    stem_fixed: bool = False  # whether the stem is frozen

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map (N, channels, ceil(H / stride), ceil(W / stride)) per stage, from normalised (N, 3, H, W)."""
        raise NotImplementedError

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """The stages of `all_maps`: finer ones where the backbone has any, then `stages`."""
        return self.stages

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """The maps of `all_stages`, as `forward` gives those of `stages`."""
        return list(self(images))

    def uncut_maps(self, images: Tensor) -> list[Tensor]:
        """As `forward`, with the cells beyond the image that the backbone's pooling may add."""
        return list(self(images))

    def stem(self) -> list[nn.Module]:
        """The modules that `apply_policy` freezes when the weights are pretrained."""
        return []

    def stem_parameters(self) -> list[nn.Parameter]:
        """The parameters of the modules of `stem`."""
        return [parameter for module in self.stem() for parameter in module.parameters()]

    def freeze_unreached(self, levels: tuple[int, ...]) -> None:
        """Freeze parameters that affect neither ``levels`` nor the last stage: DDP needs a gradient for each one."""

    def architecture(self) -> dict[str, Any]:
        """The JSON values from which `Family.rebuild` makes this backbone again, with the family as ``kind``."""
        raise NotImplementedError

    def apply_policy(self, norm: Literal["auto", "fixed", "trained"] = "auto", *, freeze_stem: bool = True) -> None:
        """Set the parameters that train. Call it before `freeze_unreached`.

        Batch norm with ``norm`` `fixed` keeps running statistics, with `trained` it uses batch statistics; `auto` is
        fixed for pretrained weights. With ``freeze_stem`` the stem of pretrained weights is frozen.
        """
        self.norm_fixed = self.pretrained if norm == "auto" else norm == "fixed"
        self.stem_fixed = self.pretrained and freeze_stem
        if self.pretrained:
            for parameter in self.stem_parameters():
                parameter.requires_grad_(not self.stem_fixed)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """As `nn.Module.train`, but fixed batch norm and a frozen stem stay in evaluation mode."""
        super().train(mode)
        if self.norm_fixed:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        if self.stem_fixed:
            for module in self.stem():
                module.eval()
        return self


@dataclass(frozen=True)
class Family:
    """A family of backbones; its file and `registry.FAMILIES` are the places to add one.

    Attributes:
        build: from the settings, whether to dilate, and `Notify`, a backbone with its weights; raises a `UsageError`
            where the weights do not exist or do not fit.
        rebuild: from an architecture and the settings of a checkpoint, a backbone with random weights.
    """

    kind: str  # the family's name in `Backbone.architecture`
    names: tuple[str, ...]  # values of `network.backbone` that select it
    build: Callable[[NetworkSettings, bool, Notify | None], Backbone]
    rebuild: Callable[[Mapping[str, Any], NetworkSettings], Backbone]
    public: Mapping[str, PublicCheckpoint] = field(default_factory=dict)  # checkpoints that are fetched by name
    takes_file: bool = True  # whether `network.weights` may be a path
    can_dilate: bool = False  # whether dilations may replace the strides that ``output_stride`` removes (DeepLab)
    needs_transformers: bool = False  # whether the backbones come from `transformers`


class NormalisingNetwork(nn.Module):
    """A network on a backbone; takes RGB in [0, 1] and normalises it."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        for name, colour in (("pixel_mean", backbone.mean), ("pixel_std", backbone.std)):
            self.register_buffer(name, torch.tensor(colour).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """Images in the backbone's normalisation; padding becomes the mean colour.

        Args:
            images: float (N, 3, H, W), RGB in [0, 1].
            valid: bool (N, H, W), False where ``images`` is padding; None: no padding.

        Returns:
            float (N, 3, H, W).

        Raises:
            UsageError: ``images`` is not (N, 3, H, W).
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(f"images should be (N, 3, H, W), received {tuple(images.shape)}")
        normalised = (images - self.pixel_mean) / self.pixel_std
        return normalised if valid is None else normalised.masked_fill_(valid.logical_not().unsqueeze(1), 0)


def ceil_grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The grid of an image: (ceil(H / stride), ceil(W / stride)) for ``size`` = (H, W)."""
    return -(-size[0] // stride), -(-size[1] // stride)


def image_cells(valid: Tensor, size: tuple[int, int], *, stride: int | None) -> Tensor:
    """The cells that belong to the image: those wholly inside it or, if there are none, those that it touches.

    Args:
        valid: bool (N, H, W), False = padding.
        size: (h, w), the grid of (H, W) at ``stride``; without a stride, any: the cells are spread evenly over (H, W).

    Returns:
        bool (N, h, w), at least one True for an image that has a valid pixel.
    Source: ours.
    """
    height, width = valid.shape[-2:]
    if stride is not None and ceil_grid((height, width), stride) != tuple(size):
        raise UsageError(
            f"a valid mask of {height} × {width} pixels has no grid of {size[0]} × {size[1]} cells of {stride} pixels"
        )
    masks = torch.stack([valid.logical_not(), valid]).float()
    most = F.max_pool2d(masks, stride, ceil_mode=True) if stride else F.adaptive_max_pool2d(masks, size)
    inside, outside = most == 0
    return torch.where(inside.flatten(1).any(dim=1)[:, None, None], inside, outside.logical_not())


def to_grid(maps: Tensor, stride: int, target: int, size: tuple[int, int]) -> Tensor:
    """Maps on another grid: the mean where cells merge, bilinear interpolation where they split.

    Args:
        maps: float (N, D, h, w) on the grid of ``stride``.
        target: pixels per cell of the result (N, D, h', w').
        size: (h', w'), the image's grid at ``target``.
    """
    if stride == target:
        return maps
    if target % stride == 0:
        return F.avg_pool2d(maps, target // stride, ceil_mode=True, count_include_pad=False)
    if stride % target == 0:
        # Scaling by the ratio and cutting off the rest keeps cells aligned; scaling to `size` would stretch the maps.
        enlarged = F.interpolate(maps, scale_factor=float(stride // target), mode="bilinear", align_corners=False)
        return enlarged[..., : size[0], : size[1]]
    mode = "area" if target > stride else "bilinear"
    return F.interpolate(maps, size=size, mode=mode, align_corners=None if mode == "area" else False)
