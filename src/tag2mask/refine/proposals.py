"""Masks of whole objects as proposals: prompts from the regions of a mask, and a soft vote that names each proposal."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

MARGIN = 0.2
"""The least difference of the two highest means of a vote, below which a proposal abstains; chosen on voc-animals."""

_LEAST_SHARE = 0.01
"""The smallest region that makes a prompt, as a share of the image; ours."""

_MOST_REGIONS = 8
"""Regions of a class that make prompts, the largest ones; ours."""

COVERED = 0.7
"""The share of a region that proposals of its class cover, from which on they decide about the rest; chosen, too."""

WEIGHT = 0.85
"""The weight of a vote against the pixel's own posterior; chosen, too."""

_LEAST = 1e-3
"""Lower bound on a probability that is weighed against a vote; ours."""

_CONNECTED = np.ones((3, 3), dtype=bool)

Bools = npt.NDArray[np.bool_]


class RegionPrompts(NamedTuple):
    """A box and a point of each of P regions, in pixels; x to the right, y down."""

    boxes: npt.NDArray[np.float64]  # (P, 4), x1, y1, x2, y2
    points: npt.NDArray[np.float64]  # (P, 1, 2), x, y, of the object


Propose = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From an image, uint8 (H, W, 3), the class ids (K,), the CAMs and the posterior, (K, H, W) each, to proposals, bool
(P, H, W)."""


def regions(labels: npt.NDArray[np.integer]) -> Iterator[tuple[int, Bools]]:
    """The large connected regions of each place above 0 in (H, W): place and region, the largest first.

    A place is that of a class in the maps, not its id.
    """
    for place in np.unique(labels[labels > 0]).tolist():
        numbers, _ = ndimage.label(labels == place, _CONNECTED)
        areas = np.bincount(numbers.ravel())[1:]
        for number in np.argsort(-areas, kind="stable")[:_MOST_REGIONS].tolist():
            if areas[number] >= _LEAST_SHARE * labels.size:
                yield place, numbers == number + 1


def region_prompts(cams: Tensor, posterior: Tensor) -> RegionPrompts:
    """A box and a point for each region of the most probable classes: the point is the peak of the class's CAM in it.

    Args:
        cams: (K, H, W), of background and classes.
        posterior: (K, H, W).

    Source: ours.
    """
    boxes, points = [], []
    maps = cams.cpu().numpy()
    for place, region in regions(posterior.argmax(0).cpu().numpy()):
        rows, columns = np.nonzero(region)
        boxes.append([columns.min(), rows.min(), columns.max(), rows.max()])
        peak = maps[place][rows, columns].argmax()
        points.append([[columns[peak], rows[peak]]])
    return RegionPrompts(np.array(boxes, np.float64).reshape(-1, 4), np.array(points, np.float64).reshape(-1, 1, 2))


class Vote(NamedTuple):
    """The vote at each pixel: that of the proposal with the greatest margin."""

    means: Tensor  # (K, H, W), of the proposal's pixels; 0 outside of proposals
    margin: Tensor  # (H, W), difference of the two highest means; -1 outside of proposals


def soft_vote(posterior: Tensor, proposals: Tensor) -> Vote:
    """The mean posterior of each proposal, at its pixels; a proposal whose vote is background does not count.

    Args:
        posterior: (K, H, W), sums to 1, with background as the first class.
        proposals: bool (P, H, W); they may overlap.
    """
    flat = posterior.flatten(1)
    votes, margin = [posterior.new_zeros(len(posterior))], posterior.new_full(posterior.shape[1:], -1)
    winner = torch.zeros_like(margin, dtype=torch.long)
    for proposal in proposals:
        own = flat @ proposal.flatten().to(flat) / proposal.sum().clamp_min(1)  # (K,)
        if own.argmax() == 0:
            continue
        highest = own.topk(2).values if len(own) > 1 else own.new_tensor([1, 0])
        wins = proposal & (margin < highest[0] - highest[1])
        margin = torch.where(wins, highest[0] - highest[1], margin)
        winner = torch.where(wins, len(votes), winner)
        votes.append(own)
    return Vote(torch.stack(votes, 1)[:, winner], margin)


def named(
    posterior: Tensor,
    proposals: Tensor,
    *,
    margin: float = MARGIN,
    covered: float = COVERED,
    weight: float = WEIGHT,
) -> Tensor:
    """The posterior after the vote of proposals.

    At the pixels of a proposal with the mean posterior v, the posterior q becomes v^w q^(1 − w), normalised: a proposal
    that is not one object does not erase what the CRF is sure of. It abstains if the vote is not sure, or is
    background: most of the objects whose vote is background are animals that the CAMs found in part. If the proposals
    of a class cover most of a region of this class, the rest of the region is not of the class; a proposal covers its
    pixels for the class of its vote, also where a sure pixel keeps another one.

    Args:
        posterior: (K, H, W), sums to 1, with background as the first class.
        proposals: bool (P, H, W); they may overlap: the greater margin wins.
        margin: a proposal abstains if its two highest means differ by less.
        covered: the share of a region from which on proposals decide about its rest; above 1: never.
        weight: w.

    Source: ours.
    """
    vote = soft_vote(posterior, proposals)
    accepted = vote.margin >= margin
    weighed = posterior.clamp_min(_LEAST) ** (1 - weight) * vote.means.clamp_min(_LEAST) ** weight
    found = torch.where(accepted, weighed / weighed.sum(0), posterior)
    winners = torch.where(accepted, vote.means.argmax(0), -1)
    for place, mask in regions(posterior.argmax(0).cpu().numpy()):
        region = torch.from_numpy(mask).to(posterior.device)
        if (region & (winners == place)).sum() >= covered * region.sum():
            found[place, region & ~accepted] = 0
    return found / found.sum(0).clamp_min(torch.finfo(found.dtype).tiny)
