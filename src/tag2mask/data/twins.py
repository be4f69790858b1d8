"""What a check says of photographs that look the same: within a split a count, across splits a warning."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from tag2mask.data.likeness import MOST_BITS, Looks
from tag2mask.data.photo import Photos
from tag2mask.data.problems import Problem, one_line, warning

SHOWN = 5

_MEANT = f"at most {MOST_BITS} of 128 bits of their difference hashes differ"


@dataclass(frozen=True)
class Twins:
    """Photographs that look the same.

    Attributes:
        groups: how many groups of two or more.
        photographs: in all groups together.
        across: of the groups, those with photographs in different splits.
        named: the first five pairs, those across splits first: IDs, with the splits where these differ.
        unlike: further groups, whose photographs have different tags: one camera and a fixed part, hardly copies.
        unlike_named: the first five pairs of these.
    """

    groups: int = 0
    photographs: int = 0
    across: int = 0
    named: tuple[str, ...] = ()
    unlike: int = 0
    unlike_named: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """A line about all of them, and one about those with different tags; none where there are none."""
        lines = []
        if self.groups:
            in_groups = f"{self.photographs} photographs in {self.groups} group{'s' if self.groups > 1 else ''}"
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
            f"groups of photographs that look the same in different splits ({self.across}): "
            f"{_shown(self.named, self.across)}; figures on the one split are flattered by what was learned on the "
            "other: leave them out of one of the splits"
        )
        return [warning("near-duplicate", root, message)]


def _shown(named: tuple[str, ...], count: int) -> str:
    """The named pairs, and how many more groups there are."""
    more = count - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def find_twins(looks: Looks, photos: Photos) -> Twins:
    """Sort groups of photographs that look the same, and name the first five.

    Photographs of a group that have the same tags, or the very same hash, are copies. Others are what one camera sees
    of a part that is good or has a defect.

    Args:
        looks: the hashes of the photographs.
        photos: N photographs.
    """
    copies: list[npt.NDArray[np.intp]] = []
    different: list[tuple[int, int]] = []
    for group in looks.groups():
        tags = [photo.tags for photo in photos.at(group)]
        by_tags: dict[tuple[int, ...], list[int]] = {}
        by_hash: dict[bytes, dict[tuple[int, ...], int]] = {}
        for place, own in zip(group.tolist(), tags, strict=True):
            by_tags.setdefault(own, []).append(place)
            by_hash.setdefault(looks.hashes[place].tobytes(), {}).setdefault(own, place)
        same = [*by_tags.values(), *(list(places.values()) for places in by_hash.values())]
        copies += [np.array(places) for places in same if len(places) > 1]
        if len({place for places in same if len(places) > 1 for place in places}) < len(group):
            different += [(int(group[0]), int(p)) for p, own in zip(group, tags, strict=True) if own != tags[0]][:1]
    pairs = [(pair, group) for group in copies if (pair := _across(group, photos)) is not None]
    first = [pair for pair, _ in pairs] or [(int(group[0]), int(group[1])) for group in copies]
    named, unlike = (tuple(_named(pair, photos) for pair in found[:SHOWN]) for found in (first, different))
    photographs = len({int(place) for group in copies for place in group})
    return Twins(len(copies), photographs, len(pairs), named, len(different), unlike)


def apart(one: str, other: str) -> bool:
    """Whether two images, of splits joined by `;`, lie in different splits: each is in one that the other is not in."""
    first, second = _split_names(one), _split_names(other)
    return bool(first - second) and bool(second - first)


def _split_names(splits: str) -> set[str]:
    return set(splits.split(";")) - {""}


def _across(group: npt.NDArray[np.intp], photos: Photos) -> tuple[int, int] | None:
    """Two of a group that lie in different splits, if any."""
    kinds: dict[str, int] = {}
    for place, photo in zip(group.tolist(), photos.at(group), strict=True):
        kinds.setdefault(photo.splits, place)
    return next(((a, b) for (x, a), (y, b) in combinations(kinds.items(), 2) if apart(x, y)), None)


def _named(pair: tuple[int, int], photos: Photos) -> str:
    """Two IDs, with their splits where they lie in different ones."""
    one, other = photos.at(pair)
    shown = [one.id, other.id]
    if apart(one.splits, other.splits):
        first, second = _split_names(one.splits), _split_names(other.splits)
        splits = (", ".join(sorted(each)) for each in (first - second, second - first))
        shown = [f"{name} ({split})" for name, split in zip(shown, splits, strict=True)]
    return one_line(" ~ ".join(shown))
