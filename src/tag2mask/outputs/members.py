"""Members of a tar: their names, their headers, and finding them again.

A file ``trip/no. 7.png`` is the member ``trip/no%2E 7.png``: WebDataset takes all behind the first dot of the last part
for the suffix, so dots of the ID are escaped. The tar is plain ustar, with pax headers for names that need them.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import unquote

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
"""What ends a tar."""

DELETED = "__deleted__/"
"""An empty member of this folder says that a file is deleted; WebDataset passes over names that begin so."""

_NO_TEXT = re.compile("[\udc80-\udcff]")
"""Bytes of a file name that are not UTF-8, as Python has them."""

_DAMAGE = (tarfile.TarError, ArithmeticError, LookupError, MemoryError, RecursionError, ValueError)
"""What reading a header raises that was cut off, or that somebody made up."""

_NANO = 10**9
_MICRO = 10**6
_LATEST = 2**63 - 1


@dataclass(frozen=True)
class Member:
    """A member of a tar.

    Attributes:
        name: of the file that it is, unescaped.
        offset: of its first header in the tar, in bytes.
        data: of its content.
        size: of its content; -1 says that the file is deleted.
        time: when it was written, in nanoseconds since 1970.
    """

    name: str
    offset: int
    data: int
    size: int
    time: int

    @property
    def end(self) -> int:
        """The offset of what comes after it."""
        return self.data + -(-max(self.size, 0) // BLOCK) * BLOCK

    @property
    def is_deleted(self) -> bool:
        """Whether it says that the file is gone."""
        return self.size < 0


def member_name(name: str) -> str:
    """The name in a tar of a file ``ID.suffix``; `file_name` is its inverse."""
    plain = _NO_TEXT.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", name.replace("%", "%25").replace("\n", "%0A"))
    folder, slash, last = plain.rpartition("/")
    stem, dot, suffix = last.rpartition(".")
    escaped = f"{folder}{slash}{stem.replace('.', '%2E')}{dot}{suffix}"
    return f"%5F{escaped[1:]}" if escaped.startswith("__") else escaped


def file_name(member: str) -> str:
    """The name of the file that a member of this name is."""
    return unquote(member, errors="surrogateescape")


def packed(name: str, content: bytes | None, offset: int, time: int) -> tuple[Member, bytes]:
    """A member, and its bytes in the tar.

    Args:
        name: of the file.
        content: of the file; None says that it is deleted.
        offset: at which it will stand.
        time: now, in nanoseconds since 1970.
    """
    info = tarfile.TarInfo((DELETED if content is None else "") + member_name(name))
    info.size, info.mtime = len(content or b""), time // _NANO
    raw = info.tobuf(tarfile.PAX_FORMAT)
    header = _with_nanoseconds(raw[-BLOCK:], time % _NANO)
    member = Member(name, offset, offset + len(raw), -1 if content is None else len(content), time)
    body = (content or b"").ljust(member.end - member.data, b"\0")
    return member, raw[:-BLOCK] + header + body


class TornError(Exception):
    """A tar that ends within a member, or is none."""


def members(file: BinaryIO, start: int, *, whole: bool = False) -> Iterator[Member]:
    """The whole members of a tar from an offset on; what is torn ends them.

    Args:
        file: the tar.
        start: where a member begins, or the tar ends.
        whole: what is torn is an error instead.

    Raises:
        TornError: the tar is not ``whole``.
    """
    size = file.seek(0, 2)
    file.seek(start)
    try:
        archive = tarfile.TarFile(fileobj=file, encoding="utf-8")
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # or it keeps them all
            deleted = info.name.startswith(DELETED)
            name = file_name(info.name.removeprefix(DELETED))
            member = Member(name, info.offset, info.offset_data, -1 if deleted else info.size, _time(info))
            if info.size < 0 or member.end > size:  # the former would lead back
                break
            if info.isreg():
                yield member
        else:
            file.seek(archive.offset)
            if not file.read(BLOCK).strip(b"\0"):
                return
    except _DAMAGE:
        pass
    if whole:
        raise TornError


def is_header_of(block: bytes, member: Member) -> bool:
    """Whether these bytes, which stand before a member's content, are the header of one of its size and time."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return (info.size, _time(info)) == (member.size, member.time)
    except _DAMAGE:
        return False


def _time(info: tarfile.TarInfo) -> int:
    """When a member was written, in nanoseconds since 1970.

    Raises:
        ValueError, OverflowError: that is no time, or one after the year 2261.
    """
    time = int(info.mtime) * _NANO + info.devmajor * _MICRO + info.devminor
    if not -_LATEST <= time <= _LATEST:
        raise ValueError("no time")
    return time


def _with_nanoseconds(header: bytes, nanoseconds: int) -> bytes:
    """A header with the fraction of a second in the two fields for device numbers, which regular files leave unused.

    Stages compare times within a second. A pax header could say them too, for 1024 bytes a member, half a mask.
    """
    fields = b"%07o\0%07o\0" % divmod(nanoseconds, _MICRO)
    block = header[:148] + b" " * 8 + header[156:329] + fields + header[345:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
