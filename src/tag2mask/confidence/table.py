"""The two tables of confidence: every photograph, least certain first, and every class of every photograph."""

import csv
import io
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from tag2mask.confidence.evidence import FIELDS, Evidence
from tag2mask.confidence.model import Judgement
from tag2mask.errors import UsageError
from tag2mask.files import atomic_path

IMAGES = "confidence/images.csv"
"""The ranking of a run folder."""

CLASSES = "confidence/classes.csv"
"""The classes of every photograph."""

QUALITY = "confidence/quality.json"
"""How well the ranking agrees with the truth, where there is some."""

IMAGE_COLUMNS = ("image", "confidence", "class", "class_confidence", "reason", "stray", "stray_share", *FIELDS)
CLASS_COLUMNS = ("image", "class", "confidence", *FIELDS)


@dataclass(frozen=True)
class RankedPhoto:
    """A line of images.csv.

    Attributes:
        image: ID of the photograph.
        confidence: of its mask, an estimate of its mean IoU, in [0, 1].
        class_name: the class that is least certain.
        class_confidence: of that class's mask, in [0, 1].
        reason: why, in a few words.
    """

    image: str
    confidence: float
    class_name: str
    class_confidence: float
    reason: str


def read_ranking(run: Path) -> Iterator[RankedPhoto]:
    """The photographs of a run, least certain first, read line by line.

    Raises:
        UsageError: there is no ranking, or it is damaged.
    """
    path = run / IMAGES
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `tag2mask confidence --out {run}` writes it")
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file):
            try:
                numbers = float(row["confidence"]), float(row["class_confidence"])
                yield RankedPhoto(row["image"], numbers[0], row["class"], numbers[1], row["reason"])
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(f"{path} is damaged; `tag2mask confidence --out {run}` writes it anew") from error


class Tables:
    """Takes photographs in any order and writes both tables, images.csv sorted.

    A photograph's line waits in a temporary file, so that memory holds 16 bytes of it.
    """

    def __init__(self, classes: IO[str], waiting: IO[bytes], names: Sequence[str]) -> None:
        """Begin.

        Args:
            classes: classes.csv, open.
            waiting: a file for the lines of images.csv in the order in which they come.
            names: of the classes, background first.
        """
        self._waiting, self._names = waiting, names
        self._classes = csv.writer(classes)
        self._classes.writerow(CLASS_COLUMNS)
        self._confidences = array("d")
        self._places = array("q", [0])

    def add(self, photo_id: str, evidence: Evidence, judgement: Judgement) -> None:
        """One photograph."""
        for place, class_id in enumerate(evidence.ids.tolist()):
            numbers = (judgement.of_classes[place], *evidence.values[place])
            self._classes.writerow((photo_id, self._names[class_id], *map(_shown, numbers)))
        worst = judgement.worst
        line = io.StringIO()
        csv.writer(line).writerow(
            (
                photo_id,
                _shown(judgement.confidence),
                self._names[int(evidence.ids[worst])],
                _shown(judgement.of_classes[worst]),
                judgement.reason(evidence, self._names),
                self._names[evidence.stray] if evidence.stray else "",
                _shown(evidence.stray_share) if evidence.stray else "",
                *map(_shown, evidence.values[worst]),
            )
        )
        content = line.getvalue().encode("utf-8", "surrogateescape")
        self._waiting.write(content)
        self._confidences.append(judgement.confidence)
        self._places.append(self._places[-1] + len(content))

    def sorted_lines(self) -> Iterator[bytes]:
        """The lines of images.csv, least certain first."""
        for place in np.argsort(self._confidences, kind="stable").tolist():
            self._waiting.seek(self._places[place])
            yield self._waiting.read(self._places[place + 1] - self._places[place])


@contextmanager
def written_tables(run: Path, names: Sequence[str]) -> Iterator[Tables]:
    """Both tables of a run folder, written when the block ends without an exception.

    Args:
        run: the run folder.
        names: of the classes, background first.

    Yields:
        what takes the photographs.
    """
    options: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with atomic_path(run / CLASSES) as rows, atomic_path(run / IMAGES) as ranking, TemporaryFile() as waiting:
        with rows.open("w", **options) as classes:
            tables = Tables(classes, waiting, names)
            yield tables
        with ranking.open("wb") as images:
            images.write((",".join(IMAGE_COLUMNS) + "\r\n").encode())
            images.writelines(tables.sorted_lines())


def _shown(value: float) -> str:
    """Four decimals; nothing for what is not known."""
    return "" if np.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")
