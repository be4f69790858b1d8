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
"""A class without a tag that the network gives more of the photograph than this is worth a word."""

_CLEAR = 0.75
"""A class that is at least so certain needs no reason."""


@dataclass(frozen=True)
class Model:
    """A logistic model of the IoU: σ(bias + Σ weight · field), with what fields are usually, to tell what stands out.

    Attributes:
        bias: added for every class.
        background: added for background.
        weights: by field of the evidence.
        usual: the mean of each of these fields over the classes that it was fitted on.
    """

    bias: float
    background: float
    weights: dict[str, float]
    usual: dict[str, float]


MODELS = {
    ("cam", "network"): Model(
        -2.0, 0.3, {"cam_overlap": 2.0, "network_expected": 3.0}, {"cam_overlap": 0.6, "network_expected": 0.6}
    ),
    ("cam",): Model(-2.0, 0.3, {"cam_overlap": 4.0}, {"cam_overlap": 0.6}),
    ("network",): Model(-2.0, 0.3, {"network_expected": 4.0}, {"network_expected": 0.6}),
}

_REASONS = {
    "cam_expected": "CAMs are unsure",
    "cam_overlap": "refinement changed much",
    "network_expected": "network disagrees",
    "network_overlap": "network disagrees",
    "network_free": "network sees something else",
}
"""What to say where a field is what lowers the estimate most."""


@dataclass(frozen=True)
class Judgement:
    """What the evidence about a photograph comes to.

    Attributes:
        confidence: an estimate of the mean IoU of its mask over its classes, background counted, in [0, 1].
        of_classes: float64 (K,), an estimate of the IoU of each class's mask.
        worst: which of them is least certain, one with a tag where there is any.
        reason_field: the field that lowers the estimate of that one most; empty where none does.
    """

    confidence: float
    of_classes: npt.NDArray[np.float64]
    worst: int
    reason_field: str

    def reason(self, evidence: Evidence, names: Sequence[str]) -> str:
        """Why the photograph is no more certain, in a few words; empty where it is certain."""
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


def estimates(evidence: Evidence, model: Model) -> npt.NDArray[np.float64]:
    """What a model says of each class: float64 (K,) in [0, 1].

    A class without a pixel gets 0: its tag says that it is there.
    """
    scores = np.full(len(evidence.ids), model.bias) + np.where(evidence.ids == 0, model.background, 0.0)
    for field, weight in model.weights.items():
        scores += weight * evidence.of(field).astype(np.float64)
    found: npt.NDArray[np.float64] = np.where(evidence.of("share") == 0, 0.0, 1 / (1 + np.exp(-scores)))
    return found


def judge(evidence: Evidence) -> Judgement:
    """Estimate the IoU of a photograph's masks.

    Args:
        evidence: of CAMs, of a network, or of both.

    Raises:
        UsageError: it is of neither.
    Source: ours.
    """
    model = model_for(evidence)
    of_classes = estimates(evidence, model)
    tagged = np.flatnonzero(evidence.ids != 0)
    worst = int(tagged[of_classes[tagged].argmin()]) if len(tagged) else 0
    lowering = {
        field: weight * (float(evidence.of(field)[worst]) - model.usual[field])
        for field, weight in model.weights.items()
        if field in _REASONS
    }
    field = min(lowering, key=lowering.__getitem__)
    return Judgement(float(of_classes.mean()), of_classes, worst, field if lowering[field] < 0 else "")


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
