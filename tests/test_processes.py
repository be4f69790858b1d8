"""Several processes, started by torchrun or as it starts them, against one."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import pytest

from forked import started_together, together
from run_tiny import figures, files_of, run, words
from tag2mask.core.errors import UsageError
from tag2mask.runs.lock import run_lock

SETTINGS = {
    "network__batch_norm": "fixed",
    "train__steps": "20",
    "train__optimizer": "sgd",  # AdamW makes the most of a gradient that is nothing but rounding
    "train__learning_rate": "1e-3",
    "refine__method": "irn",
    "edges__steps": "2",
    "edges__batch_size": "4",
    "edges__augment__crop": "64",
    "edges__augment__long_side": "[56,80]",
    "cams__kinds": "[pot]",
    "segment__enabled": "true",
    "segment__labels": "truth",
    "segment__network__backbone": "resnet18",
    "segment__network__output_stride": "16",
    "segment__network__weights": "none",
    "segment__network__batch_norm": "fixed",
    "segment__steps": "20",
    "segment__batch_size": "4",
    "segment__learning_rate": "1e-4",
    "segment__augment__crop": "64",
    "segment__augment__long_side": "[56,80]",
    "evaluate__splits": "[train,val]",
}


def torchrun(count: int, arguments: list[str]) -> list[str]:
    """The words of a command by several processes."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--rdzv-backend=c10d"]
    return [sys.executable, *launcher, "--rdzv-endpoint=localhost:0", "-m", "tag2mask", *arguments]


@pytest.fixture(scope="module")
def alone(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run by one process."""
    out = tmp_path_factory.mktemp("processes") / "alone"
    assert run("run", scenes, out, **SETTINGS) == 0
    return out


@pytest.fixture(scope="module")
def by_two(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by two."""
    out = tmp_path_factory.mktemp("processes") / "two"
    command = torchrun(2, [*words("run", scenes, out, **SETTINGS), "--json"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    results = {result["stage"]: result for result in json.loads(done.stdout)["results"]}
    assert results["cams"]["done"] == results["refine"]["done"] == 10
    assert results["predictions"]["done"] == 14
    assert results["train"]["done"] == 1
    assert (results["edges"]["done"], results["edges"]["skipped"]) == (10, 0)
    assert (results["confidence"]["done"], results["confidence"]["skipped"]) == (10, 0)
    assert not any("--shard" in note for note in results["confidence"]["notes"])
    return out


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["train", "segment"])
def test_two_processes_follow_the_loss_of_one(alone: Path, by_two: Path, stage: str) -> None:
    expected, found = losses(alone / stage), losses(by_two / stage)
    assert len(expected) == 20 and max(expected) > 1.05 * min(expected)
    assert found == pytest.approx(expected, abs=1e-5)


def test_two_processes_make_every_file_of_one(alone: Path, by_two: Path) -> None:
    assert set(files_of(by_two)) == set(files_of(alone))
    assert set(figures(by_two)) == set(figures(alone))


def test_inference_does_not_depend_on_how_many_share_it(alone: Path, scenes: Path, tmp_path: Path) -> None:
    out = Path(copytree(alone, tmp_path / "out"))
    changed = words("run", scenes, out, restart="cams", **{**SETTINGS, "refine__method": "argmax"})
    done = together(3, changed, tmp_path / "said")
    assert [command.code() for command in done] == [0, 0, 0], done[0].errors
    assert files_of(out / "cams") == files_of(alone / "cams")
    assert figures(out)["cams"] == figures(alone)["cams"]


def test_evaluate_is_shared_and_written_once(alone: Path, scenes: Path, tmp_path: Path) -> None:
    out = Path(copytree(alone, tmp_path / "out"))
    (out / "metrics.json").unlink()
    done = together(3, [*words("evaluate", scenes, out, **SETTINGS), "--json"], tmp_path / "said")
    assert [command.code() for command in done] == [0, 0, 0], done[0].errors
    assert (out / "metrics.json").read_bytes() == (alone / "metrics.json").read_bytes()
    assert json.loads(done[0].said)["results"][0]["done"] == 10 + 10 + 10 + 4  # CAMs, masks, predictions of two splits
    assert not (out / "evaluate").exists()


def test_what_is_refused_is_said(scenes: Path, tmp_path: Path) -> None:
    done = together(2, words("run", scenes, tmp_path / "out", shard="1/2", **SETTINGS), tmp_path / "said")
    failed = {command.errors for command in done if command.code() == 2}
    assert failed and all("the processes of torchrun share the work out by themselves" in words for words in failed)


@pytest.mark.parametrize("killed", [0, 1])
def test_after_the_kill_of_one_a_restart_waits_for_the_other(killed: int, scenes: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "out/train/log.jsonl"
    arguments = words("train", scenes, out, **{**SETTINGS, "train__steps": "2000"})
    pair = started_together(2, arguments, tmp_path / "said")
    until = time.monotonic() + 200
    while not (log.is_file() and len(log.read_text().splitlines()) > 3):
        assert all(each.process.is_alive() for each in pair) and time.monotonic() < until, pair[0].errors
        time.sleep(0.05)
    pair[killed].process.kill()
    pair[killed].process.join()
    let_in = False
    while not let_in and time.monotonic() < until:
        with suppress(UsageError), run_lock(out, "train"):
            let_in = True
            before = files_of(out / "train")
            assert pair[1 - killed].code() == 1
            assert files_of(out / "train") == before  # it only said why it ends
    assert let_in and run("train", scenes, out, restart="train", **{**SETTINGS, "train__steps": "2"}) == 0
    assert not list(out.glob("run*")) and len(log.read_text().splitlines()) == 2


def test_one_that_is_stopped_stops_all_after_one_step(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = words("train", scenes, out, **{**SETTINGS, "train__steps": "2000"})
    process = subprocess.Popen(torchrun(2, arguments), stderr=subprocess.PIPE, text=True)
    log = out / "train/log.jsonl"
    until = time.monotonic() + 200
    while not (log.is_file() and len(log.read_text().splitlines()) > 3):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert "stopped at step" in said and "the state is saved" in said
    assert (out / "train/state.pt").is_file()
