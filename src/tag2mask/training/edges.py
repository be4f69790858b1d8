"""What training the edge network minimises."""

from collections.abc import Mapping

from torch import Tensor, nn

from tag2mask.data.training_set import LabelledSet
from tag2mask.networks.edge_network import EdgeNetwork
from tag2mask.refine.affinity_loss import AffinityLoss, affinity_loss, reduced_labels
from tag2mask.training.engine import Group, Task
from tag2mask.training.settings import EdgeSettings


def edge_task(network: EdgeNetwork, samples: LabelledSet, settings: EdgeSettings) -> Task:
    """The training of the edge branch by IRN's affinity loss.

    Args:
        network: its backbone is frozen.
        samples: views of photographs with sure labels.
        settings: of training.
    """

    def losses(wrapped: nn.Module, batch: Mapping[str, Tensor], progress: float) -> AffinityLoss:
        logits: Tensor = wrapped(batch["image"], batch["valid"])
        labels = reduced_labels(batch["labels"], (logits.shape[1], logits.shape[2]))
        return affinity_loss(logits, labels)

    return Task("edges", network, samples, (Group(network.branch_parameters()),), losses)
