"""One review: the photographs, what the run says of them, and what people decide."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from tag2mask.data.corrections import IMPORTED, RECORD, Corrections, Decision, Verdict
from tag2mask.data.deep_pixels import Intensity
from tag2mask.data.images import MaskError, image_size, read_mask, reduced_size, values_that_are_no_class
from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet
from tag2mask.errors import Tag2maskError, UsageError, first_five
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.report.pictures import resize_labels
from tag2mask.review.photographs import ReviewList
from tag2mask.review.ranking import Ranking
from tag2mask.review.stages import Labels, Size, stages_of

LOCKS = 64
"""Photographs whose decisions can be written at the same time."""

CORRECTION = "correction"
"""The name of the mask that somebody accepted or drew, beside those of the stages."""


class Desk:
    """What the page asks and decides, by the place of a photograph in the list; many threads may ask at once.

    Attributes:
        list: the photographs.
        stages: what can be looked at, by name.
        corrections: where decisions are kept.
        pixel_limit: a photograph with more pixels is not opened.
        intensity: how images of more than 8 bits are read, as by `read_image`.
    """

    def __init__(
        self,
        photos: PhotoSet,
        run: RunFolder,
        corrections: Corrections,
        *,
        pixel_limit: int,
        intensity: Intensity | None = None,
    ) -> None:
        """Go through the photographs and the decisions once.

        Args:
            photos: to be reviewed.
            run: whose masks and CAMs; nothing is written to it.
            corrections: the decisions, of the same classes.
            pixel_limit: a photograph with more pixels is not opened.
            intensity: how images of more than 8 bits are read, as by `read_image`.

        Raises:
            UsageError: a photograph has an ID that decisions cannot be kept under, or the ranking is damaged.
        """
        self.run, self.corrections, self.pixel_limit, self.intensity = run, corrections, pixel_limit, intensity
        self.list = ReviewList(photos, Ranking.of_run(run.path))
        for record in (RECORD, IMPORTED):
            if self.list.place(Path(record).stem) is not None:
                raise UsageError(
                    f"a photograph has the ID `{Path(record).stem}`, and {record} says the classes; rename it"
                )
        self.stages = stages_of(run)
        self._locks = tuple(threading.Lock() for _ in range(LOCKS))
        self.size = lru_cache(maxsize=1024)(self._size)
        for photo_id in corrections.ids():
            place = self.list.place(photo_id)
            if place is not None:
                with suppress(Tag2maskError, OSError):  # the page of the photograph says what is wrong
                    self.list.note(place, corrections.decision(photo_id))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes 1..C."""
        return self.list.photos.classes

    def decision(self, place: int) -> Decision | None:
        """What was decided about a photograph, by whatever review; the list keeps it in mind.

        Raises:
            Tag2maskError: the decision is damaged.
        """
        photo = self.list.photo(place)
        with self._lock(place):
            decision = self.corrections.decision(photo.id)
            self.list.note(place, decision)
        return decision

    def start(self, place: int) -> str | None:
        """The name of the mask to begin with: a correction, else the run's mask, else a prediction; None for none."""
        photo = self.list.photo(place)
        if self._mask(photo) is not None:
            return CORRECTION
        masks = (name for name, stage in self.stages.items() if not stage.is_cam and stage.has(photo))
        return next(masks, None)

    def labels(self, place: int, name: str, long_side: int | None = None) -> Labels:
        """The class of each pixel, by a stage or by a correction.

        Raises:
            UsageError: there is no such stage.
            Tag2maskError: it cannot be read.
        """
        photo, size = self.list.photo(place), self.size(place)
        if name != CORRECTION:
            return self._stage_labels(photo, size, name, long_side)
        path = self._mask(photo)
        if path is None:
            raise UsageError(f"{photo.id} has no correction")
        mask = read_mask(path, size=size, classes=len(self.classes), pixel_limit=self.pixel_limit)
        return resize_labels(mask, reduced_size(size, long_side))

    def _stage_labels(self, photo: Photo, size: Size, name: str, long_side: int | None) -> Labels:
        if name not in self.stages:
            raise UsageError(f"there is no stage {name!r} here, only {', '.join(self.stages)}")
        return self.stages[name].labels(photo, size, len(self.classes), long_side)

    def heat(self, place: int, name: str, class_id: int) -> Labels:
        """How strongly a stage speaks for a class, 255 = 1.

        Raises:
            UsageError: there is no such stage, or it has no heat of that class.
            Tag2maskError: it cannot be read.
        """
        if name not in self.stages:
            raise UsageError(f"there is no stage {name!r} here, only {', '.join(self.stages)}")
        return self.stages[name].heat(self.list.photo(place), self.size(place), len(self.classes), class_id)

    def keep_mask(self, place: int, verdict: Verdict, mask: Labels) -> Decision:
        """Keep a mask as accepted or corrected; the tags stay as they were decided.

        Args:
            place: of the photograph.
            verdict: `accepted` or `corrected`.
            mask: uint8 (H, W).

        Raises:
            UsageError: another verdict.
            MaskError: the mask has another size, or values that are no class.
        """
        if verdict not in ("accepted", "corrected"):
            raise UsageError(f"a mask is kept as accepted or corrected, not as {verdict}")
        photo = self.list.photo(place)
        _require_classes(photo, mask, self.size(place), len(self.classes))
        with self._lock(place):
            before = self._before(photo)
            decision = Decision.now(verdict, before.tags if before else None)
            self.corrections.write(photo.id, decision, mask)
            self.list.note(place, decision)
        return decision

    def drop_mask(self, place: int, verdict: Verdict | None) -> Decision | None:
        """Reject a photograph's mask, or take its verdict back; a mask that was kept is deleted, the tags stay.

        Raises:
            UsageError: a verdict that goes with a mask.
        """
        if verdict not in (None, "rejected"):
            raise UsageError(f"the verdict {verdict} goes with a mask")
        photo = self.list.photo(place)
        with self._lock(place):
            before = self._before(photo)
            return self._without_mask(place, photo, verdict, before.tags if before else None)

    def change_tags(self, place: int, tags: Sequence[int] | None) -> Decision | None:
        """Give a photograph other tags; the verdict and the mask stay.

        Args:
            place: of the photograph.
            tags: class ids; None, or the data set's own, for those.

        Raises:
            UsageError: a number that is no class.
        """
        photo = self.list.photo(place)
        wrong = [tag for tag in tags or () if not 1 <= tag <= len(self.classes)]
        if wrong:
            raise UsageError(f"{first_five(wrong)}: the classes are 1 to {len(self.classes)}")
        chosen = None if tags is None or set(tags) == set(photo.tags) else sorted(set(tags))
        names = None if chosen is None else tuple(self.classes[tag - 1] for tag in chosen)
        with self._lock(place):
            before, path = self._before(photo), self._mask(photo)
            if before is None or path is None:
                kept = None if before is None or before.has_mask else before.verdict
                return self._without_mask(place, photo, kept, names)
            decision = Decision.now(before.verdict, names)
            self.corrections.write(photo.id, decision, read_mask(path, pixel_limit=self.pixel_limit))
            self.list.note(place, decision)
            return decision

    def _lock(self, place: int) -> threading.Lock:
        """Held where the decision about a photograph is read or written; saving a large mask stops no other one."""
        return self._locks[place % LOCKS]

    def _before(self, photo: Photo) -> Decision | None:
        """What was decided so far; a mask whose decision is damaged counts as drawn, as one without any does."""
        try:
            return self.corrections.decision(photo.id)
        except Tag2maskError:
            return Decision("corrected") if self.corrections.stored_mask(photo.id) else None

    def _mask(self, photo: Photo) -> Path | None:
        """The mask that somebody accepted or drew."""
        before = self._before(photo)
        return self.corrections.stored_mask(photo.id) if before is not None and before.has_mask else None

    def _without_mask(
        self, place: int, photo: Photo, verdict: Verdict | None, tags: tuple[str, ...] | None
    ) -> Decision | None:
        decision = None if verdict is None and tags is None else Decision.now(verdict, tags)
        if decision is None:
            self.corrections.forget(photo.id)
        else:
            self.corrections.write(photo.id, decision)
        self.list.note(place, decision)
        return decision

    def _size(self, place: int) -> Size:
        return image_size(self.list.photo(place).path, pixel_limit=self.pixel_limit)


def _require_classes(photo: Photo, mask: Labels, size: Size, classes: int) -> None:
    """Refuse a mask that does not fit its photograph or its classes."""
    if mask.shape != size:
        (height, width), (rows, columns) = size, mask.shape
        raise MaskError(f"the mask of {photo.id} is {columns} × {rows} pixels, its photograph {width} × {height}")
    wrong = values_that_are_no_class(mask, classes)
    if wrong:
        raise MaskError(f"the mask of {photo.id}: {wrong}")
