"""Reading ``.npz`` files: no code in them is run, in any number of threads, and within a limit of memory.

NumPy reads the header of an array by `ast.literal_eval`, which is not thread-safe before Python 3.11.9 and 3.12.3:
`SystemError` ("AST constructor recursion depth mismatch").
"""

import io
import math
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
    SyntaxError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors of reading a damaged file or one of other contents."""

MOST_BYTES = 1 << 31
"""Most bytes of all arrays of a file: three times the CAMs of 254 classes of 100 million pixels at stride 8."""

_HEADER = Lock()


def read_npz(file: Path | IO[bytes], names: tuple[str, ...] | None = None) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz`` by their names.

    Args:
        file: its path, or the open file.
        names: of the arrays to read, if they are there; None for all.

    Raises:
        ValueError, OSError, …: one of `DAMAGED`; the file is not an archive, holds objects, or is larger than
            `MOST_BYTES`.
    """
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        chosen = {name: member for name, member in members.items() if names is None or name in names}
        if sum(member.file_size for member in chosen.values()) > MOST_BYTES:
            raise ValueError("its arrays would take more than two gibibytes")
        contents = {name: archive.read(member) for name, member in chosen.items()}
    return {name: _array(content) for name, content in contents.items()}


def _array(content: bytes) -> npt.NDArray[Any]:
    """One member, an ``.npy``, whose header may not claim more than its content."""
    with _HEADER:
        file = io.BytesIO(content)
        version_1 = np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if version_1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if math.prod(shape) * dtype.itemsize > len(content):
            raise ValueError(f"it claims to be {dtype} {shape}, and has {len(content)} bytes")
        array: npt.NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array
