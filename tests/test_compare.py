"""`tag2mask compare A B`: two ways of making masks, against a slow count, with runs, predictions and plain folders."""

import base64
import csv
import io
import json
import re
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from run_tiny import Capture, empty_run, figures
from tag2mask.cli import main
from tag2mask.data import read_mask, write_mask
from tag2mask.data.classes import write_class_ids
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.runs.run_folder import RunFolder
from test_predict_stage import model, photos, run  # noqa: F401 - fixtures

NAMES = ("background", "ant", "bee", "cow")
Masks = dict[str, np.ndarray]
Ways = tuple[Path, Path, Path, Masks, Masks, Masks]
"""Folders of A, B and the ground truth, and their masks with the ids of `NAMES`."""


def random_masks(folder: Path, seed: int, ids: list[str], order: tuple[int, ...] = (0, 1, 2, 3)) -> Masks:
    """Write masks of blocks with every value, more alike for larger numbers; return them with the ids of `NAMES`."""
    found, table = {}, np.arange(256, dtype=np.uint8)
    table[: len(order)] = order
    for number, image_id in enumerate(ids):
        size = (8 + number % 3, 10)
        same = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), size)
        own = np.random.default_rng([seed, number]).choice(np.array([0, 1, 2, 3, 255], np.uint8), size)
        mask = np.where(np.random.default_rng([seed, number, 1]).random(size) < number / 20, same, own)
        write_mask(folder / f"{image_id}.png", table[mask])
        found[image_id] = mask
    return found


def slow_iou(a: list[np.ndarray], b: list[np.ndarray], *, symmetric: bool) -> list[float | None]:
    """IoU by class, pixel by pixel: 255 in b is not counted, 255 in a neither where both are masks."""
    both, either = [0] * 4, [0] * 4
    for one, other in zip(a, b, strict=True):
        for left, right in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
            if right == 255 or (symmetric and left == 255):
                continue
            for name in range(4):
                both[name] += left == name == right
                either[name] += name in (left, right)
    return [hits / union if union else None for hits, union in zip(both, either, strict=True)]


def mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def compare(capsys: Capture, *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["compare", *map(str, words), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: Capture, *words: object) -> str:
    capsys.readouterr()
    assert main(["compare", *map(str, words)]) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def ways(tmp_path: Path) -> Ways:
    """Masks A, B with its classes in another order, and ground truth, of 18 images; A and B each have one more."""
    ids = [f"sub/{number}" if number % 5 == 0 else f"{number}" for number in range(18)]
    a = random_masks(tmp_path / "a", 1, [*ids, "of a"])
    b = random_masks(tmp_path / "b", 2, [*ids, "of b"], order=(0, 3, 1, 2))
    write_class_ids(tmp_path / "b", ("bee", "cow", "ant"))
    truth = random_masks(tmp_path / "truth", 3, ids)
    return tmp_path / "a", tmp_path / "b", tmp_path / "truth", a, b, truth


def test_agreement_against_a_slow_count(ways: Ways, tmp_path: Path, capsys: Capture) -> None:
    place_a, place_b, _, a, b, _ = ways
    write_mask(place_b / "17.png", np.zeros((4, 4), np.uint8))
    out = tmp_path / "new/table.csv"
    found = compare(capsys, place_a, place_b, "--data.classes", "ant,bee,cow", "--out", out, code=1)
    assert found["only_a"] == ["of a"] and found["only_b"] == ["of b"] and found["truth"] is None
    assert found["failed"] == {"17": "17: the masks in A and B differ in size: 10 × 10 and 4 × 4 pixels"}
    ids = [image_id for image_id in a if image_id in b and image_id != "17"]
    assert found["images"] == len(ids) == 17
    expected = slow_iou([a[each] for each in ids], [b[each] for each in ids], symmetric=True)
    assert [found["classes"][name]["iou"] for name in NAMES] == pytest.approx(expected)
    assert found["mean_iou"] == pytest.approx(mean(expected))
    assert all(sum(values.values()) == pytest.approx(1) for values in found["classes"].values())
    counted = [(a[each] != 255) & (b[each] != 255) for each in ids]
    differing = sum(int((a[each] != b[each])[where].sum()) for each, where in zip(ids, counted, strict=True))
    assert found["pixels_that_differ"] == pytest.approx(differing / sum(int(where.sum()) for where in counted))
    assert {each["image"] for each in found["agreement"]} == {*ids}
    for each in found["agreement"]:
        iou = slow_iou([a[each["image"]]], [b[each["image"]]], symmetric=True)
        assert each["agreement"] == pytest.approx(mean(iou))
        known = {name: value for name, value in zip(NAMES, iou, strict=True) if value is not None}
        assert each["class_iou"] == pytest.approx(min(known.values())) == pytest.approx(known[each["class_name"]])
    agreement = [each["agreement"] for each in found["agreement"]]
    assert agreement == sorted(agreement) and agreement[0] < agreement[-1]
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["class"]) for row in rows] == [
        (each["image"], each["class_name"]) for each in found["agreement"]
    ]
    assert [float(row["agreement"]) for row in rows] == pytest.approx(agreement, abs=1e-4)


