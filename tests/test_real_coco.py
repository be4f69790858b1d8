"""COCO and VOC roots as tools and people make them, and our own exports back: what is read, said and refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data_sets import CAT, DOG, IMAGE, SQUARE, Fault, Files, Tags, annotation, assert_read, document, image, plant
from run_tiny import Capture, empty_run
from tag2mask.cli import main
from tag2mask.data import DataSettings, read_mask, write_mask
from tag2mask.data.dataset import ImageSet, open_images, survey
from tag2mask.export.formats.labelstudio import encode_brush
from tag2mask.runs.config import Config
from tag2mask.runs.ground_truth import with_ground_truth

ZEBRA = {"id": 1, "name": "zebra"}
TRAIN, VAL = "annotations/instances_train.json", "annotations/instances_val.json"


def named(name: str, *files: str) -> Files:
    """An annotation file that lists one image by this name, and image files."""
    return listed(name) | dict.fromkeys(files, "")


def listed(*names: str, path: str = TRAIN, first: int = 1, categories: tuple[Any, ...] = ()) -> Files:
    """An annotation file of images by these names, each with an annotation."""
    numbers = range(first, first + len(names))
    images = [image(number, name) for number, name in zip(numbers, names, strict=True)]
    return {path: document(images, [annotation(number, number) for number in numbers], *categories)}


def one(item: dict[str, Any] | None = None, /, *categories: Any, **values: Any) -> Files:
    """One image with one annotation of these values."""
    found = {key: value for key, value in (annotation(1, 1) | values).items() if value != "missing"}
    return {TRAIN: document([item or image(1, "a.jpg")], [found], *categories), "train/a.jpg": IMAGE}


def splits(train: list[Any], val: list[Any], content: Any = "") -> Files:
    """Splits train and val of an image each, with these lists of categories."""
    found: Files = dict.fromkeys(("train/a.jpg", "val/b.jpg"), content)
    for path, name, categories in ((TRAIN, "a.jpg", train), (VAL, "b.jpg", val)):
        found[path] = document([image(1, name)], [annotation(1, 1, categories[0]["id"])], *categories)
    return found


def xml(name: str, encoding: str, declared: str | None = None) -> bytes:
    text = f'<?xml version="1.0" encoding="{declared or encoding}"?><annotation><object><name>{name}</name></object>'
    return f"{text}</annotation>".encode(encoding)


def voc(files: Files, *ids: str) -> Files:
    """A VOC root with images of these IDs."""
    return {f"JPEGImages/{name}.jpg": "" for name in ids} | files


CAT_XML: Files = dict.fromkeys(("Annotations/a.xml", "Annotations/b.xml"), xml("cat", "utf-8"))
LABELS = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
BELOW_IMAGES = ("images/train/a.jpg", "images/val/b.jpg")
POINTS = [[2, 2], [12, 2], [12, 12]]
A: Tags = {"a": ["cat"]}
SIZE = {"height": None, "width": None}
ABOVE = ("outside-root", "may lie outside the root")
Case = tuple[Files, dict[str, Any], Tags | Fault, tuple[str, ...]]


def case(files: Files, expected: Tags | Fault, *notes: str, **settings: Any) -> Case:
    """A root, what is read or refused, parts of what is noted, and settings of the data."""
    return files, settings, expected, notes


def encoded(name: str, encoding: str, declared: str | None = None) -> Case:
    """A VOC root with an annotation in another encoding."""
    return case(voc({"Annotations/a.xml": xml(name, encoding, declared)}, "a"), {"a": [name]}, classes=f"{name},x")


CASES: dict[str, Case] = {
    # Where the images lie
    "split": case(named("a.jpg", "train/a.jpg"), A),
    "images-split": case(named("a.jpg", "images/train/a.jpg"), A),
    "images": case(named("a.jpg", "images/a.jpg"), A),
    "top": case(named("a.jpg", "a.jpg"), A),
    "first-place-wins": case(named("a.jpg", "a.jpg", "images/a.jpg", "train/a.jpg"), A),
    "path-from-the-root": case(named("images/train/a.jpg", "images/train/a.jpg"), A),
    "path-with-the-split": case(named("train/a.jpg", "train/a.jpg"), A),
    "path-that-repeats-the-place": case(named("images/a.jpg", "train/a.jpg"), A),
    "backslashes": case(named("images\\a.jpg", "images/a.jpg"), A),
    "dot-slash": case(named("./a.jpg", "train/a.jpg"), A),
    "own-folder": case(named("Data/a.jpg", "Data/a.jpg"), {"Data/a": ["cat"]}),
    "own-folder-in-the-split": case(named("x/y/a.jpg", "train/x/y/a.jpg"), {"x/y/a": ["cat"]}),
    "own-folder-that-is-not-there": case(named("Data/a.jpg", "train/a.jpg"), ("missing-image", "the image a.jpg")),
    "none-is-there": case(
        listed("a.jpg", "b.jpg"),
        (
            "missing-image",
            "the image a.jpg does not exist below train/, images/train/, images/ or the root, and neither do the other "
            "1; put the images there; `tag2mask export coco` does so with --images copy or link",
        ),
    ),
    "name-in-nfd": case(named("fu\u0308sse.jpg", "images/f\u00fcsse.jpg"), {"f\u00fcsse": ["cat"]}),
    "climbs": case(named("../a.jpg", "a.jpg"), ABOVE),
    "climbs-within": case(named("images/../../a.jpg", "a.jpg"), ABOVE),
    "absolute": case(named("/images/a.jpg", "images/a.jpg"), ABOVE),
    "drive": case(named("C:\\images\\a.jpg", "images/a.jpg"), ABOVE),
    "address": case(named("http://host/images/a.jpg", "images/a.jpg"), ABOVE),
    "half-a-character": case(named("\ud800/a.jpg", "train/a.jpg"), ("bad-annotation", "holds half a character")),
    "one-id-twice": case(
        listed("a.jpg", "a.png") | {"train/a.jpg": "", "train/a.png": ""}, ("duplicate-id", "have one ID, `a`")
    ),
    "one-file-twice": case(
        listed("a.jpg", "images/a.jpg") | {"images/a.jpg": ""}, ("duplicate-id", "images/a.jpg is listed twice")
    ),
    "another-list-of-the-same-images": case(
        listed("a.jpg") | listed("a.jpg", path=VAL, first=9) | {"images/a.jpg": ""}, A
    ),
    "table-of-paths": case(
        named("a.jpg", "images/train/a.jpg") | {"ours.csv": "image,tags\nimages/train/a.jpg,dog\n"},
        {"a": ["dog"]},
        tags="ours.csv",
    ),
    # What is not as COCO has it
    "ids-as-text": case(
        one(image("12", "a.jpg"), CAT | {"id": "1"}, DOG | {"id": "2"}, id="1", image_id="12", category_id="2"),
        {"a": ["dog"]},
        "json: numbers with a decimal point or as text are read as whole ones (6, first: categories item 1 `id`)",
    ),
    "decimal-points": case(
        one(image(1.0, "a.jpg", height=24.0, width=32.0), category_id=2.0), {"a": ["dog"]}, "read as whole ones (4, "
    ),
    "fractions": case(one(image(1, "a.jpg", height=24.5)), ("bad-annotation", "`height` is missing or of an")),
    "true-as-an-id": case(one(image(True, "a.jpg")), ("bad-annotation", "`id` is missing or of another kind")),
    "flat-polygon": case(one(segmentation=SQUARE), A, "is read as one polygon (1, first: annotation 1)"),
    "points": case(one(segmentation=POINTS), A, "points [x, y] make polygons (1, first: annotation 1)"),
    "lists-of-points": case(one(segmentation=[POINTS, POINTS]), A, "points [x, y] make polygons"),
    "polygon-beyond-floats": case(
        one(segmentation=[[*SQUARE, 10**400, 1]]), ("bad-annotation", "should be finite numbers")
    ),
    "shares-of-the-image": case(
        one(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]),
        ("bad-annotation", "with coordinates from 0 to 1 (1): 1; coordinates are pixels; multiply shares of the image"),
    ),
    "first-pixel": case(one(segmentation=[[0, 0, 1, 0, 1, 1, 0, 1]]), A),
    "no-annotation-ids": case(
        one(id="missing"), A, "annotations without `id` are numbered by their places (1, first: annotations item 1)"
    ),
    "null-size": case(one(image(1, "a.jpg", **SIZE)), A, "`height` and `width` are measured (1, first: a.jpg)"),
    "missing-size": case(one({"id": 1, "file_name": "a.jpg"}), A, "are measured"),
    "missing-size-and-file": case(
        one(image(1, "b.jpg", **SIZE)),
        ("bad-annotation", "b.jpg has no `height` and `width`, and its file does not say them"),
    ),
    "category-0": case(one(None, CAT | {"id": 0}, DOG, category_id=0), A),
    "background": case(
        one(None, {"id": 0, "name": "_background_"}, CAT),
        A,
        "stand for the background are left out (1, first: `_background_`)",
    ),
    "background-with-annotations": case(
        one(None, {"id": 0, "name": "background"}, CAT, category_id=0), ("bad-classes", "`background` is not a class")
    ),
    # Lists of categories
    "more-in-one-split": case(
        splits([CAT], [CAT, DOG]),
        A,
        "the 2 categories of all annotation files together; some are not in annotations/instances_train.json",
    ),
    "fewer-in-the-other-split": case(splits([CAT, DOG], [DOG | {"id": 1}]), ("bad-classes", "instances_val.json: c")),
    "order-of-ids": case(splits([DOG], [ZEBRA, DOG]), {"a": ["dog"]}, "the 2 categories"),
    "split-folder-below-images": case(
        listed("a.jpg", categories=(CAT,)) | listed("b.jpg", path=VAL) | dict.fromkeys(BELOW_IMAGES, ""),
        A,
        "the 2 categories",
    ),
    # VOC
    "gb2312": encoded("猫", "gb2312"),
    "gbk-declared-as-gb2312": encoded("鎔", "gbk", "GB2312"),
    "gbk": encoded("猫", "gbk"),
    "big5": encoded("貓", "big5", "Big5"),
    "euc-kr": encoded("고양이", "euc-kr"),
    "shift-jis": encoded("ねこ", "shift_jis", "Shift_JIS"),
    "latin-1": encoded("é", "iso-8859-1"),
    "not-as-declared": case(
        voc({"Annotations/a.xml": xml("é", "iso-8859-1", "gbk")}, "a"), ("bad-annotation", "could not be read as XML")
    ),
    "main-lists": case(voc({"ImageSets/Main/train.txt": "a\n"} | CAT_XML, "a", "b"), A),
    "lists-of-classes-are-no-splits": case(
        voc({"ImageSets/Main/cat_train.txt": "a  1\nb -1\n", "ImageSets/Main/train.txt": "a\n"} | CAT_XML, "a", "b"),
        ("bad-split", "there is no list cat_train.txt, there are train"),
        split="cat_train",
    ),
    "ids-that-look-like-lists-of-classes": case(
        voc({"ImageSets/Main/train.txt": "cat 1\n", "Annotations/cat 1.xml": xml("cat", "utf-8")}, "cat 1"),
        {"cat 1": ["cat"]},
    ),
    "segmentation-lists-go-first": case(
        voc({"ImageSets/Main/train.txt": "b\n", "ImageSets/Segmentation/train.txt": "a\n"} | CAT_XML, "a", "b"), A
    ),
    "empty-annotations": case(voc({"Annotations/": "", "tags.csv": "image,tags\na,cat\n"}, "a"), A),
    "labelmap": case(
        voc({"tags.csv": "image,tags\na,koala\n", "labelmap.txt": f"{LABELS}koala:128,0,0::\nwolf:0,128,0::\n"}, "a"),
        {"a": ["koala"]},
    ),
    "labelmap-that-cannot-be-shown": case(
        voc({"tags.csv": "image,tags\na,cat\n", "labelmap.txt": f"{LABELS}\x1b[2J:1,2,3::\n"}, "a"), A
    ),
    "labelmap-of-something-else": case(
        voc({"tags.csv": "image,tags\na,cat\n", "labelmap.txt": "koala:1,2,3::\n"}, "a"), A
    ),
}


@pytest.mark.parametrize(("files", "settings", "expected", "notes"), CASES.values(), ids=CASES)
def test_real_roots(
    files: Files, settings: dict[str, Any], expected: Tags | Fault, notes: tuple[str, ...], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    plant(root, files)
    plant(tmp_path, {"a.jpg": "", "secret/a.jpg": ""})  # what a name that climbs would reach
    if "tags" in settings:
        settings = settings | {"tags": root / settings["tags"]}
    split = "train" if any(name.rpartition("/")[2] in ("train.txt", "instances_train.json") for name in files) else None
    for _ in range(2):  # as it is read, and as the index has it
        assert_read(DataSettings(**{"root": root, "split": split} | settings), expected, notes)


def test_ids_and_classes_of_splits_go_together(tmp_path: Path) -> None:
    plant(tmp_path, splits([DOG], [ZEBRA, DOG], content=IMAGE))
    for split in ("train", "val", None):
        assert open_images(DataSettings(root=tmp_path), split=split).classes == ("zebra", "dog")


def test_few_polygons_in_the_first_pixel_are_a_warning(tmp_path: Path) -> None:
    tiny = annotation(1, 1, segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]])
    images = document([image(1, "a.jpg")], [tiny, annotation(2, 1), annotation(3, 1)])
    plant(tmp_path, {TRAIN: images, "train/a.jpg": ""})
    (found,) = [each for each in survey(DataSettings(root=tmp_path)).problems if each.kind == "bad-annotation"]
    assert found.level == "warning" and "with coordinates from 0 to 1 (1): 1" in found.message


@pytest.mark.parametrize("segmentation", [SQUARE, [SQUARE], [[2, 2], [12, 2], [12, 12], [2, 12]]], ids=str)
def test_polygons_are_painted_alike_however_they_are_written(segmentation: Any, tmp_path: Path) -> None:
    plant(tmp_path, one(image(1, "images\\a.jpg", **SIZE), segmentation=segmentation))
    expected = np.zeros((24, 32), dtype=np.uint8)
    expected[2:12, 2:12] = 1
    (item,) = truth(DataSettings(root=tmp_path)).items
    assert item.id == "a"
    assert np.array_equal(read_mask(item.truth or Path()), expected)


# Our own exports


def truth(settings: DataSettings, split: str | None = None) -> ImageSet:
    return with_ground_truth(Config(data=settings, workers=0), open_images(settings, split=split), Console(quiet=True))


IDS = ("cat/one", "cat/two.of them", "dog/one", "dog/größe 7", "fish/one")


def mask_of(number: int) -> np.ndarray:
    """The class of the folder, and a piece of another that its image is tagged with in a table."""
    mask = np.zeros((24, 32 + number), dtype=np.uint8)
    mask[2:9, 3:20] = mask[15:22, 5:9] = (1, 1, 2, 2, 3)[number]
    mask[3:5, 4:6] = 0
    return mask


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Class folders, with masks next to them."""
    for number, image_id in enumerate(IDS):
        suffix = (".jpg", ".png")[number % 2]
        path = tmp_path / "images" / f"{image_id}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32 + number, 24), (9 * number, 0, 0)).save(path)
        write_mask(tmp_path / "masks" / f"{image_id}.png", mask_of(number))
    return tmp_path / "images"


