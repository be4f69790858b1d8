"""A parsed command line: the settings and the options that all commands share."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from tag2mask.cli.console import errors
from tag2mask.core.distributed import is_main
from tag2mask.core.errors import UsageError
from tag2mask.runs.config import Config
from tag2mask.runs.lock import run_lock
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Invocation:
    """A parsed command line.

    Attributes:
        command: the name of the command.
        config: all settings.
        given: the settings that the command line itself names, with their values as text.
        on_top_of: the settings of the command line over those of a run folder.
        dry_run: print what would be done, and stop.
        as_json: print the result as JSON.
        quiet: print neither progress nor notes.
        profile: print where the time of each stage goes.
        shows_result: print the result.
        results: those of the stages, added as they arrive.
    """

    command: str
    config: Config
    given: Mapping[str, str]
    on_top_of: Callable[[Path], Config]
    dry_run: bool = False
    as_json: bool = False
    quiet: bool = False
    profile: bool = False
    shows_result: bool = True
    results: list[StageResult] = field(default_factory=list)

    def with_config(self, config: Config) -> "Invocation":
        """A copy with other settings."""
        return replace(self, config=config)

    @property
    def console(self) -> Console:
        """Standard error for progress and notes, of the main process alone."""
        return errors(quiet=self.quiet or not is_main())

    def run_folder(self) -> RunFolder:
        """The run folder: ``--out``, or the command's argument.

        Raises:
            UsageError: neither is given.
        """
        if self.config.out is None:
            writes_elsewhere = self.command in ("predict", "export")
            place = "FOLDER, where the result goes" if writes_elsewhere else "RUN, the run folder"
            raise UsageError(f"{self.command} needs --out {place}")
        return RunFolder(self.config.out)

    def lock(self, *, alone: bool = False) -> AbstractContextManager[None]:
        """The lock of `out` against other commands; the main process holds it for all processes.

        Args:
            alone: also exclude other shards, because the command deletes the files of all shards.
        """
        if self.config.out is None or self.dry_run or not is_main():
            return nullcontext()
        return run_lock(self.config.out, self.command, None if alone else self.config.shard_of())
