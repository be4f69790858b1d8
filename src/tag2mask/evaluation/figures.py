"""Mergeable counts over a folder of masks or of CAMs, and the figures computed from them."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.evaluation.confusion import Confusion, ThresholdSweep, argmax

BACKGROUND = "background"
"""The name of class 0."""

_EXAMPLES = 5


@dataclass(frozen=True)
class Figures:
    """The result of an evaluation. All figures are fractions in [0, 1]; NaN if there was nothing to measure.

    Attributes:
        miou: mean IoU over the chosen classes that occur in the truth; NaN if the truth holds background alone.
        miou_present: the same over those that occur in truth or prediction.
        miou_all: the same over all of them; one that occurs in neither counts as 0.
        pixel_accuracy: share of the counted pixels with the correct class.
        iou: intersection over union by class name, background first.
        over_activation: false positives over the union, by class name.
        under_activation: false negatives over the union, by class name; sums to 1 with the other two.
        chosen: names of the classes of ``miou``; None = all.
        threshold: the background threshold with the best ``miou``; None for masks and for CAMs with a background map.
        sweep: mIoU by background threshold; None if ``threshold`` is.
        absent: number of tagged images of each class that is tagged but has no true pixel, and so is not measured.
    """

    miou: float
    miou_present: float
    miou_all: float
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
        present = confusion.truth_pixels() > 0
        absent = [(name, count) for name, count, found in zip(classes, tagged, present[1:], strict=False) if not found]
        # A truth of background alone has usually lost its classes; an empty prediction would score 100 % on it.
        measured = present[1:].any() or (ids is not None and not any(ids))

        def by_name(values: np.ndarray) -> dict[str, float]:
            return dict(zip(names, values.tolist(), strict=True))

        return cls(
            miou=confusion.miou(ids) if measured else math.nan,
            miou_present=confusion.miou(ids, "present") if measured else math.nan,
            miou_all=confusion.miou(ids, "all") if measured else math.nan,
            pixel_accuracy=confusion.pixel_accuracy(),
            iou=by_name(confusion.iou()),
            over_activation=by_name(confusion.over_activation()),
            under_activation=by_name(confusion.under_activation()),
            images=images,
            chosen=None if ids is None else tuple(names[i] for i in sorted(set(ids))),
            threshold=threshold if measured else None,
            sweep=sweep if measured else None,
            absent={name: count for name, count in absent if count},
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object: NaN becomes null, a threshold becomes a key such as ``"0.35"``."""
        return {
            "miou": _number(self.miou),
            "miou_present": _number(self.miou_present),
            "miou_all": _number(self.miou_all),
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
class ExampleCounter:
    """A count of names, with the five that are first in alphabetical order, whatever the order of counting."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one."""
        self.merge(ExampleCounter(1, [name]))

    def merge(self, other: Self) -> None:
        """Add the counts of ``other``."""
        self.count += other.count
        self.examples = sorted([*self.examples, *other.examples])[:_EXAMPLES]

    def text(self, separator: str, conjunction: str) -> str:
        """The examples with ``separator``; after ``conjunction`` the number of further names, if any."""
        rest = self.count - len(self.examples)
        return separator.join(self.examples) + (f"{conjunction}{rest} more" if rest else "")


class Counts:
    """Counts of a folder of masks or of CAMs, with or without a background map.

    Not thread-safe; `merge` adds up objects.

    Args:
        classes: number of classes, background included.
        thresholds: background thresholds in [0, 1], ascending, for CAMs without a background map; None for masks.

    Attributes:
        confusion: of masks, and of CAMs with a background map.
        sweep: of CAMs without a background map; None for masks.
        images: number of images in the folder, compared or not.
        lacking: number of images without a file in the folder.
        with_background: images whose CAMs have a background map.
        without_background: images whose CAMs have none.
        problems: messages about images that could not be compared.
    """

    def __init__(self, classes: int, thresholds: Sequence[float] | None) -> None:
        """Start with zero counts."""
        self.confusion = Confusion(classes)
        self.sweep = None if thresholds is None else ThresholdSweep(classes, thresholds)
        self.images = self.lacking = 0
        self.with_background, self.without_background = ExampleCounter(), ExampleCounter()
        self.problems = ExampleCounter()

    def update_cams(self, name: str, ids: np.ndarray, cams: np.ndarray, truth: np.ndarray) -> None:
        """Count an image's CAMs: ids (K,), cams float32 (K, H, W), truth uint8 (H, W)."""
        if self.sweep is None:
            raise UsageError("counts of CAMs need `thresholds`")
        if not len(ids):  # no class, no map: background with or without a background map
            self.sweep.update(ids, cams, truth)
            self.confusion.update(np.zeros_like(truth), truth)
        elif ids[0] == 0:
            self.confusion.update(ids.astype(np.uint8)[argmax(cams)[0]], truth)
            self.with_background.add(name)
        else:
            self.sweep.update(ids, cams, truth)
            self.without_background.add(name)

    def merge(self, other: Self) -> None:
        """Add the counts of ``other``, which has the same classes and thresholds."""
        self.confusion.merge(other.confusion)
        if self.sweep is not None and other.sweep is not None:
            self.sweep.merge(other.sweep)
        self.images += other.images
        self.lacking += other.lacking
        self.with_background.merge(other.with_background)
        self.without_background.merge(other.without_background)
        self.problems.merge(other.problems)

    def figures(
        self, folder: Path, classes: Sequence[str], ids: Collection[int] | None = None, tagged: Sequence[int] = ()
    ) -> Figures:
        """The figures of the counts; arguments as in `Figures.of`.

        Raises:
            EvaluationError: images could not be compared.
            UsageError: some CAMs have a background map and some have none.
        """
        if self.problems.count:
            listed = self.problems.text("\n  ", "\n  and ")
            raise EvaluationError(f"{self.problems.count} of {self.images} images cannot be compared:\n  {listed}")
        if self.with_background.count and self.without_background.count:
            fewer = min(self.with_background, self.without_background, key=lambda counter: counter.count)
            has = "a" if fewer is self.with_background else "no"
            raise UsageError(
                f"{folder} mixes CAMs with and without a background map, which need different rules; {fewer.count} "
                f"have {has} background map: {fewer.text(', ', ' and ')}. Keep one kind of CAM per folder"
            )
        counts = self.confusion if self.sweep is None or self.with_background.count else self.sweep
        return Figures.of(counts, classes, images=self.images, ids=ids, tagged=tagged)


def absence(images: int) -> str:
    """The note in tables for a class that is tagged in ``images`` images and has no true pixel."""
    return f"no true pixel, {images} tagged"


def other_means(figures: Mapping[str, float | None]) -> str:
    """The note in tables for the mean IoU by the other rules, in per cent; empty where none differs from ``miou``."""
    rules = {"miou": "", "miou_present": "classes in truth or prediction", "miou_all": "all classes"}
    shown = {name: f"{100 * value:.1f}" for name in rules if (value := figures.get(name)) is not None}
    others = [f"{value} over {rules[name]}" for name, value in shown.items() if value != shown.get("miou", value)]
    return f"mean IoU {', '.join(others)}" if others else ""


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
