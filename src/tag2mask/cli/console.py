"""Where words go: results to standard output, everything else to standard error."""

from rich.console import Console
from rich.table import Table

from tag2mask.pipeline.progress import StageResult


def output() -> Console:
    """Standard output as it is now."""
    return Console()


def errors() -> Console:
    """Standard error as it is now."""
    return Console(stderr=True)


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


def figures_table(figures: dict[str, dict[str, dict[str, object]]]) -> Table:
    """One line a kind of CAM or mask: split, mIoU, pixel accuracy; in per cent."""
    table = Table(title="against the ground truth, in %", title_justify="left")
    for name in ("split", "what"):
        table.add_column(name, no_wrap=True)
    for name in ("mIoU", "pixels right", "threshold", "photos"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage, splits in figures.items():
        for split, kinds in splits.items():
            for kind, values in kinds.items():
                others = {"cams": NAMES.get(kind, kind), "seeds": f"base CAM, {kind}"}
                what = others.get(stage, f"masks by {kind}")
                table.add_row(split, what, *_row(values))
    return table


def _row(values: object) -> list[str]:
    """The cells of one kind's figures."""
    known = values if isinstance(values, dict) else {}
    threshold = known.get("threshold")
    shares = [f"{100 * known[name]:.1f}" if known.get(name) is not None else "–" for name in ("miou", "pixel_accuracy")]
    return [*shares, "–" if threshold is None else f"{threshold:.2f}, best", str(known.get("images", "–"))]
