"""From photographs, tags and texts to base CAMs: CLIP-ES for a whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.clip.affinity import Boxes, affinity, box_masks, propagate, ranged
from tag2mask.clip.gradcam import softmax_gradcams
from tag2mask.clip.model import Clip
from tag2mask.errors import UsageError

ATTENTION_BLOCKS = 8
"""Whose attention makes the affinity: the last eight. Source: CLIP-ES."""


@dataclass(frozen=True)
class ClipCams:
    """Base CAMs of one photograph.

    Attributes:
        labels: the classes, from 0, ascending.
        cams: (J, h, w) float32 in [0, 1], on CLIP's grid.
        gradcams: (J, h, w), the same before the affinity.
        probability: (J,), of each class among the present classes and the background words.
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
    attention_blocks: int = ATTENTION_BLOCKS,
) -> list[ClipCams]:
    """Base CAMs of photographs of any sizes.

    Args:
        clip: the model.
        images: each (3, h · patch, w · patch), as `Clip.prepare` gives it.
        tags: (B, C) bool.
        texts: (C, E) float32, unit length, of the classes.
        rivals: (G, E), of the background words.
        box_threshold: τ of `box_masks`; published: 0.4 for VOC, 0.7 for COCO.
        boxes: of `box_masks`.
        attention_blocks: how many of the last blocks make the affinity.

    Returns:
        one for each photograph, on the CPU.

    Raises:
        UsageError: shapes that do not fit.
    Source: CLIP-ES; what differs from its release is listed in docs/seeds.md.
    """
    if tags.shape != (len(images), len(texts)) or tags.dtype != torch.bool:
        raise UsageError(f"tags should be bool {(len(images), len(texts))}, received {tags.dtype} {tuple(tags.shape)}")
    if not len(images):
        return []
    tags, texts, rivals = (values.to(clip.device) for values in (tags, texts, rivals))
    patches = clip.patches(images)
    before = clip.up_to_last_block(patches, attention_blocks)
    found = softmax_gradcams(clip, patches, before.tokens, texts, rivals, tags)
    affinities = affinity((before.attention + found.attention) / (before.maps + 1), patches.valid)
    inside = patches.valid[found.image]  # (P, n)
    plain = ranged(found.maps, inside)
    numbers = found.image.tolist()
    boxed = plain * box_masks(plain, [patches.grids[number] for number in numbers], box_threshold, boxes)
    # Maps of a photograph side by side, so that its affinity is applied to all of them in one product.
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
