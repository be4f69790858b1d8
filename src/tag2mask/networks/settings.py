"""The settings of the POT network, section `network`, and of the segmentation network."""

import math
import re
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from tag2mask.core.fields import Checked, setting

FEATURE_STRIDE = 16
"""The joint feature has the finest grid among the chosen stages with at least this many pixels per cell; ours."""

FINEST_FEATURE_STRIDE = 8
"""Lower bound on the pixels per cell of the joint feature if every chosen stage is finer than `FEATURE_STRIDE`."""

OutputStride = Literal[8, 16, 32]

Norm = Literal["auto", "fixed", "trained"]

Upsampling = Literal["corners", "cells", "stretched"]
"""How logits are interpolated to the size of the image; see `SegmentationNetworkSettings`."""


@dataclass
class NetworkSettings(Checked):
    """The backbone, its weights, and the joint feature of its stages.

    Attributes:
        backbone: `resnet18`, `resnet34`, `resnet50`, `resnet101`; `resnet50s` and `resnet101s`, with a stem of three
            convolutions; `resnet101-caffe`, the original; `wideresnet38`; `segformer-b0` to `segformer-b5`, encoders
            with random weights; or a `transformers` model, as a folder or as a name on the Hugging Face hub
            (`owner/model`), of a text-image model its image encoder.
        weights: `imagenet` (or `pretrained`): the public ImageNet checkpoint of `resnet18` to `resnet101`, or the
            weights of the `transformers` model; a path (`.pth` or `.safetensors`, for ResNets and WideResNet-38, which
            also takes its authors' `.params`; for `resnet101-caffe`, checkpoints of the PyTorch port of DeepLabV2); or
            `none`: random weights.
        output_stride: pixels per cell of the last stage: 8, 16 or 32, for ResNets and MobileNetV2. Other backbones have
            a fixed stride (8 for WideResNet-38). With a frozen backbone, 8 is the grid of the joint feature alone: the
            stages keep the strides that they were trained with.
        out_indices: indices of the stages in the joint feature; null takes the backbone's default.
        projections: true trains a 1×1 projection of each stage, with the image's colours as three more channels, as
            published; false takes the stages themselves.
        batch_norm: batch norm in training. `fixed`: running statistics, scale and shift train; `trained`: batch
            statistics; `auto`: fixed for pretrained weights, trained for random ones.
        freeze: the backbone keeps its weights, and only a classifier of the joint feature's cells is trained. Features
            are computed once per image, with the sizes of `cams`, and kept in RUN/features. Of `train`, only the steps,
            `batch_size`, `learning_rate`, `consistency_start`, and whether `consistency_weight` is 0 are read.
    """

    backbone: str = setting("resnet50", path=True)
    weights: str = setting("imagenet", path=True)
    output_stride: OutputStride = 16
    out_indices: tuple[int, ...] | None = None
    projections: bool = False
    batch_norm: Norm = "auto"
    freeze: bool = False

    _section: ClassVar[str] = "network"

    def __post_init__(self) -> None:
        if self.out_indices is not None:
            self.out_indices = tuple(self.out_indices)
        super().__post_init__()

    def problems(self) -> list[str]:
        """Problems of the names and of the stages, one clause each."""
        problems = backbone_problems(self)
        if self.out_indices is not None and (
            not self.out_indices or len(set(self.out_indices)) != len(self.out_indices)
        ):
            problems.append(f"out_indices should be one stage or more, none twice, received {list(self.out_indices)}")
        if self.freeze and self.projections:
            problems.append("freeze true needs projections false, since projections have to be trained")
        if self.freeze and self.wants_random:
            problems.append("freeze true needs pretrained weights, since random ones are not trained")
        return problems

    @property
    def backbone_stride(self) -> int:
        """Pixels per cell of the backbone's last stage."""
        return max(FEATURE_STRIDE, self.output_stride) if self.freeze else self.output_stride

    @property
    def wants_pretrained(self) -> bool:
        """Whether the backbone's own pretrained weights are requested."""
        return self.weights in ("imagenet", "pretrained")

    @property
    def wants_random(self) -> bool:
        """Whether random weights are requested."""
        return self.weights == "none"


