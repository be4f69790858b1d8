"""The families of backbones, and how one of their backbones is built for new training or from a checkpoint."""

from typing import Any

from tag2mask.core.errors import UsageError
from tag2mask.networks.backbones import huggingface, resnet, wide_resnet
from tag2mask.networks.backbones.base import Backbone, Colour, Family, Stage
from tag2mask.networks.backbones.hub import check_name
from tag2mask.networks.backbones.weights import Notify
from tag2mask.networks.settings import NetworkSettings

__all__ = ["FAMILIES", "NAMES", "Backbone", "Stage", "build_backbone", "family_of", "rebuild_backbone"]

FAMILIES = (resnet.FAMILY, wide_resnet.FAMILY, huggingface.FAMILY)

NAMES = tuple(name for family in FAMILIES for name in family.names)
"""The values of `network.backbone` that are neither folders nor names on the hub."""


def family_of(backbone: str) -> Family:
    """The family of a value of `network.backbone`; folders and names on the hub belong to `transformers`."""
    return next((family for family in FAMILIES if backbone in family.names), huggingface.FAMILY)


def build_backbone(settings: NetworkSettings, *, dilated: bool = False, notify: Notify | None = None) -> Backbone:
    """The backbone of the settings, with its weights and norm policy.

    Random weights come from torch's global generator. Only public weights and models on the hub are downloaded, unless
    they are cached.

    Args:
        dilated: whether dilations replace the strides that ``output_stride`` removes (DeepLab).
        notify: called before a download; None logs a warning.

    Raises:
        UsageError: the backbone or its weights do not exist or do not fit.
        Tag2maskError: a download failed.
    """
    name, family = settings.backbone, family_of(settings.backbone)
    if name not in NAMES:
        check_name(name, known=NAMES)
    if dilated and not family.can_dilate:
        raise UsageError(f"network.backbone: only ResNets can be dilated, received {name}")
    if not (settings.wants_pretrained or settings.wants_random or family.takes_file):
        file_names = ", ".join(each for found in FAMILIES if found.takes_file for each in found.names)
        raise UsageError(
            f"network.weights should be `imagenet` or `none` for {name}, received {settings.weights!r}; a path is for "
            f"ResNets alone ({file_names}); to use the weights of a transformers model, give its folder: "
            f"`--network.backbone FOLDER`"
        )
    return _with_policy(family.build(settings, dilated, notify), settings)


def rebuild_backbone(architecture: dict[str, Any], settings: NetworkSettings, mean: Colour, std: Colour) -> Backbone:
    """The backbone of a checkpoint, with random weights.

    Raises:
        UsageError: the architecture is unknown.
    """
    families = {family.kind: family for family in FAMILIES}
    if architecture["kind"] not in families:
        raise UsageError(f"backbones are of the kind {', '.join(families)}, received {architecture['kind']!r}")
    backbone = families[architecture["kind"]].rebuild(architecture, settings)
    backbone.mean, backbone.std = mean, std
    return _with_policy(backbone, settings)


def _with_policy(backbone: Backbone, settings: NetworkSettings) -> Backbone:
    backbone.pretrained = not settings.wants_random
    backbone.apply_policy(settings.batch_norm)
    return backbone
