"""The stage `train`: photographs and tags to the POT network."""

from typing import ClassVar

from tag2mask.core.errors import UsageError, first_five
from tag2mask.data.dataset import PhotoSet
from tag2mask.data.loading.samples import TrainingSet
from tag2mask.networks.checkpoint import load_network
from tag2mask.networks.pot_network import build_network
from tag2mask.runs.base_cams import require_seeds
from tag2mask.runs.config import Config, plain
from tag2mask.runs.corrections import newer_tags, record_tags, without_damaged
from tag2mask.runs.dataset import photographs
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import TRAIN_NETWORK, RunFolder
from tag2mask.stages.base import Ahead, Settings, TrainingStage, training_settings
from tag2mask.training.log import fitted_after, fitted_loss
from tag2mask.training.tasks import pot_task

LOG = "train/log.jsonl"


class Train(TrainingStage):
    """Photographs and tags to the POT network."""

    name = "train"
    outputs = ("train",)
    reads_for: ClassVar = {"seeds": "external"}
    version = 2

    def settings(self, config: Config, photos: PhotoSet) -> Settings:
        """Those of network, method and training."""
        uses_pot = config.train.consistency_weight or config.external.consistency_weight
        settings = {
            "classes": list(photos.classes),
            "seed": config.seed,
            "limit": config.limit,
            "data": {"split": config.data.split},
            "network": plain(config.network, affecting=True),
            "pot": plain(config.pot, affecting=True) if uses_pot else {},
            "train": training_settings(config.train),
        }
        return settings | ({"external": plain(config.external, affecting=True)} if config.external.used else {})

    def check(self, config: Config, run: RunFolder, photos: PhotoSet, ahead: Ahead) -> None:
        """Also build the network, which finds weights that are missing."""
        super().check(config, run, photos, ahead)
        if self.is_new(run, ahead):
            build_network(config.network, photos.classes, seed=config.seed)

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Train, go on training, or find that it is done.

        Raises:
            UsageError: no photograph has a tag, or the folder holds a network of other settings or other classes.
            Interrupted: the user stopped it; the state is saved.
        """
        result = StageResult(self.name)
        photos = without_damaged(photographs(config, run, together=True), result)
        untagged = [photo.id for photo in photos.photos if not photo.tags]
        if len(untagged) == len(photos.photos):
            raise UsageError(
                f"none of the {len(untagged)} photographs has a tag, so there is nothing to learn; see `tag2mask check`"
            )
        settings = self.fingerprint(config, photos)
        target = run / TRAIN_NETWORK
        if target.is_file():
            run.claim(self, settings)
            load_network(target, classes=photos.classes)
            result.skipped = 1
            if newer := newer_tags(run, photos):
                result.notes.append(
                    f"{newer} decisions about tags are newer than the network that is there; "
                    "--restart train learns anew"
                )
            elif other := self.same_data(run, photos):
                result.notes.append(other)
            return result
        if config.shard is not None:
            raise UsageError(
                "one command trains the network for all shards; run `tag2mask train` without --shard first"
            )
        result.done = 1
        if config.external.used:
            require_seeds(run, photos, result)
        network = build_network(config.network, photos.classes, seed=config.seed)
        run.claim(self, settings)
        run.record_environment(config.seed)
        self.same_data(run, photos)
        record_tags(run, photos)
        views = TrainingSet(
            photos,
            config.train.augment,
            seed=config.seed,
            fill=network.backbone.mean,
            external=(run / "seeds") if config.external.used else None,
            stride=network.stride,
        )
        task = pot_task(network, views, config.train, config.pot, config.external if config.external.used else None)
        steps = self.learn(task, config, run, console, result)
        low = fitted_loss(photos.tag_matrix())
        fitted = fitted_after(run / LOG, low)
        if fitted is not None and 2 * fitted <= steps:
            result.notes.append(
                f"the tags were fitted after {fitted} of {steps} steps (classification loss mostly below {low:.2g} "
                "since); with few photographs, training on widens the CAMs until they fill the image: look at the "
                f"masks, and train less (--train.steps {max(1, fitted)} --restart train) or add photographs"
            )
        if untagged:
            result.notes.append(
                f"{len(untagged)} photographs without tags served as examples of no class: {first_five(untagged)}"
            )
        if config.network.projections and config.train.consistency_weight and config.train.stop_gradient == "pot":
            result.notes.append(
                "the side projections stayed as they were drawn: with train.stop_gradient pot no gradient reaches them"
            )
        return result
