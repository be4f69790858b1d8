"""Clutter: things that no tag names. They are background in the mask."""

import numpy as np

from tag2mask.scenes.layers import Layer, Part, canvas
from tag2mask.scenes.shapes import capsule, ellipse
from tag2mask.scenes.textures import blend, smooth_noise, step


def draw_clutter(rng: np.random.Generator, size: int) -> Layer:
    """A stone, a flower, a ball or a stick, a tenth to a fifth of the scene's side."""
    length = size * rng.uniform(0.09, 0.2)
    side = int(np.ceil(1.5 * length))
    x, y = canvas((side, side), length / 2, tilt=rng.uniform(-0.6, 0.6))
    draw = (_stone, _flower, _ball, _stick)[rng.integers(4)]
    return Layer.of(draw(rng, x, y), (side, side), unit=length / 2, roundness=0.6)


def _stone(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> list[Part]:
    grey = rng.uniform(0.3, 0.62)
    rough = smooth_noise(rng, (x.shape[0], x.shape[1]), (5, 5))
    rgb = blend((grey, grey, 0.96 * grey), (grey * 0.7, grey * 0.72, grey * 0.75), 0.5 + 0.5 * rough)
    return [Part(ellipse(x, y, (0, 0), (1.0, rng.uniform(0.55, 0.9))), rgb)]


def _flower(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> list[Part]:
    petal = ((0.95, 0.92, 0.96), (0.95, 0.62, 0.72), (0.72, 0.78, 0.96), (0.97, 0.90, 0.62))[rng.integers(4)]
    rgb = blend(petal, (0.8, 0.6, 0.6), np.clip(np.hypot(x, y) - 0.4, 0, 1))
    angles = np.arange(5) * 2 * np.pi / 5 + rng.uniform(0, 2)
    petals = [Part(ellipse(x, y, (0.55 * np.cos(a), 0.55 * np.sin(a)), (0.42, 0.42)), rgb) for a in angles]
    return [*petals, Part(ellipse(x, y, (0, 0), (0.3, 0.3)), blend((0.85, 0.6, 0.15), (0.5, 0.3, 0.1), 0))]


def _ball(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> list[Part]:
    first, second = rng.uniform(0.15, 0.9, (2, 3)).tolist()
    share = step(np.sin(4.5 * x + rng.uniform(0, 6)), 0.3)
    return [Part(ellipse(x, y, (0, 0), (0.9, 0.9)), blend(tuple(first), tuple(second), share))]


def _stick(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> list[Part]:
    bark = blend((0.34, 0.24, 0.16), (0.48, 0.36, 0.25), step(np.sin(9 * x + 2 * np.sin(7 * y)), 0.6))
    twig = capsule(x, y, (rng.uniform(-0.4, 0.4), 0), (rng.uniform(-0.3, 0.8), -0.7), (0.1, 0.05))
    return [Part(twig, bark), Part(capsule(x, y, (-1.1, 0), (1.1, 0.05), (0.16, 0.1)), bark)]
