"""The files of a folder by photograph, whether they are single files or members of tars."""

import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from tag2mask.files import TEMPORARY_PREFIX, atomic_path
from tag2mask.outputs.index import Place
from tag2mask.outputs.members import BLOCK
from tag2mask.outputs.series import TarSeries, writers
from tag2mask.outputs.settings import OutputSettings

TARS = "tars"
"""The folder of the tars, beside single files."""

_SUFFIXES = (".png", ".npz")

ALONE = "1-of-1"
"""The writer that no other works beside."""


class Stamp(NamedTuple):
    """What `os.stat` says of a file, as far as anybody here asks: its size in bytes, and when it was written."""

    st_size: int
    st_mtime_ns: int


@dataclass
class _Opened:
    """What one process has open of a folder.

    Attributes:
        process: its number.
        series: by writer. Replaced, never changed: threads may be reading.
        mixed: there are single files as well.
        replaced: what threads may still read from.
        owned: this process writes its own series.
    """

    process: int
    series: dict[str, TarSeries]
    mixed: bool
    replaced: list[TarSeries] = field(default_factory=list)
    owned: bool = False


class TarFolder:
    """A folder whose files are members of tars in its subfolder `TARS`; single files in it count as well.

    Where a file is both, or in the tars of several writers, the newest counts. May be handed to threads, and to forked
    and spawned processes, for reading; one thread writes.
    """

    def __init__(
        self,
        path: Path,
        settings: OutputSettings,
        *,
        writer: str = ALONE,
        prefix: str = "",
        tars: Path | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            path: of the folder.
            settings: without `photographs_per_tar` new files become single ones.
            writer: under which name this process writes tars; no other may do so at the same time.
            prefix: of its tars in the store.
            tars: where the tars of somebody else are, beside which nothing is written; by default in the subfolder.
        """
        self.path, self.settings, self.writer, self.prefix = path, settings, writer, prefix
        self.tars = path / TARS if tars is None else tars
        self._state: _Opened | None = None
        self._inherited: list[_Opened] = []
        self._opening = threading.Lock()

    def __truediv__(self, name: str) -> "TarMember":
        return TarMember(self, name)

    def __str__(self) -> str:
        return str(self.path)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; it opens everything itself."""
        return {**vars(self), "_state": None, "_inherited": [], "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _opening=threading.Lock())

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name

    def is_dir(self) -> bool:
        """Whether it exists."""
        return self.path.is_dir()

    def find(self, name: str) -> tuple[TarSeries, Place] | Path | None:
        """Where the newest file of that name is; None where there is none, or it is deleted."""
        opened = self._opened()
        placed = [(series, place) for series in opened.series.values() if (place := series.find(name))]
        newest = max(placed, key=lambda each: each[1].member.time, default=None)
        single = self.path / name
        if opened.mixed and single.is_file():
            member = None if newest is None else newest[1].member
            if member is None or member.is_deleted or member.time <= single.stat().st_mtime_ns:
                return single
        return None if newest is None or newest[1].member.is_deleted else newest

    def position(self, name: str) -> int:
        """A number by which files sort as they lie in the tars; -1 for what lies in none."""
        found = self.find(name)
        if not isinstance(found, tuple):
            return -1
        series, place = found
        return list(self._opened().series).index(series.writer) << 48 | place.tar << 28 | place.member.offset // BLOCK

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            StoreError: its tar is full and could not be sent.
        """
        opened, single = self._opened(), self.path / name
        if self.settings.photographs_per_tar is None:
            opened.mixed = True
            with atomic_path(single) as temporary:
                temporary.write_bytes(content)
            return
        self._own(opened).append(name, content)
        if opened.mixed:
            single.unlink(missing_ok=True)

    def delete(self, name: str) -> bool:
        """Delete a file; whether there was one."""
        opened, found = self._opened(), self.find(name)
        (self.path / name).unlink(missing_ok=True)
        if found is not None and any(series.find(name) for series in opened.series.values()):
            self._own(opened).append(name, None)
        return found is not None

    def names(self, suffix: str) -> Iterator[str]:
        """The names of the files with a suffix; one that is in the tars of several writers comes several times."""
        opened = self._opened()
        for series in opened.series.values():
            yield from (name for name in series.names() if name.endswith(suffix) and self.find(name) is not None)
        if opened.mixed:
            yield from _single_names(self.path, suffix)

    def close(self, *, send: bool) -> None:
        """End the tars that are written to; what is opened next is as it is then.

        Args:
            send: whether finished tars go to the store: this writer's, and where it is alone all others' as well.

        Raises:
            StoreError: a tar could not be sent; it is kept.
        """
        opened, self._state = self._state, None
        if opened is None or opened.process != os.getpid():
            return
        try:
            for writer, series in opened.series.items():
                series.finish()
                if send and self.writer in (writer, ALONE):
                    series.send_finished()
        finally:
            for series in (*opened.series.values(), *opened.replaced):
                series.close()

    def _opened(self) -> _Opened:
        """What this process has open. A forked one opens everything anew: SQLite's connections cannot be shared."""
        opened, process = self._state, os.getpid()
        if opened is not None and opened.process == process:
            return opened
        if opened is not None:
            self._inherited.append(opened)  # never closed here, which could take the parent's locks away
            self._opening = threading.Lock()  # another thread may have held it while this process was forked
        with self._opening:
            if self._state is None or self._state.process != process:
                there = [entry.name for entry in self.tars.iterdir()] if self.tars.is_dir() else []
                series = {writer: self._series(writer) for writer in writers(there, foreign=self._foreign)}
                self._state = _Opened(process, series, has_single_files(self.path))
            return self._state

    def _own(self, opened: _Opened) -> TarSeries:
        """The series that this process writes; whoever only reads leaves its index alone, which another may write."""
        if not opened.owned:
            self.tars.mkdir(parents=True, exist_ok=True)
            if self.writer in opened.series:
                opened.replaced.append(opened.series[self.writer])
            opened.series = {**opened.series, self.writer: self._series(self.writer, owner=True)}
            opened.owned = True
        return opened.series[self.writer]

    def _series(self, writer: str, *, owner: bool = False) -> TarSeries:
        return TarSeries(self.tars, writer, self.settings, self.prefix, owner=owner, foreign=self._foreign)

    @property
    def _foreign(self) -> bool:
        return self.tars == self.path


class TarMember:
    """A file in a `TarFolder`: what a `Path` offers of what is asked of the files of photographs, and no more."""

    def __init__(self, folder: TarFolder, name: str) -> None:
        """Keep whose it is; nothing is looked up."""
        self.folder, self.file_name = folder, name

    def __str__(self) -> str:
        """Where it is, for messages."""
        found = self.folder.find(self.file_name)
        if isinstance(found, tuple):
            return f"{found[0].tar(found[1].tar)}: {self.file_name}"
        return str(found or self.folder.path / self.file_name)

    def is_file(self) -> bool:
        """Whether it is there."""
        return self.folder.find(self.file_name) is not None

    def stat(self) -> Stamp:
        """Its size, and when it was written.

        Raises:
            FileNotFoundError: it is not there.
        """
        found = self._found()
        if isinstance(found, Path):
            status = found.stat()
            return Stamp(status.st_size, status.st_mtime_ns)
        return Stamp(found[1].member.size, found[1].member.time)

    def read_bytes(self) -> bytes:
        """Its content.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: its tar could not be fetched.
        """
        found = self._found()
        return found.read_bytes() if isinstance(found, Path) else found[0].read(found[1])

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Its content as a file; ``mode`` is rb, as `Path.open` wants it said.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: its tar could not be fetched.
        """
        return io.BytesIO(self.read_bytes())

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete it.

        Raises:
            FileNotFoundError: it is not there, and that is not ``missing_ok``.
        """
        if not self.folder.delete(self.file_name) and not missing_ok:
            raise FileNotFoundError(str(self))

    def _found(self) -> tuple[TarSeries, Place] | Path:
        found = self.folder.find(self.file_name)
        if found is None:
            raise FileNotFoundError(str(self))
        return found


Folder = Path | TarFolder
"""A folder of files by photograph."""

File = Path | TarMember
"""One of its files."""


def write_bytes(file: File, content: bytes) -> None:
    """Write a file, whole or not at all; the folders of a single one are made.

    Raises:
        StoreError: it is a member, and its tar is full and could not be sent.
    """
    if isinstance(file, TarMember):
        file.folder.write(file.file_name, content)
        return
    with atomic_path(file) as temporary:
        temporary.write_bytes(content)


def file_names(folder: Folder, suffix: str) -> Iterator[str]:
    """The names, with subfolders, of the files with a suffix in a folder; some may come twice."""
    yield from folder.names(suffix) if isinstance(folder, TarFolder) else _single_names(folder, suffix)


def _single_names(path: Path, suffix: str) -> Iterator[str]:
    for found in path.rglob(f"*{suffix}"):
        if not found.name.startswith(TEMPORARY_PREFIX):
            yield found.relative_to(path).as_posix()


def holds_tars(path: Path) -> bool:
    """Whether tars of a run are in a folder. Photographs may lie below a folder of that name, too."""
    tars = path / TARS
    return tars.is_dir() and any(writers([entry.name]) for entry in tars.iterdir())


def has_single_files(path: Path) -> bool:
    """Whether anything but tars is in a folder: files of photographs, or subfolders that may hold such."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY_PREFIX):
                continue
            if entry.name == TARS and entry.is_dir():
                found = any(next(_single_names(path / TARS, suffix), None) for suffix in _SUFFIXES)
            else:
                found = entry.is_dir() or entry.name.endswith(_SUFFIXES)
            if found:
                return True
    return False
