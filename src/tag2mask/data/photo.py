"""One photograph, and a sequence of them that does not hold them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, overload

import numpy as np
import numpy.typing as npt

from tag2mask.data.located import located, text_of

_BLOCK = 256
"""Photographs that are read at a time."""


@dataclass(frozen=True, init=False)
class Photo:
    """A photograph, its tags, and where its files are; nothing has been opened.

    Of the two paths it holds what the ID does not say, and shares that with the others of its folder.

    Attributes:
        id: the path relative to the root without its suffix; in a VOC or COCO root the official ID.
        path: the image.
        tags: class ids 1..C in ascending order; empty for a photograph that holds none of the classes.
        mask: the ground truth for evaluation, where there is one.
    """

    __slots__ = ("_image", "_truth", "id", "tags")

    id: str
    tags: tuple[int, ...]
    path: Path = property(lambda self: Path(text_of(self._image, self.id)))  # type: ignore[assignment] # noqa: RUF009
    mask: Path | None = property(  # type: ignore[assignment] # noqa: RUF009
        lambda self: None if self._truth is None else Path(text_of(self._truth, self.id))
    )

    def __init__(self, id: str, path: Path | str, tags: tuple[int, ...], mask: Path | str | None = None) -> None:
        """Take the paths apart."""
        truth = None if mask is None else located(mask, id)
        for name, value in (("id", id), ("_image", located(path, id)), ("tags", tags), ("_truth", truth)):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[type["Photo"], tuple[object, ...]]:
        """Travel to another process as what it is made from."""
        return Photo, (self.id, self.path, self.tags, self.mask)


Places = Sequence[int] | npt.NDArray[np.integer]
"""Which of several, by their numbers from 0."""


class PhotoSource(Protocol):
    """Where a sequence reads its photographs."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, places: Sequence[int]) -> list[Photo]:
        """Those at these places, in the order of ``places``."""


class Photos(Sequence[Photo]):
    """Photographs in order, read from their source whenever they are asked for.

    It holds which of the source's they are (8 bytes each, nothing for all, a slice, or every n-th), so that a million
    photographs take no more memory than a hundred. A slice is one too.
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
        return photos if isinstance(photos, Photos) else cls(_Held(tuple(photos)))

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
            yield from self._source.read([int(place) for place in self._places[start : start + _BLOCK]])

    def __eq__(self, other: object) -> bool:
        """Whether the other sequence holds equal photographs in the same order."""
        if not isinstance(other, Sequence) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def at(self, places: Places) -> "Photos":
        """Those at these places of this sequence, in the order of ``places``."""
        chosen = np.asarray(places, dtype=np.intp)
        if isinstance(self._places, range):
            return Photos(self._source, self._places.start + self._places.step * chosen)
        return Photos(self._source, np.asarray(self._places)[chosen])

    def with_masks(self, folder: Path, *, existing: bool = False) -> "Photos":
        """The same, those without a mask with ``folder``/ID.png; if ``existing``, where that is there."""
        return Photos(_Masked(self, folder, existing))

    def without_masks(self) -> "Photos":
        """The same without their masks."""
        return Photos(_Unmasked(self))

    def with_tags(self, tags: Mapping[str, tuple[int, ...]]) -> "Photos":
        """The same, with these tags in place of their own where there are such, by ID."""
        return Photos(_Retagged(self, tags)) if tags else self

    def where(self, keep: Callable[[Photo], bool]) -> "Photos":
        """Those for which ``keep`` is true."""
        flags = np.fromiter((keep(photo) for photo in self), dtype=np.bool_, count=len(self))
        return self if flags.all() else self.at(np.flatnonzero(flags))


@dataclass(frozen=True)
class _Masked:
    """Photographs of which those without a mask have one in a folder."""

    photos: Photos
    folder: Path
    existing: bool

    def __len__(self) -> int:
        return len(self.photos)

    def read(self, places: Sequence[int]) -> list[Photo]:
        return [photo if photo.mask is not None else self._masked(photo) for photo in self.photos.at(places)]

    def _masked(self, photo: Photo) -> Photo:
        mask = self.folder / f"{photo.id}.png"
        return photo if self.existing and not mask.is_file() else replace(photo, mask=mask)


@dataclass(frozen=True)
class _Unmasked:
    """Photographs whose masks are not to be believed."""

    photos: Photos

    def __len__(self) -> int:
        return len(self.photos)

    def read(self, places: Sequence[int]) -> list[Photo]:
        return [replace(photo, mask=None) for photo in self.photos.at(places)]


@dataclass(frozen=True)
class _Retagged:
    """Photographs of which some have other tags."""

    photos: Photos
    tags: Mapping[str, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.photos)

    def read(self, places: Sequence[int]) -> list[Photo]:
        return [
            replace(photo, tags=self.tags[photo.id]) if photo.id in self.tags else photo
            for photo in self.photos.at(places)
        ]


@dataclass(frozen=True)
class _Held:
    """Photographs in memory."""

    photos: tuple[Photo, ...]

    def __len__(self) -> int:
        return len(self.photos)

    def read(self, places: Sequence[int]) -> list[Photo]:
        return [self.photos[place] for place in places]
