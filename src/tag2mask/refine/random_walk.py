"""Random walk of CAMs over an affinity graph that stops at edges (IRN), in sparse steps.

Two cells of the grid less than `radius` apart are neighbours; their affinity is 1 − the largest edge on the path
between them. The published walk squares the dense transition matrix eight times; to apply the sparse one 256 times is
the same in exact arithmetic, with memory proportional to the number of cells.
"""

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.errors import UsageError

RADIUS, BETA, STEPS = 5, 10.0, 256
"""Source: IRN; 256 = 2^8 steps."""


@dataclass(frozen=True)
class _Graph:
    """The neighbours of every cell of an (h, w) grid, as the rows of a sparse matrix.

    Attributes:
        order: (m,) int64, the index of each entry in the affinities of all displacements, each in both directions,
            followed by n ones for the cells themselves.
    """

    crow: Tensor  # (n + 1,) int32, the start of each row
    columns: Tensor  # (m,) int32, ascending within a row
    order: Tensor


def propagate(cams: Tensor, edge: Tensor, *, radius: int = RADIUS, beta: float = BETA, steps: int = STEPS) -> Tensor:
    """The walk of CAMs: x ← (cams · (1 − edge)) Tˢ, with T the affinity to the power β, its columns of sum 1.

    Args:
        cams: (K, h, w), finite, any range.
        edge: (h, w) in [0, 1], 1 where the walk stops.
        radius: cells less than this apart are neighbours; at least 2.
        beta: β > 0; larger values stop the walk at weaker edges.
        steps: s, at least 0.

    Returns:
        as ``cams``, in its precision (float32 at least).

    Raises:
        UsageError: wrong shapes, or values that are not finite or out of range.
    Source: IRN; cells beyond the border are not neighbours.
    """
    if radius < 2 or not beta > 0 or steps < 0:
        raise UsageError(
            f"radius should be at least 2, beta above 0 and steps at least 0, received {radius}, {beta} and {steps}"
        )
    if cams.ndim != 3 or edge.shape != cams.shape[1:] or not edge.numel():
        raise UsageError(
            f"cams should be (K, h, w) and edge (h, w), received {tuple(cams.shape)} and {tuple(edge.shape)}"
        )
    dtype = torch.float64 if cams.dtype == torch.float64 else torch.float32
    cams, edge = cams.to(dtype), edge.to(cams.device, dtype)
    if not bool(cams.isfinite().all()) or not bool(((edge >= 0) & (edge <= 1)).all()):
        raise UsageError(
            "cams should be finite and edge should lie in [0, 1]; a network's edge is the sigmoid's output"
        )
    height, width = edge.shape
    graph = _graph(height, width, radius, edge.device)
    affinities = [affinity.flatten() for affinity in _affinities(edge, radius)]
    both = torch.cat([values for values in affinities for _ in range(2)] + [edge.new_ones(height * width)]) ** beta
    values = both[graph.order]
    rows = graph.crow.diff()
    sums = torch.segment_reduce(values, "sum", lengths=rows)
    # The affinity is symmetric, so the columns of T are its rows divided by their sums.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        transition = torch.sparse_csr_tensor(
            graph.crow,
            graph.columns,
            values / sums.repeat_interleave(rows),
            (height * width, height * width),
            check_invariants=False,
        )
    state = F.pad((cams * (1 - edge)).flatten(1).T, (0, len(cams) % 2)).contiguous()  # (n, K), faster for even K
    for _ in range(steps):
        state = transition @ state
    return state.T[: len(cams)].reshape(cams.shape)


def _affinities(edge: Tensor, radius: int) -> list[Tensor]:
    """1 − the largest edge on the path, for each displacement and each cell from which it ends on the grid."""
    height, width = edge.shape
    found = []
    for down, right in displacements(radius):
        rows, columns = max(0, height - down), max(0, width - abs(right))
        left = max(0, -right)
        largest = edge.new_zeros(rows, columns)
        for y, x in path(down, right):
            largest = torch.maximum(largest, edge[y : y + rows, left + x : left + x + columns])
        found.append(1 - largest)
    return found


@lru_cache(maxsize=16)
def _graph(height: int, width: int, radius: int, device: torch.device) -> _Graph:
    """The graph of a grid, cached since images share few sizes."""
    cells = torch.arange(height * width, device=device)
    grid = cells.view(height, width)
    sources, targets = [], []
    for down, right in displacements(radius):
        rows, columns = max(0, height - down), max(0, width - abs(right))
        left = max(0, -right)
        start = grid[:rows, left : left + columns].flatten()
        end = grid[down : down + rows, left + right : left + right + columns].flatten()
        sources += [start, end]
        targets += [end, start]
    source, target = torch.cat([*sources, cells]), torch.cat([*targets, cells])
    order = (source * (height * width) + target).argsort()
    crow = torch.cat([cells.new_zeros(1), torch.bincount(source, minlength=height * width).cumsum(0)])
    return _Graph(crow.int(), target[order].int(), order)  # MKL would convert int64 in every product


@lru_cache
def displacements(radius: int) -> tuple[tuple[int, int], ...]:
    """(down, right) to the neighbours less than ``radius`` away, one of each opposite pair; 34 for radius 5."""
    reach = range(1 - radius, radius)
    half = [(0, right) for right in range(1, radius)]
    half += [(down, right) for down in range(1, radius) for right in reach if math.hypot(down, right) < radius]
    return tuple(half)


@lru_cache
def path(down: int, right: int) -> tuple[tuple[int, int], ...]:
    """The cells less than 1 from the line between two ends, both included, as (down, right) from the first end."""
    columns = range(min(0, right), max(0, right) + 1)
    near = [(y, x) for y in range(down + 1) for x in columns if abs(down * x - right * y) < math.hypot(down, right)]
    return tuple(near)
