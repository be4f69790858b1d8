"""Corrections of a run: every stage works with them, and no stage changes them."""

import io
import json
import zipfile
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from PIL import Image

from run_tiny import Capture, files_of, run, words
from tag2mask.cli import main
from tag2mask.core.errors import Tag2maskError
from tag2mask.data import DataSettings, open_images, read_mask, write_mask
from tag2mask.data.cam_files import read_ids
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.data.dataset import ImageSet
from tag2mask.data.loading.datasets import LabelledSet
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import TrainingRecord, newer_tags
from tag2mask.runs.dataset import run_images
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages import segment as stage
from tag2mask.stages.refine_inputs import shard_of
from tag2mask.workflows.export_masks import mask_source
from tag2mask.workflows.repeats import Repeats
from test_segment_stages import SEGMENT as OF_THE_STAGE

SEGMENT = {name: value for name, value in OF_THE_STAGE.items() if name.startswith("segment__network")}
SEGMENT |= {"segment__steps": "1", "segment__batch_size": "4", "segment__augment__crop": "48"}
SEGMENT |= {"segment__augment__long_side": "[64,80]", "evaluate__splits": "val"}


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[LabelledSet]:
    """The samples of every training of `segment`."""
    seen: list[LabelledSet] = []
    made = stage.segmentation_task

    def task(network: Any, samples: LabelledSet, *rest: Any) -> Any:
        seen.append(samples)
        return made(network, samples, *rest)

    monkeypatch.setattr(stage, "segmentation_task", task)
    return seen


def corrections_of(folder: Path, scenes: Path) -> tuple[CorrectionsFolder, list[str]]:
    """An open folder of decisions about the scenes, and the IDs of the training scenes."""
    images = open_images(DataSettings(root=scenes, split="train"))
    return CorrectionsFolder(folder, images.classes), [item.id for item in images.items]


def labels_of(samples: LabelledSet, image_id: str) -> set[int]:
    """The labels that training sees of an image, over some views."""
    index = [item.id for item in samples.images.items].index(image_id)
    views = [samples[draw, index] for draw in range(4)]
    return set(np.concatenate([view["labels"][view["valid"]].numpy() for view in views]).tolist())


def of_class_two(size: int = 64) -> np.ndarray:
    return np.full((size, size), 2, dtype=np.uint8)


def by_coco(path: Path, image_id: str) -> list[tuple[int, float]]:
    """The classes and areas of an image's annotations in an export."""
    (listing,) = path.glob("annotations/*.json")
    coco = json.loads(listing.read_text())
    (image,) = [image["id"] for image in coco["images"] if image["file_name"].startswith(f"{image_id}.")]
    return [(each["category_id"], each["area"]) for each in coco["annotations"] if each["image_id"] == image]


def painted_in_cvat(task: Path, image_id: str, target: Path) -> None:
    """The task as it is when somebody made a whole image the second class."""
    with zipfile.ZipFile(task) as source, zipfile.ZipFile(target, "w") as edited:
        labels = source.read("labelmap.txt").decode().splitlines()
        colour = [int(part) for part in labels[3].split(":")[1].split(",")]  # a comment and background come first
        for name in source.namelist():
            content = source.read(name)
            if name == f"SegmentationClass/{image_id}.png":
                with Image.open(io.BytesIO(content)) as image:
                    painted = Image.new("RGB", image.size, tuple(colour))
                file = io.BytesIO()
                painted.save(file, format="PNG")
                content = file.getvalue()
            edited.writestr(name, content)


def test_from_a_run_through_cvat_and_back_into_training(
    copied: Path, scenes: Path, tmp_path: Path, trained_on: list[LabelledSet], capsys: Capture
) -> None:
    image_id = corrections_of(tmp_path, scenes)[1][0]
    own = (copied / f"masks/{image_id}.png").read_bytes()
    task, edited, back = tmp_path / "task.zip", tmp_path / "edited.zip", copied / "corrections"
    assert main(["export", "cvat", str(copied), "--out", str(task)]) == 0
    painted_in_cvat(task, image_id, edited)
    assert main(["import", "cvat", str(edited), str(copied)]) == 0
    before = files_of(back)
    assert run("segment", scenes, copied, **SEGMENT) == 0
    assert "10 of the 10 masks were corrected by hand" in capsys.readouterr().err
    assert labels_of(trained_on[0], image_id) == {2}
    # A run that is done again, with other settings, leaves them alone and uses them again.
    again = {**SEGMENT, "segment__enabled": "true", "refine__cams": "prototype", "evaluate__splits": "train"}
    assert run("run", scenes, copied, restart="refine", **again) == 0
    assert "10 images of split 'train' have a mask by hand; figures are of the masks that the method made" in (
        capsys.readouterr().err
    )
    assert files_of(back) == before
    assert [labels_of(each, image_id) for each in trained_on] == [{2}] * 2
    assert (copied / f"masks/{image_id}.png").read_bytes() != own  # the method's own mask, which is measured
    assert read_mask(copied / f"masks/{image_id}.png").tolist() != of_class_two().tolist()
    assert main(["export", "coco", str(copied), "--out", str(tmp_path / "coco")]) == 0
    assert by_coco(tmp_path / "coco", image_id) == [(2, 64 * 64)]
    assert "Mask, corrected by hand" in (copied / "report.html").read_text()


