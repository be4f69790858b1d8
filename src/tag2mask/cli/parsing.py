"""From words on the command line to a `Config`: presets, files and single values, with errors that help."""

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from itertools import pairwise, zip_longest
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from tag2mask.cli.commands import Command
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.settings_help import CONFIG, FLAGS, argument_docs, option_name, render_help
from tag2mask.cli.stages import with_data
from tag2mask.core.errors import UsageError, first_five
from tag2mask.core.fields import constant_of, constants, current
from tag2mask.runs.config import Config, presets, to_yaml
from tag2mask.runs.run_folder import run_of


class Parser(ArgumentParser):
    """A parser whose errors are `UsageError`s that offer the nearest names."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the problem as the project's own."""
        raise UsageError(self._readable(message))

    def _readable(self, message: str) -> str:
        """The message on one line, with suggestions for what it does not know."""
        if isinstance(self_cause := _cause(sys.exc_info()[1]), UsageError):
            return str(self_cause)
        message = " ".join(re.sub(r"\s+", " ", message).split())
        options = [option for action in self._actions for option in action.option_strings]
        unrecognised = re.match(r"unrecognized arguments: (.*)", message, re.IGNORECASE)
        unknown = re.findall(r"(?<!\S)(--[\w.-]+)", unrecognised[1]) if unrecognised else []
        unknown += [f"--{key}" for key in re.findall(r"[Kk]ey '([\w.]+)' is not expected", message)]
        unknown += [
            f"--{group}.{key}" for group, key in re.findall(r"Group '([\w.]+)' does not accept option '(\w+)'", message)
        ]
        if unknown:
            return "; ".join(_unknown(name, options) for name in unknown)
        if unrecognised:
            arguments = " ".join(_shown(action.dest) for action in self._arguments())
            return f"{self.prog} takes {arguments or 'no argument'}, not '{unrecognised[1]}' as well; see --help"
        if missing := re.match(r"the following arguments are required: (.*)", message):
            needed = ", ".join(_shown(dest) for dest in missing[1].split(", "))
            return f"{self.prog} needs {needed}; see `{self.prog} --help`"
        if valueless := re.match(r"argument (--[\w.-]+): expected one argument", message):
            return f"{valueless[1]} needs a value"
        return self._wrong_type(message)

    def _arguments(self) -> list[Any]:
        """What is given without a name."""
        return [action for action in self._actions if not action.option_strings]

    def _wrong_type(self, message: str) -> str:
        """A complaint about a value, in the words of the command line."""
        found = re.match(
            r'(?:Parser key "([\w.]+)": |argument (?:--)?([\w.-]+): )(?:.*?(?:Got|Given) value: (.*)|Exceeds .*)',
            message,
        )
        dest = None if found is None else (found[1] or found[2]).replace("-", "_")
        kind = next((getattr(action, "_typehint", None) for action in self._actions if action.dest == dest), None)
        if found is None or dest is None or kind is None:
            return message
        named = _shown(dest) if dest.startswith(_ARGUMENT) else f"--{dest if '.' in dest else dest.replace('_', '-')}"
        return f"{named} needs {' or '.join(_kinds(kind))}" + (f", got '{found[3]}'" if found[3] else "")


_ARGUMENT = "argument_"
"""Stands before the name of an argument, which may be that of a section of settings."""

RENAMED = {
    "--again": "it is --overwrite now",
    "--data.corrections": "a run reads RUN/corrections; `tag2mask import` writes there",
    "--against": "it is --compare now",
    "--ignored": "it is --ignore-label now",
    "--least-pixels": "it is --min-pixels now",
    "--masks": "the run, or the folder of masks, is an argument now",
    "--model": "the run, or the network, is an argument now",
    "--run": "the run is an argument now",
}
"""Options of an earlier version."""


def _unknown(name: str, options: Sequence[str]) -> str:
    """What to say of an option that there is not."""
    gone = {f"--{each}": constant_of(constant) for each, constant in constants(Config())}
    if name in gone:
        return f"{name} is not a setting any more, {gone[name]}; leave it out"
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else "see --help"
    return f"{name} is not a setting; {RENAMED.get(name, hint)}"


def _shown(dest: str) -> str:
    """An argument as help shows it."""
    return dest.removeprefix(_ARGUMENT).upper()


def _kinds(kind: Any) -> list[str]:
    """What a value may be, in words."""
    if get_origin(kind) in (Union, UnionType):
        return [word for each in get_args(kind) for word in _kinds(each)]
    if get_origin(kind) is Literal:
        return [f"one of {', '.join(repr(choice) for choice in get_args(kind))}"]
    if get_origin(kind) in (list, tuple):
        return [f"a list, each item {' or '.join(_kinds(get_args(kind)[0]))}"]
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return [] if kind is NoneType else [words.get(kind, str(kind))]


def _cause(error: BaseException | None) -> BaseException | None:
    """The innermost cause of an exception."""
    while error is not None and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__
    return error


