"""The settings of training: those of every network, of the POT network, and of the edge network."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tag2mask.data.settings import AugmentSettings
from tag2mask.fields import Checked, setting
from tag2mask.networks.settings import SegmentationNetworkSettings
from tag2mask.pot.loss import StopGradient
from tag2mask.refine.affinity_loss import RADIUS
from tag2mask.refine.settings import SureSettings


@dataclass
class LoopSettings(Checked):
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

    steps: int | None = setting(None, low=1)
    epochs: float = setting(6.0, above=0)
    batch_size: int = setting(16, low=1)
    accumulate: int = setting(1, low=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = setting(2e-4, above=0)
    momentum: float = setting(0.9, low=0)
    weight_decay: float = setting(1e-4, low=0)
    power: float = setting(0.9, low=0)
    power_every: int = setting(1, low=1)
    clip: float | None = setting(1.0, above=0, null="null switches clipping off")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    average: float | None = setting(None, above=0, below=1, null="null ends with the last weights")
    validate_every: int | None = setting(None, low=1, affects=False, null="null never measures")
    keep_best: bool = False
    checkpoint_every: int = setting(200, low=1, affects=False)
    log_every: int = setting(10, low=1, affects=False)
    tensorboard: bool = setting(False, affects=False)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    _section: ClassVar[str] = "train"

    def total_steps(self, photographs: int) -> int:
        """Optimiser steps for a set of that many photographs."""
        return self.steps or max(1, round(self.epochs * photographs / self.batch_size))

    def decayed(self, step: int, total: int) -> float:
        """What the learning rate of the step after ``step`` of ``total`` is multiplied by."""
        return (1 - step // self.power_every * self.power_every / total) ** self.power  # type: ignore[no-any-return]

    def problems(self) -> list[str]:
        """Settings that do not go together."""
        problems = []
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            problems.append(f"batch_size {self.batch_size} should be a multiple of accumulate, {self.accumulate}")
        if self.keep_best and (self.validate_every is None or self.average is not None):
            problems.append("keep_best needs validate_every, and the weights themselves: average null")
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

    head_factor: float = setting(10.0, above=0)
    classification_weight: float = setting(1.0, low=0)
    consistency_weight: float = setting(0.5, low=0)
    consistency_start: float = setting(0.5, low=0, high=1)
    adaptive: bool = True
    stop_gradient: StopGradient = "pot"


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

    epochs: float = setting(3.0, above=0)
    batch_size: int = setting(32, low=1)
    optimizer: Literal["adamw", "sgd"] = "sgd"
    learning_rate: float = setting(0.1, above=0)
    momentum: float = setting(0.0, low=0)
    clip: float | None = setting(None, above=0, null="null switches clipping off")
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(crop=512, long_side=(250, 750)))
    backbone: str | None = setting(None, path=True)
    weights: str = setting("imagenet", path=True)
    levels: tuple[int, ...] | None = None
    radius: int = setting(RADIUS, low=2)
    labels: SureSettings = field(default_factory=SureSettings)

    _section: ClassVar[str] = "edges"


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

    epochs: float = setting(20.0, above=0)
    batch_size: int = setting(10, low=1)
    optimizer: Literal["adamw", "sgd"] = "sgd"
    learning_rate: float = setting(1e-3, above=0)
    weight_decay: float = setting(5e-4, low=0)
    clip: float | None = setting(None, above=0, null="null switches clipping off")
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(crop=449, long_side=(250, 750), colour=10))
    enabled: bool = setting(False, affects=False)
    network: SegmentationNetworkSettings = field(default_factory=SegmentationNetworkSettings)
    labels: Literal["masks", "truth"] = "masks"
    label_weights: Literal["none", "confidence"] = "none"
    head_factor: float = setting(10.0, above=0)
    bias_factor: float = setting(2.0, above=0)

    _section: ClassVar[str] = "segment"

    def problems(self) -> list[str]:
        """Settings that do not go together."""
        problems = super().problems()
        if self.labels == "truth" and self.label_weights == "confidence":
            problems.append("label_weights should be none with labels truth: ground truth has no confidence")
        return problems
