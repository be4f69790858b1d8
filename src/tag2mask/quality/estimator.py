"""The quality of masks without ground truth: an estimate of the IoU of each class, and of their mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import UsageError
from tag2mask.quality.features import MaskFeatures

_NEARLY_EMPTY = 0.005
"""A mask with a smaller share of the image is nearly empty."""

_UNEXPECTED = 0.1
"""An untagged class is reported if the network gives it a larger share of the image; in an image without tags it then
counts in full as a missing class. Ours."""

_BACKGROUND = 0.25
"""A missing background counts in full if CAMs and network expect this share of it, and proportionally below; ours."""

_CONFIDENT = 0.75
"""A class with at least this confidence gets no reason."""

Values = npt.NDArray[np.float64]

_LOGIT_MARGIN = 0.02
"""A fraction v becomes (v + this) / (1 + 2 · this), which keeps its logit finite; ours."""

_MIN_SHARE = 1e-3
"""The lower bound of a share of the image; ours."""

FEW_CELLS = 4
"""The quality of a class whose mask has pixels, but covers fewer cells of its CAMs, is unknown: on real
images, the estimate does not rank such masks. Ours (docs/confidence.md)."""


@dataclass(frozen=True)
class Model:
    """A logistic model of the IoU of a class's mask: σ(bias + background + Σ weight · predictor).

    Attributes:
        bias: of every class.
        background: additional bias of the background.
        weights: by the name of the predictor; see `predictor`.
        means: of each predictor over the classes of the fit.
    """

    bias: float
    background: float
    weights: dict[str, float]
    means: dict[str, float]


MODELS = {
    ("cam", "network"): Model(
        -0.42,
        0.092,
        {"cam_expected": 0.457, "network_expected": 0.774, "share": -0.562, "more_tags": -0.274},
        {"cam_expected": 0.45, "network_expected": 0.053, "share": -1.166, "more_tags": 0.472},
    ),
    ("cam",): Model(
        -0.915,
        0.246,
        {"cam_expected": 1.341, "share": -0.648, "more_tags": -0.359},
        {"cam_expected": 0.45, "share": -1.166, "more_tags": 0.472},
    ),
    ("network",): Model(
        0.116,
        0.071,
        {"network_expected": 0.89, "share": -0.29, "more_tags": -0.331},
        {"network_expected": 0.053, "share": -1.166, "more_tags": 0.472},
    ),
}
"""The models by the available inputs.

Source: ours, fitted by `experiments/confidence.py fit` on 737 images of
voc-animals outside `val` and 240 generated scenes; docs/results.md, "Confidence without ground truth".
"""

_REASONS = {"cam_expected": "CAMs disagree", "network_expected": "network disagrees"}
"""The reason if this predictor lowers the estimate most."""


@dataclass(frozen=True)
class QualityEstimate:
    """The estimates for an image.

    Attributes:
        confidence: estimated mean IoU of the mask over background and tags, in [0, 1]; NaN if unknown.
        of_classes: float64 (K,), estimated IoU of each class; NaN if unknown.
        worst: index of the least certain class, a tagged one if there are tags; an unknown one comes first.
        reason_field: the predictor that lowers the estimate of that class most; empty without one.
        ranks: False if the run's own ground truth or corrected masks do not confirm the ranking; all is unknown then.
    """

    confidence: float
    of_classes: Values
    worst: int
    reason_field: str
    ranks: bool = True

    def unconfirmed(self) -> "QualityEstimate":
        """The estimate in a run whose ground truth or corrected masks do not confirm the ranking: all unknown."""
        return replace(self, confidence=np.nan, of_classes=np.full_like(self.of_classes, np.nan), ranks=False)

    def reason(self, features: MaskFeatures, names: Sequence[str]) -> str:
        """The reason for a low or an unknown confidence, in a few words; empty if it is high."""
        name = names[int(features.ids[self.worst])]
        if not self.ranks:
            return "ranking not reliable"
        if np.isnan(self.confidence):
            if features.ids[self.worst] == 0:
                return "no CAMs and no network"
            return f"mask of {name} covers fewer than {FEW_CELLS} CAM cells"
        share = float(features.of("share")[self.worst])
        if share == 0:
            return f"no pixel of {name}"
        if share < _NEARLY_EMPTY:
            return f"mask of {name} nearly empty"
        if features.unexpected_class and features.unexpected_share > _UNEXPECTED:
            return f"network sees {names[features.unexpected_class]}, which is not a tag"
        if self.of_classes[self.worst] >= _CONFIDENT or not self.reason_field:
            return ""
        return f"{_REASONS[self.reason_field]} on {name}"


def class_estimates(features: MaskFeatures, model: Model) -> Values:
    """The estimate of a model for each class: float64 (K,) in [0, 1]; 0 for a class without pixels.

    NaN for a tagged class whose mask covers fewer than `FEW_CELLS` cells of its CAMs.
    """
    scores = np.full(len(features.ids), model.bias) + np.where(features.ids == 0, model.background, 0.0)
    for name, weight in model.weights.items():
        scores += weight * predictor(features, name)
    scores[(features.of("cells") < FEW_CELLS) & (features.ids != 0)] = np.nan
    return np.where(features.of("share") == 0, 0.0, 1 / (1 + np.exp(-scores)))


def predictor(features: MaskFeatures, name: str) -> Values:
    """A predictor of the model for each class: float64 (K,).

    Args:
        name: `more_tags`, the number of tags beyond the first; `share`, its logarithm; or another feature, its logit.
    """
    if name == "more_tags":
        return np.full(len(features.ids), max(0.0, np.count_nonzero(features.ids) - 1.0))
    value = features.of(name).astype(np.float64)
    if name == "share":
        return np.log(np.maximum(value, _MIN_SHARE))
    return np.log((value + _LOGIT_MARGIN) / (1 + _LOGIT_MARGIN - value))


def estimate_quality(features: MaskFeatures) -> QualityEstimate:
    """Estimate the quality of an image's mask.

    Without tags only the network is used: a class that it finds is missing in the mask.

    Raises:
        UsageError: the image has tags, and there are neither CAMs nor a network.
    Source: ours.
    """
    tagged = np.flatnonzero(features.ids != 0)
    if not len(tagged):
        of_classes = features.of("network_free").astype(np.float64)
        seen = min(1.0, features.unexpected_share / _UNEXPECTED)
        return QualityEstimate(float(of_classes[0] / (1 + seen)), of_classes, 0, "network_expected")
    model = model_for(features)
    of_classes = class_estimates(features, model)
    worst = int(tagged[of_classes[tagged].argmin()])  # NaN is the minimum
    lowering = {
        name: weight * (float(predictor(features, name)[worst]) - model.means[name])
        for name, weight in model.weights.items()
        if name in _REASONS
    }
    name = min(lowering, key=lowering.__getitem__)
    return QualityEstimate(mean_estimate(features, of_classes), of_classes, worst, name if lowering[name] < 0 else "")


def mean_estimate(features: MaskFeatures, of_classes: Values) -> float:
    """The mean of the estimates (K,) over the classes of an image with tags.

    A missing background counts as far as CAMs and network expect it, because the image may have none.
    """
    weights = np.ones(len(of_classes))
    for place in np.flatnonzero((features.ids == 0) & (features.of("share") == 0)):
        shares = np.array([features.of(field)[place] for field in ("cam_share", "network_share")], dtype=np.float64)
        known = shares[~np.isnan(shares)]
        weights[place] = min(1.0, known.mean() / _BACKGROUND) if len(known) else 1.0
    return float(np.average(of_classes, weights=weights))


def model_for(features: MaskFeatures) -> Model:
    """The model for the available inputs.

    Raises:
        UsageError: there are neither CAMs nor a network.
    """
    probes = {"cam": "cam_expected", "network": "network_expected"}
    known = tuple(source for source, field in probes.items() if not np.isnan(features.of(field)).any())
    if known not in MODELS:
        raise UsageError("mask quality is estimated from CAMs or a segmentation network; there are neither")
    return MODELS[known]