def backbone_problems(settings: "NetworkSettings | SegmentationNetworkSettings") -> list[str]:
    """Problems of the names of backbone and weights, one clause each."""
    problems = []
    if not settings.backbone:
        problems.append("backbone is empty; name a ResNet (resnet50), a folder or owner/model on the hub")
    if not settings.weights:
        problems.append("weights is empty; it should be imagenet, none or a path")
    return problems


_SETTING = re.compile(rf"(?<![\w./])network\.(?=({'|'.join(each.name for each in fields(NetworkSettings))})\b)")


def in_section(message: str, section: str) -> str:
    """A message about `network.SETTING`, for the same setting of another section."""
    return _SETTING.sub(f"{section}.", message)


@dataclass
class SegmentationNetworkSettings(Checked):
    """The segmentation network: a backbone, a head, and which of their parameters train.

    ResNets keep the field of view where ``output_stride`` removes a stride, and the first convolution of pretrained
    weights trains; both as published.

    Attributes:
        backbone: as `network.backbone`.
        weights: as `network.weights`. The head is always new, also for a SegFormer.
        head: `sum`, the sum of four dilated convolutions to the classes (DeepLabV2); `concat`, dilated convolutions
            concatenated with the mean of the image, then merged; `largefov`, one dilated convolution of 512 channels
            (DeepLabV1, with `wideresnet38` as published); `segformer`, the default levels and the last stage merged.
        output_stride: as `network.output_stride`.
        scales: further scales of the image; the logits are the maximum over them and the image itself. Published with
            DeepLabV2: 0.5, 0.75.
        batch_norm: batch norm of the backbone in training, as `network.batch_norm`.
        batch_norm_momentum: momentum of the running statistics in the backbone; null keeps its own, mostly 0.1.
        head_batch_norm: batch norm of the head in training; `auto` is trained, since a new head has no statistics.
        head_batch_norm_momentum: momentum of the running statistics in the head. Published for 20000 steps: 3e-4,
            which mostly keeps the initial statistics if there are far fewer steps.
        batch_norm_affine: whether scale and shift of batch norm train. `fixed`: as in all public trainings of DeepLab
            on pseudo masks; `trained`; `auto`: fixed for pretrained weights, trained for random ones and with the head
            `segformer`, as published. Other kinds of norms always train.
        upsampling: interpolation of logits to the image's size. `corners` aligns the centres of the outer cells with
            the outer pixels; `cells` keeps the position of every cell; `stretched` spreads the cells evenly over the
            image and scales images by ``scales`` as the PyTorch port of DeepLabV2 does; null takes the head's published
            choice (`corners`; `cells` for `segformer`).
    """

    backbone: str = setting("resnet101", path=True)
    weights: str = setting("imagenet", path=True)
    head: Literal["sum", "concat", "largefov", "segformer"] = "sum"
    output_stride: OutputStride = 8
    scales: tuple[float, ...] = ()
    batch_norm: Norm = "auto"
    batch_norm_momentum: float | None = setting(None, above=0, high=1, null="null keeps the backbone's own")
    head_batch_norm: Norm = "auto"
    head_batch_norm_momentum: float = setting(0.1, above=0, high=1)
    batch_norm_affine: Norm = "auto"
    upsampling: Upsampling | None = None

    _section: ClassVar[str] = "segment.network"

    def __post_init__(self) -> None:
        self.scales = tuple(self.scales)
        super().__post_init__()

    def problems(self) -> list[str]:
        """Problems of the names and of the scales, one clause each."""
        problems = backbone_problems(self)
        if len({*self.scales, 1}) <= len(self.scales) or not all(0 < scale < math.inf for scale in self.scales):
            problems.append(f"scales should be positive, each given once and none 1, received {list(self.scales)}")
        return problems

    def backbone_settings(self) -> NetworkSettings:
        """The settings for `build_backbone`."""
        return NetworkSettings(
            self.backbone, self.weights, output_stride=self.output_stride, batch_norm=self.batch_norm
        )
