"""Atomic writing through a temporary name in the same folder; safe reading of JSON and ``.npz`` files."""

import errno
import io
import json
import math
import os
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from socket import gethostname
from threading import Lock
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import psutil
import yaml
from filelock import FileLock

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.machine_errors import DiskFullError, machine_error

TEMPORARY_PREFIX = ".partial-"
_DAY = 86400.0
_LONGEST_NAME = 255  # bytes, in most file systems

_SURROGATE = re.compile("[\ud800-\udfff]")

DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    RuntimeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors of reading a file that is damaged or holds something else."""

MOST_BYTES = 1 << 31
"""Most bytes of all arrays in a file: three times the CAMs of 254 classes of 100 million pixels at stride 8."""

_HEADER = Lock()
"""NumPy parses headers by `ast.literal_eval`, which is not thread-safe before Python 3.11.9 and 3.12.3."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` when the block ends without an exception.

    The temporary name keeps the suffix of ``path``, since libraries choose a format by it. Parent folders are made.

    Raises:
        DiskFullError: there is no space for the file.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk while ``path`` is written, of any library, into a `DiskFullError`."""
    try:
        yield
    except Exception as error:
        found = machine_error(error, path)
        if isinstance(found, DiskFullError):
            raise found from error
        raise


def temporary_name(name: str) -> str:
    """A name for a temporary file, with the host and the number of this process."""
    begin = os.fsencode(f"{TEMPORARY_PREFIX}{gethostname()}~{os.getpid()}~{token_hex(4)}~")
    return os.fsdecode(begin + os.fsencode(name)[-max(1, _LONGEST_NAME - len(begin)) :])  # the end keeps the suffix


def require_inside(root: Path, path: Path) -> None:
    """Refuse a file whose folder, after links are resolved, is not ``root`` or below it; ``root`` may be a link.

    Raises:
        UsageError: a link, or `..`, leads out of ``root``.
    """
    real = Path(os.path.realpath(path.parent))  # unlike `Path.resolve` it does not fail for a link to itself
    if not real.is_relative_to(os.path.realpath(root)):
        raise UsageError(
            f"{path.parent} leads out of {root}, to {real}, and nothing is written there; remove that link, and link "
            f"the whole of {root} where its disk is too small"
        )


def is_newer(path: Path, than: Path) -> bool:
    """Whether a file was written after another one; False if one of them is missing."""
    try:
        return path.stat().st_mtime_ns > than.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return False


def version(path: Path) -> str:
    """A text that changes when a file is written or replaced; empty if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically, with its own line ends on every system."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; bytes of file names that are not UTF-8 become JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def read_json(path: Path, remedy: str = "delete it to have it made again") -> dict[str, Any]:
    """The object in a JSON file; a `Tag2maskError` with the ``remedy`` if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"it holds a {type(found).__name__} instead of an object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise Tag2maskError(f"{path} could not be read as JSON ({error}); {remedy}") from error
    return found


class YamlAliasError(UsageError, yaml.YAMLError):
    """YAML with an alias: few lines of aliases can stand for billions of values."""


def parse_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """What ``load`` makes of YAML without aliases.

    Raises:
        yaml.YAMLError: it cannot be read; a `YamlAliasError` for an alias.
    """
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            line, name = token.start_mark.line + 1, token.value[:80]
            raise YamlAliasError(f"line {line} has the alias *{name}, which is not read; repeat the value")
    try:
        return load(text)
    except (ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:  # such as of `!!int x`
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


def read_yaml(path: Path, *, as_text: bool = False) -> Any:
    """The content of a YAML file in UTF-8, without aliases.

    Args:
        as_text: keep every scalar as text, for names such as `no` and `1`.

    Raises:
        OSError, ValueError, yaml.YAMLError: it cannot be read; a `YamlAliasError` for an alias.
    """
    text = path.read_text(encoding="utf-8-sig")
    return parse_yaml(text, partial(yaml.load, Loader=yaml.BaseLoader if as_text else yaml.SafeLoader))


@contextmanager
def one_at_a_time(lock: Path, *, patience: float = 10.0) -> Iterator[None]:
    """A lock between processes; the file ``lock`` exists while it is held. ``patience`` is in seconds.

    Raises:
        filelock.Timeout: an OSError: another process holds the lock.
    """
    with FileLock(lock, timeout=patience):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


def remove_partial(folder: Path) -> int:
    """Delete the temporary files and folders of killed processes in ``folder`` and below; return their number."""
    return remove_abandoned(folder.rglob(f"{TEMPORARY_PREFIX}*") if folder.is_dir() else ())


def remove_partial_of(path: Path) -> int:
    """Delete what killed processes left of ``path``; return the number of files and folders."""
    left = path.parent.glob(f"{TEMPORARY_PREFIX}*")
    return remove_abandoned(each for each in left if each.name.endswith(f"~{path.name}"))


def remove_abandoned(files: Iterable[Path]) -> int:
    """Delete the temporary files and folders whose process no longer runs; return their number."""
    left = [path for path in files if _is_abandoned(path)]
    for path in left:
        _remove(path)
    return len(left)


def discard(path: Path) -> None:
    """Delete a file, a folder or a link, if it exists; a process that is killed here leaves no part of it in place."""
    gone = path.with_name(temporary_name(path.name))
    with suppress(FileNotFoundError):
        path.rename(gone)
    _remove(gone)


def _remove(path: Path) -> None:
    """Delete a file, a link, or a folder with its content, unless it is gone."""
    if path.is_dir() and not path.is_symlink():
        rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether the process of a temporary file no longer runs, or a file of another machine is a day old."""
    host, _, rest = path.name.removeprefix(TEMPORARY_PREFIX).partition("~")
    process = rest.partition("~")[0]
    if host != gethostname() or not process.isdecimal() or len(process) > len(str(2**31)):
        try:
            return time.time() - path.stat().st_mtime > _DAY
        except OSError:
            return False
    return not psutil.pid_exists(int(process))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def files_below(folder: Path, suffix: str) -> Iterator[str]:
    """The relative paths, with forward slashes, of the files with a suffix below a folder, unordered."""
    for found in folder.rglob(f"*{suffix}"):
        if not found.name.startswith(TEMPORARY_PREFIX):
            yield found.relative_to(folder).as_posix()


