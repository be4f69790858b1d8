"""Corrected masks from another tool, checked, as a plain folder of ID.png."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from tag2mask.data.images import IGNORED, PIXEL_LIMIT, image_size, read_mask, write_mask
from tag2mask.data.photos import PhotoSet
from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.formats import cvat, labelstudio
from tag2mask.formats.corrected import Corrected, Read
from tag2mask.formats.export import Exported
from tag2mask.formats.record import checked_id
from tag2mask.formats.target import whole_target
from tag2mask.outputs import file_names, found_folder


class Reader(Protocol):
    """Reads what a tool exported, photograph by photograph; a broken one is told and the next one follows."""

    def __call__(
        self, path: Path, classes: tuple[str, ...], *, ignored: str = "ignored", pixel_limit: int = PIXEL_LIMIT
    ) -> Iterator[Read]:
        """The masks; as `tag2mask.formats.cvat.read`."""


def read_folder(
    path: Path, classes: tuple[str, ...], *, ignored: str = "ignored", pixel_limit: int = PIXEL_LIMIT
) -> Iterator[Read]:
    """The masks of a folder of ID.png, PNGs with a palette or 8-bit grey whose values are class ids.

    Args:
        path: the folder.
        classes: the names of the classes 1..C.
        ignored: not read; 255 is.
        pixel_limit: a larger mask is refused before it is decoded.

    Yields:
        the ID of each with its mask, or why it cannot be used.

    Raises:
        UsageError: there is no such folder.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no folder of masks ID.png")
    folder = found_folder(path)
    for name in sorted(set(file_names(folder, ".png"))):
        photo_id = name.removesuffix(".png")
        try:
            mask = read_mask(folder / name, classes=len(classes), pixel_limit=pixel_limit)
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
        photos: whose masks they may be; each has to be one of them and of its size. None: any.
        again: an earlier import there is replaced.
        pixel_limit: of the photographs; a larger one is refused by name.

    Raises:
        UsageError: something else lies there.
        Tag2maskError: there was no sound mask.
    """
    failed: dict[str, str] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    made: dict[str, object] = {"format": "masks", "classes": list(classes)}
    with whole_target(out, made, again=again) as folder:
        for each in masks:
            if not isinstance(each, Corrected):
                failed[each[0]] = each[1]
            elif each.id in sizes:
                failed[each.id] = "there are two masks of it; which one is meant?"
            elif wrong := [value for value in np.unique(each.mask).tolist() if len(classes) < value != IGNORED]:
                failed[each.id] = f"the values {wrong[:5]} are no class"
            else:
                write_mask(folder / f"{checked_id(each.id)}.png", each.mask)
                sizes[each.id] = each.mask.shape
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
    return Exported(done, failed, [])


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
