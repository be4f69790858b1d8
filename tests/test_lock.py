"""The lock of a run folder, with real processes: one writes, or those of several shards; the dead give way."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path
from socket import gethostname

import pytest

from forked import Command, started
from hostile_case import bounded
from run_tiny import run, words
from tag2mask.core.errors import UsageError
from tag2mask.runs.lock import run_lock

HOLD = """
import sys, time
from pathlib import Path
from tag2mask.core.errors import UsageError
from tag2mask.runs.lock import run_lock, process_lock

folder, shard, go = Path(sys.argv[1]), eval(sys.argv[2]), Path(sys.argv[3])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
try:
    with process_lock(folder, "cams", shard) if isinstance(shard, int) else run_lock(folder, "cams", shard):
        print("held", flush=True)
        sys.stdin.read()
except UsageError as error:
    print("refused", error, flush=True)
"""


Shard = tuple[int, int] | int | None
"""A shard i/n, the number of another process of the command, or the whole."""


def asking(folder: Path, *each: tuple[Path, Shard]) -> list["subprocess.Popen[str]"]:
    """Processes that take the lock for a shard as soon as a file exists, and hold it until their input ends."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), repr(shard), str(go)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for go, shard in each
    ]
    assert [answer(process) for process in processes] == ["ready"] * len(processes)
    return processes


def answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def release(process: "subprocess.Popen[str]") -> None:
    process.communicate("", timeout=60)


def holding(folder: Path, go: Path, shard: Shard = None) -> "subprocess.Popen[str]":
    go.touch()
    (process,) = asking(folder, (go, shard))
    assert answer(process) == "held"
    return process


def dead(folder: Path, go: Path, shard: tuple[int, int] | None = None) -> int:
    """Leave the lock of a killed process; its number."""
    process = holding(folder, go, shard)
    process.kill()
    process.wait()
    return process.pid


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("run*")) if folder.exists() else []


WHOLE = ["run.lock", "run.lock.json"]
"""The files of a command without a shard."""


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path, stale: bool) -> None:
    folder = tmp_path / "runs/out"
    if stale:
        dead(folder, tmp_path / "before")
        assert locks(folder) == WHOLE
    for attempt in range(3):
        go = tmp_path / f"go{attempt}"
        asked = asking(folder, *[(go, None)] * 5)
        go.touch()
        answers = [answer(process) for process in asked]
        assert sorted(word.split()[0] for word in answers) == ["held", *["refused"] * 4]
        winner = asked[answers.index("held")]
        assert all(f"process {winner.pid} on " in word for word in answers if word != "held")
        for process in asked:
            process.kill() if stale and process is winner else release(process)
            process.wait()
        assert locks(folder) == (WHOLE if stale else [])
    if not stale:  # the last to go may have found it there, and leaves it, empty
        assert not folder.exists() or list(folder.iterdir()) == []


def test_a_folder_that_the_lock_alone_made_goes_with_it(tmp_path: Path) -> None:
    release(holding(tmp_path / "runs/out", tmp_path / "go"))
    assert not (tmp_path / "runs").exists()
    (tmp_path / "empty").mkdir()
    release(holding(tmp_path / "empty", tmp_path / "go"))
    assert (tmp_path / "empty").exists()


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [
        ((1, 2), (2, 2), True),
        ((1, 2), (1, 2), False),
        ((1, 2), (2, 4), False),
        ((1, 2), None, False),
        (None, (1, 2), False),
        ((1, 1), (1, 2), False),
    ],
)
def test_shards_work_together_and_not_with_the_whole(
    tmp_path: Path, first: tuple[int, int] | None, second: tuple[int, int] | None, allowed: bool
) -> None:
    process = holding(tmp_path / "out", tmp_path / "go", first)
    before = locks(tmp_path / "out")
    if allowed:
        with run_lock(tmp_path / "out", "cams", second):
            assert len(locks(tmp_path / "out")) == 4
    else:
        with pytest.raises(UsageError, match="Commands share a folder"), run_lock(tmp_path / "out", "cams", second):
            pass
    assert locks(tmp_path / "out") == before  # the refused one leaves nothing, and takes nothing away
    release(process)


def test_the_dead_give_way_whatever_they_held(tmp_path: Path) -> None:
    for number, shard in enumerate([None, (1, 2), (2, 3)]):
        dead(tmp_path / "out", tmp_path / f"go{number}", shard)
    with run_lock(tmp_path / "out", "run"):
        assert locks(tmp_path / "out") == WHOLE
    assert not locks(tmp_path / "out")


def write(folder: Path, host: str) -> None:
    """Leave what a command of some machine leaves when that stops."""
    folder.mkdir(exist_ok=True)
    (folder / "run.lock").touch()
    said = {"command": "train", "process": 1, "host": host, "since": "yesterday"}
    (folder / "run.lock.json").write_text(json.dumps(said))


