"""The settings of training: of every network, and of the POT, edge and segmentation networks."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

from tag2mask.core.fields import Checked, setting
from tag2mask.data.settings import AugmentSettings, FlipViewSettings, ViewSettings
from tag2mask.networks.settings import SegmentationNetworkSettings
from tag2mask.pot.loss import StopGradient
from tag2mask.refine.settings import SureSettings

Optimizer = Literal["adamw", "sgd"]

POWER = 0.9
"""Exponent with which the learning rate falls. Source: every published recipe here."""

WEIGHT_DECAY = 1e-4
"""Of the weights of the POT network and of the edge branch. Source: IRN, the release."""

BIAS_FACTOR = 2.0
"""The learning rate of biases of a segmentation network, as a multiple of that of weights. Source: DeepLabV2."""

CHECKPOINT_EVERY = 200
"""Steps between two saved states."""

LOG_EVERY = 10
"""Steps between two lines of log.jsonl."""


@dataclass
class RecordSettings(Checked):
    """Files of a training other than its network; section `train` has these settings for every training stage.

    Attributes:
        checkpoint_every: steps between two saved states.
        log_every: steps between two lines of log.jsonl.
        tensorboard: also write the log for TensorBoard; needs the extra `tensorboard`.
    """

    checkpoint_every: int = setting(CHECKPOINT_EVERY, low=1, affects=False)
    log_every: int = setting(LOG_EVERY, low=1, affects=False)
    tensorboard: bool = setting(False, affects=False)

    _section: ClassVar[str] = "train"


@dataclass
class LoopSettings(Checked):
    """How any network is trained; `SegmentSettings` and `TrainSettings` document the constants.

    Attributes:
        steps: number of optimiser steps; null takes `epochs`.
        epochs: passes over the images, if `steps` is null.
        batch_size: images per step, over all processes.
        gradient_accumulation_steps: parts of a batch that go through the network one after another, for less memory;
            the step takes the mean of their gradients. Batch norm and means in a loss are then over a part.
        learning_rate: at the start; it falls to 0 as (1 − step/steps)^0.9.
        momentum: that of `sgd`.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: bf16 on a GPU that has it, else fp32.
        augment: how an image becomes a training view.
    """

    steps: int | None = setting(None, low=1)
    epochs: float = setting(6.0, above=0)
    batch_size: int = setting(16, low=1)
    gradient_accumulation_steps: int = setting(1, low=1)
    learning_rate: float = setting(2e-4, above=0)
    momentum: float = setting(0.9, low=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    augment: ViewSettings = field(default_factory=ViewSettings)

    # Without annotations these are not settings here; subclasses make them settings.
    optimizer = "sgd"
    weight_decay = WEIGHT_DECAY
    power = POWER
    lr_update_every = 1
    max_grad_norm = cast("float | None", None)
    ema_decay = cast("float | None", None)
    validate_every = cast("int | None", None)
    keep_best = False

    _section: ClassVar[str] = "train"

    def total_steps(self, images: int) -> int:
        """Optimiser steps for a set of ``images``."""
        return self.steps or max(1, round(self.epochs * images / self.batch_size))

    def decayed(self, step: int, total: int) -> float:
        """The factor of the learning rate after ``step`` of ``total`` steps."""
        share = step // self.lr_update_every * self.lr_update_every / total
        return float((1 - share) ** self.power)

    def problems(self) -> list[str]:
        """Settings that do not go together."""
        problems = []
        if self.gradient_accumulation_steps > 0 and self.batch_size % self.gradient_accumulation_steps:
            problems.append(
                f"batch_size {self.batch_size} should be a multiple of gradient_accumulation_steps, "
                f"{self.gradient_accumulation_steps}"
            )
        if self.keep_best and (self.validate_every is None or self.ema_decay is not None):
            problems.append("keep_best needs validate_every, and ema_decay null")
        return problems


@dataclass
class TrainSettings(LoopSettings, RecordSettings):
    """How the POT network is trained: `LoopSettings`, `RecordSettings`, and these.

    Attributes:
        optimizer: `adamw` or `sgd`.
        max_grad_norm: largest norm of the gradient; null does not clip.
        head_lr_multiplier: the learning rate of classifier and projections, as a multiple of the backbone's.
        classification_weight: λ_cls, of the multi-label soft margin loss.
        consistency_weight: λ_ot, of the consistency loss; 0 leaves it out.
        consistency_start: share of the steps, in [0, 1], before which the consistency loss is left out.
        stop_gradient: the side of the consistency loss that gets no gradient: `pot`, `classifier` or `none`. Not read
            by `external.consistency_pair` `pot-target`, where both get one.
    """

    optimizer: Optimizer = "adamw"
    max_grad_norm: float | None = setting(1.0, above=0, null="null switches clipping off")
    augment: FlipViewSettings = field(default_factory=FlipViewSettings)
    head_lr_multiplier: float = setting(10.0, above=0)
    classification_weight: float = setting(1.0, low=0)
    consistency_weight: float = setting(0.5, low=0)
    consistency_start: float = setting(0.5, low=0, high=1)
    stop_gradient: StopGradient = "pot"


@dataclass
class EdgeSettings(LoopSettings):
    """How IRN's edge network is trained: `LoopSettings`, and these.

    Attributes:
        backbone: the frozen backbone: null takes the trained POT network's; else as `network.backbone`.
        weights: those of that other backbone, as `network.weights`.
        labels: which labels of the CAMs are used for training.

    Source: IRN for 3 epochs of 32 images, the learning rate, the crop, and sizes of 0.5 to 1.5 times 500 px. Its
    momentum is 1e-4 by accident, which is as good as none.
    """

    epochs: float = setting(3.0, above=0)
    batch_size: int = setting(32, low=1)
    learning_rate: float = setting(0.1, above=0)
    momentum: float = setting(0.0, low=0)
    augment: ViewSettings = field(default_factory=lambda: ViewSettings(crop=512, long_side=(250, 750)))
    backbone: str | None = setting(None, path=True)
    weights: str = setting("imagenet", path=True)
    labels: SureSettings = field(default_factory=SureSettings)

    _section: ClassVar[str] = "edges"


@dataclass
class SegmentSettings(LoopSettings):
    """How the segmentation network is trained: `LoopSettings`, and these.

    Attributes:
        optimizer: `adamw` or `sgd`.
        weight_decay: that of all trainable weights; biases and norms do not decay.
        max_grad_norm: largest norm of the gradient; null does not clip.
        lr_update_every: steps between two updates of the learning rate.
        ema_decay: decay of an exponential moving average of the weights, with which the network ends (0.999: over some
            thousand steps); null ends with the last weights.
        validate_every: steps between two validations on images with ground truth; null: none.
        keep_best: true ends with the weights that validated best instead of the last. Figures on the images of
            validation are then too good.
        enabled: whether `run` trains it; the verb `segment` always does.
        network: which network.
        labels: `masks` trains on the run's masks, `truth` on ground truth, for comparison.
        head_lr_multiplier: the learning rate of the head, as a multiple of the backbone's.

    Source: 10 images per step, sizes, optimiser and factors of the DeepLabV2 of HSC_WSSS. Its crop is 448; with one
    pixel more the outer cells of stride 8 have their middles on the outer pixels, where the upsampling `corners` puts
    them. With 448 the last one is 7 pixels off.
    """

    epochs: float = setting(20.0, above=0)
    batch_size: int = setting(10, low=1)
    optimizer: Optimizer = "sgd"
    learning_rate: float = setting(1e-3, above=0)
    weight_decay: float = setting(5e-4, low=0)
    max_grad_norm: float | None = setting(None, above=0, null="null switches clipping off")
    augment: AugmentSettings = field(
        default_factory=lambda: AugmentSettings(crop=449, long_side=(250, 750), hsv_jitter=10)
    )
    lr_update_every: int = setting(1, low=1)
    ema_decay: float | None = setting(None, above=0, below=1, null="null ends with the last weights")
    validate_every: int | None = setting(None, low=1, affects=False, null="null never measures")
    keep_best: bool = False
    enabled: bool = setting(False, affects=False)
    network: SegmentationNetworkSettings = field(default_factory=SegmentationNetworkSettings)
    labels: Literal["masks", "truth"] = "masks"
    head_lr_multiplier: float = setting(10.0, above=0)

    _section: ClassVar[str] = "segment"
