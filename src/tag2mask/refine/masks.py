"""From CAMs to masks, by the method that the settings name."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from tag2mask.networks.edge_network import EDGE_STRIDE
from tag2mask.networks.stages import to_grid
from tag2mask.refine.crf import dense_crf
from tag2mask.refine.labels import ClassMaps
from tag2mask.refine.random_walk import propagate
from tag2mask.refine.settings import RefineSettings, WalkSettings

_LEAST = 1e-8
"""The highest value after a walk is taken for this at least."""


class RefinedMask(NamedTuple):
    """What refinement makes of a photograph.

    Attributes:
        labels: uint8 (H, W), class ids among those of its CAMs, 0 = background, 255 = not sure.
        confidence: float32 (H, W), the probability of the best label by the CRF; None without a CRF.
    """

    labels: Tensor
    confidence: Tensor | None


def refined_masks(
    images: Sequence[Tensor],
    cams: Sequence[ClassMaps],
    sizes: Sequence[tuple[int, int]],
    settings: RefineSettings,
    edges: Sequence[Tensor] | None = None,
) -> list[RefinedMask]:
    """The masks of photographs.

    Args:
        images: uint8 (H', W', 3), RGB, at the size in which they are refined; not read by `argmax`.
        cams: of each, in [0, 1], on a grid of its own.
        sizes: (H, W) of each mask.
        settings: the method.
        edges: (ceil(H' / 4), ceil(W' / 4)) in [0, 1] of each, for methods with a random walk.

    Returns:
        one for each, at its size.
    """
    maps = list(cams)
    if settings.walks:
        if edges is None:
            raise ValueError(f"refined_masks needs edges for the method {settings.method}")
        maps = _walked(cams, edges, [_size(image) for image in images], settings.walk)
    if settings.uses_crf:
        maps = [
            own.resized(_size(image)).with_background(settings.background_threshold, settings.background_power)
            for own, image in zip(maps, images, strict=True)
        ]
        marginals = dense_crf(images, [own.maps**settings.crf_power for own in maps], settings.crf)
        maps = [ClassMaps(own.ids, q) for own, q in zip(maps, marginals, strict=True)]
    final = [own.resized(size) for own, size in zip(maps, sizes, strict=True)]
    whole = [own.with_background(settings.background_threshold, settings.background_power) for own in final]
    return [
        RefinedMask(own.labels(settings.confidence), own.maps.amax(0) if settings.uses_crf else None) for own in whole
    ]


def _walked(
    cams: Sequence[ClassMaps], edges: Sequence[Tensor], sizes: Sequence[tuple[int, int]], settings: WalkSettings
) -> list[ClassMaps]:
    """CAMs after the walk, at (H', W'), the highest value of each photograph 1, with a background."""
    walked = []
    for own, edge, size in zip(cams, edges, sizes, strict=True):
        grid = own.resized(_size(edge))
        maps = grid.maps.new_zeros(0, *size)
        if len(own.ids):
            maps = propagate(
                grid.maps**settings.power, edge, radius=settings.radius, beta=settings.beta, steps=settings.steps
            )
            maps = to_grid(maps[None], EDGE_STRIDE, 1, size)[0]
            # One factor for a whole photograph, as published: it only matters to a background that did not walk.
            maps = maps / maps.max().clamp_min(_LEAST)
        walked.append(ClassMaps(own.ids, maps).with_background(settings.background_level))
    return walked


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])
