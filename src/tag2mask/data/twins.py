"""What a check says of photographs that look the same: within a split a count, across splits a warning."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from tag2mask.data.likeness import MOST_BITS, Groups
from tag2mask.data.listing import Listing
from tag2mask.data.membership import Members, apart, split_names
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


def find_twins(groups: Groups, photos: Photos, members: Members, listing: Listing) -> Twins:
    """Sort groups of photographs that look the same, and name the first five.

    Args:
        groups: of their places in ``photos``.
        photos: N photographs.
        members: (N,), the splits of each.
        listing: of the data set.
    """
    across = photographs = unlike = 0
    first: list[tuple[int, int]] = []
    crossing: list[tuple[int, int]] = []
    different: list[tuple[int, int]] = []
    for group in groups:
        tags = [photo.tags for photo in photos.at(group)]
        other = next((place for place, own in zip(group, tags, strict=True) if own != tags[0]), None)
        if other is not None:
            unlike += 1
            different += [(int(group[0]), int(other))] if len(different) < SHOWN else []
            continue
        photographs += len(group)
        pair = _across(group, members)
        across += pair is not None
        if pair is not None and len(crossing) < SHOWN:
            crossing.append(pair)
        elif len(first) < SHOWN:
            first.append((int(group[0]), int(group[1])))
    named, apart = (
        tuple(_named(pair, photos, members, listing) for pair in pairs) for pairs in (crossing or first, different)
    )
    return Twins(len(groups) - unlike, photographs, across, named, unlike, apart)


def _across(group: npt.NDArray[np.intp], members: Members) -> tuple[int, int] | None:
    """Two of a group that lie in different splits, if any."""
    kinds: dict[int, int] = {}
    for place in group:
        kinds.setdefault(int(members[place]), int(place))
    return next(((a, b) for (x, a), (y, b) in combinations(kinds.items(), 2) if apart(x, y)), None)


def _named(pair: tuple[int, int], photos: Photos, members: Members, listing: Listing) -> str:
    """Two IDs, with their splits where they lie in different ones."""
    one, other = (int(members[place]) for place in pair)
    shown = [photos[place].id for place in pair]
    if apart(one, other):
        splits = (split_names(listing, one & ~other), split_names(listing, other & ~one))
        shown = [f"{name} ({split})" for name, split in zip(shown, splits, strict=True)]
    return one_line(" ~ ".join(shown))
