"""Stages of a run folder from the command line: checked, locked, done one after another, and told."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from rich.console import Console

from tag2mask.cli.console import errors, figures_table, output, print_json, show_published, show_result
from tag2mask.cli.request import Request
from tag2mask.errors import UsageError
from tag2mask.evaluate.comparison import Comparison
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.run_folder import CLASSES, RunFolder

if TYPE_CHECKING:
    from tag2mask.data.photos import PhotoSet
    from tag2mask.pipeline.stages import Work


def finish(request: Request, results: Iterable[StageResult]) -> int:
    """Tell each result as it comes, at the main process; 1 if anything failed."""
    from tag2mask.data.photos import recognised
    from tag2mask.distributed import is_main
    from tag2mask.evaluate.comparison import published_beside

    told, figures = [], {}
    for result in results:
        told.append(result)
        if not is_main():
            continue
        show_result(errors(), result)
        for stage, splits in result.figures.items():
            figures[stage] = splits
    if not is_main() or request.options.get("quiet"):
        pass
    elif request.options["as_json"]:
        answer = {"results": [vars(result) for result in told]}
        print_json(answer, default=Comparison.to_json)
    elif figures:
        output().print(figures_table(figures))
        beside = published_beside(figures, recognised(request.config.data)) if request.verb == "run" else None
        if beside is not None:
            show_published(output(), figures, beside)
        for comparison in (each for result in told for each in result.comparisons):
            output().print(comparison.render())
    return 1 if any(result.failed for result in told) else 0


def do_stages(request: Request, names: Sequence[str], *then: "Work") -> int:
    """Do some stages of a run folder, then what else was asked for."""
    from tag2mask.distributed import is_main, wait
    from tag2mask.pipeline.plan import plan
    from tag2mask.pipeline.repeats import refuse_repeats

    run = request.run_folder()
    refuse_repeats(run)
    if request.options["dry_run"]:
        if not is_main():
            return 0
        planned = plan(request.config, run, names, restart=_stage_to_restart(request, names))
        if request.options["as_json"]:
            print_json(planned.to_json())
        else:
            output().print("\n".join(planned.lines()), highlight=False, markup=False, soft_wrap=True)
        return 0
    with request.lock():
        code = do_under_lock(request, run, names, *then)
    wait()  # one that ends with failures has torchrun end the others: not before all are through
    return code


def do_under_lock(request: Request, run: RunFolder, names: Sequence[str], *then: "Work") -> int:
    """Do them in a folder to which nobody else writes."""
    from tag2mask.distributed import is_main, join, process_number, wait
    from tag2mask.pipeline.lock import held_along
    from tag2mask.pipeline.stages import require_no_shard

    require_no_shard(request.config)
    join(request.config.device)
    wait()  # until the main one has the lock, which it asks for first
    # A process may outlive the main one, and would go on writing.
    with nullcontext() if is_main() else held_along(run.path, request.verb, process_number()):
        return _do_together(request, run, names, *then)


def _do_together(request: Request, run: RunFolder, names: Sequence[str], *then: "Work") -> int:
    """Do them by all processes, which have met."""
    from tag2mask.distributed import gathered, is_main, wait
    from tag2mask.pipeline.reading import share_manifest
    from tag2mask.pipeline.stages import STAGES, do_together

    # Another command may have changed what the run remembers, until this one had the lock.
    folder = gathered(request.with_remembered().config.data.corrections)[0]
    data = replace(request.config.data, corrections=folder)
    request = replace(request, config=replace(request.config, data=data))
    if is_main():
        _prepare(request, run, names)
    wait()
    share_manifest(request.config, run)
    config, console = request.config, errors() if is_main() else Console(quiet=True)
    stages = [(STAGES[name].name, STAGES[name].do, STAGES[name].distribution) for name in names]
    work = [*stages, *(("then", each, "main") for each in then)]
    return finish(request, (do_together(*each, config, run, console) for each in work))


def _prepare(request: Request, run: RunFolder, names: Sequence[str]) -> None:
    """Check everything that can be checked, then delete what is to be made again, and write config.yaml."""
    from tag2mask.pipeline.corrections import remember_corrections
    from tag2mask.pipeline.reading import photographs
    from tag2mask.pipeline.stages import STAGES, check_ahead, require_classes, slow_settings, to_delete

    restart = _stage_to_restart(request, names)
    photos = photographs(request.config, run)
    again = to_delete(run, restart, photos.classes)
    require_classes(run, photos.classes, again)
    for stage in (STAGES[name] for name in dict.fromkeys([*names, *again])):
        run.check(stage, stage.fingerprint(request.config, photos), anew=stage.name in again)
    check_ahead(request.config, run, photos, names, again)
    for sentence in slow_settings(request.config, names):
        errors().print(f"warning: {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if "train" in names and request.verb != "demo":
        _tell_about_data(request.config, photos)
    if again:
        run.delete(STAGES[name] for name in again)
        errors().print(f"restart: deleted what {', '.join(again)} made", highlight=False)
    if run.classes() != list(photos.classes) or not (run / CLASSES).is_file():
        run.keep_classes(photos.classes)
    run.record_config(request.config, _sections(names))
    remember_corrections(request.config, run)


def _tell_about_data(config: Config, photos: "PhotoSet") -> None:
    """How the data was understood, and what `check` would warn of, before hours go into it."""
    from tag2mask.data.image_check import first_look

    some = photos.photos[:: max(1, len(photos) // MOST_OPENED)][:MOST_OPENED]
    pixels = [f"warning: {problem}" for problem in first_look([photo.path for photo in some], config.data)]
    for sentence in (*photos.notes, *pixels):
        style = "yellow" if sentence.startswith("warning") else None
        errors().print(sentence, style=style, highlight=False, markup=False, soft_wrap=True)


MOST_OPENED = 8
"""Images that are opened before training, to see what kinds of pixels there are."""


def _sections(names: Sequence[str]) -> Sequence[str]:
    """The sections of config.yaml that these stages bring up to date: with training, all but those of other stages."""
    from tag2mask.pipeline.stages import STAGES

    if "train" not in names:
        return [section for name in names for section in STAGES[name].sections]
    others = [stage for name, stage in STAGES.items() if stage.wanted_by and name not in names]
    kept = ["limit", "shard", *(section for stage in others for section in stage.sections)]
    return [field.name for field in fields(Config) if field.name not in kept]


def _stage_to_restart(request: Request, names: Sequence[str]) -> str | None:
    """The stage that ``--restart`` names, if it is about to be made again.

    Raises:
        UsageError: it is no stage, or the verb would delete without making again.
    """
    from tag2mask.pipeline.stages import STAGES

    stage: str | None = request.options["restart"]
    if stage is None or stage in names:
        return stage
    if stage not in STAGES:
        raise UsageError(f"--restart should name one of {', '.join(STAGES)}, received '{stage}'")
    if request.verb in ("run", "demo"):
        wanted = STAGES[stage].wanted_by or "other settings"
        raise UsageError(f"--restart {stage}: this run does not read it; it does with {wanted}")
    raise UsageError(
        f"--restart {stage} would delete what {request.verb} does not make again; use `tag2mask run --restart {stage}`"
    )
