"""What there is to judge a mask by: how far the CAMs and the segmentation network agree with it, class by class."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from tag2mask.confidence.overlap import class_shares, expected_iou
from tag2mask.errors import Tag2maskError
from tag2mask.refine.masks import ClassMaps

_COUNTED_PIXELS = 1 << 22
"""The parts of a larger mask are counted on every second, third, … row and column; ours."""

FIELDS = (
    "share",
    "pieces",
    "cam_expected",
    "cam_overlap",
    "network_expected",
    "network_overlap",
    "network_free",
    "cam_share",
    "network_share",
    "cells",
)
"""What is known of the mask of a class:

- `share`: of the pixels of the whole mask, in [0, 1].
- `pieces`: how many parts it falls into.
- `cam_expected`: its expected IoU under the CAMs, each pixel's brought to the sum 1.
- `cam_overlap`: its IoU with the class of the highest CAM, which says how much refinement changed.
- `network_expected`, `network_overlap`: the same for the probabilities of the segmentation network, which may answer
  with background and the photograph's tags alone.
- `network_free`: its expected IoU where the network may answer with any class.
- `cam_share`, `network_share`: the share of the pixels that CAMs and network expect to be of the class.
- `cells`: the area of its mask in cells of the CAMs.

Where a photograph has no tag, background is all that CAMs and tags leave, so `network_free` alone says something. New
fields come last: an older file lacks them.
"""

NETWORK_FIELDS = tuple(name for name in FIELDS if name.startswith("network_"))


@dataclass(frozen=True)
class Evidence:
    """What is known of the mask of a photograph.

    Attributes:
        ids: int32 (K,), background and the tags, ascending.
        values: float32 (K, len(FIELDS)); NaN for what is not known.
        stray: the class without a tag that the network gives the most of the photograph; 0 for none.
        stray_share: how much that is, in [0, 1].
    """

    ids: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    stray: int = 0
    stray_share: float = 0.0

    def of(self, field: str) -> npt.NDArray[np.float32]:
        """One field of all classes, (K,)."""
        return self.values[:, FIELDS.index(field)]


def gather(
    labels: Tensor,
    ids: Tensor,
    cams: ClassMaps | None = None,
    logits: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> Evidence:
    """Gather what the CAMs and the network say of a mask.

    Args:
        labels: uint8 (H, W), the mask, 255 = ignored.
        ids: uint8 (K,), background and the photograph's tags, ascending.
        cams: not negative, of background and some of the tags, on a grid of their own; None without CAMs.
        logits: float (C + 1, h, w), the network's, background first; None without a network.
        size: (h, w) at which they are compared, at most (H, W); that of the mask if not given.

    Returns:
        the evidence; a class without a CAM has CAM 0.

    Raises:
        Tag2maskError: the network gives something else than finite numbers.
    """
    values = torch.full((len(ids), len(FIELDS)), torch.nan, dtype=torch.float64)

    def put(field: str, found: Tensor) -> None:
        values[:, FIELDS.index(field)] = found

    put("share", torch.stack([(labels == own).double().mean() for own in ids]))
    put("pieces", _pieces(labels, ids))
    if cams is not None:
        put("cells", values[:, FIELDS.index("share")] * cams.maps.shape[1:].numel())
    own = class_shares(labels, ids, size or (int(labels.shape[0]), int(labels.shape[1])))  # (K, h, w)
    tagged = bool((ids != 0).any())
    if cams is not None and tagged:
        maps = _placed(cams.resized((int(own.shape[1]), int(own.shape[2]))), ids)
        likely = maps / maps.sum(0).clamp_min(torch.finfo(maps.dtype).tiny)
        put("cam_expected", expected_iou(own, likely))
        put("cam_overlap", expected_iou(own, _highest(maps)))
        put("cam_share", likely.double().mean((1, 2)))
    if logits is None:
        return Evidence(ids.int().numpy(), values.float().numpy())
    if not logits.isfinite().all():
        raise Tag2maskError("the segmentation network gives infinite numbers, or none; train it anew")
    if tagged:
        likely = logits[ids.long()].softmax(0)
        put("network_expected", expected_iou(own, likely))
        put("network_overlap", expected_iou(own, _highest(likely)))
        put("network_share", likely.double().mean((1, 2)))
    free = logits.softmax(0)
    put("network_free", expected_iou(own, free[ids.long()]))
    shares = free.mean((1, 2))
    shares[ids.long()] = 0
    stray = int(shares.argmax())
    return Evidence(ids.int().numpy(), values.float().numpy(), stray, float(shares[stray]))


def _pieces(labels: Tensor, ids: Tensor) -> Tensor:
    """How many parts the mask of each class falls into, (K,)."""
    step = 1
    while labels.numel() > step**2 * _COUNTED_PIXELS:
        step += 1
    seen = labels[::step, ::step].numpy()
    return torch.tensor([float(ndimage.label(seen == own)[1]) for own in ids.tolist()])


def _highest(maps: Tensor) -> Tensor:
    """Which of maps, (K, h, w), is the highest in a cell: 1 there, 0 in the others; a tie goes to the first."""
    places = torch.arange(len(maps), device=maps.device)
    return (maps.argmax(0) == places[:, None, None]).float()


def _placed(cams: ClassMaps, ids: Tensor) -> Tensor:
    """The maps of these classes, (K, h, w), 0 for a class that has none."""
    maps = cams.maps.new_zeros(len(ids), *cams.maps.shape[1:])
    for class_id, own in zip(cams.ids.tolist(), cams.maps, strict=True):
        maps[ids == class_id] = own
    return maps
