"""Rows of a memory-mapped Arrow file, so that the memory of the process does not grow with their number."""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tag2mask.core.files import atomic_path
from tag2mask.core.machine_errors import DiskFullError

BATCH_ROWS = 1 << 12
"""Rows per record batch; the writer buffers this many."""

RESIDENT_ROWS = 1 << 15
"""Rows that are read before the pages of the file are released: resident pages count as memory of the process."""

Indices = Sequence[int] | npt.NDArray[np.integer]
"""Positions from 0 in a sequence."""


class ArrowWriter:
    """Writes rows into an anonymous temporary file, which no other user can open and which the system removes."""

    def __init__(self, schema: pa.Schema) -> None:
        """Create the file in the system's folder for temporary files, or in that of the variable TMPDIR."""
        self.count = 0
        self._schema, self._rows = schema, list[tuple[Any, ...]]()
        with _explained():
            self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its mapping
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), schema)

    def append(self, row: tuple[Any, ...]) -> None:
        """Add a row, in the order of the schema."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == BATCH_ROWS:
            self._flush()

    def finish(self) -> "MappedTable":
        """The rows, mapped for reading; no more can be added."""
        if self._rows:
            self._flush()
        with _explained():
            self._writer.close()
            self._file.flush()
            return MappedTable(self._file)

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [_array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        with _explained():
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows.clear()


class MappedTable:
    """Rows of a mapped Arrow file.

    Attributes:
        table: all rows; its buffers are pages of the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Map an open file.

        Raises:
            pa.ArrowInvalid: it is not an Arrow file.
        """
        self._mapped, self._read = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), 0
        self.table: pa.Table = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._mapped))).read_all()
        self._batches = self.table.to_batches()
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.table)

    def save(self, path: Path) -> None:
        """Write the rows to a named file, atomically."""
        with (
            atomic_path(path) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, self.table.schema) as writer,
        ):
            writer.write_table(self.table)

    def take(self, indices: Indices, names: Sequence[str]) -> list[list[Any]]:
        """The values of the named columns at ``indices``, in that order; lists as tuples, null as None."""
        chosen = np.asarray(indices, dtype=np.int64)
        if not len(chosen):
            return [[] for _ in names]
        self._read += len(chosen)
        if self._read > RESIDENT_ROWS and hasattr(self._mapped, "madvise"):
            self._mapped.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        if chosen[-1] - chosen[0] == len(chosen) - 1 and (np.diff(chosen) == 1).all():
            table = self.table.select(names).slice(int(chosen[0]), len(chosen))
            return [_values(column) for column in table.columns]
        order = np.argsort(chosen, kind="stable")
        ordered = chosen[order]
        numbers = np.searchsorted(self._ends, ordered, side="right")
        cuts = [*np.flatnonzero(np.diff(numbers, prepend=-1)).tolist(), len(ordered)]
        parts = []
        for start, stop in pairwise(cuts):  # `Table.take` copies whole columns
            batch = self._batches[numbers[start]].select(names)
            parts.append(batch.take(pa.array(ordered[start:stop] - (self._ends[numbers[start]] - len(batch)))))
        back = np.argsort(order).tolist()
        columns = map(_values, pa.Table.from_batches(parts).columns)
        return [[values[place] for place in back] for values in columns]


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # file names may hold bytes that are not text
        coded = [None if value is None else value.encode("utf-8", "surrogatepass") for value in values]
        return pa.array(coded, pa.binary()).view(kind)


def _values(column: pa.ChunkedArray) -> list[Any]:
    # `to_pylist` takes ten times as long.
    if pa.types.is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy().tolist()
        inner, start, lists = pc.list_flatten(column).to_numpy().tolist(), 0, []
        for length in lengths:
            lists.append(None if length < 0 else tuple(inner[start : start + length]))
            start += max(length, 0)
        return lists
    try:
        found: list[Any] = column.to_numpy().tolist()
    except (UnicodeDecodeError, pa.ArrowException):
        coded = column.cast(pa.binary()).to_pylist()
        found = [None if value is None else value.decode("utf-8", "surrogatepass") for value in coded]
    return found


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskFullError(
            f"the list of images could not be kept in the folder for temporary files ({error}); it takes some 200 "
            "bytes per image, and the variable TMPDIR names another folder"
        ) from error
