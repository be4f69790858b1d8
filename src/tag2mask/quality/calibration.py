"""How well confidence ranks images, measured against the IoU with ground truth."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

LEAST = 10
"""Number of images with ground truth from which a ranking is measured; ours."""

_DRAWS = 1000
_MOST_DRAWN = 10_000_000
"""Most values that the bootstrap draws in all; but at least 100 draws."""

_AT_ONCE = 1 << 17
"""Values that are ranked at once."""


@dataclass(frozen=True)
class RankingQuality:
    """How well confidence ranks images by the IoU of their masks.

    Attributes:
        images: number of images.
        spearman: rank correlation, in [−1, 1]; None if one of the two is constant.
        low: lower end of its 95 % bootstrap interval; None without a correlation.
        high: upper end.
        worst_tenth: the share of the tenth with the lowest IoU that is in the tenth with the lowest confidence.
        chance: that share by chance.
        mean_confidence: mean over the images.
        mean_iou: mean over the images.
        calibration_error: mean distance between the two over tenths by confidence.
    """

    images: int
    spearman: float | None
    low: float | None
    high: float | None
    worst_tenth: float
    chance: float
    mean_confidence: float
    mean_iou: float
    calibration_error: float

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)

    def sentence(self) -> str:
        """The figures in words."""
        if self.spearman is None:
            return f"truth of {self.images} images: confidence or IoU is the same everywhere, so nothing ranks"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return (
            f"truth of {self.images} images: rank correlation of confidence with IoU "
            f"{self.spearman:.2f}{interval}; the least certain tenth holds {self.worst_tenth:.0%} of the worst tenth "
            f"({self.chance:.0%} by chance); "
            f"mean confidence {self.mean_confidence:.2f}, mean IoU {self.mean_iou:.2f}"
        )


def ranking_quality(confidence: Values, iou: Values) -> RankingQuality:
    """Compare confidence with the IoU.

    Args:
        confidence: float (N,), N at least 2.
        iou: float (N,), of the same images.
    """
    low, high = spearman_interval(confidence, iou)
    return RankingQuality(
        len(iou),
        _known(spearman(confidence, iou)),
        _known(low),
        _known(high),
        shared_tenth(confidence, iou),
        _tenth(len(iou)) / len(iou),
        float(confidence.mean()),
        float(iou.mean()),
        float(np.mean([abs(mean - true) for mean, true in calibration(confidence, iou)])),
    )


def spearman(first: Values, second: Values) -> float:
    """The rank correlation of two float (N,), equal values sharing their ranks; NaN if one is constant."""
    from scipy.stats import spearmanr  # takes half a second, which other commands should not wait for

    with warnings.catch_warnings(action="ignore"):  # that one is constant
        return float(spearmanr(first, second).statistic)


def spearman_interval(first: Values, second: Values, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the rank correlation; NaN if it is defined in no draw.

    Args:
        first: float (N,), N at least 2.
        second: float (N,).
        seed: of the draws.
    """
    from scipy.stats import bootstrap

    with warnings.catch_warnings(action="ignore"):  # that draws are constant, which do not count
        found = bootstrap(
            (first, second),
            spearman,
            paired=True,
            vectorized=False,
            method="percentile",
            n_resamples=max(100, min(_DRAWS, _MOST_DRAWN // len(first))),
            batch=max(1, _AT_ONCE // len(first)),
            rng=seed,
        ).bootstrap_distribution
        low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def shared_tenth(confidence: Values, iou: Values) -> float:
    """The share of the tenth with the lowest IoU that is in the tenth with the lowest confidence, in [0, 1].

    A tenth of N is N / 10 rounded up. If it ends between equal values, the figure is the mean over all choices among
    them.
    """
    return float(_in_lowest_tenth(confidence) @ _in_lowest_tenth(iou) / _tenth(len(iou)))


def _in_lowest_tenth(values: Values) -> Values:
    """The probability that each value is in the lowest tenth, with a random choice among equal ones: (N,)."""
    tenth = _tenth(len(values))
    last = np.partition(values, tenth - 1)[tenth - 1]
    below, equal = values < last, values == last
    found: Values = below + equal * (tenth - below.sum()) / equal.sum()
    return found


def _tenth(count: int) -> int:
    """A tenth, rounded up."""
    return -(-count // 10)


def calibration(confidence: Values, iou: Values, parts: int = 10) -> list[tuple[float, float]]:
    """Mean confidence and mean IoU of equally large parts, from the least confident on."""
    order = np.argsort(confidence, kind="stable")
    return [
        (float(confidence[part].mean()), float(iou[part].mean()))
        for part in np.array_split(order, min(parts, len(order)))
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
