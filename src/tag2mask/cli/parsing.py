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
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from tag2mask.cli.commands import Command
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.settings_help import argument_docs, render_help
from tag2mask.errors import UsageError, first_five
from tag2mask.fields import constant_of, constants, current
from tag2mask.pipeline.config import Config, presets, to_yaml
from tag2mask.pipeline.corrections import with_remembered
from tag2mask.pipeline.run_folder import run_of


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
        unknown = re.findall(r"(--[\w.-]+)", message) if "nrecognized" in message else []
        unknown += [f"--{key}" for key in re.findall(r"[Kk]ey '([\w.]+)' is not expected", message)]
        unknown += [
            f"--{group}.{key}" for group, key in re.findall(r"Group '([\w.]+)' does not accept option '(\w+)'", message)
        ]
        hints, gone = [], {f"--{name}": constant_of(each) for name, each in constants(Config())}
        for name in unknown:
            if name in gone:
                hints.append(f"{name} is not a setting any more, {gone[name]}; leave it out")
                continue
            close = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
            hints.append(
                f"{name} is no setting" + (f"; did you mean {' or '.join(close)}?" if close else "; see --help")
            )
        return "; ".join(hints) if hints else _wrong_type(message)


def _wrong_type(message: str) -> str:
    """A parser's complaint about a value, in the words of the command line."""
    found = re.match(r'Parser key "([\w.]+)": Expected an? (.+?)\. Got value: (.*)', message)
    if found:
        kind = re.sub(r"<class '([\w.]+)'>|typing\.Literal\[(.*)\]", lambda m: m[1] or f"one of {m[2]}", found[2])
        return f"--{found[1]} should be {kind}, received {found[3]}"
    found = re.match(
        r'Parser key "([\w.]+)": Does not validate against any of the Union subtypes .*?Given value: (.*)', message
    )
    return f"--{found[1]} cannot be {found[2]}; see --help for what it may be" if found else message


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
    parser = Parser(prog=f"tag2mask {name}", exit_on_error=False, print_config=None, add_help=False)
    docs = {} if function is None else argument_docs(function)
    for parameter in [] if function is None else list(inspect.signature(function).parameters.values())[1:]:
        required = parameter.default is inspect.Parameter.empty
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            optional: dict[str, Any] = {} if required else {"nargs": "?"}
            parser.add_argument(_dest(parameter), type=parameter.annotation, help=docs.get(parameter.name), **optional)
        elif parameter.default is False:
            parser.add_argument(_option(parameter.name), action="store_true", help=docs.get(parameter.name))
        else:
            default, kind = parameter.default, parameter.annotation
            parser.add_argument(_option(parameter.name), type=kind, default=default, help=docs.get(parameter.name))
    parser.add_argument("--config", action="config", help="a preset's name or a YAML file; later ones override")
    for flag, text in FLAGS.items():
        parser.add_argument(flag, action="store_true", help=text)
    parser.add_class_arguments(Config, None)
    return parser


FLAGS = {
    "--print-config": "print every setting and stop",
    "--dry-run": "say what would be done and stop",
    "--json": "the result as JSON on standard output",
    "--debug": "show the traceback of an error",
}
"""What every command takes."""


def _option(name: str) -> str:
    """The option of a parameter; a name that is a word of Python ends in an underscore."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _dest(parameter: inspect.Parameter) -> str:
    """Where the parser keeps a parameter of a command: an argument may have the name of a section of settings."""
    name = parameter.name.rstrip("_")
    return name if parameter.kind is parameter.KEYWORD_ONLY else f"argument_{name}"


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
    parser = _parser(name, function)
    if "--help-all" in words:
        parser.print_help()
        return None
    own = list(inspect.signature(function).parameters.values())[1:]
    run = _run_of(command, words, function)
    quick = "-quick" if name == "demo" and "--quick" in words else ""
    base = ["--config", str(run / "config.yaml") if run and name != "demo" else f"{command.preset}{quick}"]
    namespace = parsed(parser, expand_presets([*base, *words]))
    config = to_config(parser, namespace)
    given = _given(words)
    _refuse_sections(name, command, given)
    values = {each.name: getattr(namespace, _dest(each)) for each in own}
    named = _names_corrections(config, words, run)
    if run is not None and command.run and "out" not in given:
        config = replace(config, out=run)
    if not named:
        config = with_remembered(config, config.data.corrections)
    if namespace.print_config:
        print(to_yaml(config), end="")
        return None

    def on_top_of(folder: Path) -> Config:
        return to_config(parser, parsed(parser, expand_presets(["--config", str(folder / "config.yaml"), *words])))

    call = Invocation(name, config, given, named, on_top_of, namespace.dry_run, namespace.json)
    return function, call, values


@cache
def _parser(name: str, function: Callable[..., int]) -> Parser:
    """The parser of a command; to build one takes a third of a second, and it keeps nothing of what it parses."""
    return build_parser(name, function)


def _run_of(command: Command, words: Sequence[str], function: Callable[..., Any]) -> Path | None:
    """The run folder whose settings a command takes up, if it is one: its argument, else ``--out``."""
    if command.run:
        place = list(inspect.signature(function).parameters).index(command.run) - 1
        found = _positionals(words, function)
        if place >= len(found):
            return None
        path = Path(found[place])
        return path if (path / "config.yaml").is_file() else run_of(path)
    out = _given(words).get("out")
    return Path(out) if out and (Path(out) / "config.yaml").is_file() else None


def _positionals(words: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """The words that are no options and no values of options."""
    parameters = inspect.signature(function).parameters.values()
    flags = {*FLAGS, *(_option(each.name) for each in parameters if each.default is False)}
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("--"):
            skip = word not in flags and "=" not in word
        else:
            found.append(word)
    return found


def _given(words: Sequence[str]) -> dict[str, str]:
    """The settings and options that words name, the last value of each."""
    found = {}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else following
    return found


def _refuse_sections(name: str, command: Command, given: Mapping[str, str]) -> None:
    """Refuse settings that a command does not read.

    Raises:
        UsageError: naming them.
    """
    if command.sections is None:
        return
    sections = {item.name for item in fields(Config) if is_dataclass(item.type)}
    unread = [each for each in given if each.partition(".")[0] in sections - {*command.sections}]
    if unread:
        raise UsageError(f"{name} does not read {first_five(f'--{each}' for each in unread)}; leave it out")


def _names_corrections(config: Config, words: Sequence[str], run: Path | None) -> bool:
    """Whether a word, or a file of settings other than the run's own, names a folder of decisions; null is one, too."""
    if "data.corrections" in _given(words):
        return True
    own = None if run is None else str(run / "config.yaml")
    files = {after for before, after in pairwise(words) if before == "--config"}
    files |= {word.partition("=")[2] for word in words if word.startswith("--config=")}
    return config.data.corrections is not None and bool(files - {own})


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
            return str(file)
        kept = current(Config(), values)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError):  # the parser says so
        return str(file)
    outputs = kept.pop("outputs", None)
    if isinstance(outputs, dict) and outputs.get("photographs_per_tar") is not None:
        raise UsageError(
            f"{file}: the files of this run are in tars (outputs.photographs_per_tar), which an earlier version wrote "
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
