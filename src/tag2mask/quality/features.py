"""Features of a mask: its agreement with the CAMs and the segmentation network, class by class; and their file."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import DAMAGED, open_file, read_npz, write_bytes
from tag2mask.refine.masks import ClassMaps


def class_shares(labels: Tensor, ids: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of each class in each cell of a grid over a mask, which keeps thin parts of a reduced mask.

    Args:
        labels: uint8 (H, W), class ids; 255 belongs to no class.
        ids: integer (K,), the classes.
        size: (h, w) of the grid, at most (H, W).

    Returns:
        float32 (K, h, w) in [0, 1]; 0 or 1 if a cell is a pixel.
    """
    return torch.stack([F.adaptive_avg_pool2d((labels == own)[None].float(), size)[0] for own in ids])


def expected_iou(own: Tensor, probabilities: Tensor) -> Tensor:
    """The expected intersection over the expected union of each class's mask,

        Σ s p / Σ (s + p − s p),

    with s the mask's share of a cell and p the probability of the class there. It is the IoU if all s and p are 0 or 1.

    Args:
        own: float (K, h, w) in [0, 1], the mask; see `class_shares`.
        probabilities: float (K, h, w) in [0, 1]; 0 and 1 for another mask.

    Returns:
        float64 (K,) in [0, 1]; 0 for a class without pixels.

    Raises:
        UsageError: the shapes differ.
    Source: ours; the ratio of expectations that soft IoU losses take.
    """
    if own.ndim != 3 or own.shape != probabilities.shape:
        raise UsageError(
            f"a mask and probabilities should both be (K, h, w), received {tuple(own.shape)} and "
            f"{tuple(probabilities.shape)}"
        )
    s, p = own.double(), probabilities.double()
    inside = (s * p).sum((1, 2))
    whole = s.sum((1, 2)) + p.sum((1, 2)) - inside
    return torch.where(whole > 0, inside / whole.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


_COUNTED_PIXELS = 1 << 22
"""Connected components of a larger mask are counted on every second, third, … row and column; ours."""

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
"""The features of the mask of a class:

- `share`: its share of all pixels, in [0, 1].
- `pieces`: its number of connected components.
- `cam_expected`: its expected IoU under the CAMs, normalised to the sum 1 in each pixel.
- `cam_overlap`: its IoU with the argmax of the CAMs, a measure of the change by refinement.
- `network_expected`, `network_overlap`: the same for the probabilities of the segmentation network over background and
  the image's tags.
- `network_free`: its expected IoU under the network's probabilities over all classes.
- `cam_share`, `network_share`: the expected share of the class by the CAMs and by the network.
- `cells`: the area of the mask in cells of the CAMs.

An image without tags has only `network_free`, because it has no CAMs but background. New features are appended,
because older files lack them.
"""


_KINDS = {"ids": "i", "values": "f", "unexpected": "i", "unexpected_share": "f", "made_by": "U"}
"""The arrays of a feature file, and NumPy's letter for their kind."""

_MOST_CLASSES = 254
"""The largest class id; 255 means ignored."""


@dataclass(frozen=True)
class MaskFeatures:
    """The features of the mask of an image.

    Attributes:
        ids: int32 (K,), background and the tags, ascending.
        values: float32 (K, len(FIELDS)); NaN if unknown.
        unexpected_class: the untagged class with the largest share by the network; 0 for none.
        unexpected_share: that share, in [0, 1].
    """

    ids: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    unexpected_class: int = 0
    unexpected_share: float = 0.0

    def of(self, field: str) -> npt.NDArray[np.float32]:
        """One feature of all classes, (K,)."""
        return self.values[:, FIELDS.index(field)]


def mask_features(
    labels: Tensor,
    ids: Tensor,
    cams: ClassMaps | None = None,
    logits: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> MaskFeatures:
    """Compare a mask with the CAMs and the network.

    Args:
        labels: uint8 (H, W), the mask, 255 = ignored.
        ids: uint8 (K,), background and the image's tags, ascending.
        cams: non-negative CAMs of background and the tags on their own grid; a missing CAM counts as 0.
        logits: float (C + 1, h, w) of the network, background first; None without a network.
        size: (h, w) of the comparison, at most (H, W); default: that of the mask.

    Raises:
        Tag2maskError: the logits are not finite.
    """
    values = torch.full((len(ids), len(FIELDS)), torch.nan, dtype=torch.float64)

    def put(field: str, found: Tensor) -> None:
        values[:, FIELDS.index(field)] = found

    put("share", torch.stack([(labels == own).double().mean() for own in ids]))
    put("pieces", _components(labels, ids))
    if cams is not None:
        put("cells", values[:, FIELDS.index("share")] * cams.maps.shape[1:].numel())
    own = class_shares(labels, ids, size or (int(labels.shape[0]), int(labels.shape[1])))  # (K, h, w)
    tagged = bool((ids != 0).any())
    if cams is not None and tagged:
        maps = _maps_of(cams.resized((int(own.shape[1]), int(own.shape[2]))), ids)
        likely = maps / maps.sum(0).clamp_min(torch.finfo(maps.dtype).tiny)
        put("cam_expected", expected_iou(own, likely))
        put("cam_overlap", expected_iou(own, _argmax(maps)))
        put("cam_share", likely.double().mean((1, 2)))
    if logits is None:
        return MaskFeatures(ids.int().numpy(), values.float().numpy())
    if not logits.isfinite().all():
        raise Tag2maskError("the segmentation network gives numbers that are not finite; train it again")
    if tagged:
        likely = logits[ids.long()].softmax(0)
        put("network_expected", expected_iou(own, likely))
        put("network_overlap", expected_iou(own, _argmax(likely)))
        put("network_share", likely.double().mean((1, 2)))
    free = logits.softmax(0)
    put("network_free", expected_iou(own, free[ids.long()]))
    shares = free.mean((1, 2))
    shares[ids.long()] = 0
    unexpected = int(shares.argmax())
    return MaskFeatures(ids.int().numpy(), values.float().numpy(), unexpected, float(shares[unexpected]))


def write_features(path: Path, features: MaskFeatures, made_by: str) -> None:
    """Write features atomically as an ``.npz`` without pickles; ``made_by`` is the fingerprint of their inputs."""
    content = io.BytesIO()
    np.savez(
        content,
        ids=features.ids,
        values=features.values,
        unexpected=np.int32(features.unexpected_class),
        unexpected_share=np.float32(features.unexpected_share),
        made_by=np.str_(made_by),
    )
    write_bytes(path, content.getvalue())


def read_features(path: Path, made_by: str) -> MaskFeatures | None:
    """Read features; None if they are missing, damaged, or of inputs with another fingerprint."""
    stored = stored_features(path)
    return stored[0] if stored is not None and stored[1] == made_by else None


def stored_features(path: Path) -> tuple[MaskFeatures, str] | None:
    """The features of a file and the fingerprint of their inputs; None if it is missing or damaged."""
    try:
        with open_file(path) as file:
            arrays = read_npz(file, tuple(_KINDS))
    except DAMAGED:
        return None
    if any(name not in arrays or arrays[name].dtype.kind != kind for name, kind in _KINDS.items()):
        return None
    ids, values, unexpected, share = (arrays[name] for name in ("ids", "values", "unexpected", "unexpected_share"))
    if ids.ndim != 1 or not len(ids) or ids[0] != 0 or ids[-1] > _MOST_CLASSES or (ids[1:] <= ids[:-1]).any():
        return None
    if values.ndim != 2 or len(values) != len(ids) or not 0 < values.shape[1] <= len(FIELDS):
        return None
    if unexpected.shape or share.shape or arrays["made_by"].shape:
        return None
    if not 0 <= int(unexpected) <= _MOST_CLASSES or not 0 <= float(share) <= 1 or np.isinf(values).any():
        return None
    known = np.full((len(ids), len(FIELDS)), np.nan, dtype=np.float32)
    known[:, : values.shape[1]] = values
    return MaskFeatures(ids.astype(np.int32), known, int(unexpected), float(share)), str(arrays["made_by"])


def _components(labels: Tensor, ids: Tensor) -> Tensor:
    """Number of connected components of each class, (K,)."""
    step = 1
    while labels.numel() > step**2 * _COUNTED_PIXELS:
        step += 1
    seen = labels[::step, ::step].numpy()
    return torch.tensor([float(ndimage.label(seen == own)[1]) for own in ids.tolist()])


def _argmax(maps: Tensor) -> Tensor:
    """1 where a map is the highest, 0 elsewhere, (K, h, w); the first of equal ones."""
    places = torch.arange(len(maps), device=maps.device)
    return (maps.argmax(0) == places[:, None, None]).float()


def _maps_of(cams: ClassMaps, ids: Tensor) -> Tensor:
    """The maps of these classes, (K, h, w); 0 for a class without a map."""
    maps = cams.maps.new_zeros(len(ids), *cams.maps.shape[1:])
    for class_id, own in zip(cams.ids.tolist(), cams.maps, strict=True):
        maps[ids == class_id] = own
    return maps
