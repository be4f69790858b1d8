"""Frequency and co-occurrence of tags, and whether a checked data set is suitable for training."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tag2mask.core.errors import first_five
from tag2mask.data.problems import Problem, errors_of, warning

FEW = 20
"""A class with fewer images is reported. Ours: a threshold to think again at, not a measured one."""

_MIN_IMAGES = 5  # tags on fewer images are not compared with others
_MAX_CLASSES = 2000  # co-occurrence takes 4 bytes per pair; with more classes it is not counted


class TagCounts:
    """Images with each class and with each pair of classes."""

    def __init__(self, classes: Sequence[str], tags: Iterable[tuple[int, ...]]) -> None:
        """Count the class ids from 1 of each image; ``classes`` are the C names."""
        self.classes = tuple(classes)
        self.images = 0
        self.counts = np.zeros(len(classes), dtype=np.int64)
        counted = len(classes) if len(classes) <= _MAX_CLASSES else 0
        self.cooccurrence = np.zeros((counted, counted), dtype=np.int32)
        for ids in tags:
            places = [number - 1 for number in dict.fromkeys(ids)]
            self.images += 1
            self.counts[places] += 1
            if counted and places:
                self.cooccurrence[np.ix_(places, places)] += 1

    def by_name(self) -> dict[str, int]:
        """Images with each class, by its name."""
        return dict(zip(self.classes, map(int, self.counts), strict=True))

    def few(self) -> list[str]:
        """Classes with 1 to `FEW` - 1 images, ascending by count."""
        order = np.argsort(self.counts, kind="stable")
        return [self.classes[place] for place in order if 0 < self.counts[place] < FEW]

    def everywhere(self) -> list[str]:
        """Classes on every image."""
        if self.images < _MIN_IMAGES:
            return []
        return [self.classes[place] for place in np.flatnonzero(self.counts == self.images)]

    def inseparable(self) -> list[tuple[str, str]]:
        """Pairs (a, b) where a occurs only with b, and b is not on every image; a symmetric pair is listed once."""
        counts = self.counts[: len(self.cooccurrence)]
        always = self.cooccurrence == counts[:, None]
        always[counts < _MIN_IMAGES] = False
        always[:, counts == self.images] = False
        np.fill_diagonal(always, False)
        always &= ~np.tril(always & always.T)
        return [(self.classes[one], self.classes[other]) for one, other in np.argwhere(always)]

    def problems(self, root: str) -> Iterator[Problem]:
        """Warnings: few images of a class, a class on every image, inseparable pairs."""
        counts = self.by_name()
        if few := self.few():
            named = first_five(f"{name} ({counts[name]})" for name in few)
            message = f"classes with fewer than {FEW} images ({len(few)}): {named}"
            yield warning("few-images", root, f"{message}; add some, or leave these tags out")
        for name in self.everywhere():
            message = f"all {self.images} images have the tag `{name}`, so nothing shows what is not {name}"
            yield warning("never-absent", root, f"{message}; add images without it, with other tags or none")
        for one, other in self.inseparable():
            both = " nor the other way round" if counts[one] == counts[other] else ""
            message = f"the tag `{one}` ({counts[one]}×) never occurs without `{other}` ({counts[other]}×){both}"
            remedy = "add images of one without the other, or make them one tag"
            yield warning("inseparable-tags", root, f"{message}, so the two are hard to tell apart; {remedy}")


@dataclass(frozen=True)
class TagSummary:
    """The closing summary of a check.

    ``worth``: ``yes``; ``doubtful``: training works, but the reasons affect masks or figures; ``no``: the data set
    cannot be opened, or no class has enough images.
    """

    worth: Literal["yes", "doubtful", "no"]
    reasons: tuple[str, ...]  # for and against training

    def __str__(self) -> str:
        return f"worth training: {self.worth} ({'; '.join(self.reasons)})"


def summarise(
    tags: TagCounts, problems: Sequence[Problem], *, usable: bool, crossing: int, several_splits: bool
) -> TagSummary:
    """Whether a data set is suitable for training.

    Args:
        tags: the tag counts.
        problems: all problems found.
        usable: whether the data set can be opened.
        crossing: groups of near duplicates across splits.
        several_splits: whether near duplicates across splits were searched.
    """
    errors = len(errors_of(problems))
    against = list(_reasons_against(tags, errors, crossing))
    counts = sorted(int(count) for count in tags.counts if count)
    size = f"{tags.images} images, {len(counts)} classes"
    size += f" with {counts[0]} to {counts[-1]} images each" if counts else ""
    if not usable:
        return TagSummary("no", (size, "the data set cannot be opened before its errors are fixed", *against))
    if not counts or counts[-1] < FEW:
        return TagSummary("no", (size, *against))
    clean = ["no errors"] if not errors else []
    clean += ["no image in two splits"] if several_splits and not crossing else []
    return TagSummary("doubtful" if against else "yes", (size, *against, *clean))


def _reasons_against(tags: TagCounts, errors: int, crossing: int) -> Iterator[str]:
    if errors:
        yield f"{errors} error{'s' if errors > 1 else ''} to fix"
    if few := tags.few():
        yield f"fewer than {FEW} images of {first_five(few)}"
    if crossing:
        yield f"{crossing} images or groups of them look the same across splits, which flatters figures"
    if pairs := tags.inseparable():
        yield "never apart: " + first_five(f"{one} and {other}" for one, other in pairs)
    if everywhere := tags.everywhere():
        yield f"on every image: {first_five(everywhere)}"
