"""The POT network: a backbone, a classifier whose maps are the CAMs, and the joint hierarchical feature.

Source: the published release; the second unit-normalisation and the handling of padding are ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.core.errors import UsageError, first_five
from tag2mask.networks.backbones.base import (
    Backbone,
    NormalisingNetwork,
    Stage,
    ceil_grid,
    image_cells,
    offered,
    to_grid,
)
from tag2mask.networks.backbones.registry import build_backbone
from tag2mask.networks.backbones.weights import Notify
from tag2mask.networks.cell_classifier import CellClassifier, image_logits
from tag2mask.networks.settings import FEATURE_STRIDE, FINEST_FEATURE_STRIDE, NetworkSettings

MAXIMUM_CLASSES = 254
"""Class ids are bytes; 0 is background and 255 is ignored."""

LEVEL_EPSILON = 1e-5
"""Added to a level's channel norm before the division by it. Source: the release."""

_COLOURS = 3


class PotOutput(NamedTuple):
    """Outputs for a batch, all float32."""

    logits: Tensor  # (N, C), the mean of each raw map
    cams: Tensor  # (N, C, h, w), class activation maps before ReLU, on the grid of the features
    features: Tensor  # (N, D, h, w), the joint feature, unit length over channels


class PotNetwork(NormalisingNetwork):
    """From images and a backbone to class scores, class activation maps and the joint feature.

    The classifier is a 1×1 convolution without bias on the last stage, followed by the mean over the cells. With a
    frozen backbone it is a `CellClassifier` of the joint feature, and its CAMs are probabilities against background.

    Attributes:
        classes: C names, without background; class id = index + 1.
        levels: indices of the stages in the joint feature.
        stride: pixels per cell of ``cams`` and ``features``.

    Raises:
        UsageError: no classes, too many, one twice, or a level that the backbone does not have.
    """

    def __init__(
        self, backbone: Backbone, classes: tuple[str, ...], settings: NetworkSettings, background: int = 0
    ) -> None:
        super().__init__(backbone)
        check_classes(classes)
        self.classes, self.settings = tuple(classes), settings
        self.levels = _levels(backbone, settings)
        stages = [backbone.stages[level] for level in self.levels]
        self.stride = _feature_stride(
            stages, backbone.stages[-1], settings.output_stride if settings.freeze else FEATURE_STRIDE
        )
        self.projections: nn.ModuleList | None = None
        widths = [stage.channels for stage in stages]
        if settings.projections:
            widths = [_projected(stage) for stage in stages]
            self.projections = nn.ModuleList(
                nn.Conv2d(stage.channels + _COLOURS, width, 1, bias=False)
                for stage, width in zip(stages, widths, strict=True)
            )
        self.feature_channels = sum(widths)
        self.classifier: nn.Conv2d | CellClassifier
        if settings.freeze:
            backbone.requires_grad_(False)
            self.classifier = CellClassifier(self.feature_channels, len(classes), background)
        else:
            self.classifier = nn.Conv2d(backbone.stages[-1].channels, len(classes), 1, bias=False)
            backbone.freeze_unreached(self.levels)

    def forward(self, images: Tensor, valid: Tensor | None = None) -> PotOutput:
        """Scores, maps and features; arguments as of `normalise`. The scores are means over the `image_cells`."""
        normalised = self.normalise(images, valid)
        maps = self.backbone(normalised)
        size = ceil_grid((int(images.shape[2]), int(images.shape[3])), self.stride)
        features = self._joint_feature(maps, normalised, size)
        if isinstance(self.classifier, CellClassifier):
            return self.classified(features, None if valid is None else image_cells(valid, size, stride=self.stride))
        raw = self.classifier(maps[-1]).float()  # (N, C, h', w')
        stride = self.backbone.stages[-1].stride
        logits = raw.mean(dim=(2, 3)) if valid is None else _valid_mean(raw, valid, stride)
        return PotOutput(logits, to_grid(raw, stride, self.stride, size), features)

    def classified(self, features: Tensor, inside: Tensor | None = None) -> PotOutput:
        """The outputs of a frozen network from joint features alone, (N, D, h, w); ``inside``: (N, h, w) bool."""
        if not isinstance(self.classifier, CellClassifier):
            raise TypeError("only a network with a frozen backbone classifies joint features")
        with torch.autocast(features.device.type, enabled=False):
            cells = self.classifier.maps(features.float())
            logits = image_logits(cells.flatten(2).mT, None if inside is None else inside.flatten(1))
        return PotOutput(logits, cells.sigmoid(), features)

    @property
    def background_cells(self) -> int:
        """The number of cells of known background; 0 without a frozen backbone."""
        return len(self.classifier.background) if isinstance(self.classifier, CellClassifier) else 0

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the backbone."""
        return [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the classifier and the projections."""
        heads = [self.classifier] if self.projections is None else [self.classifier, self.projections]
        return [parameter for head in heads for parameter in head.parameters() if parameter.requires_grad]

    def _joint_feature(self, maps: list[Tensor], normalised: Tensor, size: tuple[int, int]) -> Tensor:
        """The levels, unit length, on one grid, concatenated, unit length again; in float32.

        Projections and the colours that they read are sampled as published: bilinear, without means over cells.
        """
        parts = []
        for index, level in enumerate(self.levels):
            part, stride = maps[level], self.backbone.stages[level].stride
            if self.projections is not None:
                colours = F.interpolate(normalised, size=part.shape[2:], mode="bilinear", align_corners=True)
                part = self.projections[index](torch.cat([part, colours.to(part.dtype)], dim=1))
            norm = torch.linalg.vector_norm(part, dim=1, keepdim=True, dtype=torch.float32)
            part = part / (norm + LEVEL_EPSILON)
            if self.projections is None:
                parts.append(to_grid(part, stride, self.stride, size))
            else:
                parts.append(F.interpolate(part, size=size, mode="bilinear", align_corners=False))
        return F.normalize(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), dim=1)


