"""The lock of a run folder: who writes to it now, so that nobody else does at the same time.

A command creates RUN/lock.json, one with ``--shard i/n`` RUN/lock-i-of-n.json, and deletes it at its end. A link to a
file that is whole, under a name that must not exist, is atomic on network file systems too, where locks of the
operating system may do nothing.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from signal import SIGTERM, default_int_handler, getsignal, signal
from socket import gethostname
from threading import current_thread, main_thread
from typing import Any

from tag2mask.errors import UsageError
from tag2mask.files import TEMPORARY_PREFIX, is_gone, remove_abandoned, temporary_name

_CLEARING = "lock.clearing"
"""Exists for the moment in which a dead process's lock is deleted, so that one process at a time does it."""

_NAME = re.compile(r"lock(-\d+-of-\d+)?\.json")

_PATIENCE = 2.0
"""Seconds to wait for what takes another process a moment."""


@dataclass(frozen=True)
class Holder:
    """A process that writes to a run folder.

    Attributes:
        verb: what it does.
        shard: (i, n) of ``--shard i/n``; None for the whole.
        host: its machine.
        namespace: what its process number counts in, where the system says: containers may share a host's name.
        pid: its process number.
        began: when it began, in the system's own count; tells it from a later process of the same number. None where
            that is not known.
        since: when it took the folder.
    """

    verb: str
    shard: tuple[int, int] | None
    host: str
    namespace: str
    pid: int
    began: int | None
    since: str

    @classmethod
    def this_process(cls, verb: str, shard: tuple[int, int] | None) -> "Holder":
        """The one that asks."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(verb, shard, gethostname(), _namespace(), os.getpid(), _began(os.getpid()), now)

    def is_dead(self) -> bool:
        """Whether the process is known to have ended; of another machine's that cannot be known."""
        if (self.host, self.namespace) != (gethostname(), _namespace()):
            return False
        began = _began(self.pid)
        return is_gone(self.pid) or (None not in (began, self.began) and began != self.began)

    def excludes(self, other: "Holder") -> bool:
        """Whether the two may not work in one folder: they may with different shards of as many."""
        if self.shard is None or other.shard is None:
            return True
        return self.shard == other.shard or self.shard[1] != other.shard[1]

    def __str__(self) -> str:
        shard = "" if self.shard is None else f" --shard {self.shard[0]}/{self.shard[1]}"
        return f"`tag2mask {self.verb}{shard}`, process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def held(folder: Path, verb: str, shard: tuple[int, int] | None = None) -> Iterator[None]:
    """Keep other commands from writing to ``folder``; SIGTERM ends the block as Ctrl-C does, so that the lock goes.

    Args:
        folder: made where it does not exist, and removed again, if nothing was written, by a command that did not find
            it there.
        verb: what works there.
        shard: (i, n) of a command that does its part beside others; None, or one of one, for the whole.

    Raises:
        UsageError: another command writes there, or may do so.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; it should name a folder")
    holder = Holder.this_process(verb, None if shard == (1, 1) else shard)
    path = folder / ("lock.json" if holder.shard is None else "lock-{}-of-{}.json".format(*holder.shard))
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    created = False
    with terminated_like_interrupted():
        try:
            _create(path, holder)
            created = True
            remove_abandoned(folder.glob(f"{TEMPORARY_PREFIX}*"))
            for other in sorted(folder.glob("lock*.json")):
                if other != path and _NAME.fullmatch(other.name):
                    _clear(other, holder)
            yield
        finally:
            with suppress(OSError, UsageError):
                if created and _read(path) == holder:
                    path.unlink()
                for each in new:
                    each.rmdir()  # an error where it is not empty


def _create(path: Path, holder: Holder) -> None:
    """Create the lock; that of a dead process gives way.

    Raises:
        UsageError: a living process holds it.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _put(path, json.dumps(asdict(holder), indent=2) + "\n")
        except FileExistsError:
            _clear(path, holder)
        except FileNotFoundError:  # another command found nothing to do here, and removed the folder
            pass
        else:
            return
        if time.monotonic() > deadline:
            raise UsageError(
                f"{path} could not be created; if no command works in {path.parent}, delete it and {_CLEARING}"
            )


def _put(path: Path, text: str) -> None:
    """Create a file that is whole from the first moment on, so that a kill leaves none that says nothing.

    Raises:
        FileExistsError: there is one.
        FileNotFoundError: its folder is gone.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError:  # no links on this file system: the next best
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _clear(path: Path, asking: Holder) -> None:
    """Delete a lock whose process is dead; one that does not stand in the way, or is gone by now, is left.

    Raises:
        UsageError: it stands in the way.
    """
    found = _read(path)
    if found is None:
        return
    if not found.is_dead():
        if found.excludes(asking):
            raise UsageError(_refusal(path, found, asking))
        return
    guard = path.with_name(_CLEARING)
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        time.sleep(0.02)
        return
    try:
        if _read(path) == found:  # else another command has cleared it, and may hold it by now
            path.unlink()
    finally:
        guard.unlink()


def _read(path: Path) -> Holder | None:
    """Who holds a lock; None if it is gone.

    Raises:
        UsageError: it stays unreadable.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return _holder(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:  # perhaps it is being written
            if time.monotonic() > deadline:
                raise UsageError(f"{path} is damaged; if no command works in {path.parent}, delete it") from error
        time.sleep(0.02)


def _holder(said: Any) -> Holder:
    """What a lock says.

    Raises:
        TypeError: something is missing, or of another kind.
        KeyError: likewise.
    """
    shard, began = said["shard"], said["began"]
    found = Holder(**{**said, "shard": tuple(shard) if shard else None})
    numbers = [found.pid, *(found.shard or (1, 1)), *([] if began is None else [began])]
    words = (found.verb, found.host, found.namespace, found.since)
    sound = all(type(number) is int for number in numbers) and all(isinstance(word, str) for word in words)
    if not sound or len(found.shard or (1, 1)) != 2 or not 0 < found.pid < 2**31:
        raise TypeError("not what a lock says")
    return found


def _refusal(path: Path, found: Holder, asking: Holder) -> str:
    """Who is in the way, and what to do."""
    together = ""
    if found.shard or asking.shard:
        together = ". Commands share a folder if each has --shard with another i of the same n"
    other = "or stop it" if asking.verb == "report" else "stop it, or use another --out"  # a page is of this folder
    return (
        f"{path.parent} is being written to by {found}; wait for its end, {other}{together}. "
        f"If that process is dead, delete {path}"
    )


def _began(process: int) -> int | None:
    """When a process began, in clock ticks since the machine did; 0 for one that has ended; None where unknown.

    Linux tells; see proc(5), fields `state` and `starttime` of stat.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _namespace() -> str:
    """What process numbers count in; empty where the system does not say."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (it is no path that it leads to)
    except OSError:
        return ""


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt instead of ending the process at once; only the main thread can have that."""
    previous = getsignal(SIGTERM)
    if current_thread() is not main_thread() or previous is None:
        yield
        return
    signal(SIGTERM, default_int_handler)
    try:
        yield
    finally:
        signal(SIGTERM, previous)
