"""What training minimises: L = λ_cls · multi-label soft margin + λ_ot · L_otcon + λ_ext · L_ext.

Source: docs/method.md, "Loss", and docs/seeds.md for L_ext.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.data.training_set import TrainingSet
from tag2mask.networks.grids import photograph_cells
from tag2mask.networks.pot_network import PotNetwork, PotOutput
from tag2mask.pot import PotSettings, consistency_loss, normalised_cams, transport_cams
from tag2mask.pot.external import ExternalSettings, base_cams, external_loss, external_target, suppressed
from tag2mask.training.engine import Group, Task
from tag2mask.training.settings import TrainSettings


@dataclass(frozen=True)
class PotLosses:
    """The loss of a batch and its parts, scalars; ``consistency`` and ``external`` are None while they are left out."""

    total: Tensor
    classification: Tensor
    consistency: Tensor | None
    external: Tensor | None = None


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
    """The loss of one batch.

    Args:
        output: of the network.
        tags: (N, C) bool.
        valid: (N, H, W) bool, False = padding of the view.
        settings: of training.
        pot: of POT, with thresholds for several scales; those for one scale are taken.
        stride: pixels a cell of the output.
        progress: share of the steps already done, in [0, 1).
        external: (N, C, h, w) in [0, 1] or `NO_MAP`, base CAMs from outside, moved as the images; None without any.
        use: what those are used for; needed with ``external``.

    Returns:
        the losses, each a mean over images.
    """
    classification = F.multilabel_soft_margin_loss(output.logits.float(), tags.float())
    total = settings.classification_weight * classification
    teaches = external is not None and use is not None and use.consistency_weight > 0
    if (settings.consistency_weight == 0 and not teaches) or progress < settings.consistency_start:
        return PotLosses(total, classification, None)
    cells = photograph_cells(valid, (output.cams.shape[2], output.cams.shape[3]), stride=stride)
    cams = normalised_cams(output.cams.float(), tags, cells)
    base = cams.detach()
    if external is not None and use is not None:
        base = base_cams(base, external, tags, use, cells)
    # Where POT only teaches, nothing behind its features needs a gradient, and leaving it out saves the backward pass.
    features = output.features.detach() if settings.stop_gradient == "pot" else output.features
    result = transport_cams(features, base, tags, pot.one_scale(), valid=cells)
    if external is not None and use is not None:
        result = suppressed(result, external, use)
    consistency = outside = None
    if settings.consistency_weight:
        consistency = consistency_loss(cams, tags, result, stop_gradient=settings.stop_gradient)
        total = total + settings.consistency_weight * consistency
    if external is not None and use is not None and teaches:
        target = external_target(result, external, use)
        outside = external_loss(cams, tags, external, target, result)
        total = total + use.consistency_weight * outside
    return PotLosses(total, classification, consistency, outside)


def pot_task(
    network: PotNetwork,
    samples: TrainingSet,
    settings: TrainSettings,
    pot: PotSettings,
    external: ExternalSettings | None = None,
) -> Task:
    """The training of the POT network.

    Args:
        network: the network.
        samples: views of tagged photographs.
        settings: of training.
        pot: of POT; the thresholds for a single scale are used.
        external: what base CAMs from outside are used for, where the samples have such.
    """

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

    groups = (Group(network.backbone_parameters()), Group(network.head_parameters(), settings.head_factor))
    # The side projections have no gradient while the consistency loss is off.
    return Task("train", network, samples, groups, losses, may_lack_gradients=True)
