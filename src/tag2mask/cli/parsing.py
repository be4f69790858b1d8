"""Parses a command line into a `Config` from presets, files and single values."""

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial
from importlib import import_module
from itertools import pairwise, zip_longest
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from tag2mask.cams.text_models import model_precision
from tag2mask.cli.commands import Command
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.settings_help import CONFIG, FLAGS, argument_docs, option_name, render_help
from tag2mask.cli.stages import with_data
from tag2mask.core.device import precision_on
from tag2mask.core.errors import UsageError, first_five
from tag2mask.core.files import parse_yaml
from tag2mask.runs.config import Config, presets, to_yaml
from tag2mask.runs.run_folder import read_settings, require_format, require_number, run_of


class Parser(ArgumentParser):
    """A parser whose errors are `UsageError`s that suggest the nearest names."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UsageError`."""
        raise UsageError(self._readable(message))

    def _readable(self, message: str) -> str:
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
            arguments = " ".join(_shown(action.dest) for action in self._actions if not action.option_strings)
            return f"{self.prog} takes {arguments or 'no argument'}, not '{unrecognised[1]}' as well; see --help"
        if missing := re.match(r"the following arguments are required: (.*)", message):
            needed = ", ".join(_shown(dest) for dest in missing[1].split(", "))
            return f"{self.prog} needs {needed}; see `{self.prog} --help`"
        if valueless := re.match(r"argument (--[\w.-]+): expected one argument", message):
            return f"{valueless[1]} needs a value"
        return self._wrong_type(message)

    def _wrong_type(self, message: str) -> str:
        """The message about a value of the wrong type, with the option's name and the allowed types."""
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
"""Prefix of positional arguments, whose names may be those of sections of settings."""


def _unknown(name: str, options: Sequence[str]) -> str:
    """What to say of an option that there is not."""
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else "see --help"
    return f"{name} is not a setting; {hint}"


def _shown(dest: str) -> str:
    return dest.removeprefix(_ARGUMENT).upper()


def _kinds(kind: Any) -> list[str]:
    """The allowed types of a value, in words."""
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


_YAML = "yaml without aliases"
"""The mode in which the parser reads files of settings, the files that they name, and values."""


def build_parser(name: str, function: Callable[..., Any] | None = None) -> Parser:
    """A parser for a command: all settings of `Config`, the shared options, and its own arguments and options.

    Args:
        function: its parameters after the first are the command's arguments, keyword-only ones its options.
    """
    # A `class_path` in a file of settings would import, and so execute, any module.
    set_parsing_settings(import_path_denylist=["*"])
    set_loader(_YAML, partial(parse_yaml, load=get_loader("yaml")), exceptions=(yaml.YAMLError,))
    prog = f"tag2mask {name}"
    parser = Parser(prog=prog, exit_on_error=False, print_config=None, add_help=False, allow_abbrev=False)
    parser.parser_mode = _YAML
    docs = {} if function is None else argument_docs(function)
    for parameter in [] if function is None else list(inspect.signature(function).parameters.values())[1:]:
        required = parameter.default is inspect.Parameter.empty
        text = docs.get(parameter.name)
        # Paths and texts are not parsed as YAML: "null" would be None, and a name that is not UTF-8 an error.
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
    """`Path` or `str` if the parameter is one, or one or None."""
    kinds = {*(get_args(parameter.annotation) or (parameter.annotation,))} - {NoneType}
    return next((kind for kind in (Path, str) if kinds == {kind}), None)


def _value(parameter: inspect.Parameter, namespace: Namespace) -> Any:
    value = getattr(namespace, _dest(parameter))
    return Path(value) if _path_or_text(parameter) is Path and value is not None else value


def _dest(parameter: inspect.Parameter) -> str:
    """The name of a parameter in the parser; an argument may have the name of a section of settings."""
    name = parameter.name.rstrip("_")
    return name if parameter.kind is parameter.KEYWORD_ONLY else f"{_ARGUMENT}{name}"


Parsed = tuple[Callable[..., int], Invocation, dict[str, Any]]
"""The function of a command, the invocation, and the command's own arguments and options."""


def parse(name: str, command: Command, words: Sequence[str]) -> Parsed | None:
    """Parse the words after a command.

    Returns:
        None if help or the settings were requested, which are then printed.

    Raises:
        UsageError: the words are wrong.
    """
    module, _, attribute = command.function.partition(":")
    function: Callable[..., int] = getattr(import_module(f"tag2mask.cli.{module}"), attribute)
    if asked := {"-h", "--help", "--help-all"} & {*words}:
        print(render_help(name, command, function, whole=asked == {"--help-all"}))
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
    if run is not None:
        require_format(run)
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

    call = Invocation(
        name, config, given, on_top_of, namespace.dry_run, namespace.json, namespace.quiet, namespace.profile
    )
    if namespace.print_config:
        print(to_yaml(with_data(call, values.get("data")).config), end="")
        return None
    return function, call, values


@cache
def _parser(name: str, function: Callable[..., int]) -> Parser:
    """The parser of a command; building one takes a third of a second."""
    return build_parser(name, function)


def _run_of(name: str, command: Command, place: str | None, given: Mapping[str, str]) -> Path | None:
    """The run folder with the default settings: the command's argument or ``--out``, if it is a run folder."""
    if not command.run:
        out = given.get("out")
        return Path(out) if out and (Path(out) / "config.yaml").is_file() else None
    if place is None:
        return None
    path = Path(place)
    if name != "export" and (path / "config.yaml").is_file():  # any folder of masks may contain a config.yaml
        return path
    return run_of(path) if command.writes or name == "evaluate" else None


