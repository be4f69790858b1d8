"""Signed distances of plane shapes: negative inside, zero on the outline, in the unit of the coordinates.

A shape is painted from its distance: the mask is where it is negative, the edge is smooth over one pixel. So the mask
is exact by construction. All functions take coordinates ``x``, ``y`` float32 (h, w) and return float32 (h, w).
Source: the usual distance functions of constructive geometry.
"""

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]


def ellipse(x: np.ndarray, y: np.ndarray, centre: Point, radii: Point) -> np.ndarray:
    """An upright ellipse; away from the outline the distance is an estimate."""
    u, v = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
    reach = np.hypot(u, v)
    slope = np.hypot(u / radii[0], v / radii[1])
    return np.where(slope > 1e-6, reach * (reach - 1) / np.maximum(slope, 1e-6), np.float32(-min(radii)))


def capsule(x: np.ndarray, y: np.ndarray, start: Point, end: Point, radii: Point) -> np.ndarray:
    """A rod with round ends whose radius goes from ``radii[0]`` at ``start`` to ``radii[1]`` at ``end``."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
    away = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    return np.asarray(away - (radii[0] + along * (radii[1] - radii[0])))


def convex_polygon(x: np.ndarray, y: np.ndarray, corners: Sequence[Point]) -> np.ndarray:
    """A convex polygon, corners clockwise as seen in an image (y down)."""
    distance = np.full_like(x, -np.inf)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-12)
        normal = ((y1 - y0) / length, (x0 - x1) / length)  # outwards
        distance = np.maximum(distance, (x - x0) * normal[0] + (y - y0) * normal[1])
    return distance
