"""ResNet-18, 34, 50 and 101, whose parameters carry the names of the public ImageNet checkpoints.

Source: He et al., CVPR 2016, with the stride in the 3×3 convolution of a bottleneck as the public checkpoints have
it.
"""

from typing import Any

from torch import Tensor, nn

from tag2mask.networks.stages import Backbone, Stage


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: the block of ResNet-18 and 34."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
        """``dilation`` is that of the 3×3 convolutions, ``stride`` that of the first of them."""
        super().__init__()
        self.conv1 = _conv3x3(channels, width, stride, dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, 1, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to (N, width, ceil(h / stride), ceil(w / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut: the block of ResNet-50 and 101."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
        """``dilation`` is that of the 3×3 convolutions, ``stride`` that of the first of them."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to (N, 4 · width, ceil(h / stride), ceil(w / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += shortcut
        return self.relu(out)  # type: ignore[no-any-return]


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""The block and the number of blocks a stage of every ResNet by name."""

_STEM_STRIDE = 4

_STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}


class ResNet(Backbone):
    """A ResNet without its pooling and classifier; stages `layer1` to `layer4`.

    Random weights on construction: Kaiming normal over fan-out for convolutions, 1 and 0 for batch norm, from the
    global generator, which the caller seeds.

    Args:
        name: one of `RESNETS`.
        output_stride: pixels a cell of the last stage, 8, 16 or 32: the strides after it is reached are 1.
        dilated: True gives the convolutions behind a stride that was taken away the dilation that keeps their field
            of view (DeepLab); False leaves all dilations at 1 (the published POT network).
    """

    default_levels = (0, 1, 2, 3)

    def __init__(self, name: str = "resnet50", *, output_stride: int = 16, dilated: bool = False) -> None:
        """Random weights."""
        super().__init__()
        block, depths = RESNETS[name]
        self.name, self.output_stride, self.dilated = name, output_stride, dilated
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, reached, dilation = 64, _STEM_STRIDE, 1
        stages = []
        for index, (depth, stride) in enumerate(zip(depths, _STRIDES[output_stride], strict=True)):
            width = 64 << index
            # The first block of a stage sees the grid of the stage before, and with it that stage's dilation.
            before = dilation
            if dilated and index and stride == 1:
                dilation *= 2
            blocks: list[nn.Module] = [block(channels, width, stride, before)]
            channels = width * block.expansion
            blocks += [block(channels, width, 1, dilation) for _ in range(depth - 1)]
            reached *= stride
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            stages.append(Stage(f"layer{index + 1}", channels, reached))
        self.stages = tuple(stages)
        self._initialise()

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of `layer1` to `layer4`; see `Backbone.forward`."""
        return self.all_maps(images)[1:]

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """`stem`, what comes out of the max pooling, and the four layers."""
        return (Stage("stem", self.conv1.out_channels, _STEM_STRIDE), *self.stages)

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.all_maps`."""
        maps = [self.maxpool(self.relu(self.bn1(self.conv1(images))))]
        for stage in self.stages:
            maps.append(self.get_submodule(stage.name)(maps[-1]))
        return maps

    def stem(self) -> list[nn.Module]:
        """The first convolution and its norm. Source: the published release."""
        return [self.conv1, self.bn1]

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return {"kind": "resnet", "name": self.name, "output_stride": self.output_stride, "dilated": self.dilated}

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _conv3x3(channels: int, width: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _shortcut(channels: int, width: int, stride: int) -> nn.Sequential | None:
    """A projection where the block changes the shape of its input, as in the public checkpoints."""
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
