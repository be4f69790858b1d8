"""The training tasks: the POT network, IRN's edge network and the segmentation network, each with its loss.

POT network: L = λ_cls · multi-label soft margin + λ_ot · L_otcon (docs/method.md, "Loss"), or with L_ext in place of
L_otcon (docs/seeds.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.core.distributed import mean_over_processes
from tag2mask.core.profile import timed
from tag2mask.data.images import IGNORED
from tag2mask.data.loading.datasets import LabelledSet, TrainingSet
from tag2mask.networks.backbones.base import image_cells
from tag2mask.networks.edge_network import EdgeNetwork
from tag2mask.networks.pot_network import PotNetwork, PotOutput
from tag2mask.networks.segmentation import SegmentationNetwork
from tag2mask.pot import PotSettings, consistency_loss, normalised_cams, transport_cams
from tag2mask.pot.external import ExternalSettings, base_cams, external_loss, suppressed
from tag2mask.refine.affinity_loss import AffinityLoss, affinity_loss, reduced_labels
from tag2mask.training.settings import BIAS_FACTOR, SegmentSettings, TrainSettings
from tag2mask.training.trainer import Group, Task

FITTED = 0.03
"""The classification loss below which the tags of a batch count as fitted. Ours: lower losses only widen CAMs; on 10
images of two classes, POT's mIoU fell from 60 % after 6 steps to 27 % after 60. [docs/results.md, "Few images"]"""

FEW_IMAGES = 200
"""The most images for which batches with fitted tags are skipped. Ours: CAMs widen with up to 136 images; with the 320
of the demo, to skip 31 of 300 steps made no difference. [docs/results.md, "Few images"]"""

_LEAST_COUNT = 1e-6
"""The least number of labelled pixels, so that a batch without labels has a loss of 0, not of 0 / 0."""


@dataclass(frozen=True)
class PotLosses:
    """The loss of a batch and its parts, scalars; ``consistency`` is None while unused."""

    total: Tensor
    classification: Tensor
    consistency: Tensor | None


def objective(
    output: PotOutput,
    tags: Tensor,
    valid: Tensor,
    settings: TrainSettings,
    pot: PotSettings,
    *,
    stride: int,
    progress: float,
    external: Tensor | None = None,
    use: ExternalSettings | None = None,
) -> PotLosses:
    """The loss of the POT network for one batch.

    Args:
        tags: (N, C) bool.
        valid: (N, H, W) bool, False = padding.
        pot: settings of the method.
        stride: pixels per cell of the output.
        progress: share of the steps already done, in [0, 1).
        external: (N, C, h, w) in [0, 1] or `NO_MAP`, external base CAMs, transformed as the images.
        use: how they are used; the default settings if None.

    Returns:
        the losses, each a mean over images.
    """
    classification = F.multilabel_soft_margin_loss(output.logits.float(), tags.float())
    total = settings.classification_weight * classification
    if settings.consistency_weight == 0 or progress < settings.consistency_start:
        return PotLosses(total, classification, None)
    cells = image_cells(valid, (output.cams.shape[2], output.cams.shape[3]), stride=stride)
    cams = normalised_cams(output.cams.float(), cells)
    base = cams.detach()
    use = use or ExternalSettings()
    if external is not None:
        base = base_cams(base, external, use, cells)
    with_target = use.consistency_pair == "pot-target"
    # If POT is only a target, its features need no gradient, which saves their backward pass.
    is_target = settings.stop_gradient == "pot" and not with_target
    features = output.features.detach() if is_target else output.features
    with timed("method"):
        result = transport_cams(features, base, tags, pot, valid=cells)
    if external is not None:
        result = suppressed(result, external, use)
    if external is not None and with_target:
        consistency = external_loss(result, external, use)
    else:
        consistency = consistency_loss(cams, tags, result, stop_gradient=settings.stop_gradient)
    return PotLosses(total + settings.consistency_weight * consistency, classification, consistency)


def fitted_loss(tags: npt.NDArray[np.bool_]) -> float:
    """The classification loss below which tags, bool (N, C), count as fitted: at most `FITTED`; 0 for many images.

    It is also at most a tenth of the loss of the tags' rates, which is low if most tags are False. Source: ours.
    """
    if len(tags) > FEW_IMAGES:
        return 0.0
    rates = np.clip(tags.mean(axis=0), 1e-6, 1 - 1e-6)
    return min(FITTED, 0.1 * float(-(rates * np.log(rates) + (1 - rates) * np.log(1 - rates)).mean()))


