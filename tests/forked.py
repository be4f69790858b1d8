"""Commands in processes of their own, without the seconds that each would need to import the program.

A server that has imported it forks a process for each of them. What differs from a typed command: torch is loaded from
the start, the environment is the server's but for what is given, and there is no standard input.
"""

import multiprocessing
import os
import resource
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from time import monotonic

from torch.distributed import TCPStore

_PRELOADED = [
    "tag2mask.cli.stages",
    "tag2mask.cli.run",
    "tag2mask.workflows.demo",
    "tag2mask.stages.registry",
    "tag2mask.review",
    "accelerate",
    "torch._dynamo",  # every optimiser imports it
    "transformers.models.resnet.modeling_resnet",
]

PATIENCE = 500.0
"""Seconds that commands have to end."""

_begun: list[ForkServerProcess] = []


@dataclass(frozen=True)
class Command:
    """A `tag2mask` command at work, or done."""

    process: ForkServerProcess
    folder: Path

    @property
    def pid(self) -> int:
        """Its process number."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def said(self) -> str:
        """Its standard output so far."""
        return (self.folder / "said").read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """Its standard error so far."""
        return (self.folder / "errors").read_text(encoding="utf-8")

    def code(self) -> int:
        """Its exit code, when it has ended; minus a signal's number."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"it did not end; it said {self.errors}"
        return self.process.exitcode


def started(
    words: list[str],
    answers: Path,
    *,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    largest_file: int | None = None,
) -> Command:
    """Start ``tag2mask WORDS``.

    Args:
        words: all after `tag2mask`.
        answers: a folder for what it says, which is made; what an earlier command said there is deleted.
        folder: the working folder.
        environment: besides the server's.
        largest_file: bytes that a file may have; longer ones fail, as on a full disk.
    """
    answers.mkdir(parents=True, exist_ok=True)
    for name in ("said", "errors"):
        (answers / name).write_text("")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=_do, args=(words, answers, folder or Path.cwd(), environment or {}, largest_file))
    process.start()
    _begun.append(process)
    return Command(process, answers)


def end_all() -> None:
    """Kill what a test left at work."""
    while _begun:
        process = _begun.pop()
        process.kill()
        process.join()


def started_together(count: int, words: list[str], answers: Path) -> tuple[list[Command], TCPStore]:
    """The processes of one command that do it together, as below `torchrun`; the store has to live as long."""
    meeting = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(meeting.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    commands = [
        started(words, answers / str(rank), environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    return commands, meeting


def together(count: int, words: list[str], answers: Path) -> list[Command]:
    """The ended processes of one command that do it together, as below `torchrun`: where one fails, all end."""
    commands, _store = started_together(count, words, answers)
    alive, until = commands, monotonic() + PATIENCE
    while alive:
        wait([command.process.sentinel for command in alive], timeout=max(until - monotonic(), 0))
        alive = [command for command in alive if command.process.is_alive()]
        if monotonic() > until or any(command.process.exitcode for command in commands):
            for command in alive:
                command.process.kill()
                command.process.join()
            break
    assert monotonic() < until, [command.errors for command in commands]
    return commands


def _do(words: list[str], answers: Path, folder: Path, environment: dict[str, str], largest_file: int | None) -> None:
    from tag2mask.cli.main import script

    for name, number in (("said", 1), ("errors", 2)):
        with (answers / name).open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.environ |= environment
    os.chdir(folder)
    sys.argv = ["tag2mask", *words]
    script()
