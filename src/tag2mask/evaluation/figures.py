"""Counts of a folder of masks or of CAMs, which merge exactly, and their figures."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.evaluation.confusion import Confusion, ThresholdSweep, strongest

BACKGROUND = "background"
"""The name of class 0."""

_SHOWN = 5


@dataclass(frozen=True)
class Figures:
    """The result of an evaluation. All figures are fractions in [0, 1]; NaN where there was nothing to measure.

    Attributes:
        miou: mean IoU over the chosen classes that occur in the truth; NaN if the truth holds none but background.
        pixel_accuracy: share of the counted pixels whose class is right.
        iou: by class name, background first: intersection over union.
        over_activation: by class name: false positives over the union.
        under_activation: by class name: false negatives over the union. The three sum to 1.
        chosen: names of the classes of ``miou``; None = all.
        threshold: the background threshold of the best ``miou``; None for masks and for CAMs with a background map.
        sweep: mIoU by background threshold; None where ``threshold`` is.
        absent: classes that are tagged but have no true pixel, so that they are not measured; with the number of
            images that are tagged with them.
    """

    miou: float
    pixel_accuracy: float
    iou: dict[str, float]
    over_activation: dict[str, float]
    under_activation: dict[str, float]
    images: int
    chosen: tuple[str, ...] | None = None
    threshold: float | None = None
    sweep: dict[float, float] | None = None
    absent: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        counts: Confusion | ThresholdSweep,
        classes: Sequence[str],
        *,
        images: int,
        ids: Collection[int] | None = None,
        tagged: Sequence[int] = (),
    ) -> "Figures":
        """The figures of a confusion matrix, or of a sweep at its best threshold.

        Args:
            classes: names of the classes 1..C, without background.
            ids: the classes of the mean IoU, 0 = background; all by default.
            tagged: number of images with each class 1..C as a tag; empty if unknown.
        """
        names = (BACKGROUND, *classes)
        threshold, sweep = None, None
        if isinstance(counts, ThresholdSweep):
            sweep = counts.miou(ids)
            threshold, confusion = counts.best(ids)
        else:
            confusion = counts
        there = confusion.truth_pixels() > 0
        classes_there = zip(classes, tagged, there[1:].tolist(), strict=False)
        # A truth of background alone is mostly one whose classes were lost; an empty prediction would have 100 % of it.
        measured = there[1:].any() or (ids is not None and not any(ids))

        def by_name(values: np.ndarray) -> dict[str, float]:
            return dict(zip(names, values.tolist(), strict=True))

        return cls(
            miou=confusion.miou(ids) if measured else math.nan,
            pixel_accuracy=confusion.pixel_accuracy(),
            iou=by_name(confusion.iou()),
            over_activation=by_name(confusion.over_activation()),
            under_activation=by_name(confusion.under_activation()),
            images=images,
            chosen=None if ids is None else tuple(names[i] for i in sorted(set(ids))),
            threshold=threshold if measured else None,
            sweep=sweep if measured else None,
            absent={name: count for name, count, found in classes_there if count and not found},
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object: NaN becomes null, thresholds become keys such as ``"0.35"``."""
        return {
            "miou": _number(self.miou),
            "pixel_accuracy": _number(self.pixel_accuracy),
            "iou": {name: _number(value) for name, value in self.iou.items()},
            "over_activation": {name: _number(value) for name, value in self.over_activation.items()},
            "under_activation": {name: _number(value) for name, value in self.under_activation.items()},
            "images": self.images,
            "chosen": None if self.chosen is None else list(self.chosen),
            "absent": self.absent,
            "threshold": self.threshold,
            "sweep": None if self.sweep is None else {f"{at:g}": _number(value) for at, value in self.sweep.items()},
        }


class EvaluationError(Tag2maskError):
    """Files cannot be compared: damaged, of another size, or with unknown ids."""


