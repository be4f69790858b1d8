"""The arrays of an MXNet `.params` file, read without MXNet; nothing in the file can run.

The file is a list: a number that marks it, a reserved number, the arrays, their names. An array is its shape, where
it lay (ignored), its type and its values, in one of three layouts that MXNet has had. All numbers are little-endian.
"""

import math
import struct
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from tag2mask.errors import UsageError, first_five

_LIST = 0x112
_SHAPE_64 = 0xF993FAC8
_STORAGE_AND_SHAPE_64 = 0xF993FAC9
"""What an array begins with. In the oldest layout, that of 2016, it begins with its number of dimensions instead."""

_MOST_DIMENSIONS = 8
_LONGEST_NAME = 4096
_DENSE = 0
_TYPES = {0: torch.float32, 2: torch.float16}


def read_mxnet_params(path: Path) -> dict[str, Tensor]:
    """The arrays of the file by name, as they are there: names begin with `arg:` or `aux:`.

    No size in the file is believed before it is known that the file is long enough for it.

    Args:
        path: a `.params` file with dense arrays of float32 or float16.

    Returns:
        tensors on the CPU, in the order of the file.

    Raises:
        UsageError: there is no such file, it is of another kind, cut off, or holds arrays of another type.
    Source: the layout is that of MXNet's `NDArray::Save`.
    """
    if not path.is_file():
        raise UsageError(f"network.weights: there is no file {path}; give an MXNet .params file")
    try:
        with path.open("rb") as file:
            return _read_list(_Reader(file, path, path.stat().st_size))
    except OSError as error:
        raise UsageError(f"network.weights: {path} could not be read ({error})") from error


class _Reader:
    """Takes numbers and bytes from a file of ``size`` bytes, and says what is wrong with it."""

    def __init__(self, file: BufferedReader, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size

    def wrong(self, what: str) -> UsageError:
        return UsageError(
            f"network.weights: {self.path} could not be read as an MXNet .params file: {what} (before byte "
            f"{self.file.tell()} of {self.size}); fetch it again, or give a .pth or .safetensors file"
        )

    def remaining(self) -> int:
        return self.size - self.file.tell()

    def take(self, count: int) -> bytearray:
        if count > self.remaining():
            raise self.wrong(f"it ends too early, {count} bytes are missing from {self.remaining()}")
        taken = bytearray(count)
        if self.file.readinto(taken) != count:
            raise self.wrong("it became shorter while it was read")
        return taken

    def number(self, kind: str) -> int:
        """One number; ``kind`` as in `struct`: I and i have four bytes, Q and q eight."""
        return int(struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0])


def _read_list(reader: _Reader) -> dict[str, Tensor]:
    if reader.size < 24 or reader.number("Q") != _LIST:
        raise reader.wrong("it does not begin as one")
    reader.number("Q")  # reserved
    arrays = [_read_array(reader, index) for index in range(reader.number("Q"))]
    names = [_read_name(reader) for _ in range(_checked_count(reader, len(arrays)))]
    double = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if double:
        raise reader.wrong(f"names should differ, given more than once: {first_five(double)}")
    if reader.remaining():
        raise reader.wrong(f"{reader.remaining()} bytes follow its end")
    return dict(zip(names, arrays, strict=True))


def _checked_count(reader: _Reader, arrays: int) -> int:
    count = reader.number("Q")
    if count != arrays:
        raise reader.wrong(f"it has {arrays} arrays and {count} names")
    return count


def _read_name(reader: _Reader) -> str:
    length = reader.number("Q")
    if not 0 < length <= _LONGEST_NAME:
        raise reader.wrong(f"a name has {length} characters")
    try:
        return reader.take(length).decode("utf-8")
    except UnicodeDecodeError as error:
        raise reader.wrong("a name is not text") from error


def _read_array(reader: _Reader, index: int) -> Tensor:
    start = reader.number("I")
    if start == _STORAGE_AND_SHAPE_64:
        storage = reader.number("i")
        if storage != _DENSE:
            raise reader.wrong(f"array {index} is not dense (its storage type is {storage}, it should be {_DENSE})")
    wide = start in (_STORAGE_AND_SHAPE_64, _SHAPE_64)
    dimensions = reader.number("I") if wide else start
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise reader.wrong(f"array {index} has {dimensions} dimensions, or is of an unknown layout")
    shape = [reader.number("q" if wide else "I") for _ in range(dimensions)]
    if min(shape) < 1:
        raise reader.wrong(f"array {index} has the shape {shape}")
    reader.take(8)  # the device that it lay on: type and number
    kind = reader.number("i")
    if kind not in _TYPES:
        raise reader.wrong(f"array {index} is of type {kind}; read are 0 (float32) and 2 (float16)")
    values = reader.take(math.prod(shape) * _TYPES[kind].itemsize)
    return torch.frombuffer(values, dtype=_TYPES[kind]).reshape(shape)
