"""What a reader finds of each photograph, kept in a temporary file: of millions, memory holds a few hundred."""

import os
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any, NamedTuple
from urllib.parse import quote

from tag2mask.data.located import Located, located, text_of
from tag2mask.errors import Tag2maskError
from tag2mask.files import TEMPORARY_PREFIX, remove_abandoned, temporary_name

_BLOCK = 256
"""Entries that are read or written at a time."""

_NAME = "photographs.sqlite"
_CACHE = "PRAGMA cache_size = -1000"  # KiB a connection


@dataclass(frozen=True, slots=True, init=False)
class Entry:
    """A photograph as a reader found it.

    Args:
        id: as the attribute.
        path: where the image should be.
        tags: as the attribute.
        source: as the attribute.
        line: as the attribute.

    Attributes:
        id: the path relative to the root without its suffix; in a VOC or COCO root the official ID.
        tags: names; None where the reader could not make them out and has said so.
        source: the file that lists it, to be shown, with the place in it where that is no line; empty where nothing
            does.
        line: the line in that file, from 1; 0 where there is none.
    """

    id: str
    tags: tuple[str, ...] | None
    source: str
    line: int
    image: Located

    def __init__(
        self, id: str, path: Path | str, tags: tuple[str, ...] | None, source: str = "", line: int = 0
    ) -> None:
        """Keep of the path what the ID does not say."""
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "tags", tags)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "line", line)
        object.__setattr__(self, "image", located(path, id))

    @property
    def path(self) -> Path:
        """Where the image should be."""
        return Path(self.file)

    @property
    def file(self) -> str:
        """The same as text: pathlib remembers the name of every path for as long as one lives."""
        return text_of(self.image, self.id)


class Row(NamedTuple):
    """An entry as the file has it.

    Attributes:
        id: of the photograph.
        image: the number of the parts of its path that the ID does not say.
        tags: numbers of tag names, joined by spaces; None as in `Entry`.
        source: as in `Entry`.
        line: as in `Entry`.
    """

    id: str
    image: int
    tags: str | None
    source: str
    line: int


