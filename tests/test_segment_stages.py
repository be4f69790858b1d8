"""The stages `segment` and `predictions` end to end on generated scenes, and what training minimises."""

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
from run_tiny import BACKBONE, Capture, figures, files_of, run, words
from tag2mask.cli import main
from tag2mask.data import DataSettings, open_images, read_mask
from tag2mask.data.images import write_mask
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.training.tasks import segmentation_loss

SEGMENT = {
    "segment__enabled": "true",
    "segment__network__backbone": BACKBONE,
    "segment__network__weights": "none",
    "segment__network__upsampling": "cells",
    "segment__steps": "6",
    "segment__batch_size": "4",
    "segment__augment__crop": "64",
    "segment__augment__long_side": "[56,80]",
    "evaluate__splits": "val",
    "cams__kinds": "[pot]",
}


@pytest.fixture(scope="module")
def done(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run, from tags to the predictions of a network that needs none."""
    out = tmp_path_factory.mktemp("segment") / "out"
    assert run("run", scenes, out, **SEGMENT) == 0
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return Path(copytree(done, tmp_path / "out"))


def test_what_is_written_and_measured(done: Path, scenes: Path) -> None:
    network = load_segmentation_network(done / "segment/network.safetensors")
    lines = [json.loads(line) for line in (done / "segment/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    images = open_images(DataSettings(root=scenes, split="val")).items
    for item in images:
        image = torch.from_numpy(np.array(Image.open(item.path).convert("RGB")))
        with torch.no_grad():
            logits = network.full_logits(image.permute(2, 0, 1)[None].float() / 255)
        expected = logits.argmax(1)[0].numpy()
        predicted = read_mask(done / f"predictions/val/{item.id}.png", size=image.shape[:2])
        assert (predicted != expected).mean() < 0.01
    measured = figures(done)["segment"]["val"]["predictions"]
    assert measured["images"] == len(images) and 0 <= measured["miou"] <= 1
    assert "predictions" in (done / "report.html").read_text()


def test_one_line_loads_and_labels(done: Path, scenes: Path) -> None:
    item = open_images(DataSettings(root=scenes, split="val")).items[0]
    labels = tag2mask.load(done / "segment/network.safetensors").predict(item.path)
    assert (labels == read_mask(done / f"predictions/val/{item.id}.png")).all()


def test_nothing_is_done_twice_and_what_is_missing_comes_back(
    copied: Path, done: Path, scenes: Path, capsys: Capture
) -> None:
    next((copied / "predictions/val").rglob("*.png")).unlink()
    assert main([*words("run", scenes, copied, **SEGMENT), "--json"]) == 0
    results = {result["stage"]: result for result in json.loads(capsys.readouterr().out)["results"]}
    assert (results["segment"]["done"], results["segment"]["skipped"]) == (0, 1)
    assert (results["predictions"]["done"], results["predictions"]["skipped"]) == (1, 3)
    assert files_of(copied / "predictions") == files_of(done / "predictions")


def test_training_on_the_truth_needs_no_other_stage(scenes: Path, tmp_path: Path) -> None:
    settings = {**SEGMENT, "segment__labels": "truth", "segment__validate_every": "3"}
    assert run("segment", scenes, tmp_path / "truth", **settings) == 0
    lines = [json.loads(line) for line in (tmp_path / "truth/segment/log.jsonl").read_text().splitlines()]
    assert ["validation_miou" in line for line in lines] == [False, False, True, False, False, True]
    assert len(list((tmp_path / "truth/predictions/val").rglob("*.png"))) == 4


def test_settings_that_cannot_be_used_are_refused_before_anything_is_done_or_deleted(
    copied: Path, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    missing = {"segment__network__backbone": "resnet18", "segment__network__weights": "no.pth"}
    edges = {"refine__method": "irn", "edges__backbone": "resnet18", "edges__weights": "no.pth"}
    for settings, named in (
        (SEGMENT | missing, "segment.network.weights: there is no file no.pth"),
        (edges, "edges.weights: there"),
    ):
        assert run("run", scenes, tmp_path / "new", **settings) == 2
        assert named in capsys.readouterr().err
        assert not (tmp_path / "new/train").exists()
    before = files_of(copied)
    assert run("segment", scenes, copied, restart="segment", **SEGMENT | missing) == 2
    assert run("train", scenes, copied, restart="train", network__weights="no.pth") == 2
    assert run("train", scenes, copied, restart="train", train__precision="fp16") == 2
    assert files_of(copied) == before


def test_two_runs_side_by_side(done: Path, copied: Path, scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    # A copy whose predictions are the truth.
    for item in open_images(DataSettings(root=scenes, masks=scenes / "masks", split="val")).items:
        write_mask(copied / f"predictions/val/{item.id}.png", read_mask(scenes / f"masks/{item.id}.png"))
    assert run("evaluate", scenes, copied, **SEGMENT) == 0
    capsys.readouterr()
    assert main([*words("evaluate", scenes, done, **SEGMENT), "--compare", str(copied), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"][-1]["comparisons"]
    own = figures(done)["segment"]["val"]["predictions"]
    assert (found["split"], found["own"], found["other"], found["share"]) == ("val", own["miou"], 1, own["miou"])
    for name, value in own["iou"].items():
        assert found["classes"][name] == {"own": value, "other": 1, "share": value}
    assert main([*words("evaluate", scenes, done, **SEGMENT), "--compare", str(copied)]) == 0
    assert "this / other" in capsys.readouterr().out
    assert main([*words("evaluate", scenes, done, **SEGMENT), "--compare", str(tmp_path / "none")]) == 2
    assert "none is not a run folder: it has no config.yaml" in capsys.readouterr().err
    fewer = {**SEGMENT, "evaluate__classes": "background"}
    assert main([*words("evaluate", scenes, done, **fewer), "--compare", str(copied)]) == 2
    assert "cannot be compared on val: chosen differ" in capsys.readouterr().err
    assert run("evaluate", scenes, done, **SEGMENT) == 0


def test_new_masks_make_the_network_stale(copied: Path, scenes: Path, capsys: Capture) -> None:
    assert run("refine", scenes, copied, restart="refine", **SEGMENT) == 0
    assert not (copied / "segment").exists() and not (copied / "predictions").exists()
    assert run("segment", scenes, copied, **{**SEGMENT, "segment__network__head": "aspp"}) == 2
    assert "aspp" in capsys.readouterr().err
    assert run("segment", scenes, copied, **SEGMENT) == 0
    assert run("segment", scenes, copied, **{**SEGMENT, "segment__learning_rate": "0.5"}) == 2
    assert "segment.learning_rate was 0.001 and is 0.5" in capsys.readouterr().err


def test_without_masks_it_says_what_to_do(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("segment", scenes, tmp_path / "new", **SEGMENT) == 2
    assert "run `tag2mask refine " in capsys.readouterr().err


def test_the_loss_leaves_out_what_is_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator).byte()
    labels[0, :3] = 255
    kept = labels != 255
    expected = -logits.log_softmax(1).gather(1, labels.long().clamp_max(3)[:, None])[:, 0][kept].mean()
    assert torch.allclose(segmentation_loss(logits, labels).total, expected)
    nothing = segmentation_loss(logits, torch.full_like(labels, 255)).total
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()
    small = torch.randn(2, 4, 3, 3, generator=generator)
    both = segmentation_loss([logits, small], labels).total
    pillow = [Image.fromarray(each.numpy()).resize((3, 3), Image.Resampling.NEAREST) for each in labels]  # the port's
    reduced = torch.from_numpy(np.stack([np.asarray(each) for each in pillow]))
    assert torch.allclose(both, segmentation_loss(logits, labels).total + segmentation_loss(small, reduced).total)


def test_it_learns_from_all_masks_or_says_so(copied: Path, scenes: Path, capsys: Capture) -> None:
    assert run("segment", scenes, copied, shard="1/2", restart="segment", **SEGMENT) == 2
    assert "run it without --shard" in capsys.readouterr().err
    assert run("run", scenes, copied, shard="1/2", **SEGMENT) == 0  # leaves it out
    assert not (copied / "segment/network.safetensors").exists()
    masks = sorted((copied / "masks").rglob("*.png"))
    kept = masks[0].read_bytes()
    masks[0].unlink()
    assert run("segment", scenes, copied, **SEGMENT) == 0
    assert "1 images have no mask to learn from" in capsys.readouterr().err
    masks[0].write_bytes(kept)
    assert run("segment", scenes, copied, **SEGMENT) == 0
    assert "1 masks are newer than the trained network" in capsys.readouterr().err
    (copied / "segment/network.safetensors").unlink()  # as if training had been cut short
    assert run("segment", scenes, copied, **SEGMENT) == 2
    assert "started on 9 masks, and now there are 10" in capsys.readouterr().err


def test_what_cannot_be_measured_does_not_stop_training(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    data = Path(copytree(scenes, tmp_path / "data"))
    broken = sorted((data / "val").glob("*.jpg"))[0]
    broken.write_bytes(broken.read_bytes()[:200])
    settings = {**SEGMENT, "segment__labels": "truth", "segment__validate_every": "3"}
    assert run("segment", data, tmp_path / "run", **settings) == 1  # the prediction of that image
    assert broken.name in capsys.readouterr().err
    assert (tmp_path / "run/segment/network.safetensors").is_file()
    for mask in (data / "masks/val").glob("*.png"):
        Image.fromarray(np.full((64, 64), 255, dtype=np.uint8)).save(mask)
    assert run("segment", data, tmp_path / "other", **settings) == 1
    assert "validation_miou" not in (tmp_path / "other/segment/log.jsonl").read_text()


def test_a_command_that_failed_can_be_put_right(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    right = {"segment__labels": "truth", "segment__precision": "fp32", "segment__network__head": "sum"}
    settings = {**SEGMENT, **right}
    for name, value, said in (
        ("segment__network__weights", "/nowhere.pth", "segment.network.weights"),
        ("segment__precision", "fp16", "segment.precision fp16 needs a GPU"),
        ("segment__network__head", "concat", "segment.batch_size should be at least 2"),
    ):
        wrong = {**settings, name: value, "segment__batch_size": "1"}
        assert run("segment", scenes, tmp_path / "run", **wrong) != 0
        assert said in capsys.readouterr().err
    assert run("segment", scenes, tmp_path / "run", **settings) == 0


def test_the_run_remembers_how_it_predicted(copied: Path, scenes: Path) -> None:
    flipped = {**SEGMENT, "predict__flip": "true"}
    assert run("segment", scenes, copied, restart="predictions", **flipped) == 0
    assert run("run", scenes, copied, **{**flipped, "segment__enabled": "false", "predict__flip": "false"}) == 0
    assert main(["segment", str(copied), "--device", "cpu", "--workers", "0"]) == 0
