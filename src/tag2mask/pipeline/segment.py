"""The stage `segment`: masks to a segmentation network that needs no tags."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from rich.console import Console
from torch import nn

from tag2mask.data.images import read_image, read_mask
from tag2mask.data.labelled_set import LabelledSet
from tag2mask.data.photos import PhotoSet
from tag2mask.errors import UsageError
from tag2mask.evaluate import Confusion
from tag2mask.networks.checkpoint import load_segmentation_network, save_network
from tag2mask.networks.segmentation import build_segmentation_network
from tag2mask.pipeline.claims import stage_settings
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.evaluate import class_ids, with_truth
from tag2mask.pipeline.progress import StageResult, progress_bar
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.pipeline.train import photographs, reading_workers
from tag2mask.predictor import SEGMENT_NETWORK
from tag2mask.training.engine import check_engine, train_network
from tag2mask.training.segmentation import segmentation_task

MASKS = "masks"


def segment(config: Config, run: RunFolder, console: Console) -> StageResult:
    """Train the segmentation network on the run's masks (or on the truth), or go on training.

    Raises:
        UsageError: there are no masks to learn from, or the folder holds a network of other settings or classes.
        Interrupted: the user stopped it; the state is saved.
    """
    photos = photographs(config)
    labelled = _labelled(config, run, photos)
    run.claim("segment", stage_settings("segment", config, photos))
    result = StageResult("segment", done=1)
    target = run / SEGMENT_NETWORK
    if target.is_file():
        load_segmentation_network(target, classes=photos.classes)
        return StageResult("segment", skipped=1)
    check_engine("segment", config.segment, config.device)
    network = build_segmentation_network(config.segment.network, photos.classes, seed=config.seed)
    samples = LabelledSet(
        labelled,
        None if config.segment.labels == "truth" else run / MASKS,
        config.segment.augment,
        seed=config.seed,
        pixel_limit=config.data.pixel_limit,
        fill=network.backbone.mean,
    )
    total = config.segment.total_steps(len(labelled.photos))
    with progress_bar(console, "segment", total) as advance:

        def on_step(done: int, total: int, values: Mapping[str, float]) -> None:
            measured = f", mIoU {100 * values['validation_miou']:.1f}" if "validation_miou" in values else ""
            advance(done, f"loss {values['loss']:.4f}, {values['images_per_second']:.1f} images/s{measured}")

        trained = train_network(
            segmentation_task(network, samples, config.segment, _validation(config)),
            config.segment,
            folder=run / "segment",
            seed=config.seed,
            device=config.device,
            workers=reading_workers(config),
            on_step=on_step,
        )
    save_network(target, network)
    result.failed = trained.unreadable
    lacking = len(photos.photos) - len(labelled.photos)
    if lacking:
        result.notes.append(f"{lacking} photographs have no mask to learn from, and were left out")
    if trained.resumed_from:
        result.notes.append(f"went on from step {trained.resumed_from} of {trained.steps}")
    return result


def _labelled(config: Config, run: RunFolder, photos: PhotoSet) -> PhotoSet:
    """The photographs with a mask to learn from.

    Raises:
        UsageError: there is none.
    """
    if config.segment.labels == "truth":
        found = with_truth(photos)
        if not found.photos:
            raise UsageError(
                "segment.labels truth needs ground truth, and no photograph has any; --data.masks names it"
            )
        return found
    found = replace(
        photos, photos=tuple(photo for photo in photos.photos if (run / MASKS / f"{photo.id}.png").is_file())
    )
    if not found.photos:
        raise UsageError(
            f"{run / MASKS} holds no mask of these photographs; run `tag2mask refine` with the same --out first"
        )
    return found


def _validation(config: Config) -> Callable[[nn.Module], Mapping[str, float]] | None:
    """What measures the network while it trains: mIoU on the first split of `evaluate.splits`; None without truth."""
    if config.segment.validate_every is None:
        return None
    photos = with_truth(photographs(config, config.evaluate.split_names(config.data.split)[0]))
    ids = class_ids(config.evaluate.class_names(), photos.classes)
    if not photos.photos:
        return None

    @torch.no_grad()
    def measure(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        confusion = Confusion(len(photos.classes) + 1)
        for photo in photos.photos:
            image = torch.from_numpy(read_image(photo.path, pixel_limit=config.data.pixel_limit)).to(device)
            logits = network.full_logits(image.permute(2, 0, 1)[None].float() / 255)  # type: ignore[operator]
            truth = read_mask(photo.mask, size=image.shape[:2], classes=len(photos.classes))  # type: ignore[arg-type]
            confusion.update(logits.argmax(1)[0].byte().cpu().numpy(), truth)
        return {"validation_miou": confusion.miou(ids)}

    return measure
