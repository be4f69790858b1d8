"""The stage `confidence` through the command line, on generated scenes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from run_tiny import files_of, run
from tag2mask.cli import main
from tag2mask.confidence.evidence import FIELDS
from tag2mask.confidence.table import CLASSES, IMAGES, QUALITY, read_ranking
from tag2mask.data.images import read_mask, write_mask


def rank(out: Path, *more: str) -> int:
    return main(["confidence", "--out", str(out), *more])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def truth_as_masks(out: Path, scenes: Path) -> list[str]:
    """Put the truth in the place of the masks and sharp CAMs beside it; the IDs."""
    from tag2mask.cam_files import CamFile, read_cam, write_cam

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


def test_only_what_changed_is_judged_again(copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*more: str) -> tuple[int, int]:
        capsys.readouterr()
        assert rank(copied, "--json", *more) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        return result["done"], result["skipped"]

    assert told() == (0, 10)  # `run` has done it
    before = files_of(copied / "confidence")
    masks = sorted((copied / "masks").rglob("*.png"))
    write_mask(masks[0], read_mask(masks[0]))
    name = masks[1].relative_to(copied / "masks").with_suffix(".npz")
    (copied / "confidence/evidence" / name).write_bytes(b"torn")
    assert told() == (2, 8)
    assert files_of(copied / "confidence") == before
    masks[2].unlink()
    assert told() == (0, 9)
    assert len(rows(copied / IMAGES)) == 9
    assert told("--restart", "confidence") == (9, 0)
    assert main(["confidence", "--out", str(copied), "--dry-run", "--json"]) == 0
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert stage["stage"] == "confidence" and stage["lacking"] == 1 and stage["measured"]


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
    (copied / "confidence/evidence" / cams[3].relative_to(copied / "cams/pot")).unlink()
    assert rank(copied) == 1
    said = capsys.readouterr().err
    for problem in (str(masks[0]), str(cams[1]), "differ in size", str(cams[3])):
        assert problem in said
    assert "Traceback" not in said and len(rows(copied / IMAGES)) == 6


def test_without_masks_it_says_what_to_do(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("confidence", scenes, tmp_path / "out") == 2
    assert "run `tag2mask refine`" in capsys.readouterr().err


def test_in_tars_the_tables_are_the_same(done: Path, scenes: Path, tmp_path: Path) -> None:
    from shutil import copytree, rmtree

    out = Path(copytree(done, tmp_path / "out"))
    rmtree(out / "masks")
    rmtree(out / "confidence")
    tars = {"outputs__photographs_per_tar": "4"}
    assert run("refine", scenes, out, **tars) == 0 and run("confidence", scenes, out, **tars) == 0
    assert list((out / "confidence/evidence/tars").glob("*.tar")) and not list((out / "confidence").rglob("*.npz"))
    assert rows(out / IMAGES) == rows(done / IMAGES)
    assert sorted(map(str, rows(out / CLASSES))) == sorted(map(str, rows(done / CLASSES)))
