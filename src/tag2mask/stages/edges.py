"""The stage `edges`: sure labels from CAMs, and the edge network that learns from them."""

from dataclasses import replace
from pathlib import Path

from tag2mask.core.device import resolve_device
from tag2mask.core.distributed import process_count
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import write_mask
from tag2mask.data.loading.samples import LabelledSet
from tag2mask.data.manifest import ImageItem
from tag2mask.networks.backbones.registry import build_backbone
from tag2mask.networks.checkpoint import load_network
from tag2mask.networks.edge_network import EdgeNetwork, build_edge_network
from tag2mask.networks.settings import NetworkSettings, in_section
from tag2mask.refine.masks import sure_labels
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import exclude_damaged
from tag2mask.runs.dataset import run_images
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.refine_inputs import cam_folder, current_items, read_refinables, require_cams, shard_of, stale
from tag2mask.runs.run_folder import EDGE_LABELS, EDGE_NETWORK, TRAIN_NETWORK, RunFolder
from tag2mask.runs.throughput import paced_bar
from tag2mask.stages.base import Ahead, Settings, StagePlan, TrainingStage, training_settings
from tag2mask.training.tasks import edge_task


class Edges(TrainingStage):
    """Sure labels from CAMs, and the edge network that learns from them."""

    name = "edges"
    outputs = ("edges",)
    reads = ("cams",)
    distribution = "shard, then join"
    sections = ("edges",)
    wanted_by = "--refine.method irn or irn+crf"

    def is_wanted(self, config: Config) -> bool:
        """Where masks walk up to edges."""
        return config.refine.walks

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """Those of the labels and of training, as far as they have an effect."""
        edges = config.edges
        unread = ["epochs"] if edges.steps is not None else []
        unread += ["momentum"] if edges.optimizer != "sgd" else []
        unread += ["weights"] if edges.backbone is None else []
        own = training_settings(edges, *unread)
        own["labels"].pop("background_levels" if config.refine.has_background else "background_factors")
        return {
            "classes": list(images.classes),
            "seed": config.seed,
            "limit": config.limit,
            "data": {"split": config.data.split},
            "edges": own,
            "refine": {"cams": config.refine.cams, "long_side": config.refine.long_side},
        }

    def check(self, config: Config, run: RunFolder, images: ImageSet, ahead: Ahead) -> None:
        """Look for the CAMs, and build the network where that is possible by now."""
        require_cams(config, run, ahead)
        if config.shard is not None or not self.is_new(run, ahead):
            return
        super().check(config, run, images, ahead)
        stands = (run / TRAIN_NETWORK).is_file() and "train" not in ahead.again  # the network that it stands on
        if config.edges.backbone is not None or stands:
            _untrained(config, run)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """Labels that are missing, and steps that are left."""
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
        """Write the labels that are missing or made from another CAM file, then train on them, or go on training.

        With a shard it writes the labels of that shard and stops: training needs them all.

        Raises:
            UsageError: there are no CAMs of the chosen kind, or the folder holds what other settings made.
            Tag2maskError: not one label could be made.
            Interrupted: the user stopped it; the state is saved.
        """
        result = StageResult(self.name)
        everything = run_images(config, run, together=True)
        images = exclude_damaged(everything, result)
        cams = cam_folder(config, run)
        run.claim(self, self.fingerprint(config, images))
        together = process_count() > 1  # they write labels by shards first, then train: each thing counts once
        if (run / EDGE_NETWORK).is_file():
            result.skipped = 0 if together and config.shard is not None else 1
            labelled = images.of(images.items.where(lambda item: _labelled(run, cams, item)))
            older = len(stale(labelled.items, cams, run / EDGE_LABELS))
            if older:
                result.notes.append(
                    f"{older} CAM files are others than those of the labels learnt from; --restart edges learns anew"
                )
            elif other := self.same_data(run, labelled):
                result.notes.append(other)
            return result
        # What is wrong with the network should be said before hours of labels.
        network = _untrained(config, run) if config.shard is None else None
        _write_labels(config, run, everything, cams, result, console)
        if network is None:
            if not together:
                result.notes.append("these are the labels of one shard; `tag2mask edges` without --shard trains on all")
            return result
        if together:
            result.skipped = 0
        labelled = images.of(images.items.where(lambda item: _labelled(run, cams, item)))
        if not labelled.items:
            raise Tag2maskError("not one image has labels to learn edges from; `tag2mask cams` makes what they need")
        for item in images.items:
            if not _labelled(run, cams, item) and item.id not in result.failed:
                result.failed[item.id] = f"{cams / item.id}.npz does not exist, so it has no labels to learn edges from"
        self.same_data(run, labelled)
        _train(self, config, run, labelled, network, result, console)
        return result


def _labelled(run: RunFolder, cams: Path, item: ImageItem) -> bool:
    """Whether an image has labels, and the CAMs that they are of."""
    return (run / EDGE_LABELS / f"{item.id}.png").is_file() and (cams / f"{item.id}.npz").is_file()


def _write_labels(
    config: Config, run: RunFolder, images: ImageSet, cams: Path, result: StageResult, console: Console
) -> None:
    """Sure labels of CAMs, 255 elsewhere."""
    whole = shard_of(images.items, config, result, damaged=images.corrections.damaged)
    mine = current_items(whole, cams, result)
    todo = stale(mine, cams, run / EDGE_LABELS)
    result.skipped = len(mine) - len(todo)
    with paced_bar(run, "edges", console, len(todo), "labels of edges") as advance:
        for batch in read_refinables(todo, cams, config, resolve_device(config.device), result):
            pixels = [each.image for each in batch]
            maps = [
                each.cams.resized((image.shape[0], image.shape[1])) for each, image in zip(batch, pixels, strict=True)
            ]
            for each, labels in zip(batch, sure_labels(pixels, maps, config.edges.labels), strict=True):
                write_mask(run / EDGE_LABELS / f"{each.item.id}.png", labels.cpu().numpy(), made_from=each.origin)
                result.done += 1
            advance(result.done)


def _train(
    stage: TrainingStage,
    config: Config,
    run: RunFolder,
    images: ImageSet,
    network: EdgeNetwork,
    result: StageResult,
    console: Console,
) -> None:
    """Train the edge branch on images with labels, and save the network."""
    samples = LabelledSet(
        images,
        (run / EDGE_LABELS),
        config.edges.augment,
        seed=config.seed,
        fill=network.backbone.mean,
    )
    steps = stage.learn(edge_task(network, samples, config.edges), config, run, console, result)
    result.notes.append(f"trained for {steps} steps")


def _untrained(config: Config, run: RunFolder) -> EdgeNetwork:
    """A new branch on the backbone that the settings name, after a look at what would stop its training.

    Raises:
        UsageError: settings or weights are wrong, or this machine cannot train so.
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
