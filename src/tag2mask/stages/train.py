"""The stage `train`: trains the POT network on images and tags."""

from contextlib import nullcontext
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tag2mask.cams.inference import image_maps, resize_long_side
from tag2mask.core.device import channels_last, precision_on, resolve_device
from tag2mask.core.distributed import is_main
from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.data.dataset import ImageSet
from tag2mask.data.loading.datasets import TrainingSet
from tag2mask.networks.checkpoint import load_network, save_network
from tag2mask.networks.pot_network import PotNetwork, build_network
from tag2mask.runs.base_cams import require_seeds
from tag2mask.runs.batches import read_batches, sized_batches
from tag2mask.runs.config import Config, plain
from tag2mask.runs.corrections import exclude_damaged, newer_tags, record_tags
from tag2mask.runs.dataset import run_images
from tag2mask.runs.features import READ_BY_FEATURES, FeatureFiles
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import TRAIN_NETWORK, RunFolder
from tag2mask.stages.base import Schedule, Settings, TrainingStage, training_settings
from tag2mask.training.frozen import CellLosses, FeatureSet, train_classifier
from tag2mask.training.log import Meter, training_log
from tag2mask.training.tasks import pot_task

_UNREAD_IF_FROZEN = (
    "optimizer",
    "momentum",
    "precision",
    "max_grad_norm",
    "head_lr_multiplier",
    "classification_weight",
    "stop_gradient",
    "augment",
    "gradient_accumulation_steps",
)
"""Settings of `train` that a classifier of kept features does not read."""


