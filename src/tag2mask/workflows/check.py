"""`check`: is the data sound?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from tag2mask.cams.inference import ImageMaps, image_maps, resize_long_side
from tag2mask.core.device import channels_last, resolve_device
from tag2mask.core.errors import UsageError
from tag2mask.data.dataset import ImageSet, open_images
from tag2mask.data.manifest import ImageItem
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation.check import CheckReport, check
from tag2mask.networks.checkpoint import load_network
from tag2mask.pot import TransportCams
from tag2mask.runs.batches import sized_batches
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import data_of
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import TRAIN_NETWORK, RunFolder
from tag2mask.stages.cams import read_batches


def check_data(config: Config, place: Path, console: Console) -> CheckReport:
    """Check the images in a folder, or those that a tags table names.

    Args:
        config: whose data settings apply; their root, or their table, is replaced by ``place``.
        place: a folder, or a CSV file.
        console: for progress.
    """
    data = _data_at(config, place)
    with progress_bar(console, "check", 100) as advance:  # in per cent: how many there are shows only on the way
        return check(
            data, progress=lambda done, total: advance(100 * done // max(total, 1), f"{done} of {total} images")
        )


def checked_images(config: Config, place: Path) -> ImageSet:
    """The images that `check_data` checks.

    Raises:
        UsageError: the data set is unusable; the check lists why.
    """
    return open_images(_data_at(config, place))


def _data_at(config: Config, place: Path) -> DataSettings:
    """The data settings with their root, or their table, replaced."""
    data = data_of(config, config.out)
    return replace(data, tags=place) if place.is_file() else replace(data, root=place)


WRONG_BELOW = 0.1
"""A tag whose class the classifier gives less than this is doubted. Measured: docs/results.md, wrong tags."""

MISSING_ABOVE = 0.5
"""A class without tag that the classifier gives more than this is missed."""


@dataclass(frozen=True)
class Suspicion:
    """One doubt.

    Attributes:
        photo: ID of the image.
        tag: name of the class.
        kind: `wrong`, the tag is there and should perhaps not be; `missing`, the other way round.
        probability: of the class by the classifier, in [0, 1].
        posterior: the largest share of a pixel that the transport plan gives the class, in [0, 1]; None for `missing`,
            since the plan knows tags alone.
    """

    image: str
    tag: str
    kind: Literal["wrong", "missing"]
    probability: float
    posterior: float | None

    def __str__(self) -> str:
        """As it stands in a list."""
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


def suspicious_tags(config: Config, run: RunFolder, images: ImageSet, console: Console) -> list[Suspicion]:
    """What the network of a run doubts about the tags, the surest doubt first; wrong tags before missing ones.

    Args:
        config: whose settings of CAMs (`long_side`, `precision`) and POT apply; one scale and its mirror image.
        run: a run folder with a trained network.
        photos: the images; they may be those that the network was trained on.
        console: for progress.

    Raises:
        UsageError: the run has no network, or its network knows other classes.
    """
    require_network(run)
    device = resolve_device(config.device)
    network = channels_last(load_network(run / TRAIN_NETWORK, classes=images.classes)).to(device).eval()
    result = StageResult("check")
    found: list[Suspicion] = []
    done = 0
    with progress_bar(console, "tags", len(images)) as advance:
        for batch, pixels in read_batches(sized_batches(images.items, config, result), config, result):
            scaled = resize_long_side(pixels.to(device), config.cams.long_side)
            tags = torch.from_numpy(images.tag_matrix(batch)).to(device)
            bf16 = config.cams.precision == "bf16"
            maps = image_maps(network, scaled, tags, scales=[1.0], flip=True, bf16=bf16)
            found += _doubts(batch, maps, maps.transport(config.pot.one_scale()), images.classes)
            done += len(batch)
            advance(done)
    surest = {"wrong": lambda doubt: doubt.probability, "missing": lambda doubt: -doubt.probability}
    return sorted(found, key=lambda doubt: (doubt.kind == "missing", surest[doubt.kind](doubt), doubt.image))


def _doubts(
    batch: Sequence[ImageItem], maps: ImageMaps, transport: TransportCams, classes: tuple[str, ...]
) -> Iterator[Suspicion]:
    """The doubts about a batch."""
    scores, ids = maps.scores.cpu(), transport.slots.ids.cpu()
    best = transport.posterior.amax((2, 3)).cpu()  # (N, S)
    for number, item in enumerate(batch):
        for index, name in enumerate(classes):
            probability = float(scores[number, index])
            if index + 1 in item.tags and probability < WRONG_BELOW:
                slot = int((ids[number] == index + 1).nonzero()[0])
                yield Suspicion(item.id, name, "wrong", probability, float(best[number, slot]))
            elif index + 1 not in item.tags and probability > MISSING_ABOVE:
                yield Suspicion(item.id, name, "missing", probability, None)
