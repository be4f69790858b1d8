"""Methods on cached maps: counts of correct pixels per image.

A method turns the maps of an image into a label for each pixel. Counts per image allow intervals and paired
differences.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from error_bars import Counts, counts_of
from maps import ImageMaps
from tag2mask.pot import PotSettings, transport_cams

_BATCH = 16


@dataclass(frozen=True)
class Method:
    """A method from maps to labels.

    Attributes:
        name: in tables.
        pot: settings of POT; None for the classifier's CAM.
        threshold: background threshold of the classifier's CAM.
    """

    name: str
    pot: PotSettings | None = None
    threshold: float = 0.0


def classifier(threshold: float) -> Method:
    """The classifier's CAM with a background threshold."""
    return Method(f"classifier, background up to {threshold:g}", threshold=threshold)


def pot(name: str, base: PotSettings | None = None, **changes: Any) -> Method:
    """POT with changed settings."""
    return Method(name, replace(base or PotSettings(), **changes))


def count(method: Method, images: Sequence[ImageMaps], classes: int) -> tuple[Counts, float]:
    """The counts of each image, (images, classes + 1, 3), and the seconds for the maps."""
    counts = np.zeros((len(images), classes + 1, 3), dtype=np.int64)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        groups[tuple(image.cams.shape[2:])].append(number)
    seconds = 0.0
    for group in groups.values():
        for first in range(0, len(group), _BATCH):
            numbers = group[first : first + _BATCH]
            start = time.perf_counter()
            maps = _maps(method, [images[number] for number in numbers], classes)
            seconds += time.perf_counter() - start
            for number, own in zip(numbers, maps, strict=True):
                counts[number] = _count_one(own, images[number], classes)
    return counts, seconds


@torch.no_grad()
def _maps(method: Method, batch: Sequence[ImageMaps], classes: int) -> Tensor:
    """(N, C + 1, h, w), background first; absent classes below 0."""
    grid = batch[0].cams.shape[2:]
    cams, tags = torch.zeros(len(batch), classes, *grid), torch.zeros(len(batch), classes, dtype=torch.bool)
    for number, image in enumerate(batch):
        cams[number, image.ids - 1] = image.cams[0]
        tags[number, image.ids - 1] = True
    if method.pot is None:
        maps = torch.cat([torch.full_like(cams[:, :1], method.threshold), cams], 1)
    else:
        maps = transport_cams(torch.cat([image.features for image in batch]), cams, tags, method.pot).cams
    present = torch.cat([torch.ones(len(batch), 1, dtype=torch.bool), tags], 1)
    return maps.masked_fill(~present[:, :, None, None], -1.0)


def _count_one(maps: Tensor, image: ImageMaps, classes: int) -> Counts:
    """Intersection, truth and prediction of each class at the image's size."""
    ids = torch.cat([torch.zeros(1, dtype=torch.int64), image.ids])
    full = F.interpolate(maps[None, ids], size=image.truth.shape, mode="bilinear", align_corners=False)[0]
    return counts_of(ids[full.argmax(0)].numpy().astype(np.uint8), image.truth.numpy().astype(np.uint8), classes)
