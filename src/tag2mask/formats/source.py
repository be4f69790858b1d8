"""Where the masks of an export come from, photograph by photograph."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tag2mask.ahead import map_ahead
from tag2mask.data.decided import FinalMasks
from tag2mask.data.entries import Entries, Entry
from tag2mask.data.images import PIXEL_LIMIT, image_size, read_mask
from tag2mask.data.photo import Photo, Photos
from tag2mask.errors import Tag2maskError
from tag2mask.files import files_below
from tag2mask.formats.record import MaskRecord, checked_id


@dataclass
class MaskSource:
    """Masks of photographs, or those of a folder alone.

    Attributes:
        folder: holds ID.png; `FinalMasks` go with photographs.
        classes: the names without background.
        photos: whose masks they are, in this order; None: all that the folder holds.
        pixel_limit: larger images and masks are refused by name.
        limit: only the first so many; None: all.
        rejected: photographs that are not among ``photos``, since somebody rejected their masks.
        missing: photographs without a mask that `records` came by.
        failed: why a mask could not be read, by ID, as `records` came by.
    """

    folder: Path | FinalMasks
    classes: tuple[str, ...]
    photos: Photos | None = None
    pixel_limit: int = PIXEL_LIMIT
    limit: int | None = None
    rejected: int = 0
    missing: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Where no photographs are given, list the masks, in a file of their own."""
        given = self.photos is not None
        # Photographs that `predict` was given have no tags.
        self._tagged = self.photos is not None and any(photo.tags for photo in self.photos)
        self._ids = None if given or isinstance(self.folder, FinalMasks) else _listed(self.folder)

    def __len__(self) -> int:
        """How many photographs or masks at most."""
        there = len(self.photos) if self.photos is not None else len(self._ids or ())
        return there if self.limit is None else min(there, self.limit)

    def records(self) -> Iterator[MaskRecord]:
        """Every photograph that has a sound mask; a few are read ahead, none is kept."""
        threads = min(2, os.cpu_count() or 1)
        for photo_id, answer in map_ahead(self._read, islice(self._wanted(), self.limit), threads=threads):
            if isinstance(answer, MaskRecord):
                yield answer
            elif answer is None:
                self.missing += 1
            else:
                self.failed[photo_id] = answer

    def _wanted(self) -> Iterator[Photo | str]:
        if self.photos is not None:
            yield from self.photos
            return
        before = None
        for entry in self._ids or ():
            if entry.id != before:
                yield entry.id
            before = entry.id

    def _read(self, wanted: Photo | str) -> tuple[str, MaskRecord | str | None]:
        """A mask with its photograph; None where there is no mask, or why it cannot be used."""
        if isinstance(wanted, str):
            photo_id, image, tags = wanted, None, None
        else:
            photo_id, image, tags = wanted.id, wanted.path, wanted.tags if self._tagged else None
        try:
            path = self.folder / f"{checked_id(photo_id)}.png"
            if image is not None and not path.is_file():
                return photo_id, None
            size = None if image is None else image_size(image, pixel_limit=self.pixel_limit)
            mask = read_mask(path, size=size, classes=len(self.classes), pixel_limit=self.pixel_limit)
        except Tag2maskError as error:
            return photo_id, str(error)
        return photo_id, MaskRecord(photo_id, image, mask, tags)


def _listed(folder: Path) -> Entries:
    """The IDs of all masks in a folder, sorted; millions of them take a gigabyte while they are."""
    names = sorted(name.removesuffix(".png") for name in files_below(folder, ".png"))
    return Entries(Entry(name, f"{name}.png", None) for name in names)
