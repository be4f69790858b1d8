"""Class-aware attention affinity (CAA): patches that attend to one another share their CAM, inside the object's box."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_SINKHORN_ROUNDS = 3
_BOTH_WAYS = np.ones((3, 3), dtype=bool)

Boxes = Literal["whole", "published"]


def affinity(attention: Tensor, valid: Tensor) -> Tensor:
    """Attention as a symmetric affinity: columns and rows brought to sum 1 three times in turn, then the mean with itᵀ.

    Args:
        attention: (B, n, n), not negative, 0 in padding.
        valid: (B, n) bool.

    Returns:
        (B, n, n) float64: two steps of it leave maps that are almost flat, and stretching those magnifies rounding.
    Source: CLIP-ES.
    """
    inside = valid[:, :, None] & valid[:, None]
    both = attention.double() * inside
    least = torch.finfo(torch.float32).tiny
    for _ in range(_SINKHORN_ROUNDS):
        both = both / both.sum(1, keepdim=True).clamp_min(least)
        both = both / both.sum(2, keepdim=True).clamp_min(least)
    return (both + both.transpose(1, 2)) / 2


def propagate(affinities: Tensor, maps: Tensor) -> Tensor:
    """Two steps of the affinity, D (D X): the same as its square times X, without the square.

    Args:
        affinities: (B, n, n).
        maps: (B, n, J).

    Returns:
        (B, n, J) in the precision of the affinities.
    """
    return affinities @ (affinities @ maps.to(affinities.dtype))


def ranged(maps: Tensor, valid: Tensor) -> Tensor:
    """(x − min) / (max − min) over the patches of each map (…, n); 0 where a map is flat, and in padding.

    Source: CLIP-ES, which adds 1e-7 to the range: that damps the maps of classes that the model is sure of.
    """
    low = maps.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    high = maps.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    spread = high - low
    return torch.where(valid & (spread > 0), (maps - low) / torch.where(spread > 0, spread, 1.0), 0.0)


def box_masks(maps: Tensor, grids: Sequence[tuple[int, int]], threshold: float, boxes: Boxes = "whole") -> Tensor:
    """1 inside the bounding boxes of the regions where a map is strong.

    Args:
        maps: (P, n) in [0, 1], on the grid of each.
        grids: (h, w) of each map.
        threshold: τ; strong is above ⌊τ · max⌋, both in steps of 1/255.
        boxes: `whole`, or `published`: a box at the right or lower edge of the photograph loses its last column or row.

    Returns:
        (P, n) bool.
    Source: CLIP-ES, which traces contours; the boxes of regions connected over sides and corners are the same.
    """
    levels = (maps * 255).floor()
    strong = (levels > (threshold * levels.amax(1, keepdim=True)).floor()).cpu().numpy()
    masks = np.zeros(strong.shape, dtype=bool)
    for own, mask, (rows, columns) in zip(strong, masks, grids, strict=True):
        regions, _ = ndimage.label(own[: rows * columns].reshape(rows, columns), structure=_BOTH_WAYS)
        square = mask[: rows * columns].reshape(rows, columns)  # a view
        for down, across in ndimage.find_objects(regions):
            if boxes == "published":
                down = slice(down.start, min(down.stop, rows - 1))
                across = slice(across.start, min(across.stop, columns - 1))
            square[down, across] = True
    return torch.from_numpy(masks).to(maps.device)
