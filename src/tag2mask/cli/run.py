"""The commands `run`, `demo` and `masks`: all stages, once or with several seeds, or without tags."""

from dataclasses import replace
from pathlib import Path

from tag2mask.cams.kinds import WORDS
from tag2mask.cli.console import errors, output, print_json, say, show_result, spread_table
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import AFTER_WORDS, one_process, run_stages, run_stages_locked, stage_to_restart, with_data
from tag2mask.core.distributed import is_main, wait
from tag2mask.core.errors import UsageError, first_five
from tag2mask.stages.registry import stages_of, to_delete
from tag2mask.workflows.demo import FOLDER, prepare_demo
from tag2mask.workflows.overlays import write_overlays
from tag2mask.workflows.repeats import RECORD, Repeats, refuse_repeats
from tag2mask.workflows.words import Words, ask_by_words, check_words, is_unasked, require_words, untagged_images


def run(
    call: Invocation,
    data: Path | None = None,
    *,
    overlays: bool = False,
    repeats: int | None = None,
    restart: str | None = None,
) -> int:
    """Run all stages.

    Args:
        data: the folder with the images, or a tags table; default: that of the run folder
        overlays: also write each mask over its image, as RUN/overlays/ID.jpg
        repeats: number of runs in RUN/seed-S, with seeds from --seed on; reports mean and spread
        restart: delete the outputs of a stage and of all stages that read it, then continue
    """
    call = with_data(call, data)
    if repeats is None:
        return run_stages(call, stages_of(call.config), *([write_overlays] if overlays else []), restart=restart)
    if overlays:
        raise UsageError("--overlays is for a single run: RUN/seed-S has those of its masks by --out RUN/seed-S")
    if repeats < 1:
        raise UsageError(f"--repeats should be a number of runs, at least 1, received {repeats}")
    return _repeat(call, repeats, restart)


@one_process
def demo(call: Invocation, *, quick: bool = False, restart: str | None = None) -> int:
    """Run all stages on generated scenes.

    Args:
        quick: smaller scenes, a shorter training and no figures, in about a minute
        restart: delete the outputs of a stage and of all stages that read it, then continue
    """
    if call.dry_run:
        scenes, stages = call.config.scenes, ", ".join(stages_of(call.config))
        say(output(), f"would paint {scenes.train + scenes.val} scenes, then do {stages}")
        return 0
    call = call.with_config(replace(call.config, out=call.config.out or FOLDER))
    folder = call.run_folder()
    with call.lock(alone=restart is not None):
        call = call.with_config(prepare_demo(call.config, call.console, measured=not quick))
        names = [name for name in stages_of(call.config) if not (quick and name == "evaluate")]
        code = run_stages_locked(call, folder, names, restart=restart)
    if quick and not code:
        say(call.console, "the training of --quick is too short to judge the method: `tag2mask demo` has the figures")
    return code


@one_process
def masks(
    call: Invocation,
    data: Path | None = None,
    *,
    classes: str | None = None,
    model: str | None = None,
    overlays: bool = False,
    restart: str | None = None,
) -> int:
    """Make masks by the names of classes, without tags and training.

    Args:
        data: the folder with the images; default: that of the run folder
        classes: names separated by commas, or a file; default: those of a VOC or COCO root
        model: a CLIPSeg, SAM 3 or TIPSv2 of transformers, by name or as a folder
        overlays: also write each mask over its image, as RUN/overlays/ID.jpg
        restart: delete the outputs of a stage and of all stages that read it, then continue
    """
    for setting, value in (("data.classes", classes), ("seeds.model", model)):
        if value is not None and setting in call.given:
            raise UsageError(f"--{setting.partition('.')[2]} and --{setting} are the same; give one of them")
    call = with_data(call, data)
    run, names, config = call.run_folder(), list(AFTER_WORDS), call.config
    refuse_repeats(run)
    require_words(run)
    config = replace(
        config,
        data=replace(config.data, classes=classes or config.data.classes),
        seeds=replace(config.seeds, model=model or config.seeds.model),
        cams=replace(config.cams, kinds=[WORDS]),
        refine=replace(config.refine, cams=WORDS),
    )
    restart = stage_to_restart(call, restart, [Words.name, *names])
    images = untagged_images(config, run)
    again = to_delete(run, restart, images.classes)
    if not call.dry_run:
        check_words(config, run, images, names, again)
    again = again if Words.name in again else []
    if call.dry_run:
        chosen = images.items[: config.limit]
        count = len(chosen) if again else sum(is_unasked(run, item) for item in chosen)
        if call.as_json:
            planned = {"model": config.seeds.model, "classes": images.classes, "images": len(chosen), "lacking": count}
            print_json(planned | {"stages": names})
            return 0
        say(
            output(),
            f"would ask {config.seeds.model} for {first_five(images.classes)} in {count} of {len(chosen)} images, "
            f"then do {', '.join(names)}",
        )
        return 0
    with call.lock(alone=restart is not None):
        config, result = ask_by_words(config, run, images, call.console, again)
        call = call.with_config(config)
        call.results.append(result)
        show_result(call.console, result, errors())
        then = [write_overlays] if overlays else []
        return run_stages_locked(call, run, names, *then, restart=None if again else restart)


def _repeat(call: Invocation, repeats: int, restart: str | None) -> int:
    """One run per seed in RUN/seed-S, without those that are done; then the mean and spread of their figures."""
    run = call.run_folder()
    repeated = Repeats(call.config, run, repeats)
    # Every process decides this before the main one writes anything, so that all processes join the same runs.
    numbers = range(len(repeated.configs))
    todo = [number for number in numbers if restart or not repeated.is_done(number)]
    calls = [replace(call, config=own, shows_result=not call.as_json, results=[]) for own in repeated.configs]
    if call.dry_run:
        say(call.console, f"{len(todo)} of {len(calls)} runs to do, in {run.path}/seed-S; the next one:")
        return run_stages(calls[todo[0]], stages_of(calls[todo[0]].config), restart=restart) if todo else 0
    code = 0
    with call.lock(alone=restart is not None):
        for number in numbers:
            name = f"seed {repeated.configs[number].seed}, run {number + 1} of {len(calls)}"
            say(call.console, name if number in todo else f"{name}: done already")
            if number not in todo:
                continue
            failed = run_stages(calls[number], stages_of(calls[number].config), restart=restart)
            code = max(code, failed)
            if is_main():
                run.record_config(call.config)  # after the first run, so that wrong settings are not recorded
                if not failed:
                    repeated.record_done(number)
        if is_main():
            summary = repeated.summarise()
            if call.as_json:
                print_json(summary)
            else:
                output().print(spread_table(summary["figures"], summary["seeds"]))
            say(call.console, f"written to {run / RECORD}")
    wait()
    return code
