"""Part III, activation: similarity to regenerated prototypes, weighted by the plan, combined into one map per class.

Source: docs/method.md, steps 7 to 9 (paper, figure 2, part III; equations 7, 10 and 11).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.pot.partition import NORM_EPSILON
from tag2mask.pot.settings import PotSettings


def allocated(plan: Tensor, hard: bool) -> Tensor:
    """The mass of each pixel at each prototype, (N, n, m): T or, if ``hard``, T at the maximum of its row and else 0.

    Source: paper, equation 7.
    """
    if not hard:
        return plan
    mass, best = plan.max(2, keepdim=True)
    return torch.zeros_like(plan).scatter(2, best, mass)


def regenerate(features: Tensor, plan: Tensor, prototypes: Tensor, hard: bool) -> Tensor:
    """The normalised mean of the features allocated to each prototype; a prototype without features stays.

    Args:
        features: (N, n, D), unit length.
        plan: (N, n, S·K).
        prototypes: (N, S, K, D).
        hard: as in `allocated`.

    Returns:
        (N, S, K, D), unit length. Gradients flow into the features, not through the plan.
    Source: paper, equation 7.
    """
    weights = allocated(plan.detach(), hard).transpose(1, 2)  # (N, S·K, n)
    mass = weights.sum(2, keepdim=True)
    # Divided by the mass first: a relaxed plan may give a prototype so little that normalisation would return zero.
    means = (weights / mass.clamp_min(torch.finfo(mass.dtype).tiny)) @ features
    return torch.where(
        mass.view(*prototypes.shape[:3], 1) > 0, F.normalize(means, dim=2).view_as(prototypes), prototypes
    )


def reweighting(plan: Tensor, kind: str) -> Tensor:
    """The weight of each prototype's activation at each pixel, (N, n, m) in [0, 1]; 0 in padding.

    `posterior`: T over its row sum. `none`: 1 for every prototype that may receive mass.

    Source: paper, equation 10, leaves room; `posterior` ours.
    """
    if kind == "posterior":
        return plan / plan.sum(2, keepdim=True).clamp_min(torch.finfo(plan.dtype).tiny)
    return ((plan.sum(1, keepdim=True) > 0) & (plan.sum(2, keepdim=True) > 0)).to(plan.dtype)


def activate(features: Tensor, prototypes: Tensor, plan: Tensor, settings: PotSettings) -> Tensor:
    """A map per class: ReLU cosine to each prototype, reweighted by the plan, combined, divided by a maximum + 1e-5.

    The maximum is over the image, which keeps the areas of the plan, or over each class.

    Args:
        features: (N, n, D), unit length.
        prototypes: (N, S, K, D), unit length.
        plan: (N, n, S·K).

    Returns:
        (N, S, n) in [0, 1]; 0 in padding and unused slots. No gradient through the plan or the maximum.
    Source: paper, equations 10 and 11; the maximum over the image is ours.
    """
    images, width, clusters, _ = prototypes.shape
    plan = plan.detach()
    similarity = (prototypes.flatten(1, 2) @ features.transpose(1, 2)).relu()  # (N, S·K, n)
    maps = reweighting(plan, settings.reweight).transpose(1, 2) * similarity
    maps = maps.reshape(images, width, clusters, -1)
    combined = maps.amax(2) if settings.cluster_reduction == "max" else maps.sum(2)
    over = (1, 2) if settings.normalise_over == "image" else 2
    return combined / (combined.detach().amax(over, keepdim=True) + NORM_EPSILON)
