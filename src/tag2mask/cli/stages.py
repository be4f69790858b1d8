"""The commands that do stages of a run folder."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

from rich.console import Console

from tag2mask.cli.console import errors, figures_table, output, print_json, show_published, show_result
from tag2mask.cli.invocation import Invocation
from tag2mask.core.distributed import gathered, is_main, join, process_count, process_number, wait
from tag2mask.core.errors import UsageError
from tag2mask.data.dataset import ImageSet, recognised
from tag2mask.data.validation.image_check import first_look
from tag2mask.evaluation.comparison import Comparison, compare_with_published
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import remember_corrections
from tag2mask.runs.dataset import run_images, share_manifest
from tag2mask.runs.lock import held_along
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import CLASSES, RunFolder
from tag2mask.stages.registry import (
    STAGES,
    Work,
    check_ahead,
    do_together,
    require_classes,
    require_no_shard,
    slow_settings,
    to_delete,
)
from tag2mask.stages.seeds import export_npy
from tag2mask.workflows.plan import plan
from tag2mask.workflows.repeats import refuse_repeats

MOST_OPENED = 8
"""Images that are opened before training, to see what kinds of pixels there are."""


def seeds(
    call: Invocation,
    data: Path | None = None,
    *,
    from_npy: Path | None = None,
    to_npy: Path | None = None,
    restart: str | None = None,
) -> int:
    """Make base CAMs or import them, and export them where asked.

    Args:
        data: the folder with the images, or a tags table; what the run folder remembers if not given
        from_npy: take base CAMs from CLIP-ES's files ID.npy instead of making them
        to_npy: write the base CAMs as CLIP-ES's files as well
        restart: delete what a stage, and all that read it, made; then go on
    """
    call = with_data(call, data)
    if from_npy is not None:
        call = call.with_config(replace(call.config, seeds=replace(call.config.seeds, from_npy=from_npy)))
    then = [] if to_npy is None else [partial(export_npy, folder=to_npy)]
    return do_stages(call, ["seeds"], *then, restart=restart)


def train(call: Invocation, data: Path | None = None, *, restart: str | None = None) -> int:
    """Train the POT network.

    Args:
        data: the folder with the images, or a tags table; what the run folder remembers if not given
        restart: delete what a stage, and all that read it, made; then go on
    """
    return do_stages(with_data(call, data), ["train"], restart=restart)


def _command(*names: str) -> Callable[..., int]:
    def command(call: Invocation, run: Path, *, restart: str | None = None) -> int:
        """Do stages of a run folder.

        Args:
            run: the run folder
            restart: delete what a stage, and all that read it, made; then go on
        """
        if call.command == "report" or not call.given.keys() & {"data.root", "data.tags"}:
            require_run(run)
        return do_stages(call, names, restart=restart)

    return command


cams, edges, refine = _command("cams"), _command("edges"), _command("refine")
segment, confidence, report = _command("segment", "predictions"), _command("confidence"), _command("report")


def require_run(run: Path) -> None:
    """Refuse what is not a run folder.

    Raises:
        UsageError: it has no config.yaml.
    """
    if not (run / "config.yaml").is_file():
        raise UsageError(f"{run} is no run folder: it has no config.yaml")


def with_data(call: Invocation, data: Path | None) -> Invocation:
    """The same with the data that the command names: a folder, or a tags table.

    Raises:
        UsageError: a setting names it too.
    """
    if data is None:
        return call
    is_table = data.is_file() or (data.suffix.lower() == ".csv" and not data.is_dir())
    name = "tags" if is_table else "root"
    if f"data.{name}" in call.given:
        raise UsageError(f"{data} and --data.{name} {call.given[f'data.{name}']} both name the data; give one of them")
    own = call.config.data
    before = own.tags if name == "tags" else own.root
    if before is not None and before.absolute() != data.absolute():  # what the run remembers is of other data
        kept = {each: None for each in ("root", "tags", "masks") if f"data.{each}" not in call.given}
        own = replace(own, **kept)  # type: ignore[arg-type]
    own = replace(own, tags=data) if name == "tags" else replace(own, root=data)
    return call.with_config(replace(call.config, data=own))


def one_process(action: Callable[..., int]) -> Callable[..., int]:
    """Marks a command for one process: of several the main one refuses it, and the others end without a word."""

    @wraps(action)
    def refusing(call: Invocation, *arguments: Any, **options: Any) -> int:
        if process_count() == 1:
            return action(call, *arguments, **options)
        if not is_main():
            return 0
        instead = "; several commands share the images with --shard i/n" if call.command == "predict" else ""
        raise UsageError(f"{call.command} is for one process; torchrun goes with the stages of a run{instead}")

    return refusing


def finish(call: Invocation, results: Iterable[StageResult]) -> int:
    """Tell each result as it comes, at the main process; 1 if anything failed."""
    told, figures = [], {}
    for result in results:
        told.append(result)
        if not is_main():
            continue
        show_result(errors(), result)
        for stage, splits in result.figures.items():
            figures[stage] = splits
    if not is_main() or call.quiet:
        pass
    elif call.as_json:
        answer = {"results": [vars(result) for result in told]}
        print_json(answer, default=Comparison.to_json)
    elif figures:
        output().print(figures_table(figures))
        beside = compare_with_published(figures, recognised(call.config.data)) if call.command == "run" else None
        if beside is not None:
            show_published(output(), figures, beside)
        for comparison in (each for result in told for each in result.comparisons):
            output().print(comparison.render())
    return 1 if any(result.failed for result in told) else 0


def do_stages(call: Invocation, names: Sequence[str], *then: Work, restart: str | None = None) -> int:
    """Do some stages of a run folder, then what else was asked for."""
    run = call.run_folder()
    refuse_repeats(run)
    if call.dry_run:
        if not is_main():
            return 0
        planned = plan(call.config, run, names, restart=_stage_to_restart(call, restart, names))
        if call.as_json:
            print_json(planned.to_json())
        else:
            output().print("\n".join(planned.lines()), highlight=False, markup=False, soft_wrap=True)
        return 0
    with call.lock(alone=restart is not None):
        code = do_under_lock(call, run, names, *then, restart=restart)
    wait()  # one that ends with failures has torchrun end the others: not before all are through
    return code


def do_under_lock(
    call: Invocation, run: RunFolder, names: Sequence[str], *then: Work, restart: str | None = None
) -> int:
    """Do them in a folder to which nobody else writes."""
    require_no_shard(call.config)
    join(call.config.device)
    wait()  # until the main one has the lock, which it asks for first
    # A process may outlive the main one, and would go on writing.
    with nullcontext() if is_main() else held_along(run.path, call.command, process_number()):
        return _do_together(call, run, names, then, restart)


def _do_together(
    call: Invocation, run: RunFolder, names: Sequence[str], then: Sequence[Work], restart: str | None
) -> int:
    """Do them by all processes, which have met."""

    # Another command may have changed what the run remembers, until this one had the lock.
    folder = gathered(call.with_remembered().config.data.corrections)[0]
    data = replace(call.config.data, corrections=folder)
    call = call.with_config(replace(call.config, data=data))
    if is_main():
        _prepare(call, run, names, restart)
    wait()
    share_manifest(call.config, run)
    config, console = call.config, errors() if is_main() else Console(quiet=True)
    stages = [(STAGES[name].name, STAGES[name].do, STAGES[name].distribution) for name in names]
    work = [*stages, *(("then", each, "main") for each in then)]
    return finish(call, (do_together(*each, config, run, console) for each in work))


def _prepare(call: Invocation, run: RunFolder, names: Sequence[str], restart: str | None) -> None:
    """Check everything that can be checked, then delete what is to be made again, and write config.yaml."""
    restart = _stage_to_restart(call, restart, names)
    images = run_images(call.config, run)
    again = to_delete(run, restart, images.classes)
    require_classes(run, images.classes, again)
    for stage in (STAGES[name] for name in dict.fromkeys([*names, *again])):
        run.check(stage, stage.fingerprint(call.config, images), anew=stage.name in again)
    check_ahead(call.config, run, images, names, again)
    for sentence in slow_settings(call.config, names):
        errors().print(f"warning: {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if "train" in names and call.command != "demo":
        _tell_about_data(call.config, images)
    if again:
        run.delete(STAGES[name] for name in again)
        errors().print(f"restart: deleted what {', '.join(again)} made", highlight=False)
    if run.classes() != list(images.classes) or not (run / CLASSES).is_file():
        run.keep_classes(images.classes)
    run.record_config(call.config, _sections(names))
    remember_corrections(call.config, run)


def _tell_about_data(config: Config, images: ImageSet) -> None:
    """How the data was understood, and what `check` would warn of, before hours go into it."""
    some = images.items[:: max(1, len(images) // MOST_OPENED)][:MOST_OPENED]
    pixels = [f"warning: {problem}" for problem in first_look([item.path for item in some], config.data)]
    for sentence in (*images.notes, *pixels):
        style = "yellow" if sentence.startswith("warning") else None
        errors().print(sentence, style=style, highlight=False, markup=False, soft_wrap=True)


def _sections(names: Sequence[str]) -> Sequence[str]:
    """The sections of config.yaml that these stages bring up to date: with training, all but those of other stages."""
    if "train" not in names:
        return [section for name in names for section in STAGES[name].sections]
    others = [stage for name, stage in STAGES.items() if stage.wanted_by and name not in names]
    kept = ["limit", "shard", *(section for stage in others for section in stage.sections)]
    return [field.name for field in fields(Config) if field.name not in kept]


def _stage_to_restart(call: Invocation, stage: str | None, names: Sequence[str]) -> str | None:
    """The stage that ``--restart`` names, if it is about to be made again.

    Raises:
        UsageError: it is no stage, or the command would delete without making again.
    """
    if stage is None or stage in names:
        return stage
    if stage not in STAGES:
        raise UsageError(f"--restart should name one of {', '.join(STAGES)}, received '{stage}'")
    if call.command in ("run", "demo"):
        wanted = STAGES[stage].wanted_by or "other settings"
        raise UsageError(f"--restart {stage}: this run does not read it; it does with {wanted}")
    raise UsageError(
        f"--restart {stage} would delete what {call.command} does not make again; "
        f"use `tag2mask run --out {call.config.out} --restart {stage}`"
    )
