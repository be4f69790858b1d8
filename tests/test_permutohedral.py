"""The lattice filter against the sum over all pairs that it approximates, and what must hold exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.core.errors import UsageError
from tag2mask.refine.permutohedral import _sorted, build_lattice


def cloud(count: int, dimensions: int, seed: int, spread: float = 4.0) -> torch.Tensor:
    return spread * torch.rand(count, dimensions, generator=torch.Generator().manual_seed(seed))


def all_pairs(points: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return values @ torch.exp(-0.5 * torch.cdist(points, points) ** 2)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_a_filter_is_near_the_mean_over_all_pairs(dimensions: int) -> None:
    points = cloud(3000, dimensions, seed=dimensions)
    side = torch.where(points[:, :1] < 2, 0.0, 1.0).T

    def blurred(given: torch.Tensor) -> torch.Tensor:
        return all_pairs(given, side) / all_pairs(given, torch.ones(1, 3000))

    lattice = build_lattice(points)
    found = lattice.filter(side) / lattice.filter(torch.ones(1, 3000))
    error = float((found - blurred(points)).abs().mean())
    assert error < 0.03
    # Its width is the Gaussian's: one that is a quarter off does not fit as well.
    assert all(error < 0.7 * float((found - blurred(points / width)).abs().mean()) for width in (1.25, 0.8))


def test_the_kernel_of_one_point_falls_as_the_gaussian_does() -> None:
    line = torch.linspace(-3, 3, 61)[:, None]
    impulse = (line.abs() < 1e-6).float().T
    # The average over where the point lies in its simplex is what the lattice is made to match.
    found = torch.stack([build_lattice(line + shift).filter(impulse) for shift in torch.linspace(0, 3, 31)]).mean(0)
    gaussian = torch.exp(-0.5 * line.T**2)
    assert torch.allclose(found / found.max(), gaussian, atol=0.06)


@settings(max_examples=30)
@given(
    count=st.integers(1, 60),
    dimensions=st.integers(1, 6),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 0.1, 5.0, 300.0]),
)
def test_weights_are_barycentric_and_members_are_corners(count: int, dimensions: int, seed: int, spread: float) -> None:
    lattice = build_lattice(cloud(count, dimensions, seed, spread) - spread / 2)
    assert torch.allclose(lattice.weights.sum(1), torch.ones(count), atol=1e-4)
    assert float(lattice.weights.min()) > -1e-4
    vertices = len(lattice.offsets) - 1
    assert sorted(set(lattice.corners.flatten().tolist())) == list(range(vertices))
    by_vertex = torch.arange(vertices).repeat_interleave(lattice.offsets.diff())
    pairs = sorted(zip(by_vertex.tolist(), lattice.members.tolist(), strict=True))
    corners = [(int(v), n) for n, row in enumerate(lattice.corners) for v in row]
    assert pairs == sorted(corners)
    for neighbours in lattice.neighbours:  # who comes after comes before the other way round
        for vertex, after, before in neighbours[:-1].tolist():
            assert after == vertices or int(neighbours[after, 2]) == vertex
            assert before == vertices or int(neighbours[before, 1]) == vertex


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), dimensions=st.integers(1, 5))
def test_order_of_points_and_a_common_shift_by_whole_cells_do_not_matter(seed: int, dimensions: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, values = cloud(50, dimensions, seed), torch.rand(3, 50, generator=generator)
    order = torch.randperm(50, generator=generator)
    whole = build_lattice(points).filter(values)
    assert torch.allclose(build_lattice(points[order]).filter(values[:, order]), whole[:, order], atol=1e-5)
    assert torch.allclose(
        build_lattice(points).filter(2 * values + 1),
        2 * whole + build_lattice(points).filter(torch.ones(1, 50)),
        atol=1e-4,
    )


def test_a_factor_on_both_sides() -> None:
    points, factor = cloud(30, 3, seed=3), torch.rand(30, generator=torch.Generator().manual_seed(4)) + 0.5
    values = torch.rand(2, 30, generator=torch.Generator().manual_seed(5))
    lattice = build_lattice(points)
    expected = factor * lattice.filter(factor * values)
    assert torch.allclose(lattice.scaled(factor).filter(values), expected, atol=1e-6)


@pytest.mark.parametrize("columns", [7, 8, 9])
def test_each_row_of_values_is_filtered_as_if_alone(columns: int) -> None:
    lattice = build_lattice(cloud(200, 5, seed=6))
    values = torch.rand(columns, 200, generator=torch.Generator().manual_seed(7))
    assert torch.equal(lattice.filter(values), torch.cat([lattice.filter(row[None]) for row in values]))


@pytest.mark.parametrize("largest", [3, 2**40, 2**61])
def test_equal_keys_keep_their_order(largest: int) -> None:
    few = torch.randint(largest + 1, (40,), generator=torch.Generator().manual_seed(8))
    keys = few[torch.randint(40, (300,), generator=torch.Generator().manual_seed(9))]
    found, order = _sorted(keys)
    expected = keys.sort(stable=True)
    assert torch.equal(found, expected.values) and torch.equal(order, expected.indices)


def test_the_lattice_does_not_depend_on_the_number_of_threads() -> None:
    points, threads = cloud(40_000, 5, seed=10, spread=20.0), torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            lattice = build_lattice(points)
            found.append((lattice.weights, lattice.corners, lattice.filter(points.T)))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("spread", [1e6, 1e8, 1e30, float("inf")])
def test_points_too_far_apart_are_refused(spread: float) -> None:
    with pytest.raises(UsageError, match="larger standard deviations"):
        build_lattice(cloud(10, 5, seed=0, spread=spread))
