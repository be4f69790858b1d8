"""The settings of the network: section `network` of a configuration."""

from dataclasses import dataclass
from typing import Literal

from tag2mask.errors import UsageError

FINEST_FEATURE_STRIDE = 8
OUTPUT_STRIDES = (8, 16, 32)


@dataclass
class NetworkSettings:
    """Which backbone, with which weights, and how the joint feature is made of its stages.

    Attributes:
        backbone: `resnet18`, `resnet34`, `resnet50`, `resnet101` or `wideresnet38`; or a model that `transformers`
            loads, as a folder or as a name on the Hugging Face hub (`owner/model`).
        weights: `imagenet` (the same as `pretrained`): the public ImageNet checkpoint of a ResNet, or the weights
            that come with the `transformers` model; a path (`.pth` or `.safetensors`; ResNets and WideResNet-38,
            which also takes its authors' `.params`); or `none`: random ones.
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

    backbone: str = "resnet50"
    weights: str = "imagenet"
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
