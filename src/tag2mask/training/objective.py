"""What training minimises: L = λ_cls · multi-label soft margin + λ_ot · L_otcon. Source: docs/method.md, "Loss"."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from tag2mask.networks.grids import photograph_cells
from tag2mask.networks.pot_network import PotOutput
from tag2mask.pot import PotSettings, consistency_loss, normalised_cams, transport_cams
from tag2mask.training.settings import TrainSettings


@dataclass(frozen=True)
class Losses:
    """The loss of a batch and its parts, scalars; ``consistency`` is None while it is left out."""

    total: Tensor
    classification: Tensor
    consistency: Tensor | None

    def detached(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each part, without gradient."""
        yield "loss", self.total.detach()
        yield "classification", self.classification.detach()
        if self.consistency is not None:
            yield "consistency", self.consistency.detach()


def objective(
    output: PotOutput,
    tags: Tensor,
    valid: Tensor,
    settings: TrainSettings,
    pot: PotSettings,
    *,
    stride: int,
    progress: float,
) -> Losses:
    """The loss of one batch.

    Args:
        output: of the network.
        tags: (N, C) bool.
        valid: (N, H, W) bool, False = padding of the view.
        settings: of training.
        pot: of POT, with thresholds for several scales; those for one scale are taken.
        stride: pixels a cell of the output.
        progress: share of the steps already done, in [0, 1).

    Returns:
        the losses, each a mean over images.
    """
    classification = F.multilabel_soft_margin_loss(output.logits.float(), tags.float())
    total = settings.classification_weight * classification
    if settings.consistency_weight == 0 or progress < settings.consistency_start:
        return Losses(total, classification, None)
    cells = photograph_cells(valid, (output.cams.shape[2], output.cams.shape[3]), stride=stride)
    cams = normalised_cams(output.cams.float(), tags, cells)
    # Where POT only teaches, nothing behind its features needs a gradient, and leaving it out saves the backward pass.
    features = output.features.detach() if settings.stop_gradient == "pot" else output.features
    result = transport_cams(features, cams.detach(), tags, pot.one_scale(), valid=cells)
    consistency = consistency_loss(cams, tags, result, adaptive=settings.adaptive, stop_gradient=settings.stop_gradient)
    return Losses(total + settings.consistency_weight * consistency, classification, consistency)
