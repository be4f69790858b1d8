"""What every format's writer is, and what it keeps count of."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

import numpy as np

from tag2mask.data.images import IGNORED
from tag2mask.formats.record import MaskRecord
from tag2mask.formats.settings import ExportSettings, Images


@dataclass
class Losses:
    """What a format could not hold.

    Attributes:
        ignored: pixels of 255 that became background.
        holes: pixels of holes that a polygon filled with its class.
        tiny: pieces that were left out,
        tiny_pixels: and their pixels.
    """

    ignored: int = 0
    holes: int = 0
    tiny: int = 0
    tiny_pixels: int = 0

    def sentences(self) -> list[str]:
        """A line for people on each kind of loss that there was."""
        told = {
            "ignored": f"{self.ignored:,} pixels of 255 (ignored) became background, which this format cannot tell",
            "holes": f"warning: {self.holes:,} pixels of holes are lost, since a polygon has none",
            "tiny": f"{self.tiny:,} pieces below least_pixels, {self.tiny_pixels:,} pixels, were left out",
        }
        return [told[name] for name in told if getattr(self, name)]

    def to_json(self) -> dict[str, int]:
        """All of them by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Writer(ABC):
    """Writes photographs one after another into a folder that nobody else sees yet."""

    images: Images = "none"
    """What becomes of the photographs where the settings do not say."""

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin.

        Args:
            folder: exists and is empty.
            classes: the names without background.
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
        """Write one photograph.

        Raises:
            Tag2maskError: this one cannot be written; nothing of it is.
        """

    @abstractmethod
    def finish(self) -> None:
        """Write what is about all of them."""

    def close(self) -> None:  # noqa: B027 – most have nothing open
        """Let go of open files, also after an exception."""

    def open_text(self, name: str) -> TextIO:
        """A text file in the folder, to be written line by line; its folders are made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="\n")

    def count_ignored(self, record: MaskRecord) -> None:
        """Count its pixels of 255 as lost."""
        self.losses.ignored += int(np.count_nonzero(record.mask == IGNORED))