def test_only_what_is_known_to_be_dead_gives_way(tmp_path: Path) -> None:
    write(tmp_path / "out", "elsewhere")
    for verb, shard in (("run", None), ("cams", (1, 2))):
        message = rf"`tag2mask train`, process 1 on elsewhere, since yesterday.* delete {tmp_path}/out/run\.lock\.json"
        with pytest.raises(UsageError, match=message), run_lock(tmp_path / "out", verb, shard):
            pass
        assert locks(tmp_path / "out") == WHOLE
    write(tmp_path / "out", gethostname())
    with run_lock(tmp_path / "out", "run"):
        pass
    assert not locks(tmp_path / "out")


def test_a_killed_process_frees_it_though_its_workers_live_on(tmp_path: Path) -> None:
    context = get_context("fork")
    receiver, sender = context.Pipe()

    def work() -> None:
        with run_lock(tmp_path / "out", "train"):
            worker = context.Process(target=signal.pause)
            worker.start()
            sender.send(worker.pid)
            signal.pause()

    process = context.Process(target=work)
    process.start()
    worker = receiver.recv()
    process.kill()
    process.join()
    with run_lock(tmp_path / "out", "run"):
        os.kill(worker, signal.SIGKILL)  # it was there


def test_a_process_that_outlives_the_main_one_keeps_others_out(tmp_path: Path) -> None:
    out, go = tmp_path / "out", tmp_path / "go"
    main_one = holding(out, go)
    second = holding(out, go, 1)
    main_one.kill()
    main_one.wait()
    with (
        pytest.raises(UsageError, match=rf"`tag2mask cams`, process {second.pid} on ") as caught,
        run_lock(out, "train"),
    ):
        pass
    assert "--shard" not in str(caught.value)
    second.kill()
    second.wait()
    with run_lock(out, "train"):
        assert locks(out) == WHOLE


@pytest.mark.parametrize("order", [*permutations(range(3))], ids=str)
def test_whatever_order_they_are_killed_in_a_second_command_waits_for_the_last(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Three processes of a command, the main one first; the second one starts anew, and so excludes all shards."""
    out = tmp_path / "out"
    goes = [tmp_path / f"go{number}" for number in range(3)]
    alive = asking(out, *zip(goes, (None, 1, 2), strict=True))
    for process, go in zip(alive, goes, strict=True):
        go.touch()
        assert answer(process) == "held"
    for place in order:
        with pytest.raises(UsageError, match="is being written to by"), run_lock(out, "train"):
            pass
        alive[place].kill()
        alive[place].wait()
    with run_lock(out, "train"):
        assert locks(out) == WHOLE
    assert not locks(out)


def test_a_pipe_in_place_of_an_owner_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.lock.json")
    with bounded(), run_lock(tmp_path, "run"):
        assert (tmp_path / "run.lock.json").is_file()


def test_the_lock_goes_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path / "out", "run"):
        (tmp_path / "out/masks").mkdir()
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "out") == ["masks"]  # noqa: PTH208


def test_commands_keep_each_other_out(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"

    def training() -> Command:
        command = started(words("train", scenes, out, train__steps="5000"), tmp_path / "said")
        until = time.monotonic() + 100
        while not (out / "run.lock.json").is_file():
            assert command.process.is_alive() and time.monotonic() < until
            time.sleep(0.01)
        return command

    command = training()
    assert run("cams", scenes, out) == 2
    assert f"is being written to by `tag2mask train`, process {command.pid} on " in capsys.readouterr().err
    assert run("cams", scenes, out, shard="1/2") == 2
    command.process.terminate()  # while it still gets ready
    assert command.code() == 1 and "stopped" in command.errors and not locks(out)
    command = training()
    command.process.kill()
    command.process.join()
    assert locks(out) == WHOLE
    capsys.readouterr()
    assert run("cams", scenes, out) == 2
    assert "run `tag2mask train --out" in capsys.readouterr().err  # so it was let in
    assert not locks(out)


def test_a_restart_of_one_shard_waits_for_the_others(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    other = holding(out, tmp_path / "go", (2, 2))
    assert run("cams", scenes, out, shard="1/2", restart="cams") == 2
    assert "is being written to by" in capsys.readouterr().err
    release(other)


def test_training_has_no_shards(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", scenes, tmp_path / "out", shard="1/2") == 2
    assert "one command trains the network for all shards" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSYS, "tag2mask train"),
        (errno.ENOLCK, r"run\.lock cannot be locked \(No locks available\); name a folder"),
    ],
)
def test_a_file_system_without_locks_has_another_way_and_one_whose_locks_fail_is_named(
    number: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refused)
    with pytest.raises(UsageError, match=says), run_lock(tmp_path, "train"), run_lock(tmp_path, "cams"):
        pass
    assert not (tmp_path / "run.lock.json").exists()
