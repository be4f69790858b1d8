"""The images that a reader finds, in the order of the data set, before tags become class ids."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tag2mask.data.arrow_rows import ArrowWriter, MappedTable

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("tags", pa.list_(pa.int32())),
        ("splits", pa.string()),
        ("source", pa.string()),
        ("line", pa.int32()),
    ]
)
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that a reader found."""

    id: str  # the path relative to the root without its suffix; in a VOC or COCO root the official ID
    file: str  # where the image should be
    tags: tuple[str, ...] | None  # names; None: unreadable, which the reader has reported
    source: str = ""  # the file that lists the image, for messages; empty if none does
    line: int = 0  # the line in that file, from 1; 0 if it has no lines
    splits: str = ""  # the names of its splits, joined by `;`

    @property
    def path(self) -> Path:
        """Where the image should be."""
        return Path(self.file)


class Entries:
    """A list of entries on disk; reading it ends the appending."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Append ``entries``."""
        self._writer = ArrowWriter(_SCHEMA)
        self._rows: MappedTable | None = None
        self._numbers: dict[str, int] = {}
        self.extend(entries)

    @property
    def names(self) -> list[str]:
        """The distinct tags, in the order of their first use."""
        return list(self._numbers)

    @property
    def rows(self) -> MappedTable:
        """The entries as rows; tags are indices into `names`."""
        if self._rows is None:
            self._rows = self._writer.finish()
        return self._rows

    def append(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
            RuntimeError: the entries have been read.
        """
        if self._rows is not None:
            raise RuntimeError("entries are complete once they are read")
        numbers = self._numbers
        tags = None if entry.tags is None else [numbers.setdefault(tag, len(numbers)) for tag in entry.tags]
        self._writer.append((entry.id, entry.file, tags, entry.splits, entry.source, entry.line))

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add several entries."""
        for entry in entries:
            self.append(entry)

    def __len__(self) -> int:
        return self._writer.count

    def __iter__(self) -> Iterator[Entry]:
        names = self.names
        for start in range(0, len(self), _BLOCK):
            places = range(start, min(start + _BLOCK, len(self)))
            rows = zip(*self.rows.take(places, ("id", "image", "tags", "source", "line", "splits")), strict=True)
            for image_id, file, tags, *place in rows:
                yield Entry(image_id, file, None if tags is None else tuple(names[tag] for tag in tags), *place)

    def repeated(self) -> list[Entry]:
        """The entries whose ID occurs more than once, in order."""
        hashes = np.fromiter((hash(entry.id) for entry in self), dtype=np.int64, count=len(self))
        ordered = np.sort(hashes)
        twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        alike = [entry for entry in self if hash(entry.id) in twice] if twice else []
        counts = Counter(entry.id for entry in alike)
        return [entry for entry in alike if counts[entry.id] > 1]
