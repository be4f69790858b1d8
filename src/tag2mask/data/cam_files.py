"""CAM files: class activation maps of one image on a grid of any size.

An ``.npz`` with ``ids`` int32 (K,), ``cams`` float16 (K, h, w) in [0, 1], ``size`` int32 (2,) = (H, W) of the image,
and for POT ``allocation`` uint8 (h, w) with ``clusters`` int32 (). ``image`` int64 (2,) and ``base`` (text) record the
image and the base CAM that it was made from.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from tag2mask.core.errors import Tag2maskError
from tag2mask.core.files import DAMAGED, open_file, read_npz, write_bytes
from tag2mask.core.profile import timed

LONGEST_SIDE = 65_535
"""The largest side of an image in pixels."""

_NAMES = ("ids", "cams", "size", "allocation", "clusters", "image", "base")

PADDING = 255
"""The value of `CamFile.allocation` outside the image."""


class CamFileError(Tag2maskError):
    """A CAM file that is missing, damaged or invalid; the message names it."""


@dataclass(frozen=True)
class CamFile:
    """Class activation maps of one image.

    ``allocation``: uint8 (h, w), the prototype to which the transport plan assigns each cell: slot · clusters + k,
    where ``slot`` indexes ``ids`` and k < clusters; 255 for none. None for kinds without a plan.
    """

    ids: np.ndarray  # int32 (K,), class ids in ascending order; 0 = background, if computed
    cams: np.ndarray  # float16 (K, h, w) in [0, 1]
    size: tuple[int, int]  # (H, W) of the image in pixels, after EXIF orientation
    allocation: np.ndarray | None = None
    clusters: int | None = None  # prototypes per class, K of the method; None without ``allocation``
    image: np.ndarray | None = None  # int64 (2,), the image it was made from, as `image_origin`; None if unknown
    base: str = ""  # the base CAM, as `cam_origin`; empty without one

    @property
    def has_background(self) -> bool:
        """Whether one of the maps is the background."""
        return bool(self.ids.size) and int(self.ids[0]) == 0


@timed("writing")
def write_cam(path: Path, cam: CamFile) -> None:
    """Write ``cam`` to ``path`` (an ``.npz``), atomically.

    Raises:
        CamFileError: ``cam`` is invalid, for example contains NaN.
    """
    arrays: dict[str, np.ndarray] = {
        "ids": cam.ids.astype(np.int32),
        "cams": cam.cams.astype(np.float16),
        "size": np.asarray(cam.size, dtype=np.int32),
    }
    if cam.allocation is not None:
        arrays["allocation"] = cam.allocation.astype(np.uint8)
        arrays["clusters"] = np.asarray(cam.clusters, dtype=np.int32)
    if cam.image is not None:
        arrays["image"] = cam.image.astype(np.int64)
    if cam.base:
        arrays["base"] = np.array(cam.base)
    if problem := _problem(arrays):
        raise CamFileError(f"{path} was not written: {problem}")
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())


def read_cam(path: Path) -> CamFile:
    """Read and validate a CAM file, without pickle.

    Raises:
        CamFileError: the file is missing, damaged or invalid.
    """
    if not path.is_file():
        raise CamFileError(f"{path} does not exist; the stage that it belongs to makes it where the image can be read")
    try:
        with path.open("rb") as file:
            arrays = read_npz(file, _NAMES)
    except DAMAGED as error:
        raise CamFileError(f"{path} is damaged; delete it and do its stage again") from error
    if problem := _problem(arrays):
        raise CamFileError(f"{path} is not a CAM file: {problem}; delete it and do its stage again")
    height, width = (int(value) for value in arrays["size"])
    clusters = arrays.get("clusters")
    return CamFile(
        arrays["ids"],
        arrays["cams"],
        (height, width),
        arrays.get("allocation"),
        None if clusters is None else int(clusters),
        arrays.get("image"),
        str(arrays.get("base", "")),
    )


class CamRecord(NamedTuple):
    """`ids`, `image` and `base` of a `CamFile`."""

    ids: tuple[int, ...]
    image: np.ndarray | None
    base: str


def read_record(path: Path) -> CamRecord | None:
    """The record of a CAM file, without reading its maps; None if it is missing or damaged."""
    try:
        with open_file(path) as file:
            found = read_npz(file, ("ids", "image", "base"))
        return CamRecord(tuple(found["ids"].tolist()), found.get("image"), str(found.get("base", "")))
    except DAMAGED:
        return None


def read_ids(path: Path) -> tuple[int, ...] | None:
    """The class ids of a CAM file, without reading its maps; None if it is missing or damaged."""
    found = read_record(path)
    return None if found is None else found.ids


def full_resolution(cam: CamFile) -> np.ndarray:
    """The maps at the image's size: float32 (K, H, W) in [0, 1], bilinear with ``align_corners=False``."""
    if not len(cam.ids):
        return np.zeros((0, *cam.size), dtype=np.float32)
    maps = torch.from_numpy(cam.cams.astype(np.float32))[None]
    return F.interpolate(maps, size=cam.size, mode="bilinear", align_corners=False)[0].numpy()


def _problem(arrays: dict[str, np.ndarray]) -> str | None:
    """The first violated rule of the format, or None."""
    missing = [name for name in ("ids", "cams", "size") if name not in arrays]
    if missing:
        return f"it lacks {', '.join(missing)}"
    ids, cams, size = arrays["ids"], arrays["cams"], arrays["size"]
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or (ids[1:] <= ids[:-1]).any():
        return f"`ids` should be one row of ascending class ids, it is {ids.dtype} {ids.shape}"
    if ((ids < 0) | (ids > 254)).any():
        return f"`ids` should lie between 0 and 254, they are {ids.tolist()[:5]}"
    if cams.ndim != 3 or cams.dtype.kind != "f" or len(cams) != len(ids) or 0 in cams.shape[1:]:
        return f"`cams` should be float (K, h, w) with K = {len(ids)}, it is {cams.dtype} {cams.shape}"
    if size.shape != (2,) or size.dtype.kind not in "iu" or (size < 1).any() or (size > LONGEST_SIDE).any():
        return f"`size` should be the two sides of the image, it is {size.tolist()}"
    if not np.isfinite(cams).all():
        remedy = "make them with precision fp32, or train the network again with a lower learning rate"
        return f"`cams` hold NaN or infinity; {remedy}"
    if (cams < 0).any() or (cams > 1).any():
        return "`cams` should lie in [0, 1]"
    allocation, clusters, image = (arrays.get(name) for name in ("allocation", "clusters", "image"))
    if allocation is not None and (allocation.shape != cams.shape[1:] or clusters is None):
        return f"`allocation` should be (h, w) = {cams.shape[1:]} and come with `clusters`, it is {allocation.shape}"
    if allocation is not None and allocation.dtype != np.uint8:
        return f"`allocation` should be uint8, it is {allocation.dtype}"
    if image is not None and (image.shape != (2,) or image.dtype != np.int64):
        return f"`image` should be int64 (2,), it is {image.dtype} {image.shape}"
    if clusters is not None and (clusters.shape or clusters.dtype.kind not in "iu" or not 0 < clusters < PADDING):
        return f"`clusters` should be one number from 1 to {PADDING - 1}"
    return None
