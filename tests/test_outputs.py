"""The end of `run` and `predict`: where the masks are, what their values mean, and what to do next."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tag2mask
from run_tiny import BACKBONE, run, words
from segmenters import TinySegmenter
from tag2mask.cli import main
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.data.images import palette
from tag2mask.runs.progress import Console
from tag2mask.runs.run_folder import RunFolder
from tag2mask.workflows.overlays import write_overlays

IDS = {"background": 0, "classes": {"dab": 1, "fen": 2}, "ignored": 255}


def test_a_run_ends_with_its_results_and_the_next_commands(
    scenes: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("run", scenes, copied) == 0
    said = capsys.readouterr().out
    for place in ("masks", "masks/classes.json", "report.html"):
        assert f"{copied / place}\n" in said and (copied / place).exists()
    assert f"tag2mask review {copied}" in said and f"tag2mask segment {copied}" in said
    assert json.loads((copied / "masks/classes.json").read_text()) == IDS
    assert main([*words("run", scenes, copied), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paths"] == {
        "masks": str(copied / "masks"),
        "class_ids": str(copied / "masks/classes.json"),
        "report": str(copied / "report.html"),
    }


def test_quiet_leaves_the_result_and_errors(scenes: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = copied / "cams/pot/train/0003.npz"
    victim.write_bytes(b"damaged")
    (copied / "masks/train/0003.png").unlink()
    capsys.readouterr()
    assert main([*words("refine", scenes, copied), "--quiet"]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("\n") == 1 and "0003.npz" in said.err


def test_overlays_show_the_final_masks(scenes: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words("run", scenes, copied), "--overlays"]) == 0
    assert f"{copied / 'overlays'}\n" in capsys.readouterr().out
    files = sorted((copied / "overlays").rglob("*.jpg"))
    assert len(files) == 10
    drawn = np.full((64, 64), 2, dtype=np.uint8)
    CorrectionsFolder(copied / "corrections", ("dab", "fen")).write("train/0003", Decision.now("corrected"), drawn)
    assert main([*words("run", scenes, copied), "--overlays"]) == 0
    with Image.open(copied / "overlays/train/0003.jpg") as file, Image.open(scenes / "train/0003.jpg") as image:
        shown, before = np.asarray(file).astype(float), np.asarray(image).astype(float)
    weight = 165 / 255
    assert np.abs(shown - (before * (1 - weight) + palette()[2] * weight)).mean() < 6
    assert run("run", scenes, copied) == 0
    assert f"{copied / 'overlays'}\n" not in capsys.readouterr().out.split("masks      ")[-1], "they may be old by now"
    (copied / "masks/train/0004.png").write_bytes(b"damaged")
    CorrectionsFolder(copied / "corrections", ("dab", "fen")).write("train/0005", Decision.now("rejected"))
    result = write_overlays(tag2mask.Run(copied).config, RunFolder(copied), Console(quiet=True))
    assert result.done == 8 and [*result.failed] == ["train/0004"]
    assert not any((copied / f"overlays/train/000{number}.jpg").exists() for number in (4, 5))
    assert run("refine", scenes, copied, **{"restart": "refine"}) == 0
    assert not (copied / "overlays").exists(), "overlays of masks that are gone are gone too"


LOADER = "tag2mask.prediction.predictor.load_segmentation_network"


def test_predict_ends_with_its_results(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network.safetensors").touch()
    monkeypatch.setattr(LOADER, lambda path: TinySegmenter())
    out = tmp_path / "masks"
    assert main(["predict", str(tmp_path / "network.safetensors"), str(scenes / "val"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"masks              {out}\n" in said and f"tag2mask export coco {out} --out {out}-coco" in said
    assert json.loads((out / "classes.json").read_text())["classes"] == {"class1": 1, "class2": 2}
    shard = tmp_path / "shard"
    words = ["predict", str(tmp_path / "network.safetensors"), str(scenes / "val"), "--out", str(shard)]
    assert main([*words, "--shard", "1/2"]) == 0
    said = capsys.readouterr().out
    assert f"{shard}\n" in said and "finish the run" not in said


def test_predict_does_not_replace_a_file_of_others(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network.safetensors").touch()
    monkeypatch.setattr(LOADER, lambda path: TinySegmenter())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/classes.json").write_text("mine")
    words = ["predict", str(tmp_path / "network.safetensors"), str(scenes / "val"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "classes.json was not made by predict" in capsys.readouterr().err
    assert (tmp_path / "out/classes.json").read_text() == "mine"


def test_the_quick_demo_has_no_figures_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"scenes.train": 6, "scenes.size": 64, "train.steps": 2, "train.batch_size": 2, "train.augment.crop": 64}
    settings = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    out = tmp_path / "demo"
    assert (
        main(["demo", "--quick", "--out", str(out), "--network.backbone", BACKBONE, *settings, "--workers", "0"]) == 0
    )
    said = capsys.readouterr()
    assert "mIoU" not in said.out and "too short to judge the method: `tag2mask demo` has the figures" in said.err
    assert not tag2mask.Run(out).figures and len(list((out / "masks").rglob("*.png"))) == 6
