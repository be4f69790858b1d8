"""The images of the gallery and their order, and the reading of their CAMs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from tag2mask.cams.kinds import KINDS
from tag2mask.core.errors import Tag2maskError
from tag2mask.data import ImageItem, ImageSet, read_mask
from tag2mask.data.cam_files import PADDING, CamFile, CamFileError, full_resolution, read_cam
from tag2mask.evaluation import Confusion
from tag2mask.quality.ranking import RankedImage, Ranking
from tag2mask.report.settings import RANKED, ReportSettings

T = TypeVar("T")
P = ParamSpec("P")

Notice = Callable[[str], None]
"""Takes a message about something that could not be shown."""


def attempt(notice: Notice, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """The result of ``read``; None with a notice if the file cannot be read."""
    try:
        return read(*args, **kwargs)
    except (Tag2maskError, OSError) as error:
        notice(str(error))
        return None


@dataclass(frozen=True)
class Selected:
    """An image of the gallery.

    Attributes:
        miou: mean IoU of its mask over the classes in its ground truth, in [0, 1]; None without a mask or truth.
        ranked: its entry in the ranking; None if it is not ranked.
    """

    item: ImageItem
    miou: float | None
    ranked: RankedImage | None


@dataclass(frozen=True)
class Selection:
    """The images of the gallery, in order.

    Attributes:
        ranked: number of images from which they were selected.
        available: number of images with a CAM or a mask.
        order: the key of the order: `truth`, `confidence`, or `list` for the order of the data set.
    """

    shown: tuple[Selected, ...]
    ranked: int
    available: int
    order: str


def mask_path(run: Path, item: ImageItem) -> Path:
    """The run's file of an image's mask."""
    return run / "masks" / f"{item.id}.png"


def cam_path(run: Path, kind: str, item: ImageItem) -> Path:
    """The run's file of an image's CAMs."""
    return run / f"cams/{kind}" / f"{item.id}.npz"


def select(run: Path, images: ImageSet, ranking: Ranking, settings: ReportSettings, notice: Notice) -> Selection:
    """Rank the images with a CAM or a mask, and select those to show evenly from the ranks.

    Images with ground truth come first, ascending by the mIoU of their mask; then the others, least certain first.
    """
    decided = images.corrections
    available = images.items.filter(lambda item: decided.has_mask(item.id) or _has_output(run, item))
    candidates = _evenly(available, RANKED)
    ordered = [candidates[index] for index in ranking.order([item.id for item in candidates])]
    ranked = [Selected(item, attempt(notice, _miou, run, item, images), ranking.by_id.get(item.id)) for item in ordered]
    ranked.sort(key=lambda each: 2.0 if each.miou is None else each.miou)
    shown = _evenly(ranked, settings.images)
    order = "confidence" if ranking.by_id else "list"
    if any(each.miou is not None for each in shown):
        order = "truth"
    return Selection(tuple(shown), len(candidates), len(available), order)


def least_certain(images: ImageSet, ranking: Ranking, settings: ReportSettings) -> list[Selected]:
    """The first images of the ranking that have tags or a confidence, and no verdict."""
    verdicts = images.corrections.verdicts
    open_ones = (each for each in ranking.by_id.values() if each.is_to_check and each.image not in verdicts)
    wanted = {each.image: each for each in islice(open_ones, settings.lowest_confidence)}
    found = {item.id: item for item in images.items.filter(lambda item: item.id in wanted)}
    return [Selected(found[name], None, ranked) for name, ranked in wanted.items() if name in found]


def open_cam(path: Path, *, classes: int, size: tuple[int, int] | None = None) -> CamFile:
    """Read a CAM file and check that it fits.

    Args:
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


def cam_labels(cam: CamFile, threshold: float | None, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """The class with the highest CAM of each pixel.

    Args:
        threshold: without a background map, a pixel is background unless its highest CAM is above this.
        size: (H, W) of the result; default: that of the image.

    Returns:
        uint8 (H, W); None if the CAMs have no background map and ``threshold`` is None.
    """
    if not cam.has_background and threshold is None:
        return None
    shape = size or cam.size
    labels = np.zeros(shape, dtype=np.uint8)
    highest = np.full(shape, -1.0 if threshold is None or cam.has_background else threshold, dtype=np.float32)
    for place, class_id in enumerate(cam.ids):  # one class at a time, to limit the memory for a large image
        one = replace(cam, ids=cam.ids[place : place + 1], cams=cam.cams[place : place + 1], size=shape)
        higher = (values := full_resolution(one)[0]) > highest
        labels[higher] = class_id
        np.copyto(highest, values, where=higher)
    return labels


def compare(prediction: np.ndarray, truth: np.ndarray, classes: int) -> tuple[float | None, dict[int, float]]:
    """Compare the mask of an image with its ground truth.

    Args:
        prediction: uint8 (H, W).
        truth: uint8 (H, W), 255 = ignored.
        classes: number of classes without background.

    Returns:
        mIoU over the classes in the truth (None if it is all 255), and the IoU of each class in either.
    """
    confusion = Confusion(classes + 1)
    confusion.update(prediction, truth)
    miou, iou = confusion.miou(), confusion.iou()
    return (None if np.isnan(miou) else miou), {int(i): float(iou[i]) for i in np.flatnonzero(~np.isnan(iou))}


def _miou(run: Path, item: ImageItem, images: ImageSet) -> float | None:
    """The mIoU of an image's mask; without a mask, that of its last CAMs if they have a background."""
    classes, mask = len(images.classes), mask_path(run, item)
    if item.truth is None or not item.truth.is_file():
        return None
    if mask.is_file():
        truth = images.read_truth(item)
        own = read_mask(mask, size=truth.shape, classes=classes, pixel_limit=images.pixel_limit)
        return compare(own, truth, classes)[0]
    path = next((path for kind in reversed(KINDS) if (path := cam_path(run, kind, item)).is_file()), None)
    if path is None or not (cam := open_cam(path, classes=classes)).has_background:
        return None
    labels = cam_labels(cam, None)
    return None if labels is None else compare(labels, images.read_truth(item, size=cam.size), classes)[0]


def _has_output(run: Path, item: ImageItem) -> bool:
    return mask_path(run, item).is_file() or any(cam_path(run, kind, item).is_file() for kind in KINDS)


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """``count`` of the items, evenly spaced, including the first and the last; all if there are no more."""
    if count >= len(items):
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]
