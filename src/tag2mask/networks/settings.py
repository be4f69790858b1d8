"""The settings of the networks: of tags, section `network` of a configuration, and of masks."""

import math
import re
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from tag2mask.core.fields import Checked, setting

FINEST_FEATURE_STRIDE = 8
"""Pixels per cell of the joint feature at least, where every chosen stage is finer than `FEATURE_STRIDE`."""

FEATURE_STRIDE = 16
"""The joint feature has the finest grid among the chosen stages with at least this many pixels per cell; ours."""

OutputStride = Literal[8, 16, 32]

Norm = Literal["auto", "fixed", "trained"]


@dataclass
class NetworkSettings(Checked):
    """Which backbone, with which weights, and how the joint feature is made of its stages.

    Attributes:
        backbone: `resnet18`, `resnet34`, `resnet50`, `resnet101`; `resnet50s` and `resnet101s`, with a stem of three
            convolutions; `resnet101-caffe`, the original; `wideresnet38`; `segformer-b0` to `segformer-b5`, the
            encoders, with random weights; or a model that `transformers` loads, as a folder or as a name on the
            Hugging Face hub (`owner/model`).
        weights: `imagenet` (the same as `pretrained`): the public ImageNet checkpoint of `resnet18` to `resnet101`,
            or the weights that come with the `transformers` model; a path (`.pth` or `.safetensors`; ResNets and
            WideResNet-38, which also takes its authors' `.params`; `resnet101-caffe` takes checkpoints of the
            PyTorch port of DeepLabV2); or `none`: random ones.
        output_stride: pixels per cell of the last stage: 8, 16 or 32. ResNets and MobileNetV2 obey it; other backbones
            keep the stride they were made with (8 for WideResNet-38).
        out_indices: indices of the stages that make up the joint feature; null takes the backbone's default.
        projections: true trains a 1×1 projection of each stage, with the image's colours as three more channels, as
            published; false takes the stages themselves.
        batch_norm: what batch norm does while training. `fixed`: running statistics always, scale and shift train;
            `trained`: batch statistics; `auto`: fixed for pretrained weights, trained for random ones.
    """

    backbone: str = setting("resnet50", path=True)
    weights: str = setting("imagenet", path=True)
    output_stride: OutputStride = 16
    out_indices: tuple[int, ...] | None = None
    projections: bool = False
    batch_norm: Norm = "auto"

    _section: ClassVar[str] = "network"

    def __post_init__(self) -> None:
        """Take any sequence of levels, and refuse values out of range that can be found without the backbone."""
        if self.out_indices is not None:
            self.out_indices = tuple(self.out_indices)
        super().__post_init__()

    def problems(self) -> list[str]:
        """Levels, and what a backbone of a segmentation network could have wrong, too."""
        problems = backbone_problems(self)
        if self.out_indices is not None and (
            not self.out_indices or len(set(self.out_indices)) != len(self.out_indices)
        ):
            problems.append(f"out_indices should be one stage or more, none twice, received {list(self.out_indices)}")
        return problems

    @property
    def wants_pretrained(self) -> bool:
        """Whether the backbone's own pretrained weights are asked for (not a path, not random)."""
        return self.weights in ("imagenet", "pretrained")

    @property
    def wants_random(self) -> bool:
        """Whether random weights are asked for."""
        return self.weights == "none"


def backbone_problems(settings: "NetworkSettings | SegmentationNetworkSettings") -> list[str]:
    """What is wrong with the names of backbone and weights, a clause each."""
    problems = []
    if not settings.backbone:
        problems.append("backbone is empty; name a ResNet (resnet50), a folder or owner/model on the hub")
    if not settings.weights:
        problems.append("weights is empty; it should be imagenet, none or a path")
    return problems


_SETTING = re.compile(rf"(?<![\w./])network\.(?=({'|'.join(each.name for each in fields(NetworkSettings))})\b)")


def in_section(message: str, section: str) -> str:
    """A message about `network.SETTING`, where the setting stands in another section."""
    return _SETTING.sub(f"{section}.", message)


@dataclass
class SegmentationNetworkSettings(Checked):
    """Which network is trained on the masks: a backbone, a head, and what of them trains.

    ResNets keep the field of view where ``output_stride`` takes a stride away, and the first convolution of pretrained
    weights trains; both as published.

    Attributes:
        backbone: as for `NetworkSettings`.
        weights: as for `NetworkSettings`. Of a SegFormer the encoder alone is taken: its head is new.
        head: `sum`, four dilated convolutions straight to the classes (DeepLabV2); `concat`, the same side by side
            with the mean of the image, merged; `largefov`, one dilated convolution of 512 channels (DeepLabV1, with
            `wideresnet38` as published); `segformer`, the default levels and the last
            stage merged.
        output_stride: as for `NetworkSettings`.
        scales: more scales at which the image is seen; the network's answer is the maximum over them and the image
            itself. Published with DeepLabV2: 0.5, 0.75.
        batch_norm: what batch norm of the backbone does while training, as for `NetworkSettings`.
        batch_norm_momentum: of the running statistics in the backbone; null keeps its own, mostly 0.1.
        head_batch_norm: the same for the head; `auto` is trained, since a new head has no statistics of its own.
        head_batch_norm_momentum: of the running statistics in the head. Published for 20000 steps: 3e-4, which leaves
            most of
            the initial statistics in place if there are many fewer.
        batch_norm_affine: whether scale and shift of batch norm train. `fixed`: in no public training of DeepLab on
            pseudo
            masks are they given to the optimiser; `trained`; `auto`: fixed for pretrained weights, trained for random
            ones and with the head `segformer`, as published. Norms of other kinds always train.
        align_corners: how logits are brought to the image's size: true puts the outer cells' centres onto the outer
            pixels, false keeps every cell where it is; null does as published with the head (true; false for
            `segformer`).
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
    align_corners: bool | None = None

    _section: ClassVar[str] = "segment.network"

    def __post_init__(self) -> None:
        """Take any sequence of scales, and refuse values out of range that can be found without the backbone."""
        self.scales = tuple(self.scales)
        super().__post_init__()

    def problems(self) -> list[str]:
        """Scales, and what the backbone could have wrong."""
        problems = backbone_problems(self)
        if len({*self.scales, 1}) <= len(self.scales) or not all(0 < scale < math.inf for scale in self.scales):
            problems.append(f"scales should be positive, each given once and none 1, received {list(self.scales)}")
        return problems

    def backbone_settings(self) -> NetworkSettings:
        """What `build_backbone` needs of them."""
        return NetworkSettings(
            self.backbone, self.weights, output_stride=self.output_stride, batch_norm=self.batch_norm
        )
