"""The ranking of a run folder, RUN/confidence/images.csv: its name, its columns, and reading it line by line."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tag2mask.errors import UsageError

IMAGES = "confidence/images.csv"
"""The ranking of a run folder."""

COLUMNS = ("image", "confidence", "class", "class_confidence", "reason", "decided", "stray", "stray_share")
"""The columns before the evidence; readers go by their names."""


FEW_CELLS = 16
"""Confidence does not rank masks that cover fewer cells of their CAMs: a square of 16 cells that is off by half a cell
along both axes has an IoU of 0.62, so chance decides more than what confidence measures; ours (docs/confidence.md)."""


@dataclass(frozen=True)
class RankedPhoto:
    """A line of images.csv.

    Attributes:
        image: ID of the photograph.
        confidence: of its mask, an estimate of its mean IoU, in [0, 1]; None where nothing judges it.
        class_name: the class that is least certain.
        class_confidence: of that class's mask, in [0, 1]; None likewise.
        reason: why, in a few words.
        by_network: whether a segmentation network was asked.
        cells: the area of that class's mask, in cells of its CAMs; None where that is not known.
    """

    image: str
    confidence: float | None
    class_name: str
    class_confidence: float | None
    reason: str
    by_network: bool = False
    cells: float | None = None

    @property
    def is_small(self) -> bool:
        """Whether that class's mask has pixels, but too few for its confidence to rank it."""
        return self.cells is not None and 0 < self.cells < FEW_CELLS


def read_ranking(run: Path) -> Iterator[RankedPhoto]:
    """The photographs of a run, least certain first, those that nothing judges last; read line by line.

    Raises:
        UsageError: there is no ranking, or it is damaged.
    """
    path = run / IMAGES
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `tag2mask confidence --out {run}` writes it")
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                numbers = _number(row["confidence"]), _number(row["class_confidence"])
                asked, cells = bool(row.get("network_free")), _number(row.get("cells") or "")
                yield RankedPhoto(row["image"], numbers[0], row["class"], numbers[1], row["reason"], asked, cells)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is damaged; `tag2mask confidence --out {run}` writes it anew") from error


def small_masks_sentence(run: Path) -> str:
    """A warning where masks of a run are too small for their order to mean much; empty where none is.

    Of a photograph the mask of its least certain class counts.

    Raises:
        UsageError: there is no ranking, or it is damaged.
    Source: ours.
    """
    masks = small = 0
    for each in read_ranking(run):
        masks += each.confidence is not None
        small += each.confidence is not None and each.is_small
    if not small:
        return ""
    return (
        f"{small} of {masks} masks cover fewer than {FEW_CELLS} CAM cells (the mask of each photograph's least certain "
        "class counts): their order is not reliable, look at all of them"
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
