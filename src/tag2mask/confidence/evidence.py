"""What there is to judge a mask by: how far the CAMs and the segmentation network agree with it, class by class."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from tag2mask.confidence.overlap import expected_iou, overlap
from tag2mask.refine.labels import ClassMaps

FIELDS = (
    "share",
    "pieces",
    "cam_expected",
    "cam_overlap",
    "network_expected",
    "network_overlap",
    "network_free",
)
"""What is known of the mask of a class:

- `share`: of the pixels, in [0, 1].
- `pieces`: how many parts it falls into.
- `cam_expected`: its expected IoU under the CAMs, each pixel's brought to the sum 1.
- `cam_overlap`: its IoU with the class of the highest CAM, which says how much refinement changed.
- `network_expected`, `network_overlap`: the same for the probabilities of the segmentation network, which may answer
  with background and the photograph's tags alone.
- `network_free`: its expected IoU where the network may answer with any class.
"""

CAM_FIELDS = tuple(name for name in FIELDS if name.startswith("cam_"))
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


def gather(labels: Tensor, ids: Tensor, cams: ClassMaps | None = None, logits: Tensor | None = None) -> Evidence:
    """Gather what the CAMs and the network say of a mask.

    Args:
        labels: uint8 (h, w), the mask, 255 = ignored; may be reduced.
        ids: uint8 (K,), background and the photograph's tags, ascending.
        cams: not negative, of background and some of the tags, on a grid of their own; None without CAMs.
        logits: float (C + 1, h, w), the network's, background first; None without a network.

    Returns:
        the evidence; a class without a CAM has CAM 0.
    """
    values = torch.full((len(ids), len(FIELDS)), torch.nan, dtype=torch.float64)

    def put(field: str, found: Tensor) -> None:
        values[:, FIELDS.index(field)] = found

    own = labels == ids[:, None, None]  # (K, h, w)
    put("share", own.double().mean((1, 2)))
    put("pieces", torch.tensor([float(ndimage.label(each.numpy())[1]) for each in own]))
    if cams is not None:
        maps = _placed(cams.resized((int(labels.shape[0]), int(labels.shape[1]))), ids)
        put("cam_expected", expected_iou(labels, ids, maps / maps.sum(0).clamp_min(torch.finfo(maps.dtype).tiny)))
        put("cam_overlap", overlap(labels, ids[maps.argmax(0)], ids))
    if logits is None:
        return Evidence(ids.int().numpy(), values.float().numpy())
    tagged, free = logits[ids.long()].softmax(0), logits.softmax(0)
    put("network_expected", expected_iou(labels, ids, tagged))
    put("network_overlap", overlap(labels, ids[tagged.argmax(0)], ids))
    put("network_free", expected_iou(labels, ids, free[ids.long()]))
    shares = free.mean((1, 2))
    shares[ids.long()] = 0
    stray = int(shares.argmax())
    return Evidence(ids.int().numpy(), values.float().numpy(), stray, float(shares[stray]))


def _placed(cams: ClassMaps, ids: Tensor) -> Tensor:
    """The maps of these classes, (K, h, w), 0 for a class that has none."""
    maps = cams.maps.new_zeros(len(ids), *cams.maps.shape[1:])
    for class_id, own in zip(cams.ids.tolist(), cams.maps, strict=True):
        maps[ids == class_id] = own
    return maps
