"""The confusion matrix: 64-bit counts of pixels, and the figures that follow from them."""

from collections.abc import Collection

import numpy as np

from tag2mask.errors import Tag2maskError, UsageError, first_five

IGNORE_INDEX = 255
"""The value of a ground-truth pixel that is not counted."""


class Confusion:
    """Counts of pixels by true and by predicted class, over any number of photographs.

    A pixel whose truth is 255 is not counted. A prediction of 255 is an answer withheld: it counts against the class
    that is there (as under-activation) and for no class, so that leaving hard pixels out never raises a figure.

    One object belongs to one thread; several are joined with `merge`.

    Args:
        classes: how many classes there are, background included; at most 255.

    Attributes:
        classes: as given.
        matrix: int64 (classes, classes), pixels by [truth, prediction], as scikit-learn's ``confusion_matrix``.
        withheld: int64 (classes,), pixels by truth whose prediction is 255.

    Source: the measures of PASCAL VOC segmentation; the split of the error into over- and under-activation is ours.
    """

    def __init__(self, classes: int) -> None:
        """No pixel is counted yet."""
        if not 1 <= classes <= IGNORE_INDEX:
            raise UsageError(f"`classes` should be between 1 and 255, background included; received {classes}")
        self.classes = classes
        self.matrix = np.zeros((classes, classes), dtype=np.int64)
        self.withheld = np.zeros(classes, dtype=np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Count one photograph (or any two arrays of one shape).

        Args:
            prediction: uint8 (H, W), class ids below ``classes``, or 255 = withheld.
            truth: uint8 (H, W), class ids below ``classes``, or 255 = not counted.

        Raises:
            UsageError: the shapes or the types differ from that.
            Tag2maskError: a value is neither a class nor 255.
        """
        for name, array in (("prediction", prediction), ("truth", truth)):
            if array.dtype != np.uint8:
                raise UsageError(f"`{name}` should be uint8 (class ids up to 254, and 255); it is {array.dtype}")
        if prediction.shape != truth.shape:
            raise UsageError(f"prediction {prediction.shape} and truth {truth.shape} should have the same shape")
        codes = (truth.astype(np.uint16) << 8) | prediction  # all pairs of values: ranges are checked on the counts
        counts = np.bincount(codes.ravel(), minlength=1 << 16).reshape(256, 256)
        check_values(counts.sum(axis=1), self.classes, "truth")
        check_values(counts.sum(axis=0), self.classes, "prediction")
        self.matrix += counts[: self.classes, : self.classes]
        self.withheld += counts[: self.classes, IGNORE_INDEX]

    def merge(self, other: "Confusion") -> None:
        """Add the counts of ``other``, which has the same number of classes."""
        if other.classes != self.classes:
            raise UsageError(
                f"counts of {self.classes} classes cannot be merged with counts of {other.classes} classes"
            )
        self.matrix += other.matrix
        self.withheld += other.withheld

    def iou(self) -> np.ndarray:
        """Intersection over union a class: TP / (TP + FP + FN).

        Returns:
            float64 (classes,) in [0, 1], NaN where a class is neither in the truth nor in the predictions.
        """
        return self._over_union(self._hits())

    def over_activation(self) -> np.ndarray:
        """What was painted outside a class: FP / (TP + FP + FN); with `iou` and `under_activation` it sums to 1.

        Returns:
            float64 (classes,) in [0, 1], NaN where `iou` is.
        """
        return self._over_union(self.matrix.sum(axis=0) - self._hits())

    def under_activation(self) -> np.ndarray:
        """What was missed of a class: FN / (TP + FP + FN); with `iou` and `over_activation` it sums to 1.

        Returns:
            float64 (classes,) in [0, 1], NaN where `iou` is.
        """
        return self._over_union(self.truth_pixels() - self._hits())

    def miou(self, ids: Collection[int] | None = None) -> float:
        """The mean of `iou` over classes that occur in the truth; NaN if none does.

        Args:
            ids: the classes to take the mean over, all by default. Those that the truth lacks are left out, as usual
                in the field; their false positives still count against the classes that they cover.

        Raises:
            UsageError: an id is not a class.
        """
        chosen = np.zeros(self.classes, dtype=bool)
        if ids is None:
            chosen[:] = True
        else:
            if unknown := sorted(i for i in ids if not 0 <= i < self.classes):
                raise UsageError(f"class ids lie between 0 and {self.classes - 1}; got {first_five(unknown)}")
            chosen[list(ids)] = True
        chosen &= self.truth_pixels() > 0
        return float(self.iou()[chosen].mean()) if chosen.any() else float("nan")

    def pixel_accuracy(self) -> float:
        """The share of counted pixels whose class is right, in [0, 1]; NaN if nothing was counted."""
        counted = int(self.truth_pixels().sum())
        return float(self._hits().sum() / counted) if counted else float("nan")

    def truth_pixels(self) -> np.ndarray:
        """How many counted pixels each class truly has, int64 (classes,)."""
        return np.asarray(self.matrix.sum(axis=1) + self.withheld)

    def _hits(self) -> np.ndarray:
        return np.asarray(self.matrix.diagonal())

    def _over_union(self, pixels: np.ndarray) -> np.ndarray:
        union = self.truth_pixels() + self.matrix.sum(axis=0) - self._hits()
        shares = np.full(self.classes, np.nan)
        np.divide(pixels, union, out=shares, where=union > 0)
        return shares


def check_values(counts: np.ndarray, classes: int, name: str) -> None:
    """Raise if a value that is neither a class nor 255 was counted.

    Args:
        counts: int64 (256,), pixels by value.
        classes: how many classes there are, background included.
        name: what the values are of, for the message.

    Raises:
        Tag2maskError: it names the values.
    """
    wrong = np.flatnonzero(counts[classes:IGNORE_INDEX]) + classes
    if wrong.size:
        allowed = f"classes are 0 to {classes - 1}, and 255"
        raise Tag2maskError(f"the {name} has values that are no class: {first_five(wrong)}; {allowed}")
