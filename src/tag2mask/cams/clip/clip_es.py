"""Base CAMs from CLIP for a batch of images (CLIP-ES), and the probabilities of classes that suggest tags.

Class-aware attention affinity (CAA): patches that attend to one another share their CAM, inside the object's box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from tag2mask.cams.clip.gradcam import softmax_gradcams
from tag2mask.cams.clip.model import Clip
from tag2mask.core.errors import UsageError

ATTENTION_BLOCKS = 8
"""The affinity is made of the attention of the last eight blocks. Source: CLIP-ES."""

_ROUNDS = 3
_CONNECTED = np.ones((3, 3), dtype=bool)

_STRONGEST = 0.05
"""Share of the patches whose mean is a class's score by patches; ours: the size of a small object."""

Boxes = Literal["whole", "published"]


@dataclass(frozen=True)
class ClipCams:
    """Base CAMs of one image.

    Attributes:
        labels: the classes, from 0, ascending.
        cams: (J, h, w) float32 in [0, 1], on CLIP's grid.
        gradcams: (J, h, w), the same before the affinity.
        probability: (J,), of each class among the present classes and the background prompts.
    """

    labels: tuple[int, ...]
    cams: Tensor
    gradcams: Tensor
    probability: Tensor


@torch.no_grad()
def clip_cams(
    clip: Clip,
    images: Sequence[Tensor],
    tags: Tensor,
    texts: Tensor,
    rivals: Tensor,
    *,
    box_threshold: float = 0.4,
    boxes: Boxes = "whole",
) -> list[ClipCams]:
    """Base CAMs of images of any sizes.

    Args:
        images: each (3, h · patch, w · patch), as `Clip.prepare` gives it.
        tags: (B, C) bool.
        texts: (C, E) float32, unit length, of the classes.
        rivals: (G, E), of the background prompts.
        box_threshold: τ of `box_masks`; published: 0.4 for VOC, 0.7 for COCO.

    Returns:
        one for each image, on the CPU.

    Raises:
        UsageError: wrong shapes.
    Source: CLIP-ES; docs/seeds.md lists the differences from its release.
    """
    if tags.shape != (len(images), len(texts)) or tags.dtype != torch.bool:
        raise UsageError(f"tags should be bool {(len(images), len(texts))}, received {tags.dtype} {tuple(tags.shape)}")
    if not len(images):
        return []
    tags, texts, rivals = (values.to(clip.device) for values in (tags, texts, rivals))
    patches = clip.patches(images)
    before = clip.up_to_last_block(patches, ATTENTION_BLOCKS)
    found = softmax_gradcams(clip, patches, before.tokens, texts, rivals, tags)
    affinities = affinity((before.attention + found.attention) / (before.maps + 1), patches.valid)
    inside = patches.valid[found.image]  # (P, n)
    plain = ranged(found.maps, inside)
    numbers = found.image.tolist()
    boxed = plain * box_masks(plain, [patches.grids[number] for number in numbers], box_threshold, boxes)
    # The maps of an image are stacked, so that its affinity is applied to all of them in one product.
    place = tags.cumsum(1)[found.image, found.label] - 1
    stack = boxed.new_zeros(len(images), boxed.shape[1], int(tags.sum(1).max()))
    stack[found.image, :, place] = boxed
    refined = ranged(propagate(affinities, stack)[found.image, :, place], inside).float()
    results = []
    on_host = [values.cpu() for values in (refined, plain, found.probability, found.label)]
    for number, (rows, columns) in enumerate(patches.grids):
        own = torch.tensor([pair for pair, image in enumerate(numbers) if image == number], dtype=torch.int64)
        cams, gradcams = (maps[own, : rows * columns].view(len(own), rows, columns) for maps in on_host[:2])
        results.append(ClipCams(tuple(on_host[3][own].tolist()), cams, gradcams, on_host[2][own]))
    return results


@torch.no_grad()
def class_scores(clip: Clip, images: Sequence[Tensor], texts: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of each class in each image, independent of the other classes.

    Args:
        images: each (3, h · patch, w · patch), as `Clip.prepare` gives it.
        texts: (C, E) float32, unit length, of the classes.
        rivals: (G, E), of the background prompts, G at least 1.

    Returns:
        by image and by patch, (B, C) each, in (0, 1), on the CPU: the softmax probability of the class against the
        background prompts, of the class token, and the mean of those of the strongest twentieth of the patches.
    Source: ours.
    """
    patches = clip.patches(images)
    tokens = clip.up_to_last_block(patches, 0).tokens
    after = clip.through(clip.blocks[-1], tokens, patches.key_bias)
    features = F.normalize(clip.image_features(after), dim=2)  # (B, 1 + n, E)
    for_class = clip.logit_scale * features @ texts.to(features.device).T  # (B, 1 + n, C)
    against = torch.logsumexp(clip.logit_scale * features @ rivals.to(features.device).T, 2, keepdim=True)
    probability = torch.sigmoid(for_class - against)
    by_patch = []
    for own, (rows, columns) in zip(probability[:, 1:], patches.grids, strict=True):
        count = max(1, round(_STRONGEST * rows * columns))
        by_patch.append(own[: rows * columns].topk(count, dim=0).values.mean(0))
    return probability[:, 0].cpu(), torch.stack(by_patch).cpu()


def affinity(attention: Tensor, valid: Tensor) -> Tensor:
    """Attention as a symmetric affinity: columns and rows normalised to sum 1 three times in turn, then (A + Aᵀ) / 2.

    Args:
        attention: (B, n, n), not negative, 0 in padding.
        valid: (B, n) bool.

    Returns:
        (B, n, n) float64: two steps of it leave almost flat maps, whose stretching magnifies rounding.
    Source: CLIP-ES.
    """
    inside = valid[:, :, None] & valid[:, None]
    both = attention.double() * inside
    least = torch.finfo(torch.float32).tiny
    for _ in range(_ROUNDS):
        both = both / both.sum(1, keepdim=True).clamp_min(least)
        both = both / both.sum(2, keepdim=True).clamp_min(least)
    return (both + both.transpose(1, 2)) / 2


def propagate(affinities: Tensor, maps: Tensor) -> Tensor:
    """Two steps of the affinity, D (D X): (B, n, n) and (B, n, J) to (B, n, J), in the precision of the affinities."""
    return affinities @ (affinities @ maps.to(affinities.dtype))


def ranged(maps: Tensor, valid: Tensor) -> Tensor:
    """(x − min) / (max − min) over the patches of each map (…, n); 0 where a map is flat, and in padding.

    Source: CLIP-ES, without its 1e-7 in the divisor, which damps the maps of classes with a high probability.
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
        boxes: `whole`, or `published`: a box at the right or lower edge of the image loses its last column or row.

    Returns:
        (P, n) bool.
    Source: CLIP-ES, which traces contours; the boxes of regions connected over sides and corners are the same.
    """
    levels = (maps * 255).floor()
    strong = (levels > (threshold * levels.amax(1, keepdim=True)).floor()).cpu().numpy()
    masks = np.zeros(strong.shape, dtype=bool)
    for own, mask, (rows, columns) in zip(strong, masks, grids, strict=True):
        regions, _ = ndimage.label(own[: rows * columns].reshape(rows, columns), structure=_CONNECTED)
        square = mask[: rows * columns].reshape(rows, columns)  # a view
        for down, across in ndimage.find_objects(regions):
            if boxes == "published":
                down = slice(down.start, min(down.stop, rows - 1))
                across = slice(across.start, min(across.stop, columns - 1))
            square[down, across] = True
    return torch.from_numpy(masks).to(maps.device)
