"""Generated grey plates with small defects, as class folders with ground truth.

python experiments/defects.py OUT [--good 120] [--defects 30] [--size 256] [--seed 0] [--one-class]

Writes OUT/good, OUT/chip, OUT/pit, OUT/scratch and OUT/stain, or OUT/good and OUT/defect, with the same images. Each
image NAME has its ground truth NAME_mask.png, 255 where the defect is. Good plates have no mask.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tag2mask.data import write_mask
from tag2mask.data.images import write_jpeg
from tag2mask.synthetic.drawing import canvas, capsule, ellipse, smooth_noise


@dataclass
class Plate:
    """A plate on its way to a picture.

    Attributes:
        rng: the source of its properties.
        x, y: coordinates (s, s) from its centre, in 1/256 of the image's side.
        half: half its width and half its height, in that unit.
        grey: (s, s), values in [0, 1] before the light.
    """

    rng: np.random.Generator
    x: np.ndarray
    y: np.ndarray
    half: tuple[float, float]
    grey: np.ndarray

    @property
    def edge(self) -> np.ndarray:
        """The signed distance to the plate, negative inside."""
        return np.asarray(np.maximum(np.abs(self.x) - self.half[0], np.abs(self.y) - self.half[1]))

    def point(self, margin: float) -> tuple[float, float]:
        """A point at least ``margin`` from the edges."""
        across, down = self.half[0] - margin, self.half[1] - margin
        return self.rng.uniform(-across, across), self.rng.uniform(-down, down)

    def noise(self, cells: int) -> np.ndarray:
        """Smooth noise with ``cells`` random values per side."""
        return smooth_noise(self.rng, (self.x.shape[0], self.x.shape[1]), (cells, cells))

    def paint(self, distance: np.ndarray, tone: float, opacity: float) -> None:
        """Fill a shape with one grey value."""
        self.grey = self.grey + (tone - self.grey) * opacity * covered(distance)


Defect = Callable[[Plate], np.ndarray]
"""Paints a defect and returns the signed distance to it (s, s), negative inside."""


def covered(distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
    """The share of a shape in each pixel; its edge is ``softness`` wide."""
    return np.asarray(np.clip(0.5 - distance / softness, 0, 1))


def pit(plate: Plate) -> np.ndarray:
    """One to three dark holes, 5 to 11 units wide, with a bright lower rim."""
    union = np.full_like(plate.x, np.inf)
    for _ in range(plate.rng.integers(1, 4)):
        (across, down), radius = plate.point(16), plate.rng.uniform(2.5, 5.5)
        radii = (radius, radius * plate.rng.uniform(0.7, 1.0))
        plate.paint(ellipse(plate.x, plate.y, (across + 0.8, down + 1.2), radii), 0.85, 0.6)
        hole = ellipse(plate.x, plate.y, (across, down), radii)
        plate.paint(hole, 0.12, 0.85)
        union = np.minimum(union, hole)
    return union


def scratch(plate: Plate) -> np.ndarray:
    """A bent line, 2 to 4 units wide and 50 to 130 long, bright or dark."""
    rng, union = plate.rng, np.full_like(plate.x, np.inf)
    start, angle = plate.point(40), rng.uniform(0, 2 * np.pi)
    parts, length, width = rng.integers(3, 6), rng.uniform(50, 130), rng.uniform(1.0, 1.9)
    for _ in range(parts):
        angle += rng.normal(0, 0.25)
        end = (start[0] + np.cos(angle) * length / parts, start[1] + np.sin(angle) * length / parts)
        union = np.minimum(union, capsule(plate.x, plate.y, start, end, (width, width * 0.8)))
        start = end
    union = np.maximum(union, plate.edge)
    plate.paint(union, 0.92 if rng.integers(2) else 0.18, 0.7)
    return union


def stain(plate: Plate) -> np.ndarray:
    """A darker patch of irregular outline, 30 to 90 units wide."""
    rng, union, centre = plate.rng, np.full_like(plate.x, np.inf), plate.point(48)
    for _ in range(rng.integers(2, 5)):
        near = (centre[0] + rng.normal(0, 12), centre[1] + rng.normal(0, 12))
        union = np.minimum(union, ellipse(plate.x, plate.y, near, (rng.uniform(12, 26), rng.uniform(12, 26))))
    union = union + 5 * plate.noise(16)
    plate.grey = plate.grey * (1 - rng.uniform(0.18, 0.32) * covered(union, 6.0))
    return union


def chip(plate: Plate) -> np.ndarray:
    """A bite out of an edge, 16 to 40 units long, with a bright rim."""
    rng, half = plate.rng, plate.half
    along, side = rng.uniform(-0.7, 0.7), rng.choice((-1, 1))
    centre = (side * half[0], along * half[1]) if rng.integers(2) else (along * half[0], side * half[1])
    bite = ellipse(plate.x, plate.y, centre, (rng.uniform(8, 20), rng.uniform(8, 20))) + 3 * plate.noise(40)
    bite = np.maximum(bite, plate.edge)
    plate.paint(np.abs(bite) - 1.2, 0.9, 0.6)
    plate.paint(bite, 0.1, 1.0)
    return bite


DEFECTS: dict[str, Defect] = {"chip": chip, "pit": pit, "scratch": scratch, "stain": stain}


def draw_plate(rng: np.random.Generator, size: int, defect: Defect | None) -> tuple[np.ndarray, np.ndarray]:
    """A plate in uneven light, uint8 (size, size, 3), and where its defect is, bool (size, size).

    The plate is brushed or grained, slightly turned, and has a few bright specks of dust, which are not defects.
    """
    shape = (size, size)
    x, y = canvas(shape, size / 256, tilt=rng.normal(0, 0.04))
    half = (rng.uniform(104, 114), rng.uniform(104, 114))
    cells = (size, max(2, size // 24)) if rng.integers(2) else (size // 2, size // 2)
    grey = rng.uniform(0.42, 0.62) + rng.uniform(0.04, 0.08) * smooth_noise(rng, shape, cells)
    plate = Plate(rng, x, y, half, grey)
    for _ in range(rng.integers(0, 4)):
        plate.grey = plate.grey + 0.3 * covered(ellipse(x, y, plate.point(4), (1.4, 1.4)))
    plate.grey = 0.1 + (plate.grey - 0.1) * covered(plate.edge)
    inside = np.zeros(shape, dtype=bool) if defect is None else defect(plate) < 0
    slope = rng.uniform(-0.25, 0.25, 2)
    light = 1 + slope[0] * x / 128 + slope[1] * y / 128 + 0.12 * plate.noise(2)
    grey = plate.grey * light + rng.normal(0, 0.012, shape)
    return np.repeat((grey * 255).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--good", type=int, default=120, help="plates without a defect")
    parser.add_argument("--defects", type=int, default=30, help="plates of each kind of defect")
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-class", action="store_true", help="all defects in one folder `defect`")
    known = parser.parse_args()
    kinds: dict[str, Defect | None] = {"good": None, **DEFECTS}
    for number, (name, defect) in enumerate(kinds.items()):
        for index in range(known.defects if defect else known.good):
            image, inside = draw_plate(np.random.default_rng((known.seed, number, index)), known.size, defect)
            folder = "defect" if defect and known.one_class else name
            write_jpeg(known.out / folder / f"{name}-{index:03d}.jpg", image, quality=95)
            if defect:
                write_mask(known.out / folder / f"{name}-{index:03d}_mask.png", inside.astype(np.uint8) * 255)


if __name__ == "__main__":
    main()
