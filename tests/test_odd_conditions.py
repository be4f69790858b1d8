"""Conditions that are rare and foreseeable: no permission, vanished folders, closed pipes, other encodings."""

import _pyio
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from run_tiny import TINY_WORDS, Capture, run, words
from tag2mask.cli import main
from tag2mask.core.files import TEMPORARY_PREFIX, temporary_name, write_text
from tag2mask.core.machine_errors import system_error
from tag2mask.export import onnx
from tag2mask.runs.lock import run_lock

PROGRAM = [sys.executable, "-m", "tag2mask"]

LINES = [
    (PermissionError(13, "Permission denied", "/data/a.png"), "no permission for /data/a.png, or for a folder above"),
    (PermissionError(1, "Operation not permitted", "/data/a.png"), "no permission for /data/a.png"),
    (OSError(30, "Read-only file system", "/data/a.png"), "/data/a.png is on a file system that is read-only; use"),
    (FileNotFoundError(2, "No such file or directory", "/data/a.png"), "/data/a.png does not exist; see whether"),
    (
        OSError(36, "File name too long", b"/data/a.png"),
        "the file system allows no name as long as that of /data/a.png",
    ),
    (NotADirectoryError(20, "Not a directory", "/data/a.png"), "/data/a.png cannot exist, since a part of its path is"),
    (IsADirectoryError(21, "Is a directory", "/data/a.png"), "/data/a.png is a folder, and should be a file; rename"),
    (OSError(116, "Stale file handle", "/data/a.png"), "the system cannot use /data/a.png (Stale file handle); see"),
    (OSError("of a library"), "the system cannot use a file (of a library); see whether its disk is connected"),
]


@pytest.mark.parametrize(("error", "line"), LINES, ids=[str(error) for error, _ in LINES])
def test_each_error_of_the_system_has_its_line(error: OSError, line: str) -> None:
    assert system_error(error).startswith(line) and "; finished files are kept" in system_error(error)


def test_a_temporary_file_is_named_as_the_file_that_it_becomes() -> None:
    error = PermissionError(13, "Permission denied", f"/data/{temporary_name('masks')}")
    assert system_error(error).startswith("no permission for /data/masks, or")