def test_a_persons_mask_goes_before_the_methods(
    copied: Path, scenes: Path, tmp_path: Path, trained_on: list[LabelledSet], capsys: Capture
) -> None:
    settings = {**SEGMENT, "segment__batch_size": "10"}  # each image in the one step
    kept, ids = corrections_of(copied / "corrections", scenes)
    kept.write(ids[0], Decision.now("corrected"), of_class_two())
    kept.write(ids[1], Decision.now("rejected"))
    kept.write(ids[2], Decision.now("corrected"), of_class_two(48))  # of another size
    (kept.folder / f"{ids[3]}.json").parent.mkdir(exist_ok=True)
    (kept.folder / f"{ids[3]}.json").write_text("{")
    capsys.readouterr()
    assert run("segment", scenes, copied, **settings) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the mask is 48 × 48 pixels, its image 64 × 64" in said
    assert f"{ids[3]}.json could not be read as JSON" in said and "2 failed" in said
    assert "2 of the 8 masks were corrected by hand" in said and "1 rejected masks were left out" in said
    assert "have no mask to learn from" not in said
    (samples,) = trained_on
    found = [item.id for item in samples.images.items]
    assert labels_of(samples, ids[0]) == {2} and ids[1] not in found and ids[3] not in found

    assert main(["export", "coco", str(copied), "--out", str(tmp_path / "coco")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "7 done" in said and "2 failed" in said and "1 rejected masks are left out" in said
    assert by_coco(tmp_path / "coco", ids[0]) == [(2, 64 * 64)]
    assert main(["report", str(copied), "--report.images", "20"]) == 0
    page = (copied / "report.html").read_text()
    assert "Mask, corrected by hand" in page and "Mask, rejected by hand" in page


def test_masks_by_hand_alone_are_enough(
    scenes: Path, tmp_path: Path, trained_on: list[LabelledSet], capsys: Capture
) -> None:
    kept, ids = corrections_of(tmp_path / "run/corrections", scenes)
    for image_id in ids[:3]:
        kept.write(image_id, Decision.now("corrected"), of_class_two())
    write_mask(kept.folder / f"{ids[3]}.png", of_class_two())
    assert run("segment", scenes, tmp_path / "run", **SEGMENT) == 0
    assert f"1 masks have no decision ID.json and are not used: {ids[3]}" in " ".join(capsys.readouterr().err.split())
    assert [item.id for item in trained_on[0].images.items] == ids[:3]
    config = Config(data=DataSettings(root=scenes, split="train"))
    source, _ = mask_source(config, tmp_path / "run")
    assert sorted(record.id for record in source.records()) == sorted(ids[:3]) and source.missing == 7


def test_tags_that_somebody_changed(copied: Path, scenes: Path, capsys: Capture) -> None:
    kept, ids = corrections_of(copied / "corrections", scenes)
    tags = {item.id: item.tags for item in open_images(DataSettings(root=scenes, split="train")).items}
    changed = next(image_id for image_id in ids if tags[image_id] == (1,))
    before = files_of(copied)
    kept.write(changed, Decision.now(tags=[kept.classes[1]]))
    capsys.readouterr()
    assert run("refine", scenes, copied) == 1
    assert f"{changed}: it has tags that its CAMs were not made with" in " ".join(capsys.readouterr().err.split())
    assert run("train", scenes, copied) == 0
    assert "1 decisions about tags are newer than the trained network" in capsys.readouterr().err
    assert run("cams", scenes, copied) == 0 and run("refine", scenes, copied) == 0
    said = capsys.readouterr().err
    assert "cams: 1 done, 9 already there" in said and "refine: 1 done, 9 already there" in said
    after = files_of(copied)
    files = {name for name in before if name.startswith(("cams/", "masks/")) and name.endswith((".npz", ".png"))}
    assert {name for name in files if after[name] != before[name]} <= {
        *(f"cams/{kind}/{changed}.npz" for kind in ("classifier", "prototype", "pot")),
        f"masks/{changed}.png",
    }
    assert read_ids(copied / f"cams/pot/{changed}.npz") == (0, 2)
    assert after["train/network.safetensors"] == before["train/network.safetensors"]
    assert set(np.unique(read_mask(copied / f"masks/{changed}.png"))) <= {0, 2}
    assert run("train", scenes, copied, restart="train") == 0
    capsys.readouterr()
    assert run("train", scenes, copied) == 0
    assert "newer" not in capsys.readouterr().err  # it was trained with them
    kept.forget(changed)
    assert run("train", scenes, copied) == 0
    assert "1 decisions about tags are newer" in capsys.readouterr().err
    assert run("train", scenes, copied, restart="train") == run("train", scenes, copied) == 0
    assert "newer" not in capsys.readouterr().err


def test_a_tag_that_is_no_class_is_named(copied: Path, scenes: Path, capsys: Capture) -> None:
    kept, ids = corrections_of(copied / "corrections", scenes)
    kept.write(ids[0], Decision.now(tags=["gryphon"]))
    assert run("cams", scenes, copied) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{ids[0]}.json: the tag `gryphon` is not in the class list" in said


def test_corrections_after_training_are_named_and_never_mixed_in(
    copied: Path, scenes: Path, trained_on: list[LabelledSet], capsys: Capture
) -> None:
    assert run("segment", scenes, copied, **SEGMENT) == 0
    kept, ids = corrections_of(copied / "corrections", scenes)
    kept.write(ids[0], Decision.now("corrected"), of_class_two())
    kept.write(ids[1], Decision.now("rejected"))
    assert run("segment", scenes, copied, **SEGMENT) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "1 masks are newer than the trained network (1 of them by hand); --restart segment" in said
    assert "1 masks that the network was trained on were rejected since" in said
    assert run("segment", scenes, copied, restart="segment", **SEGMENT) == 0
    capsys.readouterr()
    kept.write(ids[0], Decision.now("corrected"), of_class_two())  # once more as it was: nothing new
    assert run("segment", scenes, copied, **SEGMENT) == 0
    said = capsys.readouterr().err
    assert "newer" not in said and "rejected since" not in said
    kept.write(ids[0], Decision.now("corrected"), 0 * of_class_two())
    (copied / "segment/network.safetensors").unlink()  # as if training had been cut short
    assert run("segment", scenes, copied, **SEGMENT) == 2
    assert "1 masks were corrected by hand, or taken back; --restart segment starts again" in " ".join(
        capsys.readouterr().err.split()
    )
    kept.write(ids[0], Decision.now("corrected"), of_class_two())
    assert run("segment", scenes, copied, **SEGMENT) == 0


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_runs_own_decisions_go_where_it_goes(
    how: str, copied: Path, scenes: Path, tmp_path: Path, trained_on: list[LabelledSet], capsys: Capture
) -> None:
    kept, ids = corrections_of(copied / "corrections", scenes)
    kept.write(ids[0], Decision.now("corrected"), of_class_two())
    kept.write(ids[1], Decision.now("rejected"))
    assert run("evaluate", scenes, copied, evaluate__splits="train") == 0
    assert "1 images of split 'train' have a mask by hand" in capsys.readouterr().err
    there = tmp_path / "there"
    if how == "moved":
        copied.rename(there)
    else:
        copytree(copied, there)
        kept.write(ids[0], Decision.now("corrected"), 0 * of_class_two())  # of the run that it was copied from
    assert run("segment", scenes, there, **SEGMENT) == 0
    assert "1 of the 9 masks were corrected by hand" in " ".join(capsys.readouterr().err.split())
    assert main(["export", "coco", str(there), "--out", str(tmp_path / "coco")]) == 0
    assert by_coco(tmp_path / "coco", ids[0]) == [(2, 64 * 64)]
    assert main(["report", str(there), "--report.images", "20"]) == 0
    assert "Mask, corrected by hand" in (there / "report.html").read_text()
    assert read_mask(there / f"segment/by_hand/{ids[0]}.png").tolist() == of_class_two().tolist()


def test_a_damaged_decision_moves_nothing_from_shard_to_shard(scenes: Path, tmp_path: Path) -> None:
    kept = corrections_of(tmp_path / "out/corrections", scenes)[0]
    config = Config(data=DataSettings(root=scenes, split="train"), shard="1/2", workers=0)
    kept.write("elsewhere/0", Decision.now("rejected"))
    before = [
        item.id for item in shard_of(run_images(config, RunFolder(tmp_path / "out")).items, config, StageResult("cams"))
    ]
    (kept.folder / f"{before[0]}.json").parent.mkdir()
    (kept.folder / f"{before[0]}.json").write_text("{")
    images = run_images(config, RunFolder(tmp_path / "out"))
    found = shard_of(images.items, config, StageResult("cams"), damaged=images.corrections.damaged)
    assert [item.id for item in found] == before[1:]


def test_every_run_of_several_has_decisions_of_its_own(scenes: Path, tmp_path: Path) -> None:
    config = Config(data=DataSettings(root=scenes, split="train"))
    before = Repeats(config, RunFolder(tmp_path), 2).fingerprints
    kept, ids = corrections_of(tmp_path / "seed-1/corrections", scenes)
    kept.write(ids[0], Decision.now("corrected"), of_class_two())
    after = Repeats(config, RunFolder(tmp_path), 2).fingerprints
    assert after[0] == before[0] and after[1] != before[1]
    kept.write(ids[0], Decision.now("corrected"), 0 * of_class_two())
    assert Repeats(config, RunFolder(tmp_path), 2).fingerprints[1] not in (before[1], after[1])


def test_a_correction_that_comes_while_a_network_trains(
    copied: Path, scenes: Path, trained_on: list[LabelledSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, ids = corrections_of(copied / "corrections", scenes)
    for image_id in ids[:2]:
        kept.write(image_id, Decision.now("corrected"), of_class_two())
    made, seen = stage.Segment.fit, []

    def learn(*arguments: Any) -> int:
        kept.write(ids[0], Decision.now("corrected"), 0 * of_class_two())
        kept.forget(ids[1])
        seen.extend(labels_of(trained_on[0], image_id) for image_id in ids[:2])
        return made(*arguments)

    monkeypatch.setattr(stage.Segment, "fit", learn)
    assert run("segment", scenes, copied, **SEGMENT) == 0
    assert seen == [{2}, {2}]
    noted = TrainingRecord.read(copied / "segment/training_record.json")
    assert noted is not None and set(noted.by_hand) == {*ids[:2]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train", '{"tags": {"a": 5}}'),
        ("train", "[" * 100_000),
        ("segment", '{"images": [], "by_hand": {"a": 1}}'),
        ("segment", "[]"),
    ],
)
def test_a_damaged_training_record(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name / "training_record.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(Tag2maskError, match=rf"training_record\.json is damaged.*--restart {name}"):
        newer_tags(RunFolder(tmp_path), ImageSet(("cat",), (), tmp_path)) if name == "train" else TrainingRecord.read(
            path
        )


def test_corrections_of_other_classes_are_refused(copied: Path, scenes: Path, capsys: Capture) -> None:
    CorrectionsFolder(copied / "corrections", ("cat",)).write("a", Decision.now("rejected"))
    for words_of in (words("segment", scenes, copied), ["import", "masks", str(copied / "masks"), str(copied)]):
        assert main(words_of) == 2
        assert "holds corrections of the classes cat" in " ".join(capsys.readouterr().err.split())


def test_check_lists_what_is_wrong_with_corrections(copied: Path, scenes: Path, capsys: Capture) -> None:
    kept, ids = corrections_of(copied / "corrections", scenes)
    val = open_images(DataSettings(root=scenes, split="val")).items[0].id
    kept.write(ids[0], Decision.now("accepted"), of_class_two())
    kept.write(ids[1], Decision.now("corrected"), of_class_two(48))
    kept.write(ids[2], Decision.now("accepted"), 7 * of_class_two())
    kept.write(ids[3], Decision.now("accepted"), of_class_two())
    (kept.folder / f"{ids[3]}.png").unlink()
    kept.write(ids[4], Decision.now("rejected", [kept.classes[0]]))
    (kept.folder / f"{ids[5]}.json").write_text("{}]")
    kept.write(ids[6], Decision.now("corrected"), of_class_two())
    (kept.folder / f"{ids[6]}.png").write_bytes(b"no mask")
    kept.write("gone", Decision.now("rejected"))
    kept.write(val, Decision.now("rejected"))
    words = ["check", str(scenes), "--data.split", "train", "--with", str(copied), "--json", "--workers", "0"]
    assert main(words) == 1
    report = json.loads(capsys.readouterr().out)
    found = {(each["kind"], each["level"], Path(each["subject"]).stem) for each in report["problems"]}
    assert found >= {
        ("mask-size", "error", Path(ids[1]).stem),
        ("mask-values", "error", Path(ids[2]).stem),
        ("bad-correction", "error", Path(ids[3]).stem),
        ("bad-correction", "error", Path(ids[5]).stem),
        ("mask-format", "error", Path(ids[6]).stem),
        ("unknown-correction", "warning", "gone"),
    }
    about = {Path(each["subject"]).stem for each in report["problems"] if each["subject"].startswith(str(kept.folder))}
    assert about == {Path(name).stem for name in (*ids[1:4], *ids[5:7], "gone")}
    assert report["usable"] and not report["sound"]
    assert "2 accepted, 2 corrected, 3 rejected, 1 with other tags, 2 damaged" in " ".join(report["notes"])
    kept.write(ids[7], Decision.now(tags=["gryphon"]))
    assert main(words) == 1
    report = json.loads(capsys.readouterr().out)
    assert ("unknown-tag", Path(ids[7]).name) in {
        (each["kind"], Path(each["subject"]).stem) for each in report["problems"]
    }
    assert not report["usable"]
