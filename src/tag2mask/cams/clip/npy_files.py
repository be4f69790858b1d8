"""The `.npy` files of CLIP-ES: pickled dictionaries of arrays, read safely, and written.

A pickle can call any function that it names. In this reader, names only produce descriptions of arrays; the wanted
arrays are built from their descriptions at the end.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, first_five
from tag2mask.core.files import atomic_path

KEYS, FULL, GRID = "keys", "attn_highres", "grid"
"""Class numbers; maps at the image's size; the same on CLIP's grid, in files of tag2mask only."""

_SLACK = 1e-3

_SMALL, _BYTES_PER_VALUE = 1 << 20, 32
"""Most bytes of a file: those of everything but the maps, and of each value of the maps: float64, which old protocols
write as text, twice."""


class NpyError(Tag2maskError):
    """A file is missing, damaged, of another format, or unsafe."""


@dataclass(frozen=True)
class NpyCams:
    """Base CAMs of one image in CLIP-ES's format."""

    classes: npt.NDArray[np.int64]  # (J,) int64, classes from 0, each once
    full: npt.NDArray[np.float16]  # (J, H, W) float16 in [0, 1]
    grid: npt.NDArray[np.float16] | None = None  # (J, h, w) float16, if the file has it


class _Refused(Exception):
    """A pickle holds something that is not allowed."""


def read_npy_cams(path: Path, classes: int, size: tuple[int, int]) -> NpyCams:
    """Read and check one file.

    Args:
        classes: number of classes; a file may name 0 to ``classes`` − 1.
        size: (H, W) of the maps.

    Raises:
        NpyError: anything is wrong with it; no code in it is run.
    """
    largest = _SMALL + classes * math.prod(size) * _BYTES_PER_VALUE
    values = _read_dictionary(path, largest)
    keys, full, grid = values[KEYS], values[FULL], values.get(GRID)
    if keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise NpyError(f"{path}: `{KEYS}` should be one row of whole numbers, it is {keys.dtype} {keys.shape}")
    if len(np.unique(keys)) < len(keys) or (len(keys) and not 0 <= keys.min() <= keys.max() < classes):
        raise NpyError(
            f"{path}: `{KEYS}` should be different numbers from 0 to {classes - 1}, the classes without background; "
            f"received {keys[:5].tolist()}; the file belongs to another class list, or counts background"
        )
    _check_maps(path, FULL, full, (len(keys), *size))
    if grid is not None:
        _check_maps(path, GRID, grid, (len(keys), *grid.shape[1:3]) if grid.ndim == 3 else (len(keys), 0, 0))
    half = None if grid is None else np.clip(grid, 0, 1).astype(np.float16)
    return NpyCams(keys.astype(np.int64), np.clip(full, 0, 1).astype(np.float16), half)


def write_npy_cams(path: Path, cams: NpyCams) -> None:
    """Write one file, atomically, in CLIP-ES's format, with the maps on the grid."""
    values: dict[str, np.ndarray] = {KEYS: cams.classes, FULL: cams.full}
    if cams.grid is not None:
        values[GRID] = cams.grid
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(values, dtype=object), allow_pickle=True)


def _check_maps(path: Path, name: str, maps: np.ndarray, shape: tuple[int, ...]) -> None:
    if maps.shape != shape or maps.dtype.kind != "f" or 0 in shape[1:]:
        raise NpyError(
            f"{path}: `{name}` should be floating point of the shape {shape}, one map per class; it is {maps.dtype} "
            f"{maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise NpyError(f"{path}: `{name}` holds NaN or infinity; make the file again")
    if len(maps) and (maps.min() < -_SLACK or maps.max() > 1 + _SLACK):
        raise NpyError(f"{path}: `{name}` should lie in [0, 1], it lies in [{maps.min():.3g}, {maps.max():.3g}]")


def _read_dictionary(path: Path, largest: int) -> dict[str, np.ndarray]:
    """The arrays under the known names, of a file of at most ``largest`` bytes."""
    try:
        if (size := path.stat().st_size) > largest:
            raise NpyError(f"{path} has {size} bytes, maps of this image take at most {largest}; make the file again")
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
    except Exception as error:  # a broken header raises errors of many kinds
        raise NpyError(f"{path} is not a .npy file, or is damaged ({_first_line(error)})") from error
    if dtype.kind != "O" or shape != ():
        raise NpyError(f"{path} holds an array {dtype} {shape}, it should hold a dictionary, as CLIP-ES writes it")
    try:
        _check_instructions(data[file.tell() :])
        value = _Reader(file).load()
        if isinstance(value, _Array):
            value = value.item if _is_objects(value) else value
        if isinstance(value, dict):
            kept = {key: value[key] for key in (KEYS, FULL, GRID) if isinstance(value.get(key), _Array)}
            arrays = {key: entry.numbers() for key, entry in kept.items()}
    except _Refused as error:
        rule = "only arrays, numbers and names may be in it"
        raise NpyError(f"{path} is refused: it tries to use {error}, and {rule}") from error
    except Exception as error:  # a broken pickle raises errors of many kinds
        raise NpyError(f"{path} is truncated or damaged ({type(error).__name__}: {_first_line(error)})") from error
    if not isinstance(value, dict):
        kind = "array" if isinstance(value, _Array) else type(value).__name__
        raise NpyError(f"{path} holds a {kind}, it should hold a dictionary, as CLIP-ES writes it")
    if missing := [key for key in (KEYS, FULL) if key not in value]:
        names = first_five(repr(name)[:80] for name in value) or "nothing"
        raise NpyError(f"{path} is not a file of CLIP-ES: it lacks {', '.join(missing)}, and holds {names}")
    if other := [key for key in (KEYS, FULL, GRID) if key in value and key not in arrays]:
        raise NpyError(f"{path}: `{other[0]}` should be an array of numbers")
    return arrays


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_NAMES = frozenset(
    {
        "numpy ndarray",
        "numpy dtype",
        "numpy.core.multiarray _reconstruct",
        "numpy.core.multiarray scalar",
        "numpy.core.numeric _frombuffer",
        "_codecs encode",
    }
)
"""The names in pickles of arrays."""

_MOST_SIDES, _LONGEST_SIDE = 4, 2**31


@dataclass(frozen=True)
class _Name:
    """A name in a pickle; calling it describes the object that NumPy would make."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        return _described(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a name with a state")


@dataclass
class _Dtype:
    """A number type, or `object` for the dictionary itself."""

    name: str
    order: str = "="

    def __setstate__(self, state: Any) -> None:
        fields = state if isinstance(state, tuple) and len(state) in (8, 9) else (None,) * 8
        if fields[1] not in ("<", ">", "=", "|") or any(field is not None for field in fields[2:5]):
            raise _Refused("a number type with unusual fields")
        self.order = fields[1]


@dataclass
class _Array:
    """An array as a pickle describes it."""

    content: Any = None
    dtype: Any = None
    shape: Any = ()
    order: str = "C"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise _Refused("an array with unusual fields")
        _, self.shape, self.dtype, fortran, self.content = state
        self.order = "F" if fortran is True else "C"

    @property
    def item(self) -> Any:
        """The one object of an array of objects; `_Refused` for another array."""
        content = self.content
        if _is_objects(self) and self.shape == () and isinstance(content, list) and len(content) == 1:
            return content[0]
        raise _Refused("an array of objects")

    def numbers(self) -> np.ndarray:
        """The array, in this machine's byte order; `_Refused` or a ValueError if it is not made of numbers."""
        shape, content = self.shape, self.content
        sides = isinstance(shape, tuple) and len(shape) <= _MOST_SIDES
        if not sides or not all(type(side) is int and 0 <= side < _LONGEST_SIDE for side in shape):
            raise _Refused("an array with an unusual shape")
        if isinstance(content, str):
            content = content.encode("latin1")
        if not isinstance(self.dtype, _Dtype) or _is_objects(self) or not isinstance(content, bytes | bytearray):
            raise _Refused("an array that is not made of numbers")
        dtype = np.dtype(self.dtype.order + self.dtype.name.lstrip("<>|="))
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(content)} bytes for an array {dtype} {shape}")
        array = np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if self.order == "F" else "C")
        return array.astype(dtype.newbyteorder("="))


