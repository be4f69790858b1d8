"""The stage `train`: photographs and tags to the POT network."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tag2mask.data.photos import PhotoSet, open_photos
from tag2mask.data.training_set import TrainingSet
from tag2mask.errors import UsageError, first_five
from tag2mask.networks.checkpoint import load_network, save_network
from tag2mask.networks.pot_network import build_network
from tag2mask.pipeline.base_cams import require_seeds
from tag2mask.pipeline.claims import stage_settings
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.progress import StageResult, progress_bar
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.training.engine import train_network
from tag2mask.training.objective import pot_task

NETWORK = "train/network.safetensors"


def photographs(config: Config, split: str | None = None) -> PhotoSet:
    """The photographs that a run works on, as the settings and ``--limit`` say."""
    photos = open_photos(config.data, split=split)
    _refuse_run_inside(photos, config.out)
    return photos if config.limit is None else replace(photos, photos=photos.photos[: config.limit])


def _refuse_run_inside(photos: PhotoSet, out: Path | None) -> None:
    """Refuse a run folder among the photographs: its masks would be read as photographs the next time."""
    if out is not None and photos.root.absolute() in (out.absolute(), *out.absolute().parents):
        raise UsageError(
            f"--out {out} lies inside the data root {photos.root}; choose a folder outside it, "
            "or the next run takes its masks for photographs"
        )


def reading_workers(config: Config) -> int:
    """How many processes or threads read photographs: all cores but one, at most 8, unless the user says."""
    return min(8, max(1, (os.cpu_count() or 2) - 1)) if config.workers is None else config.workers


def train(config: Config, run: RunFolder, console: Console) -> StageResult:
    """Train, go on training, or find that it is done.

    Raises:
        UsageError: no photograph has a tag, or the folder holds a network of other settings or other classes.
        Interrupted: the user stopped it; the state is saved.
    """
    photos = photographs(config)
    untagged = [photo.id for photo in photos.photos if not photo.tags]
    if len(untagged) == len(photos.photos):
        raise UsageError(
            f"none of the {len(untagged)} photographs has a tag, so there is nothing to learn; see `tag2mask check`"
        )
    settings = stage_settings("train", config, photos)
    target = run / NETWORK
    if target.is_file():
        run.claim("train", settings)
        load_network(target, classes=photos.classes)
        return StageResult("train", skipped=1)
    result = StageResult("train", done=1)
    if config.external.used:
        require_seeds(run, photos, result)
    network = build_network(config.network, photos.classes, seed=config.seed)
    run.claim("train", settings)
    run.record_environment(config.seed)
    views = TrainingSet(
        photos,
        config.train.augment,
        seed=config.seed,
        pixel_limit=config.data.pixel_limit,
        fill=network.backbone.mean,
        external=run / "seeds" if config.external.used else None,
        stride=network.stride,
    )
    total = config.train.total_steps(len(photos.photos))
    with progress_bar(console, "train", total) as advance:

        def on_step(done: int, total: int, values: Mapping[str, float]) -> None:
            advance(done, f"loss {values['loss']:.4f}, {values['images_per_second']:.1f} images/s")

        trained = train_network(
            pot_task(network, views, config.train, config.pot, config.external if config.external.used else None),
            config.train,
            folder=run / "train",
            seed=config.seed,
            device=config.device,
            workers=reading_workers(config),
            on_step=on_step,
        )
    save_network(target, network)
    result.failed = trained.unreadable
    if untagged:
        result.notes.append(
            f"{len(untagged)} photographs without tags served as examples of no class: {first_five(untagged)}"
        )
    if config.network.projections and config.train.consistency_weight and config.train.stop_gradient == "pot":
        result.notes.append(
            "the side projections stayed as they were drawn: with train.stop_gradient pot no gradient reaches them"
        )
    if trained.resumed_from:
        result.notes.append(f"went on from step {trained.resumed_from} of {trained.steps}")
    return result
