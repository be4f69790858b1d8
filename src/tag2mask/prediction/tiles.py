"""Tiles of large images and their blending weights, one axis at a time.

Tiles of one length overlap along an axis. Over a seam in the middle of the overlap, the weight of one tile falls from 1
to 0 while that of the other rises. The rest of the overlap is context.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

BLOCK_SIDE = 512
"""Most result pixels per block, along an axis."""


@dataclass(frozen=True)
class Interval:
    """Pixels [start, stop) of the result that one tile covers alone, or that the seam of two tiles covers.

    Attributes:
        tiles: the indices of the tiles with a weight here, one or two.
        seam: [first, last) pixels of the seam that contains the interval; None with one tile.
    """

    start: int
    stop: int
    tiles: tuple[int, ...]
    seam: tuple[int, int] | None = None

    @property
    def span(self) -> slice:
        """The pixels as a slice."""
        return slice(self.start, self.stop)

    def centres(self, device: torch.device) -> Tensor:
        """The centres of the pixels, float64 (stop − start,), in result pixels from the edge of the result."""
        return torch.arange(self.start, self.stop, dtype=torch.float64, device=device) + 0.5

    def weights(self, tile: int) -> Tensor:
        """The weights of ``tile``, float32 (stop − start,) in [0, 1]; over all `tiles` they sum to 1."""
        if self.seam is None:
            return torch.ones(self.stop - self.start)
        first, last = self.seam
        rising = (torch.arange(self.start, self.stop) - first + 0.5) / (last - first)
        return rising if tile == self.tiles[1] else 1 - rising


@dataclass(frozen=True)
class Axis:
    """The tiles of one axis.

    Attributes:
        starts: first image pixel of each tile.
        side: image pixels of each tile.
        intervals: of the result, in ascending order, without gap or overlap.
    """

    starts: tuple[int, ...]
    side: int
    intervals: tuple[Interval, ...]

    def span(self, tile: int) -> slice:
        """The image pixels of a tile."""
        return slice(self.starts[tile], self.starts[tile] + self.side)


def tile_axis(length: int, result: int, *, side: int | None = None, overlap: int = 0, blend: int = 0) -> Axis:
    """Cut an axis into as few tiles as possible, as short as possible.

    Args:
        length: pixels of the image.
        result: pixels of the result.
        side: most image pixels of a tile; None takes one tile.
        overlap: least image pixels that neighbours share, at most half of ``side``.
        blend: image pixels of a seam, at most half of ``overlap``; 0: no seam.

    Source: ours.
    """
    if side is None or length <= side:
        return Axis((0,), length, tuple(_intervals(0, result, (0,))))
    count = -(-(length - overlap) // (side - overlap))
    own = -(-(length + (count - 1) * overlap) // count)
    starts = tuple(number * (length - own) // (count - 1) for number in range(count))
    intervals: list[Interval] = []
    reached = 0
    for number, (left, right) in enumerate(pairwise(starts)):
        middle, ratio = (right + left + own) / 2, result / length
        first = max(reached, round((middle - blend / 2) * ratio))
        last = max(first, round((middle + blend / 2) * ratio))
        intervals += _intervals(reached, first, (number,))
        intervals += _intervals(first, last, (number, number + 1))
        reached = last
    return Axis(starts, own, (*intervals, *_intervals(reached, result, (count - 1,))))


def _intervals(start: int, stop: int, tiles: tuple[int, ...]) -> list[Interval]:
    """[start, stop) in parts of at most `BLOCK_SIDE`."""
    seam = (start, stop) if len(tiles) == 2 else None
    count = -(-(stop - start) // BLOCK_SIDE)
    bounds = [start + (stop - start) * number // count for number in range(count + 1)] if count else []
    return [Interval(first, last, tiles, seam) for first, last in pairwise(bounds)]
