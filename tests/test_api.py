"""The Python interface: `tag2mask.run`, `tag2mask.load`, and the objects of a run."""

import csv
import doctest
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import tag2mask
import tag2mask.api
import tag2mask.prediction.predictor
from clip_tiny import tiny_clipseg, tiny_clipseg_folder
from run_tiny import TINY
from tag2mask.core.errors import Tag2maskError, UsageError


def _small(**more: object) -> str:
    """The settings of a tiny run as YAML."""
    values: dict[str, dict[str, object]] = {"segment": {"enabled": True, "epochs": 1, "batch_size": 4}}
    for name, value in TINY.items():
        section, _, setting = name[2:].partition(".")
        if setting:
            values.setdefault(section, {})[setting] = yaml.safe_load(value)
    values["segment"]["network"] = {"backbone": values["network"]["backbone"], "weights": "none"}
    values["segment"]["augment"] = {"crop": 64}
    return yaml.safe_dump({"workers": 0, "device": "cpu", **values, **more})


@pytest.fixture(scope="module")
def place(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, their tags and small settings, and with a finished run of them: where the examples run."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(scenes, folder / "images")
    (folder / "small.yaml").write_text(_small())
    tiny_clipseg_folder(folder / "clipseg", tiny_clipseg(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = {"masks": scenes / "masks", "split": "train"}
        tag2mask.run("images", out="runs/mine", config="small.yaml", quiet=True, data=data)
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.mark.parametrize("name", [name for name in tag2mask.__all__ if name != "load"])
def test_the_examples_of_the_docstrings_hold(name: str) -> None:
    found = [test for test in doctest.DocTestFinder(recurse=False).find(getattr(tag2mask, name), name) if test.examples]
    assert found, "every public class has an example"
    said = io.StringIO()
    for test in found:
        doctest.DocTestRunner().run(test, out=said.write)
    assert not said.getvalue(), said.getvalue()


def test_the_interface_is_listed_before_it_is_loaded() -> None:
    assert {*tag2mask.__all__} <= {*dir(tag2mask)}
    with pytest.raises(AttributeError, match="has no attribute 'Runn'"):
        tag2mask.Runn  # noqa: B018


def test_what_people_have_in_python_becomes_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Path("images/tags.csv").open(encoding="utf-8") as file:
        tags = {row["image"]: row["tags"].split(";") for row in csv.DictReader(file) if row["split"] == "train"}
    files = [f"images/{name}" for name in tags]
    small = {"config": "small.yaml", "segment": {"enabled": False}}
    by_list = tag2mask.run(files, list(tags.values()), out=tmp_path / "list", quiet=True, **small)
    said = capfd.readouterr()
    assert not said.out and not said.err
    by_name = tag2mask.run("images", tags, out=tmp_path / "names", **{**small, "cams.flip": True})
    said = capfd.readouterr()
    assert "cams: 10 done" in said.err and not said.out, "progress, and no table: the run has the figures"
    for made, prefix in ((by_list, ""), (by_name, "train/")):
        assert [(image.id, list(image.tags)) for image in made] == [
            (prefix + Path(name).stem, own) for name, own in tags.items()
        ]
    assert by_name.config.cams.flip is True and by_list.config.cams.flip is False


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    wrong = {
        "images need as many lists of tags, received 1": (["a.jpg", "b.jpg"], [["cat"]]),
        "received none": (["a.jpg"], None),
        "should be a list of names": (["a.jpg"], ["cat"]),
        "no partner, such as b.jpg": (["a.jpg"], {"a.jpg": ["cat"], "b.jpg": []}),
        "`tags` are {image: \\[names\\]} or a table": ("images", [["cat"]]),
        "tags.csv is a table: `images` should be the folder": (["a.jpg", "b.jpg"], "tags.csv"),
        "should be a list of names without `;`, received \\[7\\]": (["a.jpg"], [[7]]),
        "should be a list of names without `;`, received \\['a;b'\\]": (["a.jpg"], [["a;b"]]),
        "should be a list of names without `;`, received None": (["a.jpg"], [None]),
        "there is no image": ([], []),
    }
    for message, (images, tags) in wrong.items():
        with pytest.raises(UsageError, match=message):
            tag2mask.run(images, tags, out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"--train.stepz is not a setting; did you mean --train.steps"):
        tag2mask.run("images", out=tmp_path / "out", train={"stepz": 3})
    with pytest.raises(UsageError, match=r"--train.steps needs a whole number.*, got 'many'"):
        tag2mask.run("images", out=tmp_path / "out", train={"steps": "many"})
    with pytest.raises(UsageError, match="images is not a run folder"):
        tag2mask.Run("images")
    with pytest.raises(UsageError, match=r"images/segment/network.safetensors does not exist; give a run"):
        tag2mask.load("images")


def test_names_of_tags_stay_whole_and_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    names = ["lamp, red", "a|b", "red", "red car"]
    files = [f"images/train/000{number}.jpg" for number in range(4)]
    made = tag2mask.run(
        files,
        [[name] for name in names],
        out=tmp_path / "run",
        config="small.yaml",
        quiet=True,
        seed=np.int64(3),
        cams={"scales": np.array([1.0, 0.5])},
    )
    assert [image.tags for image in made] == [(name,) for name in names]
    assert made.config.seed == 3 and made.config.cams.scales == [1.0, 0.5]
    with pytest.raises(UsageError, match="should be a number, a text, a list or a mapping"):
        tag2mask.run(files, [[name] for name in names], out=tmp_path / "run", cams={"kinds": {"pot"}})


def test_a_call_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    files = ["images/train/0000.jpg", "images/train/0001.jpg"]
    before = tag2mask.run(
        files, [["cat"], ["dog"]], out=out, config="small.yaml", quiet=True, segment={"enabled": False}
    )
    with pytest.raises(UsageError, match="stepz"):
        tag2mask.run(files[:1], [["fen"]], out=out, quiet=True, train={"stepz": 2})
    with pytest.raises(UsageError, match="the ids of its masks and networks would mean other"):
        tag2mask.run(files, [["ant"], ["dog"]], out=out, quiet=True)
    after = tag2mask.Run(out)
    assert [(image.id, image.tags) for image in after] == [(image.id, image.tags) for image in before]


def test_a_run_whose_classes_changed_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree("images", tmp_path / "images")
    out = tmp_path / "run"
    tag2mask.run(tmp_path / "images", out=out, config="small.yaml", quiet=True, segment={"enabled": False})
    table = tmp_path / "images/tags.csv"
    table.write_text(re.sub(r"^val/0000.jpg,\w+", "val/0000.jpg,ant", table.read_text(), flags=re.MULTILINE))
    with pytest.raises(UsageError, match=r"new: ant.*would mean other"):
        tag2mask.Run(out)


def test_a_run_is_what_its_files_say(tmp_path: Path) -> None:
    run = tag2mask.Run("runs/mine")
    image = run.images[3]
    with Image.open(run.masks / f"{image.id}.png") as file:
        expected = np.array(file)
    assert np.array_equal(image.mask(), expected)
    for number, name in enumerate(("background", *run.classes)):
        assert np.array_equal(image.mask(name), expected == number)
    image.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as file:
        assert file.mode == "P" and np.array_equal(np.array(file), expected)
    with pytest.raises(UsageError, match="no class `fenn`; did you mean `fen`"):
        image.mask("fenn")
    with pytest.raises(UsageError, match="no image train/00003; did you mean `train/0003`"):
        run["train/00003"]
    ranked = [image.confidence for image in run.ranking() if image.confidence is not None]
    assert ranked == sorted(ranked)
    html = run._repr_html_()
    assert html.count("<img") == 8 and "masks" not in run.figures and "refine: argmax" in html
    assert image._repr_png_().startswith(b"\x89PNG")


def test_a_correction_is_the_mask_of_its_image(place: Path, tmp_path: Path) -> None:
    from tag2mask.data.corrections import CorrectionsFolder, Decision

    copied = shutil.copytree("runs/mine", tmp_path / "run")
    drawn = np.full((64, 64), 2, dtype=np.uint8)
    corrections = CorrectionsFolder(copied / "corrections", ("dab", "fen"))
    for image_id in ("train/0003", "train/0005"):
        corrections.write(image_id, Decision.now("corrected"), drawn)
    corrections.write("train/0006", Decision.now("corrected"), np.full((9, 9), 2, dtype=np.uint8))
    corrections.write("train/0007", Decision.now("rejected"))
    (copied / "corrections/train/0005.png").unlink()
    run = tag2mask.Run(copied)
    assert np.array_equal(run["train/0003"].mask(), drawn)
    assert not np.array_equal(run["train/0004"].mask(), drawn)
    with pytest.raises(Tag2maskError, match="its mask is missing"):
        run["train/0005"].mask()
    with pytest.raises(Tag2maskError, match="9 × 9 pixels, its image 64 × 64"):
        run["train/0006"].mask()
    assert run["train/0007"].verdict == "rejected" and run["train/0003"].verdict == "corrected"
    html = run._repr_html_()
    assert html.count("<img") >= 5 and "train/0007" not in html, "the others are shown, without what was rejected"


def test_lists_folders_and_streams_give_the_mask_of_each_image() -> None:
    predictor = tag2mask.load("runs/mine", device="cpu")
    files = sorted(Path("images/val").glob("*.jpg"))
    each = [predictor.predict(file) for file in files]
    for masks in (predictor.predict(files), list(predictor.predict_iter(map(str, files)))):
        assert all(np.array_equal(one, other) for one, other in zip(each, masks, strict=True))
    folder = predictor.predict("images/val")
    assert [*folder] == [file.stem for file in files]
    assert all(np.array_equal(one, other) for one, other in zip(each, folder.values(), strict=True))
    read: list[Path] = []
    stream = predictor.predict_iter(read.append(file) or file for file in files * 5)  # type: ignore[func-returns-value]
    next(stream)
    assert len(read) == predictor.settings.batch_size < len(files * 5)
