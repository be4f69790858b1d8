"""The progress of a stage, and its result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

from rich.console import Console as Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from tag2mask.evaluation.comparison import Comparison

_PERIOD = 600.0
"""Seconds over which a bar measures its speed: a step of a training may take a minute."""

_FIRST = 5.0
"""Seconds until the first line of a log."""

Advance = Callable[..., None]
"""Called as advance(done, note): the number of items done so far, and a short text next to the bar."""


@dataclass
class StageResult:
    """What a stage did.

    Attributes:
        done: items made now.
        skipped: items that existed already.
        failed: the reason for each item that could not be made.
        figures: measurements, {stage: {split: {kind: {figure: value}}}}.
        notes: sentences for the user.
        comparisons: with another run, on request.
    """

    stage: str
    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    def sentence(self) -> str:
        """The counts in one line."""
        parts = [f"{self.done} done"] if self.done or not self.skipped else []
        parts += [f"{self.skipped} already there"] if self.skipped else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return f"{self.stage}: {', '.join(parts)}"


@contextmanager
def progress_bar(console: Console, title: str, total: int) -> Iterator[Advance]:
    """A bar with a note and the remaining time; plain lines of text if the console is not a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    if not console.is_terminal:
        yield _PlainLines(console, title, total)
        return
    with Progress(*columns, console=console, transient=True, speed_estimate_period=_PERIOD) as bars:
        task = bars.add_task(title, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            bars.update(task, completed=done, note=note)

        yield advance


class _PlainLines:
    """Progress for logs: a line after some seconds, one at each quarter, and one per minute between them."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self.console, self.title, self.total, self.quarter = console, title, max(total, 1), 0
        self.due = monotonic() + _FIRST
        self.began: tuple[float, int] | None = None  # when the first number arrived, and that number

    def __call__(self, done: int, note: str = "") -> None:
        now, quarter = monotonic(), 4 * done // self.total
        self.began = self.began or (now, done)
        if quarter > self.quarter or now > self.due:
            self.quarter, self.due = quarter, now + 60
            parts = [f"{self.title}: {done}/{self.total}", note, self._left(now, done)]
            self.console.print(" ".join(part for part in parts if part), highlight=False)

    def _left(self, now: float, done: int) -> str:
        """The remaining time, in words; empty at the end, and if it is not known yet."""
        began, first = self.began or (now, done)
        if not first < done < self.total:
            return ""
        seconds = round((now - began) / (done - first) * (self.total - done))
        return f"({timedelta(seconds=seconds)} left)"
