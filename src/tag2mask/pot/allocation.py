"""Part II, allocation: one transport plan per image, from its pixels to the prototypes of all its classes.

Source: docs/method.md, steps 4 to 6 (paper, figure 2, part II; equation 5 is the column marginal).
"""

import torch
from torch import Tensor

from tag2mask.ot.transport import TransportPlan, sinkhorn
from tag2mask.pot.partition import NORM_EPSILON, Partition, Slots
from tag2mask.pot.settings import PotSettings

_TOLERANCE = 1e-2
_LEAST_SPREAD = 1e-6


@torch.no_grad()
def nearest_area(features: Tensor, parts: Partition, slots: Slots, settings: PotSettings) -> Tensor:
    """The number of pixels that are nearest to each prototype, plus `min_seeds` pixels per class.

    A pixel belongs to the class whose prototype P_c has the highest cosine to it, each class's cosines divided by their
    maximum over the image (the single-prototype CAM), and within that class to the nearest cluster. The additional
    pixels are spread over the clusters of the class, so that every present class receives mass.

    Args:
        features: (N, n, D), unit length.

    Returns:
        (N, S, K), in pixels; 0 for empty clusters and unused slots.
    Source: ours.
    """
    images, width, clusters, _ = parts.prototypes.shape
    pixels = features.transpose(1, 2)
    cosine = (parts.class_prototypes @ pixels).relu() * slots.valid[:, None]  # (N, S, n)
    cosine = cosine / (cosine.amax(2, keepdim=True) + NORM_EPSILON)
    winner = cosine.masked_fill(~slots.used[:, :, None], -1.0).argmax(1, keepdim=True)  # (N, 1, n)
    filled = parts.similarity > 0
    closeness = (parts.prototypes.flatten(1, 2) @ pixels).view(images, width, clusters, -1)
    nearest = closeness.masked_fill(~filled[..., None], -torch.inf).argmax(2)  # (N, S, n)
    column = (winner * clusters + nearest.gather(1, winner))[:, 0]  # (N, n)
    area = cosine.new_zeros(images, width * clusters).scatter_add(1, column, slots.valid.to(cosine.dtype))
    extra = settings.min_seeds * filled / filled.sum(2, keepdim=True).clamp_min(1)
    return area.view(images, width, clusters) + extra


@torch.no_grad()
def column_marginal(features: Tensor, parts: Partition, slots: Slots, settings: PotSettings) -> Tensor:
    """The mass that each prototype receives: (N, S, K), summing to 1 per image; 0 for empty clusters and unused slots.

    `area` (ours): v ∝ `nearest_area`. `similarity` (published): v ∝ s over all columns. `uniform`: v ∝ 1.
    """
    if settings.column_marginal == "area":
        v = nearest_area(features, parts, slots, settings)
    else:
        v = parts.similarity if settings.column_marginal == "similarity" else (parts.similarity > 0).float()
    return v / v.sum((1, 2), keepdim=True)


def spread(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The mean standard deviation of the rows of a cost: √(Σ_i u_i Σ_j v_j (C_ij − Σ_k v_k C_ik)²).

    Args:
        cost: (N, n, m).
        rows: (N, n), u, each summing to 1.
        columns: (N, m), v, each summing to 1.

    Returns:
        (N,), above 0; 1 if all prototypes are equal.
    Source: ours.
    """
    mean = cost @ columns[:, :, None]  # (N, n, 1)
    variance = (cost - mean).square() @ columns[:, :, None]  # (N, n, 1)
    deviation = (variance[:, :, 0] * rows).sum(1).sqrt()
    return torch.where(deviation > _LEAST_SPREAD, deviation, 1.0)


@torch.no_grad()
def allocate(
    features: Tensor, prototypes: Tensor, marginal: Tensor, slots: Slots, settings: PotSettings
) -> TransportPlan:
    """The transport plan from pixels to prototypes: cost 1 − cosine, uniform row marginals over the valid pixels.

    The cost is divided by its `spread` if that is the unit of ε.

    Args:
        features: (N, n, D), unit length.
        prototypes: (N, S, K, D), unit length.
        marginal: (N, S, K), of `column_marginal`.

    Returns:
        the plan (N, n, S·K), columns ordered by slot, then cluster; no gradient.
    """
    columns = marginal.flatten(1)  # (N, S·K)
    rows = slots.valid / slots.valid.sum(1, keepdim=True)
    # Pixels are innermost in memory, although the shape is (N, n, S·K): sums over either side are faster then.
    cost = 1 - (prototypes.flatten(1, 2) @ features.transpose(1, 2)).transpose(1, 2)  # (N, n, S·K)
    if not settings.transport:
        # Without a cost, the balanced plan is the product of its marginals; one iteration finds it.
        uniform = (columns > 0) / (columns > 0).sum(1, keepdim=True)
        return sinkhorn(torch.zeros_like(cost), rows, uniform, epsilon=settings.epsilon, iterations=1)
    if settings.epsilon_unit == "spread":
        cost = cost / spread(cost, rows, columns)[:, None, None]
    return sinkhorn(cost, rows, columns, epsilon=settings.epsilon, iterations=settings.iterations, tolerance=_TOLERANCE)
