"""What the machine may do to a command: a full disk, no memory, killed and stopped processes, variables left behind.

Each has a line with its cause and its remedy, and the same command goes on afterwards.
"""

import errno
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError

from forked import started_together
from run_tiny import BACKBONE, Capture, run, words
from tag2mask.cams.clip.npy_files import NpyCams, write_npy_cams
from tag2mask.cli import main
from tag2mask.core.files import atomic_path, write_json
from tag2mask.core.machine_errors import DiskFullError, machine_error
from tag2mask.data.arrow_rows import ArrowWriter
from tag2mask.data.cam_files import CamFile, write_cam
from tag2mask.data.images import write_jpeg, write_mask
from tag2mask.networks import SegmentationNetworkSettings, build_segmentation_network, save_network
from tag2mask.networks.backbones import huggingface
from tag2mask.training.checkpointing import save_state
from tag2mask.training.log import TrainingLog

LINES = [
    (MemoryError(), "out of memory (MemoryError"),
    (RuntimeError("could not create a primitive"), "out of memory ("),
    (RuntimeError("std::bad_alloc"), "out of memory ("),
    (OSError(errno.EMFILE, "Too many open files", "a.png"), "too many open files ("),
    (
        RuntimeError("Too many open files. Communication with the workers is no longer possible."),
        "too many open files (",
    ),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a process that reads images was killed"),
    (OSError("Caught OSError in DataLoader worker process 0. [Errno 24] Too many open files"), "too many open files"),
    (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "a process that reads images"),
    (BrokenProcessPool("A process in the process pool was terminated abruptly"), "a process that reads images was"),
    (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"), "another process of this command is"),
    (torch.distributed.DistNetworkError("failed to connect"), "another process of this command is lost"),
    (RuntimeError("can't start new thread"), "the system starts no more processes or threads"),
    (OSError(errno.ENOSPC, "No space left on device", "a.png"), "no space left on the disk of a.png; free some"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "a.png"), "the disk quota for a.png is used up"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "no space left on the disk of the output"),
]


@pytest.mark.parametrize(("error", "line"), LINES, ids=[line[:20] for _, line in LINES])
def test_each_has_its_line(error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fails(words: list[str]) -> int:
        raise ValueError("what a library makes of it") from error

    monkeypatch.setattr(import_module("tag2mask.cli.main"), "_dispatch", fails)
    assert main(["cams"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"error: {line}") and "and the same command" in said, said


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file", "shared memory"),
        ValueError("NaN"),
        KeyError(),
        ValueError("Caught ValueError in DataLoader worker process 0."),
    ],
)
def test_other_errors_are_not_of_the_machine(error: Exception) -> None:
    assert machine_error(error) is None


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files may have so many bytes; Python ignores the signal for longer ones."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _network(path: Path) -> None:
    settings = SegmentationNetworkSettings(backbone=BACKBONE, weights="none")
    save_network(path, build_segmentation_network(settings, ("cat",), seed=0))


def _rows(path: Path) -> None:
    writer = ArrowWriter(pa.schema([("id", pa.int64())]))
    for number in range(100):
        writer.append((number,))
    writer.finish().save(path)


def _arrays(path: Path) -> None:
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, a=noise(90, 90))


def noise(*shape: int) -> np.ndarray:
    """Bytes that cannot be compressed."""
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


MAPS = noise(2, 90, 90).astype(np.float16) / 255
WRITERS: dict[str, Callable[[Path], object]] = {
    "state.pt": lambda path: save_state(path, {"network": {"a": torch.rand(2000), "b": torch.rand(9)}}),
    "network.safetensors": _network,
    "cam.npz": lambda path: write_cam(path, CamFile(np.array([1, 2]), MAPS, (90, 90))),
    "cams.npy": lambda path: write_npy_cams(path, NpyCams(np.array([0, 1]), MAPS)),
    "mask.png": lambda path: write_mask(path, noise(90, 90)),
    "data.arrow": _rows,
    "record.json": lambda path: write_json(path, {"a": "x" * 900}),
    "picture.jpg": lambda path: write_jpeg(path, noise(90, 90, 3), quality=95),
    "index.npz": _arrays,
    "log.jsonl": lambda path: TrainingLog(path, step=0).append({"x" * 900: 1.0, "step": 1}),
}


@pytest.mark.parametrize("size", [0, 600])
@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_names_the_disk(name: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "log.jsonl" and not size:
        path.write_text("")
    with pytest.raises(DiskFullError) as caught, largest_file(size):
        WRITERS[name](path)
    named = "the folder for temporary files" if name == "data.arrow" else name
    assert named in str(caught.value) and list(tmp_path.iterdir()) == ([path] if name == "log.jsonl" else [])
    WRITERS[name](path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A function that makes a disk of so many kibibytes, or changes its size; skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(size: int) -> Path:
        options = f"size={size}k" if not place.is_mount() else f"remount,size={size}k"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("only root may mount a disk")
        return place

    yield sized
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


SEGMENT = {
    "segment__labels": "truth",
    "segment__network__backbone": BACKBONE,
    "segment__network__weights": "none",
    "segment__steps": "2",
}
STAGES = {"train": {}, "cams": {}, "edges": {"edges__steps": "2"}, "refine": {}, "segment": SEGMENT, "confidence": {}}
STAGES |= {"evaluate": {"evaluate__splits": "[train]"}, "report": {}}
CROPS = {"batch_size": "2", "augment__crop": "64", "augment__long_side": "[56,80]"}
SMALL = {stage: {f"{stage}__{name}": value for name, value in CROPS.items()} for stage in ("edges", "segment")}


def test_at_every_stage_a_full_disk_is_named(scenes: Path, small_disk: Callable[[int], Path], capsys: Capture) -> None:
    """The same command goes on from there, with a little more space each time."""
    size, out, places = 16, small_disk(16) / "out", set[str]()
    for stage, settings in STAGES.items():
        full = set()
        while run(stage, scenes, out, **settings, **SMALL.get(stage, {})):
            said = " ".join(capsys.readouterr().err.split())
            assert f"no space left on the disk of {out}/" in said and "error: unexpected" not in said, said
            assert "free some, and the same command continues from there" in said
            full.add(said.partition(f"{out}/")[2].partition(";")[0])
            size += max(4, size // 10)
            small_disk(size)
        capsys.readouterr()
        size = sum(path.stat().st_blocks for path in out.rglob("*")) // 2 + 4
        small_disk(size)
        assert full, f"{stage} needed no space"
        places |= {name.split("/")[0] for name in full}
    assert {"train", "edges", "segment"} <= places, places


VARIABLES = [
    {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
    {"WORLD_SIZE": "2"},
    {"WORLD_SIZE": "many"},
    {"LOCAL_RANK": "0"},
    {"OMPI_COMM_WORLD_SIZE": "2"},
]


@pytest.mark.parametrize("verb", ["train", "predict", "check"])
@pytest.mark.parametrize("variables", VARIABLES, ids=str)
def test_variables_that_an_earlier_job_left_are_named(
    verb: str, variables: dict[str, str], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    arguments = {
        "train": words("train", scenes, tmp_path / "out"),
        "predict": ["predict", BACKBONE, str(scenes), "--out", str(tmp_path / "out")],
        "check": ["check", str(scenes)],
    }
    assert main(arguments[verb]) == 2
    said = " ".join(capsys.readouterr().err.split())
    name, value = next(iter(variables.items()))
    assert (
        f"the environment says {name}={value}" in said
        and f"unset {name}" in said
        and "start the command with torchrun" in said
    )
    assert not (tmp_path / "out").exists()


@contextmanager
def training(scenes: Path, out: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A training with two processes that read images, after its first steps, and these processes."""
    arguments = words("train", scenes, out, train__steps="100000", workers="2")
    command = subprocess.Popen([sys.executable, "-m", "tag2mask", *arguments], stderr=subprocess.PIPE, text=True)
    log, until = out / "train/log.jsonl", time.monotonic() + 100
    try:
        while not (log.is_file() and len(log.read_text().splitlines()) > 3):
            assert command.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        readers = psutil.Process(command.pid).children()
        assert len(readers) == 2
        yield command, readers
        assert not any(reader.is_running() for reader in readers)
    finally:
        command.kill()


def test_a_killed_process_that_reads_images_is_named(scenes: Path, tmp_path: Path) -> None:
    with training(scenes, tmp_path / "out") as (command, readers):
        readers[0].kill()
        said = command.communicate(timeout=100)[1]
        assert command.returncode == 1 and "error: unexpected" not in said
        assert "error: a process that reads images was killed (" in said and "fewer --workers" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_processes_that_read_images_do_not_keep_a_command(
    number: signal.Signals, scenes: Path, tmp_path: Path
) -> None:
    with training(scenes, tmp_path / "out") as (command, readers):
        for reader in readers:
            reader.suspend()
        time.sleep(1)  # until nothing is read ahead
        command.send_signal(number)
        said = command.communicate(timeout=100)[1]
        assert command.returncode == 1 and "stopped at step" in said and "the state is saved" in said, said
    assert (tmp_path / "out/train/state.pt").is_file()


def test_a_lost_process_of_several_is_named(scenes: Path, tmp_path: Path) -> None:
    arguments = words("train", scenes, tmp_path / "out", train__steps="100000", network__batch_norm="fixed")
    first, second = started_together(2, arguments, tmp_path / "said")
    log, until = tmp_path / "out/train/log.jsonl", time.monotonic() + 100
    while not (log.is_file() and len(log.read_text().splitlines()) > 3):
        assert first.process.is_alive() and time.monotonic() < until, first.errors
        time.sleep(0.02)
    second.process.kill()
    assert first.code() == 1
    assert "error: another process of this command is lost (" in first.errors, first.errors


def test_another_number_of_threads_is_noted(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("train", scenes, tmp_path / "out") == 0
    (tmp_path / "out/train/network.safetensors").unlink()
    state = torch.load(tmp_path / "out/train/state.pt", weights_only=True)
    now = torch.get_num_threads()
    assert state["threads"] == now
    for threads, expected in (
        (now, "resumed at step 1 of 4\n"),
        (77, f"1 of 4 with {now} threads instead of 77"),
    ):
        torch.save({**state, "threads": threads, "step": 1}, tmp_path / "out/train/state.pt")
        capsys.readouterr()
        assert run("train", scenes, tmp_path / "out") == 0
        assert expected in capsys.readouterr().err
        (tmp_path / "out/train/network.safetensors").unlink()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fingerprint": 7}'])
def test_the_remedy_for_a_damaged_record_works(content: str, scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert run("train", scenes, out) == run("cams", scenes, out) == 0
    (out / "cams/stage.json").write_text(content)
    capsys.readouterr()
    assert run("cams", scenes, out) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{out}/cams/stage.json" in said and "--restart cams" in said and "delete it" not in said
    assert run("cams", scenes, out, restart="cams") == 0
    assert json.loads((out / "cams/stage.json").read_text())["stage"] == "cams"


def test_a_lack_of_memory_is_not_blamed_on_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(huggingface, "PlainTransformer", full)
    with pytest.raises(MemoryError):
        huggingface.build_from_config({"model_type": "vit", "hidden_size": 16, "num_attention_heads": 2})


def test_too_many_open_files_are_not_blamed_on_an_image(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tag2mask.data.images import image_size

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="Too many open files"):
        image_size(scenes / "any.jpg", pixel_limit=10**6)


@pytest.mark.parametrize("stage", ["train", "edges", "segment"])
def test_a_learning_rate_that_diverges_is_named(stage: str, scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    settings = {f"{stage}__learning_rate": "1e30", f"{stage}__steps": "12"}
    more = SMALL.get(stage, {}) | (SEGMENT if stage == "segment" else {})
    if stage != "train":
        assert run("train", scenes, tmp_path / "out") == run("cams", scenes, tmp_path / "out") == 0
    capsys.readouterr()
    assert run(stage, scenes, tmp_path / "out", **(more | settings)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "not finite" in said and f"--{stage}.learning_rate" in said and "error: unexpected" not in said, said
