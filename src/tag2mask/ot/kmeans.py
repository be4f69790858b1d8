"""Spherical k-means over many masked sets of points at once.

Maximises Σ_i ⟨x_i, c_{z_i}⟩ over unit centres c and assignments z: the assignment takes the most similar centre, the
centre is the normalised mean of its points. Source: Dhillon and Modha 2001; the batching is ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.errors import UsageError, first_five

_SAME_POINT = 1e-6
"""Cosine distance below which two points count as the same when centres are seeded."""


@dataclass(frozen=True)
class Clusters:
    """k clusters for each of B sets of points.

    Attributes:
        centres: (B, k, D), unit length; zero where the cluster is empty.
        counts: (B, k) int64, points in the cluster; 0 = empty.
        assignment: (B, n) int64, the cluster of each point, −1 where masked.

    With G masks over shared points every shape has (B, G, ...) in place of (B, ...).
    """

    centres: Tensor
    counts: Tensor
    assignment: Tensor


@torch.no_grad()
def spherical_kmeans(
    points: Tensor,
    mask: Tensor,
    clusters: int,
    *,
    generator: torch.Generator | None = None,
    iterations: int = 10,
    unit: bool = False,
) -> Clusters:
    """Cluster B sets of points on the unit sphere, each into at most ``clusters`` clusters.

    Each seed after the first is the point farthest from all earlier seeds. A set with fewer distinct points than
    clusters gets empty clusters. A cluster that loses all its points keeps its centre during the iterations (points may
    return) and is empty if it ends without points. The result depends on the arguments alone.

    Args:
        points: (B, n, D), any length; they are normalised. Masked points may hold anything finite.
        mask: (B, n) bool, True = the point belongs to the set; or (B, G, n), G sets over the same points.
        clusters: k, at least 1.
        generator: draws the first seed, on any device. None: the first seed is the point nearest to the mean, so that
            the result does not depend on the rest of the batch.
        iterations: rounds of assignment and update, at least 1.
        unit: the points are known to be finite and of unit length, which saves a check and a copy.

    Returns:
        centres, counts and assignment; the assignment is to the centres before their last update, as in Lloyd's
        algorithm.

    Raises:
        UsageError: shapes that do not fit, a number out of range, or non-finite points, masked or not.
    """
    single = mask.ndim == 2
    masks = mask[:, None] if single else mask  # (B, G, n)
    _check(points, masks, clusters, iterations)
    points = points if points.dtype == torch.float64 else points.float()
    if not unit:
        finite = points.isfinite().flatten(1).all(1).cpu()  # waits for the device once
        if not finite.all():
            wrong = first_five((~finite).nonzero().flatten().tolist())
            raise UsageError(f"non-finite points in set {wrong} of {len(points)}")
        points = F.normalize(points, dim=2)
    draws = None
    if generator is not None:
        draws = torch.rand(masks.shape, generator=generator, device=generator.device, dtype=points.dtype)
    solve = _one_by_one if points.device.type == "cpu" else _together
    with torch.autocast(points.device.type, enabled=False):
        found = solve(points, masks, draws, clusters, iterations)
    return Clusters(found.centres[:, 0], found.counts[:, 0], found.assignment[:, 0]) if single else found


def _check(points: Tensor, masks: Tensor, clusters: int, iterations: int) -> None:
    if points.ndim != 3 or masks.ndim != 3 or (masks.shape[0], masks.shape[2]) != points.shape[:2]:
        raise UsageError(
            "points should be (B, n, D) and mask (B, n) or (B, G, n), "
            f"received {tuple(points.shape)} and {tuple(masks.shape)}"
        )
    if masks.dtype != torch.bool:
        raise UsageError(f"mask should be bool, received {masks.dtype}; compare it with a threshold first")
    if clusters < 1 or iterations < 1:
        raise UsageError(f"clusters and iterations should be at least 1, received {clusters} and {iterations}")


def _together(points: Tensor, masks: Tensor, draws: Tensor | None, clusters: int, iterations: int) -> Clusters:
    """All sets in each step, without waiting for the device."""
    centres, alive = _seed(points, masks, clusters, draws)
    return _lloyd(points, masks, centres, alive, iterations)


def _one_by_one(points: Tensor, masks: Tensor, draws: Tensor | None, clusters: int, iterations: int) -> Clusters:
    """Set by set, with its own points alone and as many rounds as it needs: less work, and it fits the caches."""
    centres = points.new_zeros(*masks.shape[:2], clusters, points.shape[2])
    counts = torch.zeros(centres.shape[:3], dtype=torch.int64)
    assignment = torch.full(masks.shape, -1, dtype=torch.int64)
    for image, group in masks.any(2).nonzero().tolist():
        mask = masks[image, group]
        own, every = points[image, mask][None], mask.new_ones(1, 1, int(mask.sum()))
        drawn = None if draws is None else draws[image, group, mask][None, None]
        found = _lloyd(own, every, *_seed(own, every, clusters, drawn), iterations, until_settled=True)
        centres[image, group], counts[image, group] = found.centres[0, 0], found.counts[0, 0]
        assignment[image, group, mask] = found.assignment[0, 0]
    return Clusters(centres, counts, assignment)


def _lloyd(
    points: Tensor,
    masks: Tensor,
    centres: Tensor,
    alive: Tensor,
    iterations: int,
    *,
    until_settled: bool = False,
) -> Clusters:
    """Rounds of assignment and update for all sets at once; ``until_settled`` stops when a round changes nothing."""
    assignment = _assign(points, masks, centres, alive)
    centres, counts = _update(points, assignment, centres)
    for _ in range(iterations - 1):
        before, assignment = assignment, _assign(points, masks, centres, alive)
        if until_settled and before.equal(assignment):
            break
        centres, counts = _update(points, assignment, centres)
    return Clusters(centres * (counts > 0)[..., None], counts, assignment)


def _seed(points: Tensor, masks: Tensor, clusters: int, draws: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first centres (B, G, k, D), and which of them exist (B, G, k): at most as many as distinct points."""
    weights = masks.to(points.dtype)  # (B, G, n)
    # Without draws the first seed is the point most similar to the mean of its set.
    score = (weights @ points) @ points.transpose(1, 2) if draws is None else draws.to(points.device)
    nearest = torch.full_like(weights, 2.0)  # cosine distance to the nearest seed so far
    centres, alive = [], []
    for draw in range(clusters):
        if draw:
            score = nearest
        chosen = score.masked_fill(~masks, -torch.inf).argmax(2, keepdim=True)  # (B, G, 1)
        alive.append(masks.gather(2, chosen) & (nearest.gather(2, chosen) > _SAME_POINT))
        centre = points.gather(1, chosen.expand(-1, -1, points.shape[2]))  # (B, G, D)
        centres.append(centre)
        if draw + 1 < clusters:
            nearest = torch.minimum(nearest, (1 - centre @ points.transpose(1, 2)).clamp_min(0))
    return torch.stack(centres, 2), torch.cat(alive, 2)


def _assign(points: Tensor, masks: Tensor, centres: Tensor, alive: Tensor) -> Tensor:
    """The most similar existing centre of each point: (B, G, n) int64, −1 where masked."""
    sets, groups, clusters, _ = centres.shape
    similarity = (centres.flatten(1, 2) @ points.transpose(1, 2)).view(sets, groups, clusters, -1)  # (B, G, k, n)
    similarity = similarity.masked_fill(~alive[..., None], -torch.inf)
    # max(dim) rather than argmax, which is many times slower on CPU; both take the first of equals.
    return similarity.max(2).indices.masked_fill(~masks, -1)


def _update(points: Tensor, assignment: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The normalised mean of each cluster's points, and their number; an empty cluster keeps its centre."""
    clusters = centres.shape[2]
    members = assignment[:, :, None] == torch.arange(clusters, device=points.device)[:, None]  # (B, G, k, n)
    counts = members.sum(3)
    sums = (members.flatten(1, 2).to(points.dtype) @ points).view_as(centres)
    means = F.normalize(sums, dim=3)
    return torch.where((counts > 0)[..., None], means, centres), counts
