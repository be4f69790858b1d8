"""Feature grids: a stride s divides H × W pixels into ceil(H / s) × ceil(W / s) cells, cell i from pixel s · i on.

All changes of grid keep that alignment, also where the last cell is not whole.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import UsageError


def ceil_grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The grid of an image: (ceil(H / stride), ceil(W / stride)) for ``size`` = (H, W)."""
    return -(-size[0] // stride), -(-size[1] // stride)


def reduce_valid(valid: Tensor, size: tuple[int, int], *, stride: int | None = None) -> Tensor:
    """Which cells lie wholly inside the photograph.

    A cell at the right or bottom border that reaches beyond the tensor counts by what the tensor has of it.

    Args:
        valid: bool (N, H, W), True where the photograph is and False where there is padding.
        size: (h, w) of the grid.
        stride: pixels a cell; None takes the smallest that gives the grid, which is exact when it divides H or W.

    Returns:
        bool (N, h, w).

    Raises:
        UsageError: no stride, or not the given one, makes ``size`` of (H, W).
    """
    height, width = valid.shape[-2:]
    cell = stride or max(-(-height // size[0]), -(-width // size[1]))
    if ceil_grid((height, width), cell) != tuple(size):
        raise UsageError(
            f"a valid mask of {height} × {width} pixels has no grid of {size[0]} × {size[1]} cells of {cell} pixels"
        )
    padding = valid.logical_not().unsqueeze(1).float()  # (N, 1, H, W)
    return F.max_pool2d(padding, cell, ceil_mode=True).squeeze(1) == 0


def photograph_cells(valid: Tensor, size: tuple[int, int], *, stride: int) -> Tensor:
    """The cells that count as the photograph: those wholly inside it; of a sliver without any, those that it touches.

    Args:
        valid: bool (N, H, W), False = padding.
        size: (h, w) of the grid.
        stride: pixels a cell.

    Returns:
        bool (N, h, w), at least one True for an image that has a valid pixel.
    Source: ours.
    """
    inside = reduce_valid(valid, size, stride=stride)
    touched = reduce_valid(valid.logical_not(), size, stride=stride).logical_not()
    return torch.where(inside.flatten(1).any(dim=1)[:, None, None], inside, touched)


def to_grid(maps: Tensor, stride: int, target: int, size: tuple[int, int]) -> Tensor:
    """Maps on another grid: the mean of the cells that merge, bilinear between the cells that split.

    Args:
        maps: float (N, D, h, w) on the grid of ``stride``.
        stride: pixels a cell of ``maps``.
        target: pixels a cell of the result.
        size: (h', w') of the result, the image's grid at ``target``.

    Returns:
        (N, D, h', w'); ``maps`` itself where the strides are equal.
    """
    if stride == target:
        return maps
    if target % stride == 0:
        return F.avg_pool2d(maps, target // stride, ceil_mode=True, count_include_pad=False)
    if stride % target == 0:
        # Scaling by the ratio and cutting off the rest keeps cells aligned; scaling to `size` would stretch the maps.
        enlarged = F.interpolate(maps, scale_factor=float(stride // target), mode="bilinear", align_corners=False)
        return enlarged[..., : size[0], : size[1]]
    mode = "area" if target > stride else "bilinear"
    return F.interpolate(maps, size=size, mode=mode, align_corners=None if mode == "area" else False)