class Train(TrainingStage):
    """Trains the POT network on images and tags."""

    name = "train"
    outputs = ("train",)
    optional_inputs: ClassVar = {"seeds": "external"}
    version = 3

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of network, method and training."""
        settings = {
            "network": plain(config.network, affecting=True),
            "pot": plain(config.pot, affecting=True) if config.train.consistency_weight else {},
            "train": training_settings(config.train, *(_UNREAD_IF_FROZEN if config.network.freeze else ())),
        }
        external = {"external": plain(config.external, affecting=True)} if config.external.used else {}
        if config.network.freeze:
            cams = plain(config.cams, affecting=True)
            settings["cams"] = {name: cams[name] for name in READ_BY_FEATURES}
        return self.data_settings(config, images) | settings | external

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Also build the network, which finds missing weights."""
        super().check(config, run, images, schedule)
        if config.network.freeze and config.train.consistency_weight and config.train.consistency_start == 0:
            raise UsageError(
                "network.freeze true needs train.consistency_start above 0: POT starts from a classifier that has "
                "learned the tags"
            )
        if config.network.freeze and config.external.used:
            raise UsageError(
                "network.freeze true does not read base CAMs; leave out the settings `external`, or network.freeze"
            )
        if self.is_new(run, schedule):
            build_network(config.network, images.classes, seed=config.seed)

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Train, or continue training."""
        result = StageResult(self.name)
        images = exclude_damaged(run_images(config, run, together=True), result)
        untagged = [item.id for item in images.items if not item.tags]
        if len(untagged) == len(images.items):
            raise UsageError(
                f"none of the {len(untagged)} images has a tag, so there is nothing to train on; see `tag2mask check`"
            )
        settings = self.fingerprint(config, images)
        target = run / TRAIN_NETWORK
        if target.is_file():
            run.record_fingerprint(self, settings)
            load_network(target, classes=images.classes)
            result.skipped = 1
            if newer := newer_tags(run, images):
                result.notes.append(
                    f"{newer} decisions about tags are newer than the trained network; --restart train trains again"
                )
            elif other := self.check_same_data(run, images):
                result.notes.append(other)
            return result
        if config.shard is not None:
            raise UsageError(
                "one command trains the network for all shards; run `tag2mask train` without --shard first"
            )
        result.done = 1
        if config.external.used:
            require_seeds(run, images, result)
        network = build_network(config.network, images.classes, seed=config.seed)
        run.record_fingerprint(self, settings)
        run.record_environment(config.seed)
        self.check_same_data(run, images)
        record_tags(run, images)
        if untagged:
            result.notes.append(
                f"{len(untagged)} images without tags served as examples of no class: {first_five(untagged)}"
            )
        if config.network.freeze:
            self._fit_frozen(network, images, config, run, console, result)
            return result
        views = TrainingSet(
            images,
            config.train.augment,
            seed=config.seed,
            fill=network.backbone.mean,
            external=(run / "seeds") if config.external.used else None,
            stride=network.stride,
        )
        task = pot_task(network, views, config.train, config.pot, config.external if config.external.used else None)
        trained = self.fit(task, config, run, console, result)
        if trained.fitted:
            result.notes.append(
                f"{trained.fitted} of {trained.steps} steps did not change the weights: the tags of their images were "
                f"fitted (classification loss below {task.fitted:.2g}); more steps change little, more images help"
            )
        unlearned = config.train.stop_gradient == "pot" and config.external.consistency_pair == "classifier-pot"
        if config.network.projections and config.train.consistency_weight and unlearned:
            result.notes.append(
                "the side projections stayed as they were drawn: with train.stop_gradient pot no gradient reaches them"
            )
        return result

    def _fit_frozen(
        self,
        network: PotNetwork,
        images: ImageSet,
        config: Config,
        run: RunFolder,
        console: Console,
        result: StageResult,
    ) -> None:
        """Compute the features that are missing, train the classifier on them, and save the network."""
        network = channels_last(network).to(resolve_device(config.device)).eval()
        files = FeatureFiles(run, config, network)
        write_features(network, files, images, config, console, result)
        readable = images.of(images.items.filter(files.has))
        tags = readable.tag_matrix()
        if not tags.any():
            raise Tag2maskError("no image with a tag can be read; `tag2mask check` lists why")

        def read(index: int) -> Tensor:
            item = readable.items[index]
            features = files.read(item)
            if features is None:
                path = files.folder / f"{item.id}.npz"
                raise Tag2maskError(f"{path} is damaged or its image has changed; delete it and run the command again")
            return features

        loop, main = config.train, is_main()  # every process trains alike; one writes
        total = loop.total_steps(len(readable.items))
        meter = Meter(self.name, loop.batch_size)
        with (
            progress_bar(console, self.name, total) as advance,
            training_log(run / self.name, step=0, tensorboard=loop.tensorboard) if main else nullcontext() as log,
        ):
            note = ""

            def on_step(step: int, losses: CellLosses) -> None:
                nonlocal note
                meter.add(losses)
                if step % loop.log_every == 0 or step == total:
                    values = meter.read(step)
                    note = f"loss {values['loss']:.4f}"
                    if log is not None:
                        log.append({"step": step, **values})
                advance(step, note)

            train_classifier(network, FeatureSet(read, tags), loop, config.pot, seed=config.seed, on_step=on_step)
        if main:
            save_network(run / TRAIN_NETWORK, network)


def write_features(
    network: PotNetwork,
    files: FeatureFiles,
    images: ImageSet,
    config: Config,
    console: Console,
    result: StageResult,
) -> None:
    """Compute the missing features of images; an unreadable image has failed."""
    todo, missing = sized_batches(images.items, config, result).unfinished(lambda item: not files.has(item))
    device, settings, done = next(network.parameters()).device, config.cams, 0
    origins: dict[str, np.ndarray | None] = {}
    with progress_bar(console, "features", missing) as advance:
        for batch, pixels in read_batches(todo, config, result, origins):
            maps = image_maps(
                network,
                resize_long_side(pixels.to(device), settings.long_side),
                torch.from_numpy(images.tag_matrix(batch)).to(device),
                scales=settings.scales,
                flip=settings.flip,
                bf16=precision_on(settings.precision, device) == "bf16",
            )
            for item, features in zip(batch, maps.features, strict=True):
                files.write(item, features, origins.pop(item.id, None))
            done += len(batch)
            advance(done)