def open_file(path: Path) -> IO[bytes]:
    """Open a file to read it; opening a pipe may never end.

    Raises:
        OSError: it is missing, unreadable, or a pipe.
    """
    if path.is_fifo():
        raise OSError(errno.EINVAL, "it is a pipe instead of a file", str(path))
    return path.open("rb")


def read_npz(file: Path | IO[bytes], names: tuple[str, ...] | None = None) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz`` by name: those of ``names`` that exist, or all.

    Raises:
        ValueError, OSError, …: one of `DAMAGED`; the file is not an archive, holds objects, or its arrays are larger
            than `MOST_BYTES`.
    """
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        chosen = {name: member for name, member in members.items() if names is None or name in names}
        if sum(member.file_size for member in chosen.values()) > MOST_BYTES:
            raise ValueError("its arrays would take more than two gibibytes")
        contents = {name: archive.read(member) for name, member in chosen.items()}
    return {name: _array(content) for name, content in contents.items()}


def refuse_expansion(path: Path) -> None:
    """Raise a ValueError if a zip, as `torch.save` writes it, would take more memory than its file has bytes.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # as torch decides; `zipfile.is_zipfile` is False if bytes follow the end
            return
        with zipfile.ZipFile(file) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
        if claimed > path.stat().st_size:
            raise ValueError(f"its entries would take {claimed} bytes, and it has {path.stat().st_size}")


def _array(content: bytes) -> npt.NDArray[Any]:
    """One member, an ``.npy``; its header may not claim more bytes than there are."""
    with _HEADER:
        file = io.BytesIO(content)
        version_1 = np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if version_1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if math.prod(shape) * dtype.itemsize > len(content):
            raise ValueError(f"it claims to be {dtype} {shape}, and has {len(content)} bytes")
        array: npt.NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array
