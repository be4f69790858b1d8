"""The settings of an export, and the base class of the writers of all formats."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import ClassVar, Literal, TextIO, get_args

import numpy as np

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.data.images import IGNORED
from tag2mask.export.formats.record import MaskRecord

Images = Literal["none", "copy", "link", "symlink"]
"""Whether an export contains the images: not at all, as copies, as hard links or as symbolic links."""

Pieces = Literal["components", "classes"]
"""What one annotation covers: a connected component of a class, or all pixels of the class."""


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export; each format reads its own.

    Attributes:
        split: name of the split, for lists, folders and file names.
        images: whether the export contains the images; None: symbolic links if the tool needs the images next to the
            masks (yolo, fiftyone), otherwise none.
        pieces: coco: what one annotation covers.
        polygons: coco: outlines instead of run lengths; holes are lost.
        min_pixels: coco, yolo: pieces with fewer pixels are left out; None: 16 for yolo, 1 for coco.
        ignore_label: cvat, labelstudio: the label of the value 255; `background` makes it background, as in formats
            without a value for it.
        url: labelstudio: prefix of image names; the default is Label Studio's address of local files.
        per_shard: shards: samples per tar file.
        store: shards: URL for the tar files, opened by `fsspec`; None: the export folder.
    """

    split: str = "default"
    images: Images | None = None
    pieces: Pieces = "components"
    polygons: bool = False
    min_pixels: int | None = None
    ignore_label: str = "ignored"
    url: str = "/data/local-files/?d="
    per_shard: int = 1000
    store: str | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: all of them.
        """
        problems = []
        if self.images is not None and self.images not in get_args(Images):
            problems.append(f"--images should be one of {', '.join(get_args(Images))}, received '{self.images}'")
        if self.pieces not in get_args(Pieces):
            problems.append(f"--pieces should be one of {', '.join(get_args(Pieces))}, received '{self.pieces}'")
        if self.min_pixels is not None and self.min_pixels < 1:
            problems.append(f"--min-pixels should be at least 1, received {self.min_pixels}")
        if self.per_shard < 1:
            problems.append(f"--per-shard should be at least 1, received {self.per_shard}")
        if self.store is not None and "://" not in self.store:
            problems.append(f"--store should be a URL, as s3://bucket/masks, received '{self.store}'")
        if not self.split.strip() or self.split in (".", "..") or set(self.split) & set("/\\\0\n"):
            problems.append(f"the split's name goes into file names, which {self.split!r} cannot; use another")
        if problems:
            raise UsageError("; ".join(problems))


@dataclass
class Losses:
    """What a format could not hold.

    Attributes:
        ignored: pixels of 255 that became background.
        holes: pixels of holes that a polygon filled with its class.
        tiny: pieces that were left out.
        tiny_pixels: pixels of these pieces.
    """

    ignored: int = 0
    holes: int = 0
    tiny: int = 0
    tiny_pixels: int = 0

    def sentences(self) -> list[str]:
        """A sentence for each kind of loss that occurred."""
        sentences = {
            "ignored": f"{self.ignored:,} pixels of 255 (ignored) became background, which this format cannot tell",
            "holes": f"warning: {self.holes:,} pixels of holes are lost, since a polygon has none",
            "tiny": f"{self.tiny:,} pieces below min_pixels, {self.tiny_pixels:,} pixels, were left out",
        }
        return [sentences[name] for name in sentences if getattr(self, name)]


class Writer(ABC):
    """Writes one image after another into a new folder."""

    images: Images = "none"
    """Whether the export contains the images if the settings do not say."""

    options: ClassVar[frozenset[str]]
    """The fields of `ExportSettings` that the format reads, besides the split."""

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin.

        Args:
            folder: exists and is empty.
            classes: names without background.
            settings: of the export.

        Raises:
            UsageError: the format cannot hold a class name.
        """
        self.folder, self.classes, self.settings = folder, classes, settings
        self.losses = Losses()
        self.notes: list[str] = []
        if settings.images is not None:
            self.images = settings.images

    @abstractmethod
    def add(self, record: MaskRecord) -> None:
        """Write one image.

        Raises:
            Tag2maskError: it cannot be written; nothing of it is.
        """

    @abstractmethod
    def finish(self) -> None:
        """Write the files about all images."""

    def close(self) -> None:  # noqa: B027 – most have nothing open
        """Close open files, also after an exception."""

    def open_text(self, name: str) -> TextIO:
        """A new text file in the folder; its parent folders are made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="\n")

    def is_tiny(self, area: int, least: int) -> bool:
        """Whether a piece has fewer pixels than are wanted; if so, it is counted as lost."""
        if area >= least:
            return False
        self.losses.tiny += 1
        self.losses.tiny_pixels += area
        return True

    def count_ignored(self, record: MaskRecord) -> None:
        """Count the record's pixels of 255 as lost."""
        self.losses.ignored += int(np.count_nonzero(record.mask == IGNORED))

    def place_image(self, record: MaskRecord, folder: str) -> None:
        """Copy or link the record's image into a subfolder, as the settings say.

        Raises:
            Tag2maskError: it could not be copied or linked.
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
            remedy = "; --images copy goes between disks" if self.images == "link" else ""
            message = f"{record.image} could not be brought to {target.name} ({error.strerror}){remedy}"
            raise Tag2maskError(message) from error
