"""The manifest: one row per image of a data set, which stages, workers and processes map into memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tag2mask.data.arrow_rows import RowFile, RowWriter

_BLOCK = 1024
"""Images that are read at a time."""


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image, its tags, and where its files are; nothing has been opened.

    Attributes:
        id: the path relative to the root without its suffix; in a VOC or COCO root the official ID.
        file: the image.
        tags: class ids 1..C in ascending order; empty for an image that holds none of the classes.
        truth: the ground-truth mask for evaluation, where there is one.
        splits: the names of its splits, joined by `;`.
    """

    id: str
    file: Path | str  # a million paths take seconds to make
    tags: tuple[int, ...]
    truth: Path | str | None = None
    splits: str = ""

    @property
    def path(self) -> Path:
        """The image."""
        return Path(self.file)

    @property
    def mask(self) -> Path | None:
        """The ground truth."""
        return None if self.truth is None else Path(self.truth)


Places = Sequence[int] | npt.NDArray[np.integer]
"""Which of several, by their numbers from 0."""


class ImageSource(Protocol):
    """Where a sequence reads its images."""

    def __len__(self) -> int:
        """How many there are."""

    def sizes(self, places: Places) -> npt.NDArray[np.int64]:
        """height << 32 | width of those that were measured, 0 of the others."""

    def keep_sizes(self, places: Places, sizes: npt.NDArray[np.int64]) -> None:
        """Remember what was measured, where that can be kept."""

    def saved(self, path: Path) -> "ImageSource":
        """The same from a file, where it can be one."""

    def read(self, places: Places) -> list[ImageItem]:
        """Those at these places, in the order of ``places``."""


class Images(Sequence[ImageItem]):
    """Images in order, read from their source whenever they are asked for.

    It holds which of the source's they are (8 bytes each, nothing for all, a slice, or every n-th), so that a million
    images take no more memory than a hundred. A slice is one too.
    """

    def __init__(self, source: ImageSource, places: Places | None = None) -> None:
        """Keep the two.

        Args:
            source: where they are read.
            places: which of the source's, in the order to have them in; None: all.
        """
        self._source = source
        self._places: Places = range(len(source)) if places is None else places

    @classmethod
    def of(cls, items: Sequence[ImageItem]) -> "Images":
        """Those of a sequence that is held; itself if it is one of these."""
        return items if isinstance(items, Images) else cls(HeldImages(tuple(items)))

    def __len__(self) -> int:
        """How many."""
        return len(self._places)

    @overload
    def __getitem__(self, key: int) -> ImageItem: ...

    @overload
    def __getitem__(self, key: slice) -> "Images": ...

    def __getitem__(self, key: int | slice) -> "ImageItem | Images":
        """One, or those of a slice."""
        if isinstance(key, slice):
            return Images(self._source, self._places[key])
        return self._source.read([int(self._places[key])])[0]

    def __iter__(self) -> Iterator[ImageItem]:
        """All in order, some read at a time."""
        for start in range(0, len(self._places), _BLOCK):
            yield from self._source.read(self._places[start : start + _BLOCK])

    def __eq__(self, other: object) -> bool:
        """Whether the other sequence holds equal images in the same order."""
        if not isinstance(other, Sequence) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def sizes(self) -> npt.NDArray[np.int64]:
        """height << 32 | width of those whose size was measured before, 0 of the others, int64 (N,)."""
        return self._source.sizes(self._places)

    def keep_sizes(self, sizes: npt.NDArray[np.int64]) -> None:
        """Remember sizes, as `sizes` gives them, for whatever holds these images."""
        self._source.keep_sizes(self._places, sizes)

    def saved(self, path: Path) -> "Images":
        """The same, with their source in a file, which other processes map."""
        return Images(self._source.saved(path), self._places)

    def at(self, places: Places) -> "Images":
        """Those at these places of this sequence, in the order of ``places``."""
        chosen = np.asarray(places, dtype=np.intp)
        if isinstance(self._places, range):
            return Images(self._source, self._places.start + self._places.step * chosen)
        return Images(self._source, np.asarray(self._places)[chosen])

    def with_masks(self, folder: Path) -> "Images":
        """The same, those without a mask with ``folder``/ID.png."""
        return Images(_Changed(self, partial(_with_mask, folder)))

    def without_masks(self) -> "Images":
        """The same without their masks."""
        return Images(_Changed(self, _without_mask))

    def with_tags(self, tags: Mapping[str, tuple[int, ...]]) -> "Images":
        """The same, with these tags in place of their own where there are such, by ID."""
        return Images(_Changed(self, partial(_with_tags, tags))) if tags else self

    def where(self, keep: Callable[[ImageItem], bool]) -> "Images":
        """Those for which ``keep`` is true."""
        flags = np.fromiter((keep(item) for item in self), dtype=np.bool_, count=len(self))
        return self if flags.all() else self.at(np.flatnonzero(flags))


