"""Which classes a photograph may hold, by CLIP: from the whole image, and from its patches."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.clip.model import Clip

_STRONGEST = 0.05
"""Share of the patches whose mean is a class's score by patches; ours: a small object fills about as much."""


@torch.no_grad()
def class_scores(clip: Clip, images: Sequence[Tensor], texts: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor]:
    """How likely each class is in each photograph, each class by itself: several may be in it, or none.

    Args:
        clip: the model.
        images: each (3, h · patch, w · patch), as `Clip.prepare` gives it.
        texts: (C, E) float32, unit length, of the classes.
        rivals: (G, E), of the background words, G at least 1.

    Returns:
        by image and by patch, (B, C) each, in (0, 1), on the CPU: the softmax probability of the class against the
        background words, of the class token, and of the mean over the strongest twentieth of the patches.
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
