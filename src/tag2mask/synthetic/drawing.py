"""Textures, signed distance functions of shapes, and layers: painted objects on small canvases.

Distances are negative inside, zero on the outline, in the unit of the coordinates. A mask is exactly where the distance
is negative; the painted edge is smooth over one pixel. Shapes take coordinates ``x``, ``y`` float32 (h, w) and return
float32 (h, w). Source: the usual distance functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

Colour = tuple[float, float, float]
"""RGB in [0, 1]."""

Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From coordinates (h, w) in units of a body length to the share of the second colour, (h, w) in [0, 1]."""

Point = tuple[float, float]
Box = tuple[slice, slice]
WHOLE: Box = (slice(None), slice(None))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise, float32 ``shape`` in about [-1, 1], with ``cells`` random values down and across."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells[0] + 2, cells[1] + 2)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def blend(first: Colour, second: Colour, share: np.ndarray | float) -> np.ndarray:
    """Colours between two, float32 (…, 3): ``first`` where ``share`` (…) is 0, ``second`` where it is 1."""
    start = np.array(first, dtype=np.float32)
    way = np.array(second, dtype=np.float32) - start
    return np.asarray(np.asarray(share, dtype=np.float32)[..., None] * way + start)


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """One colour between two."""
    red, green, blue = (a * (1 - share) + b * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def step(value: np.ndarray, softness: float = 0.15) -> np.ndarray:
    """A smooth step from 0 where ``value`` is negative to 1 where it is positive."""
    return np.asarray(np.clip(value / softness * 0.5 + 0.5, 0, 1))


def stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Vertical wavy stripes."""
    return step(np.sin(52 * x + 1.6 * np.sin(14 * y)))


def bands(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Horizontal wavy bands."""
    return step(np.sin(60 * y + 0.8 * np.sin(16 * x)))


def spots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Round spots in staggered rows."""
    row = np.floor(y * 12)
    u = np.mod(x * 12 + 0.5 * np.mod(row, 2), 1) - 0.5
    v = np.mod(y * 12, 1) - 0.5
    return step(0.32 - np.hypot(u, v), 0.08)


def scales(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Overlapping fish scales."""
    row = np.floor(y * 14)
    u = np.mod(x * 11 + 0.5 * np.mod(row, 2), 1) - 0.5
    v = np.mod(y * 14, 1)
    return step(np.asarray(np.abs(np.hypot(u * 1.1, v) - 0.6) - 0.14), 0.1)


def checks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A chessboard rotated by 45 degrees."""
    return step(np.sin(34 * (x + y)) * np.sin(34 * (x - y)))


def mottle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Irregular clouds."""
    waves = np.sin(23 * x + 3 * np.sin(17 * y)) + np.sin(29 * y + 2 * np.sin(19 * x + 1)) + np.sin(41 * (x - 0.6 * y))
    return np.asarray(np.clip(0.5 + 0.3 * waves, 0, 1))


def ellipse(x: np.ndarray, y: np.ndarray, centre: Point, radii: Point) -> np.ndarray:
    """An axis-aligned ellipse; the distance is approximate away from the outline."""
    u, v = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
    reach = np.hypot(u, v)
    slope = np.hypot(u / radii[0], v / radii[1])
    return np.where(slope > 1e-6, reach * (reach - 1) / np.maximum(slope, 1e-6), np.float32(-min(radii)))


def capsule(x: np.ndarray, y: np.ndarray, start: Point, end: Point, radii: Point) -> np.ndarray:
    """A rod with round ends, with radius ``radii[0]`` at ``start`` and ``radii[1]`` at ``end``."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
    away = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    return np.asarray(away - (radii[0] + along * (radii[1] - radii[0])))


def convex_polygon(x: np.ndarray, y: np.ndarray, corners: Sequence[Point]) -> np.ndarray:
    """A convex polygon, with corners clockwise in the image (y down)."""
    distance = np.full_like(x, -np.inf)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-12)
        normal = ((y1 - y0) / length, (x0 - x1) / length)  # outwards
        distance = np.maximum(distance, (x - x0) * normal[0] + (y - y0) * normal[1])
    return distance


@dataclass(frozen=True)
class Part:
    """A shape and its paint.

    Attributes:
        distance: float32 (h, w), signed.
        rgb: float32 (h, w, 3), or (3,) for one colour.
        face: whether the part belongs to a face.
        window: the region of the canvas that ``distance`` and ``rgb`` cover.
    """

    distance: np.ndarray
    rgb: np.ndarray
    face: bool = False
    window: Box = WHOLE


@dataclass(frozen=True)
class Layer:
    """A painted object, cropped to its extent.

    Attributes:
        rgb: float32 (h, w, 3), colours times ``alpha``.
        alpha: float32 (h, w) in [0, 1], coverage; smooth at the edge.
        inside: bool (h, w), its mask: pixels whose centre it covers.
        face: bool (h, w), pixels of a face.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    inside: np.ndarray
    face: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Part], shape: tuple[int, int], *, unit: float, roundness: float) -> "Layer":
        """Paint parts over each other, the first at the bottom, and shade them as one solid.

        Args:
            parts: on one canvas.
            shape: (h, w) of the canvas.
            unit: pixels per distance of 1.
            roundness: distance from the outline over which shading falls off.
        """
        rgb, alpha = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32)
        union, face = np.full(shape, np.inf, np.float32), np.zeros(shape, bool)
        for part in parts:
            cover = np.clip(0.5 - part.distance * np.float32(unit), 0, 1)
            near = bounds(cover > 0)
            cover, colours = cover[near], part.rgb[near] if part.rgb.ndim == 3 else part.rgb
            views = (array[part.window] for array in (rgb, alpha, union, face))
            rgb_there, alpha_there, union_there, face_there = (view[near] for view in views)
            rgb_there += (colours - rgb_there) * cover[..., None]
            alpha_there += (1 - alpha_there) * cover
            np.minimum(union_there, part.distance[near], out=union_there)
            face_there[part.distance[near] < 0] = part.face
        box = bounds(alpha > 0)
        light = 0.72 + 0.28 * np.clip(-union[box] / roundness, 0, 1)
        return cls(rgb[box] * light[..., None], alpha[box], union[box] < 0, face[box])


