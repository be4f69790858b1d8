"""The commands that run stages of a run folder, and `evaluate` of any folder."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial, wraps
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from tag2mask.cams.kinds import command_of
from tag2mask.cli.console import (
    Metrics,
    classes_table,
    comparison_table,
    errors,
    figures_table,
    output,
    print_json,
    say,
    show_published,
    show_result,
)
from tag2mask.cli.invocation import Invocation
from tag2mask.core.distributed import is_main, join, process_count, process_number, wait
from tag2mask.core.errors import UsageError
from tag2mask.core.profile import read_profile, start_profile
from tag2mask.data.classes import CLASS_IDS
from tag2mask.data.dataset import ImageSet, detect_layout
from tag2mask.data.validation.image_check import sample_warnings
from tag2mask.evaluation.comparison import Comparison, compare_with_published
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import run_images, share_manifest
from tag2mask.runs.lock import process_lock
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.evaluate import compare_runs
from tag2mask.stages.registry import (
    STAGES,
    Work,
    check_stages,
    require_classes,
    require_no_shard,
    run_distributed,
    slow_settings,
    to_delete,
)
from tag2mask.stages.seeds import export_npy
from tag2mask.workflows.evaluate_folder import evaluate_folder
from tag2mask.workflows.outputs import output_paths, summary
from tag2mask.workflows.overlays import OVERLAYS
from tag2mask.workflows.plan import plan
from tag2mask.workflows.repeats import refuse_repeats

AFTER_WORDS = ("refine", "confidence", "evaluate", "report")
"""The stages of `masks`, after its model was asked."""

MOST_OPENED = 8
"""Images that are opened before training, to check their kinds of pixels."""


def seeds(
    call: Invocation,
    data: Path | None = None,
    *,
    from_npy: Path | None = None,
    to_npy: Path | None = None,
    restart: str | None = None,
) -> int:
    """Make or import base CAMs; with ``--to-npy`` also export them.

    Args:
        data: the folder with the images, or a tags table; default: that of the run folder
        from_npy: import base CAMs from CLIP-ES's files ID.npy instead of making them
        to_npy: also write the base CAMs as CLIP-ES's files
        restart: delete the outputs of a stage and of all stages that read it, then continue
    """
    call = with_data(call, data)
    if from_npy is not None:
        call = call.with_config(replace(call.config, seeds=replace(call.config.seeds, from_npy=from_npy)))
    then = [] if to_npy is None else [partial(export_npy, folder=to_npy)]
    return run_stages(call, ["seeds"], *then, restart=restart)


def train(call: Invocation, data: Path | None = None, *, restart: str | None = None) -> int:
    """Train the POT network.

    Args:
        data: the folder with the images, or a tags table; default: that of the run folder
        restart: delete the outputs of a stage and of all stages that read it, then continue
    """
    return run_stages(with_data(call, data), ["train"], restart=restart)


def _command(*names: str) -> Callable[..., int]:
    def command(call: Invocation, run: Path, *, restart: str | None = None) -> int:
        """Run stages of a run folder.

        Args:
            run: the run folder
            restart: delete the outputs of a stage and of all stages that read it, then continue
        """
        if call.command == "report" or not call.given.keys() & {"data.root", "data.tags"}:
            require_run(run)
        return run_stages(call, names, restart=restart)

    return command


cams, edges, refine = _command("cams"), _command("edges"), _command("refine")
segment, confidence, report = _command("segment", "predictions"), _command("confidence"), _command("report")


def evaluate(call: Invocation, run: Path, *, compare: Path | None = None, restart: str | None = None) -> int:
    """Measure against ground truth.

    Args:
        run: the run folder, or any folder of masks (.png) or CAM files (.npz)
        compare: compare the segmentation network with that of this run, class by class
        restart: delete the figures and measure again
    """
    if not (run / "config.yaml").is_file():
        if compare is not None or restart is not None:
            option = "--restart" if compare is None else "--compare"
            raise UsageError(f"{option} needs a run, and {_no_run(run)}")
        return _evaluate_folder(call, run)
    if compare is None:
        return run_stages(call, ["evaluate"], restart=restart)
    require_run(compare)
    other = RunFolder(compare).metrics()  # fails before anything is measured
    return run_stages(call, ["evaluate"], partial(compare_runs, other=other), restart=restart)


def require_run(run: Path) -> None:
    """Refuse a folder that is not a run folder.

    Raises:
        UsageError: it has no config.yaml.
    """
    if not (run / "config.yaml").is_file():
        raise UsageError(_no_run(run))


def _no_run(folder: Path) -> str:
    return f"{folder} is not a run folder: it has no config.yaml; name the folder that `tag2mask run` got as --out"


def with_data(call: Invocation, data: Path | None) -> Invocation:
    """The invocation with the data that the command names: a folder, or a tags table.

    Raises:
        UsageError: a setting names the data too.
    """
    if data is None:
        return call
    is_table = data.is_file() or (data.suffix.lower() == ".csv" and not data.is_dir())
    name = "tags" if is_table else "root"
    if f"data.{name}" in call.given:
        raise UsageError(f"{data} and --data.{name} {call.given[f'data.{name}']} both name the data; give one of them")
    own = call.config.data
    before = own.tags if name == "tags" else own.root
    if before is not None and before.absolute() != data.absolute():  # the recorded paths are of other data
        kept = {each: None for each in ("root", "tags", "masks") if f"data.{each}" not in call.given}
        own = replace(own, **kept)  # type: ignore[arg-type]
    own = replace(own, tags=data) if name == "tags" else replace(own, root=data)
    return call.with_config(replace(call.config, data=own))


def one_process(action: Callable[..., int]) -> Callable[..., int]:
    """Decorator of a command for one process: of several, the main one reports an error, the others exit silently."""

    @wraps(action)
    def refusing(call: Invocation, *arguments: Any, **options: Any) -> int:
        if process_count() == 1:
            return action(call, *arguments, **options)
        if not is_main():
            return 0
        instead = "; several commands share the images with --shard i/n" if call.command == "predict" else ""
        raise UsageError(f"{call.command} is for one process; torchrun goes with the stages of a run{instead}")

    return refusing


@one_process
def _evaluate_folder(call: Invocation, folder: Path) -> int:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a run folder, and not a folder of masks (.png) or CAMs (.npz); name one of them"
        )
    figures = evaluate_folder(call.config, folder, call.console)
    if call.as_json:
        print_json(figures.to_json())
    else:
        output().print(classes_table(figures, str(folder)))
    return 0


def finish(call: Invocation, results: Iterable[StageResult]) -> int:
    """Print each result when it arrives, in the main process; the exit code is 1 if anything failed."""
    figures = {}
    for result in _profiled(call, results) if call.profile else results:
        call.results.append(result)
        show_result(call.console, result, errors(quiet=not is_main()))
        for stage, splits in result.figures.items():
            figures[stage] = splits
    if is_main() and call.shows_result:
        _show_all(call, figures)
    return 1 if any(result.failed for result in call.results) else 0


def _profiled(call: Invocation, results: Iterable[StageResult]) -> Iterator[StageResult]:
    """Each result, with a note about where its time went."""
    arriving = iter(results)
    while True:
        start_profile()
        began = perf_counter()
        result = next(arriving, None)
        if result is None:
            return
        whole, parts = perf_counter() - began, read_profile()
        reading = parts.pop("reading")
        shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
        other = whole - sum(parts.values())
        result.notes.append(f"{whole:.1f} s: {shown}, other {other:.1f}; reading {reading:.1f} in threads")
        yield result


def _show_all(call: Invocation, figures: Metrics) -> None:
    """Print the figures, the outputs and the next steps."""
    out = call.config.out
    paths = {} if out is None else output_paths(out)
    if call.command != "predict" and all(result.stage != OVERLAYS for result in call.results):
        paths.pop(OVERLAYS, None)  # they may be of earlier masks
    if call.as_json:
        shown = {name.replace(" ", "_"): str(path) for name, path in paths.items()}
        answer = {"results": [vars(result) for result in call.results], "paths": shown}
        print_json(answer, default=Comparison.to_json)
        return
    if figures:
        output().print(figures_table(figures))
        published = compare_with_published(figures, detect_layout(call.config.data)) if call.command == "run" else None
        if published is not None:
            show_published(output(), figures, published)
        for comparison in (each for result in call.results for each in result.comparisons):
            output().print(comparison_table(comparison))
    if call.command in ("run", "demo", "masks", "predict") and out is not None:
        say(output(), "\n".join(summary(out, paths)))


def run_stages(call: Invocation, names: Sequence[str], *then: Work, restart: str | None = None) -> int:
    """Run stages of a run folder, then additional work of the main process; return the exit code."""
    run = call.run_folder()
    refuse_repeats(run)
    if call.dry_run:
        if not is_main():
            return 0
        planned = plan(call.config, run, names, restart=stage_to_restart(call, restart, names))
        if call.as_json:
            print_json(planned.to_json())
        else:
            say(output(), "\n".join(planned.lines()))
        return 0
    with call.lock(alone=restart is not None):
        code = run_stages_locked(call, run, names, *then, restart=restart)
    wait()  # torchrun ends all processes when one exits with an error, so all finish first
    return code


def run_stages_locked(
    call: Invocation, run: RunFolder, names: Sequence[str], *then: Work, restart: str | None = None
) -> int:
    """Run stages in a folder that this command has locked."""
    require_no_shard(call.config)
    join(call.config.device)
    wait()  # until the main process has the lock
    # A process may outlive the main one and continue to write.
    with nullcontext() if is_main() else process_lock(run.path, call.command, process_number()):
        return _run_in_every_process(call, run, names, then, restart)


def _run_in_every_process(
    call: Invocation, run: RunFolder, names: Sequence[str], then: Sequence[Work], restart: str | None
) -> int:
    if is_main():
        _prepare(call, run, names, restart)
    wait()
    share_manifest(call.config, run)
    config, console = call.config, call.console
    stages = [(STAGES[name].name, STAGES[name].do, STAGES[name].distribution) for name in names]
    work = [*stages, *(("then", each, "main") for each in then)]
    return finish(call, (run_distributed(*each, config, run, console) for each in work))


def _prepare(call: Invocation, run: RunFolder, names: Sequence[str], restart: str | None) -> None:
    """Check everything that can be checked, then delete the outputs to restart, and write config.yaml."""
    restart = stage_to_restart(call, restart, names)
    images = run_images(call.config, run)
    again = to_delete(run, restart, images.classes)
    require_classes(run, images.classes, again)
    for stage in (STAGES[name] for name in dict.fromkeys([*names, *again])):
        run.check(stage, stage.fingerprint(call.config, images), restart=stage.name in again)
    check_stages(call.config, run, images, names, again)
    for sentence in slow_settings(call.config, names):
        say(call.console, f"warning: {sentence}", style="yellow")
    if "train" in names and call.command != "demo":
        _describe_data(call.console, call.config, images)
    if again:
        run.delete(STAGES[name] for name in again)
        say(call.console, f"restart: deleted the outputs of {', '.join(again)}")
    if run.classes() != list(images.classes) or not (run / CLASS_IDS).is_file():
        run.write_classes(images.classes)
    run.record_config(call.config, _sections(names))


def _describe_data(console: Console, config: Config, images: ImageSet) -> None:
    """Print how the data was interpreted, and the warnings of `check` about pixels, before a long training."""
    some = images.items[:: max(1, len(images) // MOST_OPENED)][:MOST_OPENED]
    pixels = [f"warning: {problem}" for problem in sample_warnings([item.path for item in some], config.data)]
    for sentence in (*images.notes, *pixels):
        say(console, sentence, style="yellow" if sentence.startswith("warning") else None)


def _sections(names: Sequence[str]) -> Sequence[str]:
    """The sections and settings of config.yaml that these stages update; `train`: all but those of optional stages."""
    if "train" not in names:
        return [section for name in names for section in STAGES[name].sections]
    others = [stage for name, stage in STAGES.items() if stage.enabled_by and name not in names]
    kept = ["limit", "shard", *(section for stage in others for section in stage.sections)]
    return [field.name for field in fields(Config) if field.name not in kept]


def stage_to_restart(call: Invocation, stage: str | None, names: Sequence[str]) -> str | None:
    """The stage that ``--restart`` names.

    Raises:
        UsageError: it is not a stage, or this command does not run it.
    """
    if stage is None or stage in names:
        return stage
    known = names if call.command == "masks" else STAGES
    if stage not in known:
        raise UsageError(f"--restart should name one of {', '.join(known)}, received '{stage}'")
    if call.command in ("run", "demo"):
        wanted = STAGES[stage].enabled_by or "other settings"
        raise UsageError(f"--restart {stage}: this run does not read it; it does with {wanted}")
    run = call.run_folder().path
    again = command_of(run) if stage in ("cams", *AFTER_WORDS) else f"tag2mask {stage} {shlex.quote(str(run))}"
    raise UsageError(
        f"--restart {stage} would delete what {call.command} does not make again; use `{again} --restart {stage}`"
    )
