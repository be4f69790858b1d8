"""A command line as it was parsed, and what a verb is."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

from tag2mask.cli.parser import Parser, build_parser, expand_presets, parsed, to_config, with_run_config
from tag2mask.cli.words import last_value
from tag2mask.errors import UsageError
from tag2mask.pipeline.config import Config, to_yaml
from tag2mask.pipeline.run_folder import RunFolder


@dataclass(frozen=True)
class Verb:
    """A verb: what it is, its positional arguments if any, what it does, its own flags and options with a value."""

    description: str
    action: Callable[["Request"], int]
    positional: tuple[str, str] | None = None
    flags: tuple[tuple[str, str], ...] = ()
    values: tuple[tuple[str, str, str], ...] = ()
    second: tuple[str, str] | None = None
    restarts: bool = False


@dataclass(frozen=True)
class Request:
    """A parsed command line.

    Attributes:
        verb: the verb's name.
        config: every setting.
        options: what is not a setting: json, dry_run, restart, the positional, the verb's own flags.
        words: the words that it was parsed from.
    """

    verb: str
    config: Config
    options: dict[str, Any]
    words: tuple[str, ...]
    spec: Verb

    def again(self, before: Sequence[str] = (), after: Sequence[str] = ()) -> "Request | None":
        """The same command with more words before and after its own."""
        return Request.parse(self.verb, self.spec, [*before, *self.words, *after])

    @classmethod
    def parse(cls, name: str, verb: Verb, words: Sequence[str]) -> "Request | None":
        """Read the words; None if they asked for help or for the settings, which were then printed."""
        parser = _parser(name, verb)
        if "-h" in words or "--help" in words:
            parser.print_help()
            return None
        namespace = parsed(parser, expand_presets(with_run_config(_with_default_preset(name, words))))
        config = to_config(parser, namespace)
        config = config if _names_corrections(config, words) else _with_remembered(config)
        if namespace.print_config:
            print(to_yaml(config), end="")
            return None
        named = ["as_json", "dry_run", "restart", *(flag.lstrip("-") for flag, *_ in (*verb.flags, *verb.values))]
        named += [positional[0] for positional in (verb.positional, verb.second) if positional]
        named = [name.replace("-", "_") for name in named]
        return cls(name, config, {option: getattr(namespace, option, None) for option in named}, tuple(words), verb)

    @property
    def names_corrections(self) -> bool:
        """Whether the command itself says which folder of decisions it reads, or that it reads none."""
        return _names_corrections(self.config, self.words)

    def with_remembered(self) -> "Request":
        """With the folder of decisions that the run in `out` remembers now, unless the command names one."""
        return self if self.names_corrections else replace(self, config=_with_remembered(self.config))

    def run_folder(self) -> RunFolder:
        """The run folder that ``--out`` names."""
        if self.config.out is None:
            raise UsageError(f"{self.verb} needs --out RUN, the folder that the run lives in")
        return RunFolder(self.config.out)

    def lock(self) -> AbstractContextManager[None]:
        """What keeps other commands out of the folder of ``--out`` meanwhile; the main process holds it for all."""
        from tag2mask.distributed import is_main
        from tag2mask.pipeline.lock import held

        if self.config.out is None or self.options["dry_run"] or not is_main():
            return nullcontext()
        # What deletes the files of all shards works alone, whatever its own shard.
        alone = bool(self.options.get("restart"))
        return held(self.config.out, self.verb, None if alone else self.config.shard_of())


@cache
def _parser(name: str, verb: Verb) -> Parser:
    """The parser of a verb; to build one takes a third of a second, and it keeps nothing of what it parses."""
    parser = build_parser(name, verb.description)
    if verb.positional:
        parser.add_argument(verb.positional[0], nargs="?" if name == "evaluate" else None, help=verb.positional[1])
    if verb.second:
        parser.add_argument(verb.second[0], help=verb.second[1])
    for flag, text in verb.flags:
        parser.add_argument(flag, action="store_true", help=text)
    for option, value, text in verb.values:
        parser.add_argument(option, metavar=value, help=text)
    if verb.restarts:
        parser.add_argument(
            "--restart", metavar="STAGE", help="delete what a stage, and all that read it, made; then go on"
        )
    return parser


def _names_corrections(config: Config, words: Sequence[str]) -> bool:
    """Whether a word, or a file of settings other than the run's own, names a folder of decisions; null is one, too."""
    if last_value(words, "--data.corrections") is not None:
        return True
    own = None if config.out is None else str(config.out / "config.yaml")
    files = {after for before, after in pairwise(words) if before == "--config"}
    files |= {word.partition("=")[2] for word in words if word.startswith("--config=")}
    return config.data.corrections is not None and bool(files - {own})


def _with_remembered(config: Config) -> Config:
    """With the folder of decisions that the run in ``--out`` remembers.

    A command that gives ``--config`` does not read the run's own settings; what people decided counts all the same.
    """
    from tag2mask.pipeline.corrections import with_remembered

    return with_remembered(config, config.data.corrections)


def _with_default_preset(name: str, words: Sequence[str]) -> list[str]:
    """`demo` starts from its own preset."""
    if name != "demo":
        return list(words)
    return ["--config", "demo-quick" if "--quick" in words else "demo", *words]
