"""Animals: a body of several textures that all species share, and the face of a species."""

from dataclasses import dataclass

import numpy as np

from tag2mask.synthetic.drawing import (
    Colour,
    Layer,
    Part,
    Pattern,
    Point,
    bands,
    blend,
    bounds,
    canvas,
    capsule,
    checks,
    convex_polygon,
    ellipse,
    mixed,
    mottle,
    scales,
    smooth_noise,
    spots,
    stripes,
)
from tag2mask.synthetic.settings import COAT_SHARE
from tag2mask.synthetic.species import Species


@dataclass(frozen=True)
class Texture:
    """A pattern of two colours on a part of a body."""

    pattern: Pattern
    base: Colour
    mark: Colour


TEXTURES = (
    Texture(mottle, (0.42, 0.28, 0.17), (0.60, 0.43, 0.28)),
    Texture(spots, (0.90, 0.84, 0.70), (0.25, 0.20, 0.16)),
    Texture(stripes, (0.92, 0.90, 0.88), (0.14, 0.13, 0.15)),
    Texture(bands, (0.70, 0.38, 0.20), (0.32, 0.15, 0.10)),
    Texture(scales, (0.52, 0.55, 0.55), (0.28, 0.31, 0.33)),
    Texture(checks, (0.82, 0.62, 0.60), (0.52, 0.34, 0.37)),
)

COATS: tuple[Colour, ...] = (
    (0.45, 0.30, 0.20),
    (0.85, 0.77, 0.62),
    (0.55, 0.55, 0.56),
    (0.25, 0.24, 0.26),
    (0.66, 0.40, 0.26),
    (0.72, 0.58, 0.60),
)
"""Base colours that all textures of an animal share, in proportion to `COAT_SHARE`."""


@dataclass(frozen=True)
class Proportions:
    """The proportions of one animal, in units of its body length (shoulder to rump)."""

    girth: float
    neck: Point
    leg: float
    leg_width: float
    tail: tuple[Point, Point]
    head: float
    split: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Proportions":
        """Random proportions, independent of the species."""
        return cls(
            girth=rng.uniform(0.24, 0.33),
            neck=(rng.uniform(0.04, 0.18), -rng.uniform(0.04, 0.24)),
            leg=rng.uniform(0.12, 0.34),
            leg_width=rng.uniform(0.055, 0.085),
            tail=(
                (-rng.uniform(0.1, 0.2), rng.uniform(-0.2, 0.1)),
                (-rng.uniform(0.05, 0.25), rng.uniform(-0.25, 0.15)),
            ),
            head=0.18 * rng.uniform(0.9, 1.1),
            split=rng.uniform(-0.12, 0.08),
        )


def draw_animal(rng: np.random.Generator, species: Species, length: float) -> Layer:
    """An animal of random proportions, textures and pose.

    Args:
        length: of its body from shoulder to rump, in pixels; the animal is about twice as long.
    """
    shape = int(np.ceil(1.6 * length)), int(np.ceil(2.0 * length))
    x, y = canvas(shape, length, tilt=rng.uniform(-0.3, 0.3), mirrored=bool(rng.integers(2)))
    return Layer.of(animal_parts(rng, species, x, y), shape, unit=length, roundness=0.12)


