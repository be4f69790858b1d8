"""How often each tag occurs, alone and beside each other one, and what that makes hard to learn."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tag2mask.data.problems import Problem, warning
from tag2mask.errors import first_five

FEW = 20
"""Photographs; a class with fewer is reported. Ours: a threshold to think again at, not a measured one."""

_TELLING = 5
"""A tag on fewer photographs than this says nothing about its company."""

_MOST_CLASSES = 2000
"""Above so many classes their company is not counted: 4 bytes a pair."""


class TagCounts:
    """Photographs with each class, and with each two of them."""

    def __init__(self, classes: Sequence[str], tags: Iterable[tuple[int, ...]]) -> None:
        """Count.

        Args:
            classes: the C names.
            tags: of each photograph, class ids from 1.
        """
        self.classes = tuple(classes)
        self.photographs = 0
        self.counts = np.zeros(len(classes), dtype=np.int64)
        counted = len(classes) if len(classes) <= _MOST_CLASSES else 0
        self.together = np.zeros((counted, counted), dtype=np.int32)
        for ids in tags:
            places = [number - 1 for number in dict.fromkeys(ids)]
            self.photographs += 1
            self.counts[places] += 1
            if counted and places:
                self.together[np.ix_(places, places)] += 1

    def by_name(self) -> dict[str, int]:
        """Photographs with each class, by its name."""
        return dict(zip(self.classes, map(int, self.counts), strict=True))

    def few(self) -> list[str]:
        """Classes with fewer photographs than `FEW`, the fewest first; those with none are left out."""
        order = np.argsort(self.counts, kind="stable")
        return [self.classes[place] for place in order if 0 < self.counts[place] < FEW]

    def everywhere(self) -> list[str]:
        """Classes that every photograph has."""
        if self.photographs < _TELLING:
            return []
        return [self.classes[place] for place in np.flatnonzero(self.counts == self.photographs)]

    def inseparable(self) -> list[tuple[str, str]]:
        """(a, b): a occurs with b alone, b not everywhere; a pair that is so both ways is named once."""
        counts = self.counts[: len(self.together)]
        always = self.together == counts[:, None]
        always[counts < _TELLING] = False
        always[:, counts == self.photographs] = False
        np.fill_diagonal(always, False)
        always &= ~np.tril(always & always.T)
        return [(self.classes[one], self.classes[other]) for one, other in np.argwhere(always)]

    def problems(self, root: str) -> Iterator[Problem]:
        """A warning about too few photographs, one a class that is everywhere, and one a pair that is never apart."""
        counts = self.by_name()
        if few := self.few():
            named = first_five(f"{name} ({counts[name]})" for name in few)
            message = f"classes with fewer than {FEW} photographs ({len(few)}): {named}"
            yield warning("few-photographs", root, f"{message}; add some, or leave these tags out")
        for name in self.everywhere():
            message = f"all {self.photographs} photographs have the tag `{name}`, so nothing shows what is not {name}"
            yield warning("never-absent", root, f"{message}; add photographs without it, with other tags or none")
        for one, other in self.inseparable():
            both = " nor the other way round" if counts[one] == counts[other] else ""
            message = f"the tag `{one}` ({counts[one]}×) never occurs without `{other}` ({counts[other]}×){both}"
            remedy = "add photographs of one without the other, or make them one tag"
            yield warning("inseparable-tags", root, f"{message}, so the two are hard to tell apart; {remedy}")