def _is_objects(array: _Array) -> bool:
    return isinstance(array.dtype, _Dtype) and "O" in array.dtype.name


def _described(name: str, arguments: tuple[Any, ...]) -> Any:
    """The description of the result of a call, for the calls that NumPy writes."""
    kinds = [type(argument) for argument in arguments]
    function = name.split()[1]
    if function == "_reconstruct" and kinds[:2] == [_Name, tuple] and arguments[1] == (0,):
        return _Array()
    if function == "dtype" and kinds[:1] == [str] and re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248]|O8?)", arguments[0]):
        return _Dtype(arguments[0])
    if function == "scalar" and kinds[:1] == [_Dtype] and len(arguments) == 2:
        return _Array(arguments[1], arguments[0])
    if function == "_frombuffer" and kinds[1:] == [_Dtype, tuple, str]:
        return _Array(*arguments)
    if function == "encode" and kinds == [str, str] and arguments[1] == "latin1":
        return arguments[0]  # bytes in protocol 2; encoded at the end, once, however often they are named
    raise _Refused(f"{name.replace(' ', '.')} with unusual arguments")


_INSTRUCTIONS = frozenset(
    """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING
    BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE
    BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
    """.split()  # noqa: SIM905
)
"""The instructions in pickles of arrays."""

_MOST_INSTRUCTIONS = 10_000
"""A file of CLIP-ES has less than 200."""


def _check_instructions(content: bytes) -> None:
    """Raise `_Refused` if a pickle has other or more instructions than arrays need."""
    for count, (instruction, _, _) in enumerate(pickletools.genops(content)):
        if instruction.name not in _INSTRUCTIONS:
            raise _Refused(f"the instruction {instruction.name}")
        if count == _MOST_INSTRUCTIONS:
            raise _Refused(f"more than {_MOST_INSTRUCTIONS} instructions")


def _with_text_keys(code: bytes, keys: slice) -> Callable[[Any], None]:
    """An instruction that fills a dictionary, with keys that are text: nested tuples can take forever to hash."""
    load = pickle._Unpickler.dispatch[ord(code)]

    def checked(reader: Any) -> None:
        if not all(type(key) is str for key in reader.stack[keys]):
            raise _Refused("a dictionary whose keys are not text")
        load(reader)

    return checked


class _Reader(pickle._Unpickler):
    """The pickle reader of the standard library, restricted to the names and dictionaries in pickles of arrays.

    It is the one written in Python: the one in C allocates memory for any index in the memo, and hashes keys before
    they can be checked, which takes forever for certain nested tuples.
    """

    dispatch: ClassVar = pickle._Unpickler.dispatch | {
        ord(pickle.SETITEM): _with_text_keys(pickle.SETITEM, slice(-2, -1)),
        ord(pickle.SETITEMS): _with_text_keys(pickle.SETITEMS, slice(0, None, 2)),
        ord(pickle.DICT): _with_text_keys(pickle.DICT, slice(0, None, 2)),
    }

    def find_class(self, module: str, name: str) -> _Name:
        """The description of an allowed name; `_Refused` for others."""
        plain = f"{module} {name}".replace("numpy._core", "numpy.core")
        if plain not in _NAMES:
            raise _Refused(f"{module}.{name}"[:80])
        return _Name(plain)
