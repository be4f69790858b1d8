"""Folders of masks and of CAM files against ground truth, with every way in which the files can be wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.data import ImageItem, ImageSet, write_mask
from tag2mask.data.cam_files import CamFile, write_cam
from tag2mask.evaluation import Confusion, EvaluationError, evaluate_cams, evaluate_masks

CLASSES = ("cat", "dog", "owl")
SIZES = [(20, 24), (17, 31), (24, 20)]
NAMES = ["2007_000032", "holidays/beach.day", "holidays/dunes"]


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    rng = np.random.default_rng(0)
    listed = []
    for name, size in zip(NAMES, SIZES, strict=True):
        truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
        path = tmp_path / "truth" / f"{name}.png"
        write_mask(path, truth)
        listed.append(ImageItem(name, tmp_path / f"{name}.jpg", (1, 2), path))
    return ImageSet(CLASSES, tuple(listed), tmp_path)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for name, size in zip(NAMES, SIZES, strict=True):
        write_mask(tmp_path / "masks" / f"{name}.png", rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), size))
    return tmp_path / "masks"


def read(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path))


def write_random_cams(folder: Path, ids: list[int], *, seed: int = 2) -> None:
    rng = np.random.default_rng(seed)
    for name, size in zip(NAMES, SIZES, strict=True):
        cams = rng.uniform(size=(len(ids), 3, 4)).astype(np.float16)
        write_cam(folder / f"{name}.npz", CamFile(np.array(ids, np.int32), cams, size))


def test_masks_against_a_slow_count(images: ImageSet, masks: Path) -> None:
    met: list[str] = []
    figures = evaluate_masks(masks, images, on_image=met.append)
    assert met == NAMES and figures.images == 3 and figures.threshold is None
    pairs = [(read(masks / f"{n}.png").ravel(), read(images.root / "truth" / f"{n}.png").ravel()) for n in NAMES]
    prediction, truth = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    prediction, truth = prediction[truth != 255], truth[truth != 255]
    for index, name in enumerate(("background", *CLASSES)):
        both = ((prediction == index) & (truth == index)).sum()
        either = ((prediction == index) | (truth == index)).sum()
        assert figures.iou[name] == pytest.approx(both / either)
    assert figures.iou["owl"] == 0.0  # painted, never there: it counts against the others, not in the mean
    assert figures.miou == pytest.approx(np.mean([figures.iou[name] for name in ("background", "cat", "dog")]))
    assert figures.pixel_accuracy == pytest.approx((prediction == truth).mean())
    chosen = evaluate_masks(masks, images, ids=[1, 2])
    assert chosen.miou == pytest.approx((figures.iou["cat"] + figures.iou["dog"]) / 2)
    assert chosen.chosen == ("cat", "dog")


def test_many_images_in_chunks_are_all_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    expected, listed = Confusion(4), []
    for index in range(40):
        truth, prediction = rng.integers(0, 4, (2, 5, 6), dtype=np.uint8)
        write_mask(tmp_path / "truth" / f"{index}.png", truth)
        write_mask(tmp_path / "masks" / f"{index}.png", prediction)
        expected.update(prediction, truth)
        listed.append(ImageItem(str(index), Path(f"{index}.jpg"), (1,), tmp_path / "truth" / f"{index}.png"))
    figures = evaluate_masks(tmp_path / "masks", ImageSet(CLASSES, tuple(listed), tmp_path))
    assert figures.miou == expected.miou() and figures.images == 40


def full_size(path: Path, size: tuple[int, int]) -> np.ndarray:
    with np.load(path) as archive:
        maps = torch.from_numpy(archive["cams"].astype(np.float32))
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0].numpy()


def test_cams_with_background_take_the_largest_map(images: ImageSet, tmp_path: Path) -> None:
    write_random_cams(tmp_path / "cams", [0, 1, 3])
    figures = evaluate_cams(tmp_path / "cams", images)
    expected = Confusion(4)
    for name, size in zip(NAMES, SIZES, strict=True):
        winner = full_size(tmp_path / "cams" / f"{name}.npz", size).argmax(axis=0)
        expected.update(np.array([0, 1, 3], np.uint8)[winner], read(tmp_path / "truth" / f"{name}.png"))
    assert figures.miou == expected.miou() and figures.sweep is None and figures.threshold is None


def test_cams_without_background_are_swept(images: ImageSet, tmp_path: Path) -> None:
    write_random_cams(tmp_path / "cams", [1, 2])
    thresholds = (0.2, 0.4, 0.6)
    figures = evaluate_cams(tmp_path / "cams", images, thresholds=thresholds, ids=[1, 2])
    expected = {}
    for threshold in thresholds:
        confusion = Confusion(4)
        for name, size in zip(NAMES, SIZES, strict=True):
            cams = full_size(tmp_path / "cams" / f"{name}.npz", size)
            labels = np.where(cams.max(axis=0) > np.float32(threshold), cams.argmax(axis=0) + 1, 0).astype(np.uint8)
            confusion.update(labels, read(tmp_path / "truth" / f"{name}.png"))
        expected[threshold] = confusion.miou([1, 2])
    assert figures.sweep == expected
    assert figures.threshold == max(expected, key=lambda value: expected[value])
    assert figures.miou == max(expected.values())
    assert len(evaluate_cams(tmp_path / "cams", images).sweep or {}) == 19


@pytest.mark.parametrize("ids", [[0, 1], [1, 2]])
def test_an_image_without_maps_is_background(images: ImageSet, tmp_path: Path, ids: list[int]) -> None:
    write_random_cams(tmp_path / "cams", ids)
    none = CamFile(np.zeros(0, np.int32), np.zeros((0, 3, 4), np.float16), SIZES[0])
    write_cam(tmp_path / "cams" / f"{NAMES[0]}.npz", none)
    alone = ImageSet(CLASSES, images.items[:1], images.root)
    truth = read(tmp_path / "truth" / f"{NAMES[0]}.png")
    figures = evaluate_cams(tmp_path / "cams", alone, allow_extra=True)
    assert figures.pixel_accuracy == pytest.approx((truth[truth != 255] == 0).mean())
    assert evaluate_cams(tmp_path / "cams", images).images == 3


def test_missing_and_extra_files_and_truths_are_named_together(images: ImageSet, masks: Path) -> None:
    (masks / f"{NAMES[1]}.png").unlink()
    write_mask(masks / "stranger.png", np.zeros((3, 3), np.uint8))
    (masks / ".partial-1-x.png").write_bytes(b"half a file of a run that goes on")
    blind = ImageItem("blind", Path("blind.jpg"), (1,), None)
    write_mask(masks / "blind.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(UsageError) as caught:
        evaluate_masks(masks, ImageSet(CLASSES, (*images.items, blind), images.root))
    message = str(caught.value)
    assert "1 have no .png file" in message and NAMES[1] in message
    assert "stranger" in message and "no ground truth" in message and "blind" in message
    assert "partial" not in message
    assert evaluate_masks(masks, ImageSet(CLASSES, images.items[:1], images.root), allow_extra=True).images == 1


def test_wrong_sizes_and_damaged_files_are_named_together(images: ImageSet, masks: Path) -> None:
    write_mask(masks / f"{NAMES[0]}.png", np.zeros((20, 23), np.uint8))
    (masks / f"{NAMES[2]}.png").write_bytes(b"no image")
    with pytest.raises(EvaluationError) as caught:
        evaluate_masks(masks, images)
    message = str(caught.value)
    assert "2 of 3 images" in message
    assert f"{NAMES[0]}.png differs in size from its ground truth: 20 × 23, not 20 × 24" in message
    assert f"{NAMES[2]}.png" in message


def test_masks_of_other_classes_are_refused(images: ImageSet, masks: Path) -> None:
    write_mask(masks / f"{NAMES[0]}.png", np.full(SIZES[0], 7, np.uint8))
    with pytest.raises(Tag2maskError, match=r"2007_000032.png.*7"):
        evaluate_masks(masks, images)


def test_wrong_cams_are_named(images: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "cams"
    write_random_cams(folder, [1, 2])
    maps = np.zeros((1, 3, 4), np.float16)
    write_cam(folder / f"{NAMES[0]}.npz", CamFile(np.array([1], np.int32), maps, (20, 25)))
    write_cam(folder / f"{NAMES[1]}.npz", CamFile(np.array([4], np.int32), maps, SIZES[1]))
    (folder / f"{NAMES[2]}.npz").write_bytes(b"no archive")
    with pytest.raises(EvaluationError) as caught:
        evaluate_cams(folder, images)
    message = str(caught.value)
    assert "differs in size from its ground truth: 20 × 25" in message
    assert "ids that are not classes: 4; classes are 0 to 3" in message
    assert f"{NAMES[2]}.npz is damaged" in message


def test_cams_of_two_kinds_are_not_mixed(images: ImageSet, tmp_path: Path) -> None:
    write_random_cams(tmp_path / "cams", [1, 2])
    with_background = CamFile(np.array([0, 1], np.int32), np.zeros((2, 3, 4), np.float16), SIZES[1])
    write_cam(tmp_path / "cams" / f"{NAMES[1]}.npz", with_background)
    with pytest.raises(UsageError, match=r"1 have a background map: holidays/beach.day"):
        evaluate_cams(tmp_path / "cams", images)


def test_wrong_requests_are_refused_before_any_work(images: ImageSet, masks: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        evaluate_masks(tmp_path / "nowhere", images)
    with pytest.raises(UsageError, match="no images"):
        evaluate_masks(masks, ImageSet(CLASSES, (), tmp_path))
    with pytest.raises(UsageError, match="between 0 and 3; got 4"):
        evaluate_masks(masks, images, ids=[4])
    write_random_cams(tmp_path / "cams", [1, 2])
    with pytest.raises(UsageError, match="ascending"):
        evaluate_cams(tmp_path / "cams", images, thresholds=[0.5, 0.2])
