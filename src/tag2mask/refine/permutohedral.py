"""Gaussian filtering of values at scattered points, by the permutohedral lattice built with tensor operations.

Every point is spread onto the d + 1 corners of the simplex that it lies in (splat), the vertices are blurred along the
d + 1 directions of the lattice, and every point reads its corners (slice). Time and memory are linear in the points.

Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.errors import UsageError

_KEY_BITS = 62

_FARTHEST = 2.0**22
"""The largest coordinate, in cells, that float32 represents with a fraction."""

_TOO_FAR = "the points of a Gaussian filter lie too far apart; use larger standard deviations"


@dataclass(frozen=True)
class Lattice:
    """The m vertices of the simplices of n points in d dimensions, and their neighbours.

    Row m of the values at vertices, one after the last vertex, is 0 and represents missing neighbours.

    Attributes:
        weights: (n, d + 1) float32, its barycentric coordinates, each row summing to 1, times the factors of `scaled`.
    """

    corners: Tensor  # (n, d + 1) int32, the vertices of each point's simplex
    weights: Tensor
    members: Tensor  # (n · (d + 1),) int32, the points of each vertex, grouped by vertex
    shares: Tensor  # (n · (d + 1),) float32, the weight of each member
    offsets: Tensor  # (m + 1,) int32, where each vertex's members begin
    neighbours: Tensor  # (d + 1, m + 1, 3) int32, in each direction the vertex itself, the next and the previous one
    taps: Tensor  # (m + 1, 3) float32, the weights of these three in a blur

    def filter(self, values: Tensor) -> Tensor:
        """Σ over all points q of exp(−½ |p − q|²) · value(q) at every point p, up to a factor and an approximation.

        Args:
            values: (n, K) float32.

        Returns:
            (n, K) float32.
        """
        state = _sums(values, self.members, self.shares, self.offsets)  # (m + 1, K)
        for neighbours in self.neighbours:
            state = _sums(state, neighbours, self.taps)
        return _sums(state, self.corners, self.weights)

    def scaled(self, factor: Tensor) -> "Lattice":
        """The lattice whose filter is diag(factor) · filter · diag(factor); factor (n,) float32."""
        return replace(self, weights=self.weights * factor[:, None], shares=self.shares * factor[self.members])


def build_lattice(points: Tensor) -> Lattice:
    """The lattice of points.

    A vertex is a whole number of steps along each of d directions from a common corner. These d numbers are the digits
    of its key, so that a step to a neighbour is one addition (ours).

    Args:
        points: (n, d) float32, finite, n ≥ 1, in units of the Gaussian's standard deviation.

    Raises:
        UsageError: the points are spread over more cells than a key can number.
    """
    lowest, order, weights = _simplices(points)
    digits = lowest[-1] - lowest[:-1]  # (d, n): how many steps along each direction
    first, span = digits.amin(1) - 2, digits.amax(1) - digits.amin(1) + 5  # a corner or neighbour is up to 2 away
    if float(span.double().log2().sum()) > _KEY_BITS:
        raise UsageError(_TOO_FAR)
    scale = torch.cat([span.new_ones(1), span.cumprod(0)])  # (d + 1,)
    start = ((digits - first[:, None]) * scale[:-1, None]).sum(0)
    steps = torch.cat([scale[:-1], -scale[:-1].sum()[None]])  # (d + 1,): all directions sum to 0
    # The corners of a simplex lie one step apart, in ascending order of the fractions of the coordinates.
    keys = torch.cat([start[None], start + steps[order[:-1]].cumsum(0)]).T.contiguous()  # (n, d + 1)
    return _assembled(keys, weights, steps)


def _assembled(keys: Tensor, weights: Tensor, steps: Tensor) -> Lattice:
    """Number the vertices by their keys and find their neighbours."""
    found, order = keys.flatten().sort(stable=True)
    new = torch.cat([found.new_ones(1, dtype=torch.bool), found[1:] != found[:-1]])
    offsets = new.nonzero().squeeze(1)
    vertices, count = found[offsets], len(offsets)
    corners = torch.empty_like(order, dtype=torch.int32)
    corners[order] = new.cumsum(0, dtype=torch.int32) - 1
    neighbours = torch.full((len(steps), count + 1, 3), count, dtype=torch.int32, device=keys.device)
    neighbours[..., 0] = torch.arange(count + 1, device=keys.device)
    for step, both in zip(steps, neighbours, strict=True):
        place = torch.searchsorted(vertices, vertices + step).clamp_(max=count - 1)
        hit = (vertices[place] == vertices + step).nonzero().squeeze(1)
        both[hit, 1] = place[hit].int()
        both[place[hit], 2] = hit.int()
    return Lattice(
        corners.view_as(keys),
        weights,
        (order // keys.shape[1]).int(),
        weights.flatten()[order],
        torch.cat([offsets, offsets.new_tensor([keys.numel()])]).int(),
        neighbours,
        weights.new_tensor([1.0, 0.5, 0.5]).expand(count + 1, 3).contiguous(),
    )


def _sums(values: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Weighted sums of rows of ``values``: one for each row of ``indices``, or for each run between ``offsets``."""
    return F.embedding_bag(indices, values, offsets, mode="sum", per_sample_weights=weights)


def _simplices(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex of each point.

    Returns:
        (d + 1, n) int64, the coordinates of its first corner, each divided by d + 1;
        (d + 1, n) int64, the directions in the order in which steps along them lead from corner to corner;
        (n, d + 1) float32, the weight of each corner.
    """
    raised = (points @ _embedding(points.shape[1]).to(points)).T.contiguous()  # (d + 1, n), columns sum to 0
    if not float(raised.abs().amax()) < _FARTHEST:
        raise UsageError(_TOO_FAR)
    size = len(raised)
    base = raised.round()
    rest = raised - base
    rank = base.sum(0).int().expand(size, -1).clone()  # how many coordinates have more left, shifted to sum 0
    for i in range(size):
        for j in range(i + 1, size):
            less = rest[i] < rest[j]
            rank[i] += less
            rank[j] += ~less
    turn = (rank < 0).int() - (rank >= size).int()
    rank += size * turn
    base += turn
    order = torch.empty(rank.shape, dtype=torch.int64, device=rank.device)
    numbers = torch.arange(size, device=rank.device)[:, None].expand_as(order)
    order.scatter_(0, (size - 1 - rank).long(), numbers)
    ascending = (raised - base).gather(0, order)
    weights = torch.cat([1 + ascending[:1] - ascending[-1:], ascending[1:] - ascending[:-1]])
    return base.long(), order, weights.T.contiguous()


def _embedding(dimensions: int) -> Tensor:
    """(d, d + 1): onto the plane of the lattice, scaled so that the whole filter has standard deviation 1."""
    matrix = torch.zeros(dimensions, dimensions + 1, dtype=torch.float64)
    for row in range(dimensions):
        matrix[row, : row + 1] = 1
        matrix[row, row + 1] = -(row + 1)
        matrix[row] *= math.sqrt(2 / 3) / math.sqrt((row + 1) * (row + 2))
    return matrix
