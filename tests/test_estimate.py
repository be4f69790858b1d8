"""How long training and masks would take: by the records of a run, or by a measurement, and never a failure."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from run_tiny import TINY
from tag2mask.cli import main
from tag2mask.files import write_json
from tag2mask.networks import NetworkSettings
from tag2mask.pipeline import estimate as module
from tag2mask.pipeline.config import CamSettings, Config
from tag2mask.pipeline.estimate import estimate
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.training.settings import TrainSettings

SMALL = replace(
    Config(device="cpu"),
    network=NetworkSettings("resnet18", "none"),
    train=TrainSettings(steps=100, batch_size=8),
    cams=CamSettings(scales=[1.0, 2.0], long_side=64),
)


def test_a_measured_time_grows_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_timed", lambda work, device: (work(), 0.5)[1])  # the work is done, the clock is not
    found = estimate(SMALL, 30, 2, 64 * 48, None)
    assert found.stages["train"] == pytest.approx(0.5 * 100 * 8)
    assert found.stages["cams"] == pytest.approx(0.5 * (1 + 4) * 30)
    assert found.stages["refine"] == pytest.approx(0.5 * 30 * 64 * 48 / 160**2)
    assert "timed now with resnet18" in found.basis
    assert found.to_json()["seconds"] == pytest.approx(sum(filter(None, found.stages.values())))
    assert "about 8 min here: train 7 min, cams 1 min, refine" in str(found)


def test_nothing_is_fetched_for_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "on_this_machine", lambda backbone: False)
    config = replace(SMALL, network=NetworkSettings("nobody/nothing", "none"))
    found = estimate(config, 30, 2, None, None)
    assert set(found.stages.values()) == {None}
    assert "nothing is fetched" in str(found)


def test_the_records_of_a_run_come_first(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_timed", lambda work, device: (work(), 0.5)[1])
    run = RunFolder(copied)
    assert estimate(SMALL, 30, 2, 64 * 48, run).basis == f"by the records of {copied}"
    (copied / "train/log.jsonl").unlink()
    write_json(copied / "pace/cams.json", {"fingerprint": run.fingerprint("cams"), "photographs": 10, "seconds": 20.0})
    found = estimate(SMALL, 30, 2, 64 * 48, run)
    assert found.stages["cams"] == pytest.approx(60.0)
    assert found.stages["train"] == pytest.approx(0.5 * 100 * 8)
    assert f"cams, refine by the records of {copied}, the rest by a photograph" in found.basis


def test_check_says_how_long_it_would_take(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_timed", lambda work, device: 0.5)
    settings = [word for pair in TINY.items() for word in pair]
    assert main(["check", str(scenes), *settings]) == 0
    assert "\nabout " in capsys.readouterr().out
    assert main(["check", str(scenes), *settings, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["time"]["stages"]["train"] == pytest.approx(0.5 * 4 * 4)
    assert told["verdict"]["worth"] == "no"
    assert main(["check", str(scenes), *settings, "--no-time", "--json"]) == 0
    assert "time" not in json.loads(capsys.readouterr().out)
