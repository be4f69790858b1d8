"""A stage done by several processes: which of its work each does, and what they came to together."""

from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from tag2mask.distributed import gathered, is_main, process_count, process_number
from tag2mask.errors import UsageError
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.pipeline.stage import Distribution

Work = Callable[[Config, RunFolder, Console], StageResult]
"""What a stage does, or what else is done in a run folder."""


def require_no_shard(config: Config) -> None:
    """Refuse ``--shard`` where several processes share the work out by themselves.

    Raises:
        UsageError: both are given.
    """
    if config.shard is not None and process_count() > 1:
        raise UsageError(
            "--shard is for commands that know nothing of each other; the processes of torchrun share the work out by "
            "themselves: leave it out"
        )


def do_together(
    name: str, work: Work, distribution: Distribution, config: Config, run: RunFolder, console: Console
) -> StageResult:
    """Do some work, all processes together; returns at every process when all are done, with what they all did.

    Args:
        name: of the work.
        work: it.
        distribution: how the processes share it.
        config: every setting.
        run: the run folder, which all processes see.
        console: for progress.
    """
    if process_count() == 1:
        return work(config, run, console)
    if distribution == "main":
        return _merged(name, gathered(work(config, run, console) if is_main() else StageResult(name)))
    parts = []
    if "shard" in distribution:
        shard = f"{process_number() + 1}/{process_count()}"
        parts.append(_merged(name, gathered(work(replace(config, shard=shard), run, console))))
    if "join" in distribution:
        parts.append(gathered(work(config, run, console))[0])  # one work, and all say the same
    return _merged(name, parts)


def _merged(name: str, results: list[StageResult]) -> StageResult:
    """What several did, each something else."""
    whole = StageResult(name)
    for result in results:
        whole.done += result.done
        whole.skipped += result.skipped
        whole.failed |= result.failed
        whole.figures |= result.figures
        whole.comparisons += result.comparisons
        whole.notes += [note for note in result.notes if note not in whole.notes]
    return whole
