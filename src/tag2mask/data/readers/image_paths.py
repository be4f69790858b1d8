"""Locations of the images of a list, a tags table or an annotation file."""

import os
import re
from collections.abc import Container, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tag2mask.core.errors import first_five
from tag2mask.data.file_names import id_of_name, is_image_name, nfc, on_disk
from tag2mask.data.problems import one_line
from tag2mask.data.readers.scan import FolderIndex

IMAGES = "images"

MAX_DEPTH = 64  # trailing parts of a path outside the root that are searched below it

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def known_id(name: str, known: Container[str], *folders: str) -> str:
    """The ID in ``ID``, ``ID.jpg`` or ``…/FOLDER/ID.jpg``; folders below ``FOLDER`` are part of it.

    Args:
        name: the image in a list or a table.
        known: all IDs; a known ID keeps a part that looks like a suffix.
        folders: of images.
    """
    path = nfc(name.strip())
    if path in known:
        return path
    path = path.replace("\\", "/")
    after = _below(folders).search(path)
    path = os.path.normpath((after[1] if after else path).lstrip("/")).replace(os.sep, "/")
    is_suffixed = path not in known and is_image_name(path.rpartition("/")[2])
    return id_of_name(path) if is_suffixed else path


@lru_cache
def _below(folders: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:^|/)(?:{'|'.join(map(re.escape, folders))})/(.*)", re.DOTALL)


class TablePaths:
    """Locates the images of a table below a root."""

    def __init__(self, root: Path) -> None:
        """Paths are relative to ``root``."""
        # Unlike Path.absolute it removes "..", unlike resolve it keeps links.
        self.base = os.path.abspath(root)  # noqa: PTH100
        self._files = FolderIndex()
        self._moved = 0
        self._left_out: dict[str, None] = {}

    def inside(self, name: str) -> str | None:
        """A path relative to the root, with forward slashes; None if it is outside.

        A path of another machine, which does not exist here, is replaced by its longest end that is a file below the
        root.
        """
        found = path_inside(name, self.base)
        if found is not None and (not _DRIVE.match(name) or self._has(found)):
            return found
        path, parts = name.replace("\\", "/"), _parts(name)
        if ".." in parts or os.path.lexists(os.path.join(self.base, path)):  # noqa: PTH118 - a string, as it is written
            return None
        for start in range(max(0, len(parts) - MAX_DEPTH), len(parts)):
            end = "/".join(parts[start:])
            if self._has(end):
                self._moved += 1
                if len(self._left_out) <= 5:
                    self._left_out[path.removesuffix(end)] = None
                return end
        return None

    def notes(self) -> Iterator[str]:
        """The number of images found by the ends of their paths."""
        if self._moved:
            images = "1 image is" if self._moved == 1 else f"{self._moved} images are"
            shown = first_five(f"`{part}`" for part in self._left_out)
            yield one_line(f"{images} listed by a path outside the root and found below it without {shown}")

    def _has(self, below: str) -> bool:
        return self._files.has(on_disk(f"{self.base}/{below}"))


def path_inside(name: str, base: str) -> str | None:
    """``name`` relative to the folder ``base`` (absolute) with forward slashes; None if it is not inside.

    Backslashes are slashes, as in tables written on Windows. Links are not followed.
    """
    full = os.path.normpath(os.path.join(base, name.replace("\\", "/")))  # noqa: PTH118
    prefix = base.rstrip(os.sep) + os.sep
    return full[len(prefix) :].replace(os.sep, "/") if full.startswith(prefix) and full != prefix else None


class ImageLocation(NamedTuple):
    """An image of an annotation file."""

    id: str  # the path below the folder of images, without its suffix
    path: str  # where the file is, or should be
    exists: bool


class ImageLocator:
    """Locates images by ``file_name`` in ROOT/SPLIT, ROOT/images/SPLIT, ROOT/images and ROOT, in this order.

    The ID is relative to the first of these folders that contains the file: ``a.jpg`` and ``images/train/a.jpg`` are
    one image if they are one file.
    """

    def __init__(self, annotations: Path) -> None:
        """``annotations`` is ROOT/annotations/instances_SPLIT.json."""
        root, split = annotations.parent.parent, annotations.stem.removeprefix("instances_")
        self._base = "" if root == Path() else f"{root}/"
        self.folders = (f"{split}/", f"{IMAGES}/{split}/", f"{IMAGES}/", "")
        self._files = FolderIndex()

    def find(self, name: str) -> ImageLocation:
        """The image of a ``file_name`` without a `name_fault`."""
        below = "/".join(_parts(name))
        stripped = [below.removeprefix(folder) for folder in self.folders if folder and below.startswith(folder)]
        for rest in (below, *stripped):
            for folder in self.folders:
                path = on_disk(f"{self._base}{folder}{rest}")
                if self._files.has(path):
                    inside = path[len(self._base) :]
                    prefix = next(folder for folder in self.folders if inside.startswith(folder))
                    return ImageLocation(id_of_name(inside.removeprefix(prefix)), path, True)
        return ImageLocation(id_of_name(below), on_disk(f"{self._base}{self.folders[0]}{below}"), False)


def name_fault(name: str) -> str | None:
    """Why a ``file_name`` is invalid; None if it is valid. Empty: it may be outside the root."""
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
