"""Files that somebody sent, in a zip or a folder: read one at a time, in memory, within limits; none is unpacked."""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tag2mask.errors import Tag2maskError, UsageError

MEMBER_BYTES = 1 << 28
"""What one file may hold, 256 MiB; a mask of 100 million pixels is far below."""

_DEFLATE = 1032
"""Deflate makes nothing smaller than by this factor: more of a whole zip means that its files lie in one another."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""What reading a broken, encrypted or unusual zip raises."""


class Archive:
    """The files of a zip, or those below a folder, by their names with ``/``."""

    def __init__(self, path: Path, names: dict[str, int], archive: zipfile.ZipFile | None) -> None:
        """Keep what was found.

        Args:
            path: of the zip, or the folder.
            names: the size of each file in bytes, by its name; empty for a folder, which is not listed.
            archive: the open zip; None for a folder.
        """
        self.path, self._names, self._archive = path, names, archive

    def __contains__(self, name: str) -> bool:
        return name in self._names if self._archive is not None else self._inside(name).is_file()

    def __iter__(self) -> Iterator[str]:
        if self._archive is not None:
            yield from self._names
            return
        for found in sorted(self.path.rglob("*.txt")):
            yield found.relative_to(self.path).as_posix()

    def file(self, name: str) -> "ArchiveFile":
        """One of the files, as something that can be opened."""
        return ArchiveFile(self, name)

    def text(self, name: str) -> str:
        """A file as text.

        Raises:
            Tag2maskError: it is missing, damaged, too large, or not UTF-8.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except FileNotFoundError as error:
            raise Tag2maskError(f"{self.path} has no file {name}") from error
        except UnicodeDecodeError as error:
            raise Tag2maskError(f"{self.path}: {name} is not UTF-8") from error

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none of that name.
            Tag2maskError: it is damaged or too large.
        """
        if name not in self:
            raise FileNotFoundError(name)
        size = self._names[name] if self._archive is not None else self._inside(name).stat().st_size
        if size > MEMBER_BYTES:
            raise Tag2maskError(f"{self.path}: {name} holds {size:,} bytes, at most {MEMBER_BYTES:,} are read")
        if self._archive is None:
            return self._inside(name).read_bytes()
        try:
            with self._archive.open(name) as file:
                return file.read(MEMBER_BYTES)
        except _DAMAGED as error:
            raise Tag2maskError(f"{self.path}: {name} is damaged ({error}); export it again") from error

    def _inside(self, name: str) -> Path:
        """A file of a folder.

        Raises:
            Tag2maskError: it lies outside, by its name or by a link.
        """
        target = self.path / name
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise Tag2maskError(f"{self.path}: {name} leads out of the folder")
        return target


class ArchiveFile:
    """One file of an `Archive`, as much of a path as opening an image takes."""

    def __init__(self, archive: Archive, name: str) -> None:
        """Keep both; nothing is read."""
        self.archive, self.file_name = archive, name

    def __str__(self) -> str:
        """Where it is, for messages."""
        return f"{self.archive.path}: {self.file_name}"

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Its content as a file; ``mode`` is rb."""
        return io.BytesIO(self.archive.read(self.file_name))


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open a zip or a folder.

    Raises:
        UsageError: there is neither.
        Tag2maskError: the zip is damaged, has names that lead out of a folder, or claims more than it can hold.
    """
    if path.is_dir():
        yield Archive(path, {}, None)
        return
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give a zip, or a folder")
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise Tag2maskError(f"{path} is no zip, or a damaged one ({error}); export it again") from error
    with archive:
        names = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
        _refuse_dangerous(path, archive)
        yield Archive(path, names, archive)


def _refuse_dangerous(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse what no tool exports: names that climb, links, sizes that cannot be."""
    total = 0
    for info in archive.infolist():
        name, kind = info.filename, info.external_attr >> 16
        if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
            raise Tag2maskError(f"{path} holds {name!r}, which leads out of the folder that it is read into; refused")
        if stat.S_ISLNK(kind):
            raise Tag2maskError(f"{path} holds the link {name!r}; only files are read")
        total += info.file_size
    if total > _DEFLATE * path.stat().st_size:
        raise Tag2maskError(f"{path} claims to hold {total:,} bytes, more than any zip of its size can; refused")
