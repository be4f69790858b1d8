"""A review: the images, the stages of the run, and the decisions."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.data.corrections import RECORD, CorrectionsFolder, Decision, Verdict
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import MaskError, image_size, read_mask, reduced_size, values_that_are_no_class
from tag2mask.data.manifest import ImageItem
from tag2mask.data.pixel_formats import Intensity
from tag2mask.quality.ranking import IMAGES, read_ranking
from tag2mask.report.pictures import resize_labels
from tag2mask.review.image_list import ReviewList
from tag2mask.review.layers import Labels, Size, Stage, stages_of
from tag2mask.runs.run_folder import RunFolder

LOCKS = 64
"""Decisions that can be written at the same time."""

CORRECTION = "correction"
"""The name of an accepted or corrected mask, in addition to those of the stages."""


class Desk:
    """The queries and decisions of the page, by the place of an image in the list. Thread-safe.

    Attributes:
        list: the images.
        stages: the stages to show, by name.
        corrections: the folder of decisions.
        pixel_limit: an image with more pixels is not opened.
        intensity: as in `read_image`.
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
        """Read the images and the decisions once.

        Args:
            photos: to be reviewed.
            run: with masks and CAMs; only read.
            corrections: the decisions, of the same classes.
            pixel_limit: an image with more pixels is not opened.
            intensity: as in `read_image`.

        Raises:
            UsageError: an ID is the name of the record of the corrections, or the ranking is damaged.
        """
        self.run, self.corrections, self.pixel_limit, self.intensity = run, corrections, pixel_limit, intensity
        self.list = ReviewList(images, read_ranking(run.path) if (run / IMAGES).is_file() else None)
        if self.list.place(Path(RECORD).stem) is not None:
            raise UsageError(f"an image has the ID `{Path(RECORD).stem}`, and {RECORD} says the classes; rename it")
        self.stages = stages_of(run)
        self._locks = tuple(threading.Lock() for _ in range(LOCKS))
        self.size = lru_cache(maxsize=1024)(self._size)
        for image_id in corrections.ids():
            place = self.list.place(image_id)
            if place is not None:
                with suppress(Tag2maskError, OSError):  # the page of the image shows the error
                    self.list.note(place, corrections.decision(image_id))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes 1..C."""
        return self.list.images.classes

    def decision(self, place: int) -> Decision | None:
        """The stored decision about an image, also by another review; the list is updated.

        Raises:
            Tag2maskError: the decision is damaged.
        """
        item = self.list.item(place)
        with self._lock(place):
            decision = self.corrections.decision(item.id)
            self.list.note(place, decision)
        return decision

    def start(self, place: int) -> str | None:
        """The name of the mask to start from: a correction, the run's mask or a prediction; None without any."""
        item = self.list.item(place)
        if self._mask(item) is not None:
            return CORRECTION
        masks = (name for name, stage in self.stages.items() if not stage.is_cam and stage.has(item))
        return next(masks, None)

    def labels(self, place: int, name: str, long_side: int | None = None) -> Labels:
        """The class of each pixel, by a stage or by a correction.

        Raises:
            UsageError: there is no such stage.
            Tag2maskError: it cannot be read.
        """
        item, size = self.list.item(place), self.size(place)
        if name != CORRECTION:
            return self._stage(name).labels(item, size, len(self.classes), long_side)
        path = self._mask(item)
        if path is None:
            raise UsageError(f"{item.id} has no correction")
        mask = read_mask(path, size=size, classes=len(self.classes), pixel_limit=self.pixel_limit)
        return resize_labels(mask, reduced_size(size, long_side))

    def heat(self, place: int, name: str, class_id: int) -> Labels:
        """The CAM of a class by a stage, 255 = 1.

        Raises:
            UsageError: there is no such stage, or it has no CAM of that class.
            Tag2maskError: it cannot be read.
        """
        return self._stage(name).heat(self.list.item(place), self.size(place), len(self.classes), class_id)

    def keep_mask(self, place: int, verdict: Verdict, mask: Labels) -> Decision | None:
        """Store a mask as accepted or corrected; decided tags stay.

        Args:
            place: of the image.
            verdict: `accepted` or `corrected`.
            mask: uint8 (H, W), of the image's size.

        Raises:
            MaskError: the mask has values that are not classes.
        """
        item = self.list.item(place)
        if wrong := values_that_are_no_class(mask, len(self.classes)):
            raise MaskError(f"the mask of {item.id}: {wrong}")
        with self._lock(place):
            before = self._before(item)
            return self._store(place, Decision.now(verdict, before.tags if before else None), mask)

    def drop_mask(self, place: int, verdict: Verdict | None) -> Decision | None:
        """Reject an image's mask, or undo its verdict (None); a stored mask is deleted, the tags stay."""
        item = self.list.item(place)
        with self._lock(place):
            before = self._before(item)
            return self._store(place, Decision.now(verdict, before.tags if before else None))

    def change_tags(self, place: int, tags: Sequence[int] | None) -> Decision | None:
        """Change the tags of an image; the verdict and the mask stay.

        Args:
            place: of the image.
            tags: class ids; None or the data set's own to undo a change.

        Raises:
            UsageError: a number that is not a class.
        """
        item = self.list.item(place)
        wrong = [tag for tag in tags or () if not 1 <= tag <= len(self.classes)]
        if wrong:
            raise UsageError(f"{first_five(wrong)}: the classes are 1 to {len(self.classes)}")
        chosen = None if tags is None or set(tags) == set(item.tags) else sorted(set(tags))
        names = None if chosen is None else tuple(self.classes[tag - 1] for tag in chosen)
        with self._lock(place):
            before, path = self._before(item), self._mask(item)
            verdict = None if before is None or (before.has_mask and path is None) else before.verdict
            mask = None if path is None else read_mask(path, pixel_limit=self.pixel_limit)
            return self._store(place, Decision.now(verdict, names), mask)

    def _stage(self, name: str) -> Stage:
        if name not in self.stages:
            raise UsageError(f"there is no stage {name!r} here, only {', '.join(self.stages)}")
        return self.stages[name]

    def _lock(self, place: int) -> threading.Lock:
        """The lock for the decision about an image; images rarely share one."""
        return self._locks[place % LOCKS]

    def _before(self, item: ImageItem) -> Decision | None:
        """The decision so far; a mask with a damaged decision or none counts as corrected."""
        try:
            return self.corrections.decision(item.id)
        except Tag2maskError:
            return Decision("corrected") if self.corrections.stored_mask(item.id) else None

    def _mask(self, item: ImageItem) -> Path | None:
        """The accepted or corrected mask."""
        before = self._before(item)
        return self.corrections.stored_mask(item.id) if before is not None and before.has_mask else None

    def _store(self, place: int, decision: Decision, mask: Labels | None = None) -> Decision | None:
        """Store a decision; None if it says nothing, which undoes an earlier one."""
        image_id = self.list.item(place).id
        stored = None if decision.verdict is None and decision.tags is None else decision
        if stored is None:
            self.corrections.forget(image_id)
        else:
            self.corrections.write(image_id, stored, mask)
        self.list.note(place, stored)
        return stored

    def _size(self, place: int) -> Size:
        return image_size(self.list.item(place).path, pixel_limit=self.pixel_limit)
