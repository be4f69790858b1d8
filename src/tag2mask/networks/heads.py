"""Heads of segmentation networks: from the maps of a backbone to the logits of the classes.

Parameters carry the names of public checkpoints below `head.`: `stages.c0` … of `SumHead` are those of `aspp.` in the
PyTorch port of DeepLabV2; `branch1` … `branch5_bn` and `conv_cat` of `ConcatHead` those of `aspp.` in the HSC code;
`LargeFovHead` keeps its published names; `SegformerHead` those of `decode_head.` in `transformers`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tag2mask.core.errors import UsageError
from tag2mask.networks.backbones.base import Stage, to_grid
from tag2mask.networks.settings import Upsampling

RATES = (6, 12, 18, 24)
"""Dilations of the four parallel convolutions. Source: Chen et al., DeepLab, TPAMI 2018, "ASPP-L"."""


class Head(nn.Module):
    """From the maps of a backbone's ``stages`` to logits. Random weights come from torch's global generator.

    Attributes:
        stride: pixels per cell of the logits; by default that of the last stage.
        levels: indices of the stages that the head reads; by default the last stage.
        upsampling: the published interpolation of logits to the image's size.
    """

    upsampling: Upsampling = "corners"

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stride: int = stages[-1].stride
        self.levels: tuple[int, ...] = (len(stages) - 1,)

    def forward(self, maps: Sequence[Tensor], inside: Tensor | None = None) -> Tensor:
        """Logits (N, outputs, h, w) from the maps of all stages, each (N, channels, ·, ·).

        ``inside`` is bool (N, ·, ·) on the grid of the last stage, False in padding; None: no padding.
        """
        raise NotImplementedError


class SumHead(Head):
    """The sum of four 3×3 convolutions of different dilations, from the last stage to the ``outputs``.

    Weights are drawn from N(0, 0.01²), biases are 0.

    Source: Chen et al., DeepLab, TPAMI 2018; its PyTorch port for the names.
    """

    def __init__(self, stages: Sequence[Stage], outputs: int) -> None:
        super().__init__(stages)
        channels = stages[-1].channels
        self.stages = nn.ModuleDict(
            {f"c{index}": nn.Conv2d(channels, outputs, 3, 1, rate, rate) for index, rate in enumerate(RATES)}
        )
        for convolution in self.stages.values():
            nn.init.normal_(convolution.get_parameter("weight"), std=0.01)
            nn.init.zeros_(convolution.get_parameter("bias"))

    def forward(self, maps: Sequence[Tensor], inside: Tensor | None = None) -> Tensor:
        """See `Head.forward`."""
        first, *others = (convolution(maps[-1]) for convolution in self.stages.values())
        for other in others:
            first += other
        return first  # type: ignore[no-any-return]


class ConcatHead(Head):
    """Four dilated 3×3 convolutions and the mean of the image, concatenated, then two 1×1 convolutions.

    Two layers of dropout of 0.5 precede the classes. Kaiming normal weights over fan-out.

    Source: the segmentation part of the public HSC code, there called DeepLabV2; the exclusion of padding from the mean
    is ours.
    """

    def __init__(self, stages: Sequence[Stage], outputs: int, *, width: int = 256, momentum: float = 0.1) -> None:
        super().__init__(stages)
        channels = stages[-1].channels
        self.branch1, self.branch2, self.branch3, self.branch4 = (
            _normed(nn.Conv2d(channels, width, 3, 1, rate, rate, bias=False), momentum) for rate in RATES
        )
        self.branch5_conv = nn.Conv2d(channels, width, 1, bias=False)
        self.branch5_bn = nn.BatchNorm2d(width, momentum=momentum)
        merge = nn.Conv2d(width * (len(RATES) + 1), width, 1, bias=False)
        self.conv_cat = nn.Sequential(*_normed(merge, momentum), nn.Dropout(0.5))
        self.dropout1 = nn.Dropout(0.5)
        self.cls_conv = nn.Conv2d(width, outputs, 1)
        _initialise(self)

    def forward(self, maps: Sequence[Tensor], inside: Tensor | None = None) -> Tensor:
        """See `Head.forward`; a `UsageError` for a single image in training, whose mean has no batch statistics."""
        x = maps[-1]
        if self.branch5_bn.training and len(x) == 1:
            raise UsageError(
                "the head `concat` takes the statistics of its batch and needs at least 2 images in it, it got 1; "
                "raise the batch size, leave out a last batch of 1, or set `head_batch_norm` to fixed"
            )
        mean = self.branch5_bn(self.branch5_conv(_mean(x, inside))).relu().expand(-1, -1, *x.shape[2:])
        parts = [branch(x) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)]
        return self.cls_conv(self.dropout1(self.conv_cat(torch.cat([*parts, mean], dim=1))))  # type: ignore[no-any-return]


class LargeFovHead(Head):
    """A 3×3 convolution of dilation 12 and a 1×1 convolution, each with batch norm and ReLU, dropout, and the classes.

    Kaiming normal weights over fan-out.

    Source: the public code that trains ResNet-38 on pseudo masks of SEAM; Chen et al., ICLR 2015, for the field of
    view.
    """

    def __init__(self, stages: Sequence[Stage], outputs: int, *, width: int = 512, momentum: float = 0.1) -> None:
        super().__init__(stages)
        self.conv_fov = nn.Conv2d(stages[-1].channels, width, 3, padding=12, dilation=12, bias=False)
        self.bn_fov = nn.BatchNorm2d(width, momentum=momentum)
        self.conv_fov2 = nn.Conv2d(width, width, 1, bias=False)
        self.bn_fov2 = nn.BatchNorm2d(width, momentum=momentum)
        self.dropout1 = nn.Dropout(0.5)
        self.cls_conv = nn.Conv2d(width, outputs, 1)
        _initialise(self)

    def forward(self, maps: Sequence[Tensor], inside: Tensor | None = None) -> Tensor:
        """See `Head.forward`."""
        x = self.bn_fov(self.conv_fov(maps[-1])).relu_()
        x = self.bn_fov2(self.conv_fov2(x)).relu_()
        return self.cls_conv(self.dropout1(x))  # type: ignore[no-any-return]


class SegformerHead(Head):
    """The stages at ``levels`` projected to one width, on the grid of the first one, concatenated and merged.

    As in `transformers` except for odd sizes, where cells keep their position instead of being stretched. The linear
    layers there are 1×1 convolutions here: `projections.0.weight`, ….

    Source: Xie et al., SegFormer, NeurIPS 2021, section 3.2; for other backbones than its own ours.
    """

    upsampling = "cells"

    def __init__(
        self,
        stages: Sequence[Stage],
        outputs: int,
        *,
        levels: tuple[int, ...],
        width: int = 256,
        dropout: float = 0.1,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(stages)
        self.levels = levels
        self.strides = tuple(stages[level].stride for level in levels)
        self.stride = self.strides[0]
        self.projections = nn.ModuleList(nn.Conv2d(stages[level].channels, width, 1) for level in levels)
        self.linear_fuse = nn.Conv2d(width * len(levels), width, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width, momentum=momentum)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: Sequence[Tensor], inside: Tensor | None = None) -> Tensor:
        """See `Head.forward`."""
        finest = maps[self.levels[0]]
        size = int(finest.shape[2]), int(finest.shape[3])
        parts = [
            to_grid(projection(maps[level]), stride, self.stride, size)
            for level, stride, projection in zip(self.levels, self.strides, self.projections, strict=True)
        ]
        x = self.batch_norm(self.linear_fuse(torch.cat(parts[::-1], dim=1))).relu_()
        return self.classifier(self.dropout(x))  # type: ignore[no-any-return]


def _normed(convolution: nn.Conv2d, momentum: float) -> nn.Sequential:
    return nn.Sequential(
        convolution, nn.BatchNorm2d(convolution.out_channels, momentum=momentum), nn.ReLU(inplace=True)
    )


def _initialise(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _mean(x: Tensor, inside: Tensor | None) -> Tensor:
    """The mean of (N, C, h, w) over the cells of the image: (N, C, 1, 1)."""
    if inside is None:
        return x.mean(dim=(2, 3), keepdim=True)
    weight = inside.unsqueeze(1).to(x.dtype)  # (N, 1, h, w)
    return (x * weight).sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True).clamp_min(1)
