"""The `.npy` files of CLIP-ES: pickled dictionaries of arrays, read without trusting them, and written.

A pickle can call whatever it names. This reader knows NumPy arrays, numbers and dictionaries, and refuses the rest by
name before anything is called.
"""

import io
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

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
    found = {key: value for key, value in values.items() if key in (KEYS, FULL, GRID)}
    missing = [key for key in (KEYS, FULL) if key not in found]
    if missing:
        names = ", ".join(map(repr, values)) or "nothing"
        raise NpyError(f"{path} is no file of CLIP-ES: it lacks {', '.join(missing)}, and holds {names}")
    keys, full, grid = found[KEYS], found[FULL], found.get(GRID)
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
    """The arrays that a file holds, by name."""
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
    except (ValueError, EOFError, SyntaxError, TypeError) as error:
        raise NpyError(f"{path} is no .npy file, or a damaged one ({_first_line(error)})") from error
    if dtype.kind != "O" or shape != ():
        raise NpyError(f"{path} holds an array {dtype} {shape}, it should hold a dictionary, as CLIP-ES writes it")
    try:
        value = _ArraysOnly(file).load()
    except _Refused as error:
        raise NpyError(
            f"{path} is refused: it wants to use {error}, and only arrays, numbers and names may be in it"
        ) from error
    except Exception as error:  # a broken pickle raises whatever its half-read values lead to
        raise NpyError(f"{path} is truncated or damaged ({type(error).__name__}: {_first_line(error)})") from error
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind == "O":
        value = value.item()
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise NpyError(f"{path} holds a {type(value).__name__}, it should hold a dictionary, as CLIP-ES writes it")
    arrays = {key: np.asarray(entry) for key, entry in value.items()}
    strange = [key for key, entry in arrays.items() if entry.dtype.kind not in "biuf"]
    if strange:
        raise NpyError(f"{path}: `{strange[0]}` holds something else than numbers")
    return arrays


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or "no more is known"


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows the few names that arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; unknown ones are refused, and what is known takes no unusual arguments."""
        plain = module.replace("numpy._core", "numpy.core")
        if (plain, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[plain, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to what lies outside the file."""
        raise _Refused("an object outside the file")


_ARRAY = object()
"""Stands for `numpy.ndarray`, which pickles only name, never call."""


def _new_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """An empty array, which the pickle then fills: the only call that NumPy itself writes."""
    if kind is not _ARRAY or shape != (0,):
        raise _Refused("numpy._reconstruct with unusual arguments")
    return np.ndarray(0, dtype=np.int8)


def _dtype(name: Any, *flags: Any) -> np.dtype:
    """A number type, or `object` for the dictionary itself."""
    if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?([biuf]\d{1,2}|O8?)", name):
        raise _Refused(f"the number type {name!r}")
    return np.dtype(name)


def _scalar(dtype: Any, data: Any = None) -> Any:
    """A single number."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or not isinstance(data, bytes):
        raise _Refused("numpy.scalar with unusual arguments")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *rest: Any) -> np.ndarray:
    """An array that was pickled with protocol 5."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf":
        raise _Refused("numpy._frombuffer with unusual arguments")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes as protocol 2 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("codecs.encode with unusual arguments")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any | Callable[..., Any]] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}
