"""The figures of one evaluation: for metrics.json and for the terminal."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from tag2mask.evaluate.confusion import Confusion, ThresholdSweep

BACKGROUND = "background"
"""The name of class 0."""


@dataclass(frozen=True)
class Figures:
    """The result of an evaluation. All figures are fractions in [0, 1]; NaN where there was nothing to measure.

    Attributes:
        miou: mean IoU over the chosen classes that occur in the truth; NaN if the truth holds none but background.
        pixel_accuracy: share of the counted pixels whose class is right.
        iou: by class name, background first: intersection over union.
        over_activation: by class name: false positives over the union.
        under_activation: by class name: false negatives over the union. The three sum to 1.
        images: number of images.
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
            counts: of the images.
            classes: names of the classes 1..C, without background.
            images: number of images.
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

    def render(self, title: str | None = None) -> Table:
        """A table for the terminal: one row per class, the means last. Figures are in per cent."""
        table = Table(title=title, caption=self._caption(), caption_justify="left")
        table.add_column("class")
        for heading in ("IoU", "over", "under"):
            table.add_column(heading, justify="right")
        for name, value in self.iou.items():
            left_out = self.chosen is not None and name not in self.chosen
            row = (value, self.over_activation[name], self.under_activation[name])
            shown = f"{name} ({absence(self.absent[name])})" if name in self.absent else name
            table.add_row(shown, *map(per_cent, row), style="dim" if left_out else None)
        table.add_section()
        table.add_row("mean IoU", per_cent(self.miou), "", "", style="bold")
        table.add_row("pixel accuracy", per_cent(self.pixel_accuracy), "", "")
        return table

    def _caption(self) -> str:
        parts = [f"per cent; photographs: {self.images}"]
        if self.threshold is not None:
            parts.append(f"background up to {self.threshold:g}")
        if self.chosen is not None:
            parts.append(f"mean over {len(self.chosen)} of {len(self.iou)} classes")
        return "; ".join(parts)


def absence(images: int) -> str:
    """The note in tables for a class that is tagged in ``images`` images and has no true pixel."""
    return f"no true pixel, {images} tagged"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def per_cent(value: float | None) -> str:
    """A fraction for a table; a dash for None and NaN."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"
