"""The overlap of a mask with what somebody else says of the same pixels: with probabilities, or with another mask."""

import torch
from torch import Tensor

from tag2mask.errors import UsageError


def expected_iou(labels: Tensor, ids: Tensor, probabilities: Tensor) -> Tensor:
    """The IoU of each class's mask, if a pixel truly is of a class with these probabilities.

    With S the pixels that have the label of class c, and p the probability of c at a pixel,

        Σ over S of p / (|S| + Σ outside S of p),

    which is the expected intersection over the expected union. It is the IoU itself where every p is 0 or 1.

    Args:
        labels: uint8 (h, w), class ids; 255 is of no class.
        ids: integer (K,), the classes to judge.
        probabilities: float (K, h, w) in [0, 1], of each of them.

    Returns:
        float64 (K,) in [0, 1]; 0 for a class without a pixel.

    Raises:
        UsageError: shapes that do not fit.
    Source: ours; the ratio of expectations that soft IoU losses take.
    """
    if labels.ndim != 2 or probabilities.shape != (len(ids), *labels.shape):
        raise UsageError(
            f"labels should be (h, w) and probabilities (K, h, w) for {len(ids)} classes, "
            f"received {tuple(labels.shape)} and {tuple(probabilities.shape)}"
        )
    own = labels == ids[:, None, None]  # (K, h, w)
    p = probabilities.double()
    inside = (p * own).sum((1, 2))
    union = own.sum((1, 2)) + p.sum((1, 2)) - inside
    return _over(inside, union)


def overlap(labels: Tensor, other: Tensor, ids: Tensor) -> Tensor:
    """The IoU of two label maps in each class.

    Args:
        labels: uint8 (h, w), class ids; 255 is of no class.
        other: the same of somebody else.
        ids: integer (K,), the classes to compare.

    Returns:
        float64 (K,) in [0, 1]; 0 for a class that neither has.

    Raises:
        UsageError: label maps of different shapes.
    """
    if labels.ndim != 2 or labels.shape != other.shape:
        raise UsageError(f"two label maps should be (h, w), received {tuple(labels.shape)} and {tuple(other.shape)}")
    own, its = (each == ids[:, None, None] for each in (labels, other))
    return _over((own & its).sum((1, 2)).double(), (own | its).sum((1, 2)))


def _over(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
