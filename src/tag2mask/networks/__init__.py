"""Networks: backbones behind one interface, the networks on top of them, and checkpoints."""

from tag2mask.networks.backbones.base import ceil_grid
from tag2mask.networks.backbones.registry import Backbone, Stage, build_backbone
from tag2mask.networks.checkpoint import (
    NetworkInfo,
    load_network,
    load_segmentation_network,
    read_network_info,
    save_network,
)
from tag2mask.networks.pot_network import PotNetwork, PotOutput, build_network
from tag2mask.networks.segmentation import SegmentationNetwork, build_segmentation_network
from tag2mask.networks.settings import NetworkSettings, SegmentationNetworkSettings

__all__ = [
    "Backbone",
    "NetworkInfo",
    "NetworkSettings",
    "PotNetwork",
    "PotOutput",
    "SegmentationNetwork",
    "SegmentationNetworkSettings",
    "Stage",
    "build_backbone",
    "build_network",
    "build_segmentation_network",
    "ceil_grid",
    "load_network",
    "load_segmentation_network",
    "read_network_info",
    "save_network",
]
