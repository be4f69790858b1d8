"""CAMs for a batch of images of one size: several scales and mirror images, one forward pass per scale."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.errors import UsageError
from tag2mask.core.profile import timed
from tag2mask.networks.cell_classifier import CellClassifier
from tag2mask.networks.pot_network import PotNetwork
from tag2mask.pot import PotSettings, TransportCams, normalised_cams, transport_cams
from tag2mask.pot.external import ExternalSettings, base_cams, fused, summed, suppressed

NO_KNOWN_BACKGROUND = (
    "cams.kinds: `anomaly` needs a network with network.freeze true (--config frozen) that was trained with images "
    "without tags, which show what is not a class; add some (rows without tags, or the folder of --data.negatives) and "
    "train again, or use another kind"
)


@dataclass(frozen=True)
class ImageMaps:
    """Maps of a batch of images, on the grid of scale 1.

    Attributes:
        cams: (N, C, h, w) in [0, 1], the classifier's CAMs; h = ceil(H / stride).
        features: (N, D, h, w), the joint feature, unit length over channels.
        tags: (N, C) bool.
        scores: (N, C) in (0, 1), the classifier's probabilities, from the mean logits over scales and mirror images, or
            with a frozen backbone from the features that were summed over them.
        external: (N, C, h, w) in [0, 1], external base CAMs, `NO_MAP` for a class without one; None if not used.
        apart: the maps of each scale on its own grid, scale 1 first, if CAMs are to be merged instead of features.
        classifier: of a frozen network that knows background; None for others.
    """

    cams: Tensor
    features: Tensor
    tags: Tensor
    scores: Tensor
    external: Tensor | None = None
    external_settings: ExternalSettings = field(default_factory=ExternalSettings)
    apart: tuple["ImageMaps", ...] = ()
    classifier: CellClassifier | None = None

    @property
    def base(self) -> Tensor:
        """(N, C, h, w), the CAMs from which the partition starts."""
        if self.external is None:
            return self.cams
        valid = torch.ones_like(self.cams[:, 0], dtype=torch.bool)
        return base_cams(self.cams, self.external, self.external_settings, valid)

    def with_external(self, external: Tensor, settings: ExternalSettings) -> "ImageMaps":
        """With external base CAMs, (N, C, h, w) on this grid."""
        apart = tuple(
            each.with_external(F.interpolate(external, size=each.cams.shape[2:], mode="bilinear"), settings)
            for each in self.apart
        )
        return replace(self, external=external, external_settings=settings, apart=apart)

    def anomaly(self) -> "ImageMaps":
        """With the classifier's CAMs times novelty: what the tags explain and images without tags do not.

        Raises:
            UsageError: there is no known background.
        """
        if self.classifier is None:
            raise UsageError(NO_KNOWN_BACKGROUND)
        return replace(self, cams=normalised_cams(self.cams * self.classifier.novelty(self.features)[:, None]))

    def prototype_cams(self, settings: PotSettings) -> TransportCams:
        """The single-prototype CAMs, from the same seeds as `transport`."""
        return self.transport(settings.single_prototype())

    def transport(self, settings: PotSettings) -> TransportCams:
        """The POT CAMs."""
        if self.apart:
            alone = [each.transport(settings) for each in self.apart]
            return summed(alone, over_image=settings.normalise_over == "image")
        result = transport_cams(self.features, self.base, self.tags, settings)
        return result if self.external is None else suppressed(result, self.external, self.external_settings)

    def fused(self, settings: PotSettings) -> TransportCams:
        """The external CAMs, sharpened and combined with POT's; a `UsageError` without external CAMs.

        Where maps are merged, they are those of scale 1 alone, as published.
        """
        if self.external is None:
            raise UsageError("the CAMs 'fused' need external base CAMs: `tag2mask seeds` makes them")
        if self.apart:
            return self.apart[0].fused(settings)
        return fused(self.transport(settings), self.external, self.external_settings)


def resize_long_side(images: Tensor, long_side: int | None) -> Tensor:
    """Resize (N, 3, H, W) in [0, 1] to a longer side of ``long_side`` pixels; None keeps the size."""
    if long_side is None:
        return images
    return resize(images, long_side / max(images.shape[2:]))


def resize(images: Tensor, scale: float) -> Tensor:
    """Bicubic, with antialiasing: (N, 3, round(H · scale), round(W · scale)) in [0, 1]."""
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    if size == list(images.shape[2:]):
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)


@torch.no_grad()
def image_maps(
    network: PotNetwork,
    images: Tensor,
    tags: Tensor,
    *,
    scales: Sequence[float],
    flip: bool,
    bf16: bool = False,
    apart: bool = False,
) -> ImageMaps:
    """CAMs and features summed over scales and mirror images, normalised at the end.

    Args:
        network: in evaluation mode.
        images: (N, 3, H, W) RGB in [0, 1], on the network's device.
        tags: (N, C) bool.
        scales: image sizes as multiples of (H, W).
        flip: also the mirror image, in the same forward pass.
        bf16: run the network under autocast to bfloat16.
        apart: also keep the maps of each scale, so that POT's CAMs can be merged.

    Returns:
        the maps on the grid of (H, W), in float32.
    Source: scales and flip as published; the sum of features is ours.
    """
    grid = [-(-side // network.stride) for side in images.shape[2:]]
    cams, features, logits, alone = [], [], [], []
    for scale in scales:
        scaled = resize(images, scale)
        batch = torch.cat([scaled, scaled.flip(3)]) if flip else scaled
        with timed("network"), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            output = network(batch.contiguous(memory_format=torch.channels_last))
        raw, joint = output.cams.float().relu(), output.features.float()
        cams.append(_on_grid(raw, grid, flip))
        features.append(_on_grid(joint, grid, flip))
        logits.append(output.logits.float().view(-1, *tags.shape).mean(0))
        if apart:
            own = list(raw.shape[2:])
            alone.append(_maps(_on_grid(raw, own, flip), _on_grid(joint, own, flip), tags, logits[-1]))
    joint = sum(features[1:], features[0])  # unlike a stack, keeps the channels innermost in memory
    if network.settings.freeze:
        return frozen_maps(network, F.normalize(joint, dim=1).half(), tags)
    return replace(_maps(torch.stack(cams).sum(0), joint, tags, torch.stack(logits).mean(0)), apart=tuple(alone))


@torch.no_grad()
def frozen_maps(network: PotNetwork, features: Tensor, tags: Tensor) -> ImageMaps:
    """The maps of a network with a frozen backbone from joint features, float16 (N, D, h, w) of unit length.

    The precision is that of kept features, so that the maps do not depend on whether they were kept.
    """
    output = network.classified(features.float())
    maps = _maps(output.cams, output.features, tags, output.logits)
    known = network.classifier if isinstance(network.classifier, CellClassifier) and network.background_cells else None
    return replace(maps, classifier=known)


def _maps(cams: Tensor, features: Tensor, tags: Tensor, logits: Tensor) -> ImageMaps:
    return ImageMaps(normalised_cams(cams), F.normalize(features, dim=1), tags, logits.sigmoid())


def _on_grid(maps: Tensor, grid: list[int], flip: bool) -> Tensor:
    """The maps on the common grid; those of mirror images, the second half of the batch, are flipped and added."""
    if list(maps.shape[2:]) != grid:
        maps = F.interpolate(maps, size=grid, mode="bilinear", antialias=True)
    if not flip:
        return maps
    straight, mirrored = maps.chunk(2)
    return straight + mirrored.flip(3)
