"""The images of the gallery and their order: worst first, or least confident without ground truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from tag2mask.cams.kinds import KINDS
from tag2mask.core.errors import Tag2maskError
from tag2mask.data import ImageItem, ImageSet, read_mask
from tag2mask.data.cam_files import PADDING, CamFile, CamFileError, full_resolution, read_cam
from tag2mask.evaluation import Confusion
from tag2mask.report.settings import RANKED, ReportSettings

T = TypeVar("T")
P = ParamSpec("P")

Notice = Callable[[str], None]
"""Takes a sentence about something that could not be shown."""


def attempt(notice: Notice, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """The result of ``read``; None with a notice if the file cannot be read."""
    try:
        return read(*args, **kwargs)
    except (Tag2maskError, OSError) as error:
        notice(str(error))
        return None


@dataclass(frozen=True)
class Ranked:
    """An image with its figures for ranking.

    Attributes:
        photo: the image.
        miou: mean IoU of its mask over the classes in its ground truth, in [0, 1]; None without a mask or truth.
        confidence: see `confidence`; None without a CAM.
    """

    item: ImageItem
    miou: float | None
    confidence: float | None


@dataclass(frozen=True)
class Ranking:
    """The images to show.

    Attributes:
        shown: the chosen ones, in order.
        ranked: number of ranked images.
        available: number of images with a CAM or a mask.
        by_truth: whether any shown image is ranked by its ground truth.
    """

    shown: tuple[Ranked, ...]
    ranked: int
    available: int
    by_truth: bool


def mask_path(run: Path, item: ImageItem) -> Path:
    """The run's file of an image's mask."""
    return run / "masks" / f"{item.id}.png"


def cam_path(run: Path, kind: str, item: ImageItem) -> Path:
    """The run's file of an image's CAMs."""
    return run / f"cams/{kind}" / f"{item.id}.npz"


def rank(run: Path, images: ImageSet, settings: ReportSettings, notice: Notice) -> Ranking:
    """Rank the images with a CAM or a mask and choose those to show.

    Images with ground truth come first, ascending by the mIoU of their mask; then the others, by confidence.
    """
    decided = images.decided
    available = images.items.where(lambda item: decided.has_mask(item.id) or _has_output(run, item))
    candidates = _evenly(available, RANKED)
    ranked = sorted((_ranked(run, item, images, notice) for item in candidates), key=_order)
    shown = _evenly(ranked, settings.images)
    by_truth = any(entry.miou is not None for entry in shown)
    return Ranking(tuple(shown), len(candidates), len(available), by_truth)


def open_cam(path: Path, *, classes: int, size: tuple[int, int] | None = None) -> CamFile:
    """Read a CAM file and check that it fits.

    Args:
        path: the file.
        classes: number of classes without background.
        size: (H, W) of the image, if known.

    Raises:
        CamFileError: it cannot be read, or belongs to another image or other classes.
    """
    cam = read_cam(path)
    problem = None
    prototypes = len(cam.ids) * (cam.clusters or 0)
    if size is not None and cam.size != size:
        problem = f"is for an image of {cam.size[1]} × {cam.size[0]} pixels, this one has {size[1]} × {size[0]}"
    elif not cam.cams[:1].size and len(cam.ids):
        problem = f"has an empty grid, {cam.cams.shape[1:]}"
    elif len(cam.ids) and not 0 <= cam.ids[0] <= cam.ids[-1] <= classes:
        problem = f"has class ids {cam.ids.tolist()}, the classes are 0 to {classes}"
    elif cam.allocation is not None and ((cam.allocation >= prototypes) & (cam.allocation != PADDING)).any():
        problem = f"allocates cells to a prototype that is not among its {prototypes}"
    if problem:
        raise CamFileError(f"{path} {problem}; delete it and run `cams` again")
    return cam


def confidence(cam: CamFile) -> float:
    """The margin between the two highest maps, averaged over the grid, in [0, 1].

    CAMs without a background map get one, 1 − the maximum. Cells outside the image (allocation 255) do not count.

    Source: ours.
    """
    maps = cam.cams.astype(np.float32)  # (K, h, w)
    if not cam.has_background:
        background = 1 - maps.max(axis=0) if len(maps) else np.ones(maps.shape[1:], dtype=np.float32)
        maps = np.concatenate([background[None], maps])
    if len(maps) == 1:
        return 1.0
    second, first = np.partition(maps, -2, axis=0)[-2:]
    margin = first - second
    inside = np.ones(margin.shape, dtype=bool) if cam.allocation is None else cam.allocation != PADDING
    return float(margin[inside].mean()) if inside.any() else 0.0


def cam_labels(cam: CamFile, threshold: float | None, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """The class with the highest CAM of each pixel.

    Args:
        cam: the CAMs.
        threshold: without a background map, a pixel is background unless its highest CAM is above this.
        size: (H, W) of the result; default: that of the image.

    Returns:
        uint8 (H, W); None if the CAMs have no background map and ``threshold`` is None.
    """
    if not cam.has_background and threshold is None:
        return None
    shape = size or cam.size
    labels = np.zeros(shape, dtype=np.uint8)
    least = threshold if threshold is not None and not cam.has_background else -1.0
    strongest = np.full(shape, least, dtype=np.float32)
    for place, class_id in enumerate(cam.ids):  # class by class: all at once would be large for a large image
        one = replace(cam, ids=cam.ids[place : place + 1], cams=cam.cams[place : place + 1], size=shape)
        stronger = (values := full_resolution(one)[0]) > strongest
        labels[stronger] = class_id
        np.copyto(strongest, values, where=stronger)
    return labels


def compare(prediction: np.ndarray, truth: np.ndarray, classes: int) -> tuple[float | None, dict[int, float]]:
    """Compare the mask of an image with its ground truth.

    Args:
        prediction: uint8 (H, W).
        truth: uint8 (H, W), 255 = not counted.
        classes: number of classes without background.

    Returns:
        mIoU over the classes in the truth (None if it is all 255), and the IoU of each class in either.
    """
    confusion = Confusion(classes + 1)
    confusion.update(prediction, truth)
    miou, iou = confusion.miou(), confusion.iou()
    return (None if np.isnan(miou) else miou), {int(i): float(iou[i]) for i in np.flatnonzero(~np.isnan(iou))}


def _ranked(run: Path, item: ImageItem, images: ImageSet, notice: Notice) -> Ranked:
    cam, classes = None, len(images.classes)
    path = next((path for kind in reversed(KINDS) if (path := cam_path(run, kind, item)).is_file()), None)
    if path is not None:
        cam = attempt(notice, open_cam, path, classes=classes)
    miou = attempt(notice, _miou, run, item, images, cam)
    return Ranked(item, miou, None if cam is None else confidence(cam))


def _miou(run: Path, item: ImageItem, images: ImageSet, cam: CamFile | None) -> float | None:
    """The mIoU of an image's mask, or else of its CAMs with background."""
    classes, mask = len(images.classes), mask_path(run, item)
    if item.mask is None or not item.mask.is_file():
        return None
    if mask.is_file():
        truth = images.read_truth(item)
        own = read_mask(mask, size=truth.shape, classes=classes, pixel_limit=images.pixel_limit)
        return compare(own, truth, classes)[0]
    labels = None if cam is None or not cam.has_background else cam_labels(cam, None)
    if cam is None or labels is None:
        return None
    return compare(labels, images.read_truth(item, size=cam.size), classes)[0]


def _order(entry: Ranked) -> tuple[bool, float, str]:
    value = entry.miou if entry.miou is not None else entry.confidence
    return entry.miou is None, 2.0 if value is None else value, entry.item.id


def _has_output(run: Path, item: ImageItem) -> bool:
    return mask_path(run, item).is_file() or any(cam_path(run, kind, item).is_file() for kind in KINDS)


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """``count`` of the items, evenly spaced, including the first and the last; all if there are no more."""
    if count >= len(items):
        return list(items)
    places = np.linspace(0, len(items) - 1, count).round().astype(int)
    return [items[place] for place in places]
