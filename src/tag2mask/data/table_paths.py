"""Where the images of a list or a table lie: IDs among known ones, and paths below a root."""

import os
import re
from collections.abc import Container, Iterator
from functools import lru_cache
from pathlib import Path

from tag2mask.data.listing import FolderIndex, is_image_name
from tag2mask.data.names import nfc, on_disk
from tag2mask.data.problems import one_line
from tag2mask.errors import first_five

DEEPEST = 64
"""Parts of a path outside the root that may lie below it."""

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def known_id(name: str, known: Container[str], *folders: str) -> str:
    """The ID in ``ID``, ``ID.jpg`` or ``…/FOLDER/ID.jpg``; folders within ``FOLDER`` belong to it.

    Args:
        name: what stands in a list or a table.
        known: the IDs that there are; what is one as it stands keeps what looks like a suffix.
        folders: that hold the photographs.
    """
    path = nfc(name.strip())
    if path in known:
        return path
    path = path.replace("\\", "/")
    after = _below(folders).search(path)
    path = os.path.normpath((after[1] if after else path).lstrip("/")).replace(os.sep, "/")
    is_suffixed = path not in known and is_image_name(path.rpartition("/")[2])
    return os.path.splitext(path)[0] if is_suffixed else path  # noqa: PTH122


@lru_cache
def _below(folders: tuple[str, ...]) -> re.Pattern[str]:
    """Finds what follows one of the folders."""
    return re.compile(rf"(?:^|/)(?:{'|'.join(map(re.escape, folders))})/(.*)", re.DOTALL)


class TablePaths:
    """Where the images of a table lie below a root."""

    def __init__(self, root: Path) -> None:
        """Begin with nothing looked at.

        Args:
            root: the folder that paths are relative to.
        """
        # Unlike Path.absolute it takes out "..", unlike resolve it keeps links.
        self.base = os.path.abspath(root)  # noqa: PTH100
        self._files = FolderIndex()
        self._moved = 0
        self._left_out: dict[str, None] = {}

    def inside(self, name: str) -> str | None:
        """A path relative to the root, with forward slashes; None if it leads elsewhere.

        Of a path of another machine, which does not exist here, the longest end counts that is a file below the root.
        """
        found = path_inside(name, self.base)
        if found is not None and (not _DRIVE.match(name) or self._has(found)):
            return found
        path = name.replace("\\", "/")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or os.path.lexists(os.path.join(self.base, path)):  # noqa: PTH118 - a string, as it is written
            return None
        for start in range(max(0, len(parts) - DEEPEST), len(parts)):
            end = "/".join(parts[start:])
            if self._has(end):
                self._moved += 1
                if len(self._left_out) <= 5:
                    self._left_out[path.removesuffix(end)] = None
                return end
        return None

    def notes(self) -> Iterator[str]:
        """How many images were found by the ends of their paths."""
        if self._moved:
            images = "1 image is" if self._moved == 1 else f"{self._moved} images are"
            shown = first_five(f"`{part}`" for part in self._left_out)
            yield one_line(f"{images} listed by a path outside the root and found below it without {shown}")

    def _has(self, inside: str) -> bool:
        return self._files.has(on_disk(f"{self.base}/{inside}"))


def path_inside(name: str, base: str) -> str | None:
    """``name`` relative to the folder ``base`` (absolute) with forward slashes; None if it is not inside.

    Backslashes count as slashes, so that a table written on Windows can be read elsewhere. Links are not followed.
    """
    full = os.path.normpath(os.path.join(base, name.replace("\\", "/")))  # noqa: PTH118
    prefix = base.rstrip(os.sep) + os.sep
    return full[len(prefix) :].replace(os.sep, "/") if full.startswith(prefix) and full != prefix else None
