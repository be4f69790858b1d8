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
class Photo:
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


class PhotoSource(Protocol):
    """Where a sequence reads its images."""

    def __len__(self) -> int:
        """How many there are."""

    def sizes(self, places: Places) -> npt.NDArray[np.int64]:
        """height << 32 | width of those that were measured, 0 of the others."""

    def keep_sizes(self, places: Places, sizes: npt.NDArray[np.int64]) -> None:
        """Remember what was measured, where that can be kept."""

    def saved(self, path: Path) -> "PhotoSource":
        """The same from a file, where it can be one."""

    def read(self, places: Places) -> list[Photo]:
        """Those at these places, in the order of ``places``."""


class Photos(Sequence[Photo]):
    """Images in order, read from their source whenever they are asked for.

    It holds which of the source's they are (8 bytes each, nothing for all, a slice, or every n-th), so that a million
    images take no more memory than a hundred. A slice is one too.
    """

    def __init__(self, source: PhotoSource, places: Places | None = None) -> None:
        """Keep the two.

        Args:
            source: where they are read.
            places: which of the source's, in the order to have them in; None: all.
        """
        self._source = source
        self._places: Places = range(len(source)) if places is None else places

    @classmethod
    def of(cls, photos: Sequence[Photo]) -> "Photos":
        """Those of a sequence that is held; itself if it is one of these."""
        return photos if isinstance(photos, Photos) else cls(HeldPhotos(tuple(photos)))

    def __len__(self) -> int:
        """How many."""
        return len(self._places)

    @overload
    def __getitem__(self, key: int) -> Photo: ...

    @overload
    def __getitem__(self, key: slice) -> "Photos": ...

    def __getitem__(self, key: int | slice) -> "Photo | Photos":
        """One, or those of a slice."""
        if isinstance(key, slice):
            return Photos(self._source, self._places[key])
        return self._source.read([int(self._places[key])])[0]

    def __iter__(self) -> Iterator[Photo]:
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

    def saved(self, path: Path) -> "Photos":
        """The same, with their source in a file, which other processes map."""
        return Photos(self._source.saved(path), self._places)

    def at(self, places: Places) -> "Photos":
        """Those at these places of this sequence, in the order of ``places``."""
        chosen = np.asarray(places, dtype=np.intp)
        if isinstance(self._places, range):
            return Photos(self._source, self._places.start + self._places.step * chosen)
        return Photos(self._source, np.asarray(self._places)[chosen])

    def with_masks(self, folder: Path) -> "Photos":
        """The same, those without a mask with ``folder``/ID.png."""
        return Photos(_Changed(self, partial(_with_mask, folder)))

    def without_masks(self) -> "Photos":
        """The same without their masks."""
        return Photos(_Changed(self, _without_mask))

    def with_tags(self, tags: Mapping[str, tuple[int, ...]]) -> "Photos":
        """The same, with these tags in place of their own where there are such, by ID."""
        return Photos(_Changed(self, partial(_with_tags, tags))) if tags else self

    def where(self, keep: Callable[[Photo], bool]) -> "Photos":
        """Those for which ``keep`` is true."""
        flags = np.fromiter((keep(photo) for photo in self), dtype=np.bool_, count=len(self))
        return self if flags.all() else self.at(np.flatnonzero(flags))


@dataclass(frozen=True)
class HeldPhotos:
    """Images in memory."""

    photos: tuple[Photo, ...]

    def __len__(self) -> int:
        """How many."""
        return len(self.photos)

    def sizes(self, places: Places) -> npt.NDArray[np.int64]:
        """None was measured."""
        return np.zeros(len(places), dtype=np.int64)

    def keep_sizes(self, places: Places, sizes: npt.NDArray[np.int64]) -> None:
        """They are not kept."""

    def saved(self, path: Path) -> "HeldPhotos":
        """These: they travel whole."""
        return self

    def read(self, places: Places) -> list[Photo]:
        """Those at these places."""
        return [self.photos[place] for place in places]


@dataclass(frozen=True)
class _Changed:
    """Images of another sequence, each with a change."""

    photos: Photos
    change: Callable[[Photo], Photo]

    def __len__(self) -> int:
        return len(self.photos)

    def sizes(self, places: Places) -> npt.NDArray[np.int64]:
        return self.photos.at(places).sizes()

    def keep_sizes(self, places: Places, sizes: npt.NDArray[np.int64]) -> None:
        self.photos.at(places).keep_sizes(sizes)

    def saved(self, path: Path) -> "_Changed":
        return replace(self, photos=self.photos.saved(path))

    def read(self, places: Places) -> list[Photo]:
        return [self.change(photo) for photo in self.photos.at(places)]


def _with_mask(folder: Path, photo: Photo) -> Photo:
    return replace(photo, truth=folder / f"{photo.id}.png") if photo.truth is None else photo


def _without_mask(photo: Photo) -> Photo:
    return replace(photo, truth=None)


def _with_tags(tags: Mapping[str, tuple[int, ...]], photo: Photo) -> Photo:
    return replace(photo, tags=tags[photo.id]) if photo.id in tags else photo


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
        self._held: list[Photo] = []

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

    def read(self, places: Places) -> list[Photo]:
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

    def _made(self, places: Places) -> list[Photo]:
        return list(map(Photo, *self.rows.columns(places, ("id", "image", "tags", "mask", "splits"))))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Travel to another process by the name of the file, or, without one, as a list."""
        if self.path is not None:
            return Manifest.open, (self.path,)
        return HeldPhotos, (tuple(self.read(range(len(self)))),)
