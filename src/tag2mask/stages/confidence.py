"""The stage `confidence`: estimated quality of each mask, without ground truth, and a ranking of the images."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tag2mask.core.distributed import is_main, process_count
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import remove_partial, write_json
from tag2mask.core.prefetch import map_ahead
from tag2mask.core.provenance import cam_origin, crc_of
from tag2mask.data.cam_files import CamFile, read_cam
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import read_image, read_mask
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.evaluation import Confusion
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.prediction.predictor import SEGMENT_NETWORK, Predictor
from tag2mask.quality.calibration import EVIDENCE, LEAST, covers_ranking, ranking_quality
from tag2mask.quality.estimator import estimate_quality
from tag2mask.quality.features import MaskFeatures, mask_features, read_features, write_features
from tag2mask.quality.ranking import IMAGES, QUALITY, Tables, small_masks_sentence
from tag2mask.refine.settings import RefineSettings
from tag2mask.runs.class_thresholds import class_thresholds
from tag2mask.runs.config import Config, plain
from tag2mask.runs.corrections import exclude_damaged
from tag2mask.runs.dataset import prefetch_images, reading_workers, run_images
from tag2mask.runs.ground_truth import rasterise_missing_truth, without_mismatched_truth
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import WHOLE, RunFolder
from tag2mask.runs.throughput import timed_progress_bar
from tag2mask.stages.base import Stage, StagePlan
from tag2mask.stages.refine_inputs import current_items, shard_of, tagged_maps

FEATURES = "confidence/features"
"""The folder of cached features of each mask."""

VERSION = 1
"""Raise it by hand whenever the same masks, CAMs and network give other features."""

LONG_SIDE = 256
"""Most pixels of the longer side at which masks, CAMs and network are compared; ours."""


@dataclass(frozen=True)
class QualityInputs:
    """Inputs of mask-quality estimation: the run's CAMs and its segmentation network; per-image features are cached.

    Attributes:
        masks: folder of the masks.
        cams: folder of the CAMs.
        features: folder of the cached features.
        network: None without one that was trained on these masks.
        background: level of a background that the CAMs lack, as `ClassMaps.with_background` takes it.
        thresholds: of classes, as `refine` takes them.
        made_by: the inputs that the features depend on, except the files of each image.
    """

    masks: Path
    cams: Path
    features: Path
    network: Predictor | None
    background: float
    thresholds: dict[int, float]
    made_by: str

    @classmethod
    def of(cls, config: Config, run: RunFolder, images: ImageSet, result: StageResult) -> "QualityInputs":
        """The inputs of a run, without a network that was trained on ground truth, which it would reveal.

        Raises:
            UsageError: the network has other classes.
        """
        kind = run.setting("refine", "refine.cams") or config.refine.cams
        level = run.setting("refine", "refine.background_threshold")  # of the masks; None if `refine` read none
        background = config.refine.background_threshold if level is None else float(level)
        made_by: dict[str, Any] = {
            "version": VERSION,
            "long_side": LONG_SIDE,
            "masks": run.fingerprint("refine"),
            "cams": kind,
        }
        settings = RefineSettings(
            method=run.setting("refine", "refine.method") or config.refine.method,
            cams=kind,
            background_threshold=background,
        )
        thresholds = class_thresholds(run, images, settings)
        if not settings.has_background:
            made_by |= {"background": background, "thresholds": thresholds}
        path, network = run / SEGMENT_NETWORK, None
        if path.is_file() and run.setting("segment", "segment.labels") == "truth":
            result.notes.append(f"{path} was trained on ground truth (segment.labels truth), so no confidence uses it")
        elif path.is_file():
            own = load_segmentation_network(path, classes=images.classes)
            network = Predictor(own, config.device, config.predict, pixel_limit=config.data.pixel_limit)
            read = plain(config.predict, affecting=True).items()
            predict = {name: value for name, value in read if not name.startswith("crf")}
            made_by |= {"network": crc_of(path), "predict": predict}
        folders = run / "masks", run / f"cams/{kind}", run / FEATURES
        return cls(*folders, network, background, thresholds, json.dumps(made_by, sort_keys=True))

    def features_of(self, item: ImageItem) -> MaskFeatures | None:
        """The cached features of the mask of an image with these tags, from these inputs; None if there are none."""
        found = read_features(self.features / f"{item.id}.npz", self.made_by_of(item))
        return found if found is not None and tuple(found.ids.tolist()) == (0, *item.tags) else None

    def made_by_of(self, item: ImageItem) -> str:
        """The inputs that the features of an image depend on, with its mask and its CAM file."""
        try:
            mask = crc_of(self.masks / f"{item.id}.png")
        except OSError:
            mask = None
        return json.dumps([self.made_by, mask, cam_origin(self.cams / f"{item.id}.npz")])

    def is_stale(self, item: ImageItem) -> bool:
        """Whether the features of an image are missing or stale."""
        return self.features_of(item) is None


class _Compared(NamedTuple):
    """The files of an image that are compared."""

    labels: npt.NDArray[np.uint8]  # (H, W), the mask
    cam: CamFile | None
    image: npt.NDArray[np.uint8] | None  # (H, W, 3); None without a network


class Confidence(Stage):
    """Estimated quality of each mask, without ground truth."""

    name = "confidence"
    outputs = ("confidence",)
    reads = ("refine", "segment")
    always_rerun = True
    distribution = "shard, then join"

    def is_wanted(self, config: Config) -> bool:
        """Always, except before a network that it would use is trained."""
        return not (config.segment.enabled and config.shard is not None)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """Masks without features."""
        return self.images_plan(run, images.items, [FEATURES], ".npz", "{} masks to estimate, then a ranking of all")

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Write missing and stale features and both tables, and compare the ranking with ground truth if there is some.

        A command with a shard writes the features of its images alone.
        """
        result = StageResult(self.name)
        images = run_images(config, run, together=True)
        exclude_damaged(images, result)
        if not (run / "masks").is_dir():
            raise UsageError(f"{run / 'masks'} does not exist; run `tag2mask refine {run.path}` first")
        together = process_count() > 1
        if together and config.shard is None and not is_main():
            return result  # after all shards are done, one process writes the tables
        remove_partial(run / "confidence")
        inputs = QualityInputs.of(config, run, images, result)
        mine = shard_of(images.items, config, result, damaged=images.corrections.damaged)
        mine = current_items(mine, inputs.cams, result)
        masked = mine.filter(lambda item: (inputs.masks / f"{item.id}.png").is_file())
        todo = masked.filter(inputs.is_stale)
        if config.shard is not None or not together:  # else each process has counted its shard
            result.skipped = len(masked) - len(todo)
        _gather(todo, inputs, config, run, result, console)
        if config.shard is not None:
            result.notes += [] if together else ["the tables are written by `tag2mask confidence` without --shard"]
            return result
        if not len(masked):
            result.notes.append(f"no image has a mask in {run / 'masks'}; {run / IMAGES} is left as it is")
            return result
        if len(mine) > len(masked):
            result.notes.append(f"{len(mine) - len(masked)} images have no mask and are not ranked")
        known, errors = without_mismatched_truth(rasterise_missing_truth(config, images.of(masked), console), config)
        result.notes += [f"the ranking is not compared with the truth: {each}" for each in errors]
        _write_tables(known, inputs, run, config, result)
        return result


