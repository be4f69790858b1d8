"""Tiles of large images, and their weights, one axis at a time.

Along an axis, tiles of one length overlap. In the middle of an overlap lies a joint, over which the weight of one tile
falls from 1 to 0 as that of the other rises. The rest of an overlap is context.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

PIECE = 512
"""Most result pixels per block, along an axis."""


@dataclass(frozen=True)
class Piece:
    """An interval of the result in which one tile, or the joint of two, counts.

    Attributes:
        start: first pixel of the result.
        stop: one past the last.
        tiles: the index of the tile, or of the two tiles, with a weight here.
        joint: (first, last) pixel of the joint that the interval lies in; None where one tile counts alone.
    """

    start: int
    stop: int
    tiles: tuple[int, ...]
    joint: tuple[int, int] | None = None

    def weights(self, tile: int) -> Tensor:
        """float32 (stop − start,) in [0, 1]: the weights of ``tile``; over all `tiles` they sum to 1."""
        if self.joint is None:
            return torch.ones(self.stop - self.start)
        first, last = self.joint
        rising = (torch.arange(self.start, self.stop) - first + 0.5) / (last - first)
        return rising if tile == self.tiles[1] else 1 - rising


@dataclass(frozen=True)
class Axis:
    """The tiles of one axis.

    Attributes:
        starts: first image pixel of each tile.
        side: image pixels of each tile.
        pieces: intervals of the result in ascending order, without gap or overlap.
    """

    starts: tuple[int, ...]
    side: int
    pieces: tuple[Piece, ...]


def cut(length: int, result: int, *, side: int | None, overlap: int, blend: int) -> Axis:
    """Cut an axis into as few tiles as possible, as short as possible.

    Args:
        length: pixels of the image.
        result: pixels of the result.
        side: most image pixels of a tile; None takes one tile.
        overlap: least image pixels that neighbours share, at most half of ``side``.
        blend: image pixels of a joint, at most half of ``overlap``; 0: no joint.

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
