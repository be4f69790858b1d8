"""Where files are written: below the folder that a command names, whatever links, names and settings it meets."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from shutil import copytree, move, rmtree
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from run_tiny import BACKBONE, Capture, empty_run, files_of, run
from tag2mask.cli import main
from tag2mask.core.errors import UsageError
from tag2mask.data import DataSettings, write_mask
from tag2mask.data.arrow_rows import ArrowWriter
from tag2mask.data.corrections import Corrections, CorrectionsFolder, Decision, FinalMasks
from tag2mask.data.dataset import open_images, survey
from tag2mask.data.file_names import leads_out
from tag2mask.data.manifest import _SCHEMA
from tag2mask.data.readers import table
from tag2mask.data.readers.entries import Entry
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import copy_masks_by_hand
from tag2mask.training.log import training_log

SEGMENT = {
    "segment__enabled": "true",
    "segment__network__backbone": BACKBONE,
    "segment__network__weights": "none",
    "segment__steps": "1",
    "segment__batch_size": "2",
    "segment__augment__crop": "65",
    "segment__augment__long_side": "[64,96]",
}


@pytest.fixture(scope="module")
def segmented(done: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run with a segmentation network and its predictions."""
    out = Path(copytree(done, tmp_path_factory.mktemp("segmented") / "out"))
    assert run("segment", scenes, out, **SEGMENT) == 0
    return out


def link(folder: Path, target: Path) -> dict[str, bytes]:
    """Replace a folder by a link to ``target``, which gets one file of another person; all files there."""
    target.mkdir()
    (target / "theirs.txt").write_text("not yours")
    rmtree(folder, ignore_errors=True)
    folder.symlink_to(target)
    return files_of(target)


LINKS = {
    "masks": "refine",
    "masks/train": "refine",
    "refine": "refine",
    "cams": "cams",
    "cams/pot": "cams",
    "cams/pot/train": "cams",
    "train": "train",
    "confidence": "confidence",
    "confidence/features/train": "confidence",
}