def build_parser(name: str, function: Callable[..., Any] | None = None) -> Parser:
    """A parser for a command: every setting of `Config`, what all commands share, and its own arguments and options.

    Args:
        name: of the command.
        function: what does it. Parameters after the first are its arguments, keyword-only ones its options.
    """
    # Settings may be anybody's: a `class_path` among them would import, and so execute, whatever module it names.
    set_parsing_settings(import_path_denylist=["*"])
    prog = f"tag2mask {name}"
    parser = Parser(prog=prog, exit_on_error=False, print_config=None, add_help=False, allow_abbrev=False)
    docs = {} if function is None else argument_docs(function)
    for parameter in [] if function is None else list(inspect.signature(function).parameters.values())[1:]:
        required = parameter.default is inspect.Parameter.empty
        text = docs.get(parameter.name)
        # Names are taken as they are: as YAML, "null" would be none, and one that is not UTF-8 could not be read.
        kind: dict[str, Any] = {} if _path_or_text(parameter) else {"type": parameter.annotation}
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            kind |= {} if required else {"nargs": "?"}
            parser.add_argument(_dest(parameter), help=text, **kind)
        elif parameter.default is False:
            parser.add_argument(option_name(parameter.name), action="store_true", help=text)
        else:
            parser.add_argument(option_name(parameter.name), default=parameter.default, help=text, **kind)
    parser.add_argument("--config", action="config", help=CONFIG)
    for flag, text in FLAGS.items():
        parser.add_argument(flag, action="store_true", help=text)
    parser.add_class_arguments(Config, None)
    return parser


def _path_or_text(parameter: inspect.Parameter) -> type | None:
    """`Path` or `str` where a parameter is one, or may be None besides."""
    kinds = {*(get_args(parameter.annotation) or (parameter.annotation,))} - {NoneType}
    return next((kind for kind in (Path, str) if kinds == {kind}), None)


def _value(parameter: inspect.Parameter, namespace: Namespace) -> Any:
    """What was given for a parameter of a command."""
    value = getattr(namespace, _dest(parameter))
    return Path(value) if _path_or_text(parameter) is Path and value is not None else value


def _dest(parameter: inspect.Parameter) -> str:
    """Where the parser keeps a parameter of a command: an argument may have the name of a section of settings."""
    name = parameter.name.rstrip("_")
    return name if parameter.kind is parameter.KEYWORD_ONLY else f"{_ARGUMENT}{name}"


Parsed = tuple[Callable[..., int], Invocation, dict[str, Any]]
"""What does a command, the invocation, and the command's own arguments and options."""


def parse(name: str, command: Command, words: Sequence[str]) -> Parsed | None:
    """Read the words after a command.

    Args:
        name: of the command.
        command: its description.
        words: what follows it.

    Returns:
        None if help or the settings were asked for, which were then printed.

    Raises:
        UsageError: they are wrong.
    """
    module, _, attribute = command.function.partition(":")
    function: Callable[..., int] = getattr(import_module(f"tag2mask.cli.{module}"), attribute)
    if "-h" in words or "--help" in words:
        print(render_help(name, command, function))
        return None
    if "--help-all" in words:
        print(render_help(name, command, function, whole=True))
        return None
    parser = _parser(name, function)
    own = list(inspect.signature(function).parameters.values())[1:]
    arguments, options = _separated(words, function)
    given = _given(options)
    if "" in arguments or "" in (given.get("out"), given.get("config")):
        raise UsageError("an argument is empty; is a variable of the shell not set?")
    _refuse_out(name, command, given)
    places = {each.name: place for each, place in zip(own, arguments, strict=False)}
    run = _run_of(name, command, places.get(command.run), given)
    words = [*options, *(["--", *arguments] if arguments else [])]
    namespace = parsed(parser, [*_base(name, command, options, run), *expand_presets(words)])
    config = to_config(parser, namespace)
    _refuse_sections(name, command, given)
    values = {each.name: _value(each, namespace) for each in own}
    if command.run:
        out = config.out if "out" in given else None
        config = replace(config, out=out if command.writes else run or values[command.run])

    def on_top_of(folder: Path) -> Config:
        return to_config(parser, parsed(parser, expand_presets(["--config", str(folder / "config.yaml"), *words])))

    call = Invocation(name, config, given, on_top_of, namespace.dry_run, namespace.json)
    if namespace.print_config:
        print(to_yaml(with_data(call, values.get("data")).config), end="")
        return None
    return function, call, values


@cache
def _parser(name: str, function: Callable[..., int]) -> Parser:
    """The parser of a command; to build one takes a third of a second, and it keeps nothing of what it parses."""
    return build_parser(name, function)


def _run_of(name: str, command: Command, place: str | None, given: Mapping[str, str]) -> Path | None:
    """The run folder whose settings a command takes up, if it is one: its argument, else ``--out``."""
    if not command.run:
        out = given.get("out")
        return Path(out) if out and (Path(out) / "config.yaml").is_file() else None
    if place is None:
        return None
    path = Path(place)
    if name != "export" and (path / "config.yaml").is_file():  # a file of that name next to masks may be anybody's
        return path
    return run_of(path) if command.writes or name == "evaluate" else None


