"""Grids: cells stay where they are, whatever the size of the image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.core.errors import UsageError
from tag2mask.networks.backbones.base import ceil_grid, image_cells, to_grid

SIDES = st.integers(1, 40)


@settings(max_examples=30)
@given(height=SIDES, width=SIDES, stride=st.sampled_from([1, 2, 4, 7, 16]), seed=st.integers(0, 99))
def test_image_cells_against_a_loop(height: int, width: int, stride: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(2, height, width, generator=generator) < 0.9
    grid = ceil_grid((height, width), stride)
    found = image_cells(valid, grid, stride=stride)
    inside, touched = torch.empty(2, *grid, dtype=torch.bool), torch.empty(2, *grid, dtype=torch.bool)
    for row in range(grid[0]):
        for column in range(grid[1]):
            cell = valid[:, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride].flatten(1)
            inside[:, row, column], touched[:, row, column] = cell.all(1), cell.any(1)
    assert torch.equal(found, torch.where(inside.flatten(1).any(1)[:, None, None], inside, touched))


@pytest.mark.parametrize(("size", "grid"), [((45, 67), (6, 9)), ((288, 64), (37, 9)), ((3, 5), (3, 8))])
def test_image_cells_of_a_stretched_grid(size: tuple[int, int], grid: tuple[int, int]) -> None:
    valid = torch.rand(2, *size, generator=torch.Generator().manual_seed(1)) < 0.995
    found = image_cells(valid, grid, stride=None)
    for row in range(grid[0]):
        for column in range(grid[1]):
            edges = [
                (place * side // cells, -(-(place + 1) * side // cells))
                for place, side, cells in zip((row, column), size, grid, strict=True)
            ]
            cell = valid[:, slice(*edges[0]), slice(*edges[1])]
            assert torch.equal(found[:, row, column], cell.flatten(1).all(1))


def test_image_cells_refuses_a_grid_that_no_stride_makes() -> None:
    with pytest.raises(UsageError, match="64 × 48 pixels has no grid of 4 × 4"):
        image_cells(torch.ones(1, 64, 48, dtype=torch.bool), (4, 4), stride=16)


@pytest.mark.parametrize(("stride", "target"), [(4, 16), (8, 16), (14, 14), (32, 16), (16, 8), (14, 16), (16, 14)])
@pytest.mark.parametrize("size", [(64, 96), (45, 67), (255, 383)])
def test_to_grid_has_the_grid_of_the_target(stride: int, target: int, size: tuple[int, int]) -> None:
    maps = torch.rand(1, 2, *ceil_grid(size, stride))
    assert to_grid(maps, stride, target, ceil_grid(size, target)).shape[2:] == ceil_grid(size, target)


def test_reducing_takes_the_mean_of_the_cells_there_are() -> None:
    maps = torch.rand(1, 2, 5, 7)
    found = to_grid(maps, 4, 8, (3, 4))
    for row in range(3):
        for column in range(4):
            cell = maps[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(found[:, :, row, column], cell.mean(dim=(2, 3)))


@pytest.mark.parametrize(("stride", "target"), [(16, 8), (8, 16), (32, 8)])
def test_a_ramp_stays_a_ramp(stride: int, target: int) -> None:
    """A map that says where its cell's centre is in the image still says so on the other grid, up to the border."""
    size = (333, 333)  # no multiple of any stride
    rows, columns = ceil_grid(size, stride)
    maps = ((torch.arange(rows) + 0.5) * stride).view(1, 1, rows, 1).expand(1, 1, rows, columns)
    found = to_grid(maps, stride, target, ceil_grid(size, target))[0, 0, :, 0]
    expected = (torch.arange(len(found)) + 0.5) * target
    inner = slice(stride // target + 1, -(stride // target) - 2)
    torch.testing.assert_close(found[inner], expected[inner])
