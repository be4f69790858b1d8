"""The stage `predictions`: what the segmentation network says of the splits that are measured, without their tags."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tag2mask.core.errors import UsageError
from tag2mask.core.files import is_newer
from tag2mask.core.provenance import crc_of, image_text, is_of_image_text, mask_origin
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import ImageError, read_image, write_mask
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.prediction.predictor import SEGMENT_NETWORK, Predictor
from tag2mask.runs.config import Config, plain
from tag2mask.runs.dataset import prefetch_batches, run_images
from tag2mask.runs.ground_truth import check_splits
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.refine_inputs import shard_of
from tag2mask.runs.run_folder import WHOLE, RunFolder
from tag2mask.runs.throughput import paced_bar
from tag2mask.stages.base import Ahead, Settings, Stage, StagePlan


class Predictions(Stage):
    """What the segmentation network says of the splits that are measured, without their tags."""

    name = "predictions"
    outputs = ("predictions",)
    reads = ("segment",)
    distribution = "shard"
    sections = ("predict",)
    section = "predict"
    wanted_by = "--segment.enabled true"

    def is_wanted(self, config: Config) -> bool:
        """Where a segmentation network is trained."""
        return config.segment.enabled and config.shard is None

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """Those of prediction."""
        return {"predict": plain(config.predict, affecting=True)}

    def check(self, config: Config, run: RunFolder, images: ImageSet, ahead: Ahead) -> None:
        """Look at the splits that are measured."""
        check_splits(config, run, images)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """Predictions that are missing, of all splits."""
        words = "{} images to predict"
        plans = [
            self._split_plan(config, run, split, words) for split in config.evaluate.split_names(config.data.split)
        ]
        lacking = sum(plan.lacking for plan in plans)
        sizes, seconds = [plan.bytes for plan in plans], [plan.seconds for plan in plans]
        size = None if None in sizes else sum(each or 0 for each in sizes)
        time = None if None in seconds else sum(each or 0.0 for each in seconds)
        return StagePlan(self.name, words.format(lacking), lacking, 0, size, time)

    def _split_plan(self, config: Config, run: RunFolder, split: str | None, words: str) -> StagePlan:
        """The plan of one split."""
        name, path = f"predictions/{split or WHOLE}", run / SEGMENT_NETWORK
        is_to_do = partial(_missing, run / name, path, crc_of(path)) if path.is_file() else None
        return self.images_plan(run, run_images(config, run, split).items, [name], ".png", words, is_to_do)

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Write predictions/SPLIT/ID.png where it is missing, damaged, or made from another network or image.

        Raises:
            UsageError: there is no segmentation network, or the folder holds predictions of other settings.
        """
        path = run / SEGMENT_NETWORK
        if not path.is_file():
            raise UsageError(f"{path} does not exist; run `tag2mask segment {run.path}` first")
        images = run_images(config, run)
        network = load_segmentation_network(path, classes=images.classes)
        crc = crc_of(path)
        run.claim(self, self.fingerprint(config, images))
        predictor = Predictor(network, config.device, config.predict, pixel_limit=config.data.pixel_limit)
        result = StageResult(self.name)
        for split in config.evaluate.split_names(config.data.split):
            folder = run / f"predictions/{split or WHOLE}"
            mine = shard_of(run_images(config, run, split).items, config, result)
            todo = mine.where(partial(_missing, folder, path, crc))
            result.skipped += len(mine) - len(todo)
            before, origins = result.done, dict[str, str]()
            with paced_bar(run, "predictions", console, len(todo), f"predictions {split or WHOLE}") as advance:
                for batch in _batches(todo, config, predictor, result, origins):
                    found = predictor.predictions([image for _, image in batch])
                    for (item, _), prediction in zip(batch, found, strict=True):
                        write_mask(
                            folder / f"{item.id}.png", prediction.labels, made_from=f"{crc} {origins.pop(item.id)}"
                        )
                        result.done += 1
                    advance(result.done - before)
        return result


def _missing(folder: Path, network: Path, crc: int, item: ImageItem) -> bool:
    """Whether there is no prediction of an image in the folder, or one by another network or of another image."""
    file = folder / f"{item.id}.png"
    recorded = mask_origin(file)
    if not recorded:
        return recorded is None or is_newer(network, file)
    by, _, image = recorded.partition(" ")
    return by != str(crc) or not is_of_image_text(image, item.path, file)


def _batches(
    items: Images, config: Config, predictor: Predictor, result: StageResult, origins: dict[str, str]
) -> Iterator[list[tuple[ImageItem, np.ndarray]]]:
    """The readable images with their pixels, some at a time, read ahead; what cannot be read has failed.

    ``origins`` takes the record of each image, as it is when it is read, by ID.
    """
    step = config.predict.batch_size
    batches = (items[start : start + step] for start in range(0, len(items), step))

    def read(item: ImageItem) -> np.ndarray | ImageError:
        origins[item.id] = image_text(item.path)
        try:
            return read_image(item.path, pixel_limit=config.data.pixel_limit, intensity=predictor.intensity)
        except ImageError as error:
            return error

    for pairs in prefetch_batches(batches, read, config):
        result.failed.update({item.id: str(answer) for item, answer in pairs if isinstance(answer, ImageError)})
        good = [(item, answer) for item, answer in pairs if isinstance(answer, np.ndarray)]
        if good:
            yield good
