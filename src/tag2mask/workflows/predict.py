"""`predict`: masks of any images by a trained segmentation network, with class shares and confidences."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import files_below, remove_partial, write_json
from tag2mask.core.provenance import PREDICTION_KEY, image_text, is_of_image_text, mask_origin, mask_text
from tag2mask.data.classes import CLASS_IDS, write_class_ids
from tag2mask.data.dataset import ImageSet, find_images
from tag2mask.data.images import read_image, write_mask
from tag2mask.data.manifest import ImageItem
from tag2mask.networks.checkpoint import NetworkFileError
from tag2mask.prediction.predictor import Prediction, Predictor, find_checkpoint, load
from tag2mask.runs.config import Config, plain
from tag2mask.runs.dataset import prefetch_images, reading_workers
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.base import Settings, Stage, StagePlan
from tag2mask.workflows.overlays import write_overlay

_BATCH_PIXELS = 1 << 23
"""Most pixels of the images that go through the network together."""

_BLOCK = 16
"""Consecutive images of one shard: whole batches of the usual sizes."""

RECORD = "predictions.json"
"""The record of all masks, in their folder."""


class Predict(Stage):
    """Masks of any images, in a folder of their own.

    ::

        OUT/ID.png              the mask, with its shares and confidences as text
        OUT/overlays/ID.jpg     the mask over the image, on request
        OUT/classes.json        class ids
        OUT/predictions.json    shares and confidences of all masks; not written by a command with a shard
        OUT/predict/stage.json  network and settings

    Args:
        place: a folder with images, an image, or a pattern.
        model: the checkpoint, the folder of a run that trained one, or an `.onnx` file; see `load`.
        overlays: also write the masks over the images.
        overwrite: make everything again.

    Raises:
        UsageError: there is no such network.
    """

    name = "predict"
    outputs = ()
    distribution = "shard"
    section = "predict"
    reads_images = True
    restart_option = "--overwrite"

    def __init__(self, place: str, model: Path, *, overlays: bool = False, overwrite: bool = False) -> None:
        """Find the network; nothing is read."""
        self.place, self.overlays, self.overwrite = Path(place), overlays, overwrite
        self.model = find_checkpoint(model)

    @cached_property
    def network(self) -> str:
        """The beginning of the SHA-256 of the checkpoint, computed once per command."""
        try:
            with self.model.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError as error:
            raise NetworkFileError(f"{self.model} could not be read ({error.strerror})") from error

    def images(self, config: Config, run: RunFolder) -> ImageSet:
        """The images to label, up to the limit; found once per command.

        Raises:
            UsageError: there are none, or their folder is that of the masks.
        """
        if self.name not in run.surveyed:
            images = find_images(self.place, skip=None if _is_same(run.path, self.place) else run.path)
            if _is_same(images.root, run.path):
                raise UsageError(f"--out {run.path} is the folder of the images; choose another one for the masks")
            run.surveyed[self.name] = images.of(images.items[: config.limit])
        return run.surveyed[self.name]

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of prediction, the digest of the network, and the folder that the IDs are relative to."""
        predict: Settings = plain(config.predict, affecting=True)
        if self.model.suffix == ".onnx":  # the precision of the machine does not matter
            predict["precision"] = "fp32"
        return {
            "predict": predict,
            "network": self.network,
            "images": str(images.root.resolve()),
        }

    def require(self, config: Config, run: RunFolder, images: ImageSet) -> None:
        """Check that the masks may be written into the folder.

        Raises:
            UsageError: it holds masks by another network or other settings, or files that predict did not write.
        """
        if self.overwrite and config.shard is not None:
            raise UsageError("--overwrite with --shard would delete what other shards make; use another --out instead")
        run.check(self, self.fingerprint(config, images), restart=self.overwrite)
        if run.has_record(self.name):
            return
        names = [f"{item.id}.png" for item in images.items]
        names += [f"overlays/{item.id}.jpg" for item in images.items] if self.overlays else []
        targets = (run / name for name in (RECORD, CLASS_IDS, *names))
        if found := next((path for path in targets if path.exists()), None):
            raise UsageError(f"{found} was not made by predict, which would overwrite it; use another --out")

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The number of images to label."""
        self.require(config, run, images)
        mine = _of_this_command(images, config)
        missing = len(mine) if self.overwrite else sum(self.is_missing(run, item) for item in mine)
        what = f"masks{' and overlays' if self.overlays else ''} to {run.path}"
        work = f"{missing} of {len(mine)} images to label with {self.model}, {what}"
        return StagePlan(self.name, work, missing)

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Label the images without a mask.

        Raises:
            NetworkFileError: the network cannot be read.
            UsageError: the device does not exist; or as `images` and `require`.
        """
        images, result = self.images(config, run), StageResult(self.name)
        self.require(config, run, images)
        predictor = load(self.model, config.device, config.predict, intensity=config.data.intensity)
        if self.overwrite:
            _clear(run)
        run.record_fingerprint(self, self.fingerprint(config, images))
        remove_partial(run.path)
        write_class_ids(run.path, predictor.classes)
        mine = _of_this_command(images, config)
        # Whole batches where an image is missing: its mask must not depend on which other masks exist.
        step = config.predict.batch_size
        whole = [mine[first : first + step] for first in range(0, len(mine), step)]
        batches = [batch for batch in whole if any(self.is_missing(run, item) for item in batch)]
        wanted = {item.id for batch in batches for item in batch if self.is_missing(run, item)}
        result.skipped = len(mine) - len(wanted)
        classes = ("background", *predictor.classes)
        origins = dict[str, str]()
        try:
            with progress_bar(console, "predict", len(wanted)) as advance:
                for group, pixels in _read_groups(batches, config, predictor, result, origins):
                    for item, image, prediction in zip(group, pixels, predictor.predictions(pixels), strict=True):
                        origin = origins.pop(item.id)
                        if item.id not in wanted:
                            continue
                        text = json.dumps(_record(item, images.root, prediction, classes))
                        write_mask(run / f"{item.id}.png", prediction.labels, made_from=origin, prediction=text)
                        target = run / f"overlays/{item.id}.jpg"
                        if self.overlays:
                            write_overlay(target, image, prediction.labels)
                        else:  # one that is there is of an earlier mask
                            target.unlink(missing_ok=True)
                        result.done += 1
                    advance(result.done)
        finally:
            if config.shard is None:
                records = {name: each for name, each in _predictions(run).items() if name not in result.failed}
                values = {
                    "made_by": self.fingerprint(config, images),
                    "network": str(self.model),
                    "classes": list(classes),
                    "images": records,
                    "failed": result.failed,
                }
                write_json(run / RECORD, values)
        return result

    def is_missing(self, run: RunFolder, item: ImageItem) -> bool:
        """Whether the mask of an image, or the requested overlay, is missing or was made from another image."""
        if self.overlays and not (run / f"overlays/{item.id}.jpg").is_file():
            return True
        mask = run / f"{item.id}.png"
        recorded = mask_origin(mask)
        if recorded is not None and not mask_text(mask, PREDICTION_KEY):
            raise UsageError(f"{mask} was not made by predict, which would overwrite it; use another --out")
        return recorded is None or not is_of_image_text(recorded, item.path, mask)


