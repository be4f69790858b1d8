"""Expected IoU of a mask with probabilities, or its IoU with another mask."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import UsageError


def class_shares(labels: Tensor, ids: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of each class in each cell of a grid over a mask, which keeps thin parts of a reduced mask.

    Args:
        labels: uint8 (H, W), class ids; 255 is of no class.
        ids: integer (K,), the classes.
        size: (h, w) of the grid, at most (H, W).

    Returns:
        float32 (K, h, w) in [0, 1]; 0 or 1 if a cell is a pixel.
    """
    return torch.stack([F.adaptive_avg_pool2d((labels == own)[None].float(), size)[0] for own in ids])


def expected_iou(own: Tensor, probabilities: Tensor) -> Tensor:
    """The expected intersection over the expected union of each class's mask,

        Σ s p / Σ (s + p − s p),

    with s the mask's share of a cell and p the probability of the class there. It is the IoU if all s and p are 0 or 1.

    Args:
        own: float (K, h, w) in [0, 1], the mask; see `class_shares`.
        probabilities: float (K, h, w) in [0, 1]; 0 and 1 for another mask.

    Returns:
        float64 (K,) in [0, 1]; 0 for a class without pixels.

    Raises:
        UsageError: the shapes differ.
    Source: ours; the ratio of expectations that soft IoU losses take.
    """
    if own.ndim != 3 or own.shape != probabilities.shape:
        raise UsageError(
            f"a mask and probabilities should both be (K, h, w), received {tuple(own.shape)} and "
            f"{tuple(probabilities.shape)}"
        )
    s, p = own.double(), probabilities.double()
    inside = (s * p).sum((1, 2))
    whole = s.sum((1, 2)) + p.sum((1, 2)) - inside
    return torch.where(whole > 0, inside / whole.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
