"""The manifest: one row per image of a data set, memory-mapped by stages, workers and processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tag2mask.data.arrow_rows import ArrowWriter, Indices, MappedTable

MANIFEST = "data.arrow"
"""The manifest of a run folder."""

CACHED_ITEMS = 1 << 13
"""Data sets of at most this many images keep their `ImageItem`s in memory, 300 bytes each."""

_BLOCK = 1024  # images per read

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("tags", pa.list_(pa.int32())),
        ("splits", pa.string()),
        ("mask", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image, its tags and the paths of its files; no file is opened.

    ``file``: the image.
    """

    id: str  # the path relative to the root without its suffix; in a VOC or COCO root the official ID
    file: Path | str  # constructing a million paths takes seconds
    tags: tuple[int, ...]  # class ids 1..C in ascending order; empty for an image that holds none of the classes
    truth_file: Path | str | None = None  # the ground-truth mask for evaluation, if any
    splits: str = ""  # the names of its splits, joined by `;`

    @property
    def path(self) -> Path:
        """The image."""
        return Path(self.file)

    @property
    def truth(self) -> Path | None:
        """The ground-truth mask."""
        return None if self.truth_file is None else Path(self.truth_file)


class ImageSource:
    """The storage that `Images` reads from."""

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: Indices) -> list[ImageItem]:
        """The items at ``indices``, in that order."""
        raise NotImplementedError

    def sizes(self, indices: Indices) -> npt.NDArray[np.int64]:
        """height << 32 | width, 0 where not measured."""
        return np.zeros(len(indices), dtype=np.int64)

    def keep_sizes(self, indices: Indices, sizes: npt.NDArray[np.int64]) -> None:
        """Store measured sizes, if this source can."""

    def save(self, path: Path) -> "ImageSource":
        """A source with the same items, stored in a file if this source can be."""
        return self


class Images(Sequence[ImageItem]):
    """A sequence of images, read from a source on access.

    It stores only the selected indices (8 bytes each; a range where possible), so that memory does not grow with the
    number of images. A slice is an `Images`.
    """

    def __init__(
        self,
        source: ImageSource,
        indices: Indices | None = None,
        changes: tuple[Callable[[ImageItem], ImageItem], ...] = (),
    ) -> None:
        """Select ``indices`` of a source (None: all); ``changes`` are applied to each item that is read."""
        self._source, self._changes = source, changes
        self._indices: Indices = range(len(source)) if indices is None else indices

    @classmethod
    def from_list(cls, items: Sequence[ImageItem]) -> "Images":
        """Images of a sequence in memory; an `Images` is returned as it is."""
        return items if isinstance(items, Images) else cls(InMemoryImages(tuple(items)))

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, key: int) -> ImageItem: ...

    @overload
    def __getitem__(self, key: slice) -> "Images": ...

    def __getitem__(self, key: int | slice) -> "ImageItem | Images":
        if isinstance(key, slice):
            return Images(self._source, self._indices[key], self._changes)
        return self._read([int(self._indices[key])])[0]

    def __iter__(self) -> Iterator[ImageItem]:
        for start in range(0, len(self), _BLOCK):
            yield from self._read(self._indices[start : start + _BLOCK])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(other) == len(self) and all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def sizes(self) -> npt.NDArray[np.int64]:
        """height << 32 | width of each image, 0 where not measured, int64 (N,)."""
        return self._source.sizes(self._indices)

    def keep_sizes(self, sizes: npt.NDArray[np.int64]) -> None:
        """Store the sizes of these images, encoded as in `sizes`, in their source."""
        self._source.keep_sizes(self._indices, sizes)

    def save(self, path: Path) -> "Images":
        """The same images, with their source saved to a file that other processes can map."""
        return Images(self._source.save(path), self._indices, self._changes)

    def take(self, indices: Indices) -> "Images":
        """The images at ``indices`` of this sequence, in that order."""
        chosen = np.asarray(indices, dtype=np.intp)
        if isinstance(self._indices, range):
            chosen = self._indices.start + self._indices.step * chosen
        else:
            chosen = np.asarray(self._indices)[chosen]
        return Images(self._source, chosen, self._changes)

    def filter(self, keep: Callable[[ImageItem], bool]) -> "Images":
        """The images for which ``keep`` is true."""
        flags = np.fromiter((keep(item) for item in self), dtype=np.bool_, count=len(self))
        return self if flags.all() else self.take(np.flatnonzero(flags))

    def with_truth(self, folder: Path) -> "Images":
        """The same images; those without ground truth get ``folder``/ID.png."""
        return self._changed(partial(_with_truth, folder))

    def without_truth(self) -> "Images":
        """The same images without their ground truth."""
        return self._changed(_without_truth)

    def with_tags(self, tags: Mapping[str, tuple[int, ...]]) -> "Images":
        """The same images, with the tags replaced by those of ``tags``, by ID."""
        return self._changed(partial(_with_tags, tags)) if tags else self

    def _changed(self, change: Callable[[ImageItem], ImageItem]) -> "Images":
        return Images(self._source, self._indices, (*self._changes, change))

    def _read(self, indices: Indices) -> list[ImageItem]:
        items = self._source.read(indices)
        for change in self._changes:
            items = list(map(change, items))
        return items


