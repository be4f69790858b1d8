"""The settings of training: those of every network, of the POT network, and of the edge network."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tag2mask.data.settings import AugmentSettings
from tag2mask.errors import UsageError
from tag2mask.networks.settings import SegmentationNetworkSettings
from tag2mask.pot.loss import StopGradient
from tag2mask.refine.affinity_loss import RADIUS
from tag2mask.refine.settings import SureSettings


@dataclass
class LoopSettings:
    """How any network is trained.

    Attributes:
        steps: number of optimiser steps; null takes `epochs`.
        epochs: passes over the photographs, where `steps` is null.
        batch_size: photographs a step, over all processes.
        accumulate: parts of a batch that go through the network one after another, for less memory; the step takes
            the mean of their gradients. Statistics of batch norm, and means in a loss, are then those of a part.
        optimizer: `adamw` or `sgd`.
        learning_rate: at the start; it falls to 0 as (1 − step/steps)^power.
        momentum: of `sgd`.
        weight_decay: of all trainable weights.
        power: exponent of the schedule.
        power_every: steps for which the learning rate stays before it falls again.
        clip: largest norm of the gradient; null does not clip.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: bf16 on a GPU that has it, fp32 elsewhere.
        average: the network ends with the mean of its weights over the steps, each counting this much of the next
            (0.999: some thousand steps); null ends with the last weights.
        validate_every: steps between two measurements on photographs with masks, where the stage has such; null: none.
        keep_best: true ends with the weights that measured best there, instead of the last. They are then chosen on
            those photographs, and what is measured on them is too good. False never chooses.
        checkpoint_every: steps between two saved states.
        log_every: steps between two lines of log.jsonl.
        tensorboard: also write those values for TensorBoard; needs the extra `tensorboard`.
        augment: how a photograph becomes a training view.
    """

    steps: int | None = None
    epochs: float = 6.0
    batch_size: int = 16
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    power_every: int = 1
    clip: float | None = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    average: float | None = None
    validate_every: int | None = None
    keep_best: bool = False
    checkpoint_every: int = 200
    log_every: int = 10
    tensorboard: bool = False
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    _section: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        problems = self._problems()
        if problems:
            raise UsageError(f"settings of {self._section}: " + "; ".join(problems))

    def total_steps(self, photographs: int) -> int:
        """Optimiser steps for a set of that many photographs."""
        return self.steps or max(1, round(self.epochs * photographs / self.batch_size))

    def decayed(self, step: int, total: int) -> float:
        """What the learning rate of the step after ``step`` of ``total`` is multiplied by."""
        return (1 - step // self.power_every * self.power_every / total) ** self.power  # type: ignore[no-any-return]

    def _problems(self) -> list[str]:
        """What is out of range, a clause each."""
        least = ("batch_size", "accumulate", "power_every", "checkpoint_every", "log_every")
        problems = [f"{name} should be at least 1" for name in least if getattr(self, name) < 1]
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            problems.append(f"batch_size {self.batch_size} should be a multiple of accumulate, {self.accumulate}")
        if self.steps is not None and self.steps < 1:
            problems.append("steps should be at least 1")
        if self.average is not None and not 0 < self.average < 1:
            problems.append("average should lie between 0 and 1; null ends with the last weights")
        if self.validate_every is not None and self.validate_every < 1:
            problems.append("validate_every should be at least 1; null never measures")
        if self.keep_best and (self.validate_every is None or self.average is not None):
            problems.append("keep_best needs validate_every, and the weights themselves: average null")
        problems += [f"{name} should be above 0" for name in ("epochs", "learning_rate") if not getattr(self, name) > 0]
        if self.clip is not None and not self.clip > 0:
            problems.append("clip should be above 0; null switches clipping off")
        problems += [
            f"{name} should not be negative"
            for name in ("weight_decay", "momentum", "power")
            if getattr(self, name) < 0
        ]
        return problems


@dataclass
class TrainSettings(LoopSettings):
    """How the POT network is trained: as `LoopSettings`, and by these.

    Attributes:
        head_factor: the learning rate of classifier and projections, as a multiple of the backbone's.
        classification_weight: λ_cls, of the multi-label soft margin loss.
        consistency_weight: λ_ot, of the consistency loss; 0 leaves it out.
        consistency_start: share of the steps, in [0, 1], before which the consistency loss is left out.
        adaptive: weigh the consistency loss by the certainty of the plan.
        stop_gradient: the side of the consistency loss without gradient: `pot`, `classifier` or `none`.
    """

    head_factor: float = 10.0
    classification_weight: float = 1.0
    consistency_weight: float = 0.5
    consistency_start: float = 0.5
    adaptive: bool = True
    stop_gradient: StopGradient = "pot"

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if not self.head_factor > 0:
            problems.append("head_factor should be above 0")
        weights = ("classification_weight", "consistency_weight")
        problems += [f"{name} should not be negative" for name in weights if getattr(self, name) < 0]
        if not 0 <= self.consistency_start <= 1:
            problems.append("consistency_start should lie in [0, 1]")
        return problems


@dataclass
class EdgeSettings(LoopSettings):
    """How IRN's edge network is trained: as `LoopSettings`, and by these.

    Attributes:
        backbone: what the edge branch reads, frozen: null takes the trained POT network's; else as `network.backbone`.
        weights: of that other backbone, as `network.weights`.
        levels: indices of the stages that the branch reads; null takes the usual ones.
        radius: cells of 4 pixels; the loss compares cells less than this apart.
        labels: which labels of the CAMs are learnt from.

    Source: IRN for 3 epochs of 32 photographs, the learning rate, the crop, and sizes of 0.5 to 1.5 times 500 px. Its
    momentum is 1e-4 by accident, which is as good as none.
    """

    epochs: float = 3.0
    batch_size: int = 32
    optimizer: Literal["adamw", "sgd"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    clip: float | None = None
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(crop=512, long_side=(250, 750)))
    backbone: str | None = None
    weights: str = "imagenet"
    levels: tuple[int, ...] | None = None
    radius: int = RADIUS
    labels: SureSettings = field(default_factory=SureSettings)

    _section: ClassVar[str] = "edges"

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.radius < 2:
            problems.append("radius should be at least 2")
        return problems


@dataclass
class SegmentSettings(LoopSettings):
    """How the segmentation network is trained: as `LoopSettings`, and by these.

    Attributes:
        enabled: whether `run` trains it; the verb `segment` always does.
        network: which network.
        labels: what it learns from: `masks`, the run's own, or `truth`, ground truth, for comparison.
        label_weights: how much each pixel counts: `none`, all alike, or `confidence`, as probable as its label is by
            the CRF; needs `refine.keep_confidence`.
        head_factor: the learning rate of the head, as a multiple of the backbone's.
        bias_factor: the learning rate of biases, as a multiple of that of weights; biases and norms do not decay.

    Source: 10 photographs a step, sizes, optimiser and factors of the DeepLabV2 of HSC_WSSS. Its crop is 448; with one
    pixel more the outer cells of stride 8 have their middles on the outer pixels, where `align_corners` puts them. With
    448 the last one is 7 pixels off.
    """

    epochs: float = 20.0
    batch_size: int = 10
    optimizer: Literal["adamw", "sgd"] = "sgd"
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    clip: float | None = None
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(crop=449, long_side=(250, 750), colour=10))
    enabled: bool = False
    network: SegmentationNetworkSettings = field(default_factory=SegmentationNetworkSettings)
    labels: Literal["masks", "truth"] = "masks"
    label_weights: Literal["none", "confidence"] = "none"
    head_factor: float = 10.0
    bias_factor: float = 2.0

    _section: ClassVar[str] = "segment"

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.labels == "truth" and self.label_weights == "confidence":
            problems.append("label_weights should be none with labels truth: ground truth has no confidence")
        factors = ("head_factor", "bias_factor")
        return problems + [f"{name} should be above 0" for name in factors if not getattr(self, name) > 0]