def animal_parts(
    rng: np.random.Generator, species: Species, x: np.ndarray, y: np.ndarray, *, coat_share: float = COAT_SHARE
) -> list[Part]:
    """The parts of an animal that faces right, the lowest first; x and y (h, w) in units of its body length.

    The draws from ``rng`` do not depend on the species, so equal states give all species the same body.
    """
    body = Proportions.sample(rng)
    coat = COATS[rng.integers(len(COATS))]
    shift = rng.uniform(-1, 1, 2)
    height, width = x.shape
    fur = 0.05 * smooth_noise(rng, (height, width), (height // 4, width // 4))[..., None]
    front_rear_limbs = [TEXTURES[index] for index in rng.permutation(len(TEXTURES))[:3]]
    rng.uniform()  # keeps the stream of random numbers, and so the scenes, of earlier versions
    painted = [_paint(texture, coat, coat_share, x + shift[0], y + shift[1]) + fur for texture in front_rear_limbs]
    return [*_body_parts(body, x, y, painted), *_head_parts(body, species, painted[0], x, y)]


def _paint(texture: Texture, coat: Colour, share: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dark = mixed(coat, (0.1, 0.08, 0.08), 0.55) if sum(coat) > 1.2 else mixed(coat, (0.9, 0.85, 0.8), 0.35)
    return blend(mixed(texture.base, coat, share), mixed(texture.mark, dark, share), texture.pattern(x, y))


def _body_parts(body: Proportions, x: np.ndarray, y: np.ndarray, painted: list[np.ndarray]) -> list[Part]:
    """Far legs, tail, torso (two textures), near legs, neck; in units of the body length."""
    front, rear, limbs = painted
    shoulder, rump = (0.27, 0.0), (-0.27, 0.0)
    border = np.clip((x - body.split - 0.05 * np.sin(22 * y)) * 60, 0, 1)[..., None]
    torso = front * border + rear * (1 - border)
    girth, width, foot = body.girth, body.leg_width, 0.6 * body.girth + body.leg
    middle = (rump[0] - 0.5 * girth + body.tail[0][0], body.tail[0][1])
    end = (middle[0] + body.tail[1][0], middle[1] + body.tail[1][1])
    parts = [
        Part(capsule(x, y, (at, 0.3 * girth), (at + lean, foot - 0.03), (width, 0.8 * width)), limbs * 0.7)
        for at, lean in ((0.19, 0.05), (-0.33, 0.04))
    ]
    parts += [
        Part(capsule(x, y, (rump[0] - 0.4 * girth, -0.2 * girth), middle, (0.075, 0.055)), limbs),
        Part(capsule(x, y, middle, end, (0.055, 0.03)), limbs),
        Part(capsule(x, y, rump, shoulder, (girth, 0.95 * girth)), torso),
    ]
    parts += [
        Part(capsule(x, y, (at, 0.4 * girth), (at + lean, foot), (1.25 * width, 0.8 * width)), limbs)
        for at, lean in ((0.30, -0.03), (-0.24, -0.04))
    ]
    head = _head_centre(body)
    parts.append(Part(capsule(x, y, (shoulder[0] + 0.02, -0.3 * girth), head, (0.62 * girth, 0.6 * body.head)), front))
    return parts


def _head_centre(body: Proportions) -> Point:
    return 0.27 + body.neck[0], -0.3 * body.girth + body.neck[1]


def _head_parts(body: Proportions, species: Species, coat: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[Part]:
    """Crown, head, the face with the marks of its species, and an eye; in units of the body length."""
    centre, radius = _head_centre(body), body.head
    window = bounds(np.hypot(x - centre[0], y - centre[1]) < 2.3 * radius)
    u, v = (x[window] - centre[0]) / radius, (y[window] - centre[1]) / radius
    face = blend(species.face, species.mark, species.pattern(u, v))
    white, black = blend((1, 1, 1), (1, 1, 1), 0), blend((0.05, 0.05, 0.08), (0, 0, 0), 0)
    shapes = [(distance, blend(species.face, species.mark, share)) for distance, share in _crown(species, u, v)]
    shapes += [
        (ellipse(u, v, (0.2, 0.05), (0.85, 0.78)), face),
        (ellipse(u, v, (0.42, -0.2), (0.22, 0.24)), white),
        (ellipse(u, v, (0.47, -0.18), (0.12, 0.14)), black),
    ]
    parts = [Part(distance * np.float32(radius), rgb, face=True, window=window) for distance, rgb in shapes]
    skull = ellipse(u, v, (0.05, 0.0), (1.12, 1.02)) * np.float32(radius)
    return [*parts[:-3], Part(skull, coat[window], window=window), *parts[-3:]]


def _crown(species: Species, u: np.ndarray, v: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """The shapes of the crown in units of the head's radius, each with its share of the mark's colour."""
    match species.crown:
        case "ears":
            return [(ellipse(u, v, (at, -0.85), (0.42, 0.45)), share) for at, share in ((-0.65, 0.0), (0.45, 0.0))]
        case "points":
            return [(_spike(u, v, (at, -0.6), lean, 0.75, 0.9), 1.0) for at, lean in ((-0.5, -0.25), (0.4, 0.15))]
        case "spikes":
            leans = (-1.5, -0.9, -0.3, 0.3)
            return [(_spike(u, v, (0.8 * np.sin(a), -0.8 * np.cos(a)), a, 0.6, 0.7), 1.0) for a in leans]
        case "horn":
            return [(_spike(u, v, (0.35, -0.7), 0.35, 0.5, 1.3), 1.0)]
        case "feelers":
            rods = [capsule(u, v, (0.1 * lean, -0.8), (0.8 * lean, -1.6), (0.12, 0.08)) for lean in (-1, 0.7)]
            balls = [ellipse(u, v, (0.8 * lean, -1.65), (0.26, 0.26)) for lean in (-1, 0.7)]
            return [(rod, 0.5) for rod in rods] + [(ball, 0.0) for ball in balls]
        case "mane":
            angles = (-2.6, -2.0, -1.4, -0.8, -0.2, 0.4)
            return [(ellipse(u, v, (np.sin(a), -np.cos(a)), (0.42, 0.42)), 0.0) for a in angles]


def _spike(u: np.ndarray, v: np.ndarray, foot: Point, lean: float, width: float, height: float) -> np.ndarray:
    """A triangle on ``foot`` that leans right by ``lean`` radians."""
    across, up = (np.cos(lean), np.sin(lean)), (np.sin(lean), -np.cos(lean))
    half = width / 2
    left = (foot[0] - half * across[0], foot[1] - half * across[1])
    right = (foot[0] + half * across[0], foot[1] + half * across[1])
    return convex_polygon(u, v, [left, (foot[0] + height * up[0], foot[1] + height * up[1]), right])
