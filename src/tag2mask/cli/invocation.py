"""A parsed command line: the settings and the options that all commands share."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from tag2mask.core.distributed import is_main
from tag2mask.core.errors import UsageError
from tag2mask.runs.config import Config
from tag2mask.runs.lock import run_lock
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
        quiet: print no result.
    """

    command: str
    config: Config
    given: Mapping[str, str]
    on_top_of: Callable[[Path], Config]
    dry_run: bool = False
    as_json: bool = False
    quiet: bool = False

    def with_config(self, config: Config) -> "Invocation":
        """A copy with other settings."""
        return replace(self, config=config)

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
