"""The adaptive consistency loss between the classifier's CAM and the transport CAM. Source: paper, figure 2."""

from typing import Literal

import torch
from torch import Tensor

from tag2mask.core.errors import UsageError
from tag2mask.pot.method import TransportCams
from tag2mask.pot.partition import present_slots

StopGradient = Literal["none", "pot", "classifier"]


@torch.no_grad()
def certainty(posterior: Tensor) -> Tensor:
    """ω = 1 − H(q) / log 2 with the binary entropy H of the plan's class posterior q, clamped to [1e-6, 1 − 1e-6].

    Args:
        posterior: any shape, in [0, 1].

    Returns:
        the same shape, in [0, 1]: 1 at q = 0 and 1, 0 at q = ½.
    Source: third-party descriptions of the paper name the binary entropy; the rest is ours.
    """
    q = posterior.clamp(1e-6, 1 - 1e-6)
    entropy = -(q * q.log() + (1 - q) * (1 - q).log())
    return 1 - entropy / torch.log(q.new_tensor(2.0))


def consistency_loss(
    cams: Tensor,
    tags: Tensor,
    result: TransportCams,
    *,
    adaptive: bool = True,
    stop_gradient: StopGradient = "pot",
) -> Tensor:
    """L_otcon: the weighted mean absolute difference of both CAMs over background and tags, averaged over images.

        l = 1/(J + 1) Σ_c [ Σ_i ω_c,i |A_c,i − M_c,i| / (Σ_i ω_c,i + 1e-6) ]

    Args:
        cams: (N, C, h, w) in [0, 1], the classifier's CAMs as `normalised_cams` gives them.
        tags: (N, C) bool.
        result: the transport CAMs of the same batch.
        adaptive: weight by the certainty of the plan; False gives all valid pixels the same weight.
        stop_gradient: the side that receives no gradient: `pot`, `classifier`, or `none`.

    Returns:
        a scalar ≥ 0. Each image has the same weight, so that the mean over processes does not depend on how images are
        distributed. J counts the tags that were not dropped.

    Raises:
        UsageError: CAMs of another batch or grid than ``result``.
    """
    images, width, *grid = result.maps.shape
    if cams.ndim != 4 or [len(cams), *cams.shape[2:]] != [images, *grid] or tags.shape != cams.shape[:2]:
        raise UsageError(
            f"cams should be (N, C, h, w) = ({images}, C, {grid[0]}, {grid[1]}) like the result, with tags (N, C), "
            f"received {tuple(cams.shape)} and {tuple(tags.shape)}"
        )
    valid = result.slots.valid.view(images, *grid)
    base = present_slots(cams.float(), tags, valid, result.slots.background, tag_slots=width - 1).base  # (N, S, n)
    maps = result.maps.flatten(2)
    if stop_gradient == "pot":
        maps = maps.detach()
    elif stop_gradient == "classifier":
        base = base.detach()
    weight = certainty(result.posterior.flatten(2)) if adaptive else torch.ones_like(maps)
    weight = weight * (result.slots.used[:, :, None] & result.slots.valid[:, None])
    difference = (weight * (base - maps).abs()).sum(2) / (weight.sum(2) + 1e-6)  # (N, S)
    return (difference.sum(1) / result.slots.used.sum(1)).mean()