@pytest.mark.parametrize("name", LINKS)
def test_no_stage_writes_through_a_link_and_a_restart_replaces_it(
    name: str, copied: Path, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = link(copied / name, tmp_path / "elsewhere")
    if name == "refine":  # so that there is something to do, and not another's masks
        rmtree(copied / "masks")
    assert run("run", scenes, copied) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"leads out of {copied}, to {tmp_path / 'elsewhere'}" in said and "remove that link" in said
    assert run("run", scenes, copied, restart=LINKS[name]) == 0
    assert files_of(tmp_path / "elsewhere") == before
    assert not any(path.is_symlink() for path in copied.rglob("*"))


def test_the_records_of_speed_follow_no_link(copied: Path, scenes: Path, tmp_path: Path) -> None:
    before = link(copied / "throughput", tmp_path / "elsewhere")
    rmtree(copied / "masks")
    assert run("refine", scenes, copied) == 2
    (copied / "throughput").unlink()
    assert run("refine", scenes, copied) == 0
    assert files_of(tmp_path / "elsewhere") == before


def test_a_link_to_a_file_is_replaced_and_a_whole_run_may_be_one(copied: Path, scenes: Path, tmp_path: Path) -> None:
    names = ("metrics.json", "train/log.jsonl", "config.yaml", "masks/train/0000.png", "environment.json")
    for name in names:
        move(copied / name, tmp_path / Path(name).name)
        (copied / name).symlink_to(tmp_path / Path(name).name)
    before = {name: (tmp_path / Path(name).name).read_bytes() for name in names}
    (tmp_path / "linked").symlink_to(copied)
    assert run("run", scenes, tmp_path / "linked", restart="train") == 0
    assert {name: (tmp_path / Path(name).name).read_bytes() for name in names} == before
    assert not any((copied / name).is_symlink() for name in names)


@pytest.mark.parametrize("name", ["corrections", "corrections/train"])
def test_no_correction_is_written_through_a_link(name: str, copied: Path, tmp_path: Path, capsys: Capture) -> None:
    (copied / "corrections").mkdir()
    before = link(copied / name, tmp_path / "elsewhere")
    theirs = tmp_path / "elsewhere/.partial-theirs"
    theirs.touch()
    os.utime(theirs, (0, 0))
    assert main(["import", "masks", str(copied / "masks"), str(copied)]) == 2
    assert "leads out of" in capsys.readouterr().err
    folder = CorrectionsFolder(copied / "corrections", ("cat", "dog"))
    for act in (
        lambda: folder.write("train/0000", Decision("rejected")),
        lambda: folder.write("train/0000", Decision("corrected"), np.zeros((64, 64), np.uint8)),
        lambda: folder.forget("train/theirs"),
    ):
        with pytest.raises(UsageError, match="leads out of"):
            act()
    theirs.unlink()
    assert files_of(tmp_path / "elsewhere") == before


def test_copies_of_masks_by_hand_replace_a_link(done: Path, scenes: Path, tmp_path: Path) -> None:
    images = open_images(DataSettings(root=scenes))
    image_id = images.items[0].id
    write_mask(tmp_path / f"corrections/{image_id}.png", np.ones((64, 64), np.uint8))
    before = link(tmp_path / "by_hand", tmp_path / "elsewhere")
    corrections = Corrections(tmp_path / "corrections", {image_id: "corrected"})
    copy_masks_by_hand(tmp_path / "by_hand", images, FinalMasks(done / "masks", corrections))
    assert (tmp_path / f"by_hand/{image_id}.png").is_file() and not (tmp_path / "by_hand").is_symlink()
    assert files_of(tmp_path / "elsewhere") == before


def test_curves_follow_no_link(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    before = link(tmp_path / "train/tensorboard", tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads out of"), training_log(tmp_path / "train", step=0, tensorboard=True):
        pass
    assert files_of(tmp_path / "elsewhere") == before


def test_repeated_runs_follow_no_link(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "out").mkdir()
    before = link(tmp_path / "out/seed-1", tmp_path / "elsewhere")
    assert run("run", scenes, tmp_path / "out", repeats="2") == 2
    assert "leads out of" in capsys.readouterr().err and files_of(tmp_path / "elsewhere") == before


def test_predict_follows_no_link(segmented: Path, scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "out").mkdir()
    before = link(tmp_path / "out/val", tmp_path / "elsewhere")
    words = ["predict", str(segmented), str(scenes), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 2
    assert "leads out of" in capsys.readouterr().err and files_of(tmp_path / "elsewhere") == before
    (tmp_path / "out/val").unlink()
    assert main(words) == 0


SPLITS = ("..", ".", "../../evil", "val/../../../evil", "/evil")


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_the_name_of_a_folder(
    split: str, segmented: Path, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, data = (Path(copytree(each, tmp_path / "a" / each.name)) for each in (segmented, scenes))
    (data / "tags.csv").write_text((data / "tags.csv").read_text().replace(",val\n", f",{split}\n"))
    before = files_of(tmp_path)
    for words in (["segment", str(out)], ["evaluate", str(out)], ["run", "--out", str(out)]):
        assert main([*words, "--data.root", str(data), "--evaluate.splits", f"[train,{split}]"]) == 2
        assert f"the split `{split}` is not the name of a folder" in capsys.readouterr().err
    now = files_of(tmp_path)
    assert {name: now[name] for name in before if "config.yaml" not in name and "data.arrow" not in name}.items() <= (
        before.items()
    )
    assert not (tmp_path / "evil").exists() and not (tmp_path / "a/evil").exists()


@pytest.mark.parametrize("image_id", ["../x", "a/../../x", "/x", ".", "a//x", "x\0y", ""])
def test_an_id_that_leads_out_is_refused_whatever_reader_gives_it(
    image_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    (tmp_path / "tags.csv").write_text("image,tags\nx.png,cat\n")

    def entry(image: str, *rest: Any) -> Entry:
        return Entry(image_id, *rest)

    monkeypatch.setattr(table, "Entry", entry)
    found = survey(DataSettings(root=tmp_path))
    assert [problem.kind for problem in found.problems] == ["outside-root"] and not found.images.items
    assert "\0" not in str(found.problems[0])


def coco_root(root: Path, name: str = "one.jpg") -> Path:
    """A COCO root of two images, one of them in a folder."""
    boxes = [[0, 0, 4, 4], [4, 4, 4, 4]]
    names = [name, "sub/two.jpg"]
    for each in names:
        (root / "train" / each).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / "train" / each)
    images = [{"id": number, "file_name": each, "height": 8, "width": 8} for number, each in enumerate(names, 1)]
    objects = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": 16, "iscrowd": 0}
        | {"segmentation": [[box[0], box[1], box[0] + 4, box[1], box[0] + 4, box[1] + 4, box[0], box[1] + 4]]}
        for number, box in enumerate(boxes, 1)
    ]
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    return root


def painted(root: Path, out: Path, *more: str) -> int:
    """Paint the masks of a COCO root."""
    write_mask(empty_run(out, root) / "masks/one.png", np.zeros((8, 8), np.uint8))
    return main(["evaluate", str(out), "--workers", "0", *more])


@pytest.mark.parametrize("name", ["../../../../secret.png", "/secret.png", "sub/../../../secret.png", 5])
def test_the_stored_index_of_a_coco_root_names_no_file_outside(name: object, tmp_path: Path) -> None:
    root = coco_root(tmp_path / "a/b/root")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    secret = (tmp_path / "secret.png").read_bytes()
    ids = [item.id for item in open_images(DataSettings(root=root)).items]
    index = root / "SegmentationClass/instances_train.npz"
    with np.load(index) as found:
        arrays = dict(found)
    text = json.loads(arrays["text"].tobytes())
    text["names"][0] = name
    np.savez(index, **arrays | {"text": np.frombuffer(json.dumps(text).encode(), np.uint8)})
    assert [item.id for item in open_images(DataSettings(root=root)).items] == ids == ["one", "sub/two"]
    assert painted(root, tmp_path / "out") == 0
    assert (root / "SegmentationClass/sub/two.png").is_file() and (tmp_path / "secret.png").read_bytes() == secret


@pytest.mark.parametrize(("name", "value"), [("notes", [5]), ("categories", [[None, "cat"], [2, "dog"]])])
def test_an_index_of_other_types_is_made_again(name: str, value: object, tmp_path: Path) -> None:
    root = coco_root(tmp_path / "root")
    notes = list(survey(DataSettings(root=root)).listing.notes)
    index = root / "SegmentationClass/instances_train.npz"
    with np.load(index) as found:
        arrays = dict(found)
    text = json.loads(arrays["text"].tobytes()) | {name: value}
    np.savez(index, **arrays | {"text": np.frombuffer(json.dumps(text).encode(), np.uint8)})
    assert list(survey(DataSettings(root=root)).listing.notes) == notes


@pytest.mark.parametrize("change", [lambda arrays: arrays["numbers"][:1], lambda arrays: arrays["tags"][:1]])
def test_an_index_whose_parts_differ_in_length_is_made_again(change: Any, tmp_path: Path) -> None:
    root = coco_root(tmp_path / "root")
    open_images(DataSettings(root=root))
    index = root / "SegmentationClass/instances_train.npz"
    with np.load(index) as found:
        arrays = dict(found)
    part = change(arrays)
    np.savez(index, **arrays | {next(name for name in arrays if arrays[name].dtype == part.dtype): part})
    assert len(open_images(DataSettings(root=root))) == 2


@pytest.mark.parametrize("name", ["SegmentationClass", "SegmentationClass/sub"])
def test_masks_are_painted_below_the_root_or_into_the_folder_that_is_named(
    name: str, tmp_path: Path, capsys: Capture
) -> None:
    root = coco_root(tmp_path / "root")
    (root / "SegmentationClass").mkdir()
    before = link(root / name, tmp_path / "elsewhere")
    assert painted(root, tmp_path / "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "leads out of" in said and files_of(tmp_path / "elsewhere") == before
    named = tmp_path / "named"  # a folder that the user names may be a link
    (tmp_path / "large-disk").mkdir()
    named.symlink_to(tmp_path / "large-disk")
    assert painted(root, tmp_path / "out", "--data.masks", str(named)) == 0
    assert (tmp_path / "large-disk/sub/two.png").is_file()


# Settings


def text_settings(config: Any, above: str = "") -> Iterator[str]:
    """The names of all settings that can be any text."""
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            yield from text_settings(value, f"{above}{each.name}.")
        elif any(kind in str(each.type) for kind in ("str", "Path")) and "Literal" not in str(each.type):
            yield above + each.name


COMMANDS = (
    ["review", "RUN", "--dry-run"],
    ["report", "RUN"],
    ["export", "voc", "RUN", "--out", "OUT"],
    ["import", "masks", "RUN/masks", "RUN"],
    ["evaluate", "RUN"],
    ["check", "--with", "RUN"],
    ["run", "--out", "RUN", "--dry-run"],
)
BUILD = ["run", "--out", "RUN", "--restart", "train", "--segment.enabled", "true", "--refine.method", "irn"]
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
_listening: list[list[str]] = []


def _hear(event: str, arguments: object) -> None:
    for events in _listening if event in STARTS else ():
        events.append(f"{event} {arguments}")


@pytest.fixture(scope="module")
def _hears() -> None:
    sys.addaudithook(_hear)  # which stays, and hears nothing when nothing listens


@pytest.mark.parametrize("name", [*text_settings(Config())])
@pytest.mark.usefixtures("_hears")
def test_no_setting_of_a_run_folder_names_a_command(name: str, copied: Path, tmp_path: Path) -> None:
    marker, place, started = tmp_path / "executed", copied / "config.yaml", []
    settings = yaml.safe_load(place.read_text())
    *sections, last = name.split(".")
    section = settings
    for each in sections:
        section = section[each]
    section[last] = f"pipe:touch {marker}; $(touch {marker})"
    place.write_text(yaml.safe_dump(settings))
    builds = name.endswith((".backbone", ".weights"))
    _listening.append(started)
    try:
        for command in [
            *COMMANDS,
            *([BUILD] if builds else []),
            *([["seeds", "--out", "RUN"]] if "seeds" in name else []),
        ]:
            words = [word.replace("RUN", str(copied)).replace("OUT", str(tmp_path / "export")) for word in command]
            assert main(words) in ((1, 2) if builds and command is BUILD else (0, 1, 2))
    finally:
        _listening.clear()
    assert not started and not marker.exists()


# Lists of images, in the folder for temporary files


def test_the_list_of_images_has_no_name_that_others_could_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        writer = ArrowWriter(_SCHEMA)
        for number in range(10_000):
            writer.append((f"secret {number}", "x.jpg", [1], "", None))
        assert os.fstat(writer._file.fileno()).st_nlink == 0 and not list(tmp_path.iterdir())
        assert len(writer.finish()) == 10_000 and not list(tmp_path.iterdir())
    finally:
        os.umask(before)


def test_what_leads_out() -> None:
    assert not any(map(leads_out, ("a", "a/b", "a..b", "...", "..a/b", "a\\..\\b", "é/ü")))
    assert all(map(leads_out, ("", "..", "a/..", "/a", "a/", "a//b", "./a", "a\0")))
