"""Where the members of one writer's tars are: an SQLite file, which can always be made again from the tars."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from threading import Lock

from tag2mask.errors import Tag2maskError
from tag2mask.outputs.members import Member

_VERSION = 1
_PATIENCE = 60.0
"""Seconds to wait for another process that is just writing a line."""

_SCHEMA = (
    "DROP TABLE IF EXISTS members",
    "DROP TABLE IF EXISTS tars",
    "CREATE TABLE members (name TEXT PRIMARY KEY, tar INTEGER NOT NULL, offset INTEGER NOT NULL, data INTEGER NOT NULL,"
    " size INTEGER NOT NULL, time INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE tars (number INTEGER PRIMARY KEY, end INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    f"PRAGMA user_version = {_VERSION}",
)

_KEEP_NEWEST = """
    INSERT INTO members VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
        tar = excluded.tar, offset = excluded.offset, data = excluded.data, size = excluded.size, time = excluded.time
    WHERE (excluded.tar, excluded.offset) >= (members.tar, members.offset)
"""


@dataclass(frozen=True)
class Place:
    """A member, and the number of the tar that it is in."""

    tar: int
    member: Member


class Index:
    """The newest member of each name in one writer's tars; one object serves all threads of a process."""

    def __init__(self, path: Path | None) -> None:
        """Open the index at ``path``, or make an empty one; None keeps it in memory. A damaged one is made anew.

        Raises:
            Tag2maskError: it cannot be opened.
        """
        self.path, self._lock = path, Lock()
        try:
            self._connection = self._opened()
        except sqlite3.OperationalError as error:
            raise Tag2maskError(f"{path} could not be opened ({error}); is its folder writable?") from error
        except sqlite3.DatabaseError:
            if path is None:
                raise
            for file in (path, path.with_name(f"{path.name}-journal")):
                file.unlink(missing_ok=True)
            self._connection = self._opened()

    def _opened(self) -> sqlite3.Connection:
        target = ":memory:" if self.path is None else str(self.path)
        connection = sqlite3.connect(target, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            # A kill leaves this sound; only a power cut may not, and then it is made again.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            if not _is_current(connection):
                connection.execute("BEGIN IMMEDIATE")
                for statement in () if _is_current(connection) else _SCHEMA:  # another process may have been faster
                    connection.execute(statement)
                connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def find(self, name: str) -> Place | None:
        """Where the newest member of a name is, also where that says that it is deleted."""
        with self._cursor() as cursor:
            row = cursor.execute("SELECT tar, offset, data, size, time FROM members WHERE name = ?", (name,)).fetchone()
        return None if row is None else Place(row[0], Member(name, *row[1:]))

    def add(self, tar: int, members: Iterable[Member], size: int) -> None:
        """Take up members of a tar in their order, and how many bytes the tar has with them."""
        with self._transaction() as cursor:
            end = 0
            for member in members:
                name, *rest = astuple(member)
                cursor.execute(_KEEP_NEWEST, (name, tar, *rest))
                end = member.end
            cursor.execute(
                "INSERT INTO tars VALUES (?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
                "end = max(end, excluded.end), bytes = excluded.bytes",
                (tar, end, size),
            )

    def drop(self, tar: int, *, beyond: int = 0) -> None:
        """Forget the members of a tar from an offset on."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM members WHERE tar = ? AND offset >= ?", (tar, beyond))
            cursor.execute("DELETE FROM tars WHERE number = ?", (tar,))
            if beyond:
                cursor.execute("INSERT INTO tars VALUES (?, ?, ?)", (tar, beyond, beyond))

    def tars(self) -> dict[int, tuple[int, int]]:
        """Of each tar that is known, by its number: where its last known member ends, and its size when last seen."""
        with self._cursor() as cursor:
            return {number: (end, size) for number, end, size in cursor.execute("SELECT * FROM tars").fetchall()}

    def count(self, tar: int) -> int:
        """How many files have their newest member in a tar."""
        with self._cursor() as cursor:
            found = cursor.execute("SELECT count(*) FROM members WHERE tar = ? AND size >= 0", (tar,)).fetchone()
        return int(found[0])

    def names(self) -> Iterator[str]:
        """The names of the files that are there, in order."""
        last, step = "", 1000
        while True:
            with self._cursor() as cursor:
                query = "SELECT name FROM members WHERE name > ? AND size >= 0 ORDER BY name LIMIT ?"
                found = [row[0] for row in cursor.execute(query, (last, step)).fetchall()]
            if not found:
                return
            yield from found
            last = found[-1]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _cursor(self) -> Iterator[sqlite3.Cursor]:
        try:
            with self._lock, closing(self._connection.cursor()) as cursor:
                yield cursor
        except sqlite3.Error as error:
            raise Tag2maskError(
                f"the index {self.path} could not be used ({error}); it can be deleted, and is made again from its tars"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")


def _is_current(connection: sqlite3.Connection) -> bool:
    """Whether the tables are there, as this version wants them."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] == _VERSION)
