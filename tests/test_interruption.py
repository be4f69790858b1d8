"""SIGKILL at ten moments spread over one `demo --quick`: nothing finished is lost, nothing half-written stands."""

import json
import multiprocessing
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from run_tiny import files_of
from tag2mask.cam_files import read_cam
from tag2mask.cli import main
from tag2mask.files import TEMPORARY_PREFIX, _is_abandoned
from tag2mask.networks import load_network
from tag2mask.training.state import load_state

KILLS = 10
KEPT = (".npz", ".png", ".jpg", ".safetensors")


def _demo(out: str) -> None:
    """`tag2mask demo --quick` in a process of its own."""
    raise SystemExit(
        main(["demo", "--quick", "--out", out, "--device", "cpu", "--workers", "0", "--train.checkpoint_every", "2"])
    )


def _started(out: Path) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tag2mask.cli", "tag2mask.pipeline.run", "tag2mask.pipeline.demo"])
    process = context.Process(target=_demo, args=(str(out),))
    process.start()
    return process


def _finished(out: Path) -> dict[str, bytes]:
    """Every finished output of a run that must survive: scenes, CAMs, masks, the network."""
    found = files_of(out) if out.is_dir() else {}
    return {name: data for name, data in found.items() if name.endswith(KEPT) and TEMPORARY_PREFIX not in name}


def _progress(out: Path) -> int:
    """How far a run is: finished files and lines of the training log."""
    log = out / "train/log.jsonl"
    steps = len(log.read_text().splitlines()) if log.is_file() else 0
    return steps + sum(path.suffix in KEPT and not path.name.startswith(TEMPORARY_PREFIX) for path in out.rglob("*"))


def _assert_whole(out: Path) -> None:
    """Whatever stands under a final name can be read."""
    for path in out.rglob("*"):
        if path.name.startswith(TEMPORARY_PREFIX) or path.is_dir():
            continue
        if path.suffix == ".npz":
            read_cam(path)
        elif path.suffix in (".png", ".jpg"):
            np.asarray(Image.open(path))
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_network(path)
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


def test_killed_ten_times_a_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = _started(whole)
    reference.join()
    assert reference.exitcode == 0
    total = _progress(whole)
    moments = random.Random(0)
    landed = 0
    for kill in range(KILLS):
        goal = (kill + moments.random()) / KILLS * total
        before = _finished(killed)
        process = _started(killed)
        while process.is_alive() and _progress(killed) < goal:
            time.sleep(0.02)
        time.sleep(moments.random() * 0.05)
        landed += process.is_alive()
        process.kill()
        process.join()
        _assert_whole(killed)
        after = _finished(killed)
        assert [name for name, data in before.items() if after.get(name) != data] == []
    assert landed >= KILLS - 2, "the kills should come while the run is at work"
    _wait_for_orphans(killed)
    last = _started(killed)
    last.join()
    assert last.exitcode == 0
    for folder in ("masks", "cams", "scenes"):
        expected = {name: data for name, data in files_of(whole / folder).items() if name != "stage.json"}
        assert {name: data for name, data in files_of(killed / folder).items() if name != "stage.json"} == expected
    assert json.loads((killed / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())
    assert not list(killed.rglob(f"{TEMPORARY_PREFIX}*"))


@pytest.mark.parametrize("content", ["", "{", '{"step": 1}\n{"st'])
def test_a_log_that_ends_in_half_a_line_is_taken_up(content: str, tmp_path: Path) -> None:
    from tag2mask.training.state import TrainingLog

    (tmp_path / "log.jsonl").write_text(content)
    log = TrainingLog(tmp_path / "log.jsonl", step=1)
    log.append({"step": 2})
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == ([1, 2] if "step" in content else [2])
