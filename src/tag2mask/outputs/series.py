"""The tars of one writer: appended to one after the other, found again through its index, sent to a store when full."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.files import TEMPORARY_PREFIX, read_json, write_json
from tag2mask.outputs.index import Index, Place
from tag2mask.outputs.members import BLOCK, END, TornError, is_header_of, members, packed
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

    A tar is the truth: what the index does not know yet is taken up from there, and what is in no tar forgotten. One
    process at a time, the owner, appends and writes the index; any number read, and keep what is newer in memory.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        settings: OutputSettings,
        prefix: str,
        *,
        owner: bool = False,
        foreign: bool = False,
    ) -> None:
        """Find out what the tars hold.

        Args:
            folder: where the tars are; it exists.
            writer: whose, a name for files.
            settings: how many files a tar takes, and where the store is.
            prefix: of the tars in the store.
            owner: this process appends, and no other does.
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
        self._last: str | None = None
        self.index = Index(None if foreign else folder / f"{writer}.sqlite", read_only=not owner)
        self._owner, self._newer = owner, self.index if owner else None
        self._lost: set[int] = set()
        self._catch_up()

    def find(self, name: str) -> Place | None:
        """Where the newest member of a name is, also where that says that it is deleted."""
        found = self.index.find(name)
        if self._owner:
            return found
        if found is not None and found.tar in self._lost:
            found = None
        newer = None if self._newer is None else self._newer.find(name)
        places = [place for place in (found, newer) if place is not None]
        return max(places, key=lambda place: (place.tar, place.member.offset), default=None)

    def names(self) -> Iterator[str]:
        """The names of the files that are there, perhaps of some that are gone, too."""
        yield from self.index.names()
        if self._newer is not None and not self._owner:
            for name in self._newer.names():
                known = self.index.find(name)
                if known is None or known.member.is_deleted:
                    yield name

    def append(self, name: str, content: bytes | None) -> None:
        """Write a file, or that it is deleted (None); when this returns, a kill does not lose it.

        Raises:
            StoreError: the tar is full and could not be sent; the file is written all the same.
        """
        file = self._open or self._opened()
        if content is not None and name == self._last:  # twice in a row in one tar would be an error to WebDataset
            self.finish()
            file = self._begun(self._number + 1)
        member, raw = packed(name, content, self._end, time.time_ns())
        try:
            _write_at(file, self._end, raw)
            self.index.add(self._number, [member], member.end)
        except BaseException:  # what the index does not know must not be passed over by what follows
            file.truncate(self._end)
            raise
        self._end = member.end
        if content is not None:
            self._count, self._last = self._count + 1, name
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
        self.index.add(self._number, [], self._end + len(END))

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
        for index in {self.index, self._newer or self.index}:
            index.close()

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
        put_out(cached.parent, self.settings.cached_tars)

    def _opened(self) -> BinaryIO:
        """The last tar if it has room, or a new one, to append to; what was torn off by a kill is cut off."""
        local = self._local()
        last = max((*self.index.tars(), *local, *self._sent), default=-1)
        if last not in local or last in self._sent:
            return self._begun(last + 1)
        with self.tar(last).open("rb") as file:
            held = list(members(file, 0))
        files = [member.name for member in held if not member.is_deleted]
        if len(files) >= self._most:
            return self._begun(last + 1)
        self._open = self.tar(last).open("r+b", buffering=0)
        self._number, self._end, self._count = last, held[-1].end if held else 0, len(files)
        self._last = files[-1] if files else None
        self._open.truncate(self._end)
        self.index.add(last, [], self._end)
        return self._open

    def _begun(self, number: int) -> BinaryIO:
        """A new tar to append to."""
        self._open = self.tar(number).open("xb+", buffering=0)
        self._number, self._end, self._count, self._last = number, 0, 0, None
        self.index.add(number, [], 0)
        return self._open

    def _catch_up(self) -> None:
        """Take up from the tars what the index does not know."""
        known, local = self.index.tars(), self._local()
        self._sent = self._read_sent()  # only now: a tar that another process just deleted is in there
        for number in known.keys() - local.keys() - self._sent.keys():  # deleted by hand: to be made again
            self._lost.add(number)
            if self._owner:
                self.index.drop(number)
        for number, size in sorted(local.items()):
            end, seen = known.get(number, (0, -1))
            if size == seen:
                continue
            if size < end:  # tars never shrink by themselves
                self._lost.add(number)
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
        self._newer = self._newer or Index(None)
        try:
            with file:
                self._newer.add(number, members(file, end, whole=self._foreign), size, anew=end == 0)
        except TornError:
            raise Tag2maskError(f"{self.tar(number)} is no whole tar; bring it again, or delete it") from None

    def _local(self) -> dict[int, int]:
        """The sizes in bytes of the tars that are here, by number."""
        found = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                match = (_FOREIGN if self._foreign else _OWN).fullmatch(entry.name)
                if match and match["writer"] == self.writer and match["number"]:
                    with suppress(FileNotFoundError):  # sent and deleted by another process since it was listed
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


def put_out(fetched: Path, most: int) -> None:
    """Delete the fetched tars that were not used for longest, until there are ``most``."""
    whole = (path for path in fetched.glob("*.tar") if not path.name.startswith(TEMPORARY_PREFIX))
    for path in sorted(whole, key=_last_use)[:-most]:
        path.unlink(missing_ok=True)


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
