"""The settings of an export, and the base class of the writers of all formats."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import ClassVar, Literal, TextIO, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.fields import range_problems, setting
from tag2mask.data.images import IGNORED
from tag2mask.export.formats.record import MaskRecord

Images = Literal["none", "copy", "link", "symlink"]
"""Whether an export contains the images, and as copies, hard links or symbolic links."""

Pieces = Literal["components", "classes"]
"""The pixels of one annotation: a connected component of a class, or all pixels of the class."""


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export; each format reads its own.

    Attributes:
        split: name of the split, for lists, folders and file names.
        images: whether the export contains the images; None: symbolic links if the tool needs the images next to the
            masks (yolo, fiftyone), otherwise none.
        pieces: coco: the pixels of one annotation.
        polygons: coco: polygons instead of run lengths; holes are lost.
        min_pixels: coco, yolo: smaller regions are left out; None: 16 for yolo, 1 for coco.
        ignore_label: cvat, labelstudio: the label of the value 255; `background` makes it background, as in formats
            without a value for it.
        url: labelstudio: prefix of image names; the default is Label Studio's URL of local files.
        per_shard: shards: samples per tar file.
        store: shards: URL for the tar files, opened by `fsspec`; None: the export folder.
    """

    split: str = "default"
    images: Images | None = None
    pieces: Pieces = "components"
    polygons: bool = False
    min_pixels: int | None = setting(None, low=1)
    ignore_label: str = "ignored"
    url: str = "/data/local-files/?d="
    per_shard: int = setting(1000, low=1)
    store: str | None = None

    def __post_init__(self) -> None:
        """Raise a `UsageError` with all values that are not allowed."""
        problems = [f"--{problem.replace('_', '-', 1)}" for problem in range_problems(self)]
        if self.images is not None and self.images not in get_args(Images):
            problems.append(f"--images should be one of {', '.join(get_args(Images))}, received '{self.images}'")
        if self.pieces is not None and self.pieces not in get_args(Pieces):
            problems.append(f"--pieces should be one of {', '.join(get_args(Pieces))}, received '{self.pieces}'")
        if self.store is not None and "://" not in self.store:
            problems.append(f"--store should be a URL, as s3://bucket/masks, received '{self.store}'")
        if not self.split.strip() or self.split in (".", "..") or set(self.split) & set("/\\\0\n"):
            problems.append(f"the split {self.split!r} cannot be part of a file name; use another name")
        if problems:
            raise UsageError("; ".join(problems))


@dataclass
class ConversionLosses:
    """Counts of pixels and regions that a format could not represent.

    Attributes:
        ignored: pixels of 255 that became background.
        holes: pixels of holes that a polygon filled with its class.
        tiny: small regions that were left out.
        tiny_pixels: their pixels.
    """

    ignored: int = 0
    holes: int = 0
    tiny: int = 0
    tiny_pixels: int = 0

    def sentences(self) -> list[str]:
        """A sentence for each kind of loss that occurred."""
        sentences = {
            "ignored": f"{self.ignored:,} pixels of 255 (ignored) became background, since the format lacks it",
            "holes": f"warning: {self.holes:,} pixels of holes are lost, since polygons have no holes",
            "tiny": f"{self.tiny:,} regions below min_pixels, {self.tiny_pixels:,} pixels, were left out",
        }
        return [sentences[name] for name in sentences if getattr(self, name)]


class Writer(ABC):
    """Writes the masks of a format into a new folder, one image at a time."""

    images: Images = "none"
    """The default of `ExportSettings.images`."""

    options: ClassVar[frozenset[str]]
    """The fields of `ExportSettings` that the format reads, besides the split."""

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Prepare an export.

        Args:
            folder: exists and is empty.
            classes: names without background.
            settings: of the export.

        Raises:
            UsageError: the format does not allow a class name.
        """
        self.folder, self.classes, self.settings = folder, classes, settings
        self.losses = ConversionLosses()
        self.notes: list[str] = []
        if settings.images is not None:
            self.images = settings.images

    @abstractmethod
    def add(self, record: MaskRecord) -> None:
        """Write one image.

        Raises:
            Tag2maskError: it cannot be written; the export then contains no part of it.
        """

    @abstractmethod
    def finish(self) -> None:
        """Write the files that cover all images."""

    def close(self) -> None:  # noqa: B027 – most formats have no open file
        """Close open files, also after an exception."""

    def open_text(self, name: str) -> TextIO:
        """Open a new text file in the folder; missing parent folders are created."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="\n")

    def write_png(self, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        """Write grey (H, W) or RGB (H, W, 3) pixels into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, format="PNG")

    def is_tiny(self, area: int, min_pixels: int) -> bool:
        """Whether a region is too small; if so, it is counted as lost."""
        if area >= min_pixels:
            return False
        self.losses.tiny += 1
        self.losses.tiny_pixels += area
        return True

    def count_ignored(self, record: MaskRecord) -> None:
        """Count the record's pixels of 255 as lost."""
        self.losses.ignored += int(np.count_nonzero(record.mask == IGNORED))

    def place_image(self, record: MaskRecord, folder: str) -> None:
        """Copy or link the record's image into a subfolder, if the settings ask for it.

        Raises:
            Tag2maskError: the image could not be copied or linked.
        """
        if record.image is None or self.images == "none":
            return
        target = self.folder / folder / record.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self.images == "copy":
                copyfile(record.image, target)
            elif self.images == "link":
                os.link(record.image.resolve(), target)
            else:
                target.symlink_to(record.image.resolve())
        except OSError as error:
            remedy = "" if self.images == "copy" else "; --images copy needs no links"
            message = f"{record.image} could not be placed at {target.name} ({error.strerror}){remedy}"
            raise Tag2maskError(message) from error
