"""Near duplicates: a difference hash per image, and groups of images whose hashes differ in few bits.

An image is reduced to 9 × 9 grey values; 64 bits state whether a value is brighter than its left neighbour, 64 more
whether it is brighter than the upper one. Two images are near duplicates if at most `MAX_BITS` of these 128 bits
differ, directly or through a chain of such pairs. Another size, another compression and small changes of colour keep
most of the bits; a large crop, a rotation or a mirror image does not.

Only hashes that agree in one of their 8 parts of 16 bits are compared, so that the work grows little faster than the
number of images: every pair with up to 7 different bits is found, and about nine in ten of those with 12.
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

MAX_BITS = 12
"""Of 128 that may differ. Ours: of 284 images of VOC, 99 % differ in 9 bits at most from themselves at half the size
and JPEG quality 50, and 90 % in 12 from themselves cut by 2 % on each side; the nearest two of 1,420 different images
differ in 23."""

_SIDE = 9
_PLAIN = 2.0
"""An image whose 9 × 9 grey values spread less (standard deviation, of 255) has no hash: noise would determine it."""

_PARTS, _PART_BITS = 8, 16
_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)

_MAX_DISTANCE, _MAX_COMPARISONS = 500, 100_000_000
"""Hashes with an equal part that one of them is compared with, fewer with a million images, so that the total stays
limited. More hashes have an equal part only where images show little."""

_RULE = f"at most {MAX_BITS} of 128 bits of their difference hashes differ"

Hash = npt.NDArray[np.uint64]


def difference_hash(image: npt.NDArray[np.uint8]) -> Hash | None:
    """The 128 bits of an RGB image, uint8 (H, W, 3), as uint64 (2,); None for a plain image.

    Source: the difference hash of N. Krawetz, 2013, across and down.
    """
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX).convert("L")
    grey = np.asarray(small, dtype=np.int16)
    if grey.std() < _PLAIN:
        return None
    across, down = grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]
    return np.packbits(np.stack([across, down]).reshape(2, -1), axis=1).view(np.uint64)[:, 0]


class ImageHashes:
    """The hashes of a sequence of images, 17 bytes each."""

    def __init__(self, images: int) -> None:
        """Allocate for so many images."""
        self.hashes = np.zeros((images, 2), dtype=np.uint64)
        self.known = np.zeros(images, dtype=np.bool_)

    def put(self, index: int, found: Hash | None) -> None:
        """Set the hash of an image; an image without a hash is in no group."""
        if found is not None:
            self.hashes[index], self.known[index] = found, True

    def groups(self) -> list[npt.NDArray[np.intp]]:
        """The indices of near duplicates, ascending in each group; groups in the order of their first images."""
        places = np.flatnonzero(self.known)
        if not len(places):
            return []
        hashes, number = np.unique(self.hashes[places], axis=0, return_inverse=True)
        label = _component_labels(hashes)[number.ravel()]
        order = np.argsort(label, kind="stable")
        groups = np.split(places[order], np.flatnonzero(np.diff(label[order])) + 1)
        return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


def _component_labels(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """A label per distinct hash (U, 2), equal within a chain of near pairs."""
    # Hashes with one label are not compared again: thousands of images from one tripod would give all possible pairs.
    label = np.arange(len(hashes))
    farthest = min(_MAX_DISTANCE, max(10, _MAX_COMPARISONS // (_PARTS * len(hashes))))
    for word, shift in (divmod(part * _PART_BITS, 64) for part in range(_PARTS)):
        part = (hashes[:, word] >> np.uint64(shift)) & np.uint64(2**_PART_BITS - 1)
        order = np.argsort(part, kind="stable")
        part, at = part[order], np.arange(len(order) - 1)
        for distance in range(1, farthest + 1):
            at = at[at + distance < len(order)]
            at = at[part[at] == part[at + distance]]
            if not len(at):
                break
            one, other = order[at], order[at + distance]
            unequal = label[one] != label[other]
            one, other = one[unequal], other[unequal]
            near = _ONES[(hashes[one] ^ hashes[other]).view(np.uint8)].sum(1) <= MAX_BITS
            if near.any():
                one, other, count = label[one[near]], label[other[near]], int(label.max()) + 1
                graph = coo_matrix((np.ones(len(one), dtype=np.int8), (one, other)), shape=(count, count))
                label = np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)[label]
    return label


@dataclass(frozen=True)
class NearDuplicates:
    """Images that look the same.

    ``named``: the first five pairs, those across splits first: IDs, with the splits where these differ.
    """

    groups: int = 0  # the number of groups of two or more
    images: int = 0  # in all groups together
    across: int = 0  # groups with images in different splits
    named: tuple[str, ...] = ()
    unlike: int = 0  # further groups, whose images have different tags: one camera and a fixed part, hardly copies
    unlike_named: tuple[str, ...] = ()  # the first five pairs of these

    def notes(self) -> list[str]:
        """A line for all groups, and one for those with different tags."""
        lines = []
        if self.groups:
            in_groups = f"{self.images} images in {self.groups} group{'s' if self.groups > 1 else ''}"
            names = "" if self.across else f": {_shown(self.named, self.groups)}"
            lines.append(f"look the same ({_RULE}): {in_groups}{names}")
        if self.unlike:
            camera = "look the same and have different tags, as parts under a fixed camera do"
            lines.append(f"{camera}, groups: {self.unlike}: {_shown(self.unlike_named, self.unlike)}")
        return lines

    def problems(self, root: str) -> list[Problem]:
        """A warning for groups across splits."""
        if not self.across:
            return []
        message = (
            f"groups of images that look the same in different splits ({self.across}): "
            f"{_shown(self.named, self.across)}; figures on the one split are flattered by what was learned on the "
            "other: leave them out of one of the splits"
        )
        return [warning("near-duplicate", root, message)]


def find_near_duplicates(hashes: ImageHashes, items: Images) -> NearDuplicates:
    """Group the near duplicates of N images, and name the first five pairs.

    Images of a group with the same tags, or with equal hashes, are copies. Others are parts under one camera, with and
    without a defect.
    """
    copies: list[npt.NDArray[np.intp]] = []
    different: list[tuple[int, int]] = []
    for group in hashes.groups():
        tags = [item.tags for item in items.take(group)]
        by_tags: dict[tuple[int, ...], list[int]] = {}
        by_hash: dict[bytes, dict[tuple[int, ...], int]] = {}
        for place, own in zip(group.tolist(), tags, strict=True):
            by_tags.setdefault(own, []).append(place)
            by_hash.setdefault(hashes.hashes[place].tobytes(), {}).setdefault(own, place)
        candidates = [*by_tags.values(), *(list(places.values()) for places in by_hash.values())]
        same = [np.array(places) for places in candidates if len(places) > 1]
        copies += same
        if len({place for places in same for place in places.tolist()}) < len(group):
            different += [(int(group[0]), int(p)) for p, own in zip(group, tags, strict=True) if own != tags[0]][:1]
    pairs = [pair for group in copies if (pair := _pair_across_splits(group, items)) is not None]
    first = pairs or [(int(group[0]), int(group[1])) for group in copies]
    named, unlike = (tuple(_named(pair, items) for pair in found[:SHOWN]) for found in (first, different))
    images = len({int(place) for group in copies for place in group})
    return NearDuplicates(len(copies), images, len(pairs), named, len(different), unlike)


def in_different_splits(one: str, other: str) -> bool:
    """Whether each of two images, of splits joined by `;`, is in a split that the other is not in."""
    first, second = _split_names(one), _split_names(other)
    return bool(first - second) and bool(second - first)


def _split_names(splits: str) -> set[str]:
    return set(splits.split(";")) - {""}


def _pair_across_splits(group: npt.NDArray[np.intp], items: Images) -> tuple[int, int] | None:
    kinds: dict[str, int] = {}
    for place, item in zip(group.tolist(), items.take(group), strict=True):
        kinds.setdefault(item.splits, place)
    return next(((a, b) for (x, a), (y, b) in combinations(kinds.items(), 2) if in_different_splits(x, y)), None)


def _named(pair: tuple[int, int], items: Images) -> str:
    one, other = items.take(pair)
    shown = [one.id, other.id]
    if in_different_splits(one.splits, other.splits):
        first, second = _split_names(one.splits), _split_names(other.splits)
        splits = (", ".join(sorted(each)) for each in (first - second, second - first))
        shown = [f"{name} ({split})" for name, split in zip(shown, splits, strict=True)]
    return one_line(" ~ ".join(shown))


def _shown(named: tuple[str, ...], count: int) -> str:
    more = count - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
