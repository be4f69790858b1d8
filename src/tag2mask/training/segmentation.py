"""What training the segmentation network minimises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.data.images import IGNORED
from tag2mask.data.training_set import LabelledSet
from tag2mask.distributed import mean_over_processes
from tag2mask.networks.segmentation import SegmentationNetwork
from tag2mask.training.engine import Group, Task
from tag2mask.training.settings import SegmentSettings

_LEAST_WEIGHT = 1e-6
"""The weights of a batch sum to this at least: a batch without labels has a loss of 0, not of 0 / 0."""


@dataclass(frozen=True)
class SegmentationLoss:
    """The cross entropy of a batch.

    Attributes:
        total: a scalar: the mean over labelled pixels, weighted if they are, summed over the sets of logits.
    """

    total: Tensor


def segmentation_loss(
    logits: Tensor | Sequence[Tensor], labels: Tensor, weights: Tensor | None = None
) -> SegmentationLoss:
    """Cross entropy that leaves out what is ignored.

    Args:
        logits: float (N, C + 1, H, W), background first; or several of any sizes, of several scales: the labels are
            then brought to the size of each, each cell taking the pixel in its middle, and the losses are summed.
        labels: uint8 (N, H, W), class ids, 0 = background, 255 = ignored.
        weights: float (N, H, W), not negative: how much each label counts; None: all count alike.

    Returns:
        the loss; 0 where no pixel is labelled.

    Source: one set of logits as in HSC_WSSS, several as in the public PyTorch port of DeepLabV2; weights ours.
    """
    weights = (labels != IGNORED).float() if weights is None else weights * (labels != IGNORED)
    if isinstance(logits, Tensor):
        return SegmentationLoss(_cross_entropy(logits, labels, weights))
    losses = [_cross_entropy(each, _nearest(labels, each), _nearest(weights, each)) for each in logits]
    return SegmentationLoss(torch.stack(losses).sum())


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over labelled pixels, in float32; 0 without any. The weight of ignored pixels is 0.

    Of several processes each divides by the mean of their weights, so that the mean of their results, which is what
    data-parallel training follows, is the mean over the pixels of all.
    """
    losses = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORED, reduction="none")
    return (losses * weights).sum() / mean_over_processes(weights.sum()).clamp_min(_LEAST_WEIGHT)


def _nearest(maps: Tensor, logits: Tensor) -> Tensor:
    """Maps (N, H, W) on the grid of logits (N, K, h, w): the pixel in the middle of each cell."""
    size = [int(side) for side in logits.shape[2:]]
    return F.interpolate(maps[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(maps.dtype)


def segmentation_task(
    network: SegmentationNetwork,
    samples: LabelledSet,
    settings: SegmentSettings,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> Task:
    """The training of a segmentation network.

    Args:
        network: the network.
        samples: views of photographs with labels.
        settings: of training.
        validate: as of a `Task`.
    """

    def losses(wrapped: nn.Module, batch: Mapping[str, Tensor], progress: float) -> SegmentationLoss:
        labels = batch["labels"]
        logits = wrapped(batch["image"], batch["valid"])
        if isinstance(logits, Tensor):
            logits = network.to_pixels(logits, (int(labels.shape[1]), int(labels.shape[2])))
        return segmentation_loss(logits, labels, batch.get("weights"))

    named, head, bias = network.parameter_groups(), settings.head_factor, settings.bias_factor
    groups = (
        Group(named.backbone_weights),
        Group(named.backbone_biases, bias, decay=False),
        Group(named.backbone_norms, decay=False),
        Group(named.head_weights, head),
        Group(named.head_biases, head * bias, decay=False),
        Group(named.head_norms, head, decay=False),
    )
    return Task("segment", network, samples, groups, losses, validate=validate)
