"""The stage `confidence` through the command line, on generated scenes."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from run_tiny import files_of, run
from tag2mask.cli import main
from tag2mask.cli.commands import COMMANDS
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.parsing import parse
from tag2mask.core.files import write_bytes
from tag2mask.core.provenance import mask_origin
from tag2mask.data.cam_files import CamFile, read_cam, write_cam
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.data.images import read_mask, write_mask
from tag2mask.data.manifest import ImageItem
from tag2mask.export.formats import ExportSettings, export_masks
from tag2mask.quality.features import FIELDS, stored_features
from tag2mask.quality.ranking import CLASSES, IMAGES, QUALITY, read_ranking
from tag2mask.report import ReportSettings
from tag2mask.runs.dataset import run_images
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages import registry as together
from tag2mask.stages.confidence import Confidence, QualityInputs
from test_formats import _as_jpeg
from test_segment_stages import SEGMENT

NETWORK_FIELDS = [name for name in FIELDS if name.startswith("network_")]


def rank(out: Path, *more: str) -> int:
    return main(["confidence", str(out), *more])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def truth_as_masks(out: Path, scenes: Path) -> list[str]:
    """Put the truth in the place of the masks and sharp CAMs beside it; the IDs."""
    ids = []
    for path in sorted((out / "masks").rglob("*.png")):
        name = str(path.relative_to(out / "masks").with_suffix(""))
        truth = read_mask(scenes / "masks" / f"{name}.png")
        own = out / f"cams/pot/{name}.npz"
        cam = read_cam(own)
        truth = np.where(np.isin(truth, cam.ids), truth, 0).astype(np.uint8)
        near = (truth == cam.ids[:, None, None]).astype(np.float16) * 0.8 + 0.1
        write_cam(own, CamFile(cam.ids, near[:, 2::4, 2::4], cam.size))
        write_mask(path, truth)
        ids.append(name)
    return ids


def test_spoiled_masks_come_first(copied: Path, scenes: Path) -> None:
    ids = truth_as_masks(copied, scenes)
    assert rank(copied) == 0
    before = {each.image: each.confidence for each in read_ranking(copied)}
    spoiled = ids[::3]
    for name in spoiled:
        path = copied / f"masks/{name}.png"
        write_mask(path, np.roll(read_mask(path), (32, 32), axis=(0, 1)))
    assert rank(copied) == 0
    ranked = list(read_ranking(copied))
    assert sorted(each.image for each in ranked) == ids
    assert {each.image for each in ranked[: len(spoiled)]} == set(spoiled)
    assert all(before[each.image] - each.confidence > 0.1 for each in ranked[: len(spoiled)])
    assert all(before[each.image] == each.confidence for each in ranked[len(spoiled) :])
    assert all(each.reason for each in ranked[: len(spoiled)])
    found = json.loads((copied / QUALITY).read_text())
    assert (found["split"], found["images"], found["worst_tenth"]) == ("train", len(ids), 1)
    assert found["spearman"] > 0.4
    classes = rows(copied / CLASSES)
    assert list(classes[0]) == ["image", "class", "confidence", *FIELDS]
    for each in ranked:
        own = [float(row["confidence"]) for row in classes if row["image"] == each.image]
        assert each.confidence == pytest.approx(np.mean(own), abs=1e-4)
        assert all(row["network_free"] == "" for row in classes)


def test_only_changed_masks_are_estimated_again(copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def counts(*more: str) -> tuple[int, int]:
        capsys.readouterr()
        assert rank(copied, "--json", *more) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        return result["done"], result["skipped"]

    assert counts() == (0, 10)  # `run` has done it
    before = files_of(copied / "confidence")
    masks = sorted((copied / "masks").rglob("*.png"))
    before_mask = read_mask(masks[0])
    write_mask(masks[0], before_mask, made_from=mask_origin(masks[0]) or "")  # the same, written later
    name = masks[1].relative_to(copied / "masks").with_suffix(".npz")
    (copied / "confidence/features" / name).write_bytes(b"torn")
    assert counts() == (1, 9)
    assert files_of(copied / "confidence") == before
    write_mask(masks[0], before_mask ^ 1, made_from=mask_origin(masks[0]) or "")
    assert counts() == (1, 9)
    masks[2].unlink()
    assert counts() == (0, 9)
    assert len(rows(copied / IMAGES)) == 9
    assert counts("--restart", "confidence") == (9, 0)
    assert main(["confidence", str(copied), "--dry-run", "--json"]) == 0
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert stage["stage"] == "confidence" and stage["lacking"] == 1 and stage["bytes"] > 0


def test_shards_gather_and_the_command_without_one_ranks(copied: Path, scenes: Path) -> None:
    before = files_of(copied / "confidence")
    assert rank(copied, "--restart", "confidence", "--shard", "1/2") == 0
    assert not (copied / IMAGES).exists() and 0 < len(list((copied / "confidence").rglob("*.npz"))) < 10
    assert rank(copied, "--shard", "2/2") == 0
    assert not (copied / IMAGES).exists() and len(list((copied / "confidence").rglob("*.npz"))) == 10
    assert rank(copied) == 0
    assert files_of(copied / "confidence") == before


def test_what_cannot_be_read_is_named_and_the_rest_is_ranked(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = sorted((copied / "masks").rglob("*.png"))
    masks[0].write_bytes(b"no mask")
    cams = sorted((copied / "cams/pot").rglob("*.npz"))
    cams[1].write_bytes(b"no cam")
    Image.new("L", (5, 5)).save(masks[2])
    cams[3].unlink()
    (copied / "confidence/features" / cams[3].relative_to(copied / "cams/pot")).unlink()
    assert rank(copied) == 1
    said = capsys.readouterr().err
    for problem in (str(masks[0]), str(cams[1]), "differ in size", str(cams[3])):
        assert problem in said
    assert "Traceback" not in said and len(rows(copied / IMAGES)) == 6


def test_without_masks_it_says_what_to_do(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("confidence", scenes, tmp_path / "out") == 2
    assert "run `tag2mask refine " in capsys.readouterr().err


def result_of(capsys: pytest.CaptureFixture[str], out: Path, *more: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert rank(out, "--json", *more) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["results"][0]
    return found


def evidence_files(out: Path) -> list[Path]:
    return sorted((out / "confidence/features").rglob("*.npz"))


def request(out: Path, *more: str) -> Invocation:
    found = parse("confidence", COMMANDS["confidence"], [str(out), *more])
    assert found is not None
    return found[1]


def inputs(out: Path) -> tuple[QualityInputs, list[ImageItem]]:
    config = request(out).config
    images = run_images(config, RunFolder(out))
    return QualityInputs.of(config, RunFolder(out), images, StageResult("confidence")), list(images.items)


def test_the_network_is_used_unless_it_was_trained_on_truth(
    copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {name: value for name, value in SEGMENT.items() if name.startswith("segment")}
    assert run("segment", scenes, copied, **own) == 0
    assert (lambda result: (result["done"], result["skipped"]))(result_of(capsys, copied)) == (10, 0)
    classes = rows(copied / CLASSES)
    assert all(0 <= float(row[field]) <= 1 for row in classes for field in NETWORK_FIELDS)
    assert len({row["network_expected"] for row in classes}) > 5  # it looked at each image
    stored = stored_features(evidence_files(copied)[0])
    assert stored is not None and "network" in json.loads(json.loads(stored[1])[0])
    assert result_of(capsys, copied)["done"] == 0
    network = copied / "segment/network.safetensors"
    later = evidence_files(copied)[-1].stat().st_mtime + 10
    os.utime(network, (later, later))
    assert result_of(capsys, copied)["done"] == 0  # the same, written later
    weights = {name: value + 0.01 for name, value in load_file(network).items() if value.is_floating_point()}
    with safe_open(network, "pt") as file:
        save_file(load_file(network) | weights, network, file.metadata())
    os.utime(network, (1, 1))  # by a clock that was set back
    assert result_of(capsys, copied)["done"] == 10
    record = json.loads((copied / "segment/stage.json").read_text())
    record["settings"]["segment.labels"] = "truth"
    (copied / "segment/stage.json").write_text(json.dumps(record))
    result = result_of(capsys, copied)
    assert result["done"] == 10 and any("was trained on ground truth" in note for note in result["notes"])
    assert all(row[field] == "" for row in rows(copied / CLASSES) for field in NETWORK_FIELDS)
    stored = stored_features(evidence_files(copied)[0])
    assert stored is not None and "network" not in json.loads(json.loads(stored[1])[0])
    assert result_of(capsys, copied)["done"] == 0  # a file that is newer than all evidence, but not used


def test_evidence_of_other_tags_is_stale(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, items = inputs(copied)
    item = next(item for item in items if item.tags)
    assert own.features_of(item) is not None and not own.is_stale(item)
    other = replace(item, tags=(1, 2) if item.tags != (1, 2) else (1,))
    assert own.features_of(other) is None and own.is_stale(other)
    classes = run_images(request(copied).config, RunFolder(copied)).classes
    corrections = CorrectionsFolder(copied / "corrections", classes)
    corrections.write(item.id, Decision.now(tags=[classes[tag - 1] for tag in other.tags]))
    (corrections.folder / f"{items[-1].id}.json").parent.mkdir(parents=True, exist_ok=True)
    (corrections.folder / f"{items[-1].id}.json").write_text("no decision")
    result = result_of(capsys, copied, code=1)
    assert "run `tag2mask cams " in result["failed"][item.id] and items[-1].id in result["failed"]
    assert {row["image"] for row in rows(copied / IMAGES)} == {each.id for each in items} - {item.id, items[-1].id}


def test_decided_masks_are_marked_and_left_out_of_the_report(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = [each.image for each in read_ranking(copied)][:3]
    corrections = CorrectionsFolder(
        copied / "corrections", run_images(request(copied).config, RunFolder(copied)).classes
    )
    corrections.write(first, Decision.now("accepted"), read_mask(copied / f"masks/{first}.png"))
    assert rank(copied) == 0
    assert {row["image"]: row["correction"] for row in rows(copied / IMAGES) if row["correction"]} == {
        first: "accepted"
    }
    corrections.write(second, Decision.now("rejected"))  # after the tables
    monkeypatch.setattr(ReportSettings, "lowest_confidence", 1)
    assert main(["report", str(copied)]) == 0
    section = (copied / "report.html").read_text().partition('id="least-certain"')[2].partition('id="gallery"')[0]
    assert f"<h4><bdi>{third}</bdi></h4>" in section and section.count("<h4>") == 1


def test_cams_are_seen_as_they_were_refined(copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = {"refine__cams": "classifier", "refine__background_threshold": "0.2"}
    rmtree(copied / "masks")
    rmtree(copied / "refine")
    assert run("refine", scenes, copied, **made) == 0 and rank(copied) == 0
    stored = stored_features(evidence_files(copied)[0])
    assert stored is not None and json.loads(json.loads(stored[1])[0])["background"] == 0.2
    before = files_of(copied / "confidence")
    assert result_of(capsys, copied, "--refine.background_threshold", "0.5", "--restart", "confidence")["done"] == 10
    assert files_of(copied / "confidence") == before
    tables = [rows(copied / table) for table in (IMAGES, CLASSES)]
    item = next(item for item in inputs(copied)[1] if len(item.tags) == 1)
    path = copied / f"cams/classifier/{item.id}.npz"
    cam = read_cam(path)
    ids = np.array([1, 2], dtype=cam.ids.dtype)
    maps = np.stack([cam.cams[0] if own == item.tags[0] else np.ones_like(cam.cams[0]) for own in ids])
    write_cam(path, CamFile(ids, maps, cam.size))  # a class without a tag, which hides all background
    assert result_of(capsys, copied)["done"] == 1
    assert [rows(copied / table) for table in (IMAGES, CLASSES)] == tables


def test_a_split_without_masks_leaves_the_tables(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(copied / "confidence")
    result = result_of(capsys, copied, "--data.split", "val")
    assert any("no image has a mask" in note and "is left as it is" in note for note in result["notes"])
    assert files_of(copied / "confidence") == before


def test_truth_that_does_not_fit_is_named_and_the_mask_is_ranked_all_the_same(
    copied: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = Path(copytree(scenes / "masks", tmp_path / "truth"))
    first = next(read_ranking(copied)).image
    Image.new("P", (5, 5)).save(truth / f"{first}.png")
    more = ("--data.masks", str(truth))
    result = result_of(capsys, copied, *more, code=1)
    assert str(truth / f"{first}.png") in result["failed"][first] and len(rows(copied / IMAGES)) == 10
    assert any("the ranking is not measured" in note and "at least 5 are needed" in note for note in result["notes"])
    assert not (copied / QUALITY).exists()
    monkeypatch.setattr(ReportSettings, "lowest_confidence", 1)
    assert main(["report", str(copied), *more]) == 0
    section = (copied / "report.html").read_text().partition('id="least-certain"')[2].partition('id="gallery"')[0]
    assert f"<h4><bdi>{first}</bdi></h4>" in section and "Truth" not in section


def test_processes_count_each_image_once(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmtree(copied / "confidence")
    monkeypatch.setattr(together, "process_count", lambda: 2)
    monkeypatch.setattr("tag2mask.stages.confidence.process_count", lambda: 2)
    monkeypatch.setattr(together, "gathered", lambda result: [result])
    asked = request(copied)
    result = together.run_distributed(
        "confidence", Confidence().do, Confidence.distribution, asked.config, RunFolder(copied), Console(quiet=True)
    )
    assert (result.done, result.skipped, result.failed) == (10, 0, {})
    assert not any("--shard" in note for note in result.notes) and len(rows(copied / IMAGES)) == 10


def test_truth_that_can_be_painted_is_measured_by_at_once(scenes: Path, done: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    export_masks("coco", _as_jpeg(scenes, tmp_path), root, ExportSettings(split="mine", images="copy"))
    for path in (done / "masks").rglob("*.png"):
        write_bytes(out / "masks" / path.name, path.read_bytes())
    for path in (done / "cams/pot").rglob("*.npz"):
        finer = read_cam(path).cams.repeat(8, 1).repeat(8, 2)  # so that no mask covers too few cells
        write_cam(out / "cams/pot" / path.name, replace(read_cam(path), image=None, cams=finer, allocation=None))
    data = ("--data.kind", "coco", "--data.root", str(root), "--data.split", "mine")
    assert rank(out, *data, "--workers", "0", "--device", "cpu") == 0
    assert json.loads((out / QUALITY).read_text())["images"] == 10


def test_corrected_masks_confirm_or_refute_the_ranking(
    copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten images without ground truth, of which every second mask is bad: first the uncertain ones, then others."""
    ids = truth_as_masks(copied, scenes)
    (copied / "none").mkdir()
    no_truth = ("--data.masks", str(copied / "none"))
    for name in ids[::2]:
        write_mask(path := copied / f"masks/{name}.png", np.roll(read_mask(path), (32, 32), axis=(0, 1)))
    result = result_of(capsys, copied, *no_truth)
    before = files_of(copied / "confidence")
    corrections = CorrectionsFolder(
        copied / "corrections", run_images(request(copied).config, RunFolder(copied)).classes
    )
    for name in ids[:9]:
        corrections.write(name, Decision.now("corrected"), read_mask(scenes / f"masks/{name}.png"))
    result = result_of(capsys, copied, *no_truth)
    assert any("the ranking is not measured: 9 images" in note for note in result["notes"])
    assert [each.confidence for each in read_ranking(copied)] == [
        float(row["confidence"]) for row in csv.DictReader(before["images.csv"].decode().splitlines())
    ]
    corrections.write(ids[9], Decision.now("corrected"), read_mask(scenes / f"masks/{ids[9]}.png"))
    result_of(capsys, copied, *no_truth)
    assert (found := json.loads((copied / QUALITY).read_text()))["ranks"] and found["images"] == 10
    assert all(each.confidence is not None for each in read_ranking(copied))
    for number, name in enumerate(ids):  # the other half is right
        own = read_mask(copied / f"masks/{name}.png")
        corrections.write(name, Decision.now("corrected"), own if number % 2 == 0 else np.roll(own, (32, 32), (0, 1)))
    result = result_of(capsys, copied, *no_truth)
    assert any("the ranking is not reliable and the confidence of every image is unknown" in n for n in result["notes"])
    assert json.loads((copied / QUALITY).read_text())["ranks"] is False
    ranked = rows(copied / IMAGES)
    assert [row["image"] for row in ranked] == ids and {row["reason"] for row in ranked} == {"ranking not reliable"}
    assert {row[name] for row in ranked for name in ("confidence", "class_confidence")} == {""}
    assert {row["confidence"] for row in rows(copied / CLASSES)} == {""} and all(row["cam_expected"] for row in ranked)
    for name in ids:
        corrections.write(name, Decision.now("rejected"))
    assert main(["report", str(copied)]) == 0
