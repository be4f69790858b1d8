"""From evidence to one number: an estimate of the IoU of each class's mask, and of the photograph's mean over them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tag2mask.confidence.evidence import Evidence
from tag2mask.errors import UsageError

_NEARLY_EMPTY = 0.005
"""A class with less of the photograph than this is nearly empty."""

_STRAY = 0.1
"""A class without a tag that the network gives more of the photograph than this is worth a word; where there is no tag,
it counts in full among the classes that the mask should have. Ours."""

_BACKGROUND = 0.25
"""Background without a pixel counts in full where CAMs and network expect so much of it, less in proportion; ours."""

_CLEAR = 0.75
"""A class that is at least so certain needs no reason."""


Values = npt.NDArray[np.float64]

_DRAWN_IN = 0.02
"""A fraction v counts as (v + this) / (1 + 2 · this), so that its logit is finite; ours."""

_LEAST_SHARE = 1e-3
"""A smaller share of the photograph counts as this; ours."""


@dataclass(frozen=True)
class Model:
    """A logistic model of the IoU of a class's mask: σ(bias + background, where it is that, + Σ weight · predictor).

    Attributes:
        bias: added for every class.
        background: added for background.
        weights: by the name of the predictor; see `predictor`.
        usual: the mean of each predictor over the classes that it was fitted on: what stands out is told by it.
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
"""The model for what there is evidence of.

Source: ours, fitted by `experiments/confidence.py fit` on 737 photographs of
voc-animals outside `val` and 240 generated scenes; docs/results.md, "Confidence without truth".
"""

_REASONS = {"cam_expected": "CAMs disagree", "network_expected": "network disagrees"}
"""What to say where this predictor is what lowers the estimate most."""


@dataclass(frozen=True)
class Judgement:
    """What the evidence about a photograph comes to.

    Attributes:
        confidence: an estimate of the mean IoU of its mask over its classes, background counted, in [0, 1]; NaN where
            nothing judges it.
        of_classes: float64 (K,), an estimate of the IoU of each class's mask; NaN likewise.
        worst: which of them is least certain, one with a tag where there is any.
        reason_field: the predictor that lowers the estimate of that one most; empty where none does.
    """

    confidence: float
    of_classes: Values
    worst: int
    reason_field: str

    def reason(self, evidence: Evidence, names: Sequence[str]) -> str:
        """Why the photograph is no more certain, in a few words; empty where it is certain."""
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
    """What a model says of each class: float64 (K,) in [0, 1].

    A class without a pixel gets 0: its tag says that it is there.
    """
    scores = np.full(len(evidence.ids), model.bias) + np.where(evidence.ids == 0, model.background, 0.0)
    for name, weight in model.weights.items():
        scores += weight * predictor(evidence, name)
    return np.where(evidence.of("share") == 0, 0.0, 1 / (1 + np.exp(-scores)))


def predictor(evidence: Evidence, name: str) -> Values:
    """A number that the model weighs, for each class: float64 (K,).

    Args:
        evidence: of a photograph.
        name: `more_tags`, how many tags the photograph has beyond the first; `share`, the logarithm of that; or another
            field of the evidence, of which it is the logit.
    """
    if name == "more_tags":
        return np.full(len(evidence.ids), max(0.0, np.count_nonzero(evidence.ids) - 1.0))
    value = evidence.of(name).astype(np.float64)
    if name == "share":
        return np.log(np.maximum(value, _LEAST_SHARE))
    return np.log((value + _DRAWN_IN) / (1 + _DRAWN_IN - value))


def judge(evidence: Evidence) -> Judgement:
    """Estimate the IoU of a photograph's masks.

    A photograph without tags is judged by the network alone: if that sees a class, the mask lacks one.

    Args:
        evidence: of CAMs, of a network, or of both; of neither only where there are no tags.

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
    """The mean over the classes of a photograph that has tags.

    Background without a pixel counts as far as CAMs and network expect some: nothing of it may be there to be found.

    Args:
        evidence: about the photograph.
        of_classes: float64 (K,), of each class.
    """
    weights = np.ones(len(of_classes))
    for place in np.flatnonzero((evidence.ids == 0) & (evidence.of("share") == 0)):
        shares = np.array([evidence.of(field)[place] for field in ("cam_share", "network_share")], dtype=np.float64)
        known = shares[~np.isnan(shares)]
        weights[place] = min(1.0, known.mean() / _BACKGROUND) if len(known) else 1.0
    return float(np.average(of_classes, weights=weights))


def model_for(evidence: Evidence) -> Model:
    """The model for what is known.

    Raises:
        UsageError: there is neither evidence of CAMs nor of a network.
    """
    probes = {"cam": "cam_expected", "network": "network_expected"}
    known = tuple(source for source, field in probes.items() if not np.isnan(evidence.of(field)).any())
    if known not in MODELS:
        raise UsageError("a mask is judged by CAMs or by a segmentation network; there is evidence of neither")
    return MODELS[known]
