"""The stages of a run in order, and functions over all of them."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from tag2mask.cams.kinds import command_of
from tag2mask.core.device import emulates_bf16, resolve_device
from tag2mask.core.distributed import gathered, is_main, process_count, process_number
from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.data.dataset import ImageSet
from tag2mask.runs.config import Config
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.base import Distribution, Schedule, Stage
from tag2mask.stages.cams import Cams
from tag2mask.stages.confidence import Confidence
from tag2mask.stages.edges import Edges
from tag2mask.stages.evaluate import Evaluate
from tag2mask.stages.predictions import Predictions
from tag2mask.stages.refine import Refine
from tag2mask.stages.report import Report
from tag2mask.stages.seeds import Seeds
from tag2mask.stages.segment import Segment
from tag2mask.stages.train import Train

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Seeds(),
        Train(),
        Cams(),
        Edges(),
        Refine(),
        Segment(),
        Predictions(),
        Confidence(),
        Evaluate(),
        Report(),
    )
}
"""The stages by name, in the order of `run`. A new stage is a file of its own, and a line here."""


def stages_of(config: Config) -> list[str]:
    """The names of the stages that `run` does with these settings."""
    return [name for name, stage in STAGES.items() if stage.is_wanted(config)]


def check_stages(
    config: Config, run: RunFolder, images: ImageSet, names: Sequence[str], again: Collection[str]
) -> None:
    """Find what would stop a stage before the first one starts, and before anything is deleted.

    Args:
        names: of the stages that are about to be done.
        again: of the stages whose outputs are about to be deleted.

    Raises:
        UsageError: settings of a stage, or weights of a network to train, are wrong.
        Tag2maskError: weights could not be fetched.
    """
    schedule = Schedule(names, again)
    for name in names:
        STAGES[name].check(config, run, images, schedule)


def slow_settings(config: Config, names: Sequence[str]) -> list[str]:
    """Warnings about settings that make these stages slow on this machine without a gain."""
    asked = [STAGES[name].section or name for name in names if STAGES[name].precision(config) == "bf16"]
    if not asked or not emulates_bf16(resolve_device(config.device)):
        return []
    settings = ", ".join(f"--{name}.precision" for name in asked)
    return [f"this processor has no instructions for bf16 and takes many times as long; use fp32 for {settings}"]


def with_dependents(run: RunFolder, name: str) -> list[str]:
    """A stage and all stages that read its outputs, directly or not, in order; optional inputs count if recorded."""
    found = [name]
    for stage in STAGES.values():
        recorded: Sequence[str] = ()
        if stage.optional_inputs:
            with suppress(Tag2maskError):  # a stage with a damaged record can be made again
                recorded = run.inputs(stage.name)
        if any(read in found for read in (*stage.reads, *recorded)):
            found.append(stage.name)
    return found


def started_stages(run: RunFolder) -> list[str]:
    """The stages that have a record here, in order."""
    return [name for name, stage in STAGES.items() if not stage.always_rerun and run.has_record(name)]


def to_delete(run: RunFolder, restart: str | None, classes: Sequence[str]) -> list[str]:
    """The stages that a restart deletes: the stage and its dependents, or all if the first one gets other classes."""
    if restart is None:
        return []
    if run.classes() not in (None, list(classes)) and restart == next(iter(started_stages(run)), None):
        return list(STAGES)
    return with_dependents(run, restart)


def require_classes(run: RunFolder, classes: Sequence[str], again: Collection[str] = ()) -> None:
    """Check that a run has the class list of the data: ids of masks, CAMs and networks are positions in it.

    Args:
        classes: the names of the classes 1..C of the data.
        again: stages whose outputs are about to be deleted; any list is right if these are all that started.

    Raises:
        UsageError: the run has another list, or the same one in another order.
    """
    before = run.classes()
    if before is None or list(classes) == before or set(started_stages(run)) <= set(again):
        return
    new = [name for name in classes if name not in before]
    gone = [name for name in before if name not in classes]
    what = [f"new: {first_five(new)}"] if new else []
    what += [f"gone: {first_five(gone)}"] if gone else []
    first = next(iter(started_stages(run)), "train")
    raise UsageError(
        f"{run.path} started with the classes {first_five(before)}, and the data now has {first_five(classes)} "
        f"({'; '.join(what) or 'the same in another order'}): the ids of its masks and networks would mean other "
        f"classes. Keep the list with --data.classes, or start again: `{command_of(run.path)} --restart {first}`, "
        "or another --out"
    )


Work = Callable[[Config, RunFolder, Console], StageResult]
"""Work in a run folder: that of a stage, or other work."""


def require_no_shard(config: Config) -> None:
    """Refuse ``--shard`` in a process group, which shares the work by itself, with a `UsageError`."""
    if config.shard is not None and process_count() > 1:
        raise UsageError(
            "--shard is for commands that know nothing of each other; the processes of torchrun share the work out by "
            "themselves: leave it out"
        )


def run_distributed(
    name: str, work: Work, distribution: Distribution, config: Config, run: RunFolder, console: Console
) -> StageResult:
    """Do some work in all processes; return the merged result in each of them when all are done."""
    if process_count() == 1:
        return work(config, run, console)
    if distribution == "main":
        return _merged(name, gathered(work(config, run, console) if is_main() else StageResult(name)))
    parts = []
    if "shard" in distribution:
        shard = f"{process_number() + 1}/{process_count()}"
        parts.append(_merged(name, gathered(work(replace(config, shard=shard), run, console))))
    if "join" in distribution:
        parts.append(gathered(work(config, run, console))[0])  # all results are the same
    return _merged(name, parts)


def _merged(name: str, results: list[StageResult]) -> StageResult:
    whole = StageResult(name)
    for result in results:
        whole.done += result.done
        whole.skipped += result.skipped
        whole.failed |= result.failed
        whole.figures |= result.figures
        whole.comparisons += result.comparisons
        whole.notes += [note for note in result.notes if note not in whole.notes]
    return whole
