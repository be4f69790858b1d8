"""Whether a data set that was checked is worth training on, in a word and a few reasons."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tag2mask.data.problems import Problem
from tag2mask.data.tag_counts import FEW, TagCounts
from tag2mask.errors import first_five


@dataclass(frozen=True)
class Verdict:
    """The closing summary of a check.

    Attributes:
        worth: ``yes``; ``doubtful``: it can be trained on, and what the reasons name will show in its masks or its
            figures; ``no``: it cannot be opened, or no class has enough photographs.
        reasons: what speaks for and against it.
    """

    worth: Literal["yes", "doubtful", "no"]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """One line."""
        return f"worth training: {self.worth} ({'; '.join(self.reasons)})"


def judge(tags: TagCounts, problems: list[Problem], *, usable: bool, crossing: int, searched: bool) -> Verdict:
    """The verdict.

    Args:
        tags: how often each occurs.
        problems: all that were found.
        usable: whether the data set can be opened.
        crossing: groups of photographs that look the same and lie in different splits.
        searched: whether there are several splits among which such groups were looked for.
    """
    against = list(_against(tags, problems, crossing))
    counts = sorted(int(count) for count in tags.counts if count)
    enough = sum(count >= FEW for count in counts)
    size = f"{tags.photographs} photographs, {len(counts)} classes"
    size += f" with {counts[0]} to {counts[-1]} photographs each" if counts else ""
    if not usable:
        return Verdict("no", (size, "the data set cannot be opened before its errors are mended", *against))
    if not enough:
        return Verdict("no", (size, *against))
    clean = ["no errors"] if not any(problem.level == "error" for problem in problems) else []
    clean += ["no photograph in two splits"] if searched and not crossing else []
    return Verdict("doubtful" if against else "yes", (size, *against, *clean))


def _against(tags: TagCounts, problems: list[Problem], crossing: int) -> Iterator[str]:
    """What speaks against training."""
    errors = sum(problem.level == "error" for problem in problems)
    if errors:
        yield f"{errors} error{'s' if errors > 1 else ''} to mend"
    if few := tags.few():
        yield f"fewer than {FEW} photographs of {first_five(few)}"
    if crossing:
        yield f"{crossing} photographs or groups of them look the same across splits, which flatters figures"
    if pairs := tags.inseparable():
        yield "never apart: " + first_five(f"{one} and {other}" for one, other in pairs)
    if everywhere := tags.everywhere():
        yield f"on every photograph: {first_five(everywhere)}"
