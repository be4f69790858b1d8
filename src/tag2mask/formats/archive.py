"""Reading files of a zip or folder from elsewhere: one at a time, in memory, within limits, without unpacking."""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tag2mask.errors import Tag2maskError, UsageError

MEMBER_BYTES = 1 << 28
"""Largest file that is read, 256 MiB; a mask of 100 million pixels is far smaller."""

_DEFLATE = 1032
"""The largest compression factor of deflate; a zip that claims more has files that overlap."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""Errors of reading a broken, encrypted or unusual zip."""


class Archive:
    """The files of a zip, or of a folder, by their names with ``/``."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None = None) -> None:
        """Of an open zip; of the folder ``path`` if ``archive`` is None."""
        self.path, self._archive = path, archive
        members = [] if archive is None else archive.infolist()
        self._sizes = {member.filename: member.file_size for member in members if not member.is_dir()}

    def __contains__(self, name: str) -> bool:
        return name in self._sizes if self._archive is not None else self._inside(name).is_file()

    def texts(self, folder: str) -> list[str]:
        """The names of the .txt files below a folder."""
        if self._archive is not None:
            return [name for name in self._sizes if name.startswith(f"{folder}/") and name.endswith(".txt")]
        return [found.relative_to(self.path).as_posix() for found in sorted((self.path / folder).rglob("*.txt"))]

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
            FileNotFoundError: it does not exist.
            Tag2maskError: it is damaged or too large.
        """
        if name not in self:
            raise FileNotFoundError(name)
        size = self._sizes[name] if self._archive is not None else self._inside(name).stat().st_size
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
        """A file of the folder, refused if it lies outside by its name or by a link."""
        target = self.path / name
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise Tag2maskError(f"{self.path}: {name} leads out of the folder")
        return target


@dataclass(frozen=True)
class ArchiveFile:
    """A file of an `Archive`, with the part of a path's interface that opening an image needs."""

    archive: Archive
    name: str

    def __str__(self) -> str:
        """Its place, for messages."""
        return f"{self.archive.path}: {self.name}"

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Its content as a binary file."""
        return io.BytesIO(self.archive.read(self.name))


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open a zip or a folder.

    Raises:
        UsageError: it does not exist.
        Tag2maskError: the zip is damaged, has names that lead out of a folder, or claims an impossible size.
    """
    if path.is_dir():
        yield Archive(path)
        return
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give a zip, or a folder")
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise Tag2maskError(f"{path} is no zip, or a damaged one ({error}); export it again") from error
    with archive:
        _refuse_dangerous(path, archive)
        yield Archive(path, archive)


def _refuse_dangerous(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse names that leave the folder, links, and impossible sizes, which no tool exports."""
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
