"""Backgrounds, float32 (size, size, 3) in [0, 1], and clutter: untagged objects, background in the mask."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from tag2mask.synthetic.drawing import Layer, Part, blend, canvas, capsule, ellipse, smooth_noise, step

Background = Callable[[np.random.Generator, int], np.ndarray]


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (y, x) in units of 160 pixels, so that textures keep their scale in larger images."""
    axis = np.arange(size, dtype=np.float32) / 160
    return axis[:, None], axis[None, :]


def _cells(size: int, per_160: int) -> int:
    return max(1, round(size * per_160 / 160))


def meadow(rng: np.random.Generator, size: int) -> np.ndarray:
    """Grass: patches of green under many short blades."""
    patches = smooth_noise(rng, (size, size), (_cells(size, 4), _cells(size, 4)))
    ground = blend((0.24, 0.42, 0.14), (0.42, 0.58, 0.20), 0.5 + 0.5 * patches)
    image = Image.fromarray((ground * 255).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    count = size * size // 28
    feet = rng.uniform(0, size, (count, 2))
    tips = feet + np.stack([rng.normal(0, 1.6, count), -rng.uniform(3, 8, count)], axis=1)
    shades = rng.uniform(0.55, 1.25, count)[:, None] * np.array([92, 138, 46])
    for foot, tip, shade in zip(feet.tolist(), tips.tolist(), shades.astype(int).tolist(), strict=True):
        draw.line([*foot, *tip], fill=tuple(shade))
    return np.asarray(image, dtype=np.float32) / 255


def water(rng: np.random.Generator, size: int) -> np.ndarray:
    """Level waves with light on their crests."""
    y, x = _grid(size)
    warp = smooth_noise(rng, (size, size), (_cells(size, 5), _cells(size, 3)))
    waves = np.sin(48 * y + 3.2 * warp + 5 * np.sin(3 * x)) * 0.6 + np.sin(95 * y + 7 * warp - 9 * x) * 0.3
    colours = blend((0.08, 0.30, 0.48), (0.30, 0.58, 0.72), 0.5 + 0.5 * waves)
    return colours + 0.25 * step(waves - 0.72, 0.2)[..., None]


def sand(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ripples of sand, with grains."""
    y, x = _grid(size)
    warp = smooth_noise(rng, (size, size), (_cells(size, 3), _cells(size, 3)))
    ripples = np.sin(26 * (y + 0.35 * x) + 3.5 * warp)
    colours = blend((0.74, 0.62, 0.42), (0.90, 0.80, 0.60), 0.5 + 0.4 * ripples)
    return colours + rng.normal(0, 0.035, (size, size, 1)).astype(np.float32)


def bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wall: rows of bricks of different shades, and mortar."""
    y, x = _grid(size)
    height, width = 13 / 160, 30 / 160
    row = np.floor(y / height + 0 * x)
    across = x / width + 0.5 * np.mod(row, 2) + rng.uniform()
    column = np.floor(across)
    shade = rng.uniform(0.75, 1.15, (64, 64))[row.astype(int) % 64, column.astype(int) % 64]
    edge = np.minimum(
        np.minimum(np.mod(across, 1), 1 - np.mod(across, 1)) * width,
        np.minimum(np.mod(y / height, 1), 1 - np.mod(y / height, 1)) * height,
    )
    stone = np.array((0.60, 0.30, 0.22), np.float32) * shade[..., None].astype(np.float32)
    stone = stone + 0.04 * smooth_noise(rng, (size, size), (_cells(size, 40), _cells(size, 40)))[..., None]
    mortar = (1 - step(edge - 1.2 / 160, 1.2 / 160))[..., None].astype(np.float32)
    return np.asarray(stone * (1 - mortar) + np.array((0.72, 0.68, 0.62), np.float32) * mortar)


def snow(rng: np.random.Generator, size: int) -> np.ndarray:
    """Drifts of snow with blue shadows, and some glitter."""
    drifts = smooth_noise(rng, (size, size), (_cells(size, 4), _cells(size, 2)))
    fine = smooth_noise(rng, (size, size), (_cells(size, 22), _cells(size, 14)))
    colours = blend((0.66, 0.74, 0.86), (0.95, 0.97, 1.00), 0.55 + 0.5 * drifts + 0.16 * fine)
    return np.asarray(colours + 0.25 * (rng.uniform(size=(size, size, 1)) > 0.995))


def planks(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wooden floor: boards of different shades with grain."""
    y, x = _grid(size)
    width = 24 / 160
    across = x / width + rng.uniform() + 0 * y
    board = np.floor(across).astype(int)
    shade = rng.uniform(0.8, 1.1, 64)[board % 64]
    warp = smooth_noise(rng, (size, size), (_cells(size, 3), _cells(size, 12)))
    grain = np.sin(150 * x + 5 * warp + board * 2.4 + 2 * np.sin(7 * y + board))
    gap = 1 - step(np.minimum(np.mod(across, 1), 1 - np.mod(across, 1)) * width - 0.8 / 160, 1 / 160)
    colours = blend((0.46, 0.33, 0.22), (0.60, 0.46, 0.32), 0.5 + 0.4 * grain) * shade[..., None].astype(np.float32)
    return np.asarray(colours * (1 - 0.7 * gap[..., None]))


BACKGROUNDS: dict[str, Background] = {
    "meadow": meadow,
    "water": water,
    "sand": sand,
    "bricks": bricks,
    "snow": snow,
    "planks": planks,
}


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
