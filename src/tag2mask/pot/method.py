"""POT from features and CAMs to prototype CAMs: partition, allocation, activation, for a whole batch at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.core.errors import UsageError, first_five
from tag2mask.ot.transport import TransportPlan
from tag2mask.pot.activation import activate, regenerate
from tag2mask.pot.allocation import allocate, column_marginal
from tag2mask.pot.partition import Partition, Slots, partition, present_slots
from tag2mask.pot.settings import PotSettings
from tag2mask.pot.smoothing import self_affinity

_CAM_SLACK = 1e-3
_LEAST_LENGTH = 1e-12


@dataclass(frozen=True)
class TransportCams:
    """Prototype CAMs of a batch, with the intermediate results of the method.

    Slots are the present classes of an image: slot 0 background, then its tags, ascending. S is the number of slots, n
    = h·w that of pixels, K that of clusters.

    Attributes:
        cams: (N, C + 1, h, w) in [0, 1], background first; 0 for absent classes and padding.
        maps: (N, S, h, w), the same maps by slot.
        slots: the class of each slot, and its base CAM (smoothed if `affinity` is set).
        transport: the plan with its errors.
        prototypes: (N, S, K, D), the regenerated prototypes of the activation, unit length; 0 where empty.
    """

    cams: Tensor
    maps: Tensor
    slots: Slots
    partition: Partition
    transport: TransportPlan
    prototypes: Tensor

    @property
    def plan(self) -> Tensor:
        """(N, n, S·K), the transport plan; columns ordered by slot, then cluster."""
        return self.transport.plan

    @property
    def class_prototypes(self) -> Tensor:
        """(N, S, D), the normalised mean of each class's confident features."""
        return self.partition.class_prototypes

    @property
    def posterior(self) -> Tensor:
        """(N, S, h, w), the plan's distribution over classes at each pixel; 0 in padding."""
        plan = self.plan
        shares = plan.view(*plan.shape[:2], self.maps.shape[1], -1).sum(3)  # (N, n, S)
        shares = shares / plan.sum(2, keepdim=True).clamp_min(torch.finfo(plan.dtype).tiny)
        return shares.transpose(1, 2).view_as(self.maps)

    @property
    def allocation(self) -> Tensor:
        """(N, h, w) int64, the prototype with the most mass of each pixel, slot · K + k; −1 in padding."""
        best = self.plan.max(2).indices.masked_fill(~self.slots.valid, -1)
        return best.view(len(best), *self.maps.shape[2:])


def transport_cams(
    features: Tensor,
    cams: Tensor,
    tags: Tensor,
    settings: PotSettings | None = None,
    *,
    valid: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> TransportCams:
    """Prototype CAMs by optimal transport for all images and all present classes of a batch.

    Args:
        features: (N, D, h, w), any length; they are normalised over channels.
        cams: (N, C, h, w) in [0, 1], base CAMs without background, of `normalised_cams`; those of absent classes are
            read by the `background` of `all` classes alone.
        tags: (N, C) bool, the classes of each image; an image without tags gets background alone.
        settings: the defaults if None.
        valid: (N, h, w) bool, False = padding, which is never a seed and receives no mass; None = all valid.
        generator: of k-means; None is deterministic and, up to rounding, independent of the rest of the batch.

    Returns:
        the CAMs, in float32 whatever the precision of the features. Gradients flow into the features.

    Raises:
        UsageError: shapes that do not fit, an image without a valid pixel, non-finite features, or CAMs outside
            [0, 1].
    Source: docs/method.md (paper, figure 2).
    """
    settings = settings or PotSettings()
    valid = _checked_shapes(features, cams, tags, valid)
    height, width = features.shape[2:]
    with torch.autocast(features.device.type, enabled=False):
        # (N, n, D), channels innermost, which all later products are fastest with
        points = features.float().flatten(2).transpose(1, 2).contiguous()
        length = torch.linalg.vector_norm(points, dim=2, keepdim=True)
        slots = present_slots(cams.float(), tags, valid, settings.background)
        _check_values(length, slots)
        points = points / length.clamp_min(_LEAST_LENGTH)
        if settings.affinity is not None:
            points, slots = self_affinity(points, slots, (height, width), settings.affinity, settings.affinity_radius)
        parts = partition(points, slots, settings, generator)
        marginal = column_marginal(points, parts, slots, settings)
        prototypes = parts.prototypes
        transport = allocate(points, prototypes, marginal, slots, settings)
        if settings.regenerate:
            prototypes = regenerate(points, transport.plan, prototypes, settings.allocate == "hard")
        maps = activate(points, prototypes, transport.plan, settings)  # (N, S, n)
    maps = maps.view(*maps.shape[:2], height, width)
    full = maps.new_zeros(len(tags), tags.shape[1] + 1, height, width)
    # Unused slots have id 0 and a map of zeros, so they add nothing.
    full = full.scatter_add(1, slots.ids[:, :, None, None].expand_as(maps), maps)
    return TransportCams(full, maps, slots, parts, transport, prototypes)


def _checked_shapes(features: Tensor, cams: Tensor, tags: Tensor, valid: Tensor | None) -> Tensor:
    """The valid mask, after the shapes are checked."""
    if features.ndim != 4 or cams.ndim != 4 or tags.shape != cams.shape[:2] or cams.shape[0] != features.shape[0]:
        raise UsageError(
            "features should be (N, D, h, w), cams (N, C, h, w) and tags (N, C), "
            f"received {tuple(features.shape)}, {tuple(cams.shape)} and {tuple(tags.shape)}"
        )
    if cams.shape[2:] != features.shape[2:] or 0 in features.shape[2:]:
        raise UsageError(
            "features and cams should share a grid that is not empty, "
            f"received {tuple(features.shape[2:])} and {tuple(cams.shape[2:])}"
        )
    if tags.dtype != torch.bool:
        raise UsageError(f"tags should be bool, received {tags.dtype}; use tags > 0")
    if valid is None:
        return torch.ones_like(features[:, 0], dtype=torch.bool)
    if valid.shape != features[:, 0].shape or valid.dtype != torch.bool:
        raise UsageError(f"valid should be bool (N, h, w), received {valid.dtype} {tuple(valid.shape)}")
    return valid


def _check_values(length: Tensor, slots: Slots) -> None:
    """Refuse unusable features and base CAMs. Reads the device once."""
    low, high = slots.base.detach().flatten(1).aminmax(dim=1)
    good = torch.stack(
        [
            slots.valid.any(1),
            length.detach().flatten(1).isfinite().all(1),
            (low >= -_CAM_SLACK) & (high <= 1 + _CAM_SLACK),
        ]
    ).cpu()
    rules = (
        "no valid pixel",
        "non-finite or overflowing features",
        "cams should lie in [0, 1] (as `normalised_cams` makes them)",
    )
    for row, rule in zip(good, rules, strict=True):
        if not row.all():
            raise UsageError(
                f"{rule}: image {first_five((~row).nonzero().flatten().tolist())} of a batch of {len(row)}"
            )
