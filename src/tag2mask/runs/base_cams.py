"""Base CAMs from outside, as `train` and `cams` read them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.errors import UsageError, first_five
from tag2mask.core.provenance import is_of_image
from tag2mask.data.cam_files import CamFileError, read_cam
from tag2mask.data.dataset import ImageSet
from tag2mask.data.manifest import ImageItem
from tag2mask.pot.external import NO_MAP
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder


def seed_path(run: RunFolder, item: ImageItem) -> Path:
    """The file of the base CAM of an image."""
    return run / f"seeds/{item.id}.npz"


def read_external_maps(
    run: RunFolder, items: Sequence[ImageItem], classes: int, grid: tuple[int, int]
) -> tuple[Tensor, dict[str, str]]:
    """Base CAMs of a batch on a common grid, (N, C, h, w) in [0, 1] or `NO_MAP`; and the unusable files, by ID."""
    maps, damaged = torch.full((len(items), classes, *grid), NO_MAP), {}
    for own, item in zip(maps, items, strict=True):
        path = seed_path(run, item)
        if not path.is_file():
            continue
        try:
            cam = read_cam(path)
            if not is_of_image(cam.image, item.path, path):
                raise CamFileError(f"{path} was made from another image; run `tag2mask seeds` first")
        except CamFileError as error:
            damaged[item.id] = str(error)
            continue
        if not len(cam.ids):
            continue
        resized = F.interpolate(torch.from_numpy(cam.cams).float()[None], grid, mode="bilinear", antialias=True)[0]
        for class_id, values in zip(cam.ids.tolist(), resized, strict=True):
            if class_id in item.tags:
                own[class_id - 1] = values.clamp(0, 1)
    return maps, damaged


def require_seeds(run: RunFolder, images: ImageSet, result: StageResult) -> None:
    """Add a note about the images without a base CAM, for which the classifier's CAM is used.

    Raises:
        UsageError: no image has one.
    """
    missing = [item.id for item in images.items if not seed_path(run, item).is_file()]
    if len(missing) == len(images.items):
        raise UsageError(
            f"{run / 'seeds'} holds no base CAM of these images, and `external` asks for them; run "
            f"`tag2mask seeds --out {run.path}` first"
        )
    if missing:
        result.notes.append(f"{len(missing)} images have no base CAM from outside: {first_five(missing)}")
