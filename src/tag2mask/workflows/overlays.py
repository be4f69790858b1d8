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
    masks, result, limit = final_masks(run, images), StageResult(OVERLAYS), config.data.pixel_limit

    def write(item: ImageItem) -> tuple[str, str | None]:
        target = run / f"{OVERLAYS}/{item.id}.jpg"
        target.unlink(missing_ok=True)  # of an earlier mask
        try:
            mask = masks / f"{item.id}.png"
            if images.corrections.is_rejected(item.id) or not mask.is_file():
                return item.id, None
            pixels = read_image(item.path, pixel_limit=limit, intensity=config.data.intensity)
            labels = read_mask(mask, size=pixels.shape[:2], classes=len(images.classes), pixel_limit=limit)
            write_overlay(target, pixels, labels)
        except Tag2maskError as error:
            return item.id, str(error)
        return item.id, ""

    with progress_bar(console, OVERLAYS, len(images)) as advance:
        threads = max(1, reading_workers(config))
        for number, (image_id, reason) in enumerate(map_ahead(write, images.items, threads=threads), 1):
            if reason:
                result.failed[image_id] = reason
            result.done += reason == ""
            advance(number)
    return result
