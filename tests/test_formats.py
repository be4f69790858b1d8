"""Masks in the formats of other tools: what a reader of each format finds is what was written, or the loss is told."""

import io
import json
import os
import zipfile
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from scipy import ndimage

from tag2mask.cli import main
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import write_json
from tag2mask.data import DataSettings, ImageItem, open_images, palette, read_mask, write_mask
from tag2mask.data.manifest import Images
from tag2mask.export.formats import ExchangeResult, ExportSettings, export_masks
from tag2mask.export.formats.components import regions
from tag2mask.export.formats.registry import MaskSource

CLASSES = ("cat", "dog, small", "tür/öffnung")
IDS = ("one", "trip 1/two.of.them", "fotos/grün & 東京", "x'\"<y>")
AROUND = np.ones((3, 3), dtype=bool)


def _mask(seed: int, height: int = 40, width: int = 53) -> np.ndarray:
    """Blobs of all classes, with holes, single pixels and what is ignored."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.random((height, width)), 3)
    mask = np.searchsorted(np.quantile(field, [0.4, 0.6, 0.8]), field).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.01] = 2
    mask[: height // 5, : width // 3] = 255
    mask[20:26, 20:26] = 1
    mask[22:24, 22:24] = 0
    return mask


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return {image_id: _mask(seed, 40 + seed) for seed, image_id in enumerate(IDS)}


@pytest.fixture(scope="module")
def folder(masks: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks")
    for image_id, mask in masks.items():
        write_mask(path / f"{image_id}.png", mask)
    return path


def _export(name: str, folder: Path, out: Path, **settings: object) -> ExchangeResult:
    made = export_masks(name, MaskSource(folder, CLASSES), out, ExportSettings(**settings))
    assert not made.failed
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".partial-")]
    return made


def _without_ignored(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 255, 0, mask)


def _by_coco(path: Path) -> dict[str, np.ndarray]:
    """What pycocotools reads and decodes, the later annotation on top."""
    coco = COCO(str(path))
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask[coco.annToMask(annotation) == 1] = annotation["category_id"]
        found[image["file_name"].removesuffix(".jpg")] = mask
    return found


def test_voc_keeps_everything(folder: Path, masks: dict[str, np.ndarray], tmp_path: Path) -> None:
    made = _export("voc", folder, tmp_path / "out", split="val")
    listed = (tmp_path / "out/ImageSets/Segmentation/val.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(listed) == sorted(IDS)
    for image_id, mask in masks.items():
        image = Image.open(tmp_path / "out/SegmentationClass" / f"{image_id}.png")
        assert image.mode == "P"
        assert np.array_equal(np.array(image), mask)
    labels = (tmp_path / "out/labelmap.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(":")[0] for line in labels] == ["background", *CLASSES, "ignored"]
    assert labels[1] == "cat:128,0,0::"
    assert any("2 IDs contain blanks" in note for note in made.notes)


def test_a_voc_root_is_read_again_as_one(scenes: Path, tmp_path: Path) -> None:
    source = _as_jpeg(scenes, tmp_path)
    export_masks("voc", source, tmp_path / "root", ExportSettings(split="mine", images="link"))
    names = ",".join(source.classes)
    again = open_images(
        DataSettings(kind="voc", root=tmp_path / "root", split="mine", tags=tmp_path / "tags.csv", classes=names)
    )
    assert len(again) == len(source) == 10
    for item in again.items:
        assert item.path.samefile(tmp_path / "images" / f"{item.id}.jpg") and item.truth is not None
        assert np.array_equal(read_mask(item.truth), read_mask(tmp_path / "masks" / f"{item.id}.png"))


def test_a_coco_root_is_read_again_as_one(scenes: Path, tmp_path: Path) -> None:
    source = _as_jpeg(scenes, tmp_path)
    export_masks("coco", source, tmp_path / "root", ExportSettings(split="mine", images="copy"))
    again = open_images(DataSettings(kind="coco", root=tmp_path / "root", split="mine"))
    assert again.classes == source.classes and len(again) == 10
    for item in again.items:
        mask = read_mask(tmp_path / "masks" / f"{item.id}.png")
        assert item.tags == tuple(value for value in np.unique(mask).tolist() if value not in (0, 255))


def _as_jpeg(scenes: Path, folder: Path) -> MaskSource:
    """Training scenes as these roots have them, JPEG files without subfolders; images/, masks/ and tags.csv."""
    images = open_images(DataSettings(root=scenes, split="train"))
    found, table = [], "image,tags\n"
    (folder / "images").mkdir()
    for item in images.items:
        name = Path(item.id).name
        path = folder / "images" / f"{name}.jpg"
        Image.open(item.path).convert("RGB").save(path)
        write_mask(folder / "masks" / f"{name}.png", read_mask(scenes / "masks" / f"{item.id}.png"))
        table += f"{name}.jpg,{';'.join(images.classes[tag - 1] for tag in item.tags)}\n"
        found.append(ImageItem(name, path, item.tags))
    (folder / "tags.csv").write_text(table)
    return MaskSource(folder / "masks", images.classes, Images.from_list(found))


@pytest.mark.parametrize("pieces_of", ["components", "classes"])
def test_coco_run_lengths_keep_all_but_255(
    pieces_of: str, folder: Path, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    made = _export("coco", folder, tmp_path / "out", pieces=pieces_of, split="val")
    path = tmp_path / "out/annotations/instances_val.json"
    found = _by_coco(path)
    assert found.keys() == masks.keys()
    for image_id, mask in masks.items():
        assert np.array_equal(found[image_id], _without_ignored(mask))
    said = json.loads(path.read_text(encoding="utf-8"))
    assert said["categories"] == [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    for annotation in said["annotations"]:
        runs = annotation["segmentation"]
        assert coco_masks.area(runs) == annotation["area"]
        assert coco_masks.toBbox(runs).tolist() == annotation["bbox"]
        if pieces_of == "components":
            assert ndimage.label(coco_masks.decode(runs))[1] == 1
    lost = sum(int((mask == 255).sum()) for mask in masks.values())
    assert made.notes == [f"{lost:,} pixels of 255 (ignored) became background, since the format lacks it"]
    assert [path.name for path in (tmp_path / "out/annotations").iterdir()] == ["instances_val.json"]


def test_coco_polygons_lose_holes_and_say_how_much(folder: Path, masks: dict[str, np.ndarray], tmp_path: Path) -> None:
    made = _export("coco", folder, tmp_path / "out", polygons=True)
    coco = COCO(str(tmp_path / "out/annotations/instances_default.json"))
    filled = 0
    for annotation in coco.loadAnns(coco.getAnnIds()):
        (image,) = coco.loadImgs(annotation["image_id"])
        painted = coco.annToMask(annotation).astype(bool)
        own = masks[image["file_name"].removesuffix(".jpg")] == annotation["category_id"]
        numbers, _ = ndimage.label(own)
        inside = numbers[painted & own]
        component = numbers == np.bincount(inside).argmax()
        assert np.array_equal(painted, ndimage.binary_fill_holes(component, AROUND))
        filled += int(painted.sum()) - annotation["area"]
    assert filled >= 4
    assert f"warning: {filled:,} pixels of holes are lost, since polygons have no holes" in made.notes


@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_an_outline_filled_is_its_component_with_holes(covered: np.ndarray) -> None:
    for region in regions(covered.astype(np.uint8), connected=True):
        corners, holes = region.polygon()
        expected = ndimage.binary_fill_holes(region.full_mask(covered.shape), AROUND)
        runs = coco_masks.merge(coco_masks.frPyObjects([corners.ravel().tolist()], *covered.shape))
        assert np.array_equal(coco_masks.decode(runs).astype(bool), expected)
        assert holes == expected.sum() - region.area


def test_yolo_polygons_paint_the_mask_but_for_what_is_told(
    folder: Path, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    made = _export("yolo", folder, tmp_path / "out", split="train", min_pixels=5)
    differing, tiny, tiny_pixels = 0, 0, 0
    for image_id, mask in masks.items():
        height, width = mask.shape
        lines = (tmp_path / "out/labels/train" / f"{image_id}.txt").read_text().splitlines()
        painted = np.zeros_like(mask)
        pieces_found = []
        for line in lines:
            class_id, *numbers = line.split()
            corners = np.array(numbers, dtype=float).reshape(-1, 2)
            assert corners.min() >= 0 and corners.max() <= 1
            flat = np.rint(corners * (width, height)).ravel().tolist()
            runs = coco_masks.merge(coco_masks.frPyObjects([flat], height, width))
            pieces_found.append((coco_masks.decode(runs).astype(bool), int(class_id) + 1))
        for covered, value in sorted(pieces_found, key=lambda each: -int(each[0].sum())):
            painted[covered] = value  # small ones last, as they may lie in the holes of large ones
        small = np.zeros(mask.shape, dtype=bool)
        for value in (1, 2, 3):
            numbers, count = ndimage.label(mask == value)
            sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
            tiny += int((sizes < 5).sum())
            tiny_pixels += int(sizes[sizes < 5].sum())
            small |= np.isin(numbers, np.flatnonzero(sizes < 5) + 1)
        sure = (mask != 0) & (mask != 255) & ~small
        assert np.array_equal(painted[sure], mask[sure])
        differing += int(((painted != mask) & ~small & (mask != 255)).sum())
    assert tiny and differing  # the masks do have what gets lost
    assert f"{tiny:,} regions below min_pixels, {tiny_pixels:,} pixels, were left out" in made.notes
    assert any("pixels of holes are lost" in note for note in made.notes)
    said = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    assert said == {"train": "images/train", "val": "images/train", "names": dict(enumerate(CLASSES))}


def test_fiftyone_has_grey_masks_and_the_images(scenes: Path, tmp_path: Path) -> None:
    images = open_images(DataSettings(root=scenes, split="val"))
    source = MaskSource(scenes / "masks", images.classes, images.items)
    made = export_masks("fiftyone", source, tmp_path / "out")
    assert made.done == len(images) and not made.notes
    for item in images.items:
        image = Image.open(tmp_path / "out/labels" / f"{item.id}.png")
        assert image.mode == "L"
        assert np.array_equal(np.array(image), read_mask(scenes / "masks" / f"{item.id}.png"))
        assert (tmp_path / "out/data" / f"{item.id}{item.path.suffix}").resolve() == item.path.resolve()
    names = json.loads((tmp_path / "out/mask_targets.json").read_text())
    assert names == {"0": "background", "1": images.classes[0], "2": images.classes[1], "255": "ignored"}


def test_cvat_paints_labels_and_objects(folder: Path, masks: dict[str, np.ndarray], tmp_path: Path) -> None:
    _export("cvat", folder, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert "tag2mask-export.json" not in archive.namelist()
        listed = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert sorted(listed) == sorted(IDS)
        for image_id, mask in masks.items():
            with archive.open(f"SegmentationClass/{image_id}.png") as file:
                assert np.array_equal(np.array(Image.open(file)), palette()[mask])
            with archive.open(f"SegmentationObject/{image_id}.png") as file:
                objects = np.array(Image.open(file)) @ np.array([1 << 16, 1 << 8, 1])
            assert np.array_equal(objects == 0, mask == 0)
            for code in np.unique(objects[objects > 0]):
                (value,) = np.unique(mask[objects == code])
                assert value == 255 or ndimage.label(objects == code)[1] == 1


def test_cvat_without_a_label_for_255_says_what_is_lost(
    folder: Path, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    made = _export("cvat", folder, tmp_path / "out", ignore_label="background")
    assert "ignored" not in (tmp_path / "out/labelmap.txt").read_text(encoding="utf-8")
    found = np.array(Image.open(tmp_path / "out/SegmentationClass/one.png"))
    assert np.array_equal(found, palette()[_without_ignored(masks["one"])])
    assert any("of 255 (ignored) became background" in note for note in made.notes)


def test_too_many_components_for_cvat_become_one_object_a_class(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[::2, ::2] = 1
    mask[1, 1] = 2
    write_mask(tmp_path / "masks/one.png", mask)
    made = _export("cvat", tmp_path / "masks", tmp_path / "out")
    objects = np.array(Image.open(tmp_path / "out/SegmentationObject/one.png"))
    assert len(np.unique(objects.reshape(-1, 3), axis=0)) == 3
    assert any("1 masks have too many components" in note for note in made.notes)


@pytest.mark.extra
@pytest.mark.parametrize("store", [False, True], ids=["folder", "store"])
def test_shards_hold_masks_and_images(store: bool, masks: dict[str, np.ndarray], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    items = []
    for image_id, mask in masks.items():
        write_mask(tmp_path / f"masks/{image_id}.png", mask)
        image = tmp_path / f"images/{image_id}.JPG"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*mask.shape, 3), dtype=np.uint8)).save(image, format="JPEG")
        items.append(ImageItem(image_id, image, ()))
    source = MaskSource(tmp_path / "masks", CLASSES, Images.from_list(items))
    place = tmp_path / ("store" if store else "out")
    settings = ExportSettings("train", images="copy", per_shard=3, store=f"file://{place}" if store else None)
    place.mkdir(exist_ok=store) if store else None
    made = export_masks("shards", source, tmp_path / "out", settings)
    assert (made.done, made.failed) == (len(IDS), {})
    tars = sorted(place.glob("train-*.tar"))
    assert [tar.name for tar in tars] == ["train-000000.tar", "train-000001.tar"]
    found = {}
    for sample in webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False):
        said = json.loads(sample["json"])
        found[said["id"]] = np.array(Image.open(io.BytesIO(sample["png"])))
        assert list(Image.open(io.BytesIO(sample["jpg"])).size) == said["size"][::-1]
    assert found.keys() == masks.keys()
    assert all(np.array_equal(found[image_id], mask) for image_id, mask in masks.items())
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["background", *CLASSES]


@pytest.mark.extra
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": "link"}, "holds no links"),
        ({"store": "nowhere://bucket"}, "nowhere://bucket could not be written to"),
        ({"store": "pipe:cat > x"}, "--store should be a URL"),
    ],
)
def test_shards_that_cannot_be_written_say_why(
    settings: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("webdataset")
    with pytest.raises(Tag2maskError, match=words):
        export_masks("shards", MaskSource(folder, CLASSES), tmp_path / "out", ExportSettings(**settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["voc", "cvat"])
@pytest.mark.parametrize("wrong", ["a:b", "#a", " a", "a\nb", "background"])
def test_names_that_labelmap_cannot_hold_are_refused(name: str, wrong: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.classes"):
        export_masks(name, MaskSource(folder, ("cat", wrong, "dog")), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_broken_masks_fail_alone(folder: Path, tmp_path: Path) -> None:
    for name, content in (("broken", b"\x89PNG"), ("line\nbreak", (folder / "one.png").read_bytes())):
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / f"{name}.png").write_bytes(content)
    write_mask(tmp_path / "masks/good.png", np.ones((4, 5), dtype=np.uint8))
    write_mask(tmp_path / "masks/other.png", np.full((4, 5), 9, dtype=np.uint8))
    made = export_masks("coco", MaskSource(tmp_path / "masks", CLASSES), tmp_path / "out")
    assert made.done == 1 and sorted(made.failed) == ["broken", "line\nbreak", "other"]
    assert "is not an image ID" in made.failed["line\nbreak"] and "not classes" in made.failed["other"]
    (tmp_path / "masks/good.png").unlink()
    with pytest.raises(Tag2maskError, match="no mask of"):
        export_masks("coco", MaskSource(tmp_path / "masks", CLASSES), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_mask_of_another_size_than_its_image_fails(scenes: Path, tmp_path: Path) -> None:
    images = open_images(DataSettings(root=scenes, split="val"))
    first, *others = images.items
    for item in others:
        write_mask(tmp_path / "masks" / f"{item.id}.png", read_mask(scenes / "masks" / f"{item.id}.png"))
    write_mask(tmp_path / "masks" / f"{others[0].id}.png", np.zeros((3, 4), dtype=np.uint8))
    made = export_masks("coco", MaskSource(tmp_path / "masks", images.classes, images.items), tmp_path / "out")
    assert list(made.failed) == [others[0].id] and "4 × 3" in made.failed[others[0].id]
    assert made.notes[0] == "1 images have no mask" and first.id not in made.failed


def test_what_is_not_ours_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/file").write_text("theirs")
    (tmp_path / "z.zip").write_text("theirs")
    for out in ("theirs", "theirs/file", "z.zip"):
        with pytest.raises(UsageError, match="--out"):
            export_masks("voc", MaskSource(folder, CLASSES), tmp_path / out)
    with pytest.raises(UsageError, match="no export wrote"):
        export_masks("voc", MaskSource(folder, CLASSES), tmp_path / "theirs", overwrite=True)
    _export("voc", folder, tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite"):
        export_masks("coco", MaskSource(folder, CLASSES), tmp_path / "out")
    export_masks("coco", MaskSource(folder, CLASSES), tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["annotations", "tag2mask-export.json"]
    assert (tmp_path / "theirs/file").read_text() == "theirs"


def test_an_export_that_is_interrupted_leaves_what_was_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _export("voc", folder, tmp_path / "out")
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_masks("coco", MaskSource(folder, CLASSES), tmp_path / "out", overwrite=True, on_image=stop)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_verb_takes_a_run_its_predictions_or_a_folder(
    copied: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "coco", str(copied), "--out", str(tmp_path / "run")]) == 0
    found = _by_coco(tmp_path / "run/annotations/instances_train.json")
    assert len(found) == 10
    for image_id, mask in found.items():
        assert np.array_equal(mask, _without_ignored(read_mask(copied / "masks" / f"{image_id}.png")))
    predictions = copied / "predictions/val"
    predictions.mkdir(parents=True, exist_ok=True)
    for item in open_images(DataSettings(root=scenes, split="val")).items:
        write_mask(predictions / f"{item.id}.png", read_mask(scenes / "masks" / f"{item.id}.png"))
    assert main(["export", "yolo", str(predictions), "--out", str(tmp_path / "yolo")]) == 0
    assert len(list((tmp_path / "yolo/images/val").rglob("*.*"))) == 4
    given = [str(scenes / "masks"), "--data.classes", "a,b"]
    assert main(["export", "voc", *given, "--out", str(tmp_path / "voc")]) == 0
    assert "14 done" in capsys.readouterr().err
    assert main(["export", "voc", *given, "--limit", "3", "--out", str(tmp_path / "three")]) == 0
    assert "3 done" in capsys.readouterr().err


def test_an_export_is_never_written_over_what_it_is_of(folder: Path, tmp_path: Path) -> None:
    """An export or import may be the source of the next one, and --overwrite deletes what is there."""
    given = ["--data.classes", "a,b,c"]
    assert main(["export", "voc", str(folder), "--out", str(tmp_path / "voc"), *given]) == 0
    before = sorted(path.read_bytes() for path in (tmp_path / "voc").rglob("*.png"))
    masks = tmp_path / "voc/SegmentationClass"
    for out in (masks, tmp_path / "voc"):
        assert main(["export", "coco", str(masks), "--out", str(out), "--overwrite", *given]) == 2
    assert sorted(path.read_bytes() for path in (tmp_path / "voc").rglob("*.png")) == before


def test_settings_of_others_do_not_make_a_run(folder: Path, tmp_path: Path) -> None:
    copytree(folder, tmp_path / "preds")
    (tmp_path / "config.yaml").write_text("model: theirs\n")
    given = [str(tmp_path / "preds"), "--data.classes", "a,b,c"]
    assert main(["export", "voc", *given, "--out", str(tmp_path / "voc")]) == 0
    write_json(tmp_path / "preds/predictions.json", {"classes": ["background", "x", "y", "z"]})
    assert main(["export", "coco", str(tmp_path / "preds"), "--out", str(tmp_path / "coco")]) == 0
    names = json.loads(next((tmp_path / "coco/annotations").iterdir()).read_text())["categories"]
    assert [each["name"] for each in names] == ["x", "y", "z"]


def test_a_zip_takes_images_older_than_zips(folder: Path, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    source = _as_jpeg(scenes, tmp_path / "photos")
    for item in source.items or ():
        os.utime(item.path, (0, 0))
    assert export_masks("yolo", source, tmp_path / "out.zip").done


def test_the_current_folder_is_a_place_to_export_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export_masks("voc", MaskSource(folder, CLASSES), Path()).done
    assert (tmp_path / "here/SegmentationClass").is_dir()


def test_wrong_use_of_the_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks, out = [str(folder)], ["--out", str(tmp_path / "out")]
    classes = ["--data.classes", "a,b,c"]
    for arguments, expected in (
        (["tiff", *masks, *out], "knows the formats onnx, voc"),
        (["voc", *out], "needs RUN"),
        (["voc", *masks, *classes], "--out FOLDER"),
        (["voc", *masks, *out], "nothing says what the classes are"),
        (["voc", *masks, *out, *classes, "--polygons"], "does not read --polygons"),
        (["onnx", *masks, *out, "--polygons"], "does not read --polygons"),
        (["coco", *masks, *out, *classes, "--pieces", "objects"], "--pieces needs one of"),
        (["yolo", *masks, *out, *classes, "--min-pixels", "-1"], "--min-pixels"),
        (["coco", *masks, "--out", str(folder / "coco"), *classes], "lies inside"),
        (["coco", *masks, "--out", str(folder.parent), *classes, "--overwrite"], "--out"),
        (["coco", str(tmp_path / "gone"), *out, *classes], "is not a folder"),
    ):
        assert main(["export", *arguments]) == 2, arguments
        assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["export", "voc", *masks, *out, *classes, "--dry-run"]) == 0
    assert "would write up to 4 masks" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
