"""Part I, partition: confident pixels of each class, its class prototype and its cluster prototypes.

Images are batched over *slots*: slot 0 is background, slots 1..J the tags of the image in ascending order, where J is
the largest number of tags in the batch. Absent classes have no slot. Source: docs/method.md, steps 1 to 3 (paper,
figure 2, part I).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.ot.kmeans import spherical_kmeans
from tag2mask.pot.settings import Background, PotSettings

NORM_EPSILON = 1e-5
"""Added to a map's maximum before the division by it, as published."""

_LEAST_SIMILARITY = 1e-3


@dataclass(frozen=True)
class Slots:
    """The present classes of each image of a batch, and their base CAMs.

    Attributes:
        ids: (N, S) int64, class id of each slot, 0 = background, ascending; 0 again in unused slots.
        used: (N, S) bool, the slot is background or a tag whose CAM is not zero everywhere.
        base: (N, S, n), base CAM in [0, 1]: background 1 − max over tags (or all classes), then the tags; 0 in unused
            slots and invalid pixels.
        valid: (N, n) bool, the pixel belongs to the image.
        dropped: (N, C) bool, tags whose CAM is zero everywhere.
        background: as in `PotSettings`.
    """

    ids: Tensor
    used: Tensor
    base: Tensor
    valid: Tensor
    dropped: Tensor
    background: Background


@dataclass(frozen=True)
class Partition:
    """Prototypes of the present classes.

    Attributes:
        seeds: (N, S, n) bool, confident pixels Ω_c.
        class_prototypes: (N, S, D), P_c, unit length; 0 in unused slots.
        prototypes: (N, S, K, D), p_ck before regeneration, unit length; 0 where the cluster is empty.
        similarity: (N, S, K), s_ck = max(⟨P_c, p_ck⟩, 1e-3); 0 where the cluster is empty.
    """

    seeds: Tensor
    class_prototypes: Tensor
    prototypes: Tensor
    similarity: Tensor


def normalised_cams(activations: Tensor, valid: Tensor | None = None) -> Tensor:
    """The base CAMs: ReLU, each class divided by its maximum + 1e-5; no gradient through the maximum.

    Args:
        activations: (N, C, h, w), class activations, any range.
        valid: (N, h, w) bool, False = padding; None = all valid.

    Returns:
        (N, C, h, w) in [0, 1], also of absent classes; 0 in padding.
    Source: paper, figure 2; the constant from the release.
    """
    cams = activations.relu()
    if valid is not None:
        cams = cams.masked_fill(~valid[:, None], 0)
    return cams / (cams.detach().amax((2, 3), keepdim=True) + NORM_EPSILON)


def present_slots(
    cams: Tensor, tags: Tensor, valid: Tensor, background: Background = "tags", *, tag_slots: int | None = None
) -> Slots:
    """Gather the maps of the present classes of each image, from cams (N, C, h, w) in [0, 1] and tags (N, C).

    ``background`` is as in `PotSettings`. S is 1 + ``tag_slots``, the largest number of tags in the batch; to compute
    it waits for the device.
    """
    inside = valid.flatten(1)  # (N, n)
    width = tag_slots if tag_slots is not None else int(tags.sum(1).max()) if tags.numel() else 0
    order = tags.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]  # (N, J), tags first, ascending
    tagged = tags.gather(1, order)
    every = cams.flatten(2).masked_fill(~inside[:, None], 0)  # (N, C, n)
    maps = every.gather(1, order[:, :, None].expand(-1, -1, inside.shape[1]))  # (N, J, n)
    maps = maps.masked_fill(~tagged[:, :, None], 0)
    lit = tagged & (maps.detach().amax(2) > 0)
    # Unused slots get a value below every tag, so that they receive no gradient of a maximum of 0.
    contest = every if background == "all" else maps.masked_fill(~tagged[:, :, None], -1.0)
    maximum = contest.amax(1).clamp_min(0) if contest.shape[1] else maps.new_zeros(inside.shape)
    rest = (1 - maximum) * inside
    ones = tags.new_ones(len(tags), 1)
    return Slots(
        ids=F.pad((order + 1) * tagged, (1, 0)),
        used=torch.cat([ones, lit], 1),
        base=torch.cat([rest[:, None], maps], 1),
        valid=inside,
        dropped=torch.zeros_like(tags).scatter(1, order, tagged & ~lit),
        background=background,
    )


@torch.no_grad()
def confident_pixels(slots: Slots, settings: PotSettings) -> Tensor:
    """The seeds Ω_c of each class.

    Returns:
        (N, S, n) bool; a used class has at least `min_seeds` seeds unless the image has fewer pixels. Among equally
        strong pixels, the first in reading order is taken.
    Source: `argmax` from the release; `threshold` ours.
    """
    base = slots.base.detach()
    if settings.seed_rule == "argmax":
        winner = base.argmax(1, keepdim=True)  # ties: the lowest slot
        seeds = torch.zeros_like(base, dtype=torch.bool).scatter_(1, winner, True)
    else:
        tags = base[:, 1:]
        if tags.shape[1]:
            maximum, winner = tags.max(1, keepdim=True)  # (N, 1, n)
            wins = torch.zeros_like(tags, dtype=torch.bool).scatter_(1, winner, True)
            foreground = wins & (tags >= settings.foreground_threshold)
            seeds = torch.cat([maximum <= settings.background_threshold, foreground], 1)
        else:
            seeds = torch.ones_like(base, dtype=torch.bool)
    eligible = slots.used[:, :, None] & slots.valid[:, None]
    seeds &= eligible
    least = min(settings.min_seeds, base.shape[2])
    strength = base.masked_fill(~slots.valid[:, None], -1.0)
    first = strength.argsort(dim=2, descending=True, stable=True)[:, :, :least]
    fallback = torch.zeros_like(seeds).scatter_(2, first, True) & eligible
    too_few = seeds.sum(2, keepdim=True) < least
    return torch.where(too_few, fallback, seeds)


def partition(
    features: Tensor, slots: Slots, settings: PotSettings, generator: torch.Generator | None = None
) -> Partition:
    """Group the confident features of each class into a class prototype and K cluster prototypes.

    Features are (N, n, D), finite, of unit length. Gradients flow from the prototypes into them, not through seeds or
    assignment.

    Source: paper, figure 2, part I.
    """
    seeds = confident_pixels(slots, settings)  # (N, S, n)
    images, width, _ = seeds.shape
    if settings.num_prototypes == 1:
        class_prototypes = F.normalize(seeds.to(features.dtype) @ features, dim=2)  # (N, S, D)
        filled = seeds.any(2)[:, :, None]  # (N, S, 1)
        return Partition(seeds, class_prototypes, class_prototypes[:, :, None], filled.to(features.dtype))
    clusters = spherical_kmeans(features.detach(), seeds, settings.num_prototypes, generator=generator, unit=True)
    numbers = torch.arange(settings.num_prototypes, device=features.device)
    members = clusters.assignment[:, :, None] == numbers[:, None]  # (N, S, K, n)
    sums = members.flatten(1, 2).to(features.dtype) @ features  # (N, S·K, D)
    sums = sums.view(images, width, settings.num_prototypes, -1)
    prototypes = F.normalize(sums, dim=3)
    class_prototypes = F.normalize(sums.sum(2), dim=2)  # (N, S, D)
    similarity = (prototypes * class_prototypes[:, :, None]).sum(3).detach().clamp_min(_LEAST_SIMILARITY)
    return Partition(seeds, class_prototypes, prototypes, similarity * (clusters.counts > 0))
