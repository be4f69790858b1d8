"""Spherical k-means against scikit-learn, a slow version, and what must not matter."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from tag2mask.core.errors import UsageError
from tag2mask.ot import kmeans
from tag2mask.ot.kmeans import Clusters, _lloyd, _seed, spherical_kmeans


def directions(seed: int, *shape: int, groups: int = 0) -> Tensor:
    """Random unit vectors (..., D) in float64; around ``groups`` random directions if that is not 0."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=shape)
    if groups:
        points = 0.5 * points + 2 * rng.normal(size=(groups, shape[-1]))[rng.integers(groups, size=shape[:-1])]
    return torch.from_numpy(points / np.linalg.norm(points, axis=-1, keepdims=True))


def everyone(points: Tensor) -> Tensor:
    """The mask that takes all points (B, n)."""
    return torch.ones(points.shape[:2], dtype=torch.bool)


def objective(points: np.ndarray, assignment: np.ndarray) -> float:
    """Σ_i (1 − ⟨x_i, c_{z_i}⟩) of a partition with the best unit centres: n − Σ_k |Σ_{i in k} x_i|."""
    return len(points) - sum(float(np.linalg.norm(points[assignment == k].sum(0))) for k in set(assignment.tolist()))


def slow_kmeans(points: np.ndarray, clusters: int, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Farthest-point seeding and Lloyd's rounds for one set of unit vectors, point by point: centres and assignment."""
    seeds = [points[np.argmax(points @ points.sum(0))]]
    while len(seeds) < clusters:
        seeds.append(points[np.argmax([min(1 - x @ seed for seed in seeds) for x in points])])
    centres = np.stack(seeds)
    for _ in range(iterations):
        assignment = np.array([max(range(clusters), key=lambda k, x=x: float(x @ centres[k])) for x in points])
        for k in range(clusters):
            members = points[assignment == k]
            if len(members):
                centres[k] = members.sum(0) / np.linalg.norm(members.sum(0))
    return centres, assignment


# Against a library and a slow version


def test_the_objective_is_not_worse_than_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for problem in range(50):
        n, width, clusters = int(rng.integers(20, 200)), int(rng.integers(2, 32)), int(rng.integers(2, 7))
        points = directions(problem, 1, n, width, groups=clusters if problem % 2 else 0)
        starts = _seed(points, everyone(points)[:, None], clusters, None)[0][:, 0]
        result = spherical_kmeans(points, everyone(points), clusters, iterations=100)
        library = KMeans(clusters, init=starts[0].numpy(), n_init=1, max_iter=300, tol=0).fit(points[0].numpy())
        ours.append(objective(points[0].numpy(), result.assignment[0].numpy()))
        theirs.append(objective(points[0].numpy(), library.labels_))
    ratios = np.array(ours) / np.array(theirs)
    # Both are local searches from the same starts, theirs with centres that are not normalised: either may win one.
    assert sum(ours) <= sum(theirs) and ratios.mean() <= 1
    assert (ratios <= 1 + 1e-9).sum() >= 35
    assert ratios.max() < 1.05


@pytest.mark.parametrize(("clusters", "iterations"), [(1, 1), (2, 1), (3, 2), (3, 10), (5, 30)])
def test_parity_with_a_slow_version(clusters: int, iterations: int) -> None:
    points = directions(1, 4, 30, 5, groups=4)
    result = spherical_kmeans(points, everyone(points), clusters, iterations=iterations)
    assert result.assignment.dtype == torch.int64 and result.counts.dtype == torch.int64
    for index, one in enumerate(points.numpy()):
        centres, assignment = slow_kmeans(one, clusters, iterations)
        np.testing.assert_array_equal(result.assignment[index].numpy(), assignment)
        np.testing.assert_allclose(result.centres[index].numpy(), centres, atol=1e-12)
        np.testing.assert_array_equal(result.counts[index].numpy(), np.bincount(assignment, minlength=clusters))


def test_separated_groups_are_found() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    labels = torch.arange(40) % 4
    points = torch.nn.functional.normalize(axes[labels] + 0.05 * directions(2, 40, 4), dim=1)[None]
    for generator in (None, torch.Generator().manual_seed(3)):
        result = spherical_kmeans(points, everyone(points), 4, generator=generator)
        pairs = {(int(label), int(k)) for label, k in zip(labels, result.assignment[0], strict=True)}
        assert len(pairs) == 4 and result.counts.tolist() == [[10] * 4]


def test_more_rounds_never_worsen_the_objective() -> None:
    points = directions(4, 1, 120, 8)
    values = [
        objective(points[0].numpy(), spherical_kmeans(points, everyone(points), 5, iterations=i).assignment[0].numpy())
        for i in range(1, 15)
    ]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))
    assert values[-1] < values[0]


