"""The verb `check`: what was found, and, by the records of a run, doubtful tags and how long the work would take."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.cli.console import errors, output, print_json
from tag2mask.cli.request import Request
from tag2mask.errors import UsageError
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from tag2mask.data.check import CheckReport
    from tag2mask.pipeline.check import Suspicion


def check(request: Request) -> int:
    """`check`: is the data sound?

    Returns:
        the exit code: 0 if there is no error.

    Raises:
        UsageError: ``--with`` names no folder of a run that has been trained.
    """
    from tag2mask.pipeline.check import check_data
    from tag2mask.pipeline.plan import duration

    place = Path(request.options["data_folder"])
    judge = _judge(request) if request.options["with"] else None
    report = check_data(request.config, place, errors())
    doubts = judge(place) if judge and report.usable else []
    times = _times(request, report) if report.usable else {}
    if request.options["as_json"]:
        listed: dict[str, object] = {"suspicions": [vars(doubt) for doubt in doubts]} if judge else {}
        listed |= {"seconds": times} if times else {}
        print_json(report.to_json() | listed)
    else:
        lines = [report.render(), *(f"  {doubt}" for doubt in doubts)]
        if judge:
            told = f"{len(doubts)} doubtful tags" if report.usable else "tags were not judged: mend the errors first"
            lines.insert(1, told)
        if times:
            parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in times.items())
            lines.append(f"about {duration(sum(times.values()))} at the pace of that run: {parts}")
        output().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return 0 if report.sound else 1


def _judge(request: Request) -> Callable[[Path], list["Suspicion"]]:
    """What lists the doubtful tags of a place, by the run that ``--with`` names and its settings; checked at once.

    Raises:
        UsageError: it is no folder of a run that has been trained.
    """
    from tag2mask.pipeline.check import checked_photos, require_network, suspicious_tags
    from tag2mask.pipeline.corrections import data_of

    run = RunFolder(Path(request.options["with"]))
    if not (run / "config.yaml").is_file():
        raise UsageError(f"{run.path} is no run folder: it has no config.yaml")
    require_network(run)
    own = _settings_of(request, run)
    classes = request.config.data.classes or own.data.classes
    decided = request.config.data.corrections or data_of(own, run.path).corrections
    given = replace(request.config, data=replace(request.config.data, classes=classes, corrections=decided))
    return lambda place: suspicious_tags(own, run, checked_photos(given, place), errors())


def _settings_of(request: Request, run: RunFolder) -> Config:
    """The settings of a run, overridden by those that `check` was given."""
    return (request.again(["--config", str(run / "config.yaml")]) or request).config


def _times(request: Request, report: "CheckReport") -> dict[str, float]:
    """Seconds that stages would take, by the records of the run that ``--with`` names; empty without such."""
    from tag2mask.pipeline.plan import recorded_times

    if not request.options["with"]:
        return {}
    run = RunFolder(Path(request.options["with"]))
    return recorded_times(_settings_of(request, run), run, report.images)
