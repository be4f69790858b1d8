"""Where the images of a COCO root lie, whether its annotations list them by name or by a path."""

import os
from os.path import splitext
from pathlib import Path
from typing import NamedTuple

from tag2mask.data.listing import FolderIndex
from tag2mask.data.names import nfc, on_disk

IMAGES = "images"


class Place(NamedTuple):
    """An image of an annotation file.

    Attributes:
        id: of the photograph: the path below the folder that holds it, without its suffix.
        path: of the file; where it should be, if it is not there.
        there: whether it is.
    """

    id: str
    path: str
    there: bool


class ImagePlaces:
    """Finds images by their ``file_name`` in ROOT/SPLIT, ROOT/images/SPLIT, ROOT/images and ROOT, the first one wins.

    The ID counts from the first of these folders that holds the file: ``a.jpg`` and ``images/train/a.jpg`` are one
    image if they are one file.
    """

    def __init__(self, annotations: Path) -> None:
        """Begin with nothing looked at.

        Args:
            annotations: ROOT/annotations/instances_SPLIT.json.
        """
        root, split = annotations.parent.parent, annotations.stem.removeprefix("instances_")
        self._base = "" if root == Path() else f"{root}/"
        self.folders = (f"{split}/", f"{IMAGES}/{split}/", f"{IMAGES}/", "")
        self._files = FolderIndex()

    def find(self, name: str) -> Place:
        """The image of a ``file_name`` without a fault; see `name_fault`."""
        inside = "/".join(_parts(name))
        stripped = [inside.removeprefix(folder) for folder in self.folders if folder and inside.startswith(folder)]
        for rest in (inside, *stripped):
            for folder in self.folders:
                path = on_disk(f"{self._base}{folder}{rest}")
                if self._files.has(path):
                    return Place(self._id(path[len(self._base) :]), path, True)
        return Place(image_id(inside), on_disk(f"{self._base}{self.folders[0]}{inside}"), False)

    def _id(self, inside: str) -> str:
        return image_id(inside.removeprefix(next(folder for folder in self.folders if inside.startswith(folder))))


def image_id(name: str) -> str:
    """The ID of an image: its path without the suffix, in NFC."""
    return splitext(nfc(name))[0]  # noqa: PTH122 - of ".jpg", and of "a.", it says what listings of folders say


def name_fault(name: str) -> str | None:
    """Why a ``file_name`` cannot be looked for; None if it can. Empty: it may lie outside the root."""
    if not name:
        return "is empty; it should be the name of a file, or its path below the folder of the split"
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or "://" in name or (len(parts) > 1 and parts[0][1:] == ":"):
        return ""
    if not _parts(name) or parts[-1] in ("", "."):
        return "names a folder; it should be the name of a file, or its path below the folder of the split"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return "holds half a character, which no file's name can"
    return "holds a null byte, which no file's name can" if "\0" in name else None


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