def build_network(
    settings: NetworkSettings, classes: tuple[str, ...], *, seed: int, notify: Notify | None = None
) -> PotNetwork:
    """A new POT network, on the CPU, in training mode. The global random state does not change.

    Raises:
        UsageError: the settings or the classes are wrong.
        Tag2maskError: weights could not be fetched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return PotNetwork(build_backbone(settings, notify=notify), classes, settings)


def check_classes(classes: tuple[str, ...]) -> None:
    """Raise a `UsageError` unless there are 1 to 254 classes with different names."""
    if not classes or len(classes) > MAXIMUM_CLASSES:
        raise UsageError(f"a network needs 1 to {MAXIMUM_CLASSES} classes, {len(classes)} were given")
    double = [name for name in dict.fromkeys(classes) if classes.count(name) > 1]
    if double:
        raise UsageError(f"class names should differ; given more than once: {first_five(double)}")


def _levels(backbone: Backbone, settings: NetworkSettings) -> tuple[int, ...]:
    levels = settings.out_indices or backbone.default_levels
    wrong = [level for level in levels if not 0 <= level < len(backbone.stages)]
    if wrong:
        raise UsageError(
            f"network.out_indices: {settings.backbone} has no level {first_five(wrong)}; "
            f"it offers {offered(backbone.stages)}"
        )
    return levels


def _feature_stride(stages: list[Stage], last: Stage, least: int) -> int:
    """The finest stride from ``least`` on; else the coarsest or, if that is too fine, the last stage's."""
    strides = [stage.stride for stage in stages]
    coarse_enough = [stride for stride in strides if stride >= least]
    if coarse_enough:
        return min(coarse_enough)
    return max(strides) if max(strides) >= FINEST_FEATURE_STRIDE else last.stride


def _projected(stage: Stage) -> int:
    """The width of a projection: at most 128 channels up to stride 8 and 256 beyond. Source: the release."""
    return min(stage.channels, 128 if stage.stride <= 8 else 256)


def _valid_mean(raw: Tensor, valid: Tensor, stride: int) -> Tensor:
    """The mean of (N, C, h, w) over the cells of the image: (N, C)."""
    inside = image_cells(valid, (int(raw.shape[2]), int(raw.shape[3])), stride=stride)
    weight = inside.unsqueeze(1).to(raw.dtype)  # (N, 1, h, w)
    return (raw * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp_min(1)
