"""Figures with error bars: mIoU from counts per image, bootstrap over images, standard deviation over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tag2mask.evaluation import Confusion

Counts = npt.NDArray[np.int64]
"""(images, classes, 3): pixels of intersection, truth and prediction."""

_RESAMPLES = 2000


def counts_of(labels: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], classes: int) -> Counts:
    """The counts of one image, (classes + 1, 3)."""
    confusion = Confusion(classes + 1)
    confusion.update(labels, truth)
    return np.stack([confusion.matrix.diagonal(), confusion.truth_pixels(), confusion.matrix.sum(0)], axis=1)


@dataclass(frozen=True)
class Estimate:
    """An mIoU in per cent, or a difference of two.

    Attributes:
        mean: over seeds.
        low: lower end of the 95 % bootstrap interval of the mean over seeds.
        high: upper end.
        seeds: the figure of each seed.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (n − 1); 0 for one seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else 0.0

    def __str__(self) -> str:
        """For tables."""
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}] ± {self.spread:.1f}"


def miou(sums: npt.NDArray[np.float64], ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """The mean IoU in per cent over those of ``ids`` that occur in the truth, from sums (…, classes, 3)."""
    hits, truth, predicted = np.moveaxis(sums[..., list(ids), :], -1, 0)
    shares = hits / np.maximum(truth + predicted - hits, 1)
    return 100 * np.average(shares, axis=-1, weights=truth > 0)


def weights(images: int, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Counts of each image in each resample, (resamples, images); equal for all methods."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, [1 / images] * images, size=_RESAMPLES).astype(np.float64)


def estimate(counts: Sequence[Counts], ids: Sequence[int]) -> Estimate:
    """The mIoU of a method; ``counts`` has an entry per seed, with the same images in the same order."""
    return _estimate([counts], [1.0], ids)


def paired(first: Sequence[Counts], second: Sequence[Counts], ids: Sequence[int]) -> Estimate:
    """The mIoU of ``first`` minus that of ``second``, with paired resampling."""
    return _estimate([first, second], [1.0, -1.0], ids)


def _estimate(methods: Sequence[Sequence[Counts]], signs: Sequence[float], ids: Sequence[int]) -> Estimate:
    draws = weights(len(methods[0][0]))
    seeds, resampled = [], np.zeros(len(draws))
    for number in range(len(methods[0])):
        value = 0.0
        for method, sign in zip(methods, signs, strict=True):
            counts = method[number].astype(np.float64)
            value += sign * float(miou(counts.sum(0), ids))
            flat = draws @ counts.reshape(len(counts), -1)
            resampled += sign * miou(flat.reshape(len(draws), *counts.shape[1:]), ids) / len(methods[0])
        seeds.append(value)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(np.mean(seeds)), float(low), float(high), tuple(seeds))
