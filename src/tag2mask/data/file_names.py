"""Names of files: as IDs, in Unicode NFC, as they are spelt on disk, and which of them are taken for images."""

import os
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif",
})
"""Names that are taken for images where a folder is listed; the content decides the format."""

UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raw", ".psd", ".svg", ".pdf", ".dcm",
    ".nii", ".nrrd", ".exr", ".hdr", ".mp4", ".mov", ".avi", ".npy", ".czi", ".svs", ".ndpi",
})
"""Names of images of formats that are not read."""
# fmt: on

SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "system volume information", "lost+found"}
)
"""Folders that systems make by themselves, with thumbnails and deleted files in them; in lower case."""


EXPORT_RECORD = "tag2mask-export.json"
"""The file that describes an export, in its folder."""


def nfc(name: str) -> str:
    """``name`` in Unicode NFC; macOS writes names of files in NFD, in which an accent is a character of its own."""
    return name if name.isascii() else normalize("NFC", name)


def id_of_name(name: str) -> str:
    """The ID of an image: its path relative to the root without the suffix, in NFC."""
    return os.path.splitext(nfc(name))[0]  # noqa: PTH122 - far cheaper than a Path, for 100,000 images


def inside(root: Path, name: str) -> str:
    """The path of a file below a root."""
    return os.path.join(root, name)  # noqa: PTH118 - far cheaper than a Path, for 100,000 images


def shown_below(path: Path, root: Path | None) -> str:
    """``path`` as it is shown: relative to the root where it lies inside."""
    return str(path.relative_to(root)) if root is not None and path.is_relative_to(root) else str(path)


def on_disk(path: str) -> str:
    """``path`` as it is spelt on disk: the file whose name is the same in NFC, or ``path`` itself if there is none.

    ASCII paths and paths that exist are returned without a further look.
    """
    if path.isascii() or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if not name or folder == path:
        return path
    folder = on_disk(folder)
    return os.path.join(folder, _spellings(folder).get(nfc(name), name))  # noqa: PTH118 - a string in, a string out


@lru_cache(maxsize=64)
def _spellings(folder: str) -> dict[str, str]:
    """The names in a folder that are not ASCII, by their NFC form."""
    try:
        names = sorted(name for name in os.listdir(folder or ".") if not name.isascii())  # noqa: PTH208
    except OSError:
        return {}
    return {nfc(name): name for name in names}


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: a known suffix, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to the system and not to the data."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS
