"""From evidence to confidence: an estimate of the IoU of each class's mask, and of their mean over an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import UsageError
from tag2mask.quality.features import Evidence

_NEARLY_EMPTY = 0.005
"""A mask with a smaller share of the image is nearly empty."""

_STRAY = 0.1
"""A class without a tag is reported if the network gives it a larger share of the image; in an image without tags, it
then counts in full among the classes that the mask should have. Ours."""

_BACKGROUND = 0.25
"""Background without a pixel counts in full if CAMs and network expect this share of it, less in proportion; ours."""

_CLEAR = 0.75
"""A class with at least this confidence needs no reason."""

Values = npt.NDArray[np.float64]

_DRAWN_IN = 0.02
"""A fraction v counts as (v + this) / (1 + 2 · this), which keeps its logit finite; ours."""

_LEAST_SHARE = 1e-3
"""A smaller share of the image counts as this; ours."""


@dataclass(frozen=True)
class Model:
    """A logistic model of the IoU of a class's mask: σ(bias + background + Σ weight · predictor).

    Attributes:
        bias: added for every class.
        background: added for background alone.
        weights: by the name of the predictor; see `predictor`.
        usual: the mean of each predictor over the classes of the fit.
    """

    bias: float
    background: float
    weights: dict[str, float]
    usual: dict[str, float]


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
"""The models by the available evidence.

Source: ours, fitted by `experiments/confidence.py fit` on 737 images of
voc-animals outside `val` and 240 generated scenes; docs/results.md, "Confidence without truth".
"""

_REASONS = {"cam_expected": "CAMs disagree", "network_expected": "network disagrees"}
"""The reason if this predictor lowers the estimate most."""


@dataclass(frozen=True)
class Judgement:
    """The estimates for an image.

    Attributes:
        confidence: an estimate of the mean IoU of its mask over its classes with background, in [0, 1]; NaN without
            evidence.
        of_classes: float64 (K,), an estimate of the IoU of each class's mask; NaN without evidence.
        worst: place of the least certain class, one with a tag if there is any.
        reason_field: the predictor that lowers the estimate of that class most; empty if none does.
    """

    confidence: float
    of_classes: Values
    worst: int
    reason_field: str

    def reason(self, evidence: Evidence, names: Sequence[str]) -> str:
        """Why the confidence is not higher, in a few words; empty if it is high."""
        if np.isnan(self.confidence):
            return "not judged by anything"
        share = float(evidence.of("share")[self.worst])
        name = names[int(evidence.ids[self.worst])]
        if share == 0:
            return f"no pixel of {name}"
        if share < _NEARLY_EMPTY:
            return f"mask of {name} nearly empty"
        if evidence.stray and evidence.stray_share > _STRAY:
            return f"network sees {names[evidence.stray]}, which is no tag"
        if self.of_classes[self.worst] >= _CLEAR or not self.reason_field:
            return ""
        return f"{_REASONS[self.reason_field]} on {name}"


def estimates(evidence: Evidence, model: Model) -> Values:
    """The estimate of a model for each class: float64 (K,) in [0, 1]; 0 for a class without pixels."""
    scores = np.full(len(evidence.ids), model.bias) + np.where(evidence.ids == 0, model.background, 0.0)
    for name, weight in model.weights.items():
        scores += weight * predictor(evidence, name)
    return np.where(evidence.of("share") == 0, 0.0, 1 / (1 + np.exp(-scores)))


def predictor(evidence: Evidence, name: str) -> Values:
    """A predictor of the model for each class: float64 (K,).

    Args:
        evidence: of an image.
        name: `more_tags`, the number of tags beyond the first; `share`, its logarithm; or another field of the
            evidence, as its logit.
    """
    if name == "more_tags":
        return np.full(len(evidence.ids), max(0.0, np.count_nonzero(evidence.ids) - 1.0))
    value = evidence.of(name).astype(np.float64)
    if name == "share":
        return np.log(np.maximum(value, _LEAST_SHARE))
    return np.log((value + _DRAWN_IN) / (1 + _DRAWN_IN - value))


def judge(evidence: Evidence) -> Judgement:
    """Estimate the IoU of an image's masks.

    An image without tags is judged by the network alone: a class that it finds is missing in the mask.

    Args:
        evidence: of CAMs, of a network, or of both; of neither only without tags.

    Raises:
        UsageError: it is of neither.
    Source: ours.
    """
    tagged = np.flatnonzero(evidence.ids != 0)
    if not len(tagged):
        of_classes = evidence.of("network_free").astype(np.float64)
        seen = min(1.0, evidence.stray_share / _STRAY)
        return Judgement(float(of_classes[0] / (1 + seen)), of_classes, 0, "network_expected")
    model = model_for(evidence)
    of_classes = estimates(evidence, model)
    worst = int(tagged[of_classes[tagged].argmin()])
    lowering = {
        name: weight * (float(predictor(evidence, name)[worst]) - model.usual[name])
        for name, weight in model.weights.items()
        if name in _REASONS
    }
    name = min(lowering, key=lowering.__getitem__)
    return Judgement(mean_estimate(evidence, of_classes), of_classes, worst, name if lowering[name] < 0 else "")


def mean_estimate(evidence: Evidence, of_classes: Values) -> float:
    """The mean of the estimates (K,) over the classes of an image with tags.

    Background without a pixel counts as far as CAMs and network expect some: the image may have none.
    """
    weights = np.ones(len(of_classes))
    for place in np.flatnonzero((evidence.ids == 0) & (evidence.of("share") == 0)):
        shares = np.array([evidence.of(field)[place] for field in ("cam_share", "network_share")], dtype=np.float64)
        known = shares[~np.isnan(shares)]
        weights[place] = min(1.0, known.mean() / _BACKGROUND) if len(known) else 1.0
    return float(np.average(of_classes, weights=weights))


def model_for(evidence: Evidence) -> Model:
    """The model for the available evidence.

    Raises:
        UsageError: there is neither evidence of CAMs nor of a network.
    """
    probes = {"cam": "cam_expected", "network": "network_expected"}
    known = tuple(source for source, field in probes.items() if not np.isnan(evidence.of(field)).any())
    if known not in MODELS:
        raise UsageError("a mask is judged by CAMs or by a segmentation network; there is evidence of neither")
    return MODELS[known]