def _predictions(run: RunFolder) -> dict[str, Any]:
    """The records of the masks that `predict` made in a folder, by ID, sorted; not of those in inner folders."""
    inner = [str(each.parent.parent.relative_to(run.path)) for each in run.path.glob("*/**/predict/stage.json")]
    names = [each for each in files_below(run.path, ".png") if not each.startswith(tuple(f"{name}/" for name in inner))]
    texts = {name.removesuffix(".png"): mask_text(run / name, PREDICTION_KEY) for name in names}
    return {name: json.loads(text) for name, text in sorted(texts.items()) if text}


def _clear(run: RunFolder) -> None:
    """Delete the files of earlier commands."""
    for name in _predictions(run):
        (run / f"overlays/{name}.jpg").unlink(missing_ok=True)  # before its mask, by which it is found
        (run / f"{name}.png").unlink(missing_ok=True)
    (run / RECORD).unlink(missing_ok=True)
    (run / CLASS_IDS).unlink(missing_ok=True)
    (run / "predict/stage.json").unlink(missing_ok=True)


def _of_this_command(images: ImageSet, config: Config) -> list[ImageItem]:
    """The images of this command; a shard has every n-th block, so that shards may differ in their batch size."""
    chosen = images.items
    number, count = config.shard_of()
    starts = range(_BLOCK * (number - 1), len(chosen), _BLOCK * count)
    return [item for first in starts for item in chosen[first : first + _BLOCK]]


def _read_groups(
    batches: list[list[ImageItem]], config: Config, predictor: Predictor, result: StageResult, origins: dict[str, str]
) -> Iterator[tuple[list[ImageItem], list[np.ndarray]]]:
    """Images with their pixels, in whole batches unless they are large; unreadable ones are added to ``result``.

    ``origins`` receives the description of each image file at the time of reading, by ID.
    """
    limit = config.data.pixel_limit

    def read(item: ImageItem) -> np.ndarray | str:
        origins[item.id] = image_text(item.path)
        try:
            return read_image(item.path, pixel_limit=limit, intensity=predictor.intensity)
        except Tag2maskError as error:
            return str(error)

    ends = {batch[-1].id for batch in batches}
    items: list[ImageItem] = []
    images: list[np.ndarray] = []
    flat = [item for batch in batches for item in batch]
    for item, pixels in prefetch_images(flat, read, workers=max(1, reading_workers(config)), pixel_limit=limit):
        if isinstance(pixels, str):
            result.failed[item.id] = pixels
        else:
            if images and sum(image.size for image in (*images, pixels)) > 3 * _BATCH_PIXELS:
                yield items, images
                items, images = [], []
            items.append(item)
            images.append(pixels)
        if item.id in ends and images:
            yield items, images
            items, images = [], []


def _record(item: ImageItem, root: Path, prediction: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    """The record of a mask in predictions.json; fractions in [0, 1], for the classes in the mask."""
    present = [(number, name) for number, name in enumerate(classes) if prediction.pixels[number]]
    return {
        "image": item.path.relative_to(root).as_posix(),
        "size": list(prediction.labels.shape),
        "shares": {name: round(float(prediction.shares[number]), 6) for number, name in present},
        "confidence": round(prediction.confidence, 4),
        "class_confidence": {name: round(float(prediction.class_confidence[number]), 4) for number, name in present},
    }


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths name one folder, existing or not."""
    return os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100 - unlike Path.absolute it takes out ".."