def bounds(where: np.ndarray) -> Box:
    """The bounding box of the true pixels; empty if there are none."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def canvas(
    shape: tuple[int, int], unit: float, *, tilt: float = 0.0, mirrored: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x (right, or left if ``mirrored``) and y (down) from the centre of a canvas, float32 (h, w).

    Args:
        shape: (h, w) of the canvas, in pixels.
        unit: pixels per distance of 1.
        tilt: rotation, in radians.
    """
    down, across = ((np.arange(side, dtype=np.float32) - (side - 1) / 2) / np.float32(unit) for side in shape)
    down, across = down[:, None], across[None, :]
    if mirrored:
        across = -across
    cosine, sine = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    return across * cosine + down * sine, down * cosine - across * sine


def overlap(shape: tuple[int, int], layer: Layer, corner: tuple[int, int]) -> tuple[Box, Box]:
    """The overlap of a picture (h, w) and a layer at ``corner``, as an index into each; empty if there is none."""
    there, here = [], []
    for length, extent, start in zip(shape, layer.alpha.shape, corner, strict=True):
        first, last = max(start, 0), max(min(start + extent, length), max(start, 0))
        there.append(slice(first, last))
        here.append(slice(first - start, last - start))
    return (there[0], there[1]), (here[0], here[1])


def paint(picture: np.ndarray, layer: Layer, corner: tuple[int, int]) -> None:
    """Paint a layer on a picture, float32 (h, w, 3), in place."""
    there, here = overlap(picture.shape[:2], layer, corner)
    picture[there] = layer.rgb[here] + picture[there] * (1 - layer.alpha[here][..., None])