@dataclass(frozen=True)
class HeldImages:
    """Images in memory."""

    items: tuple[ImageItem, ...]

    def __len__(self) -> int:
        """How many."""
        return len(self.items)

    def sizes(self, places: Places) -> npt.NDArray[np.int64]:
        """None was measured."""
        return np.zeros(len(places), dtype=np.int64)

    def keep_sizes(self, places: Places, sizes: npt.NDArray[np.int64]) -> None:
        """They are not kept."""

    def saved(self, path: Path) -> "HeldImages":
        """These: they travel whole."""
        return self

    def read(self, places: Places) -> list[ImageItem]:
        """Those at these places."""
        return [self.items[place] for place in places]


@dataclass(frozen=True)
class _Changed:
    """Images of another sequence, each with a change."""

    items: Images
    change: Callable[[ImageItem], ImageItem]

    def __len__(self) -> int:
        return len(self.items)

    def sizes(self, places: Places) -> npt.NDArray[np.int64]:
        return self.items.at(places).sizes()

    def keep_sizes(self, places: Places, sizes: npt.NDArray[np.int64]) -> None:
        self.items.at(places).keep_sizes(sizes)

    def saved(self, path: Path) -> "_Changed":
        return replace(self, items=self.items.saved(path))

    def read(self, places: Places) -> list[ImageItem]:
        return [self.change(item) for item in self.items.at(places)]


def _with_mask(folder: Path, item: ImageItem) -> ImageItem:
    return replace(item, truth=folder / f"{item.id}.png") if item.truth is None else item


def _without_mask(item: ImageItem) -> ImageItem:
    return replace(item, truth=None)


def _with_tags(tags: Mapping[str, tuple[int, ...]], item: ImageItem) -> ImageItem:
    return replace(item, tags=tags[item.id]) if item.id in tags else item


MANIFEST = "data.arrow"
"""The manifest of a run folder."""

HELD = 1 << 13
"""Images of a set of at most so many are made once and held, 300 bytes each."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("tags", pa.list_(pa.int32())),
        ("splits", pa.string()),
        ("mask", pa.string()),
    ]
)


class ManifestWriter(RowWriter):
    """Writes a manifest."""

    def __init__(self) -> None:
        """Begin with no image."""
        super().__init__(_SCHEMA)


class Manifest:
    """The images of a data set, or of a split of it, in order.

    Attributes:
        rows: columns ``id``, ``image`` (path), ``tags`` (class ids 1..C in ascending order), ``splits`` (names joined
            by `;`) and ``mask`` (path of the ground truth; null without).
        path: the file, where it has a name.
    """

    def __init__(self, rows: RowFile, path: Path | None = None) -> None:
        """Read rows that are mapped."""
        self.rows, self.path = rows, path
        self._sizes: npt.NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
        self._held: list[ImageItem] = []

    @classmethod
    def open(cls, path: Path) -> "Manifest":
        """Map a manifest that was saved.

        Raises:
            OSError: it is not there.
            pa.ArrowInvalid: it is damaged.
        """
        with path.open("rb") as file:
            return cls(RowFile(file), path)

    def saved(self, path: Path) -> "Manifest":
        """The same, written to a file that other processes can map."""
        self.rows.save(path)
        return Manifest.open(path)

    def __len__(self) -> int:
        """How many images."""
        return len(self.rows)

    def read(self, places: Places) -> list[ImageItem]:
        """Those at these places, in the order of ``places``."""
        if len(self) > HELD:
            return self._made(places)
        self._held = self._held or self._made(range(len(self)))
        return [self._held[place] for place in places]

    def sizes(self, places: Places) -> npt.NDArray[np.int64]:
        """height << 32 | width of those that were measured, 0 of the others."""
        return self._sizes[places]

    def keep_sizes(self, places: Places, sizes: npt.NDArray[np.int64]) -> None:
        """Remember what was measured."""
        self._sizes[places] = sizes

    def _made(self, places: Places) -> list[ImageItem]:
        return list(map(ImageItem, *self.rows.columns(places, ("id", "image", "tags", "mask", "splits"))))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Travel to another process by the name of the file, or, without one, as a list."""
        if self.path is not None:
            return Manifest.open, (self.path,)
        return HeldImages, (tuple(self.read(range(len(self)))),)
