"""The background threshold of CAMs without a background map, every value of it in one pass."""

from collections.abc import Collection, Sequence

import numpy as np

from tag2mask.errors import UsageError
from tag2mask.evaluate.confusion import Confusion, check_values

DEFAULT_THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""0.05, 0.10 … 0.95."""


class ThresholdSweep:
    """Confusion matrices of one set of CAMs at many background thresholds.

    At threshold t a pixel gets the class of its largest CAM if that is above t, and background otherwise. One joint
    histogram over (truth, winning class, how many thresholds the winner beats) holds the counts of every threshold
    exactly.

    One object belongs to one thread; several are joined with `merge`.

    Args:
        classes: how many classes there are, background included.
        thresholds: in [0, 1], ascending; compared in float32, as the CAMs are.

    Attributes:
        classes: as given.
        thresholds: as given.
        joint: int64 (classes, classes, thresholds + 1), pixels by [truth, winner, thresholds that the winner beats].

    Source: the sweep is the field's; counting it in one pass is ours.
    """

    def __init__(self, classes: int, thresholds: Sequence[float] = DEFAULT_THRESHOLDS) -> None:
        """No pixel is counted yet."""
        values = np.asarray(thresholds, dtype=np.float32)
        ascending = values.ndim == 1 and values.size > 0 and bool((np.diff(values) > 0).all())
        if not ascending or not 0 <= values[0] <= values[-1] <= 1:
            raise UsageError(f"`thresholds` should be ascending numbers in [0, 1]; received {list(thresholds)}")
        self.classes = Confusion(classes).classes  # the rule for their number is the matrix's
        self.thresholds = tuple(float(value) for value in thresholds)
        self._edges = values
        self.joint = np.zeros((classes, classes, len(values) + 1), dtype=np.int64)

    def update(self, ids: np.ndarray, cams: np.ndarray, truth: np.ndarray) -> None:
        """Count one photograph.

        Args:
            ids: int (K,), class ids from 1 on; K may be 0 (everything is background then).
            cams: float32 (K, H, W) in [0, 1].
            truth: uint8 (H, W), class ids, or 255 = not counted.

        Raises:
            UsageError: the shapes do not fit, or an id is no class or background.
            Tag2maskError: a value of the truth is neither a class nor 255.
        """
        if cams.shape != (len(ids), *truth.shape):
            raise UsageError(
                f"`cams` {cams.shape} should be (K, H, W), with {len(ids)} ids and a truth of {truth.shape}"
            )
        if len(ids) and not (1 <= min(ids) <= max(ids) < self.classes and len(set(ids)) == len(ids)):
            rule = f"different classes of 1 to {self.classes - 1}, without background"
            raise UsageError(f"a sweep is over {rule}; received ids {[int(i) for i in ids]}")
        bins = len(self._edges) + 1
        if not len(ids):
            ids, cams = np.zeros(1, dtype=np.int64), np.zeros((1, *truth.shape), dtype=np.float32)
        winner, strength = strongest(cams)
        beaten = np.searchsorted(self._edges, strength.astype(np.float32, copy=False), side="left")
        codes = (truth.astype(np.int64) * len(ids) + winner) * bins + beaten
        counts = np.bincount(codes.ravel(), minlength=256 * len(ids) * bins).reshape(256, len(ids), bins)
        check_values(counts.sum(axis=(1, 2)), self.classes, "truth")
        self.joint[:, ids] += counts[: self.classes]

    def merge(self, other: "ThresholdSweep") -> None:
        """Add the counts of ``other``, which has the same classes and thresholds."""
        if (other.classes, other.thresholds) != (self.classes, self.thresholds):
            raise UsageError("two sweeps can be merged only if their classes and thresholds are the same")
        self.joint += other.joint

    def confusion(self, threshold: float) -> Confusion:
        """The confusion matrix at one of the thresholds, exactly as if the CAMs had been thresholded there.

        Raises:
            UsageError: the threshold is not one of those that were counted.
        """
        if threshold not in self.thresholds:
            raise UsageError(f"{threshold} is not one of the thresholds that were counted: {list(self.thresholds)}")
        first = self.thresholds.index(threshold) + 1  # who beats the i-th threshold beats at least i + 1 of them
        result = Confusion(self.classes)
        result.matrix += self.joint[:, :, first:].sum(axis=2)
        result.matrix[:, 0] += self.joint[:, :, :first].sum(axis=(1, 2))
        return result

    def miou(self, ids: Collection[int] | None = None) -> dict[float, float]:
        """`Confusion.miou` by threshold."""
        return {threshold: self.confusion(threshold).miou(ids) for threshold in self.thresholds}

    def best(self, ids: Collection[int] | None = None) -> tuple[float, Confusion]:
        """The threshold of the largest mIoU (the smallest of equals) and its confusion matrix.

        Args:
            ids: the classes that the mean is over, all by default.
        """
        figures = self.miou(ids)
        threshold = max(self.thresholds, key=lambda value: np.nan_to_num(figures[value], nan=-1.0))
        return threshold, self.confusion(threshold)


def strongest(cams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which map is the largest at each pixel, and how large; the first one wins a tie.

    Args:
        cams: float (K, H, W), K at least 1.

    Returns:
        the indices, uint8 (H, W), and the values (H, W). For the few maps that a photograph has this is several times
        as fast as ``argmax`` over the first axis.
    """
    winner = np.zeros(cams.shape[1:], dtype=np.uint8)
    strength = cams[0]
    for index in range(1, len(cams)):
        winner[cams[index] > strength] = index
        strength = np.maximum(strength, cams[index])
    return winner, strength
