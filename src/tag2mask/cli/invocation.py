"""A command as it was called: its settings, and what all commands share."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from tag2mask.core.distributed import is_main
from tag2mask.core.errors import UsageError
from tag2mask.runs.config import Config
from tag2mask.runs.lock import held
from tag2mask.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Invocation:
    """A command as it was called.

    Attributes:
        command: its name.
        config: every setting.
        given: the settings that the command line itself names, with their values as text.
        on_top_of: the same settings over those of a run folder.
        dry_run: say what would be done, and stop.
        as_json: the result as JSON.
        quiet: write no result.
    """

    command: str
    config: Config
    given: Mapping[str, str]
    on_top_of: Callable[[Path], Config]
    dry_run: bool = False
    as_json: bool = False
    quiet: bool = False

    def with_config(self, config: Config) -> "Invocation":
        """The same with other settings."""
        return replace(self, config=config)

    def run_folder(self) -> RunFolder:
        """The run folder that ``--out``, or the command's argument, names."""
        if self.config.out is None:
            writes_elsewhere = self.command in ("predict", "export")
            place = "FOLDER, where the result goes" if writes_elsewhere else "RUN, the run folder"
            raise UsageError(f"{self.command} needs --out {place}")
        return RunFolder(self.config.out)

    def lock(self, *, alone: bool = False) -> AbstractContextManager[None]:
        """Keeps other commands out of `out` meanwhile; the main process holds it for all.

        Args:
            alone: it deletes the files of all shards, so it shares the folder with no other shard.
        """
        if self.config.out is None or self.dry_run or not is_main():
            return nullcontext()
        return held(self.config.out, self.command, None if alone else self.config.shard_of())
