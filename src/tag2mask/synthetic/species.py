"""The species, in alphabetical order: their faces and typical backgrounds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tag2mask.synthetic.drawing import Colour, step

FaceMark = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From coordinates (h, w) in units of the head's radius to the share of the mark's colour, (h, w) in [0, 1]."""


@dataclass(frozen=True)
class Species:
    """A class: the face that identifies it, and the background that correlates with it.

    Attributes:
        pattern: of the marks on the face.
        crown: the shape on the head.
        background: the typical one.
    """

    name: str
    face: Colour
    mark: Colour
    pattern: FaceMark
    crown: Literal["ears", "points", "spikes", "horn", "feelers", "mane"]
    background: str


def _rings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return step(np.cos(9.5 * np.hypot(x, y)), 0.5)


def _bars(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return step(np.sin(8.5 * x), 0.5)


def _zigzag(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return step(np.sin(8.5 * (y + 0.45 * np.abs(np.mod(x * 1.4, 1) - 0.5) * 2)), 0.5)


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return step(np.sin(7.5 * x) * np.sin(7.5 * y) - 0.3, 0.4)


def _halves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return step(y + 0.15 * np.sin(6 * x), 0.15)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return step(0.24 - np.minimum(np.abs(x + y), np.abs(x - y)) / 1.41, 0.15)


SPECIES = (
    Species("dab", (0.93, 0.20, 0.20), (1.00, 0.95, 0.90), _rings, "ears", "meadow"),
    Species("fen", (0.98, 0.82, 0.10), (0.12, 0.10, 0.10), _bars, "points", "snow"),
    Species("mib", (0.10, 0.25, 0.95), (0.95, 0.98, 1.00), _zigzag, "spikes", "sand"),
    Species("quill", (0.95, 0.25, 0.75), (0.40, 0.02, 0.40), _dots, "horn", "meadow"),
    Species("tock", (0.10, 0.75, 0.70), (0.02, 0.25, 0.30), _cross, "feelers", "sand"),
    Species("zorb", (0.98, 0.50, 0.08), (0.98, 0.98, 0.95), _halves, "mane", "snow"),
)
