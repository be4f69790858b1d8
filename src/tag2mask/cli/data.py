"""The commands on data without a run folder: `check` and `tags`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tag2mask.cli.console import errors, output, print_json
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import finish, one_process, require_run, with_data
from tag2mask.data.validation.check import CheckReport
from tag2mask.runs.corrections import data_of
from tag2mask.runs.run_folder import RunFolder
from tag2mask.workflows.check import (
    Suspicion,
    check_data,
    checked_images,
    require_network,
    suspicious_tags,
)
from tag2mask.workflows.plan import duration, recorded_times
from tag2mask.workflows.suggest_tags import suggest_tags


@one_process
def tags(
    call: Invocation,
    photos: Path,
    *,
    classes: str | None = None,
    table: Path = Path("suggested-tags.csv"),
    threshold: float = 0.5,
) -> int:
    """Suggest tags for images.

    Args:
        photos: the folder with the images
        classes: what they may hold: names with commas, or a file
        table: the table to write
        threshold: from which score on a class is suggested
    """
    if call.dry_run:
        said = f"would write {table} for the images below {photos}"
        output().print(said, highlight=False, markup=False, soft_wrap=True)
        return 0
    return finish(call, [suggest_tags(call.config, photos, classes, table, threshold, errors())])


@one_process
def check(call: Invocation, data: Path, *, with_: Path | None = None) -> int:
    """Check a data set; the exit code is 0 if there is no error.

    Args:
        data: the folder with the images, or a tags table
        with_: list the tags that the trained network of this run doubts, and the time that stages take by its records
    """
    call = with_data(call, data)
    judge = None if with_ is None else _judge(call, RunFolder(with_))
    report = check_data(call.config, data, errors())
    doubts = judge(data) if judge and report.usable else []
    times = _times(call, RunFolder(with_), report) if with_ is not None and report.usable else {}
    if call.as_json:
        listed: dict[str, object] = {"suspicions": [vars(doubt) for doubt in doubts]} if judge else {}
        listed |= {"seconds": times} if times else {}
        print_json(report.to_json() | listed)
    else:
        lines = [report.render(), *(f"  {doubt}" for doubt in doubts)]
        if judge:
            audit = f"{len(doubts)} doubtful tags" if report.usable else "tag audit skipped: fix the errors above first"
            lines.insert(1, audit)
        if times:
            parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in times.items())
            lines.append(f"about {duration(sum(times.values()))} at the pace of that run: {parts}")
        output().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return 0 if report.sound else 1


def _judge(call: Invocation, run: RunFolder) -> Callable[[Path], list[Suspicion]]:
    """Lists the doubtful tags of a data set, by a run and its settings; the run is checked at once.

    Raises:
        UsageError: it is no folder of a run that has been trained.
    """
    require_run(run.path)
    require_network(run)
    own = call.on_top_of(run.path)
    classes = call.config.data.classes or own.data.classes
    decided = call.config.data.corrections or data_of(own, run.path).corrections
    given = replace(call.config, data=replace(call.config.data, classes=classes, corrections=decided))
    return lambda place: suspicious_tags(own, run, checked_images(given, place), errors())


def _times(call: Invocation, run: RunFolder, report: CheckReport) -> dict[str, float]:
    """Seconds that stages would take, by the records of a run."""
    return recorded_times(call.on_top_of(run.path), run, report.images)
