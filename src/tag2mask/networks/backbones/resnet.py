"""ResNet-18, 34, 50 and 101 and their variants, with the parameter names of the public ImageNet checkpoints.

Source: He et al., CVPR 2016, with the stride in the 3×3 convolution of a bottleneck as torchvision's checkpoints have
it. `resnet50s` and `resnet101s` begin with three 3×3 convolutions, as PyTorch-Encoding's; `resnet101-caffe` is the
original, for which DeepLabV2 was published.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from tag2mask.networks.backbones.base import Backbone, Family, Stage, ceil_grid
from tag2mask.networks.backbones.converters import DEEPLAB_PORT, from_deeplab_port
from tag2mask.networks.backbones.weights import (
    Notify,
    PublicCheckpoint,
    fetch,
    fit_weights,
    missing_by_name,
    read_state,
)
from tag2mask.networks.settings import NetworkSettings


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, the first with the stride, and a shortcut: the block of ResNet-18 and 34."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
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
    """1×1, 3×3 and 1×1 convolutions and a shortcut: the block of ResNet-50 and 101.

    The 3×3 convolution has the dilation and the stride; with ``stride_first`` the first 1×1 convolution has the stride.
    """

    expansion = 4
    stride_first = False

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        first, second = (stride, 1) if self.stride_first else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, second, dilation)
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


class CaffeBottleneck(Bottleneck):
    """A `Bottleneck` with its stride in the first 1×1 convolution: the original, of Caffe."""

    stride_first = True


class Variant(NamedTuple):
    """The structure of a ResNet.

    Attributes:
        block: `CaffeBottleneck` also selects Caffe's max pooling, which keeps the last row of an even number, and its
            normalisation: pixels of 0 to 255 minus their mean.
        deep_stem: whether it begins with three 3×3 convolutions, of 64, 64 and 128 channels, instead of one of 7×7.
    """

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]
    deep_stem: bool = False


RESNETS = {
    "resnet18": Variant(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Variant(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Variant(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Variant(Bottleneck, (3, 4, 23, 3)),
    "resnet50s": Variant(Bottleneck, (3, 4, 6, 3), deep_stem=True),
    "resnet101s": Variant(Bottleneck, (3, 4, 23, 3), deep_stem=True),
    "resnet101-caffe": Variant(CaffeBottleneck, (3, 4, 23, 3)),
}
"""Every ResNet by name."""

IMAGENET = {
    "resnet18": PublicCheckpoint("resnet18-f37072fd.pth", 44.7),
    "resnet34": PublicCheckpoint("resnet34-b627a593.pth", 83.3),
    "resnet50": PublicCheckpoint("resnet50-19c8e357.pth", 97.8),
    "resnet101": PublicCheckpoint("resnet101-5d3b4d8f.pth", 170.5),
}
"""Public ImageNet checkpoints by name. Source: torchvision's model files, version 1 of their weights."""

PYTORCH_ENCODING = "https://github.com/zhanghang1989/PyTorch-Encoding"
"""Source of the ImageNet checkpoints with a deep stem."""

CAFFE_MEAN = (122.675 / 255, 116.669 / 255, 104.008 / 255)
"""Mean colour of Caffe's ResNets, RGB in [0, 1]. Source: DeepLabV2."""

CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
"""Caffe's ResNets take colours in [0, 255] and do not divide them."""

_STEM_STRIDE = 4

_STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}


