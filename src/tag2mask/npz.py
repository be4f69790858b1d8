"""The one way to read an ``.npz``: no code in it runs, threads may read at once, no small file becomes a huge one.

NumPy reads the header of an array by `ast.literal_eval`, which threads must not do at the same time: before Python
3.11.9 and 3.12.3 that now and then raises `SystemError` ("AST constructor recursion depth mismatch").
"""

import io
import zipfile
import zlib
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
import numpy.typing as npt

DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged file, or one of other contents, raises."""

_MOST_BYTES = 1 << 30
"""Bytes of all arrays of a file together; ours, far above what any file of this project holds."""

_HEADER = Lock()


def read_npz(file: Path | IO[bytes], names: tuple[str, ...] | None = None) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz`` by their names.

    Args:
        file: its path, or the open file.
        names: which arrays; None for all.

    Raises:
        ValueError, OSError, …: one of `DAMAGED`; the file is no such archive, holds objects, lacks an array, or says
            that it holds more than a gibibyte.
    """
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        chosen = {name: members[name] for name in (members if names is None else names)}
        if sum(member.file_size for member in chosen.values()) > _MOST_BYTES:
            raise ValueError("its arrays would take more than a gibibyte")
        contents = {name: archive.read(member) for name, member in chosen.items()}
    return {name: _array(content) for name, content in contents.items()}


def _array(content: bytes) -> npt.NDArray[Any]:
    """One member, an ``.npy``."""
    with _HEADER:
        array: npt.NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array
