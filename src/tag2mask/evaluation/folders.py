"""A folder of CAMs or of masks against the ground truth of a data set."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import files_below
from tag2mask.core.prefetch import map_ahead
from tag2mask.data import ImageItem, ImageSet, read_mask
from tag2mask.data.cam_files import full_resolution, read_cam
from tag2mask.data.file_names import nfc, on_disk
from tag2mask.evaluation.confusion import DEFAULT_THRESHOLDS, Confusion
from tag2mask.evaluation.figures import Counts, EvaluationError, Figures

CHUNK = 16
"""Images that a thread counts per task."""

OnImage = Callable[[str], None]
"""Called in the caller's thread, in order, with the ID of each compared image."""


def evaluate_masks(
    folder: Path,
    images: ImageSet,
    *,
    ids: Collection[int] | None = None,
    allow_extra: bool = False,
    on_image: OnImage | None = None,
) -> Figures:
    """Compare a folder of masks with the ground truth.

    ::

        folder/
          2007_000032.png        an 8-bit mask of the image's size for every image, named by its ID
          holidays/beach.png     IDs include subfolders

    A mask pixel of 255 counts as wrong (`Confusion`).

    Args:
        images: each with a ground-truth mask.
        ids: the classes of the mean IoU, 0 = background; all by default.
        allow_extra: allow masks of other images in the folder.

    Raises:
        UsageError: a mask or a ground truth is missing, a mask has no image, or ``ids`` are not classes.
        EvaluationError: a mask cannot be read, differs in size from its ground truth, or has unknown values.
    """
    _check_ids(ids, images)
    counts = count_masks(folder, images, allow_extra=allow_extra, on_image=on_image)
    return counts.figures(folder, images.classes, ids, tagged(images))


def evaluate_cams(
    folder: Path,
    images: ImageSet,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    ids: Collection[int] | None = None,
    allow_extra: bool = False,
    on_image: OnImage | None = None,
) -> Figures:
    """Compare a folder of CAM files (``folder/ID.npz``) with the ground truth, at the images' full size.

    A pixel gets the class of its largest map. For CAMs without a background map, the figures are those at the best of
    ``thresholds``. Arguments and errors as in `evaluate_masks`, and:

    Args:
        thresholds: background thresholds in [0, 1], ascending; ``ids`` also choose the best one.

    Raises:
        UsageError: some CAMs have a background map and some have none.
    """
    _check_ids(ids, images)
    counts = count_cams(folder, images, thresholds=thresholds, allow_extra=allow_extra, on_image=on_image)
    return counts.figures(folder, images.classes, ids, tagged(images))


def count_masks(
    folder: Path, images: ImageSet, *, allow_extra: bool = False, on_image: OnImage | None = None
) -> Counts:
    """The counts of `evaluate_masks`; `Counts.problems` has the images that cannot be compared."""
    classes = len(images.classes) + 1
    _require_files(folder, ".png", images, allow_extra)

    def count(counts: Counts, item: ImageItem, truth: np.ndarray) -> None:
        path = file_of(folder, item.id, ".png")
        prediction = read_mask(path, classes=classes - 1, pixel_limit=images.pixel_limit)
        _require_size(path, prediction.shape, truth)
        counts.confusion.update(prediction, truth)

    return _count_all(images, lambda: Counts(classes, None), count, on_image)


def count_cams(
    folder: Path,
    images: ImageSet,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    allow_extra: bool = False,
    on_image: OnImage | None = None,
) -> Counts:
    """The counts of `evaluate_cams`; `Counts.problems` has the images that cannot be compared."""
    classes = len(images.classes) + 1
    _require_files(folder, ".npz", images, allow_extra)

    def count(counts: Counts, item: ImageItem, truth: np.ndarray) -> None:
        path = file_of(folder, item.id, ".npz")
        cam = read_cam(path)
        _require_size(path, cam.size, truth)
        if wrong := [int(i) for i in cam.ids if not 0 <= i < classes]:
            raise EvaluationError(
                f"{path}: ids that are not classes: {first_five(wrong)}; classes are 0 to {classes - 1}"
            )
        counts.update_cams(item.id, cam.ids, full_resolution(cam), truth)

    return _count_all(images, lambda: Counts(classes, thresholds), count, on_image)


def file_of(folder: Path, image_id: str, suffix: str) -> Path:
    """The file of an image in a folder, with the Unicode form of its name on disk."""
    return Path(on_disk(f"{folder}/{image_id}{suffix}"))


def tagged(images: ImageSet) -> list[int]:
    """The number of images with each of the classes 1..C as a tag."""
    counts = Counter(tag for item in images.items for tag in item.tags)
    return [counts[tag] for tag in range(1, len(images.classes) + 1)]


def _count_all(
    images: ImageSet,
    new: Callable[[], Counts],
    count: Callable[[Counts, ImageItem, np.ndarray], None],
    on_image: OnImage | None,
) -> Counts:
    """Count every image, in chunks by several threads."""
    total = new()
    chunks = (list(images.items[start : start + CHUNK]) for start in range(0, len(images), CHUNK))

    def work(chunk: list[ImageItem]) -> tuple[list[ImageItem], Counts]:
        part = new()
        part.images = len(chunk)
        for item in chunk:
            try:
                count(part, item, images.read_truth(item))
            except Tag2maskError as error:
                part.problems.add(str(error))
        return chunk, part

    threads = min(8, os.cpu_count() or 1)
    for chunk, part in map_ahead(work, chunks, threads=threads):
        total.merge(part)
        if on_image is not None:
            for item in chunk:
                on_image(item.id)
    return total


def _check_ids(ids: Collection[int] | None, images: ImageSet) -> None:
    """Refuse ids that are not classes, before any work."""
    Confusion(len(images.classes) + 1).miou(ids)


def _require_files(folder: Path, suffix: str, images: ImageSet, allow_extra: bool) -> None:
    """Check which files exist, before any is read."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give a folder with a file ID{suffix} for each image")
    if not images.items:
        raise UsageError("there are no images to evaluate; check `data.split`")
    lacking, without_truth = [], []
    for item in images.items:
        if not file_of(folder, item.id, suffix).is_file():
            lacking.append(item.id)
        if item.truth is None or not item.truth.is_file():
            without_truth.append(item.id)
    extra = [] if allow_extra else _other_ids(folder, suffix, images, len(images.items) - len(lacking))
    problems = [
        (f"have no {suffix} file in {folder}", lacking),
        ("have no ground truth; name the folder of masks with `data.masks`", without_truth),
        (f"are in {folder} but not in this data set or split; name their split, or remove them", extra),
    ]
    if lines := [f"{len(names)} {what}: {first_five(names)}" for what, names in problems if names]:
        raise UsageError("evaluation needs a file and a ground truth for each image:\n  " + "\n  ".join(lines))


def _other_ids(folder: Path, suffix: str, images: ImageSet, expected: int) -> list[str]:
    """The IDs of files in the folder that no image has; ``expected``: the number of files that images have."""
    if sum(1 for _ in files_below(folder, suffix)) == expected:
        return []  # the usual case, without a list of names
    known = {item.id for item in images.items}
    names = {nfc(name.removesuffix(suffix)) for name in files_below(folder, suffix)}
    return sorted(names - known)


def _require_size(path: Path, size: tuple[int, ...], truth: np.ndarray) -> None:
    if size != truth.shape:
        given, wanted = (f"{height} × {width}" for height, width in (size, truth.shape))
        raise EvaluationError(f"{path} differs in size from its ground truth: {given}, not {wanted} (height × width)")
