"""The stage `segment`: trains a segmentation network, which needs no tags, on the pseudo masks."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from tag2mask.core.distributed import is_main
from tag2mask.core.errors import UsageError
from tag2mask.data.corrections import FinalMasks
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import ImageError
from tag2mask.data.loading.datasets import LabelledSet
from tag2mask.data.manifest import ImageItem
from tag2mask.data.readers.rasterise import has_external_masks
from tag2mask.data.settings import DataSettings
from tag2mask.evaluation import Confusion, Figures
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.networks.segmentation import SegmentationNetwork, build_segmentation_network
from tag2mask.networks.settings import in_section
from tag2mask.prediction.predictor import SEGMENT_NETWORK
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import TrainingRecord, copy_masks_by_hand, exclude_damaged, final_masks
from tag2mask.runs.dataset import run_images
from tag2mask.runs.ground_truth import class_ids, compare_truth_with_tags, with_ground_truth
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.base import Schedule, Settings, TrainingStage, training_settings
from tag2mask.training.tasks import segmentation_task
from tag2mask.training.trainer import check_requirements

MASKS = "masks"
TRAINING_RECORD = "segment/training_record.json"
BY_HAND = "segment/by_hand"


class Segment(TrainingStage):
    """Trains a segmentation network, which needs no tags, on the pseudo masks."""

    name = "segment"
    outputs = ("segment",)
    optional_inputs: ClassVar = {"refine": "masks"}
    version = 2
    sections = ("segment",)
    enabled_by = "--segment.enabled true"

    def is_wanted(self, config: Config) -> bool:
        """If it is enabled, and without a shard."""
        return config.segment.enabled and config.shard is None

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of training on masks or on ground truth."""
        segment = config.segment
        unread = ["epochs"] if segment.steps is not None else []
        unread += ["momentum"] if segment.optimizer != "sgd" else []
        own = training_settings(segment, *unread)
        if segment.network.batch_norm_momentum is None:
            own["network"].pop("batch_norm_momentum")
        settings = self.data_settings(config, images) | {"segment": own}
        if segment.labels == "masks":
            return settings | {"masks": {}}
        settings["data"] |= _truth_settings(config, images)
        return settings

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Build the network, and check its labels."""
        if self.is_new(run, schedule):
            _untrained(config, images)
            if config.segment.labels == "masks" and "refine" not in {*schedule.stages, *schedule.restarted}:
                _masked(run, images)

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Train the segmentation network on the run's masks or on ground truth, or continue training."""
        result = StageResult(self.name)
        images = run_images(config, run, together=True)
        if config.segment.labels == "masks":
            images = exclude_damaged(images, result)
        labelled = _labelled(config, run, images, console, result)
        masks = None if config.segment.labels == "truth" else final_masks(run, images)
        settings = self.fingerprint(config, images)
        target, record = run / SEGMENT_NETWORK, run / TRAINING_RECORD
        if target.is_file():
            run.record_fingerprint(self, settings)
            load_segmentation_network(target, classes=images.classes)
            result.skipped = 1
            current = TrainingRecord.of(labelled, masks)
            _note_newer(result, current, TrainingRecord.read(record) or TrainingRecord([]), masks, target)
            if not result.notes and (other := self.check_same_data(run, labelled)):
                result.notes.append(other)
            return result
        if config.shard is not None:
            raise UsageError("segment learns from the masks of all shards; run it without --shard once all have theirs")
        network = _untrained(config, images)
        network.intensity = config.data.intensity
        run.record_fingerprint(self, settings)
        masks, current = copy_masks_by_hand(run / BY_HAND, labelled, masks)
        _same_masks(run, record, current)
        self.check_same_data(run, labelled)
        result.done = 1
        augment, fill = config.segment.augment, network.backbone.mean
        samples = LabelledSet(labelled, masks, augment, seed=config.seed, fill=fill)
        task = segmentation_task(network, samples, config.segment, _validation(config, run, console))
        self.fit(task, config, run, console, result)
        _note_masks(result, images, labelled, current)
        return result


def _untrained(config: Config, images: ImageSet) -> SegmentationNetwork:
    """The network before training.

    Raises:
        UsageError: settings, weights or classes are wrong, or this machine does not meet the requirements of training.
        Tag2maskError: weights could not be fetched.
    """
    settings = config.segment
    check_requirements("segment", settings, config.device, config.train)
    if (
        settings.network.head == "concat"
        and settings.network.head_batch_norm != "fixed"
        and settings.batch_size // settings.gradient_accumulation_steps < 2
    ):
        raise UsageError(
            "segment.batch_size should be at least 2, for each of the parts of segment.gradient_accumulation_steps: "
            "head `concat` has batch norm over one value per image"
        )
    try:
        return build_segmentation_network(settings.network, images.classes, seed=config.seed)
    except UsageError as error:
        raise UsageError(in_section(str(error), "segment.network")) from error


