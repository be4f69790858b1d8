"""The `.npy` files of CLIP-ES: pickled dictionaries of arrays, read without trusting them, and written.

A pickle can call whatever it names, and hands whatever it likes to what it made. So nothing of NumPy takes part in
reading one: arrays and number types are stood for by classes of this file, which check their state before an array is
made of it.
"""

import io
import math
import pickle
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tag2mask.errors import Tag2maskError
from tag2mask.files import atomic_path

KEYS, FULL, GRID = "keys", "attn_highres", "grid"
"""Class numbers; maps at the photograph's size; the same on CLIP's grid, which only our own export has."""

_SLACK = 1e-3


class NpyError(Tag2maskError):
    """A file that is missing, damaged, of another format, or not to be trusted; the message names it."""


@dataclass(frozen=True)
class NpyCams:
    """Base CAMs of one photograph as CLIP-ES stores them.

    Attributes:
        classes: (J,) int64, classes from 0, each once.
        full: (J, H, W) float16 in [0, 1].
        grid: (J, h, w) float16, where the file has it.
    """

    classes: npt.NDArray[np.int64]
    full: npt.NDArray[np.float16]
    grid: npt.NDArray[np.float16] | None = None


class _Refused(Exception):
    """What a pickle names and may not."""


def read_npy_cams(path: Path, classes: int, size: tuple[int, int]) -> NpyCams:
    """Read and check one file.

    Args:
        path: the file.
        classes: how many there are; a file may name 0 to ``classes`` − 1.
        size: (H, W) that the maps should have.

    Raises:
        NpyError: anything is wrong with it; no code in it has run.
    """
    values = _read_dictionary(path)
    keys, full, grid = values[KEYS], values[FULL], values.get(GRID)
    if keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise NpyError(f"{path}: `{KEYS}` should be one row of whole numbers, it is {keys.dtype} {keys.shape}")
    if len(np.unique(keys)) < len(keys) or (len(keys) and not 0 <= keys.min() <= keys.max() < classes):
        raise NpyError(
            f"{path}: `{KEYS}` should be different numbers from 0 to {classes - 1}, the classes without background; "
            f"they are {keys[:5].tolist()}; the file belongs to another class list, or counts background"
        )
    _check_maps(path, FULL, full, (len(keys), *size))
    if grid is not None:
        _check_maps(path, GRID, grid, (len(keys), *grid.shape[1:3]) if grid.ndim == 3 else (len(keys), 0, 0))
    half = None if grid is None else np.clip(grid, 0, 1).astype(np.float16)
    return NpyCams(keys.astype(np.int64), np.clip(full, 0, 1).astype(np.float16), half)


def write_npy_cams(path: Path, cams: NpyCams) -> None:
    """Write one file, atomically, as CLIP-ES does, with the maps on the grid beside those at full size."""
    values: dict[str, np.ndarray] = {KEYS: cams.classes, FULL: cams.full}
    if cams.grid is not None:
        values[GRID] = cams.grid
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(values, dtype=object), allow_pickle=True)


