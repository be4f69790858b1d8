"""Ground truth that does not fit the tags, as people's masks are: found before it is measured with or learned from."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from data_sets import IMAGE, annotation, document, image, plant
from run_tiny import TINY_WORDS, Capture, empty_run
from tag2mask.cli import main
from tag2mask.cli.console import errors
from tag2mask.data import write_mask
from tag2mask.data.dataset import open_images
from tag2mask.data.ground_truth import parse_mask_values
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation.check import check
from tag2mask.evaluation import Confusion, Figures
from tag2mask.runs.config import Config
from tag2mask.runs.ground_truth import compare_truth_with_tags, with_ground_truth

Mask = npt.NDArray[np.uint8]
Write = Callable[[Mask, int], Mask]
"""From the right mask of an image, uint8 (24, 32), and its number to what a tool writes."""

CLASSES = ("pit", "rust", "scratch")
IMAGES = 12


def tagged(number: int, classes: int) -> tuple[int, ...]:
    """Class ids of an image: one class each in turn, and every fourth image none."""
    return () if number % 4 == 3 else (number % classes + 1,)


def data_set(folder: Path, classes: int, write: Write) -> DataSettings:
    """Images with a square of their class, a table of tags, and masks as ``write`` makes them."""
    rows = ["image,tags"]
    for number in range(IMAGES):
        tags = tagged(number, classes)
        mask = np.zeros((24, 32), dtype=np.uint8)
        for tag in tags:
            mask[4:14, 3 + number : 15 + number] = tag
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        drawn = write(mask, number)
        for target, values in ((folder / f"{number}.png", pixels), (folder / f"masks/{number}.png", drawn)):
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(target)
        rows.append(f"{number}.png,{';'.join(CLASSES[tag - 1] for tag in tags)}")
    (folder / "tags.csv").write_text("\n".join(rows) + "\n")
    return DataSettings(root=folder, masks=folder / "masks")


def lookup(**to: int) -> Write:
    """Every value of a mask as another one, ``_1=5`` for 1 to 5; values that are not named stay."""
    table = np.arange(256, dtype=np.uint8)
    for value, other in to.items():
        table[int(value[1:])] = other
    return lambda mask, number: table[mask]


def enlarged(mask: Mask, number: int) -> Mask:
    """Black and white, drawn small and enlarged with interpolation."""
    small = Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).resize((8, 6))
    return np.array(small.resize((32, 24), Image.Resampling.BICUBIC))


def with_stray(mask: Mask, number: int) -> Mask:
    """In two images a second class that nobody tagged."""
    mask[0, :5] = 3 if number in (0, 4) else 0
    return mask


def of_another_image(mask: Mask, number: int) -> Mask:
    """A mask that has nothing to do with its image."""
    mask[:] = 0
    mask[5:9, 5:9] = 7 * number // 3 % 3 + 1
    return mask


def black_and_white(mask: Mask, number: int) -> Mask:
    return np.where(mask > 0, 255, 0).astype(np.uint8)


WRONG: list[tuple[str, int, Write, str]] = [
    ("0 and 255, one class", 1, black_and_white, "--data.mask_values 255=1`"),
    ("0 and 255, three classes", 3, black_and_white, "--data.mask_values 255=tag`"),
    ("binary, three classes", 3, lambda mask, number: (mask > 0).astype(np.uint8), "--data.mask_values 1=tag`"),
    ("swapped", 3, lookup(_1=2, _2=1), "--data.mask_values 1=2,2=1`"),
    ("1-based", 3, lookup(_0=1, _1=2, _2=3, _3=4), "--data.mask_values 1=0,2=1,3=2,4=3`"),
    ("1-based, one class", 1, lookup(_0=1, _1=2), "--data.mask_values 1=0,2=1`"),
    ("shifted", 3, lookup(_1=2, _2=3, _3=4), "--data.mask_values 2=1,3=2,4=3`"),
    ("palette order", 3, lookup(_0=2, _1=0, _2=3, _3=1), "--data.mask_values 0=1,1=3,2=0,3=2`"),
    ("all 0", 3, lambda mask, number: 0 * mask, "background alone"),
    ("all 255", 3, lambda mask, number: 0 * mask + 255, "255 everywhere"),
    ("enlarged with interpolation", 3, enlarged, "resized with interpolation"),
    ("another folder", 3, of_another_image, "Are these the masks of these images"),
]


def more_than_the_tag(mask: Mask, number: int) -> Mask:
    """All that is there is drawn, while tags name what is most of an image."""
    mask[0, :5], mask[1, :5], mask[2, :5] = 1, 2, 3
    return mask


DOUBTFUL: list[tuple[str, int, Write, str]] = [
    ("more than the tag", 3, more_than_the_tag, "12 of 12 masks hold ids that are not a tag of their image"),
    ("one class drawn", 3, lookup(_2=0, _3=0), "3 of 9 tags are in the mask of their image"),
    ("a class missing", 3, lookup(_2=0), "lacks tagged classes: 6 of 9 tags are in the mask of their image"),
    ("an extra class", 3, with_stray, "2 of 12 masks hold ids that are not a tag of their image: 0, 4"),
]


@pytest.mark.parametrize("classes", [1, 3])
def test_truth_that_fits_is_silent(classes: int, scenes: Path, tmp_path: Path) -> None:
    for settings in (data_set(tmp_path, classes, lookup()), DataSettings(root=scenes, masks=scenes / "masks")):
        assert [problem for problem in check(settings).problems if problem.kind == "truth-tags"] == []


@pytest.mark.parametrize(("name", "classes", "write", "likely_cause"), WRONG, ids=[case[0] for case in WRONG])
def test_truth_that_does_not_fit_is_an_error_whose_advice_helps(
    name: str, classes: int, write: Write, likely_cause: str, tmp_path: Path
) -> None:
    settings = data_set(tmp_path, classes, write)
    (problem,) = (each for each in check(settings).problems if each.kind == "truth-tags")
    assert problem.level == "error"
    assert likely_cause in problem.message
    assert "of 9 tags are in the mask of their image" in problem.message and "1 pit" in problem.message
    offered = re.search(r"--data\.mask_values (\S+?)`", problem.message)
    if offered is None:
        return
    corrected = replace(settings, mask_values=offered[1])
    assert check(corrected).sound
    images = open_images(corrected)
    for item in images.items:
        truth = images.read_truth(item)
        assert np.unique(truth).tolist() == [0, *item.tags]


@pytest.mark.parametrize(("name", "classes", "write", "words"), DOUBTFUL, ids=[case[0] for case in DOUBTFUL])
def test_truth_that_fits_in_part_is_a_warning(
    name: str, classes: int, write: Write, words: str, tmp_path: Path
) -> None:
    (problem,) = (each for each in check(data_set(tmp_path, classes, write)).problems if each.kind == "truth-tags")
    assert problem.level == "warning"
    assert words in problem.message


def test_evaluate_refuses_and_measures_rightly_by_the_advice(tmp_path: Path, capsys: Capture) -> None:
    data_set(tmp_path / "data", 1, black_and_white)
    data_set(tmp_path / "made", 1, lookup())
    masks = tmp_path / "made/masks"
    words = ["evaluate", str(masks), "--data.root", str(tmp_path / "data")]
    words += ["--data.masks", str(tmp_path / "data/masks")]
    assert main([*words, "--json"]) == 2
    assert "--data.mask_values 255=1" in capsys.readouterr().err
    assert main([*words, "--data.mask_values", "255=pit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == 1.0
    for file in masks.glob("*.png"):
        Image.fromarray(np.zeros((24, 32), dtype=np.uint8)).save(file)
    assert main([*words, "--data.mask_values", "255=pit", "--json"]) == 0
    empty = json.loads(capsys.readouterr().out)
    assert empty["iou"]["pit"] == 0.0
    assert 0.4 < empty["miou"] < 0.5


def test_training_on_such_truth_is_refused(tmp_path: Path, capsys: Capture) -> None:
    data_set(tmp_path / "data", 1, black_and_white)
    data = ["--data.root", str(tmp_path / "data"), "--data.masks", str(tmp_path / "data/masks")]
    words = [str(tmp_path / "run"), *data, "--segment.labels", "truth", "--segment.network.weights", "none"]
    assert main(["segment", *words]) == 2
    assert "--data.mask_values 255=1" in capsys.readouterr().err
    assert not (tmp_path / "run/segment/network.safetensors").exists()


def test_imported_masks_are_compared_with_the_tags(tmp_path: Path, capsys: Capture) -> None:
    data_set(tmp_path / "data", 1, lookup())
    data_set(tmp_path / "drawn", 1, black_and_white)
    run = empty_run(tmp_path / "run", tmp_path / "data")
    words = ["import", "masks", str(tmp_path / "drawn/masks"), str(run)]
    assert main(words) == 2
    assert "nothing was imported: ground truth and tags do not fit" in capsys.readouterr().err
    assert not (run / "corrections").exists()
    assert main([*words, "--data.mask_values", "255=tag"]) == 0
    right = np.array(Image.open(tmp_path / "data/masks/0.png"))
    assert (np.array(Image.open(run / "corrections/0.png")) == right).all()


def test_corrections_may_contradict_the_tags(tmp_path: Path, capsys: Capture) -> None:
    data_set(tmp_path / "data", 3, lookup())
    words = ["import", "masks", str(tmp_path / "drawn"), str(empty_run(tmp_path / "run", tmp_path / "data"))]
    (tmp_path / "drawn").mkdir()
    for change, said in (
        (lookup(_1=0, _2=0, _3=0), "0 of 3 tags are in the mask"),
        (with_rust, "hold ids that are not a tag"),
    ):
        for number in (0, 1, 2):
            mask = np.array(Image.open(tmp_path / f"data/masks/{number}.png"))
            Image.fromarray(change(mask, number)).save(tmp_path / f"drawn/{number}.png")
        code = main([*words, "--overwrite"])
        assert (code, said in capsys.readouterr().err) == (0, True)


def with_rust(mask: Mask, number: int) -> Mask:
    """A second class that somebody found."""
    mask[20:, 2:9] = 2 if 2 not in mask else 3
    return mask


def test_numbers_as_class_names_are_in_their_order_and_advice_names_them(tmp_path: Path) -> None:
    settings = data_set(tmp_path, 3, lookup(_1=2, _2=1))
    table = (tmp_path / "tags.csv").read_text()
    for number, name in enumerate(CLASSES):
        table = table.replace(name, str((9, 10, 100)[number]))
    (tmp_path / "tags.csv").write_text(table)
    assert open_images(settings).classes == ("9", "10", "100")
    (problem,) = (each for each in check(settings).problems if each.kind == "truth-tags")
    assert "--data.mask_values 1=10,2=9`" in problem.message
    assert check(replace(settings, mask_values="1=10,2=9")).sound


def test_a_run_measures_nothing_with_such_truth_and_keeps_no_older_figure(tmp_path: Path, capsys: Capture) -> None:
    data_set(tmp_path / "data", 1, black_and_white)
    words = ["--data.root", str(tmp_path / "data"), "--data.masks", str(tmp_path / "data/masks")]
    words += ["--out", str(tmp_path / "run"), *TINY_WORDS]
    assert main(["run", *words, "--data.mask_values", "255=1"]) == 0
    metrics = tmp_path / "run/metrics.json"
    assert json.loads(metrics.read_text())["cams"]["all"]
    (tmp_path / "run/confidence/quality.json").write_text("{}")
    capsys.readouterr()
    assert main(["run", *words, "--data.mask_values", "null"]) == 1
    said = capsys.readouterr().err.replace("\n", " ")
    assert "the ranking is not compared with the truth" in said and "is not measured" in said
    assert json.loads(metrics.read_text())["cams"] == {}
    assert not (tmp_path / "run/confidence/quality.json").exists()
    assert "fit: 0 of 9 tags" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("crowd", "code", "words"),
    [(1, 2, "--data.crowd paint"), ("0", 0, "100.0"), ("1", 2, "--data.crowd paint"), ("many", 2, "should be 0 or 1")],
)
def test_coco_whose_annotations_are_all_crowds(
    crowd: object, code: int, words: str, tmp_path: Path, capsys: Capture
) -> None:
    numbers = range(1, 9)
    annotations = [annotation(number, number, iscrowd=crowd) for number in numbers]
    listed = document([image(number, f"{number}.png") for number in numbers], annotations, {"id": 1, "name": "pit"})
    images = {f"train/{number}.png": IMAGE for number in numbers}
    plant(tmp_path / "data", {"annotations/instances_train.json": listed} | images)
    mask = np.zeros((24, 32), dtype=np.uint8)
    mask[2:12, 2:12] = 1
    for number in numbers:
        write_mask(tmp_path / f"made/{number}.png", mask)
    assert main(["evaluate", str(tmp_path / "made"), "--data.root", str(tmp_path / "data")]) == code
    captured = capsys.readouterr()
    assert words in captured.out + captured.err


def test_a_truth_of_background_alone_gives_no_mean_and_names_the_class() -> None:
    confusion = Confusion(3)
    confusion.update(np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4), dtype=np.uint8))
    figures = Figures.of(confusion, ("pit", "rust"), images=1, tagged=(1, 0))
    assert np.isnan(figures.miou)
    assert figures.absent == {"pit": 1}
    assert figures.to_json()["miou"] is None
    confusion.update(np.full((4, 4), 2, dtype=np.uint8), np.full((4, 4), 2, dtype=np.uint8))
    assert Figures.of(confusion, ("pit", "rust"), images=2, tagged=(1, 1)).miou == 1.0


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("255=1", [0, 255], [0, 1]),
        ("255=rust, 128=ignore", [0, 128, 255], [0, 255, 2]),
        ("1=background,2=1", [1, 2], [0, 1]),
        ("255=tag", [0, 255], [0, 2]),
    ],
)
def test_values_become_classes(text: str, values: list[int], expected: list[int]) -> None:
    mapping, problems = parse_mask_values(text, CLASSES)
    assert not problems
    assert mapping.apply(np.array([values], dtype=np.uint8), (2,)).tolist() == [expected]


@pytest.mark.parametrize("text", ["255", "255=dust", "300=1", "a=1", "255=9", "=1", "255="])
def test_a_mapping_that_cannot_be_meant_is_refused(text: str, tmp_path: Path) -> None:
    settings = replace(data_set(tmp_path, 1, lookup()), mask_values=text)
    report = check(settings)
    assert any(problem.subject == "data.mask_values" for problem in report.errors)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA"])
def test_what_a_paint_program_saves_is_read_by_a_mapping(mode: str, tmp_path: Path) -> None:
    settings = data_set(tmp_path, 1, black_and_white)
    for file in (tmp_path / "masks").glob("*.png"):
        with Image.open(file) as image:
            saved = image.convert(mode)
        saved.save(file)
    images = open_images(replace(settings, mask_values="255=1"))
    assert np.unique(images.read_truth(images.items[0])).tolist() == [0, 1]
    assert check(replace(settings, mask_values="255=1")).sound


@pytest.mark.data
@pytest.mark.parametrize("name", ["voc-animals", "coco-mini"])
def test_real_sets_are_silent(name: str, real_data: Path, tmp_path: Path) -> None:
    data = DataSettings(root=real_data / "data" / name, masks=tmp_path / "masks" if name == "coco-mini" else None)
    images = with_ground_truth(Config(data=data), open_images(data), errors())
    assert len(images) > 100
    assert compare_truth_with_tags(images, Config(data=data)) == []