class ResNet(Backbone):
    """A ResNet without its pooling and classifier; stages `layer1` to `layer4`.

    Random weights from torch's global generator: Kaiming normal over fan-out for convolutions, 1 and 0 for batch norm.

    Args:
        name: one of `RESNETS`.
        output_stride: pixels per cell of the last stage, 8, 16 or 32; once it is reached, strides are 1.
        dilated: whether convolutions after a removed stride get the dilation that keeps their field of view
            (DeepLab); otherwise all dilations are 1 (the published POT network).
    """

    default_levels = (0, 1, 2, 3)

    def __init__(self, name: str = "resnet50", *, output_stride: int = 16, dilated: bool = False) -> None:
        super().__init__()
        block, depths, deep_stem = RESNETS[name]
        self.caffe = block is CaffeBottleneck
        if self.caffe:
            self.mean, self.std = CAFFE_MEAN, CAFFE_STD
        self.name, self.output_stride, self.dilated = name, output_stride, dilated
        channels = 128 if deep_stem else 64
        self.conv1 = _deep_stem(channels) if deep_stem else nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        if self.caffe:
            # The same as `ceil_mode`, which ONNX cannot express at every size; zeros suffice after a ReLU.
            self.maxpool = nn.Sequential(nn.ZeroPad2d((1, 2, 1, 2)), nn.MaxPool2d(3, stride=2))
        reached, dilation = _STEM_STRIDE, 1
        stages = [Stage("stem", channels, reached)]
        for index, (depth, stride) in enumerate(zip(depths, _STRIDES[output_stride], strict=True)):
            width = 64 << index
            # If the 3×3 convolution has the stride, the first block's works on the previous stage's grid and has that
            # stage's dilation.
            before = dilation
            if dilated and index and stride == 1:
                dilation *= 2
            blocks: list[nn.Module] = [block(channels, width, stride, dilation if self.caffe else before)]
            channels = width * block.expansion
            blocks += [block(channels, width, 1, dilation) for _ in range(depth - 1)]
            reached *= stride
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            stages.append(Stage(f"layer{index + 1}", channels, reached))
        self.stem_stage, self.stages = stages[0], tuple(stages[1:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of `layer1` to `layer4`; see `Backbone.forward`."""
        return self.all_maps(images)[1:]

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """`stem`, the output of the max pooling, and the four layers."""
        return (self.stem_stage, *self.stages)

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.all_maps`."""
        maps = self._uncut(images)
        if not self.caffe:
            return maps
        # Caffe's pooling may add a cell whose centre lies outside the image.
        grids = (ceil_grid((images.shape[2], images.shape[3]), stage.stride) for stage in self.all_stages)
        return [each[..., :height, :width] for each, (height, width) in zip(maps, grids, strict=True)]

    def uncut_maps(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.uncut_maps`."""
        return self._uncut(images)[1:]

    def stem(self) -> list[nn.Module]:
        """The first convolution, or the three of a deep stem, and the norm. Source: the published release."""
        return [self.conv1, self.bn1]

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return {"kind": "resnet", "name": self.name, "output_stride": self.output_stride, "dilated": self.dilated}

    def _uncut(self, images: Tensor) -> list[Tensor]:
        maps = [self.maxpool(self.relu(self.bn1(self.conv1(images))))]
        for stage in self.stages:
            maps.append(self.get_submodule(stage.name)(maps[-1]))
        return maps


def _deep_stem(channels: int) -> nn.Sequential:
    """Three 3×3 convolutions, the first with a stride of 2; the norm and ReLU of the last one follow it."""
    half = channels // 2
    return nn.Sequential(
        _conv3x3(3, half, 2, 1),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        _conv3x3(half, half, 1, 1),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        _conv3x3(half, channels, 1, 1),
    )


def _conv3x3(channels: int, width: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _shortcut(channels: int, width: int, stride: int) -> nn.Sequential | None:
    """A projection if the block changes the shape of its input, as in the public checkpoints."""
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))


def _build(settings: NetworkSettings, dilated: bool, notify: Notify | None) -> ResNet:
    # Weights first: report missing ones before the network is built.
    name, path, state = settings.backbone, Path(settings.weights).expanduser(), None
    if settings.wants_pretrained and name not in IMAGENET:
        caffe = RESNETS[name].block is CaffeBottleneck
        raise missing_by_name(
            name, f"get them, from {DEEPLAB_PORT}" if caffe else f"get {name}-….pth, from {PYTORCH_ENCODING}"
        )
    if not settings.wants_random:
        path = fetch(IMAGENET[name], notify) if settings.wants_pretrained else path
        state = read_state(path)
    backbone = ResNet(name, output_stride=settings.backbone_stride, dilated=dilated)
    if state is not None:
        fit_weights(backbone, from_deeplab_port(state) if backbone.caffe else state, path, name)
    return backbone


FAMILY = Family(
    kind="resnet",
    names=tuple(RESNETS),
    build=_build,
    rebuild=lambda values, _: ResNet(
        values["name"], output_stride=values["output_stride"], dilated=bool(values["dilated"])
    ),
    public=IMAGENET,
    can_dilate=True,
)
