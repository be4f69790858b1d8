"""Import of masks from other tools as corrections of a run."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import files_below
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.data.dataset import ImageSet
from tag2mask.data.file_names import nfc
from tag2mask.data.ground_truth import MaskValues, TruthCounts, likely_cause, read_truth, truth_problems
from tag2mask.data.images import PIXEL_LIMIT, MaskError, image_size, read_mask, unknown_values
from tag2mask.data.manifest import ImageItem
from tag2mask.export.formats import cvat, labelstudio
from tag2mask.export.formats.record import CorrectedMask, Note, ReadResult, checked_id
from tag2mask.export.formats.registry import ExchangeResult


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
        the ID of each mask, in NFC, with the mask, or with the reason why it cannot be used.

    Raises:
        UsageError: the folder does not exist.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder of masks ID.png")
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
    read: Callable[[], Iterable[ReadResult]], folder: CorrectionsFolder, images: ImageSet, *, overwrite: bool = False
) -> ExchangeResult:
    """Write masks as decisions `corrected`; tags that were corrected stay. A killed import can be repeated.

    Args:
        read: reads the masks; called twice, so that all masks are checked before the first is written.
        folder: the corrections of a run.
        images: the images of the run, in all splits, with the tags of the data set.
        overwrite: replace decisions about the masks of these images.

    Raises:
        UsageError: the masks do not fit the tags, or some of the images have another decision about their mask.
        Tag2maskError: there is no valid mask.
    """
    known = {item.id: item for item in images.items}
    values: dict[str, list[int]] = {}
    failed: dict[str, str] = {}
    notes: list[str] = []
    decided: set[str] = set()
    for each in read():
        if isinstance(each, Note):
            notes.append(each.text)
        elif not isinstance(each, CorrectedMask):
            failed[each[0]] = each[1]
        elif (image_id := nfc(each.id)) in values:
            failed[image_id] = "there are two masks of it; which one is meant?"
        else:
            values[image_id] = np.unique(each.mask).tolist()
            if problem := _problem(image_id, each.mask, known.get(image_id), folder, images):
                failed[image_id] = problem
            elif _is_other(folder, image_id, each.mask):
                decided.add(image_id)
    valid = values.keys() - failed.keys()
    if not valid:
        first = next(iter(failed.items()), None)
        reason = f"{first[0]}: {first[1]}" if first else "in Label Studio, only annotated tasks have one"
        raise Tag2maskError(f"there is no corrected mask; {reason}")
    notes += _compare_with_tags({image_id: values[image_id] for image_id in valid}, images)
    if (others := sorted(decided & valid)) and not overwrite:
        raise UsageError(
            f"{folder.folder} holds decisions about {len(others)} of these masks: {first_five(others)}; --overwrite "
            "replaces them, and no others"
        )
    for each in read():
        if isinstance(each, CorrectedMask) and (image_id := nfc(each.id)) in valid:
            folder.write(image_id, Decision.now("corrected", _previous(folder, image_id).tags), each.mask)
    return ExchangeResult(len(valid), failed, notes)


def _problem(
    image_id: str, mask: npt.NDArray[np.uint8], item: ImageItem | None, folder: CorrectionsFolder, images: ImageSet
) -> str:
    """The reason why a mask cannot be used; empty without one."""
    if item is None:
        return f"no image below {images.root} has this ID; is it another data set's, or renamed?"
    if wrong := unknown_values(mask, len(images.classes)):
        return wrong
    try:
        folder.stored_mask(image_id)  # refuses the ID of the class list
        size = image_size(item.path, pixel_limit=images.pixel_limit)
    except Tag2maskError as error:
        return str(error)
    height, width = mask.shape
    return "" if size == mask.shape else f"the mask is {width} × {height} pixels, its image {size[1]} × {size[0]}"


def _is_other(folder: CorrectionsFolder, image_id: str, mask: npt.NDArray[np.uint8]) -> bool:
    """Whether there is a decision about a mask, and not that it is corrected to this one."""
    verdict, stored = _previous(folder, image_id).verdict, folder.stored_mask(image_id)
    if verdict != "corrected" or stored is None:
        return verdict is not None
    try:
        return not np.array_equal(read_mask(stored, pixel_limit=mask.size), mask)
    except MaskError:
        return True


def _previous(folder: CorrectionsFolder, image_id: str) -> Decision:
    """The decision so far; a damaged one counts as one about the mask."""
    try:
        return folder.decision(image_id) or Decision()
    except Tag2maskError:
        return Decision("rejected")


def _compare_with_tags(values: dict[str, list[int]], images: ImageSet) -> list[str]:
    """Remarks on masks that differ from the tags; refuses those whose values are not class ids or in another order."""
    counts = TruthCounts(images.classes)
    for item in images.items:
        if item.id in values:
            counts.add(item.id, values[item.id], item.tags)
    problems = list(truth_problems(counts, "the imported masks"))
    errors = [problem.message for problem in problems if problem.level == "error"]
    if errors and likely_cause(counts)[1]:
        raise UsageError(f"nothing was imported: {errors[0]}")
    return [problem.message for problem in problems]
