"""The overlap of a mask with what somebody else says of the same pixels: with probabilities, or with another mask."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import UsageError


def class_shares(labels: Tensor, ids: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of each cell a mask gives to each class, so that no thin part is lost where a mask is reduced.

    Args:
        labels: uint8 (H, W), class ids; 255 is of no class.
        ids: integer (K,), the classes.
        size: (h, w), how many cells lie over the mask, at most (H, W).

    Returns:
        float32 (K, h, w) in [0, 1]; 0 and 1 alone where a cell is a pixel.
    """
    return torch.stack([F.adaptive_avg_pool2d((labels == own)[None].float(), size)[0] for own in ids])


def expected_iou(own: Tensor, probabilities: Tensor) -> Tensor:
    """The IoU of each class's mask, if a cell truly is of a class with these probabilities.

    With s the share of a cell that the mask gives to class c, and p the probability of c there,

        Σ s p / Σ (s + p − s p),

    which is the expected intersection over the expected union. It is the IoU itself where every s and p is 0 or 1.

    Args:
        own: float (K, h, w) in [0, 1], the mask; see `class_shares`.
        probabilities: float (K, h, w) in [0, 1], of each class; of another mask, 0 and 1.

    Returns:
        float64 (K,) in [0, 1]; 0 for a class without a pixel.

    Raises:
        UsageError: shapes that differ.
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
