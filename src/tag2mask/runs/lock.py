"""The lock of a run folder: one command at a time writes to it, or several with ``--shard``.

A command locks RUN/run.lock, one with ``--shard i/n`` RUN/run-i-of-n.lock. A JSON file next to the lock names its
owner. In a process group, the processes other than the main one lock RUN/run-process-K.lock. The operating system
frees a lock when its process ends, however it ends. The JSON file of another machine counts as a lock, since not every
shared disk carries locks between machines.
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
from time import monotonic

from filelock import Timeout

from tag2mask.core.errors import UsageError
from tag2mask.core.files import TEMPORARY_PREFIX, one_at_a_time, remove_abandoned, write_json

_NAME = re.compile(r"run(-\d+-of-(\d+)|-process-\d+)?\.lock")

_PROCESS = "run-process-"

_PATIENCE = 1.0
"""Seconds to wait for a process that only tests whether a lock is free, or has not yet written its name."""


@contextmanager
def run_lock(folder: Path, verb: str, shard: tuple[int, int] | None = None) -> Iterator[None]:
    """Keep other commands from writing to ``folder``; SIGTERM ends the block as Ctrl-C does, so that it cleans up.

    Args:
        folder: is made if it does not exist, and then removed at the end if nothing was written.
        verb: the command.
        shard: (i, n) of a command that shares the work with others; None or (1, 1) for the whole.

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
                _write_owner(lock, verb if shard is None else "{} --shard {}/{}".format(verb, *shard))
                # After that, so that of two commands that start at once, one sees the other.
                for other in sorted(folder.glob("run*.lock")):
                    if other != lock and _excludes(other, lock):
                        with _taken(other, lock, verb):
                            pass  # its process is dead: its files are removed
                for place in (folder, folder / "throughput"):  # a stage cleans its own folders
                    remove_abandoned(place.glob(f"{TEMPORARY_PREFIX}*"))
                yield
        finally:
            with suppress(OSError):
                for each in new:
                    each.rmdir()  # an error where it is not empty


@contextmanager
def process_lock(folder: Path, verb: str, number: int) -> Iterator[None]:
    """Keep other commands out while process ``number`` ≥ 1 of a group lives; the main process has its lock already.

    Raises:
        UsageError: the file system has no locks.
    """
    lock = folder / f"{_PROCESS}{number}.lock"
    with _taken(lock, lock, verb):
        _write_owner(lock, verb)
        yield


def _excludes(first: Path, second: Path) -> bool:
    """Whether two locks exclude each other: all do but different shards of one count."""
    names = [_NAME.fullmatch(lock.name) for lock in (first, second)]
    counts = [name[2] for name in names if name]
    return len(counts) == 2 and (None in counts or counts[0] != counts[1])


def _record(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.json")


@contextmanager
def _taken(lock: Path, own: Path, verb: str) -> Iterator[None]:
    """Hold a lock for the command ``verb``, whose own lock is ``own``; at the end it and its owner's file are removed.

    Raises:
        UsageError: another process holds it, or one of another machine did, which may be alive; or the file system
            has no locks.
    """
    owner = _owner(lock)
    # After a run on many machines was killed, one file should be in the way, and not one for each machine.
    if owner is not None and owner["host"] != gethostname() and not lock.name.startswith(_PROCESS):
        raise UsageError(_refusal(lock, own, verb))
    with ExitStack() as stack:
        try:
            until = monotonic() + _PATIENCE
            while True:
                try:
                    stack.enter_context(one_at_a_time(lock, patience=_PATIENCE))
                    break
                except (FileNotFoundError, FileExistsError):  # another command is removing the folder, which is empty
                    if monotonic() > until:
                        raise
        except Timeout as error:
            raise UsageError(_refusal(lock, own, verb)) from error
        except OSError as error:
            if error.filename is not None:  # the file fails, not its lock
                raise
            reason = f"{lock} cannot be locked ({error.strerror})"
            raise UsageError(f"{reason}; name a folder on a file system that has locks as --out") from error
        try:
            yield
        finally:
            with suppress(OSError):
                _record(lock).unlink()


def _write_owner(lock: Path, command: str) -> None:
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    owner = {"command": command, "process": os.getpid(), "host": gethostname(), "since": now}
    write_json(_record(lock), owner)


def _owner(lock: Path) -> dict[str, str] | None:
    """The recorded owner of a lock; None without a record, a `UsageError` if it is damaged."""
    record = _record(lock)
    try:
        if not record.is_file():  # reading a device or a pipe may never end
            return None
        said = json.loads(record.read_text(encoding="utf-8"))
        return {key: str(said[key]) for key in ("command", "process", "host", "since")}
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise UsageError(f"{record} is damaged; if no command works in {lock.parent}, delete it") from error


def _refusal(lock: Path, own: Path, verb: str) -> str:
    owner = _owner(lock)
    if owner is None:
        found, left = "a command that does not say which", lock
    else:
        found = "`tag2mask {command}`, process {process} on {host}, since {since}".format(**owner)
        left = _record(lock)
    sharded = "-of-" in lock.name + own.name
    together = ". Commands share a folder if each has --shard with another i of the same n" if sharded else ""
    other = "or stop it" if verb == "report" else "stop it, or use another --out"
    return (
        f"{lock.parent} is being written to by {found}; wait for its end, {other}{together}. "
        f"If that process is dead, delete {left}"
    )


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt instead of ending the process at once; only in the main thread."""
    previous = getsignal(SIGTERM)
    if current_thread() is not main_thread() or previous is None:
        yield
        return
    signal(SIGTERM, default_int_handler)
    try:
        yield
    finally:
        signal(SIGTERM, previous)
