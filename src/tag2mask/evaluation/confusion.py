"""The confusion matrix, and confusion matrices of CAMs at many background thresholds."""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from tag2mask.core.errors import Tag2maskError, UsageError, first_five

IGNORE_INDEX = 255
"""The value of a ground-truth pixel that is not counted."""

Rule = Literal["truth", "present", "all"]
"""The classes of a mean IoU: those that occur in the truth, those that occur in truth or prediction, or all, where one
that occurs in neither counts as 0.

Source: ``truth``: CLIP-ES; ``present``: IRN, SIPE, POT; ``all``: HSC_WSSS and the code for masks of SEAM, which add
1e-10 to the union instead.
"""

DEFAULT_THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""0.05, 0.10 … 0.95."""


class Confusion:
    """Counts of pixels by true and by predicted class, over any number of images.

    A pixel whose truth is 255 is not counted. A prediction of 255 counts against the true class (as under-activation)
    and for no class, so that leaving out hard pixels never raises a figure. Not thread-safe; `merge` adds up objects.

    Args:
        classes: number of classes, background included; at most 255.

    Attributes:
        matrix: int64 (classes, classes), pixels by [truth, prediction], as scikit-learn's ``confusion_matrix``.
        ignored_predictions: int64 (classes,), pixels with prediction 255, by true class.

    Source: the measures of PASCAL VOC segmentation; the split of the error into over- and under-activation is ours.
    """

    def __init__(self, classes: int) -> None:
        """Start with zero counts."""
        if not 1 <= classes <= IGNORE_INDEX:
            raise UsageError(f"`classes` should be between 1 and 255, background included; received {classes}")
        self.classes = classes
        self.matrix = np.zeros((classes, classes), dtype=np.int64)
        self.ignored_predictions = np.zeros(classes, dtype=np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Count one image, or any two arrays of one shape.

        Args:
            prediction: uint8 (H, W), class ids below ``classes``, or 255.
            truth: likewise.

        Raises:
            UsageError: wrong shape or dtype.
            Tag2maskError: a value is neither a class nor 255.
        """
        for name, array in (("prediction", prediction), ("truth", truth)):
            if array.dtype != np.uint8:
                raise UsageError(f"`{name}` should be uint8 (class ids up to 254, and 255); it is {array.dtype}")
        if prediction.shape != truth.shape:
            raise UsageError(f"prediction {prediction.shape} and truth {truth.shape} should have the same shape")
        codes = (truth.astype(np.uint16) << 8) | prediction  # all pairs of values, checked below on the counts
        counts = np.bincount(codes.ravel(), minlength=1 << 16).reshape(256, 256)
        _check_values(counts.sum(axis=1), self.classes, "truth")
        _check_values(counts.sum(axis=0), self.classes, "prediction")
        self.matrix += counts[: self.classes, : self.classes]
        self.ignored_predictions += counts[: self.classes, IGNORE_INDEX]

    def merge(self, other: "Confusion") -> None:
        """Add the counts of ``other``, which has the same number of classes."""
        if other.classes != self.classes:
            raise UsageError(f"cannot merge counts of {self.classes} classes with counts of {other.classes} classes")
        self.matrix += other.matrix
        self.ignored_predictions += other.ignored_predictions

    def iou(self) -> np.ndarray:
        """Intersection over union of each class: TP / (TP + FP + FN).

        Returns:
            float64 (classes,) in [0, 1], NaN for a class that occurs in neither truth nor prediction.
        """
        return self._over_union(self._hits())

    def over_activation(self) -> np.ndarray:
        """FP / (TP + FP + FN) of each class, float64 (classes,); sums to 1 with `iou` and `under_activation`."""
        return self._over_union(self.matrix.sum(axis=0) - self._hits())

    def under_activation(self) -> np.ndarray:
        """FN / (TP + FP + FN) of each class, float64 (classes,); sums to 1 with `iou` and `over_activation`."""
        return self._over_union(self.truth_pixels() - self._hits())

    def miou(self, ids: Collection[int] | None = None, rule: Rule = "truth") -> float:
        """The mean of `iou` over classes that occur in the truth, or by another rule; NaN if there is none.

        Args:
            ids: the classes of the mean, all by default. False positives of other classes still count against the
                classes that they cover.
            rule: which of these classes count.

        Raises:
            UsageError: an id is not a class.
        """
        if unknown := sorted(i for i in ids or () if not 0 <= i < self.classes):
            raise UsageError(f"class ids lie between 0 and {self.classes - 1}; got {first_five(unknown)}")
        iou = self.iou()
        rules = {"truth": self.truth_pixels() > 0, "present": ~np.isnan(iou), "all": np.ones(self.classes, dtype=bool)}
        chosen = rules[rule]
        if ids is not None:
            chosen &= np.isin(np.arange(self.classes), list(ids))
        return float(np.nan_to_num(iou[chosen]).mean()) if chosen.any() else float("nan")

    def pixel_accuracy(self) -> float:
        """The share of counted pixels with the correct class, in [0, 1]; NaN if nothing was counted."""
        counted = int(self.truth_pixels().sum())
        return float(self._hits().sum() / counted) if counted else float("nan")

    def truth_pixels(self) -> np.ndarray:
        """The number of counted pixels of each true class, int64 (classes,)."""
        return np.asarray(self.matrix.sum(axis=1) + self.ignored_predictions)

    def _hits(self) -> np.ndarray:
        return np.asarray(self.matrix.diagonal())

    def _over_union(self, pixels: np.ndarray) -> np.ndarray:
        union = self.truth_pixels() + self.matrix.sum(axis=0) - self._hits()
        shares = np.full(self.classes, np.nan)
        np.divide(pixels, union, out=shares, where=union > 0)
        return shares


