"""The order by confidence: what RUN/confidence/images.csv says of each photograph, least certain first."""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from tag2mask.confidence.ranking import COLUMNS, IMAGES
from tag2mask.errors import UsageError

_IMAGE, _CONFIDENCE, _CLASS, _REASON = (COLUMNS[place] for place in (0, 1, 2, 4))


@dataclass(frozen=True)
class Doubt:
    """What the ranking says of a photograph: how sure its mask is, in [0, 1], and which class is the least, and why."""

    confidence: float
    class_name: str
    reason: str


class Ranking:
    """The lines of a ranking; read anew when they are asked for, so that a long one takes no memory."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            UsageError: it lacks a column.
        """
        self.path = path
        with path.open("rb") as file:
            self._columns = next(csv.reader([_text(file.readline())]), [])
        missing = [name for name in (_IMAGE, _CONFIDENCE) if name not in self._columns]
        if missing:
            raise UsageError(f"{path} has no column {', '.join(missing)}; delete it, or have it made again")

    @classmethod
    def of_run(cls, run: Path) -> "Ranking | None":
        """That of a run folder; None where there is none."""
        return cls(run / IMAGES) if (run / IMAGES).is_file() else None

    def of(self, place_of: Callable[[str], int | None], count: int) -> "Ranked":
        """The ranking over a list of photographs.

        Args:
            place_of: where the photograph of an ID is in the list.
            count: how long the list is.

        Raises:
            UsageError: the file is damaged.
        """
        offsets = np.full(count, -1, dtype=np.int64)
        order: list[int] = []
        with self.path.open("rb") as file:
            for offset, row in _rows(file):
                place = place_of(self._said(row).get(_IMAGE, ""))
                if place is not None and offsets[place] < 0:
                    offsets[place] = offset
                    order.append(place)
        rest = np.flatnonzero(offsets < 0)
        return Ranked(self, np.concatenate([np.array(order, dtype=np.intp), rest]), offsets)

    def doubt(self, offset: int, photo_id: str) -> Doubt | None:
        """What a line says of a photograph; None if that is no number, or the file is another one by now."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                said = self._said(next(csv.reader(_text(line) for line in file)))
            confidence = float(said[_CONFIDENCE])
            if said[_IMAGE] != photo_id or not math.isfinite(confidence):
                return None
            return Doubt(confidence, said.get(_CLASS, ""), said.get(_REASON, ""))
        except (OSError, ValueError, KeyError, StopIteration, csv.Error):
            return None

    def _said(self, row: list[str]) -> dict[str, str]:
        return dict(zip(self._columns, row, strict=False))


@dataclass(frozen=True)
class Ranked:
    """A list of photographs in the order of a ranking.

    Attributes:
        ranking: where it is read.
        order: the places of all photographs, the least certain first, then those that the ranking does not have.
        offsets: by place, where its line begins in the file; -1 where it has none.
    """

    ranking: Ranking
    order: npt.NDArray[np.intp]
    offsets: npt.NDArray[np.int64]

    def doubt(self, place: int, photo_id: str) -> Doubt | None:
        """What the ranking says of the photograph at a place."""
        offset = int(self.offsets[place])
        return None if offset < 0 else self.ranking.doubt(offset, photo_id)


def _rows(file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """The rows after the header, each with the offset where it begins; an ID may hold a line feed."""
    file.readline()
    while line := file.readline():
        offset = file.tell() - len(line)

        def lines(first: bytes = line) -> Iterator[str]:
            yield _text(first)
            while following := file.readline():
                yield _text(following)

        try:
            yield offset, next(csv.reader(lines()), [])
        except csv.Error as error:
            raise UsageError(f"{file.name} is damaged at byte {offset}; delete it, or have it made again") from error


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")
