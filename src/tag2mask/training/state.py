"""The resume state of training, and the log beside it."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM, getsignal, signal
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import torch

from tag2mask.errors import Tag2maskError
from tag2mask.files import atomic_path, write_text
from tag2mask.memory import FAULTS_OF_THE_MACHINE


class Interrupted(Tag2maskError):
    """Training was asked to stop, and has saved its state."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume state (tensors, numbers, strings and containers of them), atomically."""
    with atomic_path(path) as temporary:
        torch.save(dict(state), temporary)


def load_state(path: Path, stage: str = "train") -> dict[str, Any]:
    """Read a resume state; nothing in the file can run.

    Raises:
        Tag2maskError: the file is damaged or not a resume state.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch reads flipped bytes without a word
                raise ValueError(f"{damaged} is damaged")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FAULTS_OF_THE_MACHINE:
        raise
    except Exception as error:  # what a damaged file raises is the library's affair, and its advice is not ours
        raise Tag2maskError(
            f"{path} is not a readable resume state ({type(error).__name__}); --restart {stage} begins anew"
        ) from error
    if not isinstance(state, dict):
        raise Tag2maskError(
            f"{path} holds no resume state, but a {type(state).__name__}; --restart {stage} begins anew"
        )
    return state


class TrainingLog:
    """log.jsonl: one JSON object a line, appended; lines from after the resumed step are dropped.

    Attributes:
        path: the file.
        board: a writer of TensorBoard's, or None.
        last: the step of the last line that was kept of an earlier command; 0 without one.
    """

    def __init__(self, path: Path, *, step: int, board: Any = None) -> None:
        """Open the log at ``path`` to go on after ``step``; ``board`` is a writer of TensorBoard's, or None."""
        self.path, self.board = path, board
        kept = [line for line in log_lines(path) if json.loads(line)["step"] <= step]
        self.last: int = json.loads(kept[-1])["step"] if kept else 0
        write_text(path, "".join(f"{line}\n" for line in kept))

    def append(self, values: Mapping[str, float]) -> None:
        """Add one line; ``values`` hold the `step`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values), allow_nan=False) + "\n")
        if self.board is not None:
            for name, value in values.items():
                if name != "step":
                    self.board.add_scalar(name, value, int(values["step"]))
            self.board.flush()


@contextmanager
def training_log(folder: Path, *, step: int, tensorboard: bool) -> Iterator[TrainingLog]:
    """The log of the training in ``folder``, from ``step`` on.

    With ``tensorboard`` the same values also go into the folder `tensorboard` beside it, of which curves from after
    the step are hidden.
    """
    if not tensorboard:
        yield TrainingLog(folder / "log.jsonl", step=step)
        return
    from torch.utils.tensorboard import SummaryWriter  # it is an extra

    with SummaryWriter(folder / "tensorboard", purge_step=step + 1) as board:
        yield TrainingLog(folder / "log.jsonl", step=step, board=board)


def log_lines(path: Path) -> Iterator[str]:
    """The whole lines of a log that may end in half a line."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return
        step = entry.get("step") if isinstance(entry, dict) else None
        if not isinstance(step, int | float) or not 0 <= step < 2**63:  # neither is NaN
            return
        yield line


class StopRequest:
    """Whether SIGTERM or Ctrl-C has come since `listen` began."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.received = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self.received = True

    @contextmanager
    def listen(self) -> Iterator["StopRequest"]:
        """Note SIGTERM and Ctrl-C instead of dying of them; only the main thread can."""
        if current_thread() is not main_thread():
            yield self
            return
        previous = {number: getsignal(number) for number in (SIGINT, SIGTERM)}
        for number in previous:
            signal(number, self._receive)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal(number, handler)
