"""Folders as people have them: names of nothing, layouts of other tools, system folders, names in NFD, class lists."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from data_sets import IMAGE, plant
from run_tiny import TINY_WORDS, Capture, empty_run
from tag2mask.cli import main
from tag2mask.data.dataset import find_images, open_images, survey
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation.check import check
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import run_images
from tag2mask.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Case:
    """A tree and what becomes of it.

    Attributes:
        tree: the files.
        settings: of the data, without its root.
        tags: the names of the tags of each image, by ID; None where an error is expected.
        says: words of an error, a warning or a note, by the kind of the problem; `note` for notes.
    """

    tree: dict[str, object]
    settings: dict[str, object] = field(default_factory=dict)
    tags: dict[str, tuple[str, ...]] | None = None
    says: dict[str, str] = field(default_factory=dict)


PLATES = {"good/1.png": IMAGE, "good/2.png": IMAGE, "crack/1.png": IMAGE}
NFD = normalize("NFD", "Äpfel")
NFC = normalize("NFC", "Äpfel")

CASES = {
    "good is a warning": Case(
        PLATES,
        tags={"crack/1": ("crack",), "good/1": ("good",), "good/2": ("good",)},
        says={"negative-name": "--data.negatives good makes these images without tags"},
    ),
    "negatives are images without tags": Case(
        {**PLATES, "ok/1.png": IMAGE},
        {"negatives": "good, ok"},
        {"crack/1": ("crack",), "good/1": (), "good/2": (), "ok/1": ()},
        {"note": "3 images have no tags"},
    ),
    "_none is always one": Case(
        {"_none/1.png": IMAGE, "crack/1.png": IMAGE}, tags={"_none/1": (), "crack/1": ("crack",)}
    ),
    "a negative that is not there": Case(PLATES, {"negatives": "goood"}, says={"bad-classes": "did you mean `good`?"}),
    "background as a folder": Case(
        {"background/1.png": IMAGE, "cat/1.png": IMAGE}, says={"bad-classes": "--data.negatives background"}
    ),
    "negatives in another spelling": Case(
        {"OK/1.png": IMAGE, "crack/1.png": IMAGE}, {"negatives": "ok"}, {"OK/1": (), "crack/1": ("crack",)}
    ),
    "classes that are numbers": Case(
        {f"{name}/1.png": IMAGE for name in (1, 2, 10)}, tags={"1/1": ("1",), "2/1": ("2",), "10/1": ("10",)}
    ),
    "class folders with a file of settings": Case(
        {"cat/1.png": IMAGE, "dog/1.png": IMAGE, "dataset.yaml": "a: 1", "result.json": "{}"},
        tags={"cat/1": ("cat",), "dog/1": ("dog",)},
    ),
    "a mask next to its image": Case(
        {"crack/1.png": IMAGE, "crack/1_mask.png": IMAGE, "crack/2.png": IMAGE, "pit/3_mask.png": IMAGE},
        tags={"crack/1": ("crack",), "crack/2": ("crack",), "pit/3_mask": ("pit",)},
        says={"note": "1 files NAME_mask.png next to NAME are read as ground truth"},
    ),
    "MVTec": Case(
        {
            "train/good/0.png": IMAGE,
            "test/good/0.png": IMAGE,
            "test/crack/0.png": IMAGE,
            "ground_truth/crack/0_mask.png": IMAGE,
        },
        tags={"train/good/0": (), "test/good/0": (), "test/crack/0": ("crack",)},
        says={"note": "read as an inspection set"},
    ),
    "several MVTec sets": Case(
        {"tile/test/good/0.png": IMAGE, "tile/ground_truth/crack/0_mask.png": IMAGE, "tile/train/good/0.png": IMAGE},
        says={"known-layout": "give one as --data.root"},
    ),
    "YOLO": Case(
        {"images/train/1.png": IMAGE, "labels/train/1.txt": "0 .5 .5 .1 .1", "data.yaml": "names: [cat]"},
        says={"known-layout": "YOLO's layout"},
    ),
    "YOLO by CVAT": Case(
        {"obj_train_data/1.png": IMAGE, "obj_train_data/1.txt": "0 .5 .5 .1 .1", "obj.names": "cat", "obj.data": ""},
        says={"known-layout": "YOLO's layout"},
    ),
    "Roboflow, COCO": Case(
        {"train/1.png": IMAGE, "train/_annotations.coco.json": "{}", "valid/2.png": IMAGE},
        says={"known-layout": "COCO's format as Roboflow writes it"},
    ),
    "Roboflow, folders": Case(
        {"train/cat/1.png": IMAGE, "train/dog/2.png": IMAGE, "valid/cat/3.png": IMAGE, "test/cat/4.png": IMAGE},
        says={"known-layout": "the top folders are splits"},
    ),
    "FiftyOne": Case(
        {"data/1.png": IMAGE, "metadata.json": "{}", "samples.json": "{}"}, says={"known-layout": "FiftyOne"}
    ),
    "Label Studio": Case({"images/1.png": IMAGE, "result.json": "{}"}, says={"known-layout": "Label Studio"}),
    "CVAT": Case({"images/1.png": IMAGE, "annotations.xml": "<a/>"}, says={"known-layout": "export of CVAT"}),
    "LabelMe": Case({"all/1.png": IMAGE, "all/1.json": '{"shapes": []}'}, says={"known-layout": "LabelMe"}),
    "images and masks": Case(
        {"images/1.png": IMAGE, "masks/1.png": IMAGE}, says={"known-layout": "that of the masks as --data.masks"}
    ),
    "class folders on request": Case(
        {"train/1.png": IMAGE, "test/2.png": IMAGE},
        {"kind": "folders"},
        {"train/1": ("train",), "test/2": ("test",)},
        {"unlikely-class": "test, train"},
    ),
    "a class that is called train": Case(
        {"train/1.png": IMAGE, "car/2.png": IMAGE},
        tags={"train/1": ("train",), "car/2": ("car",)},
        says={"unlikely-class": "train"},
    ),
    "folders of systems": Case(
        {
            "cat/1.png": IMAGE,
            "cat/@eaDir/1.png": IMAGE,
            "@eaDir/cat/1.png": IMAGE,
            "__MACOSX/cat/1.png": IMAGE,
            "#recycle/cat/9.png": IMAGE,
            "cat/._1.png": IMAGE,
        },
        tags={"cat/1": ("cat",)},
    ),
    "a class of HEIC alone": Case(
        {"cat/1.png": IMAGE, "dog/1.HEIC": "", "dog/2.heic": ""},
        says={"unread-format": "the class `dog` has no image: 2 files there are of kinds that are not read"},
    ),
    "some HEIC": Case(
        {"cat/1.png": IMAGE, "cat/2.heic": ""}, tags={"cat/1": ("cat",)}, says={"unread-format": "convert them to JPEG"}
    ),
    "one class in NFC and NFD": Case(
        {f"{NFC}/1.png": IMAGE, f"{NFD}/2.png": IMAGE}, tags={f"{NFC}/1": (NFC,), f"{NFC}/2": (NFC,)}
    ),
    "a class list in NFC, folders in NFD": Case(
        {f"{NFD}/1.png": IMAGE, "cat/1.png": IMAGE}, {"classes": f"{NFC},cat"}, {f"{NFC}/1": (NFC,), "cat/1": ("cat",)}
    ),
    "a table in NFC, files in NFD": Case(
        {f"{NFD}.png": IMAGE, "tags.csv": f"image,tags\n{NFC}.png,cat\n"}, tags={NFC: ("cat",)}
    ),
    "a table in NFD, files in NFC": Case(
        {f"{NFC}.png": IMAGE, "tags.csv": f"image,tags\n{NFD}.png,cat\n"}, tags={NFC: ("cat",)}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_tree_is_read_rightly_or_refused_with_its_cause(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    plant(tmp_path, case.tree)
    found = survey(DataSettings(root=tmp_path, **case.settings))  # type: ignore[arg-type]
    errors = [problem for problem in found.problems if problem.level == "error"]
    said = [(problem.kind, problem.message) for problem in found.problems]
    said += [("note", note) for note in found.listing.notes]
    for kind, words in case.says.items():
        assert any(own == kind and words in message for own, message in said), said
    if case.tags is None:
        assert errors
        return
    assert not errors
    classes = found.images.classes
    named = {item.id: tuple(classes[tag - 1] for tag in item.tags) for item in found.images.items}
    assert named == case.tags
    assert all(item.path.is_file() for item in found.images.items)


@pytest.mark.parametrize("name", ["MVTec", "a mask next to its image"])
def test_masks_that_come_with_the_layout_are_the_truth(name: str, tmp_path: Path) -> None:
    plant(tmp_path, CASES[name].tree)
    settings = DataSettings(root=tmp_path)
    images = open_images(settings)
    masked = [item for item in images.items if item.truth is not None]
    assert [item.id.rpartition("/")[0].rpartition("/")[2] for item in masked] == ["crack"]
    assert np.unique(images.read_truth(masked[0])).tolist() == [0, 1]
    assert not [problem for problem in check(settings).problems if problem.kind.startswith("mask")]


def test_the_splits_of_an_inspection_set_have_one_class_list(tmp_path: Path) -> None:
    plant(tmp_path, {**CASES["MVTec"].tree, "validation/good/1.png": IMAGE, "validation/zit/1.png": IMAGE})
    lists = {open_images(DataSettings(root=tmp_path), split=split).classes for split in (None, "validation", "test")}
    assert lists == {("crack", "zit")}


def test_decisions_and_predictions_are_found_whatever_the_spelling(tmp_path: Path, capsys: Capture) -> None:
    names = [f"{normalize('NFD', name)}" for name in ("Ä1", "Ä2", "Ä3")]
    table = "image,tags\n" + "".join(f"{name}.png,pit\n" for name in names)
    plant(tmp_path / "data", {f"{name}.png": IMAGE for name in names} | {"tags.csv": table})
    for folder in ("masks", "made"):
        for name in names:
            (tmp_path / folder).mkdir(exist_ok=True)
            mask = np.zeros((24, 32), dtype=np.uint8)
            mask[4:12, 6:20] = 1
            Image.fromarray(mask).save(tmp_path / folder / f"{name}.png")
    words = ["--data.root", str(tmp_path / "data"), "--data.masks", str(tmp_path / "masks")]
    assert main(["evaluate", str(tmp_path / "made"), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == 1.0
    run = empty_run(tmp_path / "run", tmp_path / "data")
    assert main(["import", "masks", str(tmp_path / "made"), str(run)]) == 0
    (tmp_path / "copy/corrections").mkdir(parents=True)
    for path in (run / "corrections").iterdir():  # as a system copies them that has other spellings
        copyfile(path, tmp_path / "copy/corrections" / normalize("NFD", path.name))
    images = run_images(Config(data=DataSettings(root=tmp_path / "data")), RunFolder(tmp_path / "copy"))
    assert all(images.corrections.has_mask(item.id) for item in images.items)
    assert all((images.corrections.mask(item.id) or Path()).is_file() for item in images.items)


def test_masks_are_found_whatever_the_spelling(tmp_path: Path) -> None:
    plant(tmp_path / "data", {f"{NFC}/1.png": IMAGE, f"{NFC}/2.png": IMAGE})
    plant(tmp_path / "masks", {f"{NFD}/1.png": IMAGE, f"{NFD}/2_mask.png": IMAGE})
    images = open_images(DataSettings(root=tmp_path / "data", masks=tmp_path / "masks"))
    assert all(item.truth is not None and item.truth.is_file() for item in images.items)


def test_untagged_folders_have_ids_in_nfc(tmp_path: Path) -> None:
    plant(tmp_path, {f"{NFD}.png": IMAGE, "@eaDir/1.png": IMAGE})
    assert [item.id for item in find_images(tmp_path).items] == [NFC]
    assert [item.id for item in find_images(tmp_path / "**/*.png").items] == [NFC]


def test_images_without_tags_are_one_line(tmp_path: Path) -> None:
    rows = "".join(f"{number}.png,\n" for number in range(1, 30))
    plant(tmp_path, {f"{number}.png": IMAGE for number in range(30)} | {"tags.csv": f"image,tags\n0.png,pit\n{rows}"})
    report = check(DataSettings(root=tmp_path))
    assert sum("no tags" in line for line in report.render().splitlines()) == 1
    assert "29 images have no tags (first: tags.csv line 3)" in report.render()


def test_a_run_repeats_the_warnings_and_keeps_its_class_list(tmp_path: Path, capsys: Capture) -> None:
    plant(tmp_path / "data", {f"{name}/{number}.png": IMAGE for name in ("bird", "good", "pit") for number in range(2)})
    data, run = ["--data.root", str(tmp_path / "data")], str(tmp_path / "run")
    assert main(["run", *data, "--out", run, *TINY_WORDS]) == 0
    assert "--data.negatives good makes these images without tags" in capsys.readouterr().err
    assert "--data.negatives good" in (tmp_path / "run/report.html").read_text()
    assert json.loads((tmp_path / "run/classes.json").read_text())["classes"] == {"bird": 1, "good": 2, "pit": 3}
    masks = {file.name: file.read_bytes() for file in (tmp_path / "run/masks/pit").iterdir()}
    plant(tmp_path / "data", {"cat/1.png": IMAGE})  # sorts between the others: every id after it moves
    export = ["export", "coco", run, "--out", str(tmp_path / "coco")]
    for words in (
        ["run", *data, "--out", run, *TINY_WORDS],
        ["refine", run, *data, "--refine.method", "argmax"],
        ["evaluate", run, *data],
        ["segment", run, *data, "--restart", "segment"],
        ["report", run],
        ["review", run, "--dry-run"],
        ["evaluate", f"{run}/masks", *data, "--data.masks", f"{run}/masks"],
        ["run", *data, "--out", run, "--dry-run", *TINY_WORDS],
        export,
    ):
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert "started with the classes bird, good, pit, and the data now has bird, cat, good, pit" in said, words
        assert f"--out {run} --restart train" in said
    assert main(["run", *data, "--out", run, "--dry-run", "--restart", "train", *TINY_WORDS]) == 0
    assert masks == {file.name: file.read_bytes() for file in (tmp_path / "run/masks/pit").iterdir()}
    assert main(["run", *data, "--out", run, *TINY_WORDS, "--restart", "train"]) == 0
    assert json.loads((tmp_path / "run/classes.json").read_text())["classes"] == {
        "bird": 1,
        "cat": 2,
        "good": 3,
        "pit": 4,
    }
    assert main(export) == 0
    (tmp_path / "run/classes.json").unlink()  # as in a run folder from before there was such a file
    order = ["--data.classes", "pit,good,cat,bird"]
    assert main([*export, *order, "--overwrite"]) == 2
    assert "the same in another order" in capsys.readouterr().err
    assert main(["evaluate", run, *data]) == 0
    assert json.loads((tmp_path / "run/classes.json").read_text())["classes"] == {
        "bird": 1,
        "cat": 2,
        "good": 3,
        "pit": 4,
    }
