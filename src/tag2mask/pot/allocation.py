"""Part II, allocation: one transport plan an image from its pixels to the prototypes of all its classes.

Source: docs/method.md, steps 4 to 6 (paper, figure 2, part II; equation 5 is the column marginal).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.ot import TransportPlan, sinkhorn
from tag2mask.pot.partition import Partition, Slots
from tag2mask.pot.settings import PotSettings

_TOLERANCE = 1e-2


def shrink(prototypes: Tensor, class_prototypes: Tensor, alpha: float) -> Tensor:
    """Draw cluster prototypes towards their class prototype: normalise((1 − α) p_ck + α P_c). Source: ours.

    Args:
        prototypes: (N, S, K, D).
        class_prototypes: (N, S, D).
        alpha: α in [0, 1].

    Returns:
        (N, S, K, D), unit length.
    """
    if alpha == 0:
        return prototypes
    return F.normalize(torch.lerp(prototypes, class_prototypes[:, :, None].expand_as(prototypes), alpha), dim=3)


@torch.no_grad()
def class_mass(slots: Slots, seeds: Tensor, settings: PotSettings) -> Tensor:
    """Each class's estimated share of the photograph.

    `confident`: its share of the seeds. `area`: its share of the label map that calls a pixel background where no tag
    exceeds the mass threshold. No used class gets less than `minimum_seeds` pixels' worth.

    Returns:
        (N, S), summing to 1 over the used slots; 0 in unused ones.
    Source: ours.
    """
    if settings.mass == "confident":
        share = seeds.sum(2).float()
    else:
        tags = slots.base[:, 1:].detach()
        strongest, winner = tags.max(1) if tags.shape[1] else (torch.zeros_like(slots.base[:, 0]), slots.ids[:, :1] * 0)
        label = torch.where(strongest > settings.mass_threshold, winner + 1, 0)  # (N, n)
        numbers = torch.arange(slots.ids.shape[1], device=label.device)
        share = ((label[:, None] == numbers[:, None]) & slots.valid[:, None]).sum(2).float()
    share = share.clamp_min(float(settings.minimum_seeds)) * slots.used
    return share / share.sum(1, keepdim=True)


@torch.no_grad()
def column_marginal(parts: Partition, slots: Slots, settings: PotSettings) -> Tensor:
    """The mass that each prototype should receive.

    `uniform`: v ∝ 1. `similarity` (published): v ∝ s over all columns. `similarity_mass` (ours): v_ck = m_c · s_ck /
    Σ_k' s_ck'.

    Returns:
        (N, S, K), summing to 1 over an image; 0 for empty clusters and unused slots.
    """
    filled = parts.similarity > 0
    if settings.columns == "similarity_mass":
        within = parts.similarity / parts.similarity.sum(2, keepdim=True).clamp_min(1e-12)
        mass = class_mass(slots, parts.seeds, settings) * filled.any(2)
        v = mass[:, :, None] * within
    else:
        v = filled.float() if settings.columns == "uniform" else parts.similarity
    return v / v.sum((1, 2), keepdim=True)


@torch.no_grad()
def allocate(
    features: Tensor, prototypes: Tensor, marginal: Tensor, slots: Slots, settings: PotSettings
) -> TransportPlan:
    """Share out the pixels of each image among its prototypes: cost 1 − cosine, uniform rows over the valid pixels.

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
    rho = (settings.row_rho, settings.rho)
    return sinkhorn(
        cost, rows, columns, epsilon=settings.epsilon, rho=rho, iterations=settings.iterations, tolerance=_TOLERANCE
    )