def _command(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as a user who may not read what its mode forbids; root may otherwise."""
    begin = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root may read and write everything")
        begin = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
    return subprocess.run([*begin, *PROGRAM, *arguments], capture_output=True, text=True, timeout=200)


FORBIDDEN = {
    "a run folder": ("out", 0o555, ["cams", "out"], "run.lock"),
    "a run folder that may not be read": ("out", 0o000, ["report", "out"], "config.yaml"),
    "settings": ("out/config.yaml", 0o000, ["cams", "out"], ""),
    "a folder of images": ("scenes/train", 0o000, ["check", "scenes"], ""),
    "the place of a run": ("place", 0o555, ["run", "scenes", "--out", "place/new", *TINY_WORDS], "new"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_may_not_be_read_or_written_is_named(name: str, scenes: Path, copied: Path) -> None:
    place, mode, arguments, below = FORBIDDEN[name]
    folder = copied.parent
    shutil.copytree(scenes, folder / "scenes")
    (folder / "place").mkdir()
    done = _without_right(folder / place, mode, [_below(folder, word) for word in arguments])
    assert done.returncode == 1 and "Errno" not in done.stderr
    assert f"error: no permission for {folder / place / below}, or for a folder above it" in done.stderr


def test_a_network_that_may_not_be_read_is_named(copied: Path) -> None:
    done = _without_right(copied / "train/network.safetensors", 0o000, ["cams", str(copied), "--restart", "cams"])
    assert done.returncode == 1 and "could not be read as a .safetensors file (Permission denied)" in done.stderr


def _below(folder: Path, word: str) -> str:
    return str(folder / word) if word.partition("/")[0] in ("out", "scenes", "place") else word


def _without_right(place: Path, mode: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    before = place.stat().st_mode
    place.chmod(mode)
    try:
        return _command(arguments)
    finally:
        place.chmod(before)


def test_an_output_below_a_file_is_no_damaged_lock(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert run("train", scenes, tmp_path / "file/out") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path}/file/out cannot exist, since a part of its path is a file" in said


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help-all"], ["check", "{scenes}", "--json"]], ids=str)
def test_a_reader_that_ends_early_hears_nothing(arguments: list[str], scenes: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        given = [word.format(scenes=scenes) for word in arguments]
        done = subprocess.run([*PROGRAM, *given], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=200)
    finally:
        os.close(writing)
    assert done.returncode == 1 and "rror" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_output_on_a_full_disk_is_named(scenes: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=200)
    assert done.returncode == 1 and done.stderr.startswith("error: no space left on the disk of the output")
    assert len(done.stderr.splitlines()) == 1


def test_any_locale_gets_whole_help_and_json(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "städte…")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for arguments in (["--help"], ["run", "--help"], ["check", str(tmp_path / "städte…"), "--json"]):
        done = subprocess.run([*PROGRAM, *arguments], env=environment, capture_output=True, timeout=200)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode())["root"].endswith("städte…")


def test_tables_have_the_same_line_ends_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "linesep", "\r\n")
    monkeypatch.setattr(io, "open", _pyio.open)  # the one in C writes the ends of its own system
    write_text(tmp_path / "images.csv", "image,tags\r\none.jpg,cat\n")
    assert (tmp_path / "images.csv").read_bytes() == b"image,tags\r\none.jpg,cat\n"


def test_a_deleted_current_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["check", "."]) == 2
    assert "the current folder was deleted; change to one that exists" in capsys.readouterr().err


def test_want_of_shared_memory_is_named(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(get_context()), "Lock", full)
    assert run("train", scenes, tmp_path / "out", workers="2") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "/dev/shm gives none (No space left on device); make room there, or use --workers 0" in said


@pytest.mark.parametrize("part", ["out", "scenes"])
def test_a_folder_that_disappears_is_named(
    part: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    shutil.copytree(scenes, tmp_path / "scenes")
    from tag2mask.training.log import TrainingLog

    append: Callable[..., None] = TrainingLog.append

    def disappears(log: TrainingLog, values: dict[str, object]) -> None:
        append(log, values)
        shutil.rmtree(tmp_path / part)
        monkeypatch.setattr(TrainingLog, "append", append)

    monkeypatch.setattr(TrainingLog, "append", disappears)
    assert main(words("train", tmp_path / "scenes", tmp_path / "out", train__steps="40")) == 1
    said = " ".join(capsys.readouterr().err.split())
    line = "out/train/log.jsonl does not exist; see whether" if part == "out" else "not one image of the training set"
    assert line in said and "Errno" not in said


def _lock_often(folder: Path, failures: list[str]) -> None:
    for _ in range(60):
        try:
            with run_lock(folder, "train"):
                pass
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")


def test_commands_that_start_at_once_on_a_new_folder(tmp_path: Path) -> None:
    """Each makes the folder and removes it again."""
    context = get_context("fork")
    with context.Manager() as manager:
        failures = manager.list()
        each = [context.Process(target=_lock_often, args=(tmp_path / "new/out", failures)) for _ in range(6)]
        for process in each:
            process.start()
        for process in each:
            process.join()
        assert not [line for line in failures if "is being written to by" not in line]


def test_an_export_that_was_killed_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    name = temporary_name("network.onnx").replace(f"~{os.getpid()}~", f"~{ended.pid}~")
    mine, other = tmp_path / temporary_name("network.onnx"), tmp_path / name.replace("network", "other")
    for path in (tmp_path / name, mine, other):
        path.write_text("")

    class Stops(Exception):
        pass

    def stops(*arguments: object) -> None:
        raise Stops

    from segmenters import TinySegmenter

    monkeypatch.setattr(onnx, "require_onnx", lambda: None)
    monkeypatch.setattr(onnx, "_trace_and_check", stops)
    monkeypatch.setitem(sys.modules, "onnx", onnx)
    with pytest.raises(Stops):
        onnx.export_onnx(TinySegmenter(), tmp_path / "network.onnx")
    assert set(tmp_path.glob(f"{TEMPORARY_PREFIX}*")) == {mine, other}
