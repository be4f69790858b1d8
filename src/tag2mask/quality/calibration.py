"""Measures how well confidence ranks images by the IoU with ground truth."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

LEAST = 10
"""Minimum number of images with ground truth or a corrected mask for a measurement, half of them in each half of the
ranking; ours."""

TARGET = 0.5
"""The rank correlation that confirms a ranking if its interval lies above 0; ours."""

EVIDENCE = "ground truth or a corrected mask"

NOT_RELIABLE = (
    f"the correlation is below {TARGET} or its interval is not above 0, so the ranking is not reliable and the "
    "confidence of every image is unknown: check all masks, or measure on more images"
)

_DRAWS = 1000
_MOST_DRAWN = 10_000_000
"""Maximum number of values in all bootstrap draws; there are at least 100 draws."""

_BATCH = 1 << 17
"""Values in a batch of draws."""


@dataclass(frozen=True)
class RankingQuality:
    """How well confidence ranks images by the IoU of their masks.

    Attributes:
        images: number of images with a confidence and an IoU.
        spearman: rank correlation, in [−1, 1]; None if confidence or IoU is constant.
        low, high: its 95 % bootstrap interval; None without a correlation.
        worst_tenth: the share of the tenth with the lowest IoU that is in the tenth with the lowest confidence.
        chance: that share by chance.
        calibration_error: mean absolute difference of confidence and IoU over tenths by confidence.
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

    @property
    def ranks(self) -> bool | None:
        """Whether the ranking is confirmed: its correlation reaches `TARGET`, not by chance; None without one."""
        return None if self.spearman is None or self.low is None else self.low > 0 and self.spearman >= TARGET

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        return {"ranks": self.ranks, **asdict(self)}

    def sentence(self) -> str:
        """The figures in words."""
        if self.spearman is None:
            return f"{self.images} images with {EVIDENCE}: not measured, because confidence or IoU is constant"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return (
            f"{self.images} images with {EVIDENCE}: rank correlation of confidence with IoU "
            f"{self.spearman:.2f}{interval}; the least certain tenth holds {self.worst_tenth:.0%} of the worst tenth "
            f"({self.chance:.0%} by chance); "
            f"mean confidence {self.mean_confidence:.2f}, mean IoU {self.mean_iou:.2f}"
            f"{f'; {NOT_RELIABLE}' if self.ranks is False else ''}"
        )


def ranking_quality(confidence: Values, iou: Values) -> RankingQuality:
    """Compare confidence with IoU, both float (N,), N at least 2."""
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


def covers_ranking(confidence: Values, iou: Values) -> bool:
    """Whether each half of the ranking has `LEAST` / 2 images with an IoU; both float (N,), NaN if unknown.

    The least certain images alone, which a review begins with, differ too little in confidence.
    """
    known = ~np.isnan(iou[np.argsort(confidence, kind="stable")[: np.count_nonzero(~np.isnan(confidence))]])
    return all(2 * half.sum() >= LEAST for half in np.array_split(known, 2))


def spearman(first: Values, second: Values) -> float:
    """The rank correlation of two float (N,), with mean ranks for equal values; NaN if one is constant."""
    from scipy.stats import spearmanr  # imported here, because it takes half a second

    with warnings.catch_warnings(action="ignore"):  # constant input gives NaN
        return float(spearmanr(first, second).statistic)


def spearman_interval(first: Values, second: Values, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the rank correlation, N at least 2; NaN if all draws are constant."""
    from scipy.stats import bootstrap

    with warnings.catch_warnings(action="ignore"):  # constant draws give NaN and are left out
        found = bootstrap(
            (first, second),
            spearman,
            paired=True,
            vectorized=False,
            method="percentile",
            n_resamples=max(100, min(_DRAWS, _MOST_DRAWN // len(first))),
            batch=max(1, _BATCH // len(first)),
            rng=seed,
        ).bootstrap_distribution
        low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def shared_tenth(confidence: Values, iou: Values) -> float:
    """The share of the tenth with the lowest IoU that is in the tenth with the lowest confidence, in [0, 1].

    A tenth of N is N / 10 rounded up. If it ends between equal values, the figure is the mean over all choices.
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
    """Mean confidence and mean IoU of equally large parts, least certain first."""
    order = np.argsort(confidence, kind="stable")
    return [
        (float(confidence[part].mean()), float(iou[part].mean()))
        for part in np.array_split(order, min(parts, len(order)))
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
