"""Training as TensorBoard sees it; skipped where that is not installed."""

import json
from pathlib import Path

import pytest

from run_tiny import run
from tag2mask.training.log import training_log

pytest.importorskip("tensorboard")

pytestmark = pytest.mark.extra


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars(name)]


def test_every_logged_value_is_in_a_curve(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("train", scenes, out, train__tensorboard="true") == 0
    lines = [json.loads(line) for line in (out / "train/log.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for name in ("loss", "learning_rate", "images_per_second"):
        assert curve(out / "train", name) == [(line["step"], pytest.approx(line[name])) for line in lines]


def test_a_resumed_training_is_one_curve(tmp_path: Path) -> None:
    for first, steps in ((0, (1, 2)), (0, (1, 2, 3)), (2, (3, 4))):  # killed before, and after, its first state
        with training_log(tmp_path, step=first, tensorboard=True) as log:
            for step in steps:
                log.append({"step": step, "loss": step + first})
    assert curve(tmp_path, "loss") == [(1, 1), (2, 2), (3, 5), (4, 6)]
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1, 2, 5, 6]