def _gather(
    items: Images, inputs: QualityInputs, config: Config, run: RunFolder, result: StageResult, console: Console
) -> None:
    """Write the features of images; unreadable ones have failed."""
    workers, limit, read = max(1, reading_workers(config)), config.data.pixel_limit, partial(_read, inputs, config)
    if inputs.network is None:  # no pixel of an image is read
        compared: Iterator[tuple[ImageItem, _Compared | str]] = zip(
            items, map_ahead(read, items, threads=workers), strict=True
        )
    else:
        compared = prefetch_images(items, read, workers=workers, pixel_limit=limit)
    with timed_progress_bar(run, "confidence", console, len(items)) as advance:
        for item, found in compared:
            file = run / f"{FEATURES}/{item.id}.npz"
            try:
                if isinstance(found, str):
                    raise Tag2maskError(found)
                features = _features(item, found, inputs)
            except Tag2maskError as error:
                result.failed[item.id] = str(error)
                file.unlink(missing_ok=True)
                continue
            write_features(file, features, inputs.made_by_of(item))
            result.done += 1
            advance(result.done)


def _read(inputs: QualityInputs, config: Config, item: ImageItem) -> _Compared | str:
    """The files to compare, or the reason why they cannot be."""
    limit, image = config.data.pixel_limit, None
    file = inputs.cams / f"{item.id}.npz"
    try:
        mask = read_mask(inputs.masks / f"{item.id}.png", pixel_limit=limit)
        cam = read_cam(file) if file.is_file() else None
        if inputs.network is not None:
            image = read_image(item.path, pixel_limit=limit, intensity=inputs.network.intensity)
    except Tag2maskError as error:
        return str(error)
    sizes = {mask.shape, *([] if cam is None else [cam.size]), *([] if image is None else [image.shape[:2]])}
    if len(sizes) > 1:
        return f"{item.id}: mask, CAM file and image differ in size; delete its mask and do its stage again"
    if item.tags and cam is None and image is None:
        return f"{file} does not exist and there is no segmentation network, so its quality cannot be estimated"
    return _Compared(mask, cam, image)


