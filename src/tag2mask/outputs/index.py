"""Where the members of one writer's tars are: an SQLite file, which can always be made again from the tars."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from threading import Lock

from tag2mask.errors import Tag2maskError
from tag2mask.outputs.members import Member

_VERSION = 2
_PATIENCE = 60.0
"""Seconds to wait for another process that is just writing a line."""

_SCHEMA = (
    "DROP TABLE IF EXISTS members",
    "DROP TABLE IF EXISTS tars",
    "CREATE TABLE members (name BLOB PRIMARY KEY, tar INTEGER NOT NULL, offset INTEGER NOT NULL, data INTEGER NOT NULL,"
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

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        """Open the index at ``path``, or make an empty one; None keeps it in memory. A damaged one is made anew.

        Args:
            path: of the file.
            read_only: nothing is written; where none can be read, an empty one in memory takes its place.

        Raises:
            Tag2maskError: it cannot be opened.
        """
        self.path, self._lock = path, Lock()
        if read_only:
            self._connection = self._read_only()
            return
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

    def _read_only(self) -> sqlite3.Connection:
        if self.path is not None:
            with suppress(sqlite3.Error):  # none is there, or it is damaged, or a kill left it for its writer to mend
                place = f"{self.path.absolute().as_uri()}?mode=ro"
                connection = sqlite3.connect(place, uri=True, timeout=_PATIENCE, check_same_thread=False)
                try:
                    if _is_current(connection):
                        return connection
                except sqlite3.Error:
                    connection.close()
                    raise
                connection.close()
            self.path = None
        return self._opened()

    def find(self, name: str) -> Place | None:
        """Where the newest member of a name is, also where that says that it is deleted."""
        with self._cursor() as cursor:
            row = cursor.execute(
                "SELECT tar, offset, data, size, time FROM members WHERE name = ?", (_key(name),)
            ).fetchone()
        return None if row is None else Place(row[0], Member(name, *row[1:]))

    def add(self, tar: int, members: Iterable[Member], size: int, *, anew: bool = False) -> None:
        """Take up members of a tar in their order, and how many bytes the tar has with them.

        Args:
            tar: the number of the tar.
            members: of it.
            size: of the tar in bytes.
            anew: forget what was known of the tar; all of it or nothing happens.
        """
        with self._transaction() as cursor:
            if anew:
                _forget(cursor, tar)
            end = 0
            for member in members:
                name, *rest = astuple(member)
                cursor.execute(_KEEP_NEWEST, (_key(name), tar, *rest))
                end = member.end
            cursor.execute(
                "INSERT INTO tars VALUES (?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
                "end = max(end, excluded.end), bytes = excluded.bytes",
                (tar, end, size),
            )

    def drop(self, tar: int) -> None:
        """Forget a tar."""
        with self._transaction() as cursor:
            _forget(cursor, tar)

    def tars(self) -> dict[int, tuple[int, int]]:
        """Of each tar that is known, by its number: where its last known member ends, and its size when last seen."""
        with self._cursor() as cursor:
            return {number: (end, size) for number, end, size in cursor.execute("SELECT * FROM tars").fetchall()}

    def names(self) -> Iterator[str]:
        """The names of the files that are there, in order."""
        last, step = b"", 1000
        while True:
            with self._cursor() as cursor:
                query = "SELECT name FROM members WHERE name > ? AND size >= 0 ORDER BY name LIMIT ?"
                found = [row[0] for row in cursor.execute(query, (last, step)).fetchall()]
            if not found:
                return
            yield from (name.decode("utf-8", "surrogatepass") for name in found)
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


def _key(name: str) -> bytes:
    """A name as it is kept: one that is not UTF-8 on the disk could not be text."""
    return name.encode("utf-8", "surrogatepass")


def _forget(cursor: sqlite3.Cursor, tar: int) -> None:
    cursor.execute("DELETE FROM members WHERE tar = ?", (tar,))
    cursor.execute("DELETE FROM tars WHERE number = ?", (tar,))


def _is_current(connection: sqlite3.Connection) -> bool:
    """Whether the tables are there, as this version wants them."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] == _VERSION)
