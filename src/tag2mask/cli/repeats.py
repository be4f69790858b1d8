"""`run --repeats N`: the same run with several seeds, and what they came to together."""

from collections.abc import Callable
from dataclasses import replace

from tag2mask.cli.console import errors, output, print_json, spread_table
from tag2mask.cli.request import Request
from tag2mask.distributed import is_main, wait
from tag2mask.errors import UsageError
from tag2mask.pipeline.repeats import RECORD, Repeats


def repeat(request: Request, do: Callable[[Request], int]) -> int:
    """Do a run for each seed, in RUN/seed-S, those that are done excepted; then the mean and spread of their figures.

    Args:
        request: the command, with the option `repeats`.
        do: does one run.

    Returns:
        the exit code: 1 if some items of a run could not be done.

    Raises:
        UsageError: `repeats` is no number, or the folder or the settings do not suit.
    """
    run, options = request.run_folder(), request.options
    repeats = Repeats(request.config, run, _count(options["repeats"]), named=request.names_corrections)
    # Every process decides this before the main one can have written anything: no run ends without all of them.
    numbers = range(len(repeats.configs))
    todo = [number for number in numbers if options["restart"] or not repeats.is_done(number)]
    quiet = {**options, "quiet": options["as_json"]}
    requests = [replace(request, config=config, options=quiet) for config in repeats.configs]
    if options["dry_run"]:
        _tell(f"{len(todo)} of {len(requests)} runs to do, in {run.path}/seed-S; the next one:")
        return do(requests[todo[0]]) if todo else 0
    code = 0
    with request.lock():
        for number in numbers:
            name = f"seed {repeats.configs[number].seed}, run {number + 1} of {len(requests)}"
            _tell(name if number in todo else f"{name}: done already")
            if number not in todo:
                continue
            failed = do(requests[number])
            code = max(code, failed)
            if is_main():
                run.record_config(request.config)  # not sooner: wrong settings should not be taken up again
                if not failed:
                    repeats.record_done(number)
        if is_main():
            summary = repeats.summarise()
            if options["as_json"]:
                print_json(summary)
            else:
                output().print(spread_table(summary["figures"], summary["seeds"]))
            _tell(f"written to {run / RECORD}")
    wait()
    return code


def _count(value: str) -> int:
    if not (value.isdecimal() and len(value) < 10 and int(value) >= 1):
        raise UsageError(f"--repeats should be a number of runs, at least 1, received '{value}'")
    return int(value)


def _tell(text: str) -> None:
    """A line for people, from the main process."""
    if is_main():
        errors().print(text, highlight=False, markup=False, soft_wrap=True)