def _features(item: ImageItem, found: _Compared, inputs: QualityInputs) -> MaskFeatures:
    """What the CAMs and the network say of a mask.

    Raises:
        Tag2maskError: the network gives something else than numbers.
    """
    ids, cams, logits = torch.tensor((0, *item.tags), dtype=torch.uint8), None, None
    factor = min(1.0, LONG_SIDE / max(found.labels.shape))
    size = max(1, round(found.labels.shape[0] * factor)), max(1, round(found.labels.shape[1] * factor))
    if found.cam is not None:
        cams = tagged_maps(found.cam, item)
        if inputs.thresholds:
            cams = cams.resized(size).with_thresholds(inputs.thresholds, inputs.background)
        cams = cams.with_background(inputs.background)
    if found.image is not None and inputs.network is not None:
        logits = inputs.network.reduced_logits(found.image, size)
    try:
        return mask_features(torch.from_numpy(found.labels), ids, cams, logits, size)
    except Tag2maskError as error:
        raise Tag2maskError(f"{item.id}: {error}") from error


def _write_tables(images: ImageSet, inputs: QualityInputs, run: RunFolder, config: Config, result: StageResult) -> None:
    """Measure the ranking on images with ground truth or a corrected mask, and write both tables of all images."""
    ious = _true_ious(images, inputs, result)
    tables = _tables(images, inputs, ranks=True)
    confidences = tables.confidences(len(ious))
    count, quality = np.count_nonzero(known := ~np.isnan(confidences) & ~np.isnan(ious)), None
    if covers_ranking(confidences, ious):
        quality = ranking_quality(confidences[known], ious[known])
    if quality is not None and quality.ranks is False:
        tables = _tables(images, inputs, ranks=False)
    (run / QUALITY).unlink(missing_ok=True)
    tables.write(run.path)
    result.notes.append(f"least certain masks first: {run / IMAGES}")
    if small := small_masks_sentence(run.path):
        result.notes.append(small)
    if quality is not None:
        result.notes.append(quality.sentence())
        write_json(run / QUALITY, {"split": config.data.split or WHOLE, **quality.to_json()})
    elif count:
        result.notes.append(
            f"the ranking is not measured: {count} images with a confidence have {EVIDENCE}, and at least "
            f"{LEAST // 2} are needed in each half of the ranking"
        )


def _tables(images: ImageSet, inputs: QualityInputs, *, ranks: bool) -> Tables:
    """Both tables of images with features; without any confidence unless the estimate ranks."""
    tables = Tables(("background", *images.classes))
    for number, item in enumerate(images.items):
        features = inputs.features_of(item)
        if features is None:  # failed
            continue
        estimate = estimate_quality(features)
        decided = images.corrections.verdicts.get(item.id, "")
        tables.add(item.id, features, estimate if ranks else estimate.unconfirmed(), number=number, decided=decided)
    return tables


def _true_ious(images: ImageSet, inputs: QualityInputs, result: StageResult) -> npt.NDArray[np.float64]:
    """The mean IoU of each mask with its ground truth, or else with its corrected mask: (N,); NaN without both."""
    ious = np.full(len(images.items), np.nan)
    for number, item in enumerate(images.items):
        by_hand = images.corrections.mask(item.id)
        known = item.truth is not None and item.truth.is_file()
        if item.id in result.failed or (not known and by_hand is None):
            continue
        try:
            ious[number] = _true_iou(inputs.masks / f"{item.id}.png", item, images, None if known else by_hand)
        except Tag2maskError as error:
            result.failed[item.id] = str(error)
    return ious


def _true_iou(mask: Path, item: ImageItem, images: ImageSet, by_hand: Path | None) -> float:
    """The mean IoU of a mask over the classes in its corrected mask or ground truth, with background.

    NaN if that is all 255.
    """
    confusion = Confusion(len(images.classes) + 1)
    read = partial(read_mask, classes=len(images.classes), pixel_limit=images.pixel_limit)
    own = read(mask)
    size = own.shape[0], own.shape[1]
    confusion.update(own, images.read_truth(item, size=size) if by_hand is None else read(by_hand, size=size))
    return confusion.miou()
