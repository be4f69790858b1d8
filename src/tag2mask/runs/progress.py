"""What a stage tells while it works, and what it came to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from rich.console import Console as Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from tag2mask.evaluation.comparison import Comparison

Advance = Callable[..., None]
"""Called as advance(done, note): how many are done in all, and a few words beside the bar."""


@dataclass
class StageResult:
    """What a stage did.

    Attributes:
        stage: its name.
        done: items made now.
        skipped: items that were there already.
        failed: items that could not be made, with the reason.
        figures: what it measured, if it measures.
        notes: sentences worth telling.
        comparisons: with another run, where that was asked for.
    """

    stage: str
    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    def sentence(self) -> str:
        """One line for people."""
        parts = [f"{self.done} done"] if self.done or not self.skipped else []
        parts += [f"{self.skipped} already there"] if self.skipped else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return f"{self.stage}: {', '.join(parts)}"


@contextmanager
def progress_bar(console: Console, title: str, total: int) -> Iterator[Advance]:
    """A bar with a note and the time left; plain lines of text where the console is no terminal."""
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
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            bars.update(task, completed=done, note=note)

        yield advance


class _PlainLines:
    """Progress for logs: a line at each quarter, and one a minute between them."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self.console, self.title, self.total, self.quarter, self.told = console, title, max(total, 1), 0, monotonic()

    def __call__(self, done: int, note: str = "") -> None:
        quarter = 4 * done // self.total
        if quarter > self.quarter or monotonic() - self.told > 60:
            self.quarter, self.told = quarter, monotonic()
            self.console.print(f"{self.title}: {done}/{self.total} {note}".rstrip(), highlight=False)