def pot_task(
    network: PotNetwork,
    samples: TrainingSet,
    settings: TrainSettings,
    pot: PotSettings,
    external: ExternalSettings | None = None,
) -> Task:
    """The training of the POT network on views of tagged images; ``external``: the use of their external CAMs."""

    def losses(wrapped: nn.Module, batch: Mapping[str, Tensor], progress: float) -> PotLosses:
        output = wrapped(batch["image"], batch["valid"])
        return objective(
            output,
            batch["tags"].bool(),
            batch["valid"],
            settings,
            pot,
            stride=network.stride,
            progress=progress,
            external=batch["external"].float() if "external" in batch else None,
            use=external,
        )

    groups = (Group(network.backbone_parameters()), Group(network.head_parameters(), settings.head_lr_multiplier))
    # The side projections have no gradient while the consistency loss is off.
    # External CAMs hold their target; without them, training on only widens CAMs.
    fitted = fitted_loss(samples.images.tag_matrix()) if external is None else 0.0
    return Task("train", network, samples, groups, losses, may_lack_gradients=True, fitted=fitted)


def edge_task(network: EdgeNetwork, samples: LabelledSet) -> Task:
    """The training of the edge branch by IRN's affinity loss, on views of images with confident labels."""

    def losses(wrapped: nn.Module, batch: Mapping[str, Tensor], progress: float) -> AffinityLoss:
        logits: Tensor = wrapped(batch["image"], batch["valid"])
        labels = reduced_labels(batch["labels"], (logits.shape[1], logits.shape[2]))
        return affinity_loss(logits, labels)

    return Task("edges", network, samples, (Group(list(network.branch.parameters())),), losses)


@dataclass(frozen=True)
class SegmentationLoss:
    """The cross entropy of a batch, a scalar: the mean over labelled pixels, summed over sets of logits."""

    total: Tensor


def segmentation_loss(logits: Tensor | Sequence[Tensor], labels: Tensor) -> SegmentationLoss:
    """Cross entropy over the pixels that are not ignored.

    Args:
        logits: float (N, C + 1, H, W), background first; or several of any sizes, one per scale: the labels are then
            reduced to the size of each by nearest-neighbour interpolation, and the losses summed.
        labels: uint8 (N, H, W), class ids, 0 = background, 255 = ignored.

    Returns:
        the loss; 0 without labelled pixels.

    Source: one set of logits as in HSC_WSSS, several as in the public PyTorch port of DeepLabV2.
    """
    if isinstance(logits, Tensor):
        return SegmentationLoss(_cross_entropy(logits, labels))
    losses = [_cross_entropy(each, _nearest(labels, each)) for each in logits]
    return SegmentationLoss(torch.stack(losses).sum())


def segmentation_task(
    network: SegmentationNetwork,
    samples: LabelledSet,
    settings: SegmentSettings,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> Task:
    """The training of a segmentation network on views of labelled images; ``validate`` as in `Task`."""

    def losses(wrapped: nn.Module, batch: Mapping[str, Tensor], progress: float) -> SegmentationLoss:
        labels = batch["labels"]
        logits = wrapped(batch["image"], batch["valid"])
        if isinstance(logits, Tensor):
            logits = network.to_pixels(logits, (int(labels.shape[1]), int(labels.shape[2])))
        return segmentation_loss(logits, labels)

    named, head, bias = network.parameter_groups(), settings.head_lr_multiplier, BIAS_FACTOR
    groups = (
        Group(named.backbone_weights),
        Group(named.backbone_biases, bias, decay=False),
        Group(named.backbone_norms, decay=False),
        Group(named.head_weights, head),
        Group(named.head_biases, head * bias, decay=False),
        Group(named.head_norms, head, decay=False),
    )
    return Task("segment", network, samples, groups, losses, validate=validate)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over labelled pixels, in float32; 0 without any.

    Each process divides by the mean number of all processes, so that the mean of their results is over all pixels.
    """
    losses = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORED, reduction="none")
    count = (labels != IGNORED).float().sum()
    return losses.sum() / mean_over_processes(count).clamp_min(_LEAST_COUNT)


def _nearest(maps: Tensor, logits: Tensor) -> Tensor:
    """Maps (N, H, W) on the grid of logits (N, K, h, w): the pixel at the centre of each cell."""
    size = [int(side) for side in logits.shape[2:]]
    return F.interpolate(maps[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(maps.dtype)
