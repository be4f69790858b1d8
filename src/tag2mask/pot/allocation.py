"""Part II, allocation: one transport plan an image from its pixels to the prototypes of all its classes.

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
def won_area(features: Tensor, parts: Partition, slots: Slots, settings: PotSettings) -> Tensor:
    """How many pixels each prototype wins without transport, and a few more for each class.

    A pixel goes to the class whose prototype P_c is most like it, each class's likeness divided by its maximum over the
    image (the single-prototype CAM), and within that class to the nearest cluster. `minimum_seeds` pixels more for each
    class are spread over its clusters, lest a present class get nothing.

    Args:
        features: (N, n, D), unit length.
        parts: prototypes.
        slots: the present classes.
        settings: of POT.

    Returns:
        (N, S, K), in pixels; 0 for empty clusters and unused slots.
    Source: ours.
    """
    images, width, clusters, _ = parts.prototypes.shape
    pixels = features.transpose(1, 2)
    likeness = (parts.class_prototypes @ pixels).relu() * slots.valid[:, None]  # (N, S, n)
    likeness = likeness / (likeness.amax(2, keepdim=True) + NORM_EPSILON)
    winner = likeness.masked_fill(~slots.used[:, :, None], -1.0).argmax(1, keepdim=True)  # (N, 1, n)
    filled = parts.similarity > 0
    closeness = (parts.prototypes.flatten(1, 2) @ pixels).view(images, width, clusters, -1)
    nearest = closeness.masked_fill(~filled[..., None], -torch.inf).argmax(2)  # (N, S, n)
    column = (winner * clusters + nearest.gather(1, winner))[:, 0]  # (N, n)
    won = likeness.new_zeros(images, width * clusters).scatter_add(1, column, slots.valid.to(likeness.dtype))
    more = settings.minimum_seeds * filled / filled.sum(2, keepdim=True).clamp_min(1)
    return won.view(images, width, clusters) + more


@torch.no_grad()
def column_marginal(features: Tensor, parts: Partition, slots: Slots, settings: PotSettings) -> Tensor:
    """The mass that each prototype should receive.

    `area` (ours): v ∝ the area that it wins before transport. `similarity` (published): v ∝ s over all columns.
    `uniform`: v ∝ 1.

    Returns:
        (N, S, K), summing to 1 over an image; 0 for empty clusters and unused slots.
    """
    if settings.column_marginal == "area":
        v = won_area(features, parts, slots, settings)
    else:
        v = parts.similarity if settings.column_marginal == "similarity" else (parts.similarity > 0).float()
    return v / v.sum((1, 2), keepdim=True)


def spread(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """How far apart the prototypes look from a pixel: the standard deviation of a row of the cost, over an image.

    Both marginals weigh: √(Σ_i u_i Σ_j v_j (C_ij − Σ_k v_k C_ik)²).

    Args:
        cost: (N, n, m).
        rows: (N, n), u, each summing to 1.
        columns: (N, m), v, likewise.

    Returns:
        (N,), above 0; 1 where all prototypes are one.
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
    """Share out the pixels of each image among its prototypes: cost 1 − cosine, uniform rows over the valid pixels.

    The cost is divided by its `spread` where ε is measured in that.

    Args:
        features: (N, n, D), unit length.
        prototypes: (N, S, K, D), unit length.
        marginal: (N, S, K), as `column_marginal` gives it.
        slots: the present classes.
        settings: of POT.

    Returns:
        the plan (N, n, S·K), columns ordered by slot, then cluster; no gradient.
    """
    columns = marginal.flatten(1)  # (N, S·K)
    rows = slots.valid / slots.valid.sum(1, keepdim=True)
    # Pixels stay innermost in memory, under (N, n, S·K) as under (N, S·K, n): sums over either side are faster then.
    cost = 1 - (prototypes.flatten(1, 2) @ features.transpose(1, 2)).transpose(1, 2)  # (N, n, S·K)
    if not settings.transport:
        # Without a cost the balanced plan is the product of its marginals, and one iteration finds it.
        uniform = (columns > 0) / (columns > 0).sum(1, keepdim=True)
        return sinkhorn(torch.zeros_like(cost), rows, uniform, epsilon=settings.epsilon, iterations=1)
    if settings.epsilon_unit == "spread":
        cost = cost / spread(cost, rows, columns)[:, None, None]
    return sinkhorn(
        cost,
        rows,
        columns,
        epsilon=settings.epsilon,
        iterations=settings.iterations,
        tolerance=_TOLERANCE,
    )
