"""WideResNet-38, Model A1: a wide residual network whose blocks begin with norm and activation.

Parameters carry the names of the public PyTorch ports: `conv1a`; blocks `b2`, `b2_1`, …, `b7`, each with
`bn_branch2a`, `conv_branch2a`, `bn_branch2b1`, `conv_branch2b1`, in the bottlenecks also `bn_branch2b2` and
`conv_branch2b2`, and `conv_branch1` where the shortcut changes the shape; `bn7`.

Source: Wu, Shen, van den Hengel, "Wider or Deeper", 2016; dilations and dropout as the ports for weakly supervised
segmentation have them.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from tag2mask.networks.backbones.base import Backbone, Family, Stage
from tag2mask.networks.backbones.converters import from_mxnet, read_mxnet_params
from tag2mask.networks.backbones.weights import Notify, fit_weights, missing_by_name, read_state
from tag2mask.networks.settings import NetworkSettings

WIDE_RESNET = "wideresnet38"
"""The name of the backbone in settings."""

PUBLIC_FILE = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
"""The authors' ImageNet weights, an MXNet file (MD5 ff21f45d6bf03284100dcbec571edfad, Apache-2.0)."""

PUBLIC_ADDRESS = "https://github.com/itijyou/ademxapp"
"""The authors' page, with the link to the file."""


class _Level(NamedTuple):
    """Blocks of one shape. ``dilations`` are of the 3×3 convolutions: the first of the level, all others."""

    blocks: int
    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    dropout: float = 0.0


_LEVELS = {
    "b2": _Level(3, (128, 128), (3, 3), stride=2),
    "b3": _Level(3, (256, 256), (3, 3), stride=2),
    "b4": _Level(6, (512, 512), (3, 3), stride=2),
    "b5": _Level(3, (512, 1024), (3, 3), dilations=(1, 2)),
    "b6": _Level(1, (512, 1024, 2048), (1, 3, 1), dilations=(4, 4), dropout=0.3),
    "b7": _Level(1, (1024, 2048, 4096), (1, 3, 1), dilations=(4, 4), dropout=0.5),
}

_BRANCHES = ("2a", "2b1", "2b2")


class PreActivationBlock(nn.Module):
    """Norm, ReLU and convolution, two or three times, plus a shortcut.

    The shortcut is the input or, if the block changes the shape, a 1×1 convolution of the input after the first norm
    and ReLU. Dropout of whole channels precedes every convolution except the first.

    Args:
        kernels: side of each convolution, 1 or 3.
        dilations: of each 3×3 convolution; entries of 1×1 convolutions are ignored.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        kernels: tuple[int, ...],
        *,
        stride: int = 1,
        dilations: tuple[int, ...],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.branches = _BRANCHES[: len(widths)]
        before = channels
        for index, (name, width, kernel) in enumerate(zip(self.branches, widths, kernels, strict=True)):
            dilation = dilations[index] if kernel == 3 else 1
            step, padding = 1 if index else stride, dilation * (kernel // 2)
            convolution = nn.Conv2d(before, width, kernel, step, padding, dilation, bias=False)
            self.add_module(f"bn_branch{name}", nn.BatchNorm2d(before))
            self.add_module(f"conv_branch{name}", convolution)
            before = width
        same = stride == 1 and channels == widths[-1]
        self.conv_branch1 = None if same else nn.Conv2d(channels, widths[-1], 1, stride, bias=False)
        self.dropout = nn.Dropout2d(dropout)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output (N, widths[-1], ceil(h / stride), ceil(w / stride)), and ``x`` after norm and ReLU."""
        activated = out = self._activated(x, self.branches[0])
        out = self.get_submodule(f"conv_branch{self.branches[0]}")(out)
        for name in self.branches[1:]:
            out = self.get_submodule(f"conv_branch{name}")(self.dropout(self._activated(out, name)))
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(activated)
        return out + shortcut, activated

    def _activated(self, x: Tensor, name: str) -> Tensor:
        return self.relu(self.get_submodule(f"bn_branch{name}")(x))  # type: ignore[no-any-return]


class WideResNet(Backbone):
    """WideResNet-38 without its classifier; stages `b3` to `b7`, the last three at stride 8 by dilation.

    The map of a stage is the output of its blocks after the next norm and ReLU, as in the ports: the sum itself is not
    normalised. Random weights from torch's global generator: Kaiming normal over fan-out for convolutions, 1 and 0 for
    batch norm.

    Args:
        divisor: all widths are divided by it; 1 is the published network.
    """

    default_levels = (0, 1, 2, 4)

    def __init__(self, divisor: int = 1) -> None:
        super().__init__()
        self.divisor = divisor
        channels, reached = 64 // divisor, 1
        self.conv1a = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.names: list[str] = []
        stages = []
        for level_name, level in _LEVELS.items():
            widths = tuple(width // divisor for width in level.widths)
            for index in range(level.blocks):
                first, others = level.dilations
                block = PreActivationBlock(
                    channels,
                    widths,
                    level.kernels,
                    stride=1 if index else level.stride,
                    dilations=(others if index else first, others, others),
                    dropout=level.dropout,
                )
                self.names.append(f"{level_name}_{index}" if index else level_name)
                self.add_module(self.names[-1], block)
                channels = widths[-1]
            reached *= level.stride
            stages.append(Stage(level_name, channels, reached))
        self.bn7 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.finest, self.stages = stages[0], tuple(stages[1:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of `b3` to `b7`; see `Backbone.forward`."""
        return self.all_maps(images)[1:]

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """`b2`, at stride 2, and the stages."""
        return (self.finest, *self.stages)

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.all_maps`."""
        x = self.conv1a(images)
        maps = []
        for name in self.names:
            x, activated = self.get_submodule(name)(x)
            if name in _LEVELS:  # the first block of a level ends the previous level
                maps.append(activated)
        maps.append(self.relu(self.bn7(x)))
        return maps[1:]

    def stem(self) -> list[nn.Module]:
        """The first convolution. Source: the ports."""
        return [self.conv1a]

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return {"kind": WIDE_RESNET, "divisor": self.divisor}


def _build(settings: NetworkSettings, dilated: bool, notify: Notify | None) -> WideResNet:
    if settings.wants_pretrained:
        raise missing_by_name(WIDE_RESNET, f"get {PUBLIC_FILE} as {PUBLIC_ADDRESS} says")
    path, state = Path(settings.weights).expanduser(), None
    if not settings.wants_random:
        state = from_mxnet(read_mxnet_params(path)) if path.suffix == ".params" else read_state(path)
    backbone = WideResNet()
    if state is not None:
        fit_weights(backbone, state, path, WIDE_RESNET)
    return backbone


FAMILY = Family(
    kind=WIDE_RESNET,
    names=(WIDE_RESNET,),
    build=_build,
    rebuild=lambda architecture, _: WideResNet(int(architecture["divisor"])),
)
