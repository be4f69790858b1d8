"""The random walk against the dense power, written from its definition."""

from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.core.errors import UsageError
from tag2mask.refine.random_walk import displacements, path, propagate


def dense_walk(cams: np.ndarray, edge: np.ndarray, radius: int, beta: float, squarings: int) -> np.ndarray:
    """As published: a dense matrix of all cells, squared again and again."""
    height, width = edge.shape
    affinity = np.eye(height * width)
    for y in range(height):
        for x in range(width):
            for v in range(height):
                for u in range(width):
                    dy, dx = v - y, u - x
                    if (dy, dx) == (0, 0) or dy * dy + dx * dx >= radius * radius:
                        continue
                    inside = [
                        edge[a, b]
                        for a in range(min(y, v), max(y, v) + 1)
                        for b in range(min(x, u), max(x, u) + 1)
                        if (dy * (b - x) - dx * (a - y)) ** 2 < dy * dy + dx * dx
                    ]
                    affinity[y * width + x, v * width + u] = 1 - max(inside)
    transition = affinity**beta
    transition /= transition.sum(0, keepdims=True)
    for _ in range(squarings):
        transition = transition @ transition
    return ((cams * (1 - edge)).reshape(len(cams), -1) @ transition).reshape(cams.shape)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_dense_power(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(1, 9)), int(rng.integers(1, 10))
    cams, edge = rng.random((int(rng.integers(1, 4)), height, width)), rng.random((height, width)) ** 3
    radius, beta = int(rng.integers(2, 6)), float(rng.choice([1.0, 4.0, 10.0]))
    expected = dense_walk(cams, edge, radius, beta, 8)
    found = propagate(torch.from_numpy(cams), torch.from_numpy(edge), radius=radius, beta=beta)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    single = propagate(torch.from_numpy(cams).float(), torch.from_numpy(edge).float(), radius=radius, beta=beta)
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-3)


def test_paths_are_as_many_as_published() -> None:
    for radius, ways, cells in ((5, 34, 242), (10, 152, 2134)):
        found = displacements(radius)
        assert (len(found), sum(len(path(*way)) for way in found)) == (ways, cells)


def test_a_flat_map_without_edges_stays_and_a_wall_stops_the_walk() -> None:
    flat = torch.full((2, 7, 9), 0.5)
    torch.testing.assert_close(propagate(flat, torch.zeros(7, 9)), flat)
    edge = torch.zeros(12, 12)
    edge[:, 5:7] = 1
    cams = torch.zeros(1, 12, 12)
    cams[:, :, :3] = 1
    walked = propagate(cams, edge)
    assert float(walked[0, :, :5].min()) > 0.3 and float(walked[0, :, 7:].max()) == 0


@pytest.mark.parametrize("count", [2, 3])
def test_each_map_walks_as_if_alone(count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    cams, edge = torch.rand(count, 7, 9, generator=generator), torch.rand(7, 9, generator=generator)
    assert torch.equal(propagate(cams, edge), torch.cat([propagate(own[None], edge) for own in cams]))


def test_no_step_changes_nothing() -> None:
    cams = torch.rand(2, 5, 8)
    assert torch.equal(propagate(cams, torch.zeros(5, 8), steps=0), cams)


@pytest.mark.parametrize(
    ("cams", "edge", "changes", "message"),
    [
        (torch.rand(2, 5, 8), torch.rand(8, 5), {}, "should be"),
        (torch.rand(5, 8), torch.rand(5, 8), {}, "should be"),
        (torch.full((1, 2, 2), torch.nan), torch.rand(2, 2), {}, "finite"),
        (torch.rand(1, 2, 2), 2 * torch.ones(2, 2), {}, "lie in"),
        (torch.rand(1, 2, 2), torch.rand(2, 2), {"radius": 1}, "radius should be at least 2"),
        (torch.rand(1, 2, 2), torch.rand(2, 2), {"beta": 0.0}, "beta above 0"),
    ],
)
def test_wrong_input_is_refused(cams: torch.Tensor, edge: torch.Tensor, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        propagate(cams, edge, **changes)
