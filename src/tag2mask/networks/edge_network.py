"""IRN's edge network: a frozen backbone and a small branch that predicts class boundaries.

IRN's second branch, for the displacements that separate instances of one class, is left out: it does not share
trainable parameters with this one, and masks of classes do not depend on it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.core.errors import UsageError, first_five
from tag2mask.networks.backbones.base import Backbone, NormalisingNetwork, Stage, ceil_grid, offered, to_grid

EDGE_STRIDE = 4
"""Pixels per cell of the edges. Source: IRN."""

_WIDTH, _GROUPS = 32, 4


class EdgeBranch(nn.Module):
    """From the maps of ``stages`` to the logits of edges; the trainable part of an `EdgeNetwork`."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        super().__init__()
        self.strides = tuple(stage.stride for stage in stages)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(stage.channels, _WIDTH, 1, bias=False), nn.GroupNorm(_GROUPS, _WIDTH))
            for stage in stages
        )
        self.edge = nn.Conv2d(_WIDTH * len(stages), 1, 1)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits float32 (N, h, w) of maps (N, channels, ·, ·); ``size`` = (h, w) is the image's grid at stride 4."""
        parts = [
            to_grid(level(each), stride, EDGE_STRIDE, size).relu()
            for level, each, stride in zip(self.levels, maps, self.strides, strict=True)
        ]
        logits: Tensor = self.edge(torch.cat(parts, dim=1))
        return logits.squeeze(1).float()


class EdgeNetwork(NormalisingNetwork):
    """The edges of an image at stride 4; an edge is the sigmoid of its logit.

    The backbone is frozen, stays in evaluation mode and runs without gradients.

    Args:
        backbone: of any kind, with the weights of a trained classifier.
        levels: indices into ``backbone.all_stages``; None takes `default_edge_levels`.

    Raises:
        UsageError: no levels, one twice, or one that the backbone does not have.
    Source: IRN; for other backbones than ResNets ours.
    """

    def __init__(self, backbone: Backbone, levels: tuple[int, ...] | None = None) -> None:
        super().__init__(backbone.requires_grad_(False))
        self.levels = default_edge_levels(backbone) if levels is None else _checked(levels, backbone)
        self.branch = EdgeBranch(tuple(backbone.all_stages[level] for level in self.levels))
        self.train(self.training)

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """The logits of the edges, float32 (N, ceil(H / 4), ceil(W / 4)); arguments as of `normalise`."""
        return self._logits(self.normalise(images, valid))

    @torch.no_grad()
    def mean_logits(self, images: Tensor) -> Tensor:
        """The mean of the logits of images and of their mirror images, for inference; shapes as in `forward`.

        Images are padded with the mean colour at the right until all strides divide their width, which aligns the cells
        of the mirror image with those of the image.

        Source: IRN, which pads after mirroring; the alignment is ours.
        """
        normalised = self.normalise(images, None)
        rows, columns = ceil_grid((int(images.shape[2]), int(images.shape[3])), EDGE_STRIDE)
        filled = F.pad(normalised, (0, -int(images.shape[3]) % math.lcm(EDGE_STRIDE, *self.branch.strides)))
        pair = torch.cat([filled, filled.flip(3)]).contiguous(memory_format=torch.channels_last)
        straight, mirrored = self._logits(pair).chunk(2)
        return ((straight + mirrored.flip(2)) / 2)[:, :rows, :columns]

    def train(self, mode: bool = True) -> "EdgeNetwork":
        """As `nn.Module.train`, but the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def _logits(self, normalised: Tensor) -> Tensor:
        with torch.no_grad():
            maps = self.backbone.all_maps(normalised)
        size = ceil_grid((int(normalised.shape[2]), int(normalised.shape[3])), EDGE_STRIDE)
        return self.branch([maps[level] for level in self.levels], size)  # type: ignore[no-any-return]


def build_edge_network(backbone: Backbone, *, seed: int, levels: tuple[int, ...] | None = None) -> EdgeNetwork:
    """A new edge network, in training mode. The global random state does not change.

    Raises:
        UsageError: wrong levels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return EdgeNetwork(backbone, levels)


def default_edge_levels(backbone: Backbone) -> tuple[int, ...]:
    """The default stages of the branch: ascending indices into ``backbone.all_stages``.

    These are the backbone's default levels, all stages before them, the last stage of stride 4, and the last stage.
    With a ResNet: the stem and all four layers, as published.
    """
    stages = backbone.all_stages
    before = len(stages) - len(backbone.stages)
    fine = [index for index, stage in enumerate(stages) if stage.stride == EDGE_STRIDE]
    own = (before + level for level in backbone.default_levels)
    return tuple(sorted({*range(before), *own, *fine[-1:], len(stages) - 1}))


def _checked(levels: tuple[int, ...], backbone: Backbone) -> tuple[int, ...]:
    stages = backbone.all_stages
    wrong = [level for level in levels if not 0 <= level < len(stages)]
    if wrong or not levels or len(set(levels)) < len(levels):
        what = f"no level {first_five(wrong)}" if wrong else f"levels, but not {tuple(levels)}: each at most once"
        raise UsageError(f"levels of the edge network: the backbone has {what}; it offers {offered(stages)}")
    return tuple(levels)
