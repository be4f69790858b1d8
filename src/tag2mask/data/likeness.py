"""Photographs that look the same: a difference hash of each, and groups of photographs whose hashes hardly differ.

The rule: a photograph is reduced to 9 × 9 grey values; 64 bits say whether a value is brighter than its left neighbour,
64 more whether it is brighter than the upper one. Two photographs look the same if at most `MOST_BITS` of these 128
bits differ, and so do those that a chain of such pairs joins. Another size, another compression, small changes of
colour leave most of the bits alone; a large crop, a turn or a mirror image does not.

Only hashes that agree in one of their 8 parts of 16 bits are compared, so that the work grows little faster than the
number of photographs: every pair with up to 7 different bits is found, and of those with 12, about nine in ten.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

MOST_BITS = 12
"""Of 128 that may differ. Ours: of 284 photographs of VOC, 99 % differ in 9 bits at most from themselves at half the
size and JPEG quality 50, and 90 % in 12 from themselves cut by 2 % on each side; the nearest two of 1,420 different
photographs differ in 23."""

_SIDE = 9
_PLAIN = 2.0
"""A photograph whose 9 × 9 grey values spread less (standard deviation, of 255) has no hash: noise would decide it."""

_BANDS, _BAND = 8, 16
"""Parts of a hash, and the bits of each."""

_FARTHEST, _COMPARISONS = 500, 100_000_000
"""Hashes with an equal part that one of them is compared with, fewer of a million: so many comparisons in all. More of
them have an equal part only where photographs show little."""

_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)

Hash = npt.NDArray[np.uint64]


def difference_hash(image: npt.NDArray[np.uint8]) -> Hash | None:
    """The 128 bits of a photograph.

    Args:
        image: RGB, uint8 (H, W, 3).

    Returns:
        uint64 (2,); None for one that is plain.
    Source: the difference hash of N. Krawetz, 2013, across and down.
    """
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX).convert("L")
    grey = np.asarray(small, dtype=np.int16)
    if grey.std() < _PLAIN:
        return None
    across, down = grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]
    return np.packbits(np.stack([across, down]).reshape(2, -1), axis=1).view(np.uint64)[:, 0]


class Looks:
    """The hashes of a sequence of photographs: 17 bytes each, wherever they are kept."""

    def __init__(self, photographs: int) -> None:
        """Make room for so many, none known yet."""
        self.hashes = np.zeros((photographs, 2), dtype=np.uint64)
        self.known = np.zeros(photographs, dtype=np.bool_)

    def put(self, place: int, found: Hash | None) -> None:
        """Keep the hash of the photograph at a place; None leaves it out."""
        if found is not None:
            self.hashes[place], self.known[place] = found, True

    def groups(self) -> "Groups":
        """The photographs that look the same."""
        places = np.flatnonzero(self.known)
        if not len(places):
            return Groups(places, places, places)
        hashes, number = np.unique(self.hashes[places], axis=0, return_inverse=True)
        label = _chains(hashes)[number.ravel()]
        order = np.argsort(label, kind="stable")
        starts = np.flatnonzero(np.diff(label[order], prepend=-1))
        sizes = np.diff(starts, append=len(order))
        shared = sizes > 1
        first = np.argsort(places[order[starts[shared]]], kind="stable")  # in the order of the photographs
        return Groups(places[order], starts[shared][first], sizes[shared][first])


@dataclass(frozen=True)
class Groups:
    """Groups of two photographs or more that look the same, in the order of their first ones.

    Attributes:
        places: of photographs in their sequence, those of a group side by side, ascending.
        starts: (G,), where a group begins among ``places``.
        sizes: (G,), how many photographs it has.
    """

    places: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]

    def __len__(self) -> int:
        """How many groups."""
        return len(self.starts)

    def __iter__(self) -> Iterator[npt.NDArray[np.intp]]:
        """The places of each group."""
        for start, size in zip(self.starts, self.sizes, strict=True):
            yield self.places[start : start + size]

    @property
    def photographs(self) -> int:
        """In all groups together."""
        return int(self.sizes.sum())


def _chains(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """A number for each of the different hashes (U, 2), the same for those that chains of near pairs join.

    A pair is near that differs in at most `MOST_BITS` bits. What is joined already is not compared again: thousands of
    photographs from one tripod would else make as many pairs as there may be.
    """
    label = np.arange(len(hashes))
    farthest = min(_FARTHEST, max(10, _COMPARISONS // (_BANDS * max(1, len(hashes)))))
    for band in range(_BANDS):
        word, shift = divmod(band * _BAND, 64)
        part = (hashes[:, word] >> np.uint64(shift)) & np.uint64(2**_BAND - 1)
        order = np.argsort(part, kind="stable")
        part, at = part[order], np.arange(len(order) - 1)
        for distance in range(1, farthest + 1):
            at = at[at + distance < len(order)]
            at = at[part[at] == part[at + distance]]
            if not len(at):
                break
            one, other = order[at], order[at + distance]
            apart = label[one] != label[other]
            one, other = one[apart], other[apart]
            near = _ONES[(hashes[one] ^ hashes[other]).view(np.uint8)].sum(1) <= MOST_BITS
            if near.any():
                label = _joined(label, one[near], other[near])
    return label


def _joined(
    label: npt.NDArray[np.intp], one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """The labels once these pairs have the same."""
    count = int(label.max()) + 1
    graph = coo_matrix((np.ones(len(one), dtype=np.int8), (label[one], label[other])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)[label]