def sources(images: Path) -> Iterator[tuple[str, list[str]]]:
    """Class folders, and a table with splits: the images that are exported, and where they are."""
    yield "folders", ["--data.root", str(images)]
    table = images.parent / "tags.csv"
    names = [path.relative_to(images).as_posix() for path in sorted(images.rglob("*.*g"))]
    lines = [f"{name},{name.partition('/')[0]},{'val' if 'two' in name else 'train'}" for name in names]
    table.write_text("\n".join(["image,tags,split", *lines, ""]), encoding="utf-8")
    yield "table", ["--data.root", str(images), "--data.tags", str(table), "--data.split", "train"]


@pytest.mark.parametrize("way", ["copy", "link", "symlink"])
@pytest.mark.parametrize("name", ["coco", "voc"])
def test_an_export_is_read_again(name: str, way: str, images: Path, tmp_path: Path) -> None:
    for kind, data in sources(images):
        out = tmp_path / kind
        words = ["export", name, str(tmp_path / "masks"), *data, "--images", way, "--out", str(out)]
        assert main(words) == 0
        split = "train" if kind == "table" else "default"
        wanted = [image_id for image_id in IDS if kind == "folders" or "two" not in image_id]
        again = truth(DataSettings(root=out), split)
        assert again.classes == ("cat", "dog", "fish")
        assert sorted(item.id for item in again.items) == sorted(wanted)
        for item in again.items:
            assert [again.classes[tag - 1] for tag in item.tags] == [item.id.partition("/")[0]]
            original = next(images.glob(f"{item.id}.*g"))
            assert item.path.read_bytes() == original.read_bytes()
            assert np.array_equal(read_mask(item.truth or Path()), mask_of(IDS.index(item.id)))
        assert survey(DataSettings(root=out)).problems == ()
        second = [str(out / "SegmentationClass"), "--data.root", str(out), "--data.split", split]
        assert main(["export", name, *second, "--images", "copy", "--out", str(tmp_path / f"{kind}-again")]) == 0
        kept = truth(DataSettings(root=tmp_path / f"{kind}-again"), split)
        assert [(each.id, each.tags) for each in kept.items] == [(each.id, each.tags) for each in again.items]


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_an_export_without_images_says_what_to_do(name: str, images: Path, tmp_path: Path, capsys: Capture) -> None:
    masks, data = [str(tmp_path / "masks")], ["--data.root", str(images)]
    assert main(["export", name, *masks, *data, "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "out")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"`tag2mask export {name}` does" in said and "with --images copy or link" in said
    assert said.count("does not exist") == 1


def test_tags_that_no_mask_shows_are_kept_or_told(images: Path, tmp_path: Path, capsys: Capture) -> None:
    write_mask(tmp_path / "masks/fish/one.png", np.zeros((24, 36), dtype=np.uint8))
    masks, data = [str(tmp_path / "masks")], ["--data.root", str(images), "--images", "copy"]
    assert main(["export", "voc", *masks, *data, "--out", str(tmp_path / "voc")]) == 0
    assert open_images(DataSettings(root=tmp_path / "voc")).by_id("fish/one").tags == (3,)
    capsys.readouterr()
    assert main(["export", "coco", *masks, *data, "--out", str(tmp_path / "coco")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "1 images have no annotation of a tag, or none at all; to read the export with all tags, give" in said
    coco = DataSettings(root=tmp_path / "coco", tags=tmp_path / "voc/tags.csv")
    assert open_images(coco).by_id("fish/one").tags == (3,)


# Label Studio


def task(*results: dict[str, Any], **values: Any) -> dict[str, Any]:
    brush = {"format": "rle", "rle": encode_brush(np.ones((4, 4), np.bool_)), "brushlabels": ["cat"]}
    region = {"type": "brushlabels", "original_width": 4, "original_height": 4, "image_rotation": 0, "value": brush}
    data = {"image_id": "one", "height": 4, "width": 4}
    return {"data": data, "annotations": [{"result": [region, *results]}]} | values


CHOICE = {"type": "choices", "from_name": "q", "to_name": "image", "value": {"choices": ["sharp"]}}
TEXT = {"type": "textarea", "from_name": "t", "to_name": "image", "value": {"text": ["hm"]}}
RELATION = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
MINIMAL = {"image_id": "one", "height": 4, "width": 4, "tag": [], "annotator": 1, "id": 3}

TASKS: dict[str, tuple[list[Any], int, str]] = {
    "without-others": ([task()], 0, ""),
    "choices-and-text": (
        [task(CHOICE, TEXT, CHOICE, RELATION)],
        0,
        "results without pixels are skipped: 2 of choices, 1 of textarea, 1 of relation",
    ),
    "choices-alone": (
        [task(annotations=[{"result": [CHOICE]}])],
        1,
        "one: it has no brush labels, only choices; paint, or clear these",
    ),
    "polygons": ([task({"type": "polygonlabels", "value": {}})], 1, "a region has the type 'polygonlabels'"),
    "json-min": ([MINIMAL], 1, "it is JSON-MIN, which does not record whether images were rotated; export JSON"),
}


@pytest.mark.parametrize(("tasks", "code", "says"), TASKS.values(), ids=TASKS)
def test_what_label_studio_exports(tasks: list[Any], code: int, says: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "in.json").write_text(json.dumps(tasks))
    (tmp_path / "data").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "data/one.png")
    (tmp_path / "data/tags.csv").write_text("image,tags\none.png,cat\n")
    run = empty_run(tmp_path / "run", tmp_path / "data", classes="cat,dog")
    assert main(["import", "labelstudio", str(tmp_path / "in.json"), str(run)]) == code
    assert says in " ".join(capsys.readouterr().err.split())
    assert code or read_mask(run / "corrections/one.png").all()