# Sets that are too small, and points that are alike


def test_fewer_points_than_clusters_leave_empty_clusters() -> None:
    points = directions(5, 4, 6, 3)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    for index in range(4):
        mask[index, :index] = True  # 0, 1, 2 and 3 points
    result = spherical_kmeans(points, mask, 3)
    assert result.counts.sum(1).tolist() == [0, 1, 2, 3]
    assert (result.counts <= 1).all() and result.centres.isfinite().all()
    torch.testing.assert_close(result.centres.norm(dim=2), (result.counts > 0).double())
    assert (result.assignment >= 0).equal(mask)
    for index in range(4):
        torch.testing.assert_close(
            result.centres[index][result.assignment[index, :index]], points[index, :index], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_make_no_clusters_of_their_own(dtype: torch.dtype) -> None:
    two = directions(6, 2, 768)
    points = two[torch.arange(50) % 2][None].to(dtype) * torch.linspace(0.5, 3, 50, dtype=dtype)[:, None]
    result = spherical_kmeans(points, everyone(points), 4)
    assert sorted(result.counts[0].tolist()) == [0, 0, 25, 25]
    assert len(set(result.assignment[0, ::2].tolist())) == len(set(result.assignment[0, 1::2].tolist())) == 1
    same = spherical_kmeans(points[:, ::2], everyone(points[:, ::2]), 4)
    assert sorted(same.counts[0].tolist()) == [0, 0, 0, 25]


def test_a_cluster_that_loses_all_its_points_ends_empty() -> None:
    points = directions(7, 1, 20, 3, groups=2)
    starts = torch.stack([points[0, 0], points[0, 1], -points[0].sum(0)])[None]
    counts, centres, _ = from_starts(points, starts)
    assert counts[2] == 0 and centres[2].eq(0).all() and counts.sum() == 20


def from_starts(points: Tensor, starts: Tensor, iterations: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, centres and assignment of one set, from given centres (1, k, D)."""
    starts = torch.nn.functional.normalize(starts, dim=2)[:, None]
    found = _lloyd(points, everyone(points)[:, None], starts, starts.any(3), iterations, until_settled=True)
    return found.counts[0, 0], found.centres[0, 0], found.assignment[0, 0]


def test_to_stop_when_the_sets_settle_gives_the_same_result() -> None:
    points = directions(15, 4, 300, 16, groups=5)
    masks = torch.rand(4, 3, 300) > torch.tensor([0.2, 0.8, 1.0])[:, None]
    results = []
    for until_settled in (False, True):  # as on an accelerator, and as on a CPU
        for layout in (points, points.transpose(1, 2).contiguous().transpose(1, 2)):
            seeds = _seed(layout, masks, 4, None)
            results.append(_lloyd(layout, masks, *seeds, 60, until_settled=until_settled))
    for other in results[1:]:
        torch.testing.assert_close(other.centres, results[0].centres, rtol=0, atol=1e-12)
        assert other.assignment.equal(results[0].assignment) and other.counts.equal(results[0].counts)


def test_a_cluster_without_points_waits_for_them_where_it_started() -> None:
    angles = torch.deg2rad(torch.tensor([0.0, 100, 100, 100, 100, 100], dtype=torch.float64))
    points = torch.stack([angles.cos(), angles.sin()], 1)[None]
    turns = torch.deg2rad(torch.tensor([45.0, -50.0], dtype=torch.float64))
    starts = torch.stack([turns.cos(), turns.sin()], 1)[None]
    # At first all are nearer to 45° than to −50°; then that centre leaves for the many at 100°.
    assert from_starts(points, starts, 1)[0].tolist() == [6, 0]
    assert from_starts(points, starts, 5)[2].tolist() == [1, 0, 0, 0, 0, 0]


# What must not matter

masks = st.lists(st.booleans(), min_size=12, max_size=12)


@settings(max_examples=40)
@given(mask=masks, seed=st.integers(0, 1000), clusters=st.integers(1, 4), garbage=st.sampled_from([0.0, -5.0, 1e6]))
def test_masked_points_never_matter(mask: list[bool], seed: int, clusters: int, garbage: float) -> None:
    points, chosen = directions(seed, 1, 12, 4), torch.tensor([mask])
    dirty = torch.where(chosen[..., None], points, garbage * directions(seed + 1, 1, 12, 4))
    clean = spherical_kmeans(points, chosen, clusters)
    result = spherical_kmeans(dirty, chosen, clusters)
    torch.testing.assert_close(result.centres, clean.centres, rtol=0, atol=1e-12)
    assert result.assignment.equal(clean.assignment) and result.counts.equal(clean.counts)
    alone = spherical_kmeans(points[:, mask], everyone(points[:, mask]), clusters) if any(mask) else None
    if alone is not None:
        torch.testing.assert_close(alone.centres, clean.centres, rtol=0, atol=1e-12)
        assert alone.assignment.equal(clean.assignment[chosen][None])


def test_batch_mates_order_and_length_do_not_matter() -> None:
    points, generator = directions(9, 5, 40, 6, groups=3), torch.Generator().manual_seed(0)
    together = spherical_kmeans(points, everyone(points), 3)
    again = spherical_kmeans(points, everyone(points), 3)
    assert together.centres.equal(again.centres) and together.assignment.equal(again.assignment)
    for index in range(5):
        alone = spherical_kmeans(points[index : index + 1], everyone(points[:1]), 3)
        torch.testing.assert_close(alone.centres[0], together.centres[index], rtol=0, atol=1e-12)
        assert alone.assignment[0].equal(together.assignment[index])
    order = torch.randperm(40, generator=generator)
    lengths = 0.1 + 10 * torch.rand(5, 40, 1, generator=generator, dtype=torch.float64)
    shuffled = spherical_kmeans((lengths * points)[:, order], everyone(points), 3)
    torch.testing.assert_close(shuffled.centres, together.centres, rtol=0, atol=1e-12)
    assert shuffled.assignment.equal(together.assignment[:, order])


def test_many_masks_over_shared_points_are_many_sets() -> None:
    points, generator = directions(10, 3, 25, 4), torch.Generator().manual_seed(1)
    several = torch.rand(3, 4, 25, generator=generator) > 0.5
    result = spherical_kmeans(points, several, 2)
    assert result.centres.shape == (3, 4, 2, 4) and result.counts.shape == (3, 4, 2)
    for group in range(4):
        one = spherical_kmeans(points, several[:, group], 2)
        torch.testing.assert_close(result.centres[:, group], one.centres, rtol=0, atol=1e-12)
        assert result.assignment[:, group].equal(one.assignment) and result.counts[:, group].equal(one.counts)


def test_a_generator_decides_alone() -> None:
    points = directions(11, 4, 60, 3)
    draws = [
        spherical_kmeans(
            points,
            everyone(points),
            4,
            generator=torch.Generator().manual_seed(seed),
            iterations=1,
        ).centres
        for seed in (0, 0, 1)
    ]
    assert draws[0].equal(draws[1]) and not draws[0].equal(draws[2])


def test_points_known_to_be_unit_vectors_give_the_same() -> None:
    points = directions(12, 3, 30, 5)
    plain, unit = (spherical_kmeans(points, everyone(points), 3, unit=unit) for unit in (False, True))
    torch.testing.assert_close(plain.centres, unit.centres, rtol=0, atol=1e-12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = spherical_kmeans(points.float(), everyone(points), 3)
    assert inside.centres.dtype == torch.float32 and inside.assignment.equal(plain.assignment)


# Wrong use


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": 0}, "at least 1, received 0"),
        ({"iterations": 0}, "at least 1"),
        ({"mask": torch.ones(2, 5)}, "bool"),
        ({"mask": torch.ones(2, 6, dtype=torch.bool)}, r"received \(2, 5, 3\)"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    points = directions(13, 2, 5, 3)
    arguments: dict[str, Any] = {"mask": everyone(points), "clusters": 2} | change
    with pytest.raises(UsageError, match=message):
        spherical_kmeans(points, **arguments)


def test_sets_with_non_finite_points_are_named() -> None:
    points = directions(14, 8, 5, 3)
    points[3, 1, 0], points[6, 0, 2] = float("nan"), float("-inf")
    with pytest.raises(UsageError, match="set 3, 6 of 8"):
        spherical_kmeans(points, everyone(points), 2)


@pytest.mark.parametrize("drawn", [False, True])
def test_sets_are_solved_alike_one_by_one_and_together(drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    points = directions(11, 3, 40, 6, groups=4)
    masks = torch.rand(3, 4, 40, generator=torch.Generator().manual_seed(2))
    sets = masks > torch.tensor([0.3, 0.7, 0.98, 2.0])[:, None]  # large, small, tiny, empty

    def solved() -> Clusters:
        return spherical_kmeans(points, sets, 3, generator=torch.Generator().manual_seed(5) if drawn else None)

    alone = solved()
    monkeypatch.setattr(kmeans, "_one_by_one", kmeans._together)
    together = solved()
    assert alone.assignment.equal(together.assignment) and alone.counts.equal(together.counts)
    torch.testing.assert_close(alone.centres, together.centres, rtol=0, atol=1e-5)