def test_both_ways_against_ground_truth(ways: Ways, tmp_path: Path, capsys: Capture) -> None:
    place_a, place_b, place_truth, a, b, truth = ways
    (place_truth / "3.png").unlink()  # one image has no ground truth
    words = (place_a, place_b, "--data.masks", place_truth)
    found = compare(capsys, *words)  # A has the classes of B, in B's order of ids
    written = dict(zip(("bee", "cow", "ant"), (1, 2, 3), strict=True))
    ids = [image_id for image_id in truth if image_id != "3"]
    names = ("background", *sorted(written, key=lambda name: written[name]))
    to_names = np.arange(256, dtype=np.uint8)
    to_names[1:4] = [NAMES.index(name) for name in names[1:]]
    read = {image_id: to_names[a[image_id]] for image_id in ids}  # what A's ids mean by B's list
    real = [to_names[truth[image_id]] for image_id in ids]
    for way, masks in (("a", read), ("b", b)):
        iou = slow_iou([masks[image_id] for image_id in ids], real, symmetric=False)
        assert [found["truth"][way]["iou"][name] for name in NAMES] == pytest.approx(iou)
        assert found["truth"][way]["images"] == 17
    better = "B" if found["truth"]["b"]["miou"] > found["truth"]["a"]["miou"] else "A"
    assert found["truth"]["better"] == better
    agreement = {each["image"]: each["agreement"] for each in found["agreement"]}
    best = read if better == "A" else b
    ious = []
    for image_id, mask in zip(ids, real, strict=True):
        iou = slow_iou([best[image_id]], [mask], symmetric=False)
        ious.append(mean([iou[name] for name in range(4) if (mask == name).any()]))
    ranking = found["truth"]["ranking"]
    assert ranking["images"] == 17
    assert ranking["spearman"] == pytest.approx(spearmanr([agreement[each] for each in ids], ious).statistic)
    assert ranking["low"] < ranking["spearman"] < ranking["high"]
    assert main(["compare", *map(str, words)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"agreement with the mean IoU of {better}, the better way: {ranking['spearman']:.2f} [" in said
    few = compare(capsys, *words, "--limit", 9)
    assert few["images"] == 9 and few["truth"]["ranking"] is None


def test_a_way_agrees_with_itself(ways: Ways, capsys: Capture) -> None:
    place = ways[0]
    write_mask(place / "nothing.png", np.full((3, 3), 255, np.uint8))
    found = compare(capsys, place, place, "--data.classes", "ant,bee,cow", "--data.masks", ways[2])
    assert found["mean_iou"] == 1 and found["pixels_that_differ"] == 0
    assert found["agreement"][-1] == {"image": "nothing", "agreement": None, "class_name": "", "class_iou": None}
    assert found["truth"]["ranking"]["spearman"] is None


def test_two_runs_with_final_masks(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    """Masks by hand count, rejected ones are left out, and the ground truth is that of the run's data."""
    other = Path(copytree(copied, tmp_path / "other"))
    masks = copied / "masks"
    ids = sorted(path.relative_to(masks).with_suffix("").as_posix() for path in masks.rglob("*.png"))
    assert len(ids) == 10
    by_hand = read_mask(copied / "masks" / f"{ids[0]}.png")
    by_hand[:20] = 1
    kept = CorrectionsFolder(other / "corrections", RunFolder(other).classes() or ())
    kept.write(ids[0], Decision.now("corrected"), by_hand)
    kept.write(ids[1], Decision.now("rejected"))
    (copied / "masks" / f"{ids[2]}.png").unlink()
    found = compare(capsys, copied, other)
    assert found["images"] == 8 and found["rejected"] == 1
    assert found["only_a"] == [] and found["only_b"] == [ids[2]]
    assert found["agreement"][0]["image"] == ids[0] and found["agreement"][0]["agreement"] < 1
    assert all(each["agreement"] == 1 for each in found["agreement"][1:])
    assert "1 images with a rejected mask are left out" in found["notes"]
    assert found["truth"]["a"]["images"] == 8


def test_the_ground_truth_of_a_run_gives_the_figures_of_its_evaluation(copied: Path, capsys: Capture) -> None:
    (method,) = figures(copied)["refine"]["train"].values()
    found = compare(capsys, copied, copied)
    assert found["truth"]["a"]["miou"] == pytest.approx(method["miou"])


def test_an_output_of_predict_against_a_run_and_a_folder(
    photos: Path,  # noqa: F811
    model: Path,  # noqa: F811
    copied: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    assert run(photos, model, tmp_path / "predicted") == 0
    masks = {path.name: path for path in (tmp_path / "predicted").glob("*.png")}
    for name, path in masks.items():
        write_mask(tmp_path / "plain" / name, read_mask(path))
    found = compare(capsys, tmp_path / "plain", tmp_path / "predicted")  # the folder has the classes of predict
    assert found["images"] == len(masks) == 6 and found["mean_iou"] == 1
    assert [*found["classes"]] == ["background", "class1", "class2"] and found["only_b"] == ["sub/deep"]
    said = refused(capsys, copied, tmp_path / "predicted")
    names = ", ".join(RunFolder(copied).classes() or ())
    assert f"the classes of {copied} are {names}, and those of {tmp_path / 'predicted'} are class1, class2" in said
    # predictions of the run itself, over its masks and over their split
    split = copied / "predictions/train"
    for path in (copied / "masks").rglob("*.png"):
        write_mask(split / path.relative_to(copied / "masks"), read_mask(path))
    found = compare(capsys, copied, split, "--limit", 3)
    assert found["images"] == 3 and found["mean_iou"] == 1 and found["truth"]["a"]["images"] == 3
    elsewhere = compare(capsys, split, scenes / "masks")  # ground truth as the other way, of both splits
    assert elsewhere["images"] == 10 and len(elsewhere["only_b"]) == 4
    assert elsewhere["mean_iou"] == pytest.approx(elsewhere["truth"]["a"]["miou_present"])


def test_what_cannot_be_compared(ways: Ways, tmp_path: Path, capsys: Capture) -> None:
    a, b, truth = ways[:3]
    assert "nothing says what the classes are" in refused(capsys, a, truth)
    assert "is not a folder" in refused(capsys, a, tmp_path / "gone", "--data.classes", "ant")
    write_mask(tmp_path / "far/x.png", np.zeros((2, 2), np.uint8))
    said = refused(capsys, b, tmp_path / "far")
    assert "no image has a mask in both" in said and f"{tmp_path / 'far'} has 1 masks: x" in said
    assert "is not a folder" in refused(capsys, a, b, "--data.masks", tmp_path / "gone")
    table = tmp_path / "t.csv"
    assert "suffix .csv" in refused(capsys, a, b, "--out", tmp_path / "t.png")
    table.write_text("a table of somebody")
    assert f"--out {table} exists" in refused(capsys, a, b, "--out", table)
    assert table.read_text() == "a table of somebody"
    assert main(["compare", str(a), str(b), "--out", str(table), "--overwrite", "--dry-run"]) == 0
    assert "would compare the masks of 18 images" in " ".join(capsys.readouterr().out.split())
    assert table.read_text() == "a table of somebody"
    assert main(["compare", str(a), str(b), "--out", str(table), "--overwrite"]) == 0
    assert table.read_text().startswith("image,agreement,class,class_iou")


def test_truth_has_its_own_order_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"a": ("cat", "dog"), "b": ("dog", "cat"), "truth": ("dog", "cat")}
    labels = np.zeros((10, 10), dtype=np.uint8)
    labels[:5], labels[5:, 5:] = 1, 2  # cat and dog in the order of a
    swapped = np.array([0, 2, 1], dtype=np.uint8)[labels]
    for name, classes in names.items():
        write_mask(tmp_path / name / "one.png", labels if name == "a" else swapped)
        write_class_ids(tmp_path / name, classes)
    for first, second in (("a", "b"), ("b", "a")):
        words = [
            "compare",
            str(tmp_path / first),
            str(tmp_path / second),
            "--data.masks",
            str(tmp_path / "truth"),
            "--json",
        ]
        assert main(words) == 0
        found = json.loads(capsys.readouterr().out)["truth"]
        assert found["a"]["miou"] == found["b"]["miou"] == 1
    (tmp_path / "truth/classes.json").unlink()
    assert main(words) == 2
    assert "nothing says the order of the classes" in capsys.readouterr().err
    assert main([*words, "--data.classes", "dog,cat"]) == 0
    assert json.loads(capsys.readouterr().out)["truth"]["a"]["miou"] == 1
    (tmp_path / "truth/one.png").write_bytes(b"damaged")
    assert main([*words, "--data.classes", "dog,cat"]) == 0
    assert json.loads(capsys.readouterr().out)["images"], "the agreement does not need the ground truth"


def test_the_classes_of_the_command_are_those_of_the_folder(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    """A folder whose ids have another order than those of the run that it is compared with."""
    names = RunFolder(copied).classes() or []
    table = np.array([0, *range(len(names), 0, -1), *[255] * (255 - len(names))], dtype=np.uint8)
    for path in (copied / "masks").rglob("*.png"):
        write_mask(tmp_path / "theirs" / path.relative_to(copied / "masks"), table[read_mask(path)])
    reversed_names = ",".join(reversed(names))
    for first, second in ((copied, tmp_path / "theirs"), (tmp_path / "theirs", copied)):
        found = compare(capsys, first, second, "--data.classes", reversed_names)
        assert found["images"] == 10 and found["mean_iou"] == 1
        assert found["truth"]["a"]["miou"] == found["truth"]["b"]["miou"]


def test_a_split_with_the_name_default(tmp_path: Path, capsys: Capture) -> None:
    """The ground truth of a run's predictions is that of their split, whatever its name."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tags.csv").write_text("image,tags,split\na.png,ant,train\nb.png,ant,default\n")
    mask = np.eye(8, dtype=np.uint8)
    out = empty_run(tmp_path / "run", tmp_path / "data", masks=tmp_path / "truth", split="train")
    (out / "predictions").mkdir()
    (out / "predictions/stage.json").write_text("{}")
    RunFolder(out).write_classes(["ant"])
    for place in ("data/a", "data/b", "truth/a", "truth/b", "run/predictions/default/b", "other/b"):
        write_mask(tmp_path / f"{place}.png", mask)
    found = compare(capsys, out / "predictions/default", tmp_path / "other")
    assert found["truth"]["a"]["images"] == 1 and found["truth"]["a"]["miou"] == 1


def test_the_report_shows_the_agreement(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    """The images that differ most with both masks, whatever the order of the other's ids, until masks change."""
    names = RunFolder(copied).classes() or []
    assert len(names) == 2
    swapped = np.array([0, 2, 1, *range(3, 256)], dtype=np.uint8)
    masks = sorted((copied / "masks").rglob("*.png"))
    for place, path in enumerate(masks):
        theirs = read_mask(path)
        theirs[: place * 6] = 1 if place else theirs[:0]
        write_mask(tmp_path / "theirs" / path.relative_to(copied / "masks"), swapped[theirs])
    write_class_ids(tmp_path / "theirs", names[::-1])
    found = compare(capsys, copied, tmp_path / "theirs")

    def page() -> str:
        assert main(["report", str(copied), "--quiet", "--report.images", "0"]) == 0
        return (copied / "report.html").read_text()

    first = page()
    text = " ".join(re.sub("<[^>]+>", " ", first).split())
    assert f"Agreement with theirs : {100 * found['mean_iou']:.1f} % mean IoU over 10 images, on 20" in text
    assert "changed since" not in text
    order = re.findall(r'href="#differ-1-(\d)"><bdi>([^<]+)</bdi></a> <b>([\d.]+)', first)
    least = [(each["image"], f"{100 * each['agreement']:.1f}") for each in found["agreement"][:5]]
    assert order == [(f"{place}", *each) for place, each in enumerate(least, 1)]
    card = first.partition('id="differ-1-1"')[2].partition("</article>")[0]
    shown = dict(zip(re.findall(r'class="name">([^<]+)<', card), card.split("<figure")[1:], strict=True))
    assert [*shown][:3] == ["Image", "Mask", "theirs"]
    pictures = {
        name: np.asarray(Image.open(io.BytesIO(base64.b64decode(own.partition("base64,")[2].partition('"')[0]))))
        for name, own in shown.items()
        if name in ("Mask", "theirs")
    }
    both = (read_mask(copied / "masks" / f"{least[0][0]}.png"), read_mask(tmp_path / "theirs" / f"{least[0][0]}.png"))
    same = (both[0] == swapped[both[1]])[8:-8, 8:-8].mean()
    drawn = (pictures["Mask"] == pictures["theirs"]).reshape(*pictures["Mask"].shape[:2], -1).all(2).mean()
    assert abs(same - drawn) < 0.2
    compare(capsys, copied, tmp_path / "theirs", "--limit", 2)
    assert page().count(least[0][0]) == first.count(least[0][0]), "a part replaces the record of all images"
    theirs = tmp_path / "theirs" / f"{least[0][0]}.png"
    write_mask(theirs, np.zeros((3, 3), np.uint8))
    changed = page()
    assert "masks of 1 of them changed since" in changed
    assert re.findall(r'href="#differ-1-\d"><bdi>([^<]+)</bdi>', changed) == [each for each, _ in least[1:]]
    write_mask(theirs, both[1])
    write_mask(masks[0], 1 - read_mask(masks[0]).clip(0, 1))
    masks[1].unlink()
    assert "masks of 2 of them changed since" in page()
    (record,) = (copied / "compare").iterdir()
    record.write_text(record.read_text().replace(f'"{names[0]}",', '"other",'))
    assert f"{record} is of masks with other classes; `tag2mask compare` writes it again" in page()
    record.write_text('{"name": 1}')
    assert f"{record} is damaged; `tag2mask compare` writes it again" in page()
    record.unlink()
    for other in (tmp_path / "theirs", copied / "predictions/train"):  # nothing for a folder, and none for predictions
        other.mkdir(exist_ok=True, parents=True)
        write_mask(other / f"{least[0][0]}.png", both[0])
        compare(capsys, other, copied)
    assert not [*(copied / "compare").iterdir()]


def test_a_run_is_recorded_once(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    """A run and its masks are one, also through a link; a comparison that cannot be recorded is still printed."""
    other = Path(copytree(copied, tmp_path / "other"))
    (tmp_path / "link").symlink_to(other)
    for place in (other, other / "masks", tmp_path / "link", tmp_path / "link/masks"):
        compare(capsys, copied, place)
    (record,) = (copied / "compare").iterdir()
    assert record.name.startswith("other-") and json.loads(record.read_text())["name"] == "other"
    record.unlink()
    (copied / "compare").rmdir()
    (copied / "compare").write_text("not a folder")
    assert main(["compare", str(copied), str(other)]) == 0
    said = capsys.readouterr()
    assert "not recorded for the report of" in " ".join(said.err.split()) and "mean IoU" in said.out
