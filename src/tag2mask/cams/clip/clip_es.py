"""Base CAMs from CLIP for a batch of images (CLIP-ES), and class probabilities that suggest tags.

An affinity averages a CAM over alike patches, inside the object's box: over patches that attend to each other
(class-aware attention affinity, CAA), or over patches with alike class distributions (CDA).
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
"""The affinity is the mean attention of the last eight blocks. Source: CLIP-ES."""

_ROUNDS = 3
_HIGHEST = 1 - 1.2e-7
"""The maximum of a published map, x / (1e-7 + max) in float32: its level is 254 of 255."""

_CONNECTED = np.ones((3, 3), dtype=bool)

_TEMPERATURE = 0.1
"""τ of `distribution_affinity`; ours: patches that share no class, with a divergence of ln 2, weigh 0.001."""

_LARGEST_CHUNK = 1 << 18
"""Most probabilities of pairs of patches at a time, so that they fit the caches of a CPU."""

_TOP_SHARE = 0.05
"""Share of the patches with the highest values that are averaged for a class's score; ours: a small object's size."""

Affinity = Literal["caa", "caa-published", "cda"]


@dataclass(frozen=True)
class ClipCams:
    """Base CAMs of one image."""

    labels: tuple[int, ...]  # the classes, from 0, ascending
    cams: Tensor  # (J, h, w) float32 in [0, 1], on CLIP's grid
    gradcams: Tensor  # (J, h, w), the CAMs before the affinity
    probability: Tensor  # (J,), of each class among the present classes and the background prompts


@torch.no_grad()
def clip_cams(
    clip: Clip,
    images: Sequence[Tensor],
    tags: Tensor,
    text_features: Tensor,
    background_text_features: Tensor,
    *,
    box_threshold: float = 0.4,
    affinity: Affinity = "caa",
) -> list[ClipCams]:
    """Base CAMs of images of any sizes.

    Args:
        images: each (3, h · patch, w · patch), of `Clip.prepare`.
        tags: (B, C) bool.
        text_features: (C, E) float32, unit length, of the classes.
        background_text_features: (G, E), of the background prompts.
        box_threshold: τ of `box_masks`; published: 0.4 for VOC, 0.7 for COCO.
        affinity: `caa`; `caa-published`, with the boxes of the release; or `cda`, of distributions over all texts.

    Returns:
        one for each image, on the CPU.

    Source: CLIP-ES; docs/seeds.md lists the differences from its release.
    """
    if tags.shape != (len(images), len(text_features)) or tags.dtype != torch.bool:
        raise UsageError(
            f"tags should be bool {(len(images), len(text_features))}, received {tags.dtype} {tuple(tags.shape)}"
        )
    if not len(images):
        return []
    tags, text_features, background_text_features = (
        values.to(clip.device) for values in (tags, text_features, background_text_features)
    )
    patches = clip.patches(images)
    before = clip.up_to_last_block(patches, 0 if affinity == "cda" else ATTENTION_BLOCKS)
    found = softmax_gradcams(clip, patches, before.tokens, text_features, background_text_features, tags)
    if affinity == "cda":
        features = F.normalize(clip.image_features(found.tokens), dim=2)
        logits = clip.logit_scale * features @ torch.cat([text_features, background_text_features]).T
        affinities = distribution_affinity(logits, patches.valid)
    else:
        affinities = attention_affinity((before.attention + found.attention) / (before.maps + 1), patches.valid)
    inside = patches.valid[found.image]  # (P, n)
    plain = min_max_normalised(found.maps, inside)
    numbers = found.image.tolist()
    grids = [patches.grids[number] for number in numbers]
    box_masked = plain * box_masks(plain, grids, box_threshold, cut=affinity == "caa-published")
    # The maps of an image are stacked, so that one product applies the affinity to all of them.
    place = tags.cumsum(1)[found.image, found.label] - 1
    stack = box_masked.new_zeros(len(images), box_masked.shape[1], int(tags.sum(1).max()))
    stack[found.image, :, place] = box_masked
    refined = min_max_normalised(propagate(affinities, stack)[found.image, :, place], inside).float()
    results = []
    on_host = [values.cpu() for values in (refined, plain, found.probability, found.label)]
    for number, (rows, columns) in enumerate(patches.grids):
        own = torch.tensor([pair for pair, image in enumerate(numbers) if image == number], dtype=torch.int64)
        cams, gradcams = (maps[own, : rows * columns].view(len(own), rows, columns) for maps in on_host[:2])
        results.append(ClipCams(tuple(on_host[3][own].tolist()), cams, gradcams, on_host[2][own]))
    return results


@torch.no_grad()
def class_scores(
    clip: Clip, images: Sequence[Tensor], text_features: Tensor, background_text_features: Tensor
) -> tuple[Tensor, Tensor]:
    """The probability of each class in each image, independent of the other classes.

    Args:
        images: each (3, h · patch, w · patch), of `Clip.prepare`.
        text_features: (C, E) float32, unit length, of the classes.
        background_text_features: (G, E), of the background prompts, G at least 1.

    Returns:
        by image and by patch, (B, C) each, in (0, 1), on the CPU: the softmax probability of the class against the
        background prompts, for the class token, and its mean over the highest twentieth of the patches.
    Source: ours.
    """
    patches = clip.patches(images)
    tokens = clip.up_to_last_block(patches, 0).tokens
    after = clip.run_block(clip.blocks[-1], tokens, patches.key_bias)
    features = F.normalize(clip.image_features(after), dim=2)  # (B, 1 + n, E)
    for_class = clip.logit_scale * features @ text_features.to(features.device).T  # (B, 1 + n, C)
    against = torch.logsumexp(
        clip.logit_scale * features @ background_text_features.to(features.device).T, 2, keepdim=True
    )
    probability = torch.sigmoid(for_class - against)
    by_patch = []
    for own, (rows, columns) in zip(probability[:, 1:], patches.grids, strict=True):
        count = max(1, round(_TOP_SHARE * rows * columns))
        by_patch.append(own[: rows * columns].topk(count, dim=0).values.mean(0))
    return probability[:, 0].cpu(), torch.stack(by_patch).cpu()


def attention_affinity(attention: Tensor, valid: Tensor) -> Tensor:
    """Attention (B, n, n) as a symmetric affinity: columns and rows normalised in turn, then (A + Aᵀ) / 2.

    In float64: propagated maps are almost flat, so that their normalisation magnifies rounding errors. Source: CLIP-ES.
    """
    inside = valid[:, :, None] & valid[:, None]
    both = attention.double() * inside
    least = torch.finfo(torch.float32).tiny
    for _ in range(_ROUNDS):
        both = both / both.sum(1, keepdim=True).clamp_min(least)
        both = both / both.sum(2, keepdim=True).clamp_min(least)
    return (both + both.transpose(1, 2)) / 2


def distribution_affinity(logits: Tensor, valid: Tensor) -> Tensor:
    """Affinity of patches with alike class distributions: exp(−JSD(P_i, P_j) / τ), rows normalised to sum 1.

    JSD is the Jensen–Shannon divergence, H((P_i + P_j) / 2) − (H(P_i) + H(P_j)) / 2, in [0, ln 2].

    Args:
        logits: (B, n, C + G) float32, of the classes and the background prompts; P_i is their softmax.
        valid: (B, n) bool, False = padding.

    Returns:
        (B, n, n) float64; 0 in padding.

    Source: CD-CLIP (CVPR 2026) for the divergence; exponential and temperature are ours.
    """
    shares = logits.softmax(2)
    entropy = _entropy(shares)
    divergence = -(entropy[:, :, None] + entropy[:, None]) / 2
    images, patches, texts = shares.shape
    step = max(1, _LARGEST_CHUNK // (images * patches * texts))
    for start in range(0, patches, step):
        rows = slice(start, start + step)
        divergence[:, rows] += _entropy((shares[:, rows, None] + shares[:, None]) / 2)
    inside = valid[:, :, None] & valid[:, None]
    alike = torch.exp(divergence.clamp_min(0) / -_TEMPERATURE).double() * inside
    return alike / alike.sum(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def _entropy(shares: Tensor) -> Tensor:
    """−Σ p ln p over the last dimension."""
    return -(shares * shares.clamp_min(torch.finfo(shares.dtype).tiny).log()).sum(-1)


def propagate(affinities: Tensor, maps: Tensor) -> Tensor:
    """Two steps of the affinity, D (D X): (B, n, n) and (B, n, J) to (B, n, J), in the precision of the affinities."""
    return affinities @ (affinities @ maps.to(affinities.dtype))


def min_max_normalised(maps: Tensor, valid: Tensor) -> Tensor:
    """(x − min) / (max − min) over the patches of each map (…, n); 0 for flat maps and in padding.

    Source: CLIP-ES, without its 1e-7 in the divisor, which weakens the maps of classes with a probability near 0 or 1.
    """
    low = maps.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    high = maps.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    spread = high - low
    return torch.where(valid & (spread > 0), (maps - low) / torch.where(spread > 0, spread, 1.0), 0.0)


def box_masks(maps: Tensor, grids: Sequence[tuple[int, int]], threshold: float, *, cut: bool = False) -> Tensor:
    """(P, n) bool, the bounding boxes of the regions where a map (P, n) in [0, 1] is above a threshold.

    Args:
        grids: (h, w) of each map.
        threshold: τ; regions are above ⌊τ · max⌋, both in steps of 1/255.
        cut: a box at the right or lower edge of the image loses its last column or row, as published.
    Source: CLIP-ES, which traces contours; regions connected over sides and corners have the same boxes.
    """
    levels = (maps * _HIGHEST * 255).floor()
    above = (levels > (threshold * levels.amax(1, keepdim=True)).floor()).cpu().numpy()
    masks = np.zeros(above.shape, dtype=bool)
    for own, mask, (rows, columns) in zip(above, masks, grids, strict=True):
        regions, _ = ndimage.label(own[: rows * columns].reshape(rows, columns), structure=_CONNECTED)
        square = mask[: rows * columns].reshape(rows, columns)  # a view
        for down, across in ndimage.find_objects(regions):
            if cut:
                down = slice(down.start, min(down.stop, rows - 1))
                across = slice(across.start, min(across.stop, columns - 1))
            square[down, across] = True
    return torch.from_numpy(masks).to(maps.device)
