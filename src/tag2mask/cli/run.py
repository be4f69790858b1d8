"""The commands `run` and `demo`: every stage, once or with several seeds."""

from dataclasses import replace
from pathlib import Path

from tag2mask.cli.console import errors, output, print_json, spread_table
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import do_stages, do_under_lock, one_process, with_data
from tag2mask.core.distributed import is_main, wait
from tag2mask.core.errors import UsageError
from tag2mask.stages.registry import stages_of
from tag2mask.workflows.demo import FOLDER, prepare_demo
from tag2mask.workflows.repeats import RECORD, Repeats


def run(call: Invocation, data: Path | None = None, *, repeats: int | None = None, restart: str | None = None) -> int:
    """Do every stage.

    Args:
        data: the folder with the images, or a tags table; what the run folder remembers if not given
        repeats: so many runs with seeds from --seed on, in RUN/seed-S, and the spread of their figures
        restart: delete what a stage, and all that read it, made; then go on
    """
    call = with_data(call, data)
    if repeats is None:
        return _once(call, restart)
    if repeats < 1:
        raise UsageError(f"--repeats should be a number of runs, at least 1, received {repeats}")
    return _repeat(call, repeats, restart)


@one_process
def demo(call: Invocation, *, quick: bool = False, restart: str | None = None) -> int:
    """Do every stage on generated scenes.

    Args:
        quick: a tiny demo, in under a minute
        restart: delete what a stage, and all that read it, made; then go on
    """
    if call.dry_run:
        scenes, stages = call.config.scenes, ", ".join(stages_of(call.config))
        output().print(f"would paint {scenes.train + scenes.val} scenes, then do {stages}", highlight=False)
        return 0
    call = call.with_config(replace(call.config, out=call.config.out or FOLDER))
    folder = call.run_folder()
    with call.lock(alone=restart is not None):
        call = call.with_config(prepare_demo(call.config, errors()))
        return do_under_lock(call, folder, stages_of(call.config), restart=restart)


def _once(call: Invocation, restart: str | None) -> int:
    return do_stages(call, stages_of(call.config), restart=restart)


def _repeat(call: Invocation, repeats: int, restart: str | None) -> int:
    """Do a run for each seed, in RUN/seed-S, except those that are done; then the mean and spread of their figures."""
    run = call.run_folder()
    repeated = Repeats(call.config, run, repeats)
    # Every process decides this before the main one can have written anything: no run ends without all of them.
    numbers = range(len(repeated.configs))
    todo = [number for number in numbers if restart or not repeated.is_done(number)]
    calls = [replace(call, config=config, quiet=call.as_json) for config in repeated.configs]
    if call.dry_run:
        _tell(f"{len(todo)} of {len(calls)} runs to do, in {run.path}/seed-S; the next one:")
        return _once(calls[todo[0]], restart) if todo else 0
    code = 0
    with call.lock(alone=restart is not None):
        for number in numbers:
            name = f"seed {repeated.configs[number].seed}, run {number + 1} of {len(calls)}"
            _tell(name if number in todo else f"{name}: done already")
            if number not in todo:
                continue
            failed = _once(calls[number], restart)
            code = max(code, failed)
            if is_main():
                run.record_config(call.config)  # not sooner: wrong settings should not be taken up again
                if not failed:
                    repeated.record_done(number)
        if is_main():
            summary = repeated.summarise()
            if call.as_json:
                print_json(summary)
            else:
                output().print(spread_table(summary["figures"], summary["seeds"]))
            _tell(f"written to {run / RECORD}")
    wait()
    return code


def _tell(text: str) -> None:
    """A line for people, from the main process."""
    if is_main():
        errors().print(text, highlight=False, markup=False, soft_wrap=True)
