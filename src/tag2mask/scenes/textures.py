"""Procedural textures: smooth noise, and patterns over a pair of colours. Colours are floats in [0, 1]."""

from collections.abc import Callable

import numpy as np
from PIL import Image

Colour = tuple[float, float, float]
Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From coordinates (h, w) in units of a body's length to the share of the second colour, (h, w) in [0, 1]."""


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Random hills: float32 ``shape`` in about [-1, 1], with ``cells`` of them down and across."""
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
    """0 where ``value`` is negative, 1 where it is positive, soft in between."""
    return np.asarray(np.clip(value / softness * 0.5 + 0.5, 0, 1))


def stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Upright, slightly wavy stripes."""
    return step(np.sin(52 * x + 1.6 * np.sin(14 * y)))


def bands(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Level, slightly wavy bands."""
    return step(np.sin(60 * y + 0.8 * np.sin(16 * x)))


def spots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Round spots in staggered rows."""
    row = np.floor(y * 12)
    u = np.mod(x * 12 + 0.5 * np.mod(row, 2), 1) - 0.5
    v = np.mod(y * 12, 1) - 0.5
    return step(0.32 - np.hypot(u, v), 0.08)


def scales(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Overlapping scales, as on a fish."""
    row = np.floor(y * 14)
    u = np.mod(x * 11 + 0.5 * np.mod(row, 2), 1) - 0.5
    v = np.mod(y * 14, 1)
    return step(np.asarray(np.abs(np.hypot(u * 1.1, v) - 0.6) - 0.14), 0.1)


def checks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A chessboard that stands on a corner."""
    return step(np.sin(34 * (x + y)) * np.sin(34 * (x - y)))


def mottle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Soft, irregular clouds."""
    waves = np.sin(23 * x + 3 * np.sin(17 * y)) + np.sin(29 * y + 2 * np.sin(19 * x + 1)) + np.sin(41 * (x - 0.6 * y))
    return np.asarray(np.clip(0.5 + 0.3 * waves, 0, 1))
