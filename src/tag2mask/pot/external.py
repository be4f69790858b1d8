"""External base CAMs (CLIP-ES or others) in POT: for the partition, for suppression, and as a training target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.fields import Checked, setting
from tag2mask.pot.method import TransportCams
from tag2mask.pot.partition import NORM_EPSILON, normalised_cams

NO_MAP = -1.0
"""The value of a class without an external map; 0 means that the class is not visible."""

CONTRAST = 0.2
"""c of the external target, q ← ReLU((1 + c) q − c Σ q) over classes. Source: the release."""

FLOOR = 0.5
"""Below this multiple of its mean over the image, the external target is 0. Source: the release (mean over a row)."""

BACKGROUND_BIAS = 0.2
"""Of `summed`: the release compares 2 M_c with M₀ + 0.4."""


@dataclass
class ExternalSettings(Checked):
    """The use of base CAMs of the stage `seeds`, the same in training and in inference.

    Attributes:
        base: the CAM for the partition: the `classifier`'s, the `external` one, or their `mean`.
        suppression: σ, the share of the external background that is subtracted from POT's foreground; 0 leaves it out
            (published: 0.5).
        consistency_pair: what the consistency loss compares: the classifier's CAM with POT's (`classifier-pot`, the
            paper's figure), or POT's with the external target (`pot-target`, the release).
        background_subtraction: the share of its own background that the target's foreground loses (published, in
            training).
        agreement: the share of POT's map that is added to the target where both have the same class (published: 0.2
            in training, 0.3 in inference).
    """

    base: Literal["classifier", "external", "mean"] = "classifier"
    suppression: float = setting(0.0, low=0)
    consistency_pair: Literal["classifier-pot", "pot-target"] = "classifier-pot"
    background_subtraction: float = setting(0.15, low=0)
    agreement: float = setting(0.2, low=0)

    _section: ClassVar[str] = "external CAMs"

    @property
    def used(self) -> bool:
        """Whether base CAMs are needed."""
        return self.base != "classifier" or self.suppression > 0 or self.consistency_pair == "pot-target"


def base_cams(cams: Tensor, external: Tensor, settings: ExternalSettings, valid: Tensor) -> Tensor:
    """The CAMs for the partition; a tag without an external map keeps the classifier's.

    Args:
        cams: (N, C, h, w) in [0, 1], the classifier's, of `normalised_cams`.
        external: (N, C, h, w) in [0, 1]; `NO_MAP` for a class without one.
        valid: (N, h, w) bool, False = padding.

    Returns:
        (N, C, h, w) in [0, 1], each divided by its maximum + 1e-5.
    Source: ours; the release takes the classifier's.
    """
    if settings.base == "classifier":
        return cams
    known = external.detach().amax((2, 3), keepdim=True) >= 0
    external = external.clamp_min(0)
    mixed = external if settings.base == "external" else (cams + external) / 2
    return torch.where(known, normalised_cams(mixed, valid), cams)


def suppressed(result: TransportCams, external: Tensor, settings: ExternalSettings) -> TransportCams:
    """POT's CAMs less the external background: M_c ← ReLU(M_c − σ E₀) for tags, M₀ ← 1 − max_c M_c.

    Args:
        result: of POT.
        external: (N, C, h, w) in [0, 1]; `NO_MAP` for a class without one, which is replaced by the base CAM of the
            partition. An image without external maps does not change.

    Source: the release, with σ = 0.5.
    """
    if settings.suppression == 0:
        return result
    outside, known = _slots_of(external, result)
    inside = _inside(result)
    tags = (result.maps[:, 1:] - settings.suppression * (1 - _maximum(outside))).relu() * inside
    maps = torch.cat([(1 - _maximum(tags)) * inside, tags], 1)
    return _with_maps(result, torch.where(known.any(1)[:, None, None, None], maps, result.maps))


def external_target(result: TransportCams, external: Tensor, settings: ExternalSettings) -> Tensor:
    """The training target and fused CAM: the external CAM sharpened, without weak pixels, plus POT where both agree.

    E_c ← ReLU(E_c − β E₀), E₀ ← 1 − max_c E_c; q ← ReLU((1 + c) E − c Σ E), each divided by its maximum; 0 where below
    `FLOOR` times its mean; where q and POT have the same largest class, q + `agreement` · M; at most 1.

    Args:
        result: of POT, after `suppressed`.
        external: (N, C, h, w), as for `suppressed`.

    Returns:
        (N, S, h, w) in [0, 1] by slot, background first; 0 in padding and unused slots; POT's maps for an image
        without external maps. Gradients flow into POT's maps.
    Source: the release, with a mean over the image instead of over a row, which is probably an error there.
    """
    outside, known = _slots_of(external, result)
    inside = _inside(result)
    used = result.slots.used[:, :, None, None] & inside
    tags = (outside - settings.background_subtraction * (1 - _maximum(outside))).relu()
    q = torch.cat([1 - _maximum(tags), tags], 1) * used
    q = ((1 + CONTRAST) * q - CONTRAST * q.sum(1, keepdim=True)).relu()
    q = q / (q.amax((2, 3), keepdim=True) + NORM_EPSILON)
    mean = q.sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1)
    q = q.masked_fill(q < FLOOR * mean, 0)
    agree = q.argmax(1, keepdim=True) == result.maps.argmax(1, keepdim=True)
    combined = ((q + settings.agreement * agree * result.maps) * used).clamp_max(1)
    return torch.where(known.any(1)[:, None, None, None], combined, result.maps)


def fused(result: TransportCams, external: Tensor, settings: ExternalSettings) -> TransportCams:
    """`external_target` as CAMs of all classes."""
    return _with_maps(result, external_target(result, external, settings))


def summed(results: Sequence[TransportCams], *, over_image: bool) -> TransportCams:
    """POT's CAMs of several scales in one, on the grid of the first: their sum, divided by its maximum.

    The background becomes M₀ / 2 + `BACKGROUND_BIAS`, which a tag's map has to exceed. Plan, slots and prototypes are
    those of the first scale. ``over_image``: one maximum for all maps, instead of one for each.

    Source: the release, which adds the maps at the image's size, each divided by its own maximum.
    """
    grid = results[0].maps.shape[2:]
    total = torch.stack([F.interpolate(each.maps, size=grid, mode="bilinear") for each in results]).sum(0)
    maps = total / (total.amax((1, 2, 3) if over_image else (2, 3), keepdim=True) + NORM_EPSILON)
    background = (maps[:, :1] / 2 + BACKGROUND_BIAS) * _inside(results[0])
    return _with_maps(results[0], torch.cat([background, maps[:, 1:]], 1))


def external_loss(result: TransportCams, external: Tensor, settings: ExternalSettings) -> Tensor:
    """L_ext: the mean absolute difference of POT's CAMs and the target, each map divided by its maximum.

    A scalar, the mean over background and tags, then over images. Tags without an external map do not count, and an
    image without any counts as 0. Gradients flow into both sides, not through the maxima.

    Args:
        result: of POT, after `suppressed`.
        external: (N, C, h, w), as for `suppressed`.

    Source: the release, which takes the mean over all classes, also absent ones.
    """
    maps, target = normalised_cams(result.maps), normalised_cams(external_target(result, external, settings))
    known = _slots_of(external, result)[1] & result.slots.used[:, 1:]  # (N, S - 1)
    counts = torch.cat([known.any(1, keepdim=True), known], 1)  # (N, S)
    cells = counts[:, :, None, None] & _inside(result)
    difference = ((maps - target).abs() * cells).sum((1, 2, 3)) / cells.sum((1, 2, 3)).clamp_min(1)
    return difference.mean()


def _slots_of(external: Tensor, result: TransportCams) -> tuple[Tensor, Tensor]:
    """External maps of the tags by slot, (N, S − 1, h, w), and whether each exists, (N, S − 1).

    The base CAM of the partition replaces missing ones; unused slots and padding are 0.
    """
    slots = result.slots
    places = (slots.ids[:, 1:] - 1).clamp_min(0)[:, :, None, None].expand(-1, -1, *external.shape[2:])
    found = external.gather(1, places)
    known = (found.amax((2, 3)) >= 0) & (slots.ids[:, 1:] > 0)
    maps = found * _inside(result)
    base = slots.base[:, 1:].detach().view_as(maps)
    return torch.where(known[:, :, None, None], maps, base) * slots.used[:, 1:, None, None], known


def _maximum(tags: Tensor) -> Tensor:
    """The maximum of the tags' maps, (N, 1, h, w); 0 without tags."""
    return tags.amax(1, keepdim=True) if tags.shape[1] else tags.new_zeros(len(tags), 1, *tags.shape[2:])


def _inside(result: TransportCams) -> Tensor:
    """(N, 1, h, w) bool, False = padding."""
    return result.slots.valid.view(len(result.maps), 1, *result.maps.shape[2:])


def _with_maps(result: TransportCams, maps: Tensor) -> TransportCams:
    """The result with other maps, by slot and by class."""
    places = result.slots.ids[:, :, None, None].expand_as(maps)
    return replace(result, maps=maps, cams=torch.zeros_like(result.cams).scatter_add(1, places, maps))
