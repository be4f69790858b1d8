"""One step of self-affinity before partition: features and CAMs are averaged over similar, near pixels."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.pot.partition import NORM_EPSILON, Slots

_LARGEST_BLOCK = 1 << 24
"""Most entries of the affinity in memory at a time; the whole affinity grows with the square of the pixels."""

_JITTER = 1e-6
"""Share added to the diagonal of the inner products: a Cholesky factor then exists although pixels may be equal."""


def self_affinity(
    features: Tensor, slots: Slots, grid: tuple[int, int], sharpness: float, radius: float
) -> tuple[Tensor, Slots]:
    """Smooth features and base CAMs: x_i ← Σ_j a_ij x_j, with a_i· = softmax over j of β ⟨f_i, f_j⟩ − |i − j|² / 2σ².

    Args:
        features: (N, n, D), unit length.
        grid: (h, w), n = h·w.
        sharpness: β > 0.
        radius: σ > 0, in cells.

    Returns:
        the features, unit length again, and the slots with each tag's CAM divided by its new maximum + 1e-5, background
        1 − max over tags. Padding is excluded. Gradients flow into features and CAMs, not through the affinity.
        Features with more channels than pixels that need no gradient become `coordinates`, (N, n, n), with the same
        inner products up to 2e-6, if the whole affinity fits into one block.
    Source: ours.
    """
    alike, pixels = features.detach(), features.shape[1]
    step = max(1, _LARGEST_BLOCK // (len(features) * pixels))
    cosines = None
    if step >= pixels:
        cosines = inner_products(alike)  # (N, n, n)
        if features.shape[2] > pixels and not features.requires_grad:
            features = coordinates(cosines, features)
    tags = slots.base[:, 1:]  # (N, J, n)
    both = torch.cat([features, tags.transpose(1, 2)], 2)  # (N, n, D + J)
    far = (~slots.valid[:, None]).to(features.dtype) * -1e9  # (N, 1, n)
    rows, columns = torch.meshgrid(*(torch.arange(side, device=features.device) for side in grid), indexing="ij")
    places = torch.stack([rows, columns], 2).flatten(0, 1).to(features.dtype) / (radius * 2**0.5)  # (n, 2)
    smoothed = []
    for first in range(0, pixels, step):
        block = slice(first, first + step)
        near = -(places[block, None] - places).square().sum(2)  # (m, n)
        cosine = alike[:, block] @ alike.transpose(1, 2) if cosines is None else cosines[:, block]
        weights = torch.softmax(sharpness * cosine + near + far, 2)  # (N, m, n)
        smoothed.append(weights @ both)
    out = torch.cat(smoothed, 1)
    maps = out[:, :, features.shape[2] :].transpose(1, 2) * slots.valid[:, None]
    maps = maps / (maps.detach().amax(2, keepdim=True) + NORM_EPSILON)
    maximum = maps.amax(1) if maps.shape[1] else torch.zeros_like(slots.base[:, 0])
    background = (1 - maximum) * slots.valid
    base = torch.cat([background[:, None], maps], 1)
    return F.normalize(out[:, :, : features.shape[2]], dim=2), replace(slots, base=base)


def inner_products(points: Tensor) -> Tensor:
    """Those of all pairs of points (N, n, D): (N, n, n), of which little more than a half is computed."""
    count = points.shape[1]
    products = points.new_empty(len(points), count, count)
    step = -(-count // 4)
    for first in range(0, count, step):
        part = points[:, first : first + step] @ points[:, first:].transpose(1, 2)
        products[:, first : first + step, first:] = part
        products[:, first:, first : first + step] = part.transpose(1, 2)
    return products


def coordinates(products: Tensor, points: Tensor) -> Tensor:
    """Points with the given inner products in n coordinates, (N, n, n); ``points`` itself if rounding prevents it.

    The coordinates are the Cholesky factor of the products, with a diagonal multiplied by 1 + 1e-6. The later steps of
    POT read inner products alone, and cost as if there were n channels.

    Source: ours.
    """
    # In double precision: with more on the diagonal, the coordinates of equal pixels would differ noticeably.
    exact = products.double()
    exact.diagonal(dim1=1, dim2=2).mul_(1 + _JITTER)
    factor, failed = torch.linalg.cholesky_ex(exact)
    return points if failed.any() else factor.to(points.dtype)
