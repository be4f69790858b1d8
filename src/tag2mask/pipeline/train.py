"""The stage `train`: photographs and tags to the POT network."""

from rich.console import Console

from tag2mask.data.training_set import TrainingSet
from tag2mask.errors import UsageError, first_five
from tag2mask.networks.checkpoint import load_network
from tag2mask.networks.pot_network import build_network
from tag2mask.pipeline.base_cams import require_seeds
from tag2mask.pipeline.claims import stage_settings
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.corrections import newer_tags, record_tags, without_damaged
from tag2mask.pipeline.learning import learn
from tag2mask.pipeline.paths import TRAIN_NETWORK
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.reading import photographs
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.training.fitted import fitted_after, fitted_loss
from tag2mask.training.objective import pot_task

LOG = "train/log.jsonl"


def train(config: Config, run: RunFolder, console: Console) -> StageResult:
    """Train, go on training, or find that it is done.

    Raises:
        UsageError: no photograph has a tag, or the folder holds a network of other settings or other classes.
        Interrupted: the user stopped it; the state is saved.
    """
    result = StageResult("train")
    photos = without_damaged(photographs(config, together=True), result)
    untagged = [photo.id for photo in photos.photos if not photo.tags]
    if len(untagged) == len(photos.photos):
        raise UsageError(
            f"none of the {len(untagged)} photographs has a tag, so there is nothing to learn; see `tag2mask check`"
        )
    settings = stage_settings("train", config, photos)
    target = run / TRAIN_NETWORK
    if target.is_file():
        run.claim("train", settings)
        load_network(target, classes=photos.classes)
        result.skipped = 1
        if newer := newer_tags(run, photos):
            result.notes.append(
                f"{newer} decisions about tags are newer than the network that is there; --restart train learns anew"
            )
        return result
    if config.shard is not None:
        raise UsageError("one command trains the network for all shards; run `tag2mask train` without --shard first")
    result.done = 1
    if config.external.used:
        require_seeds(run, photos, result)
    network = build_network(config.network, photos.classes, seed=config.seed)
    run.claim("train", settings)
    run.record_environment(config.seed)
    record_tags(run, photos)
    views = TrainingSet(
        photos,
        config.train.augment,
        seed=config.seed,
        pixel_limit=config.data.pixel_limit,
        intensity=config.data.intensity,
        fill=network.backbone.mean,
        external=(run / "seeds") if config.external.used else None,
        stride=network.stride,
    )
    task = pot_task(network, views, config.train, config.pot, config.external if config.external.used else None)
    steps = learn(task, config.train, config, run, console, result)
    low = fitted_loss(photos.tag_matrix())
    fitted = fitted_after(run / LOG, low)
    if fitted is not None and 2 * fitted <= steps:
        result.notes.append(
            f"the tags were fitted after {fitted} of {steps} steps (classification loss mostly below {low:.2g} since); "
            f"with few photographs, training on widens the CAMs until they fill the image: look at the masks, and "
            f"train less (--train.steps {max(1, fitted)} --restart train) or add photographs"
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