def _separated(words: Sequence[str], function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The arguments among the words, and the options with their values."""
    parameters = inspect.signature(function).parameters.values()
    flags = {*FLAGS, *(option_name(each.name) for each in parameters if each.default is False)}
    arguments: list[str] = []
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            arguments += rest
        elif not word.startswith("--"):
            arguments.append(word)
        else:
            following = [] if word in flags or "=" in word else [next(rest, None)]
            options += [word, *(value for value in following if value is not None)]
    return arguments, options


def _given(words: Sequence[str]) -> dict[str, str]:
    """The settings and options that words name, the last value of each."""
    found = {}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else following
    return found


def _base(name: str, command: Command, words: Sequence[str], run: Path | None) -> list[str]:
    """What lies below the words: the settings of the run folder, else the command's preset unless another is named.

    Of a run folder only the data, where ``--config`` names a whole recipe: two recipes are never mixed.
    """
    if name == "demo":
        return ["--config", str(presets()[f"{command.preset}-quick" if "--quick" in words else command.preset])]
    files = _config_files(words)
    if run is not None:
        own = run / "config.yaml"
        return ["--config", _data_of(own) if any(map(_is_recipe, files)) else _current(own)]
    return [] if files else ["--config", str(presets()[command.preset])]


def _is_recipe(name: str) -> bool:
    """Whether a preset or file of settings is a whole recipe: what it leaves out are defaults, not a run's values."""
    return {"network", "train"} <= _sections_in(presets().get(name, Path(name))).keys()


def _data_of(file: Path) -> str:
    """The data of a run's settings, as YAML."""
    return yaml.safe_dump({"data": _sections_in(file).get("data") or {}}, allow_unicode=True)


def _sections_in(file: Path) -> dict[str, Any]:
    """The sections of a file of settings; none where it cannot be read, which the parser reports."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _config_files(words: Sequence[str]) -> list[str]:
    """The presets and files of settings that words name."""
    files = [after for before, after in pairwise(words) if before == "--config"]
    return files + [word.partition("=")[2] for word in words if word.startswith("--config=")]


def _refuse_out(name: str, command: Command, given: Mapping[str, str]) -> None:
    """Refuse ``--out`` where the run folder is an argument: the command would work in another folder.

    Raises:
        UsageError: it is given.
    """
    if command.run and not command.writes and "out" in given:
        raise UsageError(f"{name} takes the run folder as its argument, `tag2mask {name} RUN`; leave out --out")


def _refuse_sections(name: str, command: Command, given: Mapping[str, str]) -> None:
    """Refuse settings that a command does not read.

    Raises:
        UsageError: naming them.
    """
    sections = {item.name for item in fields(Config) if is_dataclass(item.type)}
    unread = [each for each in given if each.partition(".")[0] in sections and not command.reads(each)]
    if unread:
        raise UsageError(f"{name} does not read {first_five(f'--{each}' for each in unread)}; leave it out")


def expand_presets(words: Sequence[str]) -> list[str]:
    """Put the file of a preset in the place of its name after ``--config``.

    Raises:
        UsageError: the value is neither a preset nor a file.
    """
    known = presets()
    expanded: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--config" and equals:
            expanded.append(f"--config={_current(_config_file(value, known))}")
        elif expanded and expanded[-1] == "--config":
            expanded.append(_current(_config_file(word, known)))
        else:
            expanded.append(word)
    return expanded


def _current(file: Path) -> str:
    """A file of settings as ``--config`` takes it: its path, or its content without settings that are gone.

    Raises:
        UsageError: the run keeps its files in tars, which this version does not read, or one of its settings has
            another value than the constant in its place.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise UsageError("it holds no settings; it should be YAML with sections, as --print-config prints it")
        kept = current(Config(), values)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError):  # the parser says so
        return str(file)
    outputs = kept.pop("outputs", None)
    if isinstance(outputs, dict) and outputs.get("images_per_tar") is not None:
        raise UsageError(
            f"{file}: the files of this run are in tars (outputs.images_per_tar), which an earlier version wrote "
            "and this one does not read; go on with that version, or use another --out"
        )
    return str(file) if kept == values else yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _config_file(value: str, known: dict[str, Path]) -> Path:
    """The file behind a preset's name or a path."""
    if value in known:
        return known[value]
    if Path(value).is_file():
        return Path(value)
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"--config {value} is neither a file nor a preset ({', '.join(known)}){hint}")


def parsed(parser: Parser, words: Sequence[str]) -> Namespace:
    """The words, and the files of settings among them, as values.

    Raises:
        UsageError: they are no settings.
    """
    try:
        return parser.parse_args(words)
    except UsageError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # what the parser does not take for an error of the values
        files = [word for before, word in pairwise(words) if before == "--config"]
        reason = " ".join(str(error).split())[:300]
        where = first_five(files) or "the command line"
        raise UsageError(
            f"the settings of {where} could not be read ({reason}); a file of them is YAML in UTF-8"
        ) from error


def to_config(parser: Parser, namespace: Namespace) -> Config:
    """The settings that were parsed.

    Raises:
        UsageError: a value out of range.
    """
    values = parser.instantiate(namespace)
    return Config(**{item.name: getattr(values, item.name) for item in fields(Config)})
