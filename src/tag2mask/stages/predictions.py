"""The stage `predictions`: masks by the segmentation network, without tags, on the evaluated splits."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tag2mask.core.errors import UsageError
from tag2mask.core.provenance import crc_of, image_text, is_of_image_text, mask_origin
from tag2mask.data.classes import write_class_ids
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import read_image, write_mask
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.prediction.predictor import SEGMENT_NETWORK, Predictor
from tag2mask.runs.batches import readable
from tag2mask.runs.config import Config, plain
from tag2mask.runs.dataset import run_images
from tag2mask.runs.ground_truth import check_splits
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import WHOLE, RunFolder
from tag2mask.runs.throughput import timed_progress_bar
from tag2mask.stages.base import Schedule, Settings, Stage, StagePlan
from tag2mask.stages.refine_inputs import shard_of


class Predictions(Stage):
    """Masks by the segmentation network, without tags, on the evaluated splits."""

    name = "predictions"
    outputs = ("predictions",)
    reads = ("segment",)
    distribution = "shard"
    sections = ("predict",)
    section = "predict"
    enabled_by = "--segment.enabled true"

    def is_wanted(self, config: Config) -> bool:
        """If a segmentation network is trained."""
        return config.segment.enabled and config.shard is None

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of prediction."""
        return {"predict": plain(config.predict, affecting=True)}

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Check the splits to predict."""
        check_splits(config, run, images)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The missing predictions of all splits."""
        words = "{} images to predict"
        plans = [
            self._split_plan(config, run, split, words) for split in config.evaluate.split_names(config.data.split)
        ]
        lacking = sum(plan.lacking for plan in plans)
        size = None if any(plan.bytes is None for plan in plans) else sum(plan.bytes or 0 for plan in plans)
        time = None if any(plan.seconds is None for plan in plans) else sum(plan.seconds or 0.0 for plan in plans)
        return StagePlan(self.name, words.format(lacking), lacking, 0, size, time)

    def _split_plan(self, config: Config, run: RunFolder, split: str | None, words: str) -> StagePlan:
        name, path = f"predictions/{split or WHOLE}", run / SEGMENT_NETWORK
        is_to_do = partial(_missing, run / name, crc_of(path)) if path.is_file() else None
        return self.images_plan(run, run_images(config, run, split).items, [name], ".png", words, is_to_do)

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Write predictions/SPLIT/ID.png if it is missing, damaged, or made from another network or image."""
        path = run / SEGMENT_NETWORK
        if not path.is_file():
            raise UsageError(f"{path} does not exist; run `tag2mask segment {run.path}` first")
        images = run_images(config, run)
        network = load_segmentation_network(path, classes=images.classes)
        crc = crc_of(path)
        run.record_fingerprint(self, self.fingerprint(config, images))
        predictor = Predictor(network, config.device, config.predict, pixel_limit=config.data.pixel_limit)
        result = StageResult(self.name)
        for split in config.evaluate.split_names(config.data.split):
            folder = f"predictions/{split or WHOLE}"
            write_class_ids(run / folder, images.classes)
            mine = shard_of(run_images(config, run, split).items, config, result)
            todo = mine.filter(partial(_missing, run / folder, crc))
            result.skipped += len(mine) - len(todo)
            before, origins = result.done, dict[str, str]()
            with timed_progress_bar(run, "predictions", console, len(todo), f"predictions {split or WHOLE}") as advance:
                for batch in _batches(todo, config, predictor, result, origins):
                    found = predictor.predictions([image for _, image in batch])
                    for (item, _), prediction in zip(batch, found, strict=True):
                        made_from = f"{crc} {origins.pop(item.id)}"
                        write_mask(run / f"{folder}/{item.id}.png", prediction.labels, made_from=made_from)
                        result.done += 1
                    advance(result.done - before)
        return result


def _missing(folder: Path, crc: int, item: ImageItem) -> bool:
    """Whether the prediction of an image is missing, or made from another network or image."""
    file = folder / f"{item.id}.png"
    by, _, image = (mask_origin(file) or "").partition(" ")
    return by != str(crc) or not is_of_image_text(image, item.path, file)


def _batches(
    items: Images, config: Config, predictor: Predictor, result: StageResult, origins: dict[str, str]
) -> Iterator[list[tuple[ImageItem, np.ndarray]]]:
    """The readable images with their pixels in batches, prefetched; unreadable ones have failed.

    ``origins`` receives the record of each image, by ID, when it is read.
    """
    step = config.predict.batch_size
    batches = (items[start : start + step] for start in range(0, len(items), step))

    def read(item: ImageItem) -> np.ndarray:
        origins[item.id] = image_text(item.path)
        return read_image(item.path, pixel_limit=config.data.pixel_limit, intensity=predictor.intensity)

    return readable(batches, read, config, result)