class ThresholdSweep:
    """Confusion matrices of CAMs without a background map, at many background thresholds.

    At threshold t a pixel gets the class of its largest CAM if that is above t, and background otherwise. One joint
    histogram over (truth, class of the largest CAM, number of thresholds below it) holds the counts of every
    threshold exactly. Not thread-safe; `merge` adds up objects.

    Args:
        classes: number of classes, background included.
        thresholds: in [0, 1], ascending; compared in float32, as the CAMs are.

    Attributes:
        joint: int64 (classes, classes, thresholds + 1), the histogram.

    Source: the sweep is common practice; counting it in one pass is ours.
    """

    def __init__(self, classes: int, thresholds: Sequence[float] = DEFAULT_THRESHOLDS) -> None:
        """Start with zero counts."""
        values = np.asarray(thresholds, dtype=np.float32)
        ascending = values.ndim == 1 and values.size > 0 and bool((np.diff(values) > 0).all())
        if not ascending or not 0 <= values[0] <= values[-1] <= 1:
            raise UsageError(f"`thresholds` should be ascending numbers in [0, 1]; received {list(thresholds)}")
        self.classes = Confusion(classes).classes  # validates the number
        self.thresholds = tuple(float(value) for value in thresholds)
        self._edges = values
        self.joint = np.zeros((classes, classes, len(values) + 1), dtype=np.int64)

    def update(self, ids: np.ndarray, cams: np.ndarray, truth: np.ndarray) -> None:
        """Count one image.

        Args:
            ids: int (K,), distinct class ids from 1; with K = 0 everything is background.
            cams: float32 (K, H, W) in [0, 1].
            truth: uint8 (H, W), class ids, or 255 = not counted.

        Raises:
            UsageError: the shapes do not fit, or an id is repeated, background or unknown.
            Tag2maskError: a value of the truth is neither a class nor 255.
        """
        if cams.shape != (len(ids), *truth.shape):
            raise UsageError(f"`cams` should be (K, H, W) = {(len(ids), *truth.shape)}; received {cams.shape}")
        if len(ids) and not (1 <= min(ids) <= max(ids) < self.classes and len(set(ids)) == len(ids)):
            rule = f"distinct class ids between 1 and {self.classes - 1}, without background"
            raise UsageError(f"a sweep needs {rule}; received {[int(i) for i in ids]}")
        bins = len(self._edges) + 1
        if not len(ids):
            ids, cams = np.zeros(1, dtype=np.int64), np.zeros((1, *truth.shape), dtype=np.float32)
        largest, value = argmax(cams)
        below = np.searchsorted(self._edges, value.astype(np.float32, copy=False), side="left")  # number of thresholds
        codes = (truth.astype(np.int64) * len(ids) + largest) * bins + below
        counts = np.bincount(codes.ravel(), minlength=256 * len(ids) * bins).reshape(256, len(ids), bins)
        _check_values(counts.sum(axis=(1, 2)), self.classes, "truth")
        self.joint[:, ids] += counts[: self.classes]

    def merge(self, other: "ThresholdSweep") -> None:
        """Add the counts of ``other``, which has the same classes and thresholds."""
        if (other.classes, other.thresholds) != (self.classes, self.thresholds):
            raise UsageError("two sweeps can be merged only if their classes and thresholds are equal")
        self.joint += other.joint

    def confusion(self, threshold: float) -> Confusion:
        """The confusion matrix at one of the thresholds.

        Raises:
            UsageError: it is not one of the thresholds.
        """
        if threshold not in self.thresholds:
            raise UsageError(f"{threshold} is not one of the thresholds of this sweep: {list(self.thresholds)}")
        first = self.thresholds.index(threshold) + 1  # a CAM above threshold i has at least i + 1 thresholds below it
        result = Confusion(self.classes)
        result.matrix += self.joint[:, :, first:].sum(axis=2)
        result.matrix[:, 0] += self.joint[:, :, :first].sum(axis=(1, 2))
        return result

    def miou(self, ids: Collection[int] | None = None) -> dict[float, float]:
        """`Confusion.miou` by threshold."""
        return {threshold: self.confusion(threshold).miou(ids) for threshold in self.thresholds}

    def best(self, ids: Collection[int] | None = None) -> tuple[float, Confusion]:
        """The threshold with the largest mIoU (the smallest of equals) and its confusion matrix."""
        figures = self.miou(ids)
        threshold = max(self.thresholds, key=lambda value: np.nan_to_num(figures[value], nan=-1.0))
        return threshold, self.confusion(threshold)


def argmax(cams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index, uint8 (H, W), and value, (H, W), of the largest map at each pixel; the first of equals.

    For few maps this is several times as fast as ``numpy.argmax`` over the first axis.

    Args:
        cams: float (K, H, W), K at least 1.
    """
    largest, value = np.zeros(cams.shape[1:], dtype=np.uint8), cams[0]
    for index in range(1, len(cams)):
        largest[cams[index] > value] = index
        value = np.maximum(value, cams[index])
    return largest, value


def _check_values(counts: np.ndarray, classes: int, name: str) -> None:
    """Raise a `Tag2maskError` if ``counts``, (256,) pixels by value, has a value that is neither a class nor 255."""
    wrong = np.flatnonzero(counts[classes:IGNORE_INDEX]) + classes
    if wrong.size:
        allowed = f"classes are 0 to {classes - 1}, and 255"
        raise Tag2maskError(f"the {name} has values that are not classes: {first_five(wrong)}; {allowed}")
