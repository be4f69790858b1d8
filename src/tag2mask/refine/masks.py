"""From CAMs to pseudo masks by the method of the settings, and to the training labels of the edge network."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.core.profile import timed
from tag2mask.data.images import IGNORED
from tag2mask.networks.backbones.base import to_grid
from tag2mask.networks.edge_network import EDGE_STRIDE
from tag2mask.refine.crf import crf_kernels, dense_crf, label_probabilities
from tag2mask.refine.proposals import Propose, named
from tag2mask.refine.random_walk import RADIUS, STEPS, propagate
from tag2mask.refine.settings import (
    BACKGROUND_LEVELS,
    LABEL_CONFIDENCE,
    LABEL_CRF,
    WALK_POWER,
    RefineSettings,
    SureSettings,
    WalkSettings,
)

_LEAST = 1e-8
"""Lower bound on the maximum after a walk, by which maps are divided."""


@dataclass(frozen=True)
class ClassMaps:
    """Maps of the classes of an image."""

    ids: Tensor  # uint8 (K,), class ids, ascending; 0 is background, which may be missing
    maps: Tensor  # float32 (K, h, w), not negative

    @property
    def has_background(self) -> bool:
        """Whether background is one of the maps."""
        return bool(self.ids.numel()) and int(self.ids[0]) == 0

    def resized(self, size: tuple[int, int]) -> "ClassMaps":
        """The maps at (H, W), bilinear with ``align_corners=False``."""
        if self.maps.shape[1:] == size or not len(self.ids):
            return ClassMaps(self.ids, self.maps if len(self.ids) else self.maps.new_zeros(0, *size))
        return ClassMaps(self.ids, F.interpolate(self.maps[None], size=size, mode="bilinear")[0])

    def with_thresholds(self, thresholds: Mapping[int, float], level: float) -> "ClassMaps":
        """The maps to powers that take the threshold of a class, in (0, 1), to ``level``; other classes stay."""
        powers = [log(level) / log(thresholds.get(class_id, level)) for class_id in self.ids.tolist()]
        return ClassMaps(self.ids, self.maps ** self.maps.new_tensor(powers)[:, None, None])

    def with_background(self, level: float) -> "ClassMaps":
        """The maps with a background; if there is none, a constant one of this value is added."""
        if self.has_background:
            return self
        background = self.maps.new_full((1, *self.maps.shape[1:]), level)
        return ClassMaps(torch.cat([self.ids.new_zeros(1), self.ids]), torch.cat([background, self.maps]))

    def labels(self, confidence: float | None = None) -> Tensor:
        """The class of the highest map at each pixel, the lower id of equal ones: uint8 (h, w).

        Where the highest map is below ``confidence``, the label is 255.
        """
        highest, place = self.maps.max(0)
        labels = self.ids[place]
        return labels if confidence is None else labels.masked_fill(highest < confidence, IGNORED)


@timed("method")
def refined_mask(
    image: Tensor,
    cams: ClassMaps,
    size: tuple[int, int],
    settings: RefineSettings,
    edge: Tensor | None = None,
    propose: Propose | None = None,
) -> Tensor:
    """The mask of an image: uint8 (H, W), class ids of the CAMs, 0 = background, 255 = ignored.

    Args:
        image: uint8 (H', W', 3), RGB, at the size of refinement; not used by `argmax`.
        cams: in [0, 1], on any grid.
        size: (H, W) of the mask.
        edge: (ceil(H' / 4), ceil(W' / 4)) in [0, 1], for methods with a random walk.
        propose: for the method `proposals`.
    """
    maps = cams
    if settings.walks:
        if edge is None:
            raise ValueError(f"refined_mask needs an edge for the method {settings.method}")
        maps = _walked(cams, edge, _size(image), settings.walk)
    if settings.uses_crf:
        maps = maps.resized(_size(image)).with_background(settings.background_threshold)
        posterior = dense_crf(image, maps.maps**settings.crf_power, settings.crf)
        if propose is not None:
            posterior = named(posterior, propose(image, maps.ids, maps.maps, posterior))
        maps = ClassMaps(maps.ids, posterior)
    return maps.resized(size).with_background(settings.background_threshold).labels(settings.ignore_below)


def _walked(cams: ClassMaps, edge: Tensor, size: tuple[int, int], settings: WalkSettings) -> ClassMaps:
    """CAMs after the walk, at (H', W'), divided by the maximum of the image, with a background."""
    grid = cams.resized(_size(edge))
    maps = grid.maps.new_zeros(0, *size)
    if len(cams.ids):
        maps = propagate(grid.maps**WALK_POWER, edge, radius=RADIUS, beta=settings.beta, steps=STEPS)
        maps = to_grid(maps[None], EDGE_STRIDE, 1, size)[0]
        # One factor per image, as published: it only affects a background that was not part of the walk.
        maps = maps / maps.max().clamp_min(_LEAST)
    return ClassMaps(cams.ids, maps).with_background(settings.background_level)


@timed("method")
def sure_labels(image: Tensor, maps: ClassMaps, settings: SureSettings) -> Tensor:
    """The training labels of the edge network, from two CRFs: with a strong background and with a weak one.

    A pixel has a class where the first CRF finds one, background where the second finds background, and 255 otherwise.

    Args:
        image: uint8 (H, W, 3), RGB, on the device that computes.
        maps: (K, H, W).

    Returns:
        uint8 (H, W).

    Source: IRN for maps without background, SIPE for maps with one.
    """
    kernels = crf_kernels(image, LABEL_CRF, maps.maps.device)
    found = []
    for number in range(2):
        each = _with_background(maps, settings, number)
        given = label_probabilities(each.maps.argmax(0), len(each.ids), LABEL_CONFIDENCE)
        found.append(each.ids[dense_crf(image, given, LABEL_CRF, kernels=kernels).argmax(0)])
    strict, loose = found
    return torch.where((strict == 0) & (loose != 0), IGNORED, strict)


def _with_background(own: ClassMaps, settings: SureSettings, number: int) -> ClassMaps:
    """The maps of a pass."""
    if not own.has_background:
        return own.with_background(BACKGROUND_LEVELS[number])
    factor = torch.ones(len(own.ids), 1, 1, device=own.maps.device)
    factor[0] = settings.background_factors[number]
    return ClassMaps(own.ids, own.maps * factor)


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])
