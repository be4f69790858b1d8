"""`check`: problems of a data set, and the audit of its tags by a trained network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from tag2mask.cams.inference import ImageMaps, image_maps, resize_long_side
from tag2mask.core.device import channels_last, precision_on, resolve_device
from tag2mask.core.errors import UsageError
from tag2mask.data.dataset import ImageSet, open_images
from tag2mask.data.manifest import ImageItem
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation.check import CheckReport, check
from tag2mask.networks.checkpoint import load_network
from tag2mask.networks.settings import FEATURE_STRIDE, FINEST_FEATURE_STRIDE
from tag2mask.pot import TransportCams
from tag2mask.runs.batches import read_batches, sized_batches
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import CORRECTIONS, run_corrections
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import TRAIN_NETWORK, RunFolder

WRONG_BELOW = 0.1
"""Classifier probability below which a tag is listed as possibly wrong. Measured: docs/results.md, wrong tags."""

MISSING_ABOVE = 0.5
"""Classifier probability above which a class is listed as a possibly missing tag."""


SHRUNK = 2
"""Images whose longer side is this many times `cams.long_side`, on average, are reported as shrunk; ours."""


def check_data(config: Config, place: Path, run: RunFolder | None, console: Console) -> CheckReport:
    """Check the images in a folder, or those that a tags table names.

    Args:
        config: its data settings apply; ``place`` replaces their root, or their table. `cams.long_side` and
            `network.output_stride` tell what becomes of large images.
        place: a folder, or a CSV file.
        run: a run whose corrections are checked as well.
        console: for progress.
    """
    corrections = None if run is None else run / CORRECTIONS
    with progress_bar(console, "check", 100) as advance:  # in per cent: the number of images is not known yet

        def progress(done: int, total: int) -> None:
            advance(100 * done // max(total, 1), f"{done} of {total} images")

        report = check(_data_at(config, place), corrections=corrections, progress=progress)
    return replace(report, notes=(*report.notes, *_shrinking(config, report.long_side)))


def _shrinking(config: Config, own: int | None) -> Iterator[str]:
    """What shrinking images from a longer side of ``own`` pixels to `cams.long_side` does to small things."""
    target = config.cams.long_side
    if own is None or target is None or own < SHRUNK * target:
        return
    stride = min(FEATURE_STRIDE, config.network.output_stride)
    cell = round(stride * own / target)
    finer = " --network.output_stride 8 makes cells half as large," if stride > FINEST_FEATURE_STRIDE else ""
    yield (
        f"images are {own} pixels long on average and shrunk to cams.long_side {target}, {own / target:.1f} times: one "
        f"cell of the CAMs covers about {cell} × {cell} pixels; masks of smaller things are misplaced or too large. "
        f"For those,{finer} --cams.long_side null keeps the size (with --train.augment.long_side to match), or cut the "
        f"images into pieces before you tag them"
    )


def checked_images(config: Config, place: Path, run: RunFolder) -> ImageSet:
    """The images that `check_data` checks, with the corrections of a run.

    Raises:
        UsageError: the data set is unusable; the check lists why.
    """
    images = open_images(_data_at(config, place))
    return images.corrected(run_corrections(run, images.classes))


def _data_at(config: Config, place: Path) -> DataSettings:
    return replace(config.data, tags=place) if place.is_file() else replace(config.data, root=place)


@dataclass(frozen=True)
class TagFinding:
    """A tag that a network contradicts.

    Attributes:
        image: ID of the image.
        tag: name of the class.
        kind: `wrong`: the image has the tag; `missing`: it does not.
        probability: of the class by the classifier, in [0, 1].
        posterior: the maximum over all pixels of the share that the transport plan gives the class, in [0, 1]; None
            for `missing`, since the plan contains tagged classes only.
    """

    image: str
    tag: str
    kind: Literal["wrong", "missing"]
    probability: float
    posterior: float | None

    def __str__(self) -> str:
        """A line of a list."""
        if self.posterior is None:
            return f"{self.image}: `{self.tag}` may be missing (classifier {self.probability:.0%})"
        return (
            f"{self.image}: `{self.tag}` may be wrong (classifier {self.probability:.0%}, "
            f"plan at most {self.posterior:.0%} of a pixel)"
        )


def require_network(run: RunFolder) -> None:
    """Refuse a run without a trained network."""
    if not (run / TRAIN_NETWORK).is_file():
        raise UsageError(
            f"{run / TRAIN_NETWORK} does not exist; --with takes the folder of a run that has been trained"
        )


def audit_tags(config: Config, run: RunFolder, images: ImageSet, console: Console) -> list[TagFinding]:
    """Tags that the network of a run contradicts: wrong ones, then missing ones, each from the clearest on.

    Args:
        config: its settings of CAMs (`long_side`, `precision`) and POT apply, at one scale and mirrored.
        run: a run with a trained network.
        images: may be those that the network was trained on.
        console: for progress.

    Raises:
        UsageError: the run has no network, or its network has other classes.
    """
    require_network(run)
    device = resolve_device(config.device)
    network = channels_last(load_network(run / TRAIN_NETWORK, classes=images.classes)).to(device).eval()
    if network.settings.freeze:
        raise UsageError(
            f"the network of {run.path} has a frozen backbone: its scores rank cells, not images, and cannot doubt "
            f"tags; name a run whose network was trained (network.freeze false)"
        )
    bf16 = precision_on(config.cams.precision, device) == "bf16"
    result = StageResult("check")
    found: list[TagFinding] = []
    done = 0
    with progress_bar(console, "tags", len(images)) as advance:
        for batch, pixels in read_batches(sized_batches(images.items, config, result), config, result):
            scaled = resize_long_side(pixels.to(device), config.cams.long_side)
            tags = torch.from_numpy(images.tag_matrix(batch)).to(device)
            maps = image_maps(network, scaled, tags, scales=[1.0], flip=True, bf16=bf16)
            found += _findings(batch, maps, maps.transport(config.pot), images.classes)
            done += len(batch)
            advance(done)
    sign = {"wrong": 1, "missing": -1}
    return sorted(found, key=lambda each: (each.kind == "missing", sign[each.kind] * each.probability, each.image))


def _findings(
    batch: Sequence[ImageItem], maps: ImageMaps, transport: TransportCams, classes: tuple[str, ...]
) -> Iterator[TagFinding]:
    scores, ids = maps.scores.cpu(), transport.slots.ids.cpu()
    best = transport.posterior.amax((2, 3)).cpu()  # (N, S)
    for number, item in enumerate(batch):
        for index, name in enumerate(classes):
            probability = float(scores[number, index])
            if index + 1 in item.tags and probability < WRONG_BELOW:
                slot = int((ids[number] == index + 1).nonzero()[0])
                yield TagFinding(item.id, name, "wrong", probability, float(best[number, slot]))
            elif index + 1 not in item.tags and probability > MISSING_ABOVE:
                yield TagFinding(item.id, name, "missing", probability, None)
