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
    """

    image: str
    confidence: float | None
    class_name: str
    class_confidence: float | None
    reason: str
    by_network: bool = False


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
                asked = bool(row.get("network_free"))
                yield RankedPhoto(row["image"], numbers[0], row["class"], numbers[1], row["reason"], asked)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is damaged; `tag2mask confidence --out {run}` writes it anew") from error


def _number(text: str) -> float | None:
    return float(text) if text else None
