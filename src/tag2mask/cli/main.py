"""Entry point of ``tag2mask COMMAND``: parse, run, print errors, return the exit code."""

import difflib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from tag2mask import __version__
from tag2mask.cli.commands import COMMANDS, overview
from tag2mask.cli.doctor import doctor
from tag2mask.core.errors import Interrupted, Tag2maskError, UsageError, printable
from tag2mask.core.machine_errors import KEPT, machine_error, system_error

# Modules that load torch are imported where they are needed: `doctor` has to work without torch.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after ``tag2mask``; default: those of the process.

    Returns:
        the exit code: 0 all done; 1 failed, or some items failed; 2 wrong use.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(words)
        print(end="", flush=True)
        return code
    except BrokenPipeError:  # the program that reads the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exception(error)
        code, message = _exit_code_and_message(error)
        stopped = isinstance(error, KeyboardInterrupt | Interrupted)
    _print_error(message, "" if stopped else "error: ")
    return code


def script() -> NoReturn:
    """Run the command line and end the process."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: JSON and YAML have to be whole
    code = main()
    if "tag2mask.core.distributed" not in sys.modules:  # torch was not loaded
        sys.exit(code)
    from tag2mask.core.distributed import end_process

    end_process(code)


def _print_error(message: str, prefix: str) -> None:
    try:
        from rich.console import Console
        from rich.markup import escape
    except ImportError:
        print(f"{prefix}{printable(message)}", file=sys.stderr)
        return
    Console(stderr=True, emoji=False).print(
        f"[bold red]{prefix}[/]{escape(printable(message))}", highlight=False, soft_wrap=True
    )


def _exit_code_and_message(error: BaseException) -> tuple[int, str]:
    if isinstance(error, Tag2maskError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 1, f"stopped; {KEPT}"
    if found := machine_error(error):
        return 1, str(found)
    if isinstance(error, OSError):
        return 1, system_error(error)
    if isinstance(error, ImportError):
        return 1, f"{error}; `tag2mask doctor` shows what is missing and how to install it"
    return 1, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


@contextmanager
def _loading() -> Iterator[None]:
    """Say in a terminal that libraries are loaded, which takes seconds; the line disappears afterwards."""
    shown = sys.stderr.isatty() and "torch" not in sys.modules
    if shown:
        print("loading …", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print(" " * 9, end="\r", file=sys.stderr, flush=True)


def _dispatch(words: list[str]) -> int:
    try:
        Path.cwd()
    except FileNotFoundError as error:  # libraries fail without their reason
        raise UsageError("the current folder was deleted; change to one that exists (`cd`)") from error
    if words[:1] == ["doctor"]:
        return doctor(words[1:])
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2
    name = words[0]
    if name in ("-V", "--version"):
        print(f"tag2mask {__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"The commands are {', '.join(COMMANDS)}."
        raise UsageError(f"Unknown command '{name}'. {hint}")
    with _loading():
        from tag2mask.cli.parsing import parse

        parsed = parse(name, COMMANDS[name], words[1:])
    if parsed is None:
        return 0
    function, call, arguments = parsed
    return function(call, **arguments)
