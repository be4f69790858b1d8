"""Segmentations in COCO's format: polygons, and run lengths as a list or as compressed text."""

from collections.abc import Iterator
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_masks

Size = tuple[int, int]
"""(H, W) in pixels."""

Runs = dict[str, Any]
"""Run lengths as pycocotools takes them: ``size`` and ``counts``."""

MIN_COORDINATES = 6  # of the smallest polygon, three points


def as_polygons(segmentation: Any) -> tuple[Any, str]:
    """A segmentation with its polygons as lists x, y, x, y, …, and a note if they were written differently.

    One list of numbers, or of at least three points [x, y], is one polygon; a list of lists of points is several.
    """
    if not isinstance(segmentation, list) or not segmentation:
        return segmentation, ""
    if type(segmentation[0]) in (int, float):
        return [segmentation], "a list of numbers in place of a list of polygons is read as one polygon"
    nested = isinstance(segmentation[0], list) and segmentation[0] and isinstance(segmentation[0][0], list)
    polygons = segmentation if nested else [segmentation]
    if not all(_is_points(polygon) for polygon in polygons):
        return segmentation, ""
    return [[number for point in polygon for number in point] for polygon in polygons], "points [x, y] make polygons"


def is_normalised(segmentation: object) -> bool:
    """Whether all polygons are in the first pixel, with fractions: coordinates may be relative to the image size."""
    polygons = segmentation if isinstance(segmentation, list) else []
    drawn = [polygon for polygon in polygons if len(polygon) >= MIN_COORDINATES]
    inside = all(min(polygon) >= 0 and max(polygon) <= 1 for polygon in drawn)
    return inside and any(number % 1 for polygon in drawn for number in polygon)


def segmentation_fault(segmentation: object, size: Size) -> str | None:
    """Why a segmentation of an image of that size cannot be rasterised; None if it can be, or is empty."""
    if isinstance(segmentation, list):
        faults = (_polygon_fault(polygon, size) for polygon in segmentation)
        return next((fault for fault in faults if fault), None)
    if isinstance(segmentation, dict):
        return _runs_fault(segmentation, size)
    if segmentation is None:
        return None
    return "it should be a list of polygons, or run lengths with `size` and `counts`"


def is_empty(segmentation: object) -> bool:
    """Whether a segmentation is empty, or has a polygon of fewer than 3 points."""
    return not segmentation or (
        isinstance(segmentation, list) and any(len(polygon) < MIN_COORDINATES for polygon in segmentation)
    )


def to_runs(segmentation: Any, size: Size) -> Runs | None:
    """A valid segmentation as run lengths; None if it is empty. Source: pycocotools; polygons are united."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= MIN_COORDINATES]
        united: Runs = coco_masks.merge(coco_masks.frPyObjects(polygons, *size)) if polygons else {}
        return united or None
    if segmentation and isinstance(segmentation["counts"], list):
        runs: Runs = coco_masks.frPyObjects(segmentation, *size)
        return runs
    return segmentation or None


def area(runs: Runs) -> int:
    """The pixels that run lengths cover."""
    return int(coco_masks.area(runs))


def pixels(runs: Runs) -> npt.NDArray[np.bool_]:
    """Run lengths as a mask, bool (H, W)."""
    covered: npt.NDArray[np.bool_] = coco_masks.decode(runs).astype(np.bool_)
    return covered


def _is_points(polygon: object) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) >= MIN_COORDINATES // 2
        and all(
            isinstance(each, list) and len(each) == 2 and {type(x) for x in each} <= {int, float} for each in polygon
        )
    )


def _polygon_fault(polygon: object, size: Size) -> str | None:
    if not isinstance(polygon, list) or len(polygon) % 2:
        return "a polygon should be a list x, y, x, y, … of an even number of coordinates"
    try:
        finite = set(map(type, polygon)) <= {int, float} and all(map(isfinite, polygon))
    except OverflowError:  # an integer beyond the range of floats
        finite = False
    if not finite:
        return "a polygon's coordinates should be finite numbers"
    # The rasteriser walks along each edge pixel by pixel, and its integers overflow far outside.
    reach = max(size)
    if polygon and not -reach <= min(polygon) <= max(polygon) <= 2 * reach:
        return f"a polygon lies far outside the image, which is {size[1]} × {size[0]} pixels"
    return None


def _runs_fault(runs: Runs, size: Size) -> str | None:
    # pycocotools leaves pixels undefined if the run lengths do not fill the image.
    if not runs:
        return None
    if runs.get("size") != list(size):
        return f"its run lengths are of the size {runs.get('size')}, its image's is {list(size)} (height, width)"
    counts = runs.get("counts")
    try:
        numbers = list(_decoded(counts)) if isinstance(counts, str) else counts
    except ValueError as reason:
        return f"its run lengths are damaged ({reason})"
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        return "its run lengths should be counts of pixels, none below 0, or COCO's text for them"
    if sum(numbers) != size[0] * size[1]:
        return f"its run lengths add up to {sum(numbers)} pixels, its image has {size[0] * size[1]}"
    return None


def _decoded(text: str) -> Iterator[int]:
    """The numbers in compressed run lengths; a `ValueError` if the text is damaged."""
    # Five bits per character, the lowest first, from character 48 on; the sixth bit says that more follow, the fifth of
    # the last is the sign. From the fourth number on it is the difference from the last but one.
    before: list[int] = [0, 0]
    place, value, shift = 0, 0, 0
    for sign in text:
        bits = ord(sign) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"the character {sign!r} has no meaning here")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if place > 2:
            value += before[0]
        yield value
        before = [before[1], value]
        place, value, shift = place + 1, 0, 0
    if shift:
        raise ValueError("the last number is cut off")
