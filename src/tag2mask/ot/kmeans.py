"""Spherical k-means over many masked sets of points at once.

Maximises Σ_i ⟨x_i, c_{z_i}⟩ over unit centres c and assignments z: the assignment takes the most similar centre, the
centre is the normalised mean of its points. Source: Dhillon and Modha 2001; k-means++ seeding: Arthur and
Vassilvitskii 2007; the batching is ours.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.errors import UsageError, first_five

Seeding = Literal["farthest", "k-means++"]
_SAME_POINT = 1e-6
"""Cosine distance below which two points count as one when centres are seeded."""


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
    seeding: Seeding = "farthest",
    starts: Tensor | None = None,
    iterations: int = 10,
    unit: bool = False,
) -> Clusters:
    """Cluster B sets of points on the unit sphere, each into at most ``clusters`` clusters.

    A set with fewer distinct points than clusters gets empty clusters. A cluster that loses all its points keeps its
    centre while the iterations last (points may come back) and is empty if it ends without any. The result depends on
    nothing but the arguments.

    Args:
        points: (B, n, D), any length; they are normalised. Masked points may hold anything finite.
        mask: (B, n) bool, True = the point belongs to the set; or (B, G, n), G sets over the same points.
        clusters: k, at least 1.
        generator: draws the seeds of ``k-means++`` and the first seed of ``farthest``. None: a generator seeded with
            0 for ``k-means++``; the point nearest to the mean for ``farthest``, which then depends on its own set
            alone, not on the rest of the batch. It may live on another device than the points.
        seeding: ``farthest`` takes the point farthest from all seeds so far, ``k-means++`` draws one by squared
            distance.
        starts: (B, [G,] k, D), the centres to start from instead of seeding.
        iterations: rounds of assignment and update, at least 1.
        unit: the points are known to be finite and of unit length, which saves looking and a copy.

    Returns:
        centres, counts and assignment; the assignment is to the returned centres' previous update, as in Lloyd's
        algorithm.

    Raises:
        UsageError: shapes that do not fit, a number out of range, or non-finite points, masked or not; the message
            names the sets.
    """
    single = mask.ndim == 2
    masks = mask[:, None] if single else mask  # (B, G, n)
    _check(points, masks, clusters, iterations, starts)
    points = points if points.dtype == torch.float64 else points.float()
    if not unit:
        _check_finite(points)
        points = F.normalize(points, dim=2)
    starts = None if starts is None else starts.reshape(*masks.shape[:2], *starts.shape[-2:])
    with torch.autocast(points.device.type, enabled=False):
        centres, alive = _start(points, masks, clusters, starts, seeding, generator)
        found = _lloyd(points, masks, centres, alive, iterations, until_settled=_waiting_is_free(points.device))
    return Clusters(found.centres[:, 0], found.counts[:, 0], found.assignment[:, 0]) if single else found


def _check(points: Tensor, masks: Tensor, clusters: int, iterations: int, starts: Tensor | None) -> None:
    """Refuse shapes and numbers that do not fit."""
    if points.ndim != 3 or masks.ndim != 3 or (masks.shape[0], masks.shape[2]) != points.shape[:2]:
        raise UsageError(
            "points should be (B, n, D) and mask (B, n) or (B, G, n), "
            f"received {tuple(points.shape)} and {tuple(masks.shape)}"
        )
    if masks.dtype != torch.bool:
        raise UsageError(f"mask should be bool, received {masks.dtype}; compare it with a threshold first")
    if clusters < 1 or iterations < 1:
        raise UsageError(f"clusters and iterations should be at least 1, received {clusters} and {iterations}")
    allowed = [(len(points), *groups, clusters, points.shape[2]) for groups in ((masks.shape[1],), ())]
    if starts is not None and tuple(starts.shape) not in allowed[: 1 + (masks.shape[1] == 1)]:
        raise UsageError(f"starts should be (B, [G,] k, D) = {allowed[0]}, received {tuple(starts.shape)}")


def _check_finite(points: Tensor) -> None:
    """Refuse non-finite points. Reads the device once."""
    finite = points.isfinite().flatten(1).all(1).cpu()
    if not finite.all():
        raise UsageError(
            f"non-finite points in set {first_five((~finite).nonzero().flatten().tolist())} of {len(points)}"
        )


def _waiting_is_free(device: torch.device) -> bool:
    """Whether looking at a result costs nothing: there is no queue of work that has to run dry first."""
    return device.type == "cpu"


def _start(
    points: Tensor,
    masks: Tensor,
    clusters: int,
    starts: Tensor | None,
    seeding: Seeding,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """The first centres (B, G, k, D), given or seeded, and which of them exist (B, G, k)."""
    if starts is None:
        return _seed(points, masks, clusters, seeding, generator)
    return F.normalize(starts.to(points.dtype), dim=3), starts.abs().sum(3) > 0


def _lloyd(
    points: Tensor, masks: Tensor, centres: Tensor, alive: Tensor, iterations: int, *, until_settled: bool
) -> Clusters:
    """Rounds of assignment and update for all sets at once.

    Args:
        until_settled: stop when a round changes nothing, which gives the same result; it waits for the device.
    """
    assignment = _assign(points, masks, centres, alive)
    centres, counts = _update(points, assignment, centres)
    for _ in range(iterations - 1):
        before, assignment = assignment, _assign(points, masks, centres, alive)
        if until_settled and before.equal(assignment):
            break
        centres, counts = _update(points, assignment, centres)
    return Clusters(centres * (counts > 0)[..., None], counts, assignment)


def _seed(
    points: Tensor, masks: Tensor, clusters: int, seeding: Seeding, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Choose the first centres among the points: k sequential draws, each for all sets at once.

    Returns:
        centres (B, G, k, D), and which of them exist (B, G, k): a set has no more seeds than distinct points.
    """
    if seeding not in ("farthest", "k-means++"):
        raise UsageError(f"seeding should be 'farthest' or 'k-means++', received '{seeding}'")
    if seeding == "k-means++" and generator is None:
        generator = torch.Generator().manual_seed(0)
    weights = masks.to(points.dtype)  # (B, G, n)
    # Without a generator the first seed is the point most similar to the mean of its set.
    score = (weights @ points) @ points.transpose(1, 2) if generator is None else _noise(weights, generator)
    nearest = torch.full_like(weights, 2.0)  # cosine distance to the nearest seed so far
    centres, alive = [], []
    for draw in range(clusters):
        if draw and seeding == "farthest":
            score = nearest
        elif draw:
            # Exponential race: the largest log(distance² of unit vectors) + Gumbel noise is a draw in proportion to it.
            score = (2 * nearest).clamp_min(1e-30).log() + _noise(weights, generator)
        chosen = score.masked_fill(~masks, -torch.inf).argmax(2, keepdim=True)  # (B, G, 1)
        alive.append(masks.gather(2, chosen) & (nearest.gather(2, chosen) > _SAME_POINT))
        centre = points.gather(1, chosen.expand(-1, -1, points.shape[2]))  # (B, G, D)
        centres.append(centre)
        if draw + 1 < clusters:
            nearest = torch.minimum(nearest, (1 - centre @ points.transpose(1, 2)).clamp_min(0))
    return torch.stack(centres, 2), torch.cat(alive, 2)


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise of the shape of ``like``."""
    device = like.device if generator is None else generator.device
    uniform = torch.rand(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
    return -(-uniform.clamp(1e-20, 1 - 1e-7).log()).log()


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
