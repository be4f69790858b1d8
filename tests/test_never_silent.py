"""A user sees that something is going on, how long it takes, and that Ctrl-C was heard."""

import os
import pty
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from time import monotonic, sleep

import pytest
from rich.console import Console

from forked import started
from run_tiny import words
from tag2mask.runs import progress
from tag2mask.training.checkpointing import SignalHandler

STEPS = "100000"


def _wait_for(path: Path, lines: int) -> None:
    until = monotonic() + 120
    while not path.is_file() or len(path.read_text().splitlines()) < lines:
        assert monotonic() < until
        sleep(0.05)


def test_ctrl_c_answers_at_once_and_is_not_an_error(scenes: Path, tmp_path: Path) -> None:
    command = started(words("train", scenes, tmp_path / "run", train__steps=STEPS), tmp_path / "said")
    _wait_for(tmp_path / "run/train/log.jsonl", 3)
    os.kill(command.pid, signal.SIGINT)
    assert command.code() == 1
    heard, stopped = command.errors.strip().splitlines()[-2:]
    assert heard == "stopping after this step and saving its state; Ctrl-C again stops at once"
    assert stopped.startswith("stopped at step ") and "error:" not in command.errors
    assert (tmp_path / "run/train/state.pt").is_file()


def test_a_second_ctrl_c_stops_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with SignalHandler().listen() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.received and "stopping after this step" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_terminal_says_at_once_that_it_loads() -> None:
    main, other = pty.openpty()
    command = [sys.executable, "-m", "tag2mask", "run", "--help"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=other) as process:
        first = os.read(main, 100).decode()
        assert process.poll() is None, "it still loads"
    os.close(other)
    assert first.startswith("loading …")
    assert process.returncode == 0


def test_a_log_says_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    text = StringIO()
    with progress.progress_bar(Console(file=text, width=200), "train", 1000) as advance:
        for step in range(1, 1001):
            now[0] += 2.0
            advance(step, "loss 0.5")
    lines = text.getvalue().splitlines()
    assert lines[0] == "train: 3/1000 loss 0.5 (0:33:14 left)", "after some seconds, not after a quarter"
    assert lines[1] == "train: 34/1000 loss 0.5 (0:32:12 left)", "every minute"
    assert lines[-1] == "train: 1000/1000 loss 0.5"


def test_a_bar_moves_with_every_step(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tag2mask.cli import main
    from tag2mask.runs.progress import Console as Shown

    seen: list[int] = []

    class Counting:
        def __init__(self, console: Shown, title: str, total: int) -> None: ...

        def __call__(self, done: int, note: str = "") -> None:
            seen.append(done)

    monkeypatch.setattr(progress, "_PlainLines", Counting)
    assert main(words("train", scenes, tmp_path / "run", train__steps="7", train__log_every="5")) == 0
    assert seen == [1, 2, 3, 4, 5, 6, 7]
