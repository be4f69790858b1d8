"""The tars of one writer: appended to one after the other, found again through its index, sent to a store when full."""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.files import read_json, write_json
from tag2mask.outputs.index import Index, Place
from tag2mask.outputs.members import BLOCK, END, is_header_of, members, packed
from tag2mask.outputs.settings import OutputSettings
from tag2mask.outputs.store import Sent, StoreError, fetch, send, tar_url

FETCHED = "fetched"
"""The folder of tars that were fetched from the store to be read."""

_TRIES = 20
"""How often a tar is fetched that other processes put out of the cache before it could be read."""

_OWN = re.compile(r"(?P<writer>\d+-of-\d+)(?:-(?P<number>\d{6,9})\.tar|\.sqlite|\.sent\.json)")
_FOREIGN = re.compile(r"(?!\.)(?P<writer>.+)-(?P<number>\d{6,9})\.tar")
_MOST = 10**9
"""Tars of a writer are fewer than this."""


class TarSeries:
    """The tars ``WRITER-000000.tar`` and on in a folder, ``WRITER.sqlite`` over them, and ``WRITER.sent.json``.

    A tar is the truth: what the index does not know yet it takes up from there, and forgets what is in no tar. One
    process at a time appends; any number read.
    """

    def __init__(
        self, folder: Path, writer: str, settings: OutputSettings, prefix: str, *, foreign: bool = False
    ) -> None:
        """Bring the index up to the tars.

        Args:
            folder: where the tars are; it exists.
            writer: whose, a name for files.
            settings: how many files a tar takes, and where the store is.
            prefix: of the tars in the store.
            foreign: somebody else's tars, beside which neither an index nor a store counts.

        Raises:
            UsageError: its tars were sent to another URL than `outputs.url`.
            Tag2maskError: the index cannot be written, or a tar that it lacks cannot be fetched.
        """
        self.folder, self.writer, self.settings, self.prefix = folder, writer, settings, prefix
        self._foreign, self._record = foreign, folder / f"{writer}.sent.json"
        self._sent: dict[int, Sent] = {}
        self._unreachable: dict[int, str] = {}
        self._fetching = Lock()
        self._open: BinaryIO | None = None
        self._number = self._end = self._count = 0
        kept = not foreign and os.access(folder, os.W_OK)
        self.index = Index(folder / f"{writer}.sqlite" if kept else None)
        self._catch_up()

    def append(self, name: str, content: bytes | None) -> None:
        """Write a file, or that it is deleted (None); when this returns, a kill does not lose it.

        Raises:
            StoreError: the tar is full and could not be sent; the file is written all the same.
        """
        file = self._open or self._opened()
        before = self.index.find(name)
        if before is not None and (before.tar, before.member.end) == (self._number, self._end) and content is not None:
            # The same name twice in a row would be an error to WebDataset.
            self._end = before.member.offset
            self._count -= not before.member.is_deleted
            file.truncate(self._end)
            self.index.drop(self._number, beyond=self._end)
        member, raw = packed(name, content, self._end, time.time_ns())
        try:
            _write_at(file, self._end, raw)
            self.index.add(self._number, [member], member.end)
        except BaseException:  # what the index does not know must not be passed over by what follows
            file.truncate(self._end)
            raise
        self._end = member.end
        self._count += content is not None
        if self._count >= self._most:
            self.finish()
            self.send_finished()

    def read(self, place: Place) -> bytes:
        """The content of a file.

        Raises:
            StoreError: its tar could not be fetched.
            Tag2maskError: the tar is not as the index says.
        """
        member, path = place.member, self.tar(place.tar)
        for _ in range(_TRIES):
            try:
                with self._at_hand(place.tar) as file:
                    file.seek(member.data - BLOCK)
                    raw = file.read(BLOCK + member.size)
                break
            except FileNotFoundError:  # sent and deleted meanwhile by another process, or put out of the cache by one
                self._sent = self._read_sent()
        else:
            raise Tag2maskError(f"{path} is gone, or others put it out of the cache; raise outputs.cached_tars then")
        if len(raw) != BLOCK + member.size or not is_header_of(raw[:BLOCK], member):
            raise Tag2maskError(
                f"{path} is not what {self.index.path} says of it; delete the index, which is made again from the tars"
            )
        return raw[BLOCK:]

    def tar(self, number: int) -> Path:
        """Where a tar is, or was before it was sent."""
        return self.folder / f"{self.writer}-{number:06d}.tar"

    def finish(self) -> None:
        """End the tar that is written to; one with room left is gone on with, unless it is sent."""
        if self._open is None:
            return
        file, self._open = self._open, None
        with file:
            file.truncate(self._end)
            _write_at(file, self._end, END)

    def send_finished(self) -> None:
        """Send the tars that are not written to, and delete what is safe in the store.

        Raises:
            StoreError: one could not be sent; it is kept.
        """
        if self.settings.url is None:
            return
        for number in sorted(self._local()):
            if self._open is not None and number == self._number:
                continue
            path, name = self.tar(number), f"{self.prefix}/{self.tar(number).name}"
            if number not in self._sent:
                url = tar_url(self.settings.url, name)
                sent = send(path, url, tar_url(self.settings.read_url or self.settings.url, name))
                known = {**self._sent, number: sent}
                tars = {str(key): asdict(each) for key, each in sorted(known.items())}
                write_json(self._record, {"url": self.settings.url, "tars": tars})
                self._sent = known
            path.unlink()

    def close(self) -> None:
        """End the tar that is written to, and let go of all files."""
        self.finish()
        self.index.close()

    @property
    def _most(self) -> float:
        return self.settings.photographs_per_tar or float("inf")

    def _at_hand(self, number: int) -> BinaryIO:
        """A tar, fetched if it has to be."""
        path = self.tar(number)
        if number not in self._sent or path.is_file():
            return path.open("rb", buffering=0)
        cached = self.folder / FETCHED / path.name
        with self._fetching:
            if number in self._unreachable:  # once is enough: each photograph in it would wait as long
                raise StoreError(self._unreachable[number])
            try:
                os.utime(cached)  # the time of its last use
            except FileNotFoundError:
                self._fetch(number, cached)
            return cached.open("rb", buffering=0)

    def _fetch(self, number: int, cached: Path) -> None:
        """Fetch a tar; those that were not used for longest make room."""
        url = self.settings.read_url or self.settings.url
        if url is None:
            raise StoreError(f"{self.tar(number)} lies in a store; say with --outputs.read_url from where it is read")
        try:
            fetch(self._sent[number], tar_url(url, f"{self.prefix}/{cached.name}".lstrip("/")), cached)
        except StoreError as error:
            self._unreachable[number] = str(error)
            raise
        by_use = sorted(cached.parent.glob("*.tar"), key=_last_use)
        for path in by_use[: -self.settings.cached_tars]:
            path.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        """The last tar if it has room, or a new one, to append to; what was torn off by a kill is cut off."""
        known, local = self.index.tars(), self._local()
        last = max((*known, *local, *self._sent), default=-1)
        count = self.index.count(last)
        if last in local and last not in self._sent and count < self._most:
            self._number, self._end, self._count = last, known[last][0], count
            file = self.tar(last).open("r+b", buffering=0)
            file.truncate(self._end)
        else:
            self._number, self._end, self._count = last + 1, 0, 0
            file = self.tar(last + 1).open("xb+", buffering=0)
        self._open = file
        self.index.add(self._number, [], self._end)
        return file

    def _catch_up(self) -> None:
        """Let the index say what the tars hold."""
        known, local = self.index.tars(), self._local()
        self._sent = self._read_sent()  # only now: a tar that another process just deleted is in there
        for number in known.keys() - local.keys() - self._sent.keys():  # deleted by hand: to be made again
            self.index.drop(number)
        for number, size in sorted(local.items()):
            end, seen = known.get(number, (0, -1))
            if size == seen:
                continue
            if size < end:
                self.index.drop(number)
                end = 0
            self._take_up(number, end, size)
        for number in sorted(self._sent.keys() - known.keys() - local.keys()):
            self._take_up(number, 0, self._sent[number].bytes)

    def _take_up(self, number: int, end: int, size: int) -> None:
        try:
            file = self._at_hand(number)
        except FileNotFoundError:  # sent and deleted by another process a moment ago
            self._sent = self._read_sent()
            file = self._at_hand(number)
        with file:
            self.index.add(number, members(file, end), size)

    def _local(self) -> dict[int, int]:
        """The sizes in bytes of the tars that are here, by number."""
        found = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                match = (_FOREIGN if self._foreign else _OWN).fullmatch(entry.name)
                if match and match["writer"] == self.writer and match["number"]:
                    found[int(match["number"])] = entry.stat().st_size
        return found

    def _read_sent(self) -> dict[int, Sent]:
        """What the record says of the tars in the store; anybody may have written it."""
        if self._foreign or not self._record.is_file():
            return {}
        record = read_json(self._record)
        try:
            url = record["url"]
            sent = {int(number): Sent(each["bytes"], each["sha256"]) for number, each in record["tars"].items()}
            sound = all(0 <= number < _MOST and isinstance(each.bytes, int) for number, each in sent.items())
        except (AttributeError, KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise Tag2maskError(
                f"{self._record} does not say which tars are in the store; without it what they hold is made again"
            )
        if sent and self.settings.url not in (None, url):
            raise UsageError(
                f"the tars that {self._record} names are at {url}, outputs.url is {self.settings.url}; set it back, or "
                "move them and change the URL in that file"
            )
        return sent


def writers(names: Iterable[str], *, foreign: bool = False) -> list[str]:
    """Whose tars, indices and records these file names are, in order; of ``foreign`` ones, whose tars."""
    matches = [(_FOREIGN if foreign else _OWN).fullmatch(name) for name in names]
    return sorted({match["writer"] for match in matches if match})


def _write_at(file: BinaryIO, offset: int, raw: bytes) -> None:
    """Write all of these bytes; where a disk is nearly full, the system writes what has room and says how much."""
    file.seek(offset)
    left = memoryview(raw)
    while left:
        left = left[file.write(left) :]


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # by another process
        return 0.0
