"""Atomic files: what exists under its final name is whole.

Everything is written to a temporary name in the same folder and renamed, so that a reader, and a run that was
killed at any moment, never meets half a file.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from socket import gethostname
from typing import Any

from filelock import FileLock

from tag2mask.errors import Tag2maskError

TEMPORARY_PREFIX = ".partial-"
_DAY = 86400.0

_LONGEST_NAME = 255
"""Bytes that file systems take."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` when the block ends without an exception.

    The temporary name keeps the suffix of ``path`` (libraries choose a format by it). Parent folders are made.

    Args:
        path: the final name.

    Yields:
        the name to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(name: str) -> str:
    """A name for what this process writes for a while, which tells whether the process is still there."""
    begin = os.fsencode(f"{TEMPORARY_PREFIX}{gethostname()}~{os.getpid()}~{token_hex(4)}~")
    return os.fsdecode(begin + os.fsencode(name)[-max(1, _LONGEST_NAME - len(begin)) :])  # the end has the suffix


def is_newer(path: Path, than: Path) -> bool:
    """Whether a file was written after another one; false where one of them is missing."""
    try:
        return path.stat().st_mtime_ns > than.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return False


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically.

    Bytes of a file's name that are no UTF-8 become JSON's escapes, from which `read_json` makes the same name again.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; an unreadable one is a `Tag2maskError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Tag2maskError(f"{path} could not be read as JSON ({error}); delete it to have it made again") from error


@contextmanager
def one_at_a_time(lock: Path, *, patience: float = 10.0) -> Iterator[None]:
    """Let one process at a time do something; the others wait. The system lets the next one in when a process dies.

    Args:
        lock: a file that is there meanwhile; its folder is made.
        patience: seconds to wait.

    Raises:
        Timeout: of filelock, an OSError: another process does not come to an end with it.
    """
    with FileLock(lock, timeout=patience):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows deletes it when it is free
                lock.unlink()


def remove_partial(folder: Path) -> int:
    """Delete what killed runs left under temporary names in ``folder`` and below; what a live one writes stays.

    Returns:
        how many files were deleted.
    """
    return remove_abandoned(folder.rglob(f"{TEMPORARY_PREFIX}*") if folder.is_dir() else ())


def remove_abandoned(files: Iterable[Path]) -> int:
    """Delete those of these temporary files whose process is gone.

    Returns:
        how many files were deleted.
    """
    left = [path for path in files if _is_abandoned(path)]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _is_abandoned(path: Path) -> bool:
    """Whether the process that writes a temporary file is gone; of another machine's, after a day."""
    host, _, rest = path.name.removeprefix(TEMPORARY_PREFIX).partition("~")
    process = rest.partition("~")[0]
    if host != gethostname() or not process.isdecimal():
        try:
            return time.time() - path.stat().st_mtime > _DAY
        except OSError:
            return False
    return is_gone(int(process))


def is_gone(process: int) -> bool:
    """Whether no process of this machine has that number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # no number is as large
        return True
    except OSError:
        return False
    return False


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; its folders are made."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def files_below(folder: Path, suffix: str) -> Iterator[str]:
    """The names, with subfolders and forward slashes, of the files with a suffix in a folder, unordered."""
    for found in folder.rglob(f"*{suffix}"):
        if not found.name.startswith(TEMPORARY_PREFIX):
            yield found.relative_to(folder).as_posix()