def _note_masks(result: StageResult, images: ImageSet, labelled: ImageSet, current: TrainingRecord) -> None:
    """Note how many masks were corrected by hand, and how many images have none."""
    corrections = images.corrections
    if corrections.folder is not None:
        result.notes.append(f"{len(current.by_hand)} of the {len(labelled.items)} masks were corrected by hand")
    if corrections.unused:
        result.notes.append(f"{corrections.folder}: {corrections.unused}")
    rejected = corrections.count((item.id for item in images.items), "rejected")
    if rejected:
        result.notes.append(f"{rejected} rejected masks were left out")
    lacking = len(images.items) - len(labelled.items) - rejected
    if lacking:
        result.notes.append(f"{lacking} images have no mask to learn from, and were left out")


def _note_newer(
    result: StageResult, current: TrainingRecord, before: TrainingRecord, masks: FinalMasks | None, network: Path
) -> None:
    """Note masks that were added, changed or rejected since the existing network was trained."""
    new = current.newer_than(before, masks, network)
    if new:
        drawn = len(new & (current.by_hand.keys() | before.by_hand.keys()))
        by_hand = f" ({drawn} of them by hand)" if drawn else ""
        result.notes.append(
            f"{len(new)} masks are newer than the trained network{by_hand}; --restart segment trains again"
        )
    rejected = 0 if masks is None else masks.corrections.count(before.images, "rejected")
    if rejected:
        result.notes.append(
            f"{rejected} masks that the network was trained on were rejected since; --restart segment trains without "
            "them"
        )


def _same_masks(run: RunFolder, record: Path, current: TrainingRecord) -> None:
    """Record the masks of a training; a `UsageError` if a saved state is of other images or masks."""
    before = TrainingRecord.read(record) if (run / "segment/state.pt").is_file() else None
    if before is not None and before.images != current.images:
        raise UsageError(
            f"the training in {run / 'segment'} started on {len(before.images)} masks, and now there are "
            f"{len(current.images)}, not the same ones; --restart segment starts again with all of them"
        )
    if before is not None and (others := current.changed_by_hand(before)):
        raise UsageError(
            f"since the training in {run / 'segment'} started, {len(others)} masks were corrected by hand, or taken "
            "back; --restart segment starts again with them as they are now"
        )
    if is_main():
        current.write(record)


def _labelled(config: Config, run: RunFolder, images: ImageSet, console: Console, result: StageResult) -> ImageSet:
    """The images with a label; a `UsageError` if there is none, or if ground truth does not fit the tags."""
    if config.segment.labels == "masks":
        return _masked(run, images)
    found = with_ground_truth(config, images, console)
    if not found.items:
        raise UsageError("segment.labels truth needs ground truth, and no image has any; --data.masks names it")
    for problem in compare_truth_with_tags(found, config):
        if problem.level == "error":
            raise UsageError(problem.message)
        result.notes.append(problem.message)
    return found


def _masked(run: RunFolder, images: ImageSet) -> ImageSet:
    """The images with a pseudo mask or a corrected mask; a `UsageError` without any."""
    masks, corrections = final_masks(run, images), images.corrections

    def is_there(item: ImageItem) -> bool:
        left_out = item.id in corrections.damaged or corrections.is_rejected(item.id)
        return not left_out and (corrections.has_mask(item.id) or (masks.pseudo_masks / f"{item.id}.png").is_file())

    there = images.items.filter(is_there)
    if not there:
        raise UsageError(f"{run / MASKS} holds no mask of these images; run `tag2mask refine {run.path}` first")
    return images.of(there)


def _truth_settings(config: Config, images: ImageSet) -> Settings:
    """The settings of ground truth that are not at their defaults; not `data.masks`, since a folder may be moved."""
    values = {} if config.data.mask_values is None else {"mask_values": config.data.mask_values}
    if images.rasterisation is None:
        return values
    if has_external_masks(images.rasterisation.folder):
        return {"crowd": "as the masks that were given have it", **values}
    return {} if config.data.crowd == DataSettings.crowd else {"crowd": config.data.crowd}


def _validation(config: Config, run: RunFolder, console: Console) -> Callable[[nn.Module], Mapping[str, float]] | None:
    """Measures mIoU on the first split of `evaluate.splits` during training; None without ground truth."""
    if config.segment.validate_every is None:
        return None
    split = config.evaluate.split_names(config.data.split)[0]
    images = with_ground_truth(config, run_images(config, run, split), console)
    ids = class_ids(config.evaluate.class_names(), images.classes)
    if not images.items:
        return None
    for problem in compare_truth_with_tags(images, config):
        if problem.level == "error":
            if config.segment.keep_best:
                raise UsageError(problem.message)
            said = f"warning: nothing is measured while training: {problem.message}"
            console.print(said, style="yellow", highlight=False, markup=False, soft_wrap=True)
            return None

    @torch.no_grad()
    def measure(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        confusion = Confusion(len(images.classes) + 1)
        for item in images.items:
            try:
                image = torch.from_numpy(images.read_image(item)).to(device)
                size = int(image.shape[0]), int(image.shape[1])
                truth = images.read_truth(item, size=size)
            except ImageError:
                continue  # the stage `predictions` reports it
            logits = network.full_logits(image.permute(2, 0, 1)[None].float() / 255)  # type: ignore[operator]
            confusion.update(logits.argmax(1)[0].byte().cpu().numpy(), truth)
        miou = Figures.of(confusion, images.classes, images=len(images), ids=ids).miou
        return {} if math.isnan(miou) else {"validation_miou": miou}

    return measure
