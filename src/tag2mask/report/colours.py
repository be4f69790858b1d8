"""Colours of the classes on the page: a hue for each class, a shade for each of its clusters.

The colours of PASCAL VOC are for masks as files; on a photograph many of them are too dark to be seen, and none of
them has shades. The page has colours of its own, the most frequent classes equally light and farthest apart.
"""

import math
from collections.abc import Mapping, Sequence

RGB = tuple[int, int, int]

GOLDEN_ANGLE = 137.508
"""Degrees between the hues of neighbours in rank: any first n of them are well spread round the circle."""

FIRST_HUE = 28.0
RING = 8
LIGHTNESS = (0.7, 0.83, 0.56)
"""The first eight ranks have the first lightness, the next eight, whose hues come close to theirs, the second."""

CHROMA = 0.17
SHADE_RANGE = (0.84, 0.5)
BACKGROUND_LIGHTNESS, BACKGROUND_CHROMA, BACKGROUND_HUE = 0.58, 0.025, 255.0
BACKGROUND_SHADE_RANGE = (0.72, 0.38)


class Palette:
    """Colours of class ids.

    Args:
        order: class ids 1..C, the ones that are to be told apart most easily first.
    """

    def __init__(self, order: Sequence[int]) -> None:
        """Give each class its rank."""
        self._rank = {class_id: rank for rank, class_id in enumerate(order)}

    def colour(self, class_id: int) -> RGB:
        """The colour of a class; background (0) is a neutral grey."""
        ring = self._rank.get(class_id, class_id) // RING
        return self._colour(class_id, LIGHTNESS[ring % len(LIGHTNESS)] if class_id else BACKGROUND_LIGHTNESS)

    def shades(self, class_id: int, clusters: int) -> tuple[RGB, ...]:
        """A colour for each of ``clusters`` clusters of a class, light to dark; its own colour if there is one."""
        if clusters == 1:
            return (self.colour(class_id),)
        light, dark = SHADE_RANGE if class_id else BACKGROUND_SHADE_RANGE
        return tuple(
            self._colour(class_id, light + (dark - light) * cluster / (clusters - 1)) for cluster in range(clusters)
        )

    def _colour(self, class_id: int, lightness: float) -> RGB:
        if class_id == 0:
            return oklch(lightness, BACKGROUND_CHROMA, BACKGROUND_HUE)
        rank = self._rank.get(class_id, class_id)
        return oklch(lightness, CHROMA, (FIRST_HUE + GOLDEN_ANGLE * rank) % 360)


def most_frequent_first(counts: Mapping[int, int] | Sequence[int], classes: int) -> list[int]:
    """The class ids 1..``classes`` as a palette takes them, by how often each occurs."""
    return sorted(range(1, classes + 1), key=lambda class_id: (-counts[class_id], class_id))


def oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """A colour of the OKLCH space as 8-bit sRGB.

    Args:
        lightness: 0 (black) to 1 (white).
        chroma: 0 (grey) upwards; it is reduced until the colour can be shown.
        hue: degrees.

    Source: Ottosson, "A perceptual color space for image processing", 2020 (the two matrices); ours otherwise.
    """
    for step in range(20, -1, -1):
        linear = _linear(lightness, chroma * step / 20, math.radians(hue))
        if all(-1e-4 <= value <= 1.0001 for value in linear):
            break
    red, green, blue = (round(255 * _gamma(min(max(value, 0.0), 1.0))) for value in linear)
    return red, green, blue


def css(colour: RGB) -> str:
    """The colour as CSS writes it, ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _linear(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(value: float) -> float:
    """Linear light as sRGB encodes it, both in [0, 1]."""
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
