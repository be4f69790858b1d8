"""Renders a scene: background, clutter, creatures, light; and the mask of the same shapes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tag2mask.synthetic.backgrounds import BACKGROUNDS, draw_clutter
from tag2mask.synthetic.creatures import draw_creature
from tag2mask.synthetic.drawing import Layer, overlap, paint, smooth_noise, step
from tag2mask.synthetic.settings import BODY_LENGTH, CLUTTER, NOISE, OBJECTS, SPECIES_PER_SCENE, SceneSettings
from tag2mask.synthetic.species import SPECIES

IN_FRAME = 0.75
"""Least share of a creature inside the frame."""
UNCOVERED = 0.7
"""Least share of that which nothing covers."""
FACE_UNCOVERED = 0.9
"""Least visible share of its face: without the face the tag could not be known."""
TRIES = 40
"""Attempts to find a place before a further creature, or a thing in front, is left out."""


@dataclass(frozen=True)
class Scene:
    """A generated image and its annotations.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        mask: uint8 (size, size), 0 = background, species from 1 on; exact.
        instances: uint8 (size, size), 0 = background, creatures from 1 on, the farthest first.
        faces: bool (size, size), the visible faces.
        tags: the class ids in the mask, ascending.
    """

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    faces: np.ndarray
    tags: tuple[int, ...]
    background: str


@dataclass(frozen=True)
class Placed:
    """A layer, the (row, column) of its top left pixel, which may lie outside, and its class (0 = clutter)."""

    layer: Layer
    corner: tuple[int, int]
    label: int

    @property
    def foot(self) -> int:
        """The lowest row; lower things are nearer."""
        return self.corner[0] + int(self.layer.alpha.shape[0])


def render_scene(settings: SceneSettings, split: str, index: int) -> Scene:
    """Render one scene, a function of its arguments.

    Args:
        settings: of the scenes; their number does not matter.
        index: of the scene in its split, from 0.
    """
    rng = np.random.default_rng([settings.seed, *split.encode(), index])
    labels = _population(rng, settings)
    background = _background(rng, settings, labels[0])
    picture = BACKGROUNDS[background](rng, settings.size).astype(np.float32)
    things = [draw_clutter(rng, settings.size) for _ in range(rng.integers(*CLUTTER, endpoint=True))]
    behind = len(things) - len(things) // 3
    for thing in things[:behind]:
        paint(picture, thing, _anywhere(rng, settings.size, thing))
    placed = _add_in_front(rng, settings.size, _place_creatures(rng, settings, labels), things[behind:])
    for one in placed:
        if one.label:
            _cast_shadow(picture, one)
        paint(picture, one.layer, one.corner)
    image = _develop(rng, settings, picture)
    owner, faces = _owners(settings.size, placed)
    mask = np.array([0, *(one.label for one in placed)], np.uint8)[owner]
    instances = np.where(mask > 0, owner, 0).astype(np.uint8)
    tags = tuple(int(label) for label in np.unique(mask) if label)
    return Scene(image, mask, instances, faces, tags, background)


def _population(rng: np.random.Generator, settings: SceneSettings) -> list[int]:
    """Class ids of the creatures, the first species first."""
    count = int(rng.integers(*OBJECTS, endpoint=True))
    kinds = rng.permutation(settings.classes)[: int(rng.integers(1, min(SPECIES_PER_SCENE, count), endpoint=True))]
    return [int(kinds[place] if place < len(kinds) else rng.choice(kinds)) + 1 for place in range(count)]


def _background(rng: np.random.Generator, settings: SceneSettings, label: int) -> str:
    """Mostly the home of the first species, else one of the others."""
    home = SPECIES[label - 1].home
    others = [name for name in BACKGROUNDS if name != home]
    return home if rng.uniform() < settings.background_bias else others[rng.integers(len(others))]


def _place_creatures(rng: np.random.Generator, settings: SceneSettings, labels: Sequence[int]) -> list[Placed]:
    """Find a place for each creature in which it and all others are visible; the farthest first."""
    placed: list[Placed] = []
    for label in labels:
        length = settings.size * rng.uniform(*BODY_LENGTH) / len(labels) ** 0.35
        layer = draw_creature(rng, SPECIES[label - 1], length)
        for _ in range(TRIES):
            trial = sorted(
                [*placed, Placed(layer, _anywhere(rng, settings.size, layer), label)], key=lambda one: one.foot
            )
            if _all_seen(settings.size, trial):
                placed = trial
                break
    if not placed:  # too large for the frame: show at least its face
        rows, columns = np.nonzero(layer.face)
        corner = (settings.size // 2 - int(rows.mean()), settings.size // 2 - int(columns.mean()))
        placed = [Placed(layer, corner, label)]
    return placed


def _add_in_front(
    rng: np.random.Generator, size: int, creatures: Sequence[Placed], things: Sequence[Layer]
) -> list[Placed]:
    """The creatures, and those things that find a place where they cover little."""
    placed = list(creatures)
    for thing in things:
        for _ in range(TRIES):
            trial = [*placed, Placed(thing, _anywhere(rng, size, thing), 0)]
            if _all_seen(size, trial):
                placed = trial
                break
    return placed


def _anywhere(rng: np.random.Generator, size: int, layer: Layer) -> tuple[int, int]:
    """A random corner with the centre of the layer inside the picture."""
    height, width = layer.alpha.shape
    row, column = rng.integers(0, size, 2)
    return int(row) - height // 2, int(column) - width // 2


def _all_seen(size: int, placed: Sequence[Placed]) -> bool:
    """Whether every creature is visible by the constants above."""
    owner, faces = _owners(size, placed)
    for number, one in enumerate(placed, start=1):
        if one.label:
            _, here = overlap((size, size), one.layer, one.corner)
            framed = np.count_nonzero(one.layer.inside[here])
            shown, face = owner == number, np.count_nonzero(one.layer.face)
            if (
                framed < IN_FRAME * np.count_nonzero(one.layer.inside)
                or np.count_nonzero(shown) < UNCOVERED * framed
                or np.count_nonzero(shown & faces) < FACE_UNCOVERED * face
            ):
                return False
    return True


def _owners(size: int, placed: Sequence[Placed]) -> tuple[np.ndarray, np.ndarray]:
    """The owner of each pixel: int64 (size, size), 0 = none, else 1 + index; and whether it shows a face, bool."""
    owner, faces = np.zeros((size, size), np.int64), np.zeros((size, size), bool)
    for number, one in enumerate(placed, start=1):
        there, here = overlap((size, size), one.layer, one.corner)
        inside = one.layer.inside[here]
        owner[there][inside] = number
        faces[there][inside] = one.layer.face[here][inside]
    return owner, faces


def _cast_shadow(picture: np.ndarray, one: Placed) -> None:
    """Darken the ground under a creature, in place."""
    height, width = one.layer.alpha.shape
    rows = np.arange(picture.shape[0], dtype=np.float32)[:, None] - (one.foot - 2)
    columns = np.arange(picture.shape[1], dtype=np.float32)[None, :] - (one.corner[1] + width / 2)
    reach = np.hypot(rows / (0.09 * height + 3), columns / (0.46 * width))
    picture *= (1 - 0.4 * step(1 - reach, 0.6))[..., None]


def _develop(rng: np.random.Generator, settings: SceneSettings, picture: np.ndarray) -> np.ndarray:
    """Light from one side, a tint, uneven brightness and the sensor's noise; uint8."""
    axis = np.linspace(-1, 1, settings.size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.float32(np.cos(angle)) * axis[None, :] + np.float32(np.sin(angle)) * axis[:, None]
    clouds = smooth_noise(rng, (settings.size, settings.size), (2, 2))
    light = rng.uniform(0.88, 1.1) * (1 + rng.uniform(0, 0.14) * slope + 0.06 * clouds)
    tint = rng.uniform(0.95, 1.05, 3).astype(np.float32)
    noise = NOISE * rng.standard_normal(picture.shape, dtype=np.float32)
    developed = picture * light[..., None].astype(np.float32) * tint + noise
    return np.asarray((developed.clip(0, 1) * 255).round().astype(np.uint8))
