"""`check --with RUN`: tags that a trained network doubts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from run_tiny import run
from tag2mask.cli import main
from tag2mask.data import DataSettings, open_images
from tag2mask.workflows import check as suspicions


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a network."""
    out = tmp_path_factory.mktemp("trained") / "out"
    assert run("train", scenes, out) == 0
    return out


def check(scenes: Path, *words: str) -> int:
    """`check` of the training scenes."""
    return main(["check", str(scenes), "--data.split", "train", "--device", "cpu", "--workers", "0", *words])


def test_doubts_are_listed_surest_first(
    scenes: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = open_images(DataSettings(root=scenes, split="train"))
    real = suspicions.image_maps

    def judged(network: Any, images: torch.Tensor, tags: torch.Tensor, **options: Any) -> Any:
        # Sure of the first class everywhere (0.8), and that the second is nowhere (0.05): tags say what is true.
        scores = torch.tensor([[0.8, 0.05]]).repeat(len(tags), 1)
        return replace(real(network, images, tags, **options), scores=scores)

    monkeypatch.setattr(suspicions, "image_maps", judged)
    assert check(scenes, "--with", str(trained), "--json") == 0
    doubts = json.loads(capsys.readouterr().out)["suspicions"]
    first, second = images.classes
    wrong = sorted(item.id for item in images.items if 2 in item.tags)
    missing = sorted(item.id for item in images.items if 1 not in item.tags)
    assert wrong and missing
    expected = [(item, second, "wrong") for item in wrong] + [(item, first, "missing") for item in missing]
    assert [(doubt["image"], doubt["tag"], doubt["kind"]) for doubt in doubts] == expected
    for doubt in doubts:
        assert (doubt["posterior"] is None) == (doubt["kind"] == "missing")
        assert doubt["posterior"] is None or 0 < doubt["posterior"] <= 1

    assert check(scenes, "--with", str(trained)) == 0
    text = capsys.readouterr().out
    assert f"{len(expected)} doubtful tags" in text
    assert f"{wrong[0]}: `{second}` may be wrong (classifier 5%, plan at most" in text
    assert f"{missing[0]}: `{first}` may be missing (classifier 80%)" in text


def test_without_a_run_nothing_is_doubted(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(scenes, "--json") == 0
    assert "suspicions" not in json.loads(capsys.readouterr().out)


def test_folders_that_are_no_trained_run_are_refused(
    scenes: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(scenes, "--with", str(tmp_path)) == 2
    assert "is not a run folder" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    assert check(scenes, "--with", str(tmp_path)) == 2
    assert "has been trained" in capsys.readouterr().err


def test_a_broken_set_is_reported_and_not_judged(
    scenes: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("image,tags\nnowhere.png,one\n")
    assert main(["check", str(table), "--data.root", str(scenes), "--with", str(trained)]) == 1
    text = capsys.readouterr().out
    assert "nowhere.png" in text and "tag audit skipped" in text


def test_a_network_of_other_classes_is_refused(scenes: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (*open_images(DataSettings(root=scenes, split="train")).classes, "unicorn")
    assert check(scenes, "--with", str(trained), "--data.classes", ",".join(names)) == 2
    assert "unicorn" in capsys.readouterr().err


def test_images_far_larger_than_what_cams_see_are_named_with_the_size_of_a_cell(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("pit/a", (1200, 600)), ("pit/b", (400, 1000)), ("scratch/c", (1400, 200))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / f"{name}.png")

    def advice(*words: str) -> list[str]:
        main(["check", str(tmp_path), *words])
        return [line for line in capsys.readouterr().out.splitlines() if "shrunk" in line]

    (line,) = advice()  # 1200 pixels on average, 512 in the preset `own`
    assert "covers about 38 × 38 pixels" in line
    assert "1200 pixels" in line and "to cams.long_side 512, 2.3 times" in line
    assert "--cams.long_side null" in line and "--network.output_stride 8" in line
    (line,) = advice("--network.output_stride", "8")
    assert "covers about 19 × 19 pixels" in line and "--network.output_stride" not in line
    assert not advice("--cams.long_side", "null") and not advice("--cams.long_side", "601")
    (line,) = advice("--cams.long_side", "600")
    assert "2.0 times" in line
    monkeypatch.setattr("tag2mask.cli.data.audit_tags", lambda *_: [])
    of_run = "--with", str(trained), "--data.classes", "pit,scratch"
    assert not advice(*of_run)  # its cams.long_side is null
    assert len(advice(*of_run, "--cams.long_side", "512")) == 1
