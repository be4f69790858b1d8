"""Counts of a folder of masks or of CAMs: exact integers that merge and are stored in a file."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.evaluate.confusion import Confusion, ThresholdSweep, strongest
from tag2mask.evaluate.figures import Figures
from tag2mask.files import atomic_path
from tag2mask.npz import DAMAGED, read_npz

_SHOWN = 5


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
            folder: the counted folder, for messages.
            classes: names of the classes 1..C, without background.
            ids: the classes of the mean IoU, which also chooses the threshold; 0 = background; all by default.
            tagged: number of images with each class 1..C as a tag; empty if unknown.

        Raises:
            EvaluationError: images could not be compared.
            UsageError: some CAMs have a background map and some have none.
        """
        if self.problems.count:
            listed = self.problems.joined("\n  ", "\n  and ")
            raise EvaluationError(f"{self.problems.count} of {self.images} photographs cannot be compared:\n  {listed}")
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


def write_counts(path: Path, counts: Counts, measured: dict[str, Any]) -> None:
    """Write counts to an ``.npz`` without pickles, atomically; ``measured`` are JSON values that describe them."""
    tallies = {name: [tally.count, tally.names] for name, tally in counts.tallies().items()}
    record = {"images": counts.images, "lacking": counts.lacking, "tallies": tallies, "measured": measured}
    if counts.sweep is not None:
        record["thresholds"] = counts.sweep.thresholds
    arrays = {"matrix": counts.confusion.matrix, "withheld": counts.confusion.withheld}
    arrays |= {} if counts.sweep is None else {"joint": counts.sweep.joint}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, record=np.array(json.dumps(record)), **arrays)  # type: ignore[arg-type]


def read_counts(path: Path) -> tuple[Counts, dict[str, Any]] | None:
    """Counts and description of a file of `write_counts`; None if it is damaged."""
    try:
        arrays = read_npz(path)
        record = json.loads(str(arrays["record"]))
        counts = Counts(len(arrays["matrix"]), record.get("thresholds"))
        counts.confusion.matrix += arrays["matrix"]
        counts.confusion.withheld += arrays["withheld"]
        if counts.sweep is not None:
            counts.sweep.joint += arrays["joint"]
        counts.images, counts.lacking = record["images"], record["lacking"]
        for name, tally in counts.tallies().items():
            tally.merge(Tally(*record["tallies"][name]))
        return counts, record["measured"]
    except DAMAGED:
        return None
