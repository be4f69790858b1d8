"""The lock of a run folder: one command at a time writes to it, or several with ``--shard``.

A command locks RUN/run.lock, one with ``--shard i/n`` RUN/run-i-of-n.lock, and says in a JSON file next to it who it
is. Of several processes that do one run together, the others than the main one lock RUN/run-process-K.lock. The
operating system frees a lock when its process ends, however it ends. What the JSON file of another machine says counts
even so, since not every shared disk has locks that reach other machines.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from signal import SIGTERM, default_int_handler, getsignal, signal
from socket import gethostname
from threading import current_thread, main_thread

from filelock import Timeout

from tag2mask.core.errors import UsageError
from tag2mask.core.files import TEMPORARY_PREFIX, one_at_a_time, remove_abandoned, write_json

_NAME = re.compile(r"run(-\d+-of-(\d+)|-process-\d+)?\.lock")

_PROCESS = "run-process-"
"""How the names of locks begin that processes hold along with the main one."""

_PATIENCE = 1.0
"""Seconds to wait for a process that only looks whether a lock is free, or has not yet said who it is."""


@contextmanager
def run_lock(folder: Path, verb: str, shard: tuple[int, int] | None = None) -> Iterator[None]:
    """Keep other commands from writing to ``folder``; SIGTERM ends the block as Ctrl-C does, so that all is tidied up.

    Args:
        folder: made where it does not exist, and removed again, if nothing was written, by a command that did not find
            it there.
        verb: the command.
        shard: (i, n) of a command that shares the work with others; None, or one of one, for the whole.

    Raises:
        UsageError: another command writes there, or may do so.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; it should name a folder")
    shard = None if shard == (1, 1) else shard
    lock = folder / ("run.lock" if shard is None else "run-{}-of-{}.lock".format(*shard))
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    with sigterm_as_interrupt():
        try:
            with _taken(lock, lock, verb):
                _write_holder(lock, verb if shard is None else "{} --shard {}/{}".format(verb, *shard))
                # After that, so that of two commands that begin at once, one sees the other.
                for other in sorted(folder.glob("run*.lock")):
                    if other != lock and _excludes(other, lock):
                        with _taken(other, lock, verb):
                            pass  # its process is dead, and what it left goes
                remove_abandoned(folder.glob(f"{TEMPORARY_PREFIX}*"))
                yield
        finally:
            with suppress(OSError):
                for each in new:
                    each.rmdir()  # an error where it is not empty


@contextmanager
def process_lock(folder: Path, verb: str, number: int) -> Iterator[None]:
    """Keep other commands out while this process lives, along with the main process, which has the lock by now.

    Args:
        folder: of the run.
        verb: the command.
        number: of this process, from 1.

    Raises:
        UsageError: the file system has no locks.
    """
    lock = folder / f"{_PROCESS}{number}.lock"
    with _taken(lock, lock, verb):
        _write_holder(lock, verb)
        yield


def _excludes(first: Path, second: Path) -> bool:
    """Whether two commands may not work in one folder, by their locks: they may with different shards of one count."""
    names = [_NAME.fullmatch(lock.name) for lock in (first, second)]
    counts = [name[2] for name in names if name]
    return len(counts) == 2 and (None in counts or counts[0] != counts[1])


def _record(lock: Path) -> Path:
    """The file that says who holds a lock."""
    return lock.with_name(f"{lock.name}.json")


@contextmanager
def _taken(lock: Path, own: Path, verb: str) -> Iterator[None]:
    """Hold a lock; at the end it goes, with the file that says who held it.

    Args:
        lock: the file.
        own: that of the command that asks.
        verb: the command that asks.

    Raises:
        UsageError: another process holds it, or one of another machine did, which may be alive; or the file system
            has no locks.
    """
    holder = _holder(lock)
    # Of a run on many machines that was killed, one file should be in the way, and not one for each machine.
    if holder is not None and holder["host"] != gethostname() and not lock.name.startswith(_PROCESS):
        raise UsageError(_refusal(lock, own, verb))
    with ExitStack() as stack:
        try:
            stack.enter_context(one_at_a_time(lock, patience=_PATIENCE))
        except Timeout as error:
            raise UsageError(_refusal(lock, own, verb)) from error
        except OSError as error:
            if error.filename is not None:  # it is the file that fails, and not its lock
                raise
            reason = f"{lock} cannot be locked ({error.strerror})"
            raise UsageError(f"{reason}; name a folder on a file system that has locks as --out") from error
        try:
            yield
        finally:
            with suppress(OSError):
                _record(lock).unlink()


def _write_holder(lock: Path, command: str) -> None:
    """Say that this process holds a lock."""
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    holder = {"command": command, "process": os.getpid(), "host": gethostname(), "since": now}
    write_json(_record(lock), holder)


def _holder(lock: Path) -> dict[str, str] | None:
    """The content of the file that says who holds a lock; None where there is none.

    Raises:
        UsageError: it is damaged.
    """
    record = _record(lock)
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        return {key: str(said[key]) for key in ("command", "process", "host", "since")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, TypeError, KeyError) as error:
        raise UsageError(f"{record} is damaged; if no command works in {lock.parent}, delete it") from error


def _refusal(lock: Path, own: Path, verb: str) -> str:
    """Who is in the way, and what to do."""
    holder = _holder(lock)
    if holder is None:
        found, left = "a command that does not say which", lock
    else:
        found = "`tag2mask {command}`, process {process} on {host}, since {since}".format(**holder)
        left = _record(lock)
    sharded = "-of-" in lock.name + own.name
    together = ". Commands share a folder if each has --shard with another i of the same n" if sharded else ""
    other = "or stop it" if verb == "report" else "stop it, or use another --out"  # a page is of this folder
    return (
        f"{lock.parent} is being written to by {found}; wait for its end, {other}{together}. "
        f"If that process is dead, delete {left}"
    )


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
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
