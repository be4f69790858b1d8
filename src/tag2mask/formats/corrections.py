"""Corrected masks from another tool, checked, as a plain folder of ID.png."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from tag2mask.data.images import IGNORED, PIXEL_LIMIT, image_size, write_mask
from tag2mask.data.names import nfc
from tag2mask.data.photos import PhotoSet
from tag2mask.data.truth import MaskValues, TruthCounts, advice, read_truth, truth_problems
from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.files import files_below
from tag2mask.formats import cvat, labelstudio
from tag2mask.formats.corrected import Corrected, Note, Read
from tag2mask.formats.export import Exported
from tag2mask.formats.record import checked_id
from tag2mask.formats.target import whole_target


class Reader(Protocol):
    """Reads what a tool exported, photograph by photograph; a broken one is told and the next one follows."""

    def __call__(
        self, path: Path, classes: tuple[str, ...], *, ignored: str = "ignored", pixel_limit: int = PIXEL_LIMIT
    ) -> Iterator[Read]:
        """The masks; as `tag2mask.formats.cvat.read`."""


def read_folder(
    path: Path,
    classes: tuple[str, ...],
    *,
    ignored: str = "ignored",
    pixel_limit: int = PIXEL_LIMIT,
    photos: PhotoSet | None = None,
) -> Iterator[Read]:
    """The masks of a folder of ID.png, PNGs with a palette or 8-bit grey whose values are class ids.

    Args:
        path: the folder.
        classes: the names of the classes 1..C.
        ignored: not read; 255 is.
        pixel_limit: a larger mask is refused before it is decoded.
        photos: whose mapping of values to classes, if they have one, these masks follow; None: the values are ids.

    Yields:
        the ID of each, in NFC, with its mask, or why it cannot be used.

    Raises:
        UsageError: there is no such folder.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no folder of masks ID.png")
    folder = path
    values = MaskValues() if photos is None else photos.mask_values
    tags = {photo.id: photo.tags for photo in photos.photos} if photos is not None and values.by_tag else {}
    for name in sorted(set(files_below(folder, ".png"))):
        photo_id = nfc(name.removesuffix(".png"))
        try:
            mask = read_truth(folder / name, tags.get(photo_id, ()), len(classes), values, pixel_limit=pixel_limit)
            yield Corrected(checked_id(photo_id), mask)
        except Tag2maskError as error:
            yield photo_id, str(error)


READERS: dict[str, Reader] = {"cvat": cvat.read, "labelstudio": labelstudio.read, "masks": read_folder}
"""What reads corrected masks, by the names of the formats."""


def import_masks(
    masks: Iterable[Read],
    out: Path,
    classes: tuple[str, ...],
    photos: PhotoSet | None = None,
    *,
    again: bool = False,
    pixel_limit: int = PIXEL_LIMIT,
) -> Exported:
    """Write corrected masks as ID.png with VOC's palette, the whole folder or nothing.

    Args:
        masks: of a reader.
        out: the folder.
        classes: the names of the classes 1..C, for the folder's record.
        photos: whose masks they may be; each has to be one of them and of its size, and together they have to fit
            the tags (`tag2mask.data.truth`). None: any.
        again: an earlier import there is replaced.
        pixel_limit: of the photographs; a larger one is refused by name.

    Raises:
        UsageError: something else lies there, or the masks do not fit the tags.
        Tag2maskError: there was no sound mask.
    """
    failed: dict[str, str] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    values: dict[str, list[int]] = {}
    notes: list[str] = []
    made: dict[str, object] = {"format": "masks", "classes": list(classes)}
    with whole_target(out, made, again=again) as folder:
        for each in masks:
            if isinstance(each, Note):
                notes.append(each.text)
                continue
            if isinstance(each, Corrected):
                each = each._replace(id=nfc(each.id))
            if not isinstance(each, Corrected):
                failed[each[0]] = each[1]
            elif each.id in sizes:
                failed[each.id] = "there are two masks of it; which one is meant?"
            elif wrong := [value for value in np.unique(each.mask).tolist() if len(classes) < value != IGNORED]:
                failed[each.id] = f"the values {wrong[:5]} are no class"
            else:
                write_mask(folder / f"{checked_id(each.id)}.png", each.mask)
                sizes[each.id], values[each.id] = each.mask.shape, np.unique(each.mask).tolist()
        for photo_id, reason in _mistaken(sizes, photos, pixel_limit):
            failed.setdefault(photo_id, reason)
        for photo_id in failed.keys() & sizes.keys():
            (folder / f"{photo_id}.png").unlink()
        done = len(sizes.keys() - failed.keys())
        if not done:
            first = next(iter(failed.items()), None)
            reason = f"{first[0]}: {first[1]}" if first else "in Label Studio, only annotated tasks have one"
            raise Tag2maskError(f"there is no corrected mask; {reason}")
        made["photographs"] = done
        notes += _against_tags({name: values[name] for name in sizes.keys() - failed.keys()}, photos, classes)
    return Exported(done, failed, notes)


def _against_tags(values: dict[str, list[int]], photos: PhotoSet | None, classes: tuple[str, ...]) -> list[str]:
    """What to say of masks that differ from the tags, by the values of each: corrections may well contradict them.

    Raises:
        UsageError: their values are no class ids, as those of black and white masks, or in another order.
    """
    counts = TruthCounts(classes)
    for photo in photos.photos if photos is not None else ():
        if photo.id in values:
            counts.add(photo.id, values[photo.id], photo.tags)
    problems = list(truth_problems(counts, "the imported masks"))
    errors = [problem.message for problem in problems if problem.level == "error"]
    if errors and advice(counts)[1]:
        raise UsageError(f"nothing was imported: {errors[0]}")
    return [problem.message for problem in problems]


def _mistaken(
    sizes: dict[str, tuple[int, ...]], photos: PhotoSet | None, pixel_limit: int
) -> Iterator[tuple[str, str]]:
    """Those that are of no photograph, or of another size than it."""
    if photos is None:
        return
    known = {photo.id: photo.path for photo in photos.photos if photo.id in sizes}
    for photo_id, size in sizes.items():
        if photo_id not in known:
            yield photo_id, f"no photograph below {photos.root} has this ID; is it another data set's, or renamed?"
            continue
        try:
            own = image_size(known[photo_id], pixel_limit=pixel_limit)
        except Tag2maskError as error:
            yield photo_id, str(error)
            continue
        if own != size:
            yield photo_id, f"the mask is {size[1]} × {size[0]} pixels, its photograph {own[1]} × {own[0]}"
