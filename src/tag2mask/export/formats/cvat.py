"""Export and import of CVAT's "Segmentation mask 1.1".

A zip is not trusted: its files are read one at a time, in memory, within limits, without unpacking.
"""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.data.decoding import decode, opened
from tag2mask.data.images import IGNORED, PIXEL_LIMIT, palette
from tag2mask.data.readers.voc import LABELS
from tag2mask.export.formats.base import ExportSettings, Writer
from tag2mask.export.formats.components import regions
from tag2mask.export.formats.record import (
    BACKGROUND,
    CorrectedMask,
    MaskRecord,
    ReadResult,
    check_label_names,
    checked_id,
    label_ids,
)
from tag2mask.export.formats.voc import labelmap

_CLASSES, _OBJECTS, _LISTS = "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"

_MOST_OBJECTS = 254
"""CVAT identifies the objects of an image by the colours of VOC's palette, without black."""

MEMBER_BYTES = 1 << 28
"""Largest file that is read, 256 MiB; the PNG of a mask of 100 million pixels is much smaller."""

_DEFLATE = 1032
"""The largest compression factor of deflate; a zip with a larger one has overlapping files."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""Errors of reading a broken, encrypted or unusual zip."""


class CvatWriter(Writer):
    """Lossless, except for 255 if its label is background.

    ::

        labelmap.txt                          NAME:R,G,B:: per line
        ImageSets/Segmentation/default.txt    one ID per line
        SegmentationClass/ID.png              RGB, the colours of labelmap.txt
        SegmentationObject/ID.png             RGB, a colour for each connected component
        JPEGImages/ID.jpg                     on request; CVAT has its own
    """

    options = frozenset({"ignore_label", "images"})

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Check the class names.

        Raises:
            UsageError: labelmap.txt does not allow a class name or the label of 255, or they are equal.
        """
        check_label_names(classes, (BACKGROUND, settings.ignore_label))
        check_label_names((settings.ignore_label,))
        super().__init__(folder, classes, settings)
        self._ids: list[str] = []
        self._has_ignored, self._merged = False, 0

    def add(self, record: MaskRecord) -> None:
        """Write both masks and the image."""
        mask = record.mask
        if np.any(mask == IGNORED):
            if self.settings.ignore_label == BACKGROUND:
                self.count_ignored(record)
                mask = np.where(mask == IGNORED, np.uint8(0), mask)
            else:
                self._has_ignored = True
        self.place_image(record, "JPEGImages")
        self.write_png(f"{_CLASSES}/{record.id}.png", palette()[mask])
        self.write_png(f"{_OBJECTS}/{record.id}.png", palette()[self._objects(mask)])
        self._ids.append(record.id)

    def finish(self) -> None:
        """Write the list of IDs, and the labels with that of 255 if it occurs."""
        label = self.settings.ignore_label if self._has_ignored else None
        with self.open_text(f"{_LISTS}/default.txt") as file:
            file.writelines(f"{image_id}\n" for image_id in self._ids)
        with self.open_text(LABELS) as file:
            file.write(labelmap(self.classes, ignored=label))
        if label is not None:
            self.notes.append(f"255 became the label `{label}`; add it to the task in CVAT")
        if self._merged:
            self.notes.append(f"{self._merged:,} masks have too many components for CVAT: one object per class")

    def _objects(self, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The object of each pixel, uint8 (H, W), 0 for background; ignored pixels are one object."""
        found = list(regions(mask, connected=True))
        if len(found) > _MOST_OBJECTS:
            self._merged += 1
            found = list(regions(mask, connected=False))
        numbers = np.where(mask == IGNORED, np.uint8(IGNORED), np.uint8(0))
        for number, region in enumerate(found, start=1):
            numbers[region.window][region.mask] = number
        return numbers


def read(
    path: Path, classes: tuple[str, ...], *, ignored: str = "ignored", pixel_limit: int = PIXEL_LIMIT
) -> Iterator[ReadResult]:
    """The masks in a zip of CVAT's "Segmentation mask 1.1", or in its unpacked folder.

    labelmap.txt maps colours to labels; labels are class names.

    Args:
        path: the zip, or the folder.
        classes: names of the classes 1..C.
        ignored: the label of the value 255.
        pixel_limit: a larger mask is refused before it is decoded.

    Raises:
        UsageError: it is not an export of CVAT, or has labels that are not classes.
        Tag2maskError: the zip is damaged or dangerous.
    """
    with opened_archive(path) as files:
        if LABELS not in files:
            raise UsageError(f"{path} has no {LABELS}; export the task from CVAT as `Segmentation mask 1.1`")
        colours = _labels(path, files.text(LABELS), classes, ignored)
        lists = files.texts(_LISTS)
        if not lists:
            raise UsageError(f"{path} has no list {_LISTS}/NAME.txt; export the task from CVAT again")
        listed = (line.strip() for name in lists for line in files.text(name).splitlines())
        for image_id in dict.fromkeys(line for line in listed if line):
            try:
                name = f"{_CLASSES}/{checked_id(image_id)}.png"
                if name not in files:
                    raise Tag2maskError(f"{name} is missing: the image has no annotation, or is not done")
                member = ArchiveFile(files, name)
                with opened(member, pixel_limit=pixel_limit, formats=("PNG",)) as image:  # type: ignore[arg-type]
                    yield CorrectedMask(image_id, _class_ids(decode(member, image), colours))  # type: ignore[arg-type]
            except Tag2maskError as error:
                yield image_id, str(error)


