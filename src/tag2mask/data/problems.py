"""Problems of a data set: readers collect them, opening raises all errors together, the check lists all of them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from tag2mask.core.errors import Tag2maskError, UsageError, printable

Level = Literal["error", "warning"]

# fmt: off
ProblemKind = Literal[
    # the settings, and what they name
    "bad-root", "bad-split", "bad-classes", "no-images",
    # the tags
    "bad-table", "encoding", "bad-row", "bad-value", "bad-annotation", "missing-tags", "unknown-tag", "similar-tags",
    "no-tags", "empty-class", "few-images", "never-absent", "inseparable-tags",
    # the layout
    "outside-root", "outside-class-folder", "duplicate-id", "missing-image", "unlisted-image", "ignored-file",
    "unlikely-class", "split-overlap", "unlike-coco",
    # the images
    "empty-image", "unreadable-image", "not-an-image", "damaged-image", "pixel-limit", "unsupported-image",
    "small-image", "large-image", "small-range", "extra-bands", "several-pages", "near-duplicate",
    # the ground-truth masks
    "missing-mask", "unreadable-mask", "mask-format", "mask-size", "mask-turn", "mask-values", "mask-record",
    "truth-tags",
    # layouts of other tools, names that mean no class, unsupported formats
    "known-layout", "negative-name", "unread-format",
    # corrections
    "bad-corrections", "bad-correction", "unknown-correction",
]
# fmt: on
"""The kinds of problem: stable names for scripts."""

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a data set.

    ``level``: ``error``: the data set cannot be used as it is. ``warning``: it can, with possibly unintended
    results.
    """

    level: Level
    kind: ProblemKind  # the violated rule
    subject: str  # the file, relative to the root if it is inside, with the line if it has lines
    message: str  # what is wrong, what is allowed, and the remedy, on one line

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}"


class ImageError(Tag2maskError):
    """An image that cannot be used; the message names the file, the rule and the remedy.

    It can be constructed from a message alone, as the worker processes of a data loader require.

    Attributes:
        kind: the violated rule.
        reason: the message without the file name.
    """

    def __init__(self, message: str, *, kind: ProblemKind = "unreadable-image", reason: str | None = None) -> None:
        """Without ``reason`` it is the message."""
        super().__init__(message)
        self.kind: ProblemKind = kind
        self.reason = message if reason is None else reason

    @classmethod
    def about(cls, path: Path, kind: ProblemKind, reason: str) -> Self:
        """An error about the file ``path``."""
        return cls(one_line(f"{path}: {reason}"), kind=kind, reason=one_line(reason))


class MaskError(ImageError):
    """A mask that cannot be used; the message names the file, the rule and the remedy."""


def error(kind: ProblemKind, subject: str, message: str) -> Problem:
    """A problem that makes the data set unusable."""
    return Problem("error", kind, one_line(subject), one_line(message))


def warning(kind: ProblemKind, subject: str, message: str) -> Problem:
    """A problem that does not make the data set unusable."""
    return Problem("warning", kind, one_line(subject), one_line(message))


def one_line(text: str) -> str:
    """``text`` on one line, with characters that are not printable escaped."""
    return printable(text, keep="")


def grouped_lines(problems: Iterable[Problem], shown: int) -> list[str]:
    """One line per problem, grouped by kind: at most ``shown`` per kind, then the number of the others."""
    groups: dict[ProblemKind, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.kind].append(problem)
    lines: list[str] = []
    for kind, group in groups.items():
        lines += [str(problem) for problem in group[:shown]]
        if len(group) > shown:
            lines.append(f"… and {len(group) - shown} more of the kind {kind}")
    return lines


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that are errors."""
    return [problem for problem in problems if problem.level == "error"]


def refuse_errors(problems: Iterable[Problem], root: Path | None = None) -> None:
    """Raise a `UsageError` with the first five errors of each kind, if there are errors.

    With ``root``, the message names the check that lists all of them.
    """
    errors = errors_of(problems)
    if not errors:
        return
    count = f"{len(errors)} problem{'s' if len(errors) > 1 else ''}"
    name = "the data set" if root is None else str(root)
    remedy = "" if root is None else f" (`tag2mask check {root}` lists everything)"
    head = f"{name} cannot be used, {count}{remedy}:"
    raise UsageError("\n  ".join([head, *grouped_lines(errors, SHOWN)]))
