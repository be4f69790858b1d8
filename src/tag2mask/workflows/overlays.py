"""Overlays of a run: each final mask over its image, for people who want to look at them."""

from pathlib import Path

import numpy as np

from tag2mask.core.errors import Tag2maskError
from tag2mask.core.prefetch import map_ahead
from tag2mask.data.images import read_image, read_mask, write_jpeg
from tag2mask.data.manifest import ImageItem
from tag2mask.report.pictures import overlay
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import final_masks
from tag2mask.runs.dataset import reading_workers, run_images
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import RunFolder

OVERLAYS = "overlays"
"""The folder of the overlays in a run."""


def write_overlay(path: Path, image: np.ndarray, labels: np.ndarray) -> None:
    """Write a mask, uint8 (H, W), over its image, uint8 (H, W, 3), as JPEG."""
    write_jpeg(path, overlay(image, labels), quality=88)


def write_overlays(config: Config, run: RunFolder, console: Console) -> StageResult:
    """Write RUN/overlays/ID.jpg for every image with a final mask, anew each time: masks are corrected by hand."""
    images = run_images(config, run)
    masks, result = final_masks(run, images), StageResult(OVERLAYS)

    def write(item: ImageItem) -> tuple[str, str]:
        try:
            if (mask := masks / f"{item.id}.png").is_file():
                pixels = read_image(item.path, pixel_limit=config.data.pixel_limit, intensity=config.data.intensity)
                labels = read_mask(mask, pixel_limit=config.data.pixel_limit)
                write_overlay(run / f"{OVERLAYS}/{item.id}.jpg", pixels, labels)
        except Tag2maskError as error:
            return item.id, str(error)
        return item.id, ""

    with progress_bar(console, OVERLAYS, len(images)) as advance:
        for image_id, reason in map_ahead(write, images.items, threads=max(1, reading_workers(config))):
            if reason:
                result.failed[image_id] = reason
            else:
                result.done += 1
            advance(result.done)
    return result
