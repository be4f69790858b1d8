"""Gaussian filtering of values at scattered points, by the permutohedral lattice built with tensor operations.

Every point is spread onto the d + 1 corners of the simplex that it lies in (splat), the vertices are blurred along the
d + 1 directions of the lattice, and every point reads its corners (slice). Time and memory are linear in the points.

Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.errors import UsageError

_KEY_BITS = 62

_FARTHEST = 2.0**22
"""The largest coordinate, in cells, that float32 represents with a fraction."""

_VECTOR = 8
"""Numbers that AVX2 stores at once; sums of rows with another number of columns are slower on CPUs."""

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
            values: (K, n) float32.

        Returns:
            (K, n) float32.
        """
        padding = 0 if values.is_cuda else -len(values) % _VECTOR
        state = F.pad(values.T, (0, padding)).contiguous()
        state = _sums(state, self.members, self.shares, self.offsets)  # (m + 1, K and the padding)
        for neighbours in self.neighbours:
            state = _sums(state, neighbours, self.taps)
        return _sums(state, self.corners, self.weights).T[: len(values)]

    def scaled(self, factor: Tensor) -> "Lattice":
        """The lattice whose filter is diag(factor) · filter · diag(factor); factor (n,) float32."""
        shares = self.shares * factor.index_select(0, self.members)
        return replace(self, weights=self.weights * factor[:, None], shares=shares)


def build_lattice(points: Tensor) -> Lattice:
    """The lattice of points.

    A vertex is a whole number of steps along each of d directions from a common corner. These d numbers are the digits
    of its key, so that a step to a neighbour is one addition (ours).

    Args:
        points: (n, d) float32, finite, n ≥ 1, in units of the Gaussian's standard deviation.

    Raises:
        UsageError: the points are spread over more cells than a key can number.
    """
    keys, weights, steps = _keys(points)
    found, order = _sorted(keys.flatten())
    vertices, numbers, sizes = torch.unique_consecutive(found, return_inverse=True, return_counts=True)
    corners = torch.empty_like(order, dtype=torch.int32).scatter_(0, order, numbers.int()).view_as(keys)
    del keys, found, numbers  # the largest tensors, not read any more
    count = len(vertices)
    neighbours = torch.full((len(steps), count + 1, 3), count, dtype=torch.int32, device=points.device)
    neighbours[..., 0] = torch.arange(count + 1, device=points.device)
    for step, both in zip(steps, neighbours, strict=True):
        before, after = _equal(vertices + step, vertices)
        both[:, 1].scatter_(0, before, after.int())
        both[:, 2].scatter_(0, after, before.int())
    return Lattice(
        corners,
        weights,
        (order // len(steps)).int(),
        weights.flatten().index_select(0, order),
        F.pad(sizes.cumsum(0), (1, 0)).int(),
        neighbours,
        weights.new_tensor([1.0, 0.5, 0.5]).expand(count + 1, 3).contiguous(),
    )


def _keys(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The keys of the corners.

    Returns:
        (n, d + 1) int64, not negative, the key of each corner;
        (n, d + 1) float32, the weight of each corner;
        (d + 1,) int64, the difference of the keys of neighbours in each direction.
    """
    lowest, place, weights = _simplices(points)
    digits = lowest[-1] - lowest[:-1]  # (d, n): how many steps along each direction
    first, span = digits.amin(1) - 2, digits.amax(1) - digits.amin(1) + 5  # a corner or neighbour is up to 2 away
    if float(span.double().log2().sum()) > _KEY_BITS:
        raise UsageError(_TOO_FAR)
    scale = torch.cat([span.new_ones(1), span.cumprod(0)])  # (d + 1,)
    steps = torch.cat([scale[:-1], -scale[:-1].sum()[None]])  # all directions sum to 0
    # The corners of a simplex lie one step apart, in ascending order of the fractions of the coordinates.
    keys = torch.empty_like(place).scatter_(0, place, steps[:, None].expand_as(place)).roll(1, 0)
    keys[0] = ((digits - first[:, None]) * scale[:-1, None]).sum(0)
    return keys.cumsum(0).T.contiguous(), weights, steps


def _sorted(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (n,), not negative, in ascending order, and the indices of these in ``keys``, ascending for equal keys."""
    bits = len(keys).bit_length()
    if keys.is_cuda or int(keys.amax()) >> (63 - bits):
        return keys.sort(stable=True)
    packed = (keys << bits).add_(torch.arange(len(keys)))
    packed.numpy().sort()
    order = packed & ((1 << bits) - 1)
    return packed.bitwise_right_shift_(bits), order


def _equal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The indices of equal numbers in ``first`` and ``second``, both ascending without repetition."""
    if first.is_cuda:
        places = torch.searchsorted(second, first).clamp_(max=len(second) - 1)
        hits = (second[places] == first).nonzero().squeeze(1)
        return hits, places[hits]
    both = np.concatenate([second.numpy(), first.numpy()])
    order = np.argsort(both, kind="stable")  # merges two ascending runs in linear time
    merged = both[order]
    place = np.flatnonzero(merged[1:] == merged[:-1])
    return torch.from_numpy(order[place + 1] - len(second)), torch.from_numpy(order[place])


def _sums(values: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Weighted sums of rows of ``values``: one for each row of ``indices``, or for each run between ``offsets``."""
    return F.embedding_bag(indices, values, offsets, mode="sum", per_sample_weights=weights)


def _simplices(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex of each point.

    Returns:
        (d + 1, n) int64, the coordinates of its first corner, each divided by d + 1;
        (d + 1, n) int64, for each direction, how many steps along others come before it from corner to corner;
        (n, d + 1) float32, the weight of each corner.
    """
    raised = (points @ _embedding(points.shape[1]).to(points)).T.contiguous()  # (d + 1, n), columns sum to 0
    if not float(raised.abs().amax()) < _FARTHEST:
        raise UsageError(_TOO_FAR)
    size = len(raised)
    base = raised.round()
    rest = raised - base
    rank = base.sum(0).to(torch.int16).expand(size, -1).clone()  # how many have more left, shifted to sum 0
    for i in range(size):
        for j in range(i + 1, size):
            less = rest[i] < rest[j]
            rank[i] += less
            rank[j] += ~less
    turn = (rank < 0).to(rank.dtype) - (rank >= size).to(rank.dtype)
    rank += size * turn
    base += turn
    place = (size - 1 - rank).long()
    ascending = torch.empty_like(raised).scatter_(0, place, raised - base)
    weights = torch.cat([1 + ascending[:1] - ascending[-1:], ascending[1:] - ascending[:-1]])
    return base.long(), place, weights.T.contiguous()


def _embedding(dimensions: int) -> Tensor:
    """(d, d + 1): onto the plane of the lattice, scaled so that the whole filter has standard deviation 1."""
    matrix = torch.zeros(dimensions, dimensions + 1, dtype=torch.float64)
    for row in range(dimensions):
        matrix[row, : row + 1] = 1
        matrix[row, row + 1] = -(row + 1)
        matrix[row] *= math.sqrt(2 / 3) / math.sqrt((row + 1) * (row + 2))
    return matrix