@dataclass
class Tally:
    """A count of names, and the first five of them in alphabetical order, independent of the order of counting."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one."""
        self.merge(Tally(1, [name]))

    def merge(self, other: "Tally") -> None:
        """Add those of ``other``."""
        self.count += other.count
        self.names = sorted([*self.names, *other.names])[:_SHOWN]

    def joined(self, separator: str, more: str) -> str:
        """The names, each but the first after ``separator``; then ``more`` and the count of the rest, if any."""
        rest = self.count - len(self.names)
        return separator.join(self.names) + (f"{more}{rest} more" if rest else "")


class Counts:
    """Counts of a folder of masks or of CAMs, with or without a background map.

    One object belongs to one thread; `merge` joins several, exactly.

    Args:
        classes: number of classes, background included.
        thresholds: background thresholds in [0, 1], ascending, for CAMs without a background map; None for masks.

    Attributes:
        confusion: of masks, and of CAMs with a background map.
        sweep: of CAMs without one; None for masks.
        images: images that were compared, or should have been.
        lacking: images without a file in the folder.
        with_background: images whose CAMs have a background map.
        without: images whose CAMs have none.
        problems: messages about images that could not be compared.
    """

    def __init__(self, classes: int, thresholds: Sequence[float] | None) -> None:
        """Nothing is counted yet."""
        self.confusion = Confusion(classes)
        self.sweep = None if thresholds is None else ThresholdSweep(classes, thresholds)
        self.images = self.lacking = 0
        self.with_background, self.without, self.problems = Tally(), Tally(), Tally()

    def update_cams(self, name: str, ids: np.ndarray, cams: np.ndarray, truth: np.ndarray) -> None:
        """Count an image's CAMs: ids (K,), cams float32 (K, H, W), truth uint8 (H, W)."""
        if self.sweep is None:
            raise UsageError("counts of CAMs need `thresholds`")
        if not len(ids):  # no class, no map: background to either kind
            self.sweep.update(ids, cams, truth)
            self.confusion.update(np.zeros_like(truth), truth)
        elif ids[0] == 0:
            self.confusion.update(ids.astype(np.uint8)[strongest(cams)[0]], truth)
            self.with_background.add(name)
        else:
            self.sweep.update(ids, cams, truth)
            self.without.add(name)

    def merge(self, other: Self) -> None:
        """Add the counts of ``other``, which has the same classes and thresholds."""
        self.confusion.merge(other.confusion)
        if self.sweep is not None and other.sweep is not None:
            self.sweep.merge(other.sweep)
        self.images += other.images
        self.lacking += other.lacking
        for own, others in zip(self.tallies().values(), other.tallies().values(), strict=True):
            own.merge(others)

    def figures(
        self, folder: Path, classes: Sequence[str], ids: Collection[int] | None = None, tagged: Sequence[int] = ()
    ) -> Figures:
        """The figures of the counts.

        Args:
            classes: names of the classes 1..C, without background.
            ids: the classes of the mean IoU, which also chooses the threshold; 0 = background; all by default.
            tagged: number of images with each class 1..C as a tag; empty if unknown.

        Raises:
            EvaluationError: images could not be compared.
            UsageError: some CAMs have a background map and some have none.
        """
        if self.problems.count:
            listed = self.problems.joined("\n  ", "\n  and ")
            raise EvaluationError(f"{self.problems.count} of {self.images} images cannot be compared:\n  {listed}")
        if self.with_background.count and self.without.count:
            fewer = min(self.with_background, self.without, key=lambda tally: tally.count)
            has = "a" if fewer is self.with_background else "no"
            raise UsageError(
                f"{folder} mixes CAMs with and without a background map, which cannot be compared by one rule; "
                f"{fewer.count} have {has} background map: {fewer.joined(', ', ' and ')}. Keep one kind of CAM a folder"
            )
        counts = self.confusion if self.sweep is None or self.with_background.count else self.sweep
        return Figures.of(counts, classes, images=self.images, ids=ids, tagged=tagged)

    def tallies(self) -> dict[str, Tally]:
        """The tallies by name."""
        return {"with_background": self.with_background, "without": self.without, "problems": self.problems}


def absence(images: int) -> str:
    """The note in tables for a class that is tagged in ``images`` images and has no true pixel."""
    return f"no true pixel, {images} tagged"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
