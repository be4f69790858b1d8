"""Errors of the machine (full disk, no memory, lost processes): their causes and remedies.

Libraries raise them under many types, some with the cause in their text alone. Neither a file nor a setting is wrong.
"""

import errno
import os
import re
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

from tag2mask.core.errors import Tag2maskError

CONTINUES = "the same command continues from there"
KEPT = "finished files are kept, and the same command continues from there"

_FULL = {
    errno.ENOSPC: "no space left on the disk of {}; free some",
    errno.EDQUOT: "the disk quota for {} is used up; delete files, or have it raised",
    errno.EFBIG: "{} is larger than files may be here; raise the limit (`ulimit -f`), or use another file system",
}
_FILE = {
    errno.EACCES: "no permission for {}, or for a folder above it; change its owner or mode, or use another path",
    errno.EROFS: "{} is on a file system that is read-only; use a path on another one",
    errno.ENOENT: "{} does not exist; see whether it, or its folder, was deleted, renamed or unmounted",
    errno.ENAMETOOLONG: "the file system allows no name as long as that of {}; use a shorter one",
    errno.ENOTDIR: "{} cannot exist, since a part of its path is a file; use another path",
    errno.EISDIR: "{} is a folder, and should be a file; rename it",
}
_FILE[errno.EPERM] = _FILE[errno.EACCES]
_OTHER = "the system cannot use {} ({}); see whether its disk is connected and sound"
_PARTIAL = re.compile(r"\.partial-[^/]*?~\d+~[0-9a-f]+~")
_KINDS: tuple[tuple[str, tuple[int, ...], tuple[str, ...]], ...] = (
    (
        "a process that reads images was killed ({}), most likely because memory or shared memory (/dev/shm) ran out; "
        "use fewer --workers (--workers 0 starts no process), or a smaller batch_size",
        (),
        ("DataLoader worker (pid", "process pool was terminated", "shared memory", "<torch_", "</torch_"),
    ),
    (
        "another process of this command is lost ({}); its own message says why, or the system killed it because "
        "memory ran out",
        (),
        ("gloo/transport", "NCCL", "DistNetworkError", "DistStoreError", "DistBackendError"),
    ),
    (
        "too many open files ({}); raise the limit (`ulimit -n 4096`), or use fewer --workers",
        (errno.EMFILE, errno.ENFILE),
        ("Too many open files",),
    ),
    (
        "out of memory ({}); use gradient_accumulation_steps, fewer workers, or a smaller batch_size, long_side or "
        "augment.crop",
        (errno.ENOMEM,),
        (
            "MemoryError",
            "out of memory",
            "allocate memory",
            "bad_alloc",
            "could not create a primitive",  # oneDNN
            "could not create a memory",
            "failed to map segment",
        ),
    ),
    (
        "the system starts no more processes or threads ({}); raise the limit (`ulimit -u`), or use fewer --workers",
        (errno.EAGAIN,),
        ("can't start new thread", "Resource temporarily unavailable"),
    ),
    (
        "the device failed ({}); see the messages of its driver",
        (),
        ("AcceleratorError",),
    ),
)
"""Message, numbers of system errors, and parts of type names and texts of other errors; the first that fits counts."""


class DiskFullError(Tag2maskError, OSError):
    """A file could not be written for want of space; also an OSError, for what can do without the file."""


def machine_error(error: BaseException, path: Path | None = None) -> Tag2maskError | None:
    """The error of the machine behind ``error``, as a failure with cause and remedy; None for other errors.

    ``path``: the file that was to be written, if the error does not name it.
    """
    for each in _chain(error):
        number = getattr(each, "errno", None)
        text = f"{type(each).__name__}: {' '.join(str(each).split())}"
        searched = text if number is None else ""  # not the name of a file
        for message, numbers, parts in _KINDS:
            if number in numbers or any(part in searched for part in parts):
                return Tag2maskError(f"{message.format(text[:200])}; {KEPT}")
        for code, message in _FULL.items():
            if number == code or os.strerror(code) in searched:
                named = path or getattr(each, "filename", None) or "the output or of the temporary files"
                return DiskFullError(f"{message.format(named)}, and {CONTINUES}")
    return None


def system_error(error: OSError) -> str:
    """The cause and the remedy of an error of the system."""
    named = "a file" if error.filename is None else _PARTIAL.sub("", os.fsdecode(error.filename))
    return f"{_FILE.get(error.errno or 0, _OTHER).format(named, error.strerror or error)}; {KEPT}"


def require_shared_memory() -> None:
    """Raise a `Tag2maskError` if processes cannot be started for want of shared memory."""
    try:
        get_context().Lock()
    except OSError as error:
        raise Tag2maskError(
            f"--workers needs shared memory, and /dev/shm gives none ({error.strerror}); make room there, or use "
            "--workers 0"
        ) from error


def is_machine_error(error: BaseException) -> bool:
    """Whether an error that comes up while a file is read does not mean that the file is damaged."""
    return machine_error(error) is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it, without those of the project."""
    found: BaseException | None = error
    while found is not None:
        if not isinstance(found, Tag2maskError):
            yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
