"""The inputs of refinement: an image at working size, and its CAMs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tag2mask.cams.kinds import WORDS, cams_command
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.provenance import cam_origin, is_mask_stale, is_of_image
from tag2mask.data.cam_files import CamFile, read_cam, read_record
from tag2mask.data.images import read_image, reduced
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.refine.masks import ClassMaps
from tag2mask.runs.batches import readable, sized_batches
from tag2mask.runs.config import Config
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.base import Schedule


@dataclass(frozen=True)
class RefineInput:
    """An image and its CAMs.

    Attributes:
        image: uint8 (H', W', 3), RGB, at most `refine.long_side` long.
        cams: on their own grid, of background and the image's tags alone.
        size: (H, W) of the image.
        origin: CAM file and tags, as masks record them.
    """

    item: ImageItem
    image: Tensor
    cams: ClassMaps
    size: tuple[int, int]
    origin: str


def cam_folder(config: Config, run: RunFolder) -> Path:
    """The folder of the CAMs to refine; a `UsageError` if it does not exist."""
    folder = run / f"cams/{config.refine.cams}"
    if not folder.is_dir():
        kinds = "" if config.refine.cams == WORDS else " with --cams.kinds that include it"
        raise UsageError(f"{folder} does not exist; run `{cams_command(config.refine.cams, run.path)}`{kinds} first")
    return folder


def require_cams(config: Config, run: RunFolder, schedule: Schedule) -> None:
    """Check that the CAMs to refine exist or will be made; a `UsageError` if not."""
    kept = "cams" not in schedule.restarted and (run / "cams" / config.refine.cams).is_dir()
    if "cams" not in schedule.stages:
        cam_folder(config, run)
    elif config.refine.cams not in config.cams.kinds and not kept:
        raise UsageError(f"refine.cams {config.refine.cams} is none of cams.kinds, {', '.join(config.cams.kinds)}")


Thresholds = Mapping[int, float]
"""The threshold of a class's CAM against background, by class id."""


def stale(items: Images, cams: Path, targets: Path, thresholds: Thresholds | None = None) -> Images:
    """The images whose file ID.png in ``targets`` is missing, damaged, or made from other CAMs, tags or thresholds."""
    return items.filter(partial(is_stale, cams, targets, thresholds or {}))


def is_stale(cams: Path, targets: Path, thresholds: Thresholds, item: ImageItem) -> bool:
    """As `stale`, for one image."""
    source = cams / f"{item.id}.npz"
    return is_mask_stale(targets / f"{item.id}.png", source, _origin(source, item, thresholds))


def _origin(cam: Path, item: ImageItem, thresholds: Thresholds) -> str | None:
    """The origin of a mask: CAM file, tags and their thresholds; None if the file cannot be read."""
    origin = cam_origin(cam)
    tags = (f"{tag}>{thresholds[tag]:.2f}" if tag in thresholds else f"{tag}" for tag in item.tags)
    return None if origin is None else f"{origin} {','.join(tags)}"


def current_items(items: Images, cams: Path, result: StageResult) -> Images:
    """The images without those whose CAMs lack a tag, or are of another image; these have failed.

    CAMs may have more classes than the tags: tags bound every mask.
    """
    others = set()
    for item in items:
        path = cams / f"{item.id}.npz"
        found = read_record(path)
        if found is None:
            continue  # the reader of a missing or damaged file reports it
        if not {*item.tags} <= {*found.ids}:
            changed = "it has tags that its CAMs were not made with"
        elif not is_of_image(found.image, item.path, path):
            changed = "its image is not the one that its CAMs were made from"
        else:
            continue
        others.add(item.id)
        result.failed[item.id] = f"{item.id}: {changed}; run `{cams_command(cams.name, cams.parents[1])}` first"
    return items.filter(lambda item: item.id not in others) if others else items


def shard_of(items: Images, config: Config, result: StageResult, *, damaged: Mapping[str, str] | None = None) -> Images:
    """The images of this command: all, or those whose CAMs the same shard made, without ``damaged`` ones (by ID)."""
    mine = items if config.shard is None else sized_batches(items, config, result).all_items()
    return mine.filter(lambda item: item.id not in damaged) if damaged else mine


def threads_of_images(config: Config, device: torch.device) -> int:
    """How many images are refined side by side: on a CPU, one per core, at most `refine.batch_size`.

    One at a time if images keep their size: each may then take many gigabytes.
    """
    alone = device.type != "cpu" or config.refine.long_side is None
    return 1 if alone else min(torch.get_num_threads(), config.refine.batch_size)


def read_refine_inputs(
    items: Sequence[ImageItem],
    cams: Path,
    config: Config,
    device: torch.device,
    result: StageResult,
    thresholds: Thresholds | None = None,
) -> Iterator[RefineInput]:
    """The inputs, prefetched; unreadable images have failed."""
    step = config.refine.batch_size
    batches = (items[start : start + step] for start in range(0, len(items), step))

    def read(item: ImageItem) -> RefineInput:
        origin = _origin(cams / f"{item.id}.npz", item, thresholds or {}) or ""
        cam = read_cam(cams / f"{item.id}.npz")
        image = read_image(item.path, pixel_limit=config.data.pixel_limit, intensity=config.data.intensity)
        if image.shape[:2] != cam.size:
            raise Tag2maskError(
                f"{cams / item.id}.npz is for {cam.size[1]} × {cam.size[0]} pixels, the image has "
                f"{image.shape[1]} × {image.shape[0]}; delete it and do its stage again"
            )
        maps, pixels = tagged_maps(cam, item), torch.from_numpy(reduced(image, config.refine.long_side))
        if thresholds:
            size = cam.size if config.refine.method == "argmax" else (pixels.shape[0], pixels.shape[1])
            maps = maps.resized(size).with_thresholds(thresholds, config.refine.background_threshold)
        return RefineInput(item, pixels, maps, cam.size, origin)

    for good in readable(batches, read, config, result):
        yield from (_on(device, found) for _, found in good)


def tagged_maps(cam: CamFile, item: ImageItem) -> ClassMaps:
    """The CAMs of background and the image's tags."""
    kept = [slot for slot, class_id in enumerate(cam.ids.tolist()) if class_id in (0, *item.tags)]
    return ClassMaps(torch.from_numpy(cam.ids[kept]).byte(), torch.from_numpy(cam.cams[kept]).float())


def _on(device: torch.device, found: RefineInput) -> RefineInput:
    cams = ClassMaps(found.cams.ids.to(device), found.cams.maps.to(device))
    return replace(found, image=found.image.to(device), cams=cams)
