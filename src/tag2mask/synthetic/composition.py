"""Renders a scene of background, clutter, animals and light, and its mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tag2mask.synthetic.animals import draw_animal
from tag2mask.synthetic.backgrounds import BACKGROUNDS, draw_clutter
from tag2mask.synthetic.drawing import Layer, overlap, paint, smooth_noise, step
from tag2mask.synthetic.settings import BODY_LENGTH, CLUTTER, NOISE, OBJECTS, SPECIES_PER_SCENE, SceneSettings
from tag2mask.synthetic.species import SPECIES

_MIN_IN_FRAME = 0.75
"""Least share of an animal inside the frame."""
_MIN_VISIBLE = 0.7
"""Least share of this part that nothing covers."""
_MIN_FACE_VISIBLE = 0.9
"""Least visible share of its face, which alone identifies the class."""
_TRIES = 40
"""Attempts to place a further animal or foreground object before it is left out."""


@dataclass(frozen=True)
class Scene:
    """A generated image and its annotations.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        mask: uint8 (size, size), 0 = background, species from 1 on.
        instances: uint8 (size, size), 0 = background, animals from 1 on, the farthest first.
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
class PlacedLayer:
    """A layer, the (row, column) of its top left pixel, which may lie outside, and its class (0 = clutter)."""

    layer: Layer
    corner: tuple[int, int]
    label: int

    @property
    def bottom(self) -> int:
        """The lowest row; lower objects are nearer."""
        return self.corner[0] + int(self.layer.alpha.shape[0])


def render_scene(settings: SceneSettings, split: str, index: int) -> Scene:
    """Render one scene, a function of the split, its index in it, and the settings other than the numbers of scenes."""
    rng = np.random.default_rng([settings.seed, *split.encode(), index])
    labels = _class_ids(rng, settings)
    background = _background(rng, settings, labels[0])
    picture = BACKGROUNDS[background](rng, settings.size).astype(np.float32)
    clutter = [draw_clutter(rng, settings.size) for _ in range(rng.integers(*CLUTTER, endpoint=True))]
    behind = len(clutter) - len(clutter) // 3
    for layer in clutter[:behind]:
        paint(picture, layer, _random_corner(rng, settings.size, layer))
    placed = _place_animals(rng, settings, labels)
    for layer in clutter[behind:]:
        placed = _try_to_place(rng, settings.size, placed, layer, 0)
    for one in placed:
        if one.label:
            _cast_shadow(picture, one)
        paint(picture, one.layer, one.corner)
    image = _add_light(rng, settings, picture)
    owner, faces = _owners(settings.size, placed)
    mask = np.array([0, *(one.label for one in placed)], np.uint8)[owner]
    instances = np.where(mask > 0, owner, 0).astype(np.uint8)
    tags = tuple(int(label) for label in np.unique(mask) if label)
    return Scene(image, mask, instances, faces, tags, background)


def _class_ids(rng: np.random.Generator, settings: SceneSettings) -> list[int]:
    """Class ids of the animals, the first species first."""
    count = int(rng.integers(*OBJECTS, endpoint=True))
    kinds = rng.permutation(settings.classes)[: int(rng.integers(1, min(SPECIES_PER_SCENE, count), endpoint=True))]
    return [int(kinds[index] if index < len(kinds) else rng.choice(kinds)) + 1 for index in range(count)]


def _background(rng: np.random.Generator, settings: SceneSettings, label: int) -> str:
    """The typical background of the first species with the probability of the settings, otherwise another one."""
    typical = SPECIES[label - 1].background
    others = [name for name in BACKGROUNDS if name != typical]
    return typical if rng.uniform() < settings.background_bias else others[rng.integers(len(others))]


def _place_animals(rng: np.random.Generator, settings: SceneSettings, labels: Sequence[int]) -> list[PlacedLayer]:
    """Place the animals so that all are visible; the farthest first."""
    placed: list[PlacedLayer] = []
    for label in labels:
        length = settings.size * rng.uniform(*BODY_LENGTH) / len(labels) ** 0.35
        layer = draw_animal(rng, SPECIES[label - 1], length)
        placed = _try_to_place(rng, settings.size, placed, layer, label)
    if not placed:  # too large for the frame: show at least its face
        rows, columns = np.nonzero(layer.face)
        corner = (settings.size // 2 - int(rows.mean()), settings.size // 2 - int(columns.mean()))
        placed = [PlacedLayer(layer, corner, label)]
    return placed


def _try_to_place(
    rng: np.random.Generator, size: int, placed: list[PlacedLayer], layer: Layer, label: int
) -> list[PlacedLayer]:
    """The layers with another one: clutter in front, an animal by its distance; without it if it would hide animals."""
    for _ in range(_TRIES):
        trial = [*placed, PlacedLayer(layer, _random_corner(rng, size, layer), label)]
        if label:
            trial.sort(key=lambda one: one.bottom)
        if _all_visible(size, trial):
            return trial
    return placed


def _random_corner(rng: np.random.Generator, size: int, layer: Layer) -> tuple[int, int]:
    """A random top left corner, with the centre of the layer inside the picture."""
    height, width = layer.alpha.shape
    row, column = rng.integers(0, size, 2)
    return int(row) - height // 2, int(column) - width // 2


def _all_visible(size: int, placed: Sequence[PlacedLayer]) -> bool:
    """Whether every animal is visible, by the constants above."""
    owner, faces = _owners(size, placed)
    for number, one in enumerate(placed, start=1):
        if one.label:
            _, here = overlap((size, size), one.layer, one.corner)
            framed = np.count_nonzero(one.layer.inside[here])
            shown, face = owner == number, np.count_nonzero(one.layer.face)
            if (
                framed < _MIN_IN_FRAME * np.count_nonzero(one.layer.inside)
                or np.count_nonzero(shown) < _MIN_VISIBLE * framed
                or np.count_nonzero(shown & faces) < _MIN_FACE_VISIBLE * face
            ):
                return False
    return True


def _owners(size: int, placed: Sequence[PlacedLayer]) -> tuple[np.ndarray, np.ndarray]:
    """The top layer of each pixel, int64 (size, size), 0 = none, otherwise 1 + index; and the faces, bool."""
    owner, faces = np.zeros((size, size), np.int64), np.zeros((size, size), bool)
    for number, one in enumerate(placed, start=1):
        there, here = overlap((size, size), one.layer, one.corner)
        inside = one.layer.inside[here]
        owner[there][inside] = number
        faces[there][inside] = one.layer.face[here][inside]
    return owner, faces


def _cast_shadow(picture: np.ndarray, one: PlacedLayer) -> None:
    """Darken the ground under an animal, in place."""
    height, width = one.layer.alpha.shape
    rows = np.arange(picture.shape[0], dtype=np.float32)[:, None] - (one.bottom - 2)
    columns = np.arange(picture.shape[1], dtype=np.float32)[None, :] - (one.corner[1] + width / 2)
    reach = np.hypot(rows / (0.09 * height + 3), columns / (0.46 * width))
    picture *= (1 - 0.4 * step(1 - reach, 0.6))[..., None]


def _add_light(rng: np.random.Generator, settings: SceneSettings, picture: np.ndarray) -> np.ndarray:
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
