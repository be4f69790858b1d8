"""IRN's affinity loss: trains edges from class labels.

Two cells less than `radius` apart have the affinity 1 − the largest edge on the path between them, as in the random
walk. The target is 1 where their labels agree and 0 where they differ.

The loss of a pair depends only on its kind and on the cell with the largest edge on its path. So we count, outside
autograd, how often each cell has this maximum for pairs of each kind. The loss is then a sum over cells, weighted by
these counts. It and its gradient are exact, and memory is proportional to the number of cells.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from tag2mask.core.distributed import mean_over_processes
from tag2mask.core.errors import UsageError
from tag2mask.data.images import IGNORED
from tag2mask.networks.backbones.base import ceil_grid
from tag2mask.networks.edge_network import EDGE_STRIDE
from tag2mask.refine.random_walk import displacements, path

RADIUS = 10
"""Bound on the distance of pairs, in cells; 5 in the random walk. Source: IRN."""

EPSILON = 1e-5
"""Added inside the logarithms, and to the number of pairs before the division by it. Source: IRN."""

_BACKGROUND, _FOREGROUND, _NEGATIVE, _IGNORED_PAIR = range(4)
_KINDS = 4


@dataclass(frozen=True)
class AffinityLoss:
    """The loss and its parts, scalars ≥ −1e-5; a part without pairs is 0."""

    total: Tensor  # ((background + foreground) / 2 + negative) / 2
    background: Tensor  # the mean of −log affinity over the pairs of background with background
    foreground: Tensor  # the same over the pairs of a class with itself
    negative: Tensor  # the mean of −log(1 − affinity) over the pairs of different labels


class _Run(NamedTuple):
    """Adjacent cells of a path in one row (``horizontal``) or column, the first at offset ``down``, ``right``."""

    horizontal: bool
    down: int
    right: int
    length: int


def affinity_loss(logits: Tensor, labels: Tensor, *, radius: int = RADIUS) -> AffinityLoss:
    """The loss of edges against labels, over all pairs of cells of the batch that are less than ``radius`` apart.

    With the affinity a, the positive loss is −log(a + 1e-5) and the negative one −log(1 + 1e-5 − a), each a mean over
    its pairs. Pairs with an ignored cell at an end do not count.

    Args:
        logits: float (N, h, w), of the edges, finite.
        labels: uint8 (N, h, w), class ids, 0 = background, 255 = ignored; see `reduced_labels`.
        radius: in cells, at least 2; 10 gives 152 displacements.

    Returns:
        the loss in the precision of ``logits``, float32 at least.

    Raises:
        UsageError: wrong shapes or types, logits that are not finite, or a radius out of range.
    Source: IRN, which only counts pairs from a central window; here every pair of the grid counts. The counting of
    maxima is ours. Of equal edges on a path, only one receives the gradient.
    """
    _check(logits, labels, radius)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    counts = _maximum_counts(logits.detach(), labels, radius)  # (3, N, h, w)
    # sigmoid(−x) is 1 − sigmoid(x) without cancellation: the affinity of a path with its maximum at this cell.
    positive = -(torch.sigmoid(-logits) + EPSILON).log()
    negative = -(torch.sigmoid(logits) + EPSILON).log()
    background = _mean(positive, counts[_BACKGROUND])
    foreground = _mean(positive, counts[_FOREGROUND])
    different = _mean(negative, counts[_NEGATIVE])
    return AffinityLoss(((background + foreground) / 2 + different) / 2, background, foreground, different)


def reduced_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels on the grid of the edges: cell i takes pixel 4 · i + 2, its centre, or the last pixel if there is none.

    Labels are uint8 (N, H, W); ``size`` = (h, w) is the grid of (H, W) at stride 4. Source: IRN, nearest-neighbour
    interpolation by 1/4.
    """
    if labels.ndim != 3 or labels.dtype != torch.uint8:
        raise UsageError(f"labels should be uint8 (N, H, W), received {labels.dtype} {tuple(labels.shape)}")
    height, width = int(labels.shape[1]), int(labels.shape[2])
    if ceil_grid((height, width), EDGE_STRIDE) != tuple(size):
        raise UsageError(
            f"labels of {height} × {width} pixels have no grid of {size[0]} × {size[1]} cells of {EDGE_STRIDE} pixels"
        )
    rows, columns = (
        (torch.arange(cells, device=labels.device) * EDGE_STRIDE + EDGE_STRIDE // 2).clamp_max(pixels - 1)
        for cells, pixels in zip(size, (height, width), strict=True)
    )
    return labels[:, rows[:, None], columns]


def _check(logits: Tensor, labels: Tensor, radius: int) -> None:
    if radius < 2:
        raise UsageError(f"radius should be at least 2, received {radius}")
    if logits.ndim != 3 or not logits.is_floating_point():
        raise UsageError(f"logits should be float (N, h, w), received {logits.dtype} {tuple(logits.shape)}")
    if labels.shape != logits.shape or labels.dtype != torch.uint8:
        raise UsageError(
            f"labels should be uint8 {tuple(logits.shape)}, as the logits, received {labels.dtype} "
            f"{tuple(labels.shape)}; `reduced_labels` brings them to the grid"
        )
    if not bool(logits.isfinite().all()):
        raise UsageError("logits should be finite; lower the learning rate if they come from a training")


def _mean(losses: Tensor, counts: Tensor) -> Tensor:
    """The mean over pairs, from losses and numbers of pairs per cell; 0 without pairs.

    Each process divides by the mean number of pairs per process, so that the mean of their results is over all pairs.
    """
    return (losses * counts).sum() / (mean_over_processes(counts.sum()) + EPSILON)


@torch.no_grad()
def _maximum_counts(logits: Tensor, labels: Tensor, radius: int) -> Tensor:
    """The number of pairs of each kind with the maximum of their path at each cell: (3, N, h, w) as floats."""
    images, height, width = logits.shape
    cells = height * width
    ranks = _ranks(logits)
    rows, columns = _run_maxima(ranks, radius)
    # Offsets of the counts of an image and a kind, for pairs with equal labels and for each end of other pairs.
    first = torch.arange(images, device=logits.device, dtype=torch.int32).view(-1, 1, 1) * (_KINDS * cells)
    ignored, background = labels == IGNORED, labels == 0
    foreground = ~(ignored | background)
    equal = first + cells * (_FOREGROUND * foreground.int() + _IGNORED_PAIR * ignored.int())
    different = first + cells * (_NEGATIVE + (_IGNORED_PAIR - _NEGATIVE) * ignored.int())
    counts = torch.zeros(images * _KINDS * cells, dtype=torch.int64, device=logits.device)
    ones = torch.ones_like(counts[: images * cells])
    for down, right in displacements(radius):
        if down >= height or abs(right) >= width:
            continue
        left = max(0, -right)
        extent = (height - down, width - abs(right))
        parts = [
            _window((rows if run.horizontal else columns)[run.length - 1], run.down, left + run.right, extent)
            for run in _runs(down, right)
        ]
        here, there = (0, left, extent), (down, left + right, extent)
        same = _window(labels, *here) == _window(labels, *there)
        unlike = torch.maximum(_window(different, *here), _window(different, *there))
        slots = torch.where(same, _window(equal, *here), unlike) + reduce(torch.maximum, parts)
        counts.scatter_add_(0, slots.flatten().long(), ones[: slots.numel()])
    by_rank = counts.view(images, _KINDS, cells)[:, :_IGNORED_PAIR]
    of_cells = by_rank.gather(2, ranks.flatten(1).long()[:, None].expand(-1, _IGNORED_PAIR, -1))
    return of_cells.transpose(0, 1).reshape(_IGNORED_PAIR, images, height, width).to(logits.dtype)


def _ranks(logits: Tensor) -> Tensor:
    """The ascending rank of each cell in its image, in the narrowest integer type, which is fastest: (N, h, w)."""
    flat = logits.flatten(1)
    cells = flat.shape[1]
    dtype = torch.int16 if cells <= torch.iinfo(torch.int16).max else torch.int32
    places = torch.arange(cells, dtype=dtype, device=flat.device).expand_as(flat)
    return torch.empty_like(flat, dtype=dtype).scatter_(1, flat.argsort(1), places).view(logits.shape)


def _run_maxima(ranks: Tensor, longest: int) -> tuple[list[Tensor], list[Tensor]]:
    """The maxima of 1 to ``longest`` adjacent cells along rows, (N, h, w − length + 1) each, and along columns."""
    rows, columns = [ranks], [ranks]
    for length in range(1, longest):
        rows.append(torch.maximum(rows[-1][:, :, :-1], ranks[:, :, length:]))
        columns.append(torch.maximum(columns[-1][:, :-1], ranks[:, length:]))
    return rows, columns


@lru_cache(maxsize=4096)
def _runs(down: int, right: int) -> tuple[_Run, ...]:
    """A path as runs along rows, or along columns if they are fewer."""
    along_rows, along_columns = defaultdict(list), defaultdict(list)
    for y, x in path(down, right):
        along_rows[y].append(x)
        along_columns[x].append(y)
    if len(along_rows) <= len(along_columns):
        return tuple(_Run(True, y, min(found), len(found)) for y, found in along_rows.items())
    return tuple(_Run(False, min(found), x, len(found)) for x, found in along_columns.items())


def _window(maps: Tensor, top: int, left: int, extent: tuple[int, int]) -> Tensor:
    return maps[:, top : top + extent[0], left : left + extent[1]]