def _separated(words: Sequence[str], function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The arguments, and the options with their values; ``--config`` comes first, so that single values override it."""
    parameters = inspect.signature(function).parameters.values()
    flags = {*FLAGS, *(option_name(each.name) for each in parameters if each.default is False)}
    arguments: list[str] = []
    files: list[str] = []
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            arguments += rest
        elif not word.startswith("--"):
            arguments.append(word)
        else:
            following = [] if word in flags or "=" in word else [next(rest, None)]
            own = files if word.partition("=")[0] == "--config" else options
            own += [word, *(value for value in following if value is not None)]
    return arguments, [*files, *options]


def _given(words: Sequence[str]) -> dict[str, str]:
    """The last value of each option."""
    found = {}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else following
    return found


def _base(name: str, command: Command, words: Sequence[str], run: Path | None) -> list[str]:
    """The defaults: the settings of the run folder, or the command's preset unless ``--config`` is given.

    If ``--config`` is a whole recipe, only data and precision are the run's, so that recipes are not mixed.
    """
    if name == "demo":
        return ["--config", str(presets()[f"{command.preset}-quick" if "--quick" in words else command.preset])]
    files = _config_files(words)
    if run is not None and not any(map(_is_recipe, files)):
        return ["--config", _current(run / "config.yaml")]
    preset = [] if files and name != "masks" else ["--config", str(presets()[command.preset])]
    return preset if run is None else [*preset, "--config", _kept_of(run / "config.yaml")]


def _is_recipe(name: str) -> bool:
    """Whether a preset or file is a whole recipe, so that the values of a run do not fill its gaps."""
    return {"network", "train"} <= _sections_in(presets().get(name, Path(name))).keys()


_RESOLVED = ("seeds", "cams", "predict")
"""The sections whose precision `auto` becomes that of a machine."""


def _kept_of(file: Path) -> str:
    """What a run keeps under another recipe: its data, and the precisions of the machine that it began on."""
    sections = _sections_in(file)
    kept = {name: sections[name]["precision"] for name in _RESOLVED if "precision" in (sections.get(name) or {})}
    precisions = {name: {"precision": value} for name, value in kept.items()}
    return yaml.safe_dump({"data": sections.get("data") or {}, **precisions}, allow_unicode=True)


def _sections_in(file: Path) -> dict[str, Any]:
    """The sections of a file of settings; empty if it cannot be read, which `_current` reports."""
    try:
        found = read_settings(file)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _config_files(words: Sequence[str]) -> list[str]:
    files = [after for before, after in pairwise(words) if before == "--config"]
    return files + [word.partition("=")[2] for word in words if word.startswith("--config=")]


def _refuse_out(name: str, command: Command, given: Mapping[str, str]) -> None:
    """Refuse ``--out`` if the run folder is an argument."""
    if command.run and not command.writes and "out" in given:
        raise UsageError(f"{name} takes the run folder as its argument, `tag2mask {name} RUN`; leave out --out")


def _refuse_sections(name: str, command: Command, given: Mapping[str, str]) -> None:
    """Refuse settings that a command does not read."""
    sections = {item.name for item in fields(Config) if is_dataclass(item.type)}
    unread = [each for each in given if each.partition(".")[0] in sections and not command.reads(each)]
    if unread:
        raise UsageError(f"{name} does not read {first_five(f'--{each}' for each in unread)}; leave it out")


def expand_presets(words: Sequence[str]) -> list[str]:
    """Replace the name of a preset after ``--config`` by its file.

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
    """A file of settings as ``--config`` takes it: its path, or its content without the format of a run folder.

    Raises:
        UsageError: it cannot be read, is the config.yaml of a run folder of another version, or holds no settings.
    """
    try:
        values = read_settings(file)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(_unreadable(str(file), error)) from error
    if not isinstance(values, dict):
        raise UsageError(f"{file}: it holds no settings; it should be YAML with sections, as --print-config prints it")
    if "format" not in values:
        return str(file)
    require_number(file, values["format"])
    return yaml.safe_dump({name: value for name, value in values.items() if name != "format"}, allow_unicode=True)


def _config_file(value: str, known: dict[str, Path]) -> Path:
    if value in known:
        return known[value]
    if Path(value).is_file():
        return Path(value)
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"--config {value} is neither a file nor a preset ({', '.join(known)}){hint}")


def parsed(parser: Parser, words: Sequence[str]) -> Namespace:
    """Parse the words and the files of settings among them.

    Raises:
        UsageError: they are wrong.
    """
    try:
        return parser.parse_args(words)
    except UsageError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # what the parser does not take for an error of the values
        files = [word for before, word in pairwise(words) if before == "--config" and "\n" not in word]
        raise UsageError(_unreadable(first_five(files) or "the command line or the run folder", error)) from error


def _unreadable(where: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    return f"the settings of {where} could not be read ({reason}); a file of settings is YAML in UTF-8"


def to_config(parser: Parser, namespace: Namespace) -> Config:
    """The parsed settings; the precision `auto` becomes that of this machine, so that a run keeps it on others.

    Raises:
        UsageError: a value is out of range.
    """
    values = parser.instantiate(namespace)
    config = Config(**{item.name: getattr(values, item.name) for item in fields(Config)})
    cuda = config.device != "cpu" and torch.cuda.is_available()  # a run of a GPU is also opened without one
    device = torch.device("cuda" if cuda else "cpu")
    return replace(
        config,
        seeds=replace(config.seeds, precision=model_precision(config.seeds.precision, device)),
        cams=replace(config.cams, precision=precision_on(config.cams.precision, device)),
        predict=replace(config.predict, precision=precision_on(config.predict.precision, device)),
    )
