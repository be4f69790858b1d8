"""Near duplicates: a difference hash of each image, and groups of images whose hashes hardly differ.

The rule: an image is reduced to 9 × 9 grey values; 64 bits say whether a value is brighter than its left neighbour,
64 more whether it is brighter than the upper one. Two images are near duplicates if at most `MOST_BITS` of these 128
bits differ, and so are those that a chain of such pairs joins. Another size, another compression, small changes of
colour leave most of the bits alone; a large crop, a turn or a mirror image does not.

Only hashes that agree in one of their 8 parts of 16 bits are compared, so that the work grows little faster than the
number of images: every pair with up to 7 different bits is found, and of those with 12, about nine in ten.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tag2mask.data.manifest import Images
from tag2mask.data.problems import SHOWN, Problem, one_line, warning

MOST_BITS = 12
"""Of 128 that may differ. Ours: of 284 images of VOC, 99 % differ in 9 bits at most from themselves at half the size
and JPEG quality 50, and 90 % in 12 from themselves cut by 2 % on each side; the nearest two of 1,420 different images
differ in 23."""

_SIDE = 9
_PLAIN = 2.0
"""An image whose 9 × 9 grey values spread less (standard deviation, of 255) has no hash: noise would decide it."""

_BANDS, _BAND = 8, 16  # parts of a hash, and the bits of each

_FARTHEST, _COMPARISONS = 500, 100_000_000
"""Hashes with an equal part that one of them is compared with, fewer of a million: so many comparisons in all. More of
them have an equal part only where images show little."""

_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)

_MEANT = f"at most {MOST_BITS} of 128 bits of their difference hashes differ"

Hash = npt.NDArray[np.uint64]


def difference_hash(image: npt.NDArray[np.uint8]) -> Hash | None:
    """The 128 bits of an image.

    Args:
        image: RGB, uint8 (H, W, 3).

    Returns:
        uint64 (2,); None for a plain image.
    Source: the difference hash of N. Krawetz, 2013, across and down.
    """
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX).convert("L")
    grey = np.asarray(small, dtype=np.int16)
    if grey.std() < _PLAIN:
        return None
    across, down = grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]
    return np.packbits(np.stack([across, down]).reshape(2, -1), axis=1).view(np.uint64)[:, 0]


class Looks:
    """The hashes of a sequence of images: 17 bytes each."""

    def __init__(self, images: int) -> None:
        """Make room for so many, none known yet."""
        self.hashes = np.zeros((images, 2), dtype=np.uint64)
        self.known = np.zeros(images, dtype=np.bool_)

    def put(self, place: int, found: Hash | None) -> None:
        """Keep the hash of the image at a place; None leaves it out."""
        if found is not None:
            self.hashes[place], self.known[place] = found, True

    def groups(self) -> list[npt.NDArray[np.intp]]:
        """The places of near duplicates, ascending in each group; groups in the order of their first images."""
        places = np.flatnonzero(self.known)
        if not len(places):
            return []
        hashes, number = np.unique(self.hashes[places], axis=0, return_inverse=True)
        label = _chains(hashes)[number.ravel()]
        order = np.argsort(label, kind="stable")
        starts = np.flatnonzero(np.diff(label[order], prepend=-1))
        sizes = np.diff(starts, append=len(order))
        several = sizes > 1
        spans = zip(starts[several].tolist(), sizes[several].tolist(), strict=True)
        return sorted((places[order[start : start + size]] for start, size in spans), key=lambda group: int(group[0]))


def _chains(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """A label for each of the different hashes (U, 2), the same for those that chains of near pairs join.

    What is joined already is not compared again: thousands of images from one tripod would else make as many pairs as
    there may be.
    """
    label = np.arange(len(hashes))
    farthest = min(_FARTHEST, max(10, _COMPARISONS // (_BANDS * len(hashes))))
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


@dataclass(frozen=True)
class NearDuplicates:
    """Images that look the same.

    Attributes:
        groups: how many groups of two or more.
        images: in all groups together.
        across: of the groups, those with images in different splits.
        named: the first five pairs, those across splits first: IDs, with the splits where these differ.
        unlike: further groups, whose images have different tags: one camera and a fixed part, hardly copies.
        unlike_named: the first five pairs of these.
    """

    groups: int = 0
    images: int = 0
    across: int = 0
    named: tuple[str, ...] = ()
    unlike: int = 0
    unlike_named: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """A line about all of them, and one about those with different tags; none where there are none."""
        lines = []
        if self.groups:
            in_groups = f"{self.images} images in {self.groups} group{'s' if self.groups > 1 else ''}"
            names = "" if self.across else f": {_shown(self.named, self.groups)}"
            lines.append(f"look the same ({_MEANT}): {in_groups}{names}")
        if self.unlike:
            camera = "look the same and have different tags, as parts under a fixed camera do"
            lines.append(f"{camera}, groups: {self.unlike}: {_shown(self.unlike_named, self.unlike)}")
        return lines

    def problems(self, root: str) -> list[Problem]:
        """A warning about those across splits."""
        if not self.across:
            return []
        message = (
            f"groups of images that look the same in different splits ({self.across}): "
            f"{_shown(self.named, self.across)}; figures on the one split are flattered by what was learned on the "
            "other: leave them out of one of the splits"
        )
        return [warning("near-duplicate", root, message)]


def find_near_duplicates(looks: Looks, items: Images) -> NearDuplicates:
    """Sort groups of images that look the same, and name the first five.

    Images of a group that have the same tags, or the very same hash, are copies. Others are what one camera sees of a
    part that is good or has a defect.

    Args:
        looks: the hashes of the images.
        photos: N images.
    """
    copies: list[npt.NDArray[np.intp]] = []
    different: list[tuple[int, int]] = []
    for group in looks.groups():
        tags = [item.tags for item in items.at(group)]
        by_tags: dict[tuple[int, ...], list[int]] = {}
        by_hash: dict[bytes, dict[tuple[int, ...], int]] = {}
        for place, own in zip(group.tolist(), tags, strict=True):
            by_tags.setdefault(own, []).append(place)
            by_hash.setdefault(looks.hashes[place].tobytes(), {}).setdefault(own, place)
        candidates = [*by_tags.values(), *(list(places.values()) for places in by_hash.values())]
        same = [np.array(places) for places in candidates if len(places) > 1]
        copies += same
        if len({place for places in same for place in places.tolist()}) < len(group):
            different += [(int(group[0]), int(p)) for p, own in zip(group, tags, strict=True) if own != tags[0]][:1]
    pairs = [pair for group in copies if (pair := _across(group, items)) is not None]
    first = pairs or [(int(group[0]), int(group[1])) for group in copies]
    named, unlike = (tuple(_named(pair, items) for pair in found[:SHOWN]) for found in (first, different))
    images = len({int(place) for group in copies for place in group})
    return NearDuplicates(len(copies), images, len(pairs), named, len(different), unlike)


def apart(one: str, other: str) -> bool:
    """Whether two images, of splits joined by `;`, lie in different splits: each is in one that the other is not in."""
    first, second = _split_names(one), _split_names(other)
    return bool(first - second) and bool(second - first)


def _split_names(splits: str) -> set[str]:
    return set(splits.split(";")) - {""}


def _across(group: npt.NDArray[np.intp], items: Images) -> tuple[int, int] | None:
    """Two of a group that lie in different splits, if any."""
    kinds: dict[str, int] = {}
    for place, item in zip(group.tolist(), items.at(group), strict=True):
        kinds.setdefault(item.splits, place)
    return next(((a, b) for (x, a), (y, b) in combinations(kinds.items(), 2) if apart(x, y)), None)


def _named(pair: tuple[int, int], items: Images) -> str:
    """Two IDs, with their splits where they lie in different ones."""
    one, other = items.at(pair)
    shown = [one.id, other.id]
    if apart(one.splits, other.splits):
        first, second = _split_names(one.splits), _split_names(other.splits)
        splits = (", ".join(sorted(each)) for each in (first - second, second - first))
        shown = [f"{name} ({split})" for name, split in zip(shown, splits, strict=True)]
    return one_line(" ~ ".join(shown))


def _shown(named: tuple[str, ...], count: int) -> str:
    """The named pairs, and how many more groups there are."""
    more = count - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