def _with_truth(folder: Path, item: ImageItem) -> ImageItem:
    return replace(item, truth_file=folder / f"{item.id}.png") if item.truth_file is None else item


def _without_truth(item: ImageItem) -> ImageItem:
    return replace(item, truth_file=None)


def _with_tags(tags: Mapping[str, tuple[int, ...]], item: ImageItem) -> ImageItem:
    return replace(item, tags=tags[item.id]) if item.id in tags else item


class InMemoryImages(ImageSource):
    """Images in memory."""

    def __init__(self, items: tuple[ImageItem, ...]) -> None:
        """Hold ``items``."""
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def read(self, indices: Indices) -> list[ImageItem]:
        """The items at ``indices``."""
        return [self.items[index] for index in indices]


class ManifestWriter(ArrowWriter):
    """Writes a manifest."""

    def __init__(self) -> None:
        """Start with no rows."""
        super().__init__(_SCHEMA)


class Manifest(ImageSource):
    """The images of a data set, or of one of its splits, in order.

    Attributes:
        rows: columns ``id``, ``image`` (path), ``tags`` (class ids 1..C in ascending order), ``splits`` (names joined
            by `;`) and ``mask`` (path of the ground truth, or null).
        path: the file; None for an anonymous one.
    """

    def __init__(self, rows: MappedTable, path: Path | None = None) -> None:
        """Read mapped rows."""
        self.rows, self.path = rows, path
        self._sizes: npt.NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
        self._cached: list[ImageItem] = []

    @classmethod
    def open(cls, path: Path) -> "Manifest":
        """Map a saved manifest.

        Raises:
            OSError: it does not exist.
            pa.ArrowInvalid: it is damaged.
        """
        with path.open("rb") as file:
            return cls(MappedTable(file), path)

    def save(self, path: Path) -> "Manifest":
        """The same manifest, written to a file that other processes can map."""
        self.rows.save(path)
        return Manifest.open(path)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: Indices) -> list[ImageItem]:
        """The items at ``indices``, in that order."""
        if len(self) > CACHED_ITEMS:
            return self._load(indices)
        self._cached = self._cached or self._load(range(len(self)))
        return [self._cached[index] for index in indices]

    def sizes(self, indices: Indices) -> npt.NDArray[np.int64]:
        """height << 32 | width, 0 where not measured."""
        return self._sizes[indices]

    def keep_sizes(self, indices: Indices, sizes: npt.NDArray[np.int64]) -> None:
        """Store measured sizes in memory."""
        self._sizes[indices] = sizes

    def _load(self, indices: Indices) -> list[ImageItem]:
        return list(map(ImageItem, *self.rows.take(indices, ("id", "image", "tags", "mask", "splits"))))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Pickle as the file name, or as a list of items if the file is anonymous."""
        if self.path is not None:
            return Manifest.open, (self.path,)
        return InMemoryImages, (tuple(self.read(range(len(self)))),)
