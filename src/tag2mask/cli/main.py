"""Entry point of ``tag2mask COMMAND``: parse, run, print errors, return the exit code."""

import difflib
import errno
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from tag2mask import __version__
from tag2mask.cli.commands import COMMANDS, overview
from tag2mask.cli.doctor import doctor
from tag2mask.core.errors import Tag2maskError, UsageError, printable

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
        return _dispatch(words)
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exception(error)
        code, message = _exit_code_and_message(error)
    _print_error(message)
    return code


def script() -> NoReturn:
    """Run the command line and end the process."""
    code = main()
    if "tag2mask.core.distributed" not in sys.modules:  # torch was not loaded
        sys.exit(code)
    from tag2mask.core.distributed import end_process

    end_process(code)


def _print_error(message: str) -> None:
    try:
        from rich.console import Console
        from rich.markup import escape
    except ImportError:
        print(f"error: {printable(message)}", file=sys.stderr)
        return
    Console(stderr=True, emoji=False).print(
        f"[bold red]error:[/] {escape(printable(message))}", highlight=False, soft_wrap=True
    )


def _exit_code_and_message(error: BaseException) -> tuple[int, str]:
    kept = "finished files are kept, and the same command continues from there"
    if isinstance(error, Tag2maskError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 1, f"stopped; {kept}"
    if _is_out_of_memory(error):
        reason = " ".join(str(error).split()) or "the allocation failed"
        remedy = "use gradient_accumulation_steps, fewer workers, or a smaller batch_size, long_side or augment.crop"
        return 1, f"out of memory ({reason[:200]}); {remedy}; finished files are kept"
    if isinstance(error, OSError):
        return 1, f"{error}; {kept}"
    if isinstance(error, ImportError):
        return 1, f"{error}; `tag2mask doctor` shows what is missing and how to install it"
    return 1, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is a failed allocation; torch raises several types for it, and may not be loaded."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in said or "allocate memory" in said)


def _dispatch(words: list[str]) -> int:
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
    from tag2mask.cli.parsing import parse

    parsed = parse(name, COMMANDS[name], words[1:])
    if parsed is None:
        return 0
    function, call, arguments = parsed
    return function(call, **arguments)