class Entries:
    """Entries in the order in which they were added; the first look at them ends the adding.

    The file lies in the system's folder for temporary files (the variable TMPDIR names another) and is deleted with
    this object; what a killed process left there the next one deletes. Processes and threads may read it, each by a
    connection of its own.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Begin with these."""
        self._file: Path | None = None
        self._sealed = False
        self._sealing = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._local = _Local()
        self._pending: list[tuple[Any, ...]] = []
        self._count = 0
        self._numbers: dict[str, int] = {}
        self._places: dict[Located, int] = {}
        self._names: list[str] = []
        self._images: list[Located] = []
        self.extend(entries)

    def append(self, entry: Entry) -> None:
        """Add one.

        Raises:
            RuntimeError: somebody has looked already.
        """
        if self._sealed:
            raise RuntimeError("entries are complete once they are looked at")
        image = self._places.setdefault(entry.image, len(self._images))
        if image == len(self._images):
            self._images.append(entry.image)
        tags = None if entry.tags is None else " ".join(str(self._number(tag)) for tag in entry.tags)
        self._pending.append((self._count, _stored(entry.id), image, tags, _stored(entry.source), entry.line))
        self._count += 1
        if len(self._pending) == _BLOCK:
            self._write()

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add several."""
        for entry in entries:
            self.append(entry)

    def __len__(self) -> int:
        """How many."""
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        """All in order."""
        for start in range(0, self._count, _BLOCK):
            yield from map(self._entry, self.rows(range(start, min(start + _BLOCK, self._count))))

    def __eq__(self, other: object) -> bool:
        """Whether the other holds equal entries in the same order."""
        if not isinstance(other, Entries):
            return NotImplemented
        return len(self) == len(other) and all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def rows(self, places: Sequence[int]) -> list[Row]:
        """Those at these places, in the order of ``places``."""
        if not places:
            return []
        first, last = min(places), max(places)
        columns = "SELECT place, id, image, tags, source, line FROM entry WHERE place"
        if last - first + 1 == len(places):
            found = self._select(f"{columns} BETWEEN ? AND ?", (first, last))
        else:
            found = [row for start in range(0, len(places), _BLOCK) for row in self._among(columns, places, start)]
        by_place = {row[0]: _row(row[1:]) for row in found}
        return [by_place[place] for place in places]

    def of_id(self, photo_id: str) -> list[Entry]:
        """Those with an ID, in order."""
        found = self._select(
            "SELECT id, image, tags, source, line FROM entry WHERE id = ? ORDER BY place", (_stored(photo_id),)
        )
        return [self._entry(_row(row)) for row in found]

    def file(self, row: Row) -> str:
        """Where the image of a row should be."""
        return text_of(self._images[row.image], row.id)

    def tags(self, row: Row) -> tuple[str, ...] | None:
        """The tags of a row, as in `Entry`."""
        return None if row.tags is None else tuple(self._names[int(number)] for number in row.tags.split())

    def repeated(self) -> list[Entry]:
        """Those whose ID others have too, in order."""
        twice = "SELECT id FROM entry GROUP BY id HAVING COUNT(*) > 1"
        found = self._select(
            f"SELECT id, image, tags, source, line FROM entry WHERE id IN ({twice}) ORDER BY place", ()
        )
        return [self._entry(_row(row)) for row in found]

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process as the name of the file, which stays this object's."""
        self._seal()
        return {name: value for name, value in self.__dict__.items() if name not in ("_local", "_sealing")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the file of another process."""
        self.__dict__.update(state)
        self._local, self._sealing = _Local(), threading.Lock()

    def _number(self, tag: str) -> int:
        number = self._numbers.setdefault(tag, len(self._names))
        if number == len(self._names):
            self._names.append(tag)
        return number

    def _entry(self, row: Row) -> Entry:
        return Entry(row.id, self.file(row), self.tags(row), row.source, row.line)

    def _among(self, columns: str, places: Sequence[int], start: int) -> list[tuple[Any, ...]]:
        some = places[start : start + _BLOCK]
        return self._select(f"{columns} IN ({','.join('?' * len(some))})", tuple(some))

    def _write(self) -> None:
        """Bring what is pending into the file."""
        try:
            if self._writer is None:
                self._file = _new_file(self)
                self._writer = sqlite3.connect(self._file, isolation_level=None)
                for setting in ("journal_mode = OFF", "synchronous = OFF"):  # the file ends with its process
                    self._writer.execute(f"PRAGMA {setting}")
                self._writer.execute(_CACHE)
                self._writer.execute(
                    "CREATE TABLE entry (place INTEGER PRIMARY KEY, id BLOB, image INTEGER, tags TEXT, source BLOB, "
                    "line INTEGER)"
                )
                self._writer.execute("BEGIN")
            self._writer.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", self._pending)
        except (sqlite3.Error, OSError) as error:
            raise self._trouble(error) from error
        self._pending.clear()

    def _seal(self) -> None:
        """End the adding."""
        with self._sealing:
            if self._sealed:
                return
            if self._pending:
                self._write()
            if self._writer is not None:
                try:
                    self._writer.execute("CREATE INDEX by_id ON entry (id)")
                    self._writer.execute("COMMIT")
                except sqlite3.Error as error:
                    raise self._trouble(error) from error
                self._writer.close()
            self._writer, self._sealed = None, True

    def _select(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        self._seal()
        if self._file is None:
            return []
        try:
            return self._local.connection(self._file).execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise Tag2maskError(
                f"the list of photographs in {self._file} could not be read ({error}); if it was deleted, the same "
                "command makes it again"
            ) from error

    def _trouble(self, error: Exception) -> Tag2maskError:
        where = self._file or "the folder for temporary files"
        return Tag2maskError(
            f"the list of photographs could not be kept in {where} ({error}); it takes about 100 bytes a photograph, "
            "and the variable TMPDIR names another folder for it"
        )


def _stored(text: str) -> bytes:
    """A name as the file has it: names of files, and of annotations, may hold what is no text."""
    return text.encode("utf-8", "surrogatepass")


def _row(values: tuple[Any, ...]) -> Row:
    photo_id, image, tags, source, line = values
    return Row(photo_id.decode("utf-8", "surrogatepass"), image, tags, source.decode("utf-8", "surrogatepass"), line)


class _Local(threading.local):
    """A connection for reading, one a thread and process: SQLite's are not carried from one to another."""

    process: int | None = None
    reader: sqlite3.Connection

    def connection(self, file: Path) -> sqlite3.Connection:
        if self.process != os.getpid():
            self.reader = sqlite3.connect(f"file:{quote(str(file))}?mode=ro&immutable=1", uri=True)
            self.reader.execute(_CACHE)
            self.process = os.getpid()
        return self.reader


def _new_file(owner: Entries) -> Path:
    """A temporary file that only this user can read, since names and tags may be private; it goes with its owner."""
    folder = Path(tempfile.gettempdir())
    name = f"{_process_space()}-{_NAME}"
    # Of this machine, and of those whose numbers of processes are this one's: others may be at work.
    for left in folder.glob(f"{TEMPORARY_PREFIX}{gethostname()}~*~{name}"):
        with suppress(OSError):  # another user's
            remove_abandoned([left])
    file = folder / temporary_name(name)
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    weakref.finalize(owner, _delete, file, os.getpid())
    return file


def _process_space() -> int:
    """Where numbers of processes mean the same: containers of one host name may share a folder, but not these."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _delete(file: Path, process: int) -> None:
    if os.getpid() == process:  # not where a forked process ends
        file.unlink(missing_ok=True)
