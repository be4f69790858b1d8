"""Where a long photograph is cut into tiles, and how much each tile counts at each pixel; one axis at a time.

Along an axis, tiles of one length overlap. In the middle of an overlap lies a joint, over which the weight of the one
falls from 1 to 0 as that of the other rises. Left of it only the one counts, right of it only the other, so that what
a tile says close to its own cut counts for nothing.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

PIECE = 512
"""Result pixels along an axis that are worked on at once, at most."""


@dataclass(frozen=True)
class Piece:
    """An interval of the result in which one tile, or the joint of two, counts.

    Attributes:
        start: first pixel of the result.
        stop: one past the last.
        tiles: the index of the tile, or of the two tiles, that count here.
        joint: (first, last) pixel of the joint that the interval lies in; None where one tile counts alone.
    """

    start: int
    stop: int
    tiles: tuple[int, ...]
    joint: tuple[int, int] | None = None

    def weights(self, tile: int) -> Tensor:
        """float32 (stop − start,) in [0, 1]: how much ``tile`` counts; over all `tiles` they sum to 1."""
        if self.joint is None:
            return torch.ones(self.stop - self.start)
        first, last = self.joint
        rising = (torch.arange(self.start, self.stop) - first + 0.5) / (last - first)
        return rising if tile == self.tiles[1] else 1 - rising


@dataclass(frozen=True)
class Axis:
    """How one axis is cut.

    Attributes:
        starts: first photograph pixel of each tile.
        side: photograph pixels of a tile, the same for all.
        pieces: intervals of the result in ascending order; together they are all of it, without gap or overlap.
    """

    starts: tuple[int, ...]
    side: int
    pieces: tuple[Piece, ...]


def cut(length: int, result: int, *, side: int | None, overlap: int, blend: int) -> Axis:
    """Cut an axis into as few tiles as do, as short as they can be.

    Args:
        length: pixels of the photograph.
        result: pixels of what is made of it.
        side: photograph pixels of a tile at most; None takes one tile.
        overlap: photograph pixels that neighbours share at least, at most half of ``side``.
        blend: photograph pixels of a joint, at most half of ``overlap``; 0 has one tile end where the other begins.

    Source: ours.
    """
    if side is None or length <= side:
        return Axis((0,), length, tuple(_pieces(0, result, (0,))))
    count = -(-(length - overlap) // (side - overlap))
    own = -(-(length + (count - 1) * overlap) // count)
    starts = tuple(number * (length - own) // (count - 1) for number in range(count))
    pieces: list[Piece] = []
    reached = 0
    for number, (left, right) in enumerate(pairwise(starts)):
        middle, ratio = (right + left + own) / 2, result / length
        first = max(reached, round((middle - blend / 2) * ratio))
        last = max(first, round((middle + blend / 2) * ratio))
        pieces += _pieces(reached, first, (number,))
        pieces += _pieces(first, last, (number, number + 1))
        reached = last
    return Axis(starts, own, (*pieces, *_pieces(reached, result, (count - 1,))))


def _pieces(start: int, stop: int, tiles: tuple[int, ...]) -> list[Piece]:
    """An interval in parts of at most `PIECE`; none of an empty one."""
    joint = (start, stop) if len(tiles) == 2 else None
    count = -(-(stop - start) // PIECE)
    bounds = [start + (stop - start) * number // count for number in range(count + 1)] if count else []
    return [Piece(first, last, tiles, joint) for first, last in pairwise(bounds)]
