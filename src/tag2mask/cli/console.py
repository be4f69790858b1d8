"""Console output: results go to standard output, everything else to standard error."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tag2mask.cams.kinds import KINDS
from tag2mask.core.errors import printable
from tag2mask.evaluation.comparison import Comparison, PublishedComparison, ratio
from tag2mask.evaluation.figures import Figures, absence, other_means
from tag2mask.runs.progress import StageResult
from tag2mask.workflows.compare import ImageAgreement, MaskComparison

Metrics = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""{stage: {split: {kind: {figure: value}}}}, as in metrics.json."""


class Terminal(Console):
    """A console that prints names as text: markup and control characters in them have no effect."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        """Write to standard output, to standard error, or not at all."""
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape control characters; rich passes every text through here, including the cells of tables."""
        return super().render_str(printable(text), **options)


def output() -> Console:
    """The current standard output."""
    return Terminal()


def errors(*, quiet: bool = False) -> Console:
    """The current standard error; ``quiet``: nothing is shown."""
    return Terminal(stderr=True, quiet=quiet)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text without breaking its lines."""
    console.print(text, style=style, soft_wrap=True)


def print_json(value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Print a value as JSON to standard output; characters that cannot be printed become JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=default)
    if not text.isprintable():
        text = "".join(s if s.isprintable() or s == "\n" else json.dumps(s)[1:-1] for s in text)
    print(text)


def show_result(console: Console, result: StageResult, failures: Console) -> None:
    """Print the counts of a stage and its notes to a console, and the first five failures to another."""
    say(console, result.sentence())
    for note in result.notes:
        say(console, f"  {note}")
    for reason in list(result.failed.values())[:5]:
        say(failures, f"  failed: {reason}", style="red")
    if len(result.failed) > 5:
        say(failures, f"  and {len(result.failed) - 5} more, all in --json", style="red")


def figures_table(metrics: Metrics) -> Table:
    """One row per kind of CAM or mask: split, mIoU, pixel accuracy; in per cent."""
    table = _kinds_table("against the ground truth, in %", "mIoU", "pixels right", "threshold", "images")
    notes = []
    for stage, split, kind, values in _rows(metrics):
        table.add_row(split, _kind_name(stage, kind), *_cells(values))
        notes += [f"{split}, {_kind_name(stage, kind)}: {note}"] if (note := other_means(values)) else []
    table.caption = "\n".join(notes)
    return table


def show_published(console: Console, metrics: Metrics, comparison: PublishedComparison) -> None:
    """Print the figures of a run next to the published ones that are comparable, and their sources."""
    table = _kinds_table("mIoU next to published figures, in %", "this run", "published")
    for stage, split, kind, values in _rows(metrics):
        published = comparison.figures.get((stage, split, kind))
        if published is not None:
            table.add_row(split, _kind_name(stage, kind), _cells(values)[0], str(published))
    if table.row_count:
        console.print(table)
    say(console, comparison.note)


def spread_table(metrics: Metrics, seeds: Sequence[int]) -> Table:
    """One row per kind: mean ± standard deviation over runs with several seeds."""
    title = f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}, in %"
    table = _kinds_table(title, "mIoU", "pixels right")
    for stage, split, kind, values in _rows(metrics):
        spreads = (_spread(values.get(name)) for name in ("miou", "pixel_accuracy"))
        table.add_row(split, _kind_name(stage, kind), *spreads)
    return table


def classes_table(figures: Figures, title: str | None = None) -> Table:
    """One row per class, the means last; in per cent."""
    caption = [f"per cent; images: {figures.images}"]
    if figures.threshold is not None:
        caption.append(f"background up to {figures.threshold:g}")
    if figures.chosen is not None:
        caption.append(f"mean over {len(figures.chosen)} of {len(figures.iou)} classes")
    caption += [note] if (note := other_means(figures.to_json())) else []
    table = _class_table(title, "; ".join(caption), "IoU", "over", "under")
    for name, value in figures.iou.items():
        left_out = figures.chosen is not None and name not in figures.chosen
        row = (value, figures.over_activation[name], figures.under_activation[name])
        shown = f"{name} ({absence(figures.absent[name])})" if name in figures.absent else name
        table.add_row(shown, *map(_per_cent, row), style="dim" if left_out else None)
    table.add_section()
    table.add_row("mean IoU", _per_cent(figures.miou), "", "", style="bold")
    table.add_row("pixel accuracy", _per_cent(figures.pixel_accuracy), "", "")
    return table


def comparison_table(comparison: Comparison) -> Table:
    """One row per class, the mean last; IoU in per cent."""
    own, other, masks = comparison.own, comparison.other, comparison.masks
    headings = (*(f"masks ({method})" for method in masks), "this run", "other", "this / other")
    title = f"segmentation networks on {comparison.split}"
    table = _class_table(title, f"IoU in per cent; images: {own['images']}", *headings)
    for name, value in own["iou"].items():
        tagged = max(figures.get("absent", {}).get(name, 0) for figures in (own, other))
        compared = (value, other["iou"][name], ratio(value, other["iou"][name]))
        cells = map(_per_cent, (*(figures["iou"].get(name) for figures in masks.values()), *compared))
        style = "dim" if own["chosen"] is not None and name not in own["chosen"] else None
        table.add_row(f"{name} ({absence(tagged)})" if tagged else name, *cells, style=style)
    table.add_section()
    means = (*(figures["miou"] for figures in masks.values()), own["miou"], other["miou"], comparison.share)
    table.add_row("mean IoU", *map(_per_cent, means), style="bold")
    return table


def agreement_table(compared: MaskComparison) -> Table:
    """One row per class, the means last: agreement of two ways, and each with the ground truth; in per cent."""
    truth, counts = compared.truth, compared.counts
    caption = f"per cent; images: {len(compared.images)}; A: {compared.a}; B: {compared.b}"
    caption += "" if truth is None else f"; images with ground truth: {truth.a.images}"
    headings = ("IoU", "only A", "only B", *(() if truth is None else ("A, truth", "B, truth")))
    table = _class_table("agreement of A with B", caption, *headings)
    columns = [counts.iou().tolist(), counts.over_activation().tolist(), counts.under_activation().tolist()]
    means: tuple[float, ...] = (counts.miou(rule="present"), math.nan, math.nan)
    if truth is not None:
        columns += [[*truth.a.iou.values()], [*truth.b.iou.values()]]
        means = (*means, truth.a.miou, truth.b.miou)
    for name, *values in zip(compared.names, *columns, strict=True):
        table.add_row(name, *map(_per_cent, values))
    table.add_section()
    table.add_row("mean IoU", *map(_per_cent, means), style="bold")
    table.add_row("pixels that differ", _per_cent(compared.differing))
    return table


def differences_table(images: Sequence[ImageAgreement]) -> Table:
    """The ten images that agree least; in per cent."""
    table = Table(title="images that differ most, in %", title_justify="left")
    for name in ("image", "agreement", "class that differs most", "its IoU"):
        table.add_column(name, justify="left" if name.startswith(("image", "class")) else "right")
    for each in images[:10]:
        table.add_row(each.image, _per_cent(each.agreement), each.class_name, _per_cent(each.class_iou))
    return table


def _class_table(title: str | None, caption: str, *numbers: str) -> Table:
    table = Table(title=title, caption=caption, caption_justify="left")
    table.add_column("class")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _kinds_table(title: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in ("split", "what"):
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rows(metrics: Metrics) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    for stage, splits in metrics.items():
        for split, kinds in splits.items():
            for kind, values in kinds.items():
                yield stage, split, kind, values


def _kind_name(stage: str, kind: str) -> str:
    """What was measured, in words."""
    title = KINDS[kind].title if kind in KINDS else kind
    return {"cams": title, "seeds": f"base CAM, {kind}"}.get(stage, f"masks by {kind}")


def _cells(values: Mapping[str, Any]) -> list[str]:
    threshold = values.get("threshold")
    shares = [_per_cent(values.get(name)) for name in ("miou", "pixel_accuracy")]
    return [*shares, "–" if threshold is None else f"{threshold:.2f}, best", str(values.get("images", "–"))]


def _spread(values: Mapping[str, Any] | None) -> str:
    if values is None or values["mean"] is None:
        return "–"
    deviation = "" if values["deviation"] is None else f" ± {100 * values['deviation']:.1f}"
    return f"{100 * values['mean']:.1f}{deviation}"


def _per_cent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"
