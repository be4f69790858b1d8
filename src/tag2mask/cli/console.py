"""Where words go: results to standard output, everything else to standard error."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tag2mask.core.errors import printable
from tag2mask.evaluation.comparison import PublishedComparison
from tag2mask.runs.progress import StageResult


class Terminal(Console):
    """A console on which names stay text: they command no terminal, and are no markup."""

    def __init__(self, *, stderr: bool = False) -> None:
        """Write to standard output, or to standard error."""
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text comes by here, the cells of tables too."""
        return super().render_str(printable(text), **options)


def output() -> Console:
    """Standard output as it is now."""
    return Terminal()


def errors() -> Console:
    """Standard error as it is now."""
    return Terminal(stderr=True)


def print_json(value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Write a value as JSON to standard output; what is not printable stands in it as JSON's own escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=default)
    if not text.isprintable():
        text = "".join(s if s.isprintable() or s == "\n" else json.dumps(s)[1:-1] for s in text)
    print(text)


def show_result(console: Console, result: StageResult) -> None:
    """Tell what a stage did, what failed and what is worth noting."""
    console.print(result.sentence(), highlight=False, markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
    for reason in list(result.failed.values())[:5]:
        console.print(f"  failed: {reason}", style="red", highlight=False, markup=False, soft_wrap=True)
    if len(result.failed) > 5:
        console.print(f"  and {len(result.failed) - 5} more, all in --json", style="red", highlight=False)


NAMES = {"classifier": "classifier CAM", "prototype": "single prototype", "pot": "POT", "fused": "fused CAM"}
"""What kinds of CAMs are called in tables."""


Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""{stage: {split: {kind: {figure: value}}}}, as metrics.json has them."""


def figures_table(figures: Figures) -> Table:
    """One line a kind of CAM or mask: split, mIoU, pixel accuracy; in per cent."""
    table = Table(title="against the ground truth, in %", title_justify="left")
    _columns(table, "mIoU", "pixels right", "threshold", "photos")
    for stage, split, kind, values in _rows(figures):
        table.add_row(split, _what(stage, kind), *_cells(values))
    return table


def show_published(console: Console, figures: Figures, beside: PublishedComparison) -> None:
    """The figures of a run beside published ones, where they can be compared, and whose those are."""
    table = Table(title="mIoU beside published figures, in %", title_justify="left")
    _columns(table, "this run", "published")
    for stage, split, kind, values in _rows(figures):
        published = beside.figures.get((stage, split, kind))
        if published is not None:
            table.add_row(split, _what(stage, kind), _cells(values)[0], str(published))
    if table.row_count:
        console.print(table)
    console.print(beside.note, highlight=False, markup=False, soft_wrap=True)


def spread_table(figures: Figures, seeds: Sequence[int]) -> Table:
    """One line a kind: mean ± standard deviation over runs with several seeds."""
    title = f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}, in %"
    table = Table(title=title, title_justify="left")
    _columns(table, "mIoU", "pixels right")
    for stage, split, kind, values in _rows(figures):
        table.add_row(split, _what(stage, kind), *(_spread(values.get(name)) for name in ("miou", "pixel_accuracy")))
    return table


def _columns(table: Table, *numbers: str) -> None:
    for name in ("split", "what"):
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)


def _rows(figures: Figures) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Every stage, split and kind with what was measured of it."""
    for stage, splits in figures.items():
        for split, kinds in splits.items():
            for kind, values in kinds.items():
                yield stage, split, kind, values


def _what(stage: str, kind: str) -> str:
    """What was measured, in words."""
    return {"cams": NAMES.get(kind, kind), "seeds": f"base CAM, {kind}"}.get(stage, f"masks by {kind}")


def _cells(known: Mapping[str, Any]) -> list[str]:
    """The cells of one kind's figures."""
    threshold = known.get("threshold")
    shares = [f"{100 * known[name]:.1f}" if known.get(name) is not None else "–" for name in ("miou", "pixel_accuracy")]
    return [*shares, "–" if threshold is None else f"{threshold:.2f}, best", str(known.get("images", "–"))]


def _spread(known: Mapping[str, Any] | None) -> str:
    """Mean ± standard deviation in per cent, as far as they are known."""
    if known is None or known["mean"] is None:
        return "–"
    deviation = "" if known["deviation"] is None else f" ± {100 * known['deviation']:.1f}"
    return f"{100 * known['mean']:.1f}{deviation}"
