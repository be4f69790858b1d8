"""The stage `edges`: confident labels from CAMs, and the edge network that is trained on them."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from tag2mask.core.device import resolve_device
from tag2mask.core.distributed import process_count
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.prefetch import map_computing
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import write_mask
from tag2mask.data.loading.datasets import LabelledSet
from tag2mask.data.manifest import ImageItem
from tag2mask.networks.backbones.registry import build_backbone
from tag2mask.networks.checkpoint import load_network
from tag2mask.networks.edge_network import EdgeNetwork, build_edge_network
from tag2mask.networks.settings import NetworkSettings, in_section
from tag2mask.refine.masks import sure_labels
from tag2mask.refine.settings import SureSettings
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import exclude_damaged
from tag2mask.runs.dataset import run_images
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import EDGE_LABELS, EDGE_NETWORK, TRAIN_NETWORK, RunFolder
from tag2mask.runs.throughput import timed_progress_bar
from tag2mask.stages.base import Schedule, Settings, StagePlan, TrainingStage, training_settings
from tag2mask.stages.refine_inputs import (
    RefineInput,
    cam_folder,
    current_items,
    read_refine_inputs,
    require_cams,
    shard_of,
    stale,
    threads_of_images,
)
from tag2mask.training.tasks import edge_task


class Edges(TrainingStage):
    """Confident labels from CAMs, and the edge network that is trained on them."""

    name = "edges"
    outputs = ("edges",)
    reads = ("cams",)
    distribution = "shard, then join"
    sections = ("edges",)
    enabled_by = "--refine.method irn or irn+crf"

    def is_wanted(self, config: Config) -> bool:
        """For a method with a random walk."""
        return config.refine.walks

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of labels and training that have an effect."""
        edges = config.edges
        unread = ["epochs"] if edges.steps is not None else []
        unread += ["momentum"] if edges.optimizer != "sgd" else []
        unread += ["weights"] if edges.backbone is None else []
        own = training_settings(edges, *unread)
        if not config.refine.has_background:
            own["labels"].pop("background_factors")
        refine = {"cams": config.refine.cams, "long_side": config.refine.long_side}
        return self.data_settings(config, images) | {"edges": own, "refine": refine}

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Check the CAMs, and build the network if that is possible already."""
        require_cams(config, run, schedule)
        if config.shard is not None or not self.is_new(run, schedule):
            return
        super().check(config, run, images, schedule)
        has_backbone = (run / TRAIN_NETWORK).is_file() and "train" not in schedule.restarted
        if config.edges.backbone is not None or has_backbone:
            _untrained(config, run)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The missing labels and the remaining steps."""
        training = super().plan(config, run, images)
        if not training.steps:
            return training
        work = "{} labels to write over all shards; no training" if config.shard is not None else "{} labels to write"
        labels = self.images_plan(run, images.items, [EDGE_LABELS], ".png", work)
        if config.shard is not None:
            return labels
        known = None not in (training.seconds, labels.seconds)
        seconds = (training.seconds or 0) + (labels.seconds or 0) if known else None
        return replace(labels, work=f"{labels.work}, then {training.work}", steps=training.steps, seconds=seconds)

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Write the labels that are missing or stale, then train on them; with a shard, only write its labels."""
        result = StageResult(self.name)
        everything = run_images(config, run, together=True)
        images = exclude_damaged(everything, result)
        cams = cam_folder(config, run)
        run.record_fingerprint(self, self.fingerprint(config, images))
        together = process_count() > 1  # these write labels by shards, then train: each is counted once
        if (run / EDGE_NETWORK).is_file():
            result.skipped = 0 if together and config.shard is not None else 1
            labelled = images.of(images.items.filter(lambda item: _labelled(run, cams, item)))
            older = len(stale(labelled.items, cams, run / EDGE_LABELS))
            if older:
                result.notes.append(
                    f"{older} CAM files changed since the labels were written; --restart edges trains again"
                )
            elif other := self.check_same_data(run, labelled):
                result.notes.append(other)
            return result
        # Before hours of labels, so that errors of the network come first.
        network = _untrained(config, run) if config.shard is None else None
        _write_labels(config, run, everything, cams, result, console)
        if network is None:
            if not together:
                result.notes.append("these are the labels of one shard; `tag2mask edges` without --shard trains on all")
            return result
        if together:
            result.skipped = 0
        labelled = images.of(images.items.filter(lambda item: _labelled(run, cams, item)))
        if not labelled.items:
            raise Tag2maskError("not one image has labels to learn edges from; `tag2mask cams` makes what they need")
        for item in images.items:
            if not _labelled(run, cams, item) and item.id not in result.failed:
                result.failed[item.id] = f"{cams / item.id}.npz does not exist, so it has no labels to learn edges from"
        self.check_same_data(run, labelled)
        samples = LabelledSet(
            labelled, run / EDGE_LABELS, config.edges.augment, seed=config.seed, fill=network.backbone.mean
        )
        steps = self.fit(edge_task(network, samples), config, run, console, result).steps
        result.notes.append(f"trained for {steps} steps")
        return result


def _labelled(run: RunFolder, cams: Path, item: ImageItem) -> bool:
    return (run / EDGE_LABELS / f"{item.id}.png").is_file() and (cams / f"{item.id}.npz").is_file()


def _write_labels(
    config: Config, run: RunFolder, images: ImageSet, cams: Path, result: StageResult, console: Console
) -> None:
    whole = shard_of(images.items, config, result, damaged=images.corrections.damaged)
    mine = current_items(whole, cams, result)
    todo = stale(mine, cams, run / EDGE_LABELS)
    result.skipped = len(mine) - len(todo)
    with timed_progress_bar(run, "edges", console, len(todo), "labels of edges") as advance:
        device = resolve_device(config.device)
        inputs = read_refine_inputs(todo, cams, config, device, result)
        threads = threads_of_images(config, device)
        for each, labels in map_computing(partial(_labels, settings=config.edges.labels), inputs, threads=threads):
            write_mask(run / f"{EDGE_LABELS}/{each.item.id}.png", labels.cpu().numpy(), made_from=each.origin)
            result.done += 1
            advance(result.done)


def _labels(each: RefineInput, settings: SureSettings) -> tuple[RefineInput, Tensor]:
    maps = each.cams.resized((each.image.shape[0], each.image.shape[1]))
    return each, sure_labels(each.image, maps, settings)


def _untrained(config: Config, run: RunFolder) -> EdgeNetwork:
    """A new edge branch on the backbone of the settings.

    Raises:
        UsageError: settings or weights are wrong.
        Tag2maskError: weights could not be fetched.
    """
    settings = config.edges
    if settings.backbone is None:
        backbone = load_network(run / TRAIN_NETWORK).backbone
    else:
        other = NetworkSettings(
            backbone=settings.backbone, weights=settings.weights, output_stride=config.network.output_stride
        )
        try:
            backbone = build_backbone(other)
        except UsageError as error:
            raise UsageError(in_section(str(error), "edges")) from error
    return build_edge_network(backbone, seed=config.seed)
