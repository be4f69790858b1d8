"""Prototypical Optimal Transport: partition, allocation, activation and the adaptive consistency loss."""

from tag2mask.pot.loss import certainty, consistency_loss
from tag2mask.pot.method import TransportCams, transport_cams
from tag2mask.pot.partition import Partition, Slots, normalised_cams
from tag2mask.pot.settings import PotSettings

__all__ = [
    "Partition",
    "PotSettings",
    "Slots",
    "TransportCams",
    "certainty",
    "consistency_loss",
    "normalised_cams",
    "transport_cams",
]
