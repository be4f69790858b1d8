"""The two tables of confidence: every photograph, least certain first, and every class of every photograph."""

import csv
import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt

from tag2mask.confidence.evidence import FIELDS, Evidence
from tag2mask.confidence.model import Judgement
from tag2mask.confidence.ranking import COLUMNS, IMAGES
from tag2mask.files import atomic_path

CLASSES = "confidence/classes.csv"
"""The classes of every photograph."""

QUALITY = "confidence/quality.json"
"""How well the ranking agrees with the truth, where there is some."""

IMAGE_COLUMNS = (*COLUMNS, *FIELDS)
CLASS_COLUMNS = ("image", "class", "confidence", *FIELDS)


class _Lines:
    """Lines that wait in a temporary file until their order is known; memory holds 8 bytes of each."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._places = file, array("q", [0])

    def add(self, rows: Iterable[Sequence[object]]) -> None:
        """Rows that stay together."""
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        self._places.append(self._places[-1] + self._file.write(text.getvalue().encode("utf-8", "surrogateescape")))

    def sorted(self, order: npt.NDArray[np.intp]) -> Iterator[bytes]:
        """What was added, in an order."""
        for place in order.tolist():
            self._file.seek(self._places[place])
            yield self._file.read(self._places[place + 1] - self._places[place])


class Tables:
    """Takes photographs in any order and writes both tables sorted."""

    def __init__(self, images: IO[bytes], classes: IO[bytes], names: Sequence[str]) -> None:
        """Begin.

        Args:
            images: a file for the lines of images.csv in the order in which they come.
            classes: the same for classes.csv.
            names: of the classes, background first.
        """
        self._images, self._classes, self._names = _Lines(images), _Lines(classes), names
        self._confidences, self._numbers = array("d"), array("q")

    def add(self, photo_id: str, evidence: Evidence, judgement: Judgement, *, number: int, decided: str = "") -> None:
        """One photograph.

        Args:
            photo_id: its ID.
            evidence: about it.
            judgement: what that comes to.
            number: its place in the data set; among equally certain ones the earlier comes first.
            decided: what somebody said of its mask; empty if nothing.
        """
        self._classes.add(
            (photo_id, self._names[class_id], *map(_shown, (judgement.of_classes[place], *evidence.values[place])))
            for place, class_id in enumerate(evidence.ids.tolist())
        )
        worst = judgement.worst
        row = (
            photo_id,
            _shown(judgement.confidence),
            self._names[int(evidence.ids[worst])],
            _shown(judgement.of_classes[worst]),
            judgement.reason(evidence, self._names),
            decided,
            self._names[evidence.stray] if evidence.stray else "",
            _shown(evidence.stray_share) if evidence.stray else "",
            *map(_shown, evidence.values[worst]),
        )
        self._images.add([row])
        self._confidences.append(judgement.confidence)
        self._numbers.append(number)

    def images(self) -> Iterator[bytes]:
        """The lines of images.csv, least certain first, what nothing judges last."""
        yield _header(IMAGE_COLUMNS)
        yield from self._images.sorted(np.lexsort((self._numbers, self._confidences)))

    def classes(self) -> Iterator[bytes]:
        """The lines of classes.csv, in the order of the data set."""
        yield _header(CLASS_COLUMNS)
        yield from self._classes.sorted(np.argsort(self._numbers))


@contextmanager
def written_tables(run: Path, names: Sequence[str]) -> Iterator[Tables]:
    """Both tables of a run folder, written when the block ends without an exception.

    Args:
        run: the run folder.
        names: of the classes, background first.

    Yields:
        what takes the photographs.
    """
    with TemporaryFile() as images, TemporaryFile() as classes:
        tables = Tables(images, classes, names)
        yield tables
        with atomic_path(run / CLASSES) as rows, atomic_path(run / IMAGES) as ranking:
            for path, lines in ((rows, tables.classes()), (ranking, tables.images())):
                with path.open("wb") as file:
                    file.writelines(lines)


def _header(columns: Sequence[str]) -> bytes:
    return (",".join(columns) + "\r\n").encode()


def _shown(value: float) -> str:
    """Four decimals; nothing for what is not known."""
    return "" if np.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")
