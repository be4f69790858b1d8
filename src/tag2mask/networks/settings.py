"""The settings of the networks: of tags, section `network` of a configuration, and of masks."""

import math
import re
from dataclasses import dataclass, fields
from typing import Literal

from tag2mask.errors import UsageError
from tag2mask.fields import setting

FINEST_FEATURE_STRIDE = 8
OUTPUT_STRIDES = (8, 16, 32)


@dataclass
class NetworkSettings:
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
        output_stride: pixels a cell of the last stage: 8, 16 or 32. ResNets and MobileNetV2 obey it; other backbones
            keep the stride they were made with (8 for WideResNet-38).
        levels: indices of the stages that make up the joint feature; null takes the backbone's default.
        feature_stride: the joint feature lives on the finest grid among the chosen stages that is not finer than this
            many pixels a cell; at least 8.
        projections: true learns a 1×1 projection of each stage, with the image's colours as three more channels, as
            published; false takes the stages themselves.
        norm: what batch norm does while training. `fixed`: running statistics always, scale and shift train;
            `trained`: batch statistics; `auto`: fixed for pretrained weights, trained for random ones.
    """

    backbone: str = setting("resnet50", path=True)
    weights: str = setting("imagenet", path=True)
    output_stride: int = 16
    levels: tuple[int, ...] | None = None
    feature_stride: int = 16
    projections: bool = False
    norm: Literal["auto", "fixed", "trained"] = "auto"

    def __post_init__(self) -> None:
        """Check every value that can be checked without the backbone; all problems in one `UsageError`."""
        if self.levels is not None:
            self.levels = tuple(self.levels)
        problems = []
        if self.output_stride not in OUTPUT_STRIDES:
            problems.append(f"network.output_stride should be 8, 16 or 32, it is {self.output_stride}")
        if self.feature_stride < FINEST_FEATURE_STRIDE:
            least = FINEST_FEATURE_STRIDE
            problems.append(f"network.feature_stride should be at least {least}, it is {self.feature_stride}")
        if self.levels is not None and (not self.levels or len(set(self.levels)) != len(self.levels)):
            problems.append(f"network.levels should name at least one stage and none twice, it is {list(self.levels)}")
        if self.norm not in ("auto", "fixed", "trained"):
            problems.append(f"network.norm should be auto, fixed or trained, it is {self.norm!r}")
        if not self.backbone:
            problems.append("network.backbone is empty; name a ResNet (resnet50), a folder or owner/model on the hub")
        if not self.weights:
            problems.append("network.weights is empty; it should be imagenet, none or a path")
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def wants_pretrained(self) -> bool:
        """Whether the backbone's own pretrained weights are asked for (not a path, not random)."""
        return self.weights in ("imagenet", "pretrained")

    @property
    def wants_random(self) -> bool:
        """Whether random weights are asked for."""
        return self.weights == "none"


_SETTING = re.compile(rf"(?<![\w./])network\.(?=({'|'.join(each.name for each in fields(NetworkSettings))})\b)")


def in_section(message: str, section: str) -> str:
    """A message about `network.SETTING`, where the setting stands in another section."""
    return _SETTING.sub(f"{section}.", message)


HEADS = ("sum", "concat", "largefov", "segformer")


@dataclass
class SegmentationNetworkSettings:
    """Which network learns the masks: a backbone, a head, and what of them trains.

    Attributes:
        backbone: as for `NetworkSettings`.
        weights: as for `NetworkSettings`. Of a SegFormer the encoder alone is taken: its head is new.
        head: `sum`, four dilated convolutions straight to the classes (DeepLabV2); `concat`, the same side by side
            with the mean of the image, merged; `largefov`, one dilated convolution of 512 channels (DeepLabV1, with
            `wideresnet38` as published); `segformer`, the default levels and the last
            stage merged.
        output_stride: as for `NetworkSettings`.
        dilated: ResNets only: true keeps the field of view where ``output_stride`` takes a stride away, as published.
        scales: more scales at which the image is seen; the network's answer is the maximum over them and the image
            itself. Published with DeepLabV2: 0.5, 0.75.
        norm: what batch norm of the backbone does while training, as for `NetworkSettings`.
        norm_momentum: of the running statistics in the backbone; null keeps its own, mostly 0.1.
        head_norm: the same for the head; `auto` is trained, since a new head has no statistics of its own.
        head_momentum: of the running statistics in the head. Published for 20000 steps: 3e-4, which leaves most of
            the initial statistics in place if there are many fewer.
        norm_affine: whether scale and shift of batch norm train. `fixed`: in no public training of DeepLab on pseudo
            masks are they given to the optimiser; `trained`; `auto`: fixed for pretrained weights, trained for random
            ones and with the head `segformer`, as published. Norms of other kinds always train.
        freeze_stem: true freezes the first convolution of pretrained weights; the published ones train it.
        align_corners: how logits are brought to the image's size: true puts the outer cells' centres onto the outer
            pixels, false keeps every cell where it is; null does as published with the head (true; false for
            `segformer`).
    """

    backbone: str = setting("resnet101", path=True)
    weights: str = setting("imagenet", path=True)
    head: Literal["sum", "concat", "largefov", "segformer"] = "sum"
    output_stride: int = 8
    dilated: bool = True
    scales: tuple[float, ...] = ()
    norm: Literal["auto", "fixed", "trained"] = "auto"
    norm_momentum: float | None = None
    head_norm: Literal["auto", "fixed", "trained"] = "auto"
    head_momentum: float = 0.1
    norm_affine: Literal["auto", "fixed", "trained"] = "auto"
    freeze_stem: bool = False
    align_corners: bool | None = None

    def __post_init__(self) -> None:
        """Check every value that can be checked without the backbone; all problems in one `UsageError`."""
        self.scales = tuple(self.scales)
        problems = []
        if self.head not in HEADS:
            problems.append(
                f"segment.network.head should be {', '.join(HEADS[:-1])} or {HEADS[-1]}, it is {self.head!r}"
            )
        if len({*self.scales, 1}) <= len(self.scales) or not all(0 < scale < math.inf for scale in self.scales):
            problems.append(
                f"segment.network.scales should be positive, each given once and none 1, they are {list(self.scales)}"
            )
        for name in ("head_norm", "norm_affine"):
            if getattr(self, name) not in ("auto", "fixed", "trained"):
                problems.append(
                    f"segment.network.{name} should be auto, fixed or trained, it is {getattr(self, name)!r}"
                )
        for name in ("norm_momentum", "head_momentum"):
            momentum = getattr(self, name)
            if momentum is not None and not 0 < momentum <= 1:
                problems.append(f"segment.network.{name} should lie above 0 and at most at 1, it is {momentum}")
        try:
            self.backbone_settings()
        except UsageError as error:
            problems.append(in_section(str(error), "segment.network"))
        if problems:
            raise UsageError("; ".join(problems))

    def backbone_settings(self) -> NetworkSettings:
        """What `build_backbone` needs of them."""
        return NetworkSettings(self.backbone, self.weights, output_stride=self.output_stride, norm=self.norm)
