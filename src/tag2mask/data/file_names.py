"""File names: conversion to IDs, Unicode normalisation, spelling on disk, and recognition of images."""

import os
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif",
})
"""Suffixes of images in a folder listing; the format is detected by content."""

UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raw", ".psd", ".svg", ".pdf", ".dcm",
    ".nii", ".nrrd", ".exr", ".hdr", ".mp4", ".mov", ".avi", ".npy", ".czi", ".svs", ".ndpi",
})
"""Suffixes of images in unsupported formats."""
# fmt: on

SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "system volume information", "lost+found"}
)
"""Folders that operating systems create, with thumbnails and deleted files; in lower case."""


EXPORT_RECORD = "tag2mask-export.json"
"""The file that describes an export, in its folder."""


def nfc(name: str) -> str:
    """``name`` in Unicode NFC; macOS writes file names in NFD, where an accent is a separate character."""
    return name if name.isascii() else normalize("NFC", name)


def id_of_name(name: str) -> str:
    """The ID of an image: its path relative to the root without the suffix, in NFC."""
    return os.path.splitext(nfc(name))[0]  # noqa: PTH122 - far cheaper than a Path, for 100,000 images


def leads_out(name: str) -> bool:
    """Whether a name, with ``/`` between its parts, cannot be the path of a file below a folder."""
    return any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name


def inside(root: Path, name: str) -> str:
    """``root``/``name`` as a string."""
    return os.path.join(root, name)  # noqa: PTH118 - far cheaper than a Path, for 100,000 images


def shown_below(path: Path, root: Path | None) -> str:
    """``path`` for messages: relative to the root if it is inside."""
    return str(path.relative_to(root)) if root is not None and path.is_relative_to(root) else str(path)


def on_disk(path: str) -> str:
    """``path`` as spelt on disk: the file with the same name in NFC, or ``path`` itself if there is none."""
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
    """Whether a file name has an image suffix and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or created by the system."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS
