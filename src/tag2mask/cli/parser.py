"""From words on the command line to a `Config`: presets, files and single values, with errors that help."""

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from tag2mask.cli.words import last_value
from tag2mask.errors import UsageError, first_five
from tag2mask.fields import constant_of, constants, current
from tag2mask.pipeline.config import Config, presets


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


def build_parser(verb: str, description: str) -> Parser:
    """A parser for one verb: every setting of `Config`, and what all verbs share."""
    # Settings may be anybody's: a `class_path` among them would import, and so execute, whatever module it names.
    set_parsing_settings(import_path_denylist=["*"])
    parser = Parser(prog=f"tag2mask {verb}", description=description, exit_on_error=False, print_config=None)
    parser.add_argument("--config", action="config", help="a preset's name or a YAML file; later ones override")
    parser.add_argument("--print-config", action="store_true", dest="print_config", help="print every setting and stop")
    parser.add_argument("--dry-run", action="store_true", dest="dry_run", help="say what would be done and stop")
    parser.add_argument("--json", action="store_true", dest="as_json", help="the result as JSON on standard output")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_class_arguments(Config, None)
    return parser


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


def with_run_config(words: Sequence[str]) -> list[str]:
    """Put the run folder's own config.yaml in front, where there is one and no ``--config`` is given."""
    given = [word for word in words if word == "--config" or word.startswith("--config=")]
    out = last_value(words, "--out")
    saved = Path(out) / "config.yaml" if out else None
    return ["--config", str(saved), *words] if saved is not None and saved.is_file() and not given else list(words)


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