def _check_maps(path: Path, name: str, maps: np.ndarray, shape: tuple[int, ...]) -> None:
    if maps.shape != shape or maps.dtype.kind != "f" or 0 in shape[1:]:
        raise NpyError(
            f"{path}: `{name}` should be floating point of the shape {shape}, a map for each class at the size of the "
            f"photograph; it is {maps.dtype} {maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise NpyError(f"{path}: `{name}` holds NaN or infinity; make the file again")
    if len(maps) and (maps.min() < -_SLACK or maps.max() > 1 + _SLACK):
        raise NpyError(f"{path}: `{name}` should lie in [0, 1], it lies in [{maps.min():.3g}, {maps.max():.3g}]")


def _read_dictionary(path: Path) -> dict[str, np.ndarray]:
    """The arrays under the known names."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NpyError(f"{path} does not exist") from error
    except OSError as error:
        raise NpyError(f"{path} could not be read ({error.strerror})") from error
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    except Exception as error:  # a broken header raises whatever reading it as Python leads to
        raise NpyError(f"{path} is no .npy file, or a damaged one ({_first_line(error)})") from error
    if dtype.kind != "O" or shape != ():
        raise NpyError(f"{path} holds an array {dtype} {shape}, it should hold a dictionary, as CLIP-ES writes it")
    try:
        value = _load(data[file.tell() :])
    except _Refused as error:
        rule = "only arrays, numbers and names may be in it"
        raise NpyError(f"{path} is refused: it wants to use {error}, and {rule}") from error
    except Exception as error:  # a broken pickle raises whatever its half-read values lead to
        raise NpyError(f"{path} is truncated or damaged ({type(error).__name__}: {_first_line(error)})") from error
    if isinstance(value, _Array) and isinstance(value.value, _Single):
        value = value.value.item
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        kind = "array" if isinstance(value, _Array) else type(value).__name__
        raise NpyError(f"{path} holds a {kind}, it should hold a dictionary, as CLIP-ES writes it")
    missing = [key for key in (KEYS, FULL) if key not in value]
    if missing:
        names = ", ".join(map(repr, value)) or "nothing"
        raise NpyError(f"{path} is no file of CLIP-ES: it lacks {', '.join(missing)}, and holds {names}")
    arrays = {key: value[key] for key in (KEYS, FULL, GRID) if key in value}
    for key, entry in arrays.items():
        if isinstance(entry, _Array) and isinstance(entry.value, np.ndarray):
            arrays[key] = entry.value
        elif not isinstance(entry, np.ndarray):
            raise NpyError(f"{path}: `{key}` should be an array of numbers")
    return arrays


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or "no more is known"


_OPCODES = frozenset(  # as text, since a list would be sixty lines long
    """
    PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
    FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2
    TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL
    STACK_GLOBAL REDUCE BUILD
    """.split()  # noqa: SIM905
)
"""What pickles of dictionaries of arrays are made of, in any protocol."""


def _load(data: bytes) -> Any:
    """The value of a pickle, after a look at every instruction of it."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data), start=1):
        if opcode.name not in _OPCODES:
            raise _Refused(f"the instruction {opcode.name}")
        # A memo is as long as its largest number, so a large one would be a large allocation.
        if "PUT" in opcode.name and int(argument or 0) > count:
            raise _Refused(f"memo {argument}")
    return _ArraysOnly(io.BytesIO(data)).load()


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows the few names that arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; unknown ones are refused."""
        plain = module.replace("numpy._core", "numpy.core")
        if (plain, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[plain, name]


@dataclass(frozen=True)
class _Single:
    """The one item of an array of objects."""

    item: Any


class _Dtype:
    """A number type, or `object` for the dictionary itself, as a pickle describes it."""

    __slots__ = ("value",)

    def __init__(self, name: str) -> None:
        self.value = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        """The byte order, which is all that the state of a number type says."""
        plain = isinstance(state, tuple) and len(state) in (8, 9) and state[0] in (3, 4)
        if not plain or state[1] not in ("<", ">", "=", "|") or state[2:5] != (None, None, None):
            raise _Refused("a number type with unusual fields")
        if self.value.kind != "O":
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """An array, as a pickle fills it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | _Single | None = None

    def __setstate__(self, state: Any) -> None:
        """Numbers with as many bytes as their shape needs, or one object."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise _Refused("an array with unusual fields")
        _, shape, dtype, fortran, content = state
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
            raise _Refused("an array with an unusual shape")
        if dtype.value.kind == "O":
            if shape != () or not isinstance(content, list) or len(content) != 1:
                raise _Refused("an array of objects")
            self.value = _Single(content[0])
        else:
            self.value = _numbers(content, dtype, shape, "F" if fortran else "C")


class _NewArray:
    """Stands for `numpy._reconstruct`."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        """An array yet to be filled."""
        if kind is not _ARRAY or shape != (0,):
            raise _Refused("numpy._reconstruct with unusual arguments")
        return _Array()


class _NewDtype:
    """Stands for `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, name: Any, *flags: Any) -> _Dtype:
        """A number type."""
        if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?(b1|[iuf][1248]|O8?)", name) or name.endswith("f1"):
            raise _Refused(f"the number type {name!r}")
        return _Dtype(name)


class _NewScalar:
    """Stands for `numpy.scalar`."""

    __slots__ = ()

    def __call__(self, dtype: Any, data: Any = None) -> Any:
        """A single number."""
        if not isinstance(dtype, _Dtype):
            raise _Refused("numpy.scalar with unusual arguments")
        return _numbers(data, dtype, (), "C")[()]


class _FromBuffer:
    """Stands for `numpy._frombuffer`, which protocol 5 uses."""

    __slots__ = ()

    def __call__(self, data: Any, dtype: Any, shape: Any, order: Any, *rest: Any) -> np.ndarray:
        """An array."""
        plain = isinstance(dtype, _Dtype) and isinstance(shape, tuple) and order in ("C", "F")
        if not plain or not all(type(side) is int and side >= 0 for side in shape):
            raise _Refused("numpy._frombuffer with unusual arguments")
        return _numbers(data, dtype, shape, order)


class _Encode:
    """Stands for `codecs.encode`, by which protocol 2 writes bytes."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        """Bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise _Refused("codecs.encode with unusual arguments")
        return text.encode("latin1")


def _numbers(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    """An array from its bytes, in this machine's byte order."""
    content = content.encode("latin1") if isinstance(content, str) else content
    if dtype.value.kind not in "biuf" or not isinstance(content, bytes | bytearray):
        raise _Refused("an array that is not made of numbers")
    if len(content) != math.prod(shape) * dtype.value.itemsize:
        raise ValueError(f"{len(content)} bytes for an array {dtype.value} {shape}")
    array = np.frombuffer(content, dtype=dtype.value).reshape(shape, order=order)
    return array.astype(dtype.value.newbyteorder("="))


_ARRAY = object()
"""Stands for `numpy.ndarray`, which pickles only name, never call."""

_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _NewDtype(),
    ("numpy.core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy.core.multiarray", "scalar"): _NewScalar(),
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    ("_codecs", "encode"): _Encode(),
}