def _labels(path: Path, text: str, classes: tuple[str, ...], ignored: str) -> dict[tuple[int, int, int], int]:
    """The class id of each colour in labelmap.txt."""
    ids = label_ids(classes, ignored)
    found: dict[tuple[int, int, int], int] = {}
    unknown = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        colour = tuple(
            int(part) if part.strip().isdecimal() and len(part) < 9 else -1
            for part in rest.partition(":")[0].split(",")
        )
        if len(colour) != 3 or not all(0 <= part <= 255 for part in colour) or colour in found:
            raise UsageError(f"{path}: the line {line!r} of {LABELS} should be NAME:R,G,B:: with a unique colour")
        if name not in ids:
            unknown.append(name)
        found[colour] = ids.get(name, 0)
    if unknown:
        raise UsageError(
            f"{path}: the labels {first_five(unknown)} are not classes ({first_five(classes)}); rename them in CVAT, "
            "or name the label of 255 with --ignore-label"
        )
    return {(0, 0, 0): 0, **found}  # unannotated pixels are black, whatever the colour of `background`


def _class_ids(image: Image.Image, colours: dict[tuple[int, int, int], int]) -> npt.NDArray[np.uint8]:
    """The class ids of a colour mask, uint8 (H, W)."""
    if image.mode not in ("P", "RGB", "RGBA"):
        raise Tag2maskError(f"its pixels have the mode {image.mode}; CVAT writes colours")
    pixels = np.array(image.convert("RGB"), dtype=np.int64)  # (H, W, 3)
    codes = pixels @ np.array([1 << 16, 1 << 8, 1])  # (H, W)
    present, indices = np.unique(codes, return_inverse=True)
    rgb = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in present]
    if wrong := [colour for colour in rgb if colour not in colours]:
        raise Tag2maskError(f"the colours {first_five(wrong)} are not in {LABELS}")
    ids: npt.NDArray[np.uint8] = np.array([colours[colour] for colour in rgb], dtype=np.uint8)[indices]
    return ids.reshape(codes.shape)


class Archive:
    """The files of a zip or of a folder, by name with ``/``."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None = None) -> None:
        """Take an open zip, or the folder ``path`` if ``archive`` is None."""
        self.path, self._archive = path, archive
        members = [] if archive is None else archive.infolist()
        self._sizes = {member.filename: member.file_size for member in members if not member.is_dir()}

    def __contains__(self, name: str) -> bool:
        return name in self._sizes if self._archive is not None else self._inside(name).is_file()

    def texts(self, folder: str) -> list[str]:
        """The names of the .txt files below a folder."""
        if self._archive is not None:
            return [name for name in self._sizes if name.startswith(f"{folder}/") and name.endswith(".txt")]
        return [found.relative_to(self.path).as_posix() for found in sorted((self.path / folder).rglob("*.txt"))]

    def text(self, name: str) -> str:
        """A file as text.

        Raises:
            Tag2maskError: it is damaged, too large, or not UTF-8.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Tag2maskError(f"{self.path}: {name} is not UTF-8") from error

    def read(self, name: str) -> bytes:
        """The content of a file that exists.

        Raises:
            Tag2maskError: it is damaged or too large.
        """
        size = self._sizes[name] if self._archive is not None else self._inside(name).stat().st_size
        if size > MEMBER_BYTES:
            raise Tag2maskError(f"{self.path}: {name} has {size:,} bytes, at most {MEMBER_BYTES:,} are allowed")
        if self._archive is None:
            return self._inside(name).read_bytes()
        try:
            with self._archive.open(name) as file:
                return file.read(MEMBER_BYTES)
        except _DAMAGED as error:
            raise Tag2maskError(f"{self.path}: {name} is damaged ({error}); export it again") from error

    def _inside(self, name: str) -> Path:
        """A file of the folder; a `Tag2maskError` if its name or a link leads out of the folder."""
        target = self.path / name
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise Tag2maskError(f"{self.path}: {name} leads out of the folder")
        return target


@dataclass(frozen=True)
class ArchiveFile:
    """A file of an `Archive`, with the part of `Path` that opening an image needs."""

    archive: Archive
    name: str

    def __str__(self) -> str:
        """The path and the name, for messages."""
        return f"{self.archive.path}: {self.name}"

    def is_fifo(self) -> bool:
        """False, as for other files."""
        return False

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The content as a binary file."""
        return io.BytesIO(self.archive.read(self.name))


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open a zip or a folder.

    Raises:
        UsageError: it does not exist.
        Tag2maskError: the zip is damaged, has names that lead out of a folder, or an impossible size.
    """
    if path.is_dir():
        yield Archive(path)
        return
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give a zip, or a folder")
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise Tag2maskError(f"{path} is not a zip, or is damaged ({error}); export it again") from error
    with archive:
        _refuse_dangerous(path, archive)
        yield Archive(path, archive)


def _refuse_dangerous(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse names that lead out of the folder, links, and impossible sizes."""
    total = 0
    for info in archive.infolist():
        name, kind = info.filename, info.external_attr >> 16
        if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
            raise Tag2maskError(f"{path} contains {name!r}, which leads out of the folder; refused")
        if stat.S_ISLNK(kind):
            raise Tag2maskError(f"{path} contains the link {name!r}; only files are read")
        total += info.file_size
    if total > _DEFLATE * path.stat().st_size:
        raise Tag2maskError(f"{path} claims {total:,} bytes of content, impossible for a zip of its size; refused")
