"""SIGKILL at twenty moments spread over one small `demo` of all stages that need no downloads, and a full disk.

Nothing finished is lost, nothing half-written stands under its final name.
"""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forked import Command, started
from run_tiny import BACKBONE, files_of
from tag2mask.cli import main
from tag2mask.core.files import TEMPORARY_PREFIX, _is_abandoned
from tag2mask.data.cam_files import read_cam
from tag2mask.networks.checkpoint import read_network_info
from tag2mask.quality.features import stored_features
from tag2mask.training.checkpointing import load_state

KILLS = 20
ALL_STAGES = {
    "scenes.classes": "2",
    "scenes.train": "14",
    "scenes.val": "4",
    "scenes.size": "96",
    "train.steps": "8",
    "train.batch_size": "4",
    "train.augment.crop": "80",
    "train.augment.long_side": "[72,112]",
    "refine.method": "irn+crf",
    "edges.steps": "6",
    "edges.batch_size": "4",
    "edges.augment.crop": "64",
    "edges.augment.long_side": "[64,96]",
    "segment.enabled": "true",
    "network.backbone": BACKBONE,
    "segment.network.backbone": BACKBONE,
    "segment.network.weights": "none",
    "segment.steps": "9",
    "segment.batch_size": "2",
    "segment.augment.crop": "65",
    "segment.augment.long_side": "[64,96]",
    "evaluate.splits": "[train,val]",
    "train.checkpoint_every": "2",
    "device": "cpu",
    "workers": "0",
}
KEPT = (".npz", ".png", ".jpg", ".safetensors")


def _started(out: Path, largest_file: int | None = None, **changes: str) -> Command:
    """A small `tag2mask demo` of all stages, which may be able to write no more than so many bytes a file."""
    settings = [word for name, value in (ALL_STAGES | changes).items() for word in (f"--{name}", value)]
    words = ["demo", "--out", str(out), *settings]
    return started(words, out.with_name(f"{out.name}-said"), largest_file=largest_file)


def _finished(out: Path) -> dict[str, bytes]:
    """Every finished output of a run that must survive: scenes, CAMs, masks, the network."""
    found = files_of(out) if out.is_dir() else {}
    return {name: data for name, data in found.items() if name.endswith(KEPT) and TEMPORARY_PREFIX not in name}


def _progress(out: Path) -> int:
    """How far a run is: finished files and lines of the training log."""
    logs = [out / stage / "log.jsonl" for stage in ("train", "edges", "segment")]
    steps = sum(len(log.read_text().splitlines()) for log in logs if log.is_file())
    return steps + sum(path.suffix in KEPT and not path.name.startswith(TEMPORARY_PREFIX) for path in out.rglob("*"))


def _assert_whole(out: Path) -> None:
    """Whatever stands under a final name can be read."""
    for path in out.rglob("*"):
        if path.name.startswith(TEMPORARY_PREFIX) or path.is_dir():
            continue
        if path.is_relative_to(out / "confidence") and path.suffix == ".npz":
            assert stored_features(path) is not None
        elif path.suffix == ".npz":
            read_cam(path)
        elif path.suffix in (".png", ".jpg"):
            np.asarray(Image.open(path))
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            read_network_info(path)
        elif path.suffix == ".pt":
            load_state(path)
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")


def _wait_for_orphans(folder: Path) -> None:
    """A killed process's workers die a moment later; what they write until then is theirs."""
    for _ in range(1500):
        if all(_is_abandoned(path) for path in folder.rglob(f"{TEMPORARY_PREFIX}*")):
            return
        time.sleep(0.02)


def test_killed_twenty_times_a_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = _started(whole)
    assert reference.code() == 0, reference.errors[-500:]
    total = _progress(whole)
    moments = random.Random(0)
    landed = 0
    before: dict[str, bytes] = {}
    for kill in range(KILLS):
        goal = (kill + moments.random()) / KILLS * total
        process = _started(killed).process
        while process.is_alive() and _progress(killed) < goal:
            time.sleep(0.02)
        time.sleep(moments.random() * 0.05)
        landed += process.is_alive()
        process.kill()
        process.join()
        _assert_whole(killed)
        after = _finished(killed)
        assert [name for name, data in before.items() if after.get(name) != data] == []
        before = after
    assert landed >= KILLS - 2, "the kills should come while the run is at work"
    _wait_for_orphans(killed)
    last = _started(killed)
    assert last.code() == 0, last.errors[-500:]
    for folder in ("masks", "cams", "scenes", "edges/labels", "refine/edges", "predictions", "confidence"):
        expected = {name: data for name, data in files_of(whole / folder).items() if name != "stage.json"}
        assert {name: data for name, data in files_of(killed / folder).items() if name != "stage.json"} == expected
    assert (expected := json.loads((whole / "metrics.json").read_text())).keys() >= {"cams", "refine", "segment"}
    assert json.loads((killed / "metrics.json").read_text()) == expected
    assert not list(killed.rglob(f"{TEMPORARY_PREFIX}*"))


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    out, small = tmp_path / "out", {"train.optimizer": "sgd", "train.momentum": "0"}
    for largest_file, done, lacking in (
        (300, ".", "scenes/tags.csv"),
        (20_000, "scenes/tags.csv", "train/state.pt"),
        (2_000_000, "train/network.safetensors", "segment/state.pt"),
    ):
        command = _started(out, largest_file, **small)
        assert command.code() == 1
        said = " ".join(command.errors.split())
        assert f"error: {out}/" in said and "is larger than files may be here; raise the limit" in said, said
        assert (out / done).exists() and not (out / lacking).exists()
        _assert_whole(out)
    assert _started(out, **small).code() == 0
    _assert_whole(out)


def test_a_folder_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--quick", "--out", "/proc/run"]) == 1
    said = capsys.readouterr().err
    assert "/proc/run" in said and "Traceback" not in said


@pytest.mark.parametrize("content", ["", "{", '{"step": 1}\n{"st'])
def test_a_log_that_ends_in_half_a_line_is_taken_up(content: str, tmp_path: Path) -> None:
    from tag2mask.training.log import TrainingLog

    (tmp_path / "log.jsonl").write_text(content)
    log = TrainingLog(tmp_path / "log.jsonl", step=1)
    log.append({"step": 2})
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == ([1, 2] if "step" in content else [2])
