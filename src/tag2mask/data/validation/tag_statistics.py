"""How often tags occur, alone and together, and whether a checked data set is worth training on."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tag2mask.core.errors import first_five
from tag2mask.data.problems import Problem, errors_of, warning

FEW = 20
"""Images; a class with fewer is reported. Ours: a threshold to think again at, not a measured one."""

_TELLING = 5  # images; pairs of a tag with fewer are not reported
_MOST_CLASSES = 2000  # above so many classes pairs are not counted: 4 bytes per pair


class TagCounts:
    """Images with each class, and with each two of them."""

    def __init__(self, classes: Sequence[str], tags: Iterable[tuple[int, ...]]) -> None:
        """Count.

        Args:
            classes: the C names.
            tags: of each image, class ids from 1.
        """
        self.classes = tuple(classes)
        self.images = 0
        self.counts = np.zeros(len(classes), dtype=np.int64)
        counted = len(classes) if len(classes) <= _MOST_CLASSES else 0
        self.together = np.zeros((counted, counted), dtype=np.int32)
        for ids in tags:
            places = [number - 1 for number in dict.fromkeys(ids)]
            self.images += 1
            self.counts[places] += 1
            if counted and places:
                self.together[np.ix_(places, places)] += 1

    def by_name(self) -> dict[str, int]:
        """Images with each class, by its name."""
        return dict(zip(self.classes, map(int, self.counts), strict=True))

    def few(self) -> list[str]:
        """Classes with fewer images than `FEW`, the fewest first; those with none are left out."""
        order = np.argsort(self.counts, kind="stable")
        return [self.classes[place] for place in order if 0 < self.counts[place] < FEW]

    def everywhere(self) -> list[str]:
        """Classes that every image has."""
        if self.images < _TELLING:
            return []
        return [self.classes[place] for place in np.flatnonzero(self.counts == self.images)]

    def inseparable(self) -> list[tuple[str, str]]:
        """(a, b): a occurs with b alone, b not everywhere; a pair that is so both ways is named once."""
        counts = self.counts[: len(self.together)]
        always = self.together == counts[:, None]
        always[counts < _TELLING] = False
        always[:, counts == self.images] = False
        np.fill_diagonal(always, False)
        always &= ~np.tril(always & always.T)
        return [(self.classes[one], self.classes[other]) for one, other in np.argwhere(always)]

    def problems(self, root: str) -> Iterator[Problem]:
        """Warnings: few images of a class, a class on every image, pairs that are never apart."""
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
class Verdict:
    """The closing summary of a check.

    Attributes:
        worth: ``yes``; ``doubtful``: it can be trained on, and what the reasons name will show in its masks or its
            figures; ``no``: it cannot be opened, or no class has enough images.
        reasons: for and against it.
    """

    worth: Literal["yes", "doubtful", "no"]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"worth training: {self.worth} ({'; '.join(self.reasons)})"


def judge(tags: TagCounts, problems: Sequence[Problem], *, usable: bool, crossing: int, searched: bool) -> Verdict:
    """Whether a data set is worth training on.

    Args:
        tags: how often each occurs.
        problems: all that were found.
        usable: whether the data set can be opened.
        crossing: groups of near duplicates across splits.
        searched: whether there are several splits among which such groups were looked for.
    """
    errors = len(errors_of(problems))
    against = list(_against(tags, errors, crossing))
    counts = sorted(int(count) for count in tags.counts if count)
    enough = sum(count >= FEW for count in counts)
    size = f"{tags.images} images, {len(counts)} classes"
    size += f" with {counts[0]} to {counts[-1]} images each" if counts else ""
    if not usable:
        return Verdict("no", (size, "the data set cannot be opened before its errors are fixed", *against))
    if not enough:
        return Verdict("no", (size, *against))
    clean = ["no errors"] if not errors else []
    clean += ["no image in two splits"] if searched and not crossing else []
    return Verdict("doubtful" if against else "yes", (size, *against, *clean))


def _against(tags: TagCounts, errors: int, crossing: int) -> Iterator[str]:
    """Reasons against training."""
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
