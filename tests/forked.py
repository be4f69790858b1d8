"""Commands in processes of their own, without the seconds that each would need to import the program.

A server that has imported it forks a process for each of them; all else is as if they had been typed.
"""

import multiprocessing
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_PRELOADED = [
    "tag2mask.cli.stages",
    "tag2mask.cli.verbs",
    "tag2mask.pipeline.demo",
    "tag2mask.pipeline.run",
    "tag2mask.review.app",
    "accelerate",
    "torch._dynamo",  # every optimiser imports it
    "transformers.models.resnet.modeling_resnet",
]


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

    def code(self, timeout: float = 500) -> int:
        """Its exit code, when it has ended; minus a signal's number."""
        self.process.join(timeout)
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
        answers: a folder for what it says, which is made; what stands there is added to.
        folder: the working folder.
        environment: more of it.
        largest_file: bytes that a file may have; longer ones fail, as on a full disk.
    """
    answers.mkdir(parents=True, exist_ok=True)
    for name in ("said", "errors"):
        (answers / name).touch()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=_do, args=(words, answers, folder or Path.cwd(), environment or {}, largest_file))
    process.start()
    return Command(process, answers)


def together(count: int, words: list[str], answers: Path) -> list[Command]:
    """The ended processes of one command that do it together, as `torchrun` has them: where one fails, all end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    commands = [
        started(words, answers / str(rank), environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    alive = commands
    while alive:
        wait([command.process.sentinel for command in alive], timeout=500)
        alive = [command for command in alive if command.process.is_alive()]
        if any(command.process.exitcode for command in commands):
            for command in alive:
                command.process.kill()
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
