"""The command `completion`: a script that completes commands, options and settings in a shell."""

from argparse import Action, ArgumentParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tag2mask.cli.commands import COMMANDS, Command
from tag2mask.cli.invocation import Invocation
from tag2mask.core.errors import UsageError


def completion(call: Invocation, shell: Literal["bash", "zsh", "tcsh"]) -> int:
    """Print the script.

    Args:
        shell: bash, zsh or tcsh
    """
    if find_spec("shtab") is None:
        raise UsageError("completion needs shtab; pip install 'tag2mask[completion]'")
    import shtab

    print(shtab.complete(_parser(), shell))
    return 0


def _parser() -> ArgumentParser:
    """A plain parser with the commands and with the options that each of them reads."""
    root = ArgumentParser(prog="tag2mask", add_help=False)
    commands = root.add_subparsers()
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.summary, add_help=False)
        for action in _actions(name, command):
            _add(own, action)
    return root


def _actions(name: str, command: Command) -> list[Action]:
    from tag2mask.cli.parsing import build_parser

    module, _, attribute = command.function.partition(":")
    function = None if name == "doctor" else getattr(import_module(f"tag2mask.cli.{module}"), attribute)
    every = build_parser(name, function)._actions
    return [each for each in every if each.option_strings == [] or _is_read(command, each.option_strings[0][2:])]


def _is_read(command: Command, option: str) -> bool:
    if option == "out":
        return bool(command.writes)
    return "." not in option or command.reads(option)


def _add(parser: ArgumentParser, action: Action) -> None:
    """Add an argument or an option, with the values that it may have."""
    import shtab

    kind: Any = getattr(action, "_typehint", None)
    kinds = (kind, *get_args(kind)) if get_origin(kind) in (Union, UnionType) else (kind,)
    choices = next((get_args(each) for each in kinds if get_origin(each) is Literal), None)
    values: dict[str, Any] = {"choices": ("true", "false") if kind is bool else choices}
    if not action.option_strings:
        added = parser.add_argument(action.dest, nargs="?", **values)
    elif action.nargs == 0:
        added = parser.add_argument(*action.option_strings, action="store_true")
    else:
        added = parser.add_argument(*action.option_strings, **values)
    if added.nargs != 0 and added.choices is None and (kind is None or Path in kinds):
        added.complete = shtab.FILE  # type: ignore[attr-defined]
