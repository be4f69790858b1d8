"""What refinement reads of an image: its pixels at the size to work in, and its CAMs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.provenance import cam_origin, is_mask_stale, is_of_image
from tag2mask.data.cam_files import CamFile, read_cam, read_record
from tag2mask.data.images import read_image, reduced
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.refine.masks import ClassMaps
from tag2mask.runs.batches import sized_batches
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import prefetch_batches
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.base import Ahead


@dataclass(frozen=True)
class Refinable:
    """An image and its CAMs.

    Attributes:
        photo: which.
        image: uint8 (H', W', 3), RGB, reduced to `refine.long_side` if that asks for it; on the device of the work.
        cams: on their own grid, of background and the image's tags alone.
        size: (H, W) of the image.
        origin: CAM file and tags, for the masks that are made from them.
    """

    item: ImageItem
    image: Tensor
    cams: ClassMaps
    size: tuple[int, int]
    origin: str


def cam_folder(config: Config, run: RunFolder) -> Path:
    """Where the CAMs are that are refined.

    Raises:
        UsageError: there are none of the chosen kind.
    """
    folder = run / f"cams/{config.refine.cams}"
    if not folder.is_dir():
        raise UsageError(
            f"{folder} does not exist; run `tag2mask cams {run.path}` with --cams.kinds that include it first"
        )
    return folder


def require_cams(config: Config, run: RunFolder, ahead: Ahead) -> None:
    """See that there are CAMs to refine, or will be.

    Raises:
        UsageError: neither.
    """
    kept = "cams" not in ahead.again and (run / "cams" / config.refine.cams).is_dir()
    if "cams" not in ahead.stages:
        cam_folder(config, run)
    elif config.refine.cams not in config.cams.kinds and not kept:
        raise UsageError(f"refine.cams {config.refine.cams} is none of cams.kinds, {', '.join(config.cams.kinds)}")


def stale(items: Images, cams: Path, targets: Path) -> Images:
    """The images whose file ID.png in ``targets`` is missing, damaged, or made from other CAMs or tags."""
    return items.where(partial(is_stale, cams, targets))


def is_stale(cams: Path, targets: Path, item: ImageItem) -> bool:
    """The same of one image."""
    source = cams / f"{item.id}.npz"
    return is_mask_stale(targets / f"{item.id}.png", source, _origin(source, item))


def _origin(cam: Path, item: ImageItem) -> str | None:
    """What a mask is made from: a CAM file, bounded by tags; None if the file cannot be read."""
    origin = cam_origin(cam)
    return None if origin is None else f"{origin} {','.join(map(str, item.tags))}"


def current_items(items: Images, cams: Path, result: StageResult) -> Images:
    """The images without those whose CAMs lack a tag, or are of another image; they have failed.

    CAMs of more classes than the tags are no fault: tags bound every mask.
    """
    others = set()
    for item in items:
        path = cams / f"{item.id}.npz"
        found = read_record(path)
        if found is None:
            continue  # it is missing or damaged, and what reads it says so
        if not {*item.tags} <= {*found.ids}:
            changed = "it has tags that its CAMs were not made with"
        elif not is_of_image(found.image, item.path, path):
            changed = "its image is not the one that its CAMs were made from"
        else:
            continue
        others.add(item.id)
        result.failed[item.id] = f"{item.id}: {changed}; run `tag2mask cams` first"
    return items.where(lambda item: item.id not in others) if others else items


def shard_of(items: Images, config: Config, result: StageResult, *, damaged: Mapping[str, str] | None = None) -> Images:
    """The images of this command: all, or those whose CAMs the same shard made.

    Args:
        photos: of the whole set.
        config: the shard.
        result: takes what failed.
        damaged: images that are left out, by ID; which shard the others belong to does not depend on them.
    """
    mine = items if config.shard is None else sized_batches(items, config, result).all_items()
    return mine.where(lambda item: item.id not in damaged) if damaged else mine


def read_refinables(
    items: Sequence[ImageItem], cams: Path, config: Config, device: torch.device, result: StageResult
) -> Iterator[list[Refinable]]:
    """Batch after batch, read ahead; what cannot be read has failed."""
    step = config.refine.batch_size
    batches = (items[start : start + step] for start in range(0, len(items), step))

    def read(item: ImageItem) -> Refinable | str:
        origin = _origin(cams / f"{item.id}.npz", item) or ""
        try:
            cam = read_cam(cams / f"{item.id}.npz")
            image = read_image(item.path, pixel_limit=config.data.pixel_limit, intensity=config.data.intensity)
        except Tag2maskError as error:
            return str(error)
        if image.shape[:2] != cam.size:
            return (
                f"{cams / item.id}.npz is for {cam.size[1]} × {cam.size[0]} pixels, the image has "
                f"{image.shape[1]} × {image.shape[0]}; delete it and do its stage again"
            )
        return Refinable(
            item,
            torch.from_numpy(reduced(image, config.refine.long_side)),
            tagged_maps(cam, item),
            cam.size,
            origin,
        )

    for pairs in prefetch_batches(batches, read, config):
        result.failed.update({item.id: answer for item, answer in pairs if isinstance(answer, str)})
        good = [_on(device, answer) for _, answer in pairs if isinstance(answer, Refinable)]
        if good:
            yield good


def tagged_maps(cam: CamFile, item: ImageItem) -> ClassMaps:
    """The CAMs of the classes that the image may hold: tags always bound the labels."""
    kept = [slot for slot, class_id in enumerate(cam.ids.tolist()) if class_id in (0, *item.tags)]
    return ClassMaps(torch.from_numpy(cam.ids[kept]).byte(), torch.from_numpy(cam.cams[kept]).float())


def _on(device: torch.device, found: Refinable) -> Refinable:
    cams = ClassMaps(found.cams.ids.to(device), found.cams.maps.to(device))
    return replace(found, image=found.image.to(device), cams=cams)
