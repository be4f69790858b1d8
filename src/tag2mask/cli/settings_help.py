"""The help of a command: purpose, examples, options, and main settings."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from textwrap import wrap
from typing import Any

import yaml
from docstring_parser import parse as parse_docstring

from tag2mask.cli.commands import Command
from tag2mask.core.files import read_yaml
from tag2mask.runs.config import Config, plain, presets

MOST_LINES = 100
"""Maximum number of lines of a help text."""

ALWAYS = frozenset(
    {
        *("data.root", "data.tags", "data.masks", "data.split", "data.classes"),
        *("device", "seed", "workers", "limit", "shard"),
    }
)
"""Settings in every help, if the command reads them."""

_WIDTH = 118

_VALUES = {
    "--restart": "STAGE",
    "--with": "RUN",
    "--compare": "RUN",
    "--repeats": "N",
    "--threshold": "SCORE",
    "--from-npy": "FOLDER",
    "--to-npy": "FOLDER",
    "--min-pixels": "N",
    "--per-shard": "N",
    "--ignore-label": "NAME",
}
"""What stands for the value of an option in the help, where it is not the name of the option."""

FLAGS = {
    "--print-config": "print all settings and stop",
    "--dry-run": "print what would be done and stop",
    "--json": "print the result as JSON to standard output",
    "--quiet": "show neither progress nor notes, only errors and the result",
    "--profile": "show the seconds of each stage: network, method, writing, waiting, and reading next to them",
    "--debug": "show the traceback of an error",
}
"""The options of all commands."""

CONFIG = "a preset or a YAML settings file; if repeated, later ones override earlier ones"


def option_name(parameter: str) -> str:
    """The option of a parameter; a name that is a Python keyword ends with an underscore."""
    return f"--{parameter.rstrip('_').replace('_', '-')}"


def argument_docs(function: Callable[..., Any]) -> dict[str, str]:
    """The descriptions of arguments and options in the docstring of a command, by name."""
    return {param.arg_name: param.description or "" for param in parse_docstring(function.__doc__ or "").params}


def render_help(name: str, command: Command, function: Callable[..., Any], *, whole: bool = False) -> str:
    """The text of ``tag2mask COMMAND --help``, at most 100 lines, or of ``--help-all``, with all settings it reads."""
    docs, arguments, options = argument_docs(function), {}, {}
    usage = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        shown = parameter.name.rstrip("_").upper()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            arguments[shown] = docs[parameter.name]
            usage.append(shown if parameter.default is inspect.Parameter.empty else f"[{shown}]")
        else:
            option = option_name(parameter.name)
            value = "" if parameter.default is False else f" {_VALUES.get(option, shown)}"
            options[f"{option}{value}"] = docs[parameter.name]
    if command.writes == "run":
        options["--out RUN"] = "the run folder"
    elif command.writes:
        options["--out PATH"] = "where the result goes"
    lines = [
        f"usage: tag2mask {' '.join([name, *usage])} [OPTION …] [--section.name VALUE …]",
        "",
        command.summary,
        "",
        *(f"  tag2mask {example}" for example in command.examples),
        "",
        *_table({**arguments, **options, "--config NAME": CONFIG, **FLAGS, "--help-all": "show all settings"}, 26),
        "",
        *wrap(f"Presets: {', '.join(presets())}.", _WIDTH),
        f"Default preset without --config and without a run folder: {command.preset}.",
        "",
    ]
    if whole:
        return "\n".join([*lines, *_wrapped(dict(_settings(command)))])
    settings = {setting: _first_sentence(text) for setting, text in _settings(command, presets())}
    if len(lines) + len(settings) >= MOST_LINES:
        settings = {setting: _first_sentence(text) for setting, text in _settings(command, [command.preset])}
    title = "Settings with their values in that preset; --help-all lists all settings:"
    return "\n".join([*lines, *([title] if settings else []), *_table(settings, 44)])


def _settings(command: Command, some: Iterable[str] | None = None) -> Iterator[tuple[str, str]]:
    """The settings of a command that are in some presets (None: all), with value and description."""
    files = presets()
    contents = {name: dict(_leaves(read_yaml(files[name]))) for name in files}
    described = descriptions(Config())
    names = set(described) if some is None else ALWAYS.union(*(contents[name] for name in some))
    for setting, value in {**dict(_leaves(plain(Config()))), **contents[command.preset]}.items():
        if setting in names and ("." not in setting or command.reads(setting)):
            shown = yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
            yield f"--{setting} {shown}", described.get(setting, "")


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].partition("; ")[0].removesuffix(".").replace("``", "`")


def descriptions(settings: Any, prefix: str = "") -> dict[str, str]:
    """The descriptions of all settings in a settings dataclass, by dotted name."""
    found: dict[str, str] = {}
    docs: dict[str, str] = {}
    for base in reversed(type(settings).__mro__):
        docs |= {each.arg_name: each.description or "" for each in parse_docstring(base.__doc__ or "").params}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            found |= descriptions(value, f"{prefix}{item.name}.")
        else:
            found[f"{prefix}{item.name}"] = " ".join(docs.get(item.name, "").split())
    return found


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _wrapped(rows: Mapping[str, str]) -> Iterator[str]:
    for name, text in rows.items():
        yield f"  {name}"
        yield from wrap(text, _WIDTH, initial_indent="      ", subsequent_indent="      ")


def _table(rows: Mapping[str, str], width: int) -> Iterator[str]:
    for name, text in rows.items():
        line = f"  {name:{width}} {' '.join(text.split())}"
        yield line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
