"""A review session: the images, the layers of the run, and the decisions."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import version
from tag2mask.data.corrections import RECORD, CorrectionsFolder, Decision, Verdict
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import MaskError, image_size, read_mask, reduced_size, unknown_values
from tag2mask.data.manifest import ImageItem
from tag2mask.data.pixel_formats import Intensity
from tag2mask.quality.ranking import Ranking
from tag2mask.report.pictures import resize_labels
from tag2mask.review.assist import Assistant
from tag2mask.review.image_list import ReviewList
from tag2mask.review.layers import Labels, Layer, Size, layers_of
from tag2mask.runs.run_folder import RunFolder

LOCKS = 64
"""Decisions that can be written at the same time."""

CORRECTION = "correction"
"""The name of the layer with the accepted or corrected mask."""


class OutdatedError(Tag2maskError):
    """The image or its decision has changed since the page read it."""


class Stored(NamedTuple):
    """A decision as it is stored, None without one, and its version."""

    decision: Decision | None
    version: str


class Start(NamedTuple):
    """The layer of the initial mask, None without one, and a text that changes with its file."""

    name: str | None
    version: str


class Session:
    """The state behind the page: images are addressed by their index in the list. Thread-safe.

    Attributes:
        list: the images.
        layers: the layers of the run, by name.
        corrections: the folder of decisions.
        assistant: makes masks of objects under clicks; None: the page has no such tool.
    """

    def __init__(
        self,
        images: ImageSet,
        run: RunFolder,
        corrections: CorrectionsFolder,
        *,
        pixel_limit: int,
        intensity: Intensity | None = None,
    ) -> None:
        """Read the list of images and the decisions.

        Args:
            run: the run folder, which is only read.
            corrections: the folder of decisions, with the same classes.
            pixel_limit: an image with more pixels is an error.
            intensity: as in `read_image`.

        Raises:
            UsageError: an ID is the name of a file of the corrections, or the ranking is damaged.
        """
        self.run, self.corrections, self.pixel_limit, self.intensity = run, corrections, pixel_limit, intensity
        self.assistant: Assistant | None = None
        self.list = ReviewList(images, Ranking.of(run.path))
        if self.list.index(Path(RECORD).stem) is not None:
            raise UsageError(f"an image has the ID `{Path(RECORD).stem}`, and {RECORD} says the classes; rename it")
        self.layers = layers_of(run)
        self._locks = tuple(threading.Lock() for _ in range(LOCKS))
        self._sizes = lru_cache(maxsize=1024)(self._size)
        for image_id in corrections.ids():
            index = self.list.index(image_id)
            if index is not None:
                with suppress(Tag2maskError, OSError):  # the page of the image shows the error
                    self.list.record(index, corrections.decision(image_id))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes 1..C."""
        return self.list.images.classes

    def image_version(self, index: int) -> str:
        """A text that changes with the file of an image; empty if there is none."""
        return version(self.list.item(index).path)

    def size(self, index: int) -> Size:
        """(H, W) of an image.

        Raises:
            ImageError: the image cannot be read.
        """
        return self._sizes(index, self.image_version(index))

    def decision(self, index: int) -> Decision | None:
        """The stored decision about an image; another process may have changed it. Updates the list.

        Raises:
            Tag2maskError: the decision is damaged.
        """
        item = self.list.item(index)
        with self._lock(index):
            decision = self.corrections.decision(item.id)
            self.list.record(index, decision)
        return decision

    def start(self, index: int) -> Start:
        """The initial mask: a correction, the run's mask or a prediction."""
        item = self.list.item(index)
        if correction := self._mask(item):
            return Start(CORRECTION, version(correction))
        masks = (layer for layer in self.layers.values() if not layer.is_cam and layer.has(item))
        return next((Start(layer.name, version(layer.file(item))) for layer in masks), Start(None, ""))

    def labels(self, index: int, name: str, long_side: int | None = None) -> Labels:
        """The class of each pixel in a layer or in the correction.

        Raises:
            UsageError: unknown layer.
            Tag2maskError: the file cannot be read.
        """
        item, size = self.list.item(index), self.size(index)
        if name != CORRECTION:
            return self._layer(name).labels(item, size, len(self.classes), long_side)
        path = self._mask(item)
        if path is None:
            raise UsageError(f"{item.id} has no correction")
        mask = read_mask(path, size=size, classes=len(self.classes), pixel_limit=self.pixel_limit)
        return resize_labels(mask, reduced_size(size, long_side))

    def heat(self, index: int, name: str, class_id: int) -> Labels:
        """The CAM of a class in a layer, 255 = 1.

        Raises:
            UsageError: unknown layer, or it has no CAM of that class.
            Tag2maskError: the file cannot be read.
        """
        return self._layer(name).heat(self.list.item(index), self.size(index), len(self.classes), class_id)

    def save_mask(self, index: int, verdict: Verdict, mask: Labels, *, seen: str | None = None) -> Stored:
        """Store a mask as accepted or corrected; changed tags stay.

        Args:
            verdict: `accepted` or `corrected`.
            mask: uint8 (H, W), of the image's size.
            seen: the version of the decision that this one replaces; None for any.

        Raises:
            MaskError: the mask has values that are not classes.
            OutdatedError: the stored decision is another than ``seen``.
        """
        item = self.list.item(index)
        if wrong := unknown_values(mask, len(self.classes)):
            raise MaskError(f"the mask of {item.id}: {wrong}")
        with self._deciding(index, seen):
            before = self._before(item)
            return self._store(index, Decision.now(verdict, before.tags if before else None), mask)

    def delete_mask(self, index: int, verdict: Verdict | None, *, seen: str | None = None) -> Stored:
        """Reject the mask of an image, or undo its verdict (None); the stored mask is deleted, the tags stay.

        Raises:
            OutdatedError: the stored decision is another than ``seen``.
        """
        item = self.list.item(index)
        with self._deciding(index, seen):
            before = self._before(item)
            return self._store(index, Decision.now(verdict, before.tags if before else None))

    def change_tags(self, index: int, tags: Sequence[int] | None, *, seen: str | None = None) -> Stored:
        """Change the tags of an image; the verdict and the mask stay.

        Args:
            tags: class ids; None or those of the data set to undo a change.

        Raises:
            UsageError: a number is not a class id.
            OutdatedError: the stored decision is another than ``seen``.
        """
        item = self.list.item(index)
        wrong = [tag for tag in tags or () if not 1 <= tag <= len(self.classes)]
        if wrong:
            raise UsageError(f"{first_five(wrong)}: the classes are 1 to {len(self.classes)}")
        chosen = None if tags is None or set(tags) == set(item.tags) else sorted(set(tags))
        names = None if chosen is None else tuple(self.classes[tag - 1] for tag in chosen)
        with self._deciding(index, seen):
            before, path = self._before(item), self._mask(item)
            verdict = None if before is None or (before.has_mask and path is None) else before.verdict
            mask = None if path is None else read_mask(path, pixel_limit=self.pixel_limit)
            return self._store(index, Decision.now(verdict, names), mask)

    def _layer(self, name: str) -> Layer:
        if name not in self.layers:
            raise UsageError(f"unknown layer {name!r}; this run has {', '.join(self.layers)}")
        return self.layers[name]

    def _lock(self, index: int) -> threading.Lock:
        """The lock for the decision about an image; several images share one."""
        return self._locks[index % LOCKS]

    @contextmanager
    def _deciding(self, index: int, seen: str | None) -> Iterator[None]:
        """Lock the decision about an image, which is still the one with the version ``seen``; None for any."""
        image_id = self.list.item(index).id
        with self._lock(index):
            if seen not in (None, self.corrections.version(image_id)):
                raise OutdatedError(
                    f"somebody else has decided about {image_id} since this page opened it; `Try again` replaces that "
                    "decision, reloading the page keeps it"
                )
            yield

    def _before(self, item: ImageItem) -> Decision | None:
        """The stored decision; a stored mask without a readable decision counts as corrected."""
        try:
            return self.corrections.decision(item.id)
        except Tag2maskError:
            return Decision("corrected") if self.corrections.stored_mask(item.id) else None

    def _mask(self, item: ImageItem) -> Path | None:
        before = self._before(item)
        return self.corrections.stored_mask(item.id) if before is not None and before.has_mask else None

    def _store(self, index: int, decision: Decision, mask: Labels | None = None) -> Stored:
        """Store a decision; without verdict and tags, delete the stored one."""
        image_id = self.list.item(index).id
        stored = None if decision.verdict is None and decision.tags is None else decision
        if stored is None:
            self.corrections.forget(image_id)
        else:
            self.corrections.write(image_id, stored, mask)
        self.list.record(index, stored)
        return Stored(stored, self.corrections.version(image_id))

    def _size(self, index: int, _version: str) -> Size:
        return image_size(self.list.item(index).path, pixel_limit=self.pixel_limit)
