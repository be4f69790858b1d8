"""Import of corrected masks from another tool into a folder of ID.png."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import files_below
from tag2mask.data.dataset import ImageSet
from tag2mask.data.file_names import nfc
from tag2mask.data.ground_truth import MaskValues, TruthCounts, advice, read_truth, truth_problems
from tag2mask.data.images import IGNORED, PIXEL_LIMIT, image_size, write_mask
from tag2mask.export.formats import cvat, labelstudio
from tag2mask.export.formats.record import CorrectedMask, Note, ReadResult, checked_id
from tag2mask.export.formats.registry import ExchangeResult
from tag2mask.export.formats.target import atomic_target


def read_folder(
    path: Path,
    classes: tuple[str, ...],
    *,
    pixel_limit: int = PIXEL_LIMIT,
    images: ImageSet | None = None,
) -> Iterator[ReadResult]:
    """The masks of a folder of ID.png, PNGs with a palette or 8-bit grey whose values are class ids.

    Args:
        path: the folder.
        classes: names of the classes 1..C.
        pixel_limit: a larger mask is refused before it is decoded.
        images: their mapping of values to classes applies; None: the values are class ids.

    Yields:
        the ID of each, in NFC, with its mask, or with why it cannot be used.

    Raises:
        UsageError: the folder does not exist.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no folder of masks ID.png")
    values = MaskValues() if images is None else images.mask_values
    tags = {item.id: item.tags for item in images.items} if images is not None and values.by_tag else {}
    for name in sorted(set(files_below(path, ".png"))):
        image_id = nfc(name.removesuffix(".png"))
        try:
            mask = read_truth(path / name, tags.get(image_id, ()), len(classes), values, pixel_limit=pixel_limit)
            yield CorrectedMask(checked_id(image_id), mask)
        except Tag2maskError as error:
            yield image_id, str(error)


READERS: dict[str, Callable[..., Iterator[ReadResult]]] = {
    "cvat": cvat.read,
    "labelstudio": labelstudio.read,
    "masks": read_folder,
}
"""The readers of corrected masks by the names of their formats."""


def import_masks(
    masks: Iterable[ReadResult],
    out: Path,
    classes: tuple[str, ...],
    images: ImageSet | None = None,
    *,
    again: bool = False,
    pixel_limit: int = PIXEL_LIMIT,
) -> ExchangeResult:
    """Write corrected masks as ID.png with VOC's palette, the whole folder or nothing.

    Args:
        masks: from a reader.
        out: the folder.
        classes: names of the classes 1..C, for the folder's record.
        images: the images that the masks have to belong to, with their sizes and, together, their tags
            (`tag2mask.data.ground_truth`). None: any.
        again: replace an earlier import.
        pixel_limit: of the images; a larger one is refused by name.

    Raises:
        UsageError: ``out`` holds other files, or the masks do not fit the tags.
        Tag2maskError: there was no valid mask.
    """
    failed: dict[str, str] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    values: dict[str, list[int]] = {}
    notes: list[str] = []
    made: dict[str, object] = {"format": "masks", "classes": list(classes)}
    with atomic_target(out, made, overwrite=again) as folder:
        for each in masks:
            if isinstance(each, Note):
                notes.append(each.text)
                continue
            if not isinstance(each, CorrectedMask):
                failed[each[0]] = each[1]
                continue
            image_id, mask = nfc(each.id), each.mask
            met = np.unique(mask).tolist()
            if image_id in sizes:
                failed[image_id] = "there are two masks of it; which one is meant?"
            elif wrong := [value for value in met if len(classes) < value != IGNORED]:
                failed[image_id] = f"the values {wrong[:5]} are no class"
            else:
                write_mask(folder / f"{checked_id(image_id)}.png", mask)
                sizes[image_id], values[image_id] = mask.shape, met
        for image_id, reason in _mistaken(sizes, images, pixel_limit):
            failed.setdefault(image_id, reason)
        for image_id in failed.keys() & sizes.keys():
            (folder / f"{image_id}.png").unlink()
        done = len(sizes.keys() - failed.keys())
        if not done:
            first = next(iter(failed.items()), None)
            reason = f"{first[0]}: {first[1]}" if first else "in Label Studio, only annotated tasks have one"
            raise Tag2maskError(f"there is no corrected mask; {reason}")
        made["images"] = done
        notes += _against_tags({name: values[name] for name in sizes.keys() - failed.keys()}, images, classes)
    return ExchangeResult(done, failed, notes)


def _against_tags(values: dict[str, list[int]], images: ImageSet | None, classes: tuple[str, ...]) -> list[str]:
    """Remarks on masks that differ from the tags; refuses those whose values are not class ids or in another order."""
    counts = TruthCounts(classes)
    for item in images.items if images is not None else ():
        if item.id in values:
            counts.add(item.id, values[item.id], item.tags)
    problems = list(truth_problems(counts, "the imported masks"))
    errors = [problem.message for problem in problems if problem.level == "error"]
    if errors and advice(counts)[1]:
        raise UsageError(f"nothing was imported: {errors[0]}")
    return [problem.message for problem in problems]


def _mistaken(
    sizes: dict[str, tuple[int, ...]], images: ImageSet | None, pixel_limit: int
) -> Iterator[tuple[str, str]]:
    """The IDs of masks without an image, or of another size than their image, and why."""
    if images is None:
        return
    known = {item.id: item.path for item in images.items if item.id in sizes}
    for image_id, size in sizes.items():
        if image_id not in known:
            yield image_id, f"no image below {images.root} has this ID; is it another data set's, or renamed?"
            continue
        try:
            own = image_size(known[image_id], pixel_limit=pixel_limit)
        except Tag2maskError as error:
            yield image_id, str(error)
            continue
        if own != size:
            yield image_id, f"the mask is {size[1]} × {size[0]} pixels, its image {own[1]} × {own[0]}"
