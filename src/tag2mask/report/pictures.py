"""Pictures of the report: colours of the classes, and arrays as data URIs.

An image is embedded once. All other pictures have an alpha channel, and the browser lays them over the image.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from PIL import Image

RGB = tuple[int, int, int]

_GOLDEN_ANGLE = 137.508
"""Degrees between the hues of neighbours in rank: any first n hues are well spread."""

_FIRST_HUE = 28.0
_RING = 8
_LIGHTNESS = (0.7, 0.83, 0.56)
"""Of each eight ranks in turn: the hues of the next eight are close to those before."""

_CHROMA = 0.17
_SHADE_RANGE = (0.84, 0.5)
_BACKGROUND_LIGHTNESS, _BACKGROUND_CHROMA, _BACKGROUND_HUE = 0.58, 0.025, 255.0
_BACKGROUND_SHADE_RANGE = (0.72, 0.38)

IGNORED = 255
_TALLEST = 1.6
"""Most height over width of a picture; a taller image is made narrower."""

_OUTLINE = (255, 255, 255, 235)
LABEL_ALPHA = 165
_ACTIVATION_ALPHA = 215
_HEAT_ALPHA = 190
_ALLOCATION_ALPHA = 205
_EDGE_ALPHA = 225


class Palette:
    """Colours of the classes: a hue for each class, a shade for each of its clusters.

    On an image, many colours of PASCAL VOC are too dark; these are equally light, and those of the first classes
    differ most.
    """

    def __init__(self, order: Sequence[int]) -> None:
        """Of class ids 1..C, those with the most different colours first."""
        self._rank = {class_id: rank for rank, class_id in enumerate(order)}

    def colour(self, class_id: int) -> RGB:
        """The colour of a class; background (0) is a neutral grey."""
        ring = self._rank.get(class_id, class_id) // _RING
        return self._colour(class_id, _LIGHTNESS[ring % len(_LIGHTNESS)] if class_id else _BACKGROUND_LIGHTNESS)

    def shades(self, class_id: int, clusters: int) -> tuple[RGB, ...]:
        """A colour for each cluster of a class, light to dark; the colour of the class for a single cluster."""
        if clusters == 1:
            return (self.colour(class_id),)
        light, dark = _SHADE_RANGE if class_id else _BACKGROUND_SHADE_RANGE
        return tuple(
            self._colour(class_id, light + (dark - light) * cluster / (clusters - 1)) for cluster in range(clusters)
        )

    def _colour(self, class_id: int, lightness: float) -> RGB:
        if class_id == 0:
            return oklch(lightness, _BACKGROUND_CHROMA, _BACKGROUND_HUE)
        rank = self._rank.get(class_id, class_id)
        return oklch(lightness, _CHROMA, (_FIRST_HUE + _GOLDEN_ANGLE * rank) % 360)


def most_frequent_first(counts: Mapping[int, int] | Sequence[int], classes: int) -> list[int]:
    """The class ids 1..``classes`` by their counts, for a `Palette`."""
    return sorted(range(1, classes + 1), key=lambda class_id: (-counts[class_id], class_id))


def oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """A colour of the OKLCH space as 8-bit sRGB.

    Args:
        lightness: 0 (black) to 1 (white).
        chroma: 0 (grey) upwards; reduced until the colour is in the range of sRGB.
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
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def picture_size(size: tuple[int, int], width: int) -> tuple[int, int]:
    """(height, width) of the picture of an image of ``size`` (H, W): at most ``width`` wide, never enlarged."""
    scale = min(1.0, width / size[1], _TALLEST * width / size[0])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def smooth_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size of an embedded CAM: half of the picture's; CAMs are smooth, and the browser enlarges them."""
    return -(-size[0] // 2), -(-size[1] // 2)


def image_uri(image: np.ndarray, size: tuple[int, int]) -> str:
    """An image, uint8 (H, W, 3), reduced to ``size`` (h, w)."""
    reduced = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return _uri(reduced, "WEBP", quality=80, method=4)


def activation_uri(maps: np.ndarray, ids: np.ndarray, palette: Palette) -> str:
    """CAMs in the colours of their classes: the highest CAM of a pixel gives the colour, its value the opacity.

    Args:
        maps: float32 (K, h, w) in [0, 1], without background, K at least 1.
        ids: int (K,), the class ids of the maps.
        palette: of the classes.
    """
    colours = np.array([palette.colour(int(class_id)) for class_id in ids], dtype=np.uint8)  # (K, 3)
    alpha = np.clip(maps.max(axis=0), 0, 1) ** 0.9 * _ACTIVATION_ALPHA
    overlay = np.dstack([colours[maps.argmax(axis=0)], alpha.astype(np.uint8)])
    return _uri(Image.fromarray(overlay), "WEBP", quality=85, alpha_quality=85, method=4)


def outline_uri(labels: np.ndarray) -> str:
    """The borders of the regions of a label map, uint8 (h, w), as white lines."""
    overlay = np.zeros((*labels.shape, 4), dtype=np.uint8)
    overlay[outline(labels)] = _OUTLINE
    return _png(overlay)


def heat_uri(values: np.ndarray) -> str:
    """A CAM, float32 (h, w) in [0, 1], as a heat map; values near 0 are transparent."""
    clipped = np.clip(values, 0, 1)
    alpha = np.clip(clipped / 0.25, 0, 1) * _HEAT_ALPHA
    overlay = np.dstack([heat_colours()[(clipped * 255).round().astype(np.uint8)], alpha.astype(np.uint8)])
    return _uri(Image.fromarray(overlay), "WEBP", quality=80, alpha_quality=80, method=4)


def edge_uri(values: np.ndarray) -> str:
    """An edge map, float32 (h, w) in [0, 1]: strong edges bright, the rest dark."""
    grey = (255 * np.clip(values, 0, 1)).round().astype(np.uint8)
    overlay = np.dstack([grey, grey, grey, np.full_like(grey, _EDGE_ALPHA)])
    return _uri(Image.fromarray(overlay), "WEBP", quality=80, method=4)


@cache
def heat_colours() -> np.ndarray:
    """The colours of a heat map from 0 to 1, uint8 (256, 3): dark blue, red, yellow, in order of lightness."""
    return np.array(
        [oklch(0.3 + 0.65 * value, 0.17, 290 + 180 * value) for value in np.linspace(0, 1, 256)], dtype=np.uint8
    )


def heat_scale() -> tuple[RGB, ...]:
    """Colours of the heat map from 0 to 1, for its legend."""
    return tuple((int(r), int(g), int(b)) for r, g, b in heat_colours()[::23])


def label_uri(labels: np.ndarray, palette: Palette) -> str:
    """A mask, uint8 (h, w): classes coloured and outlined, background transparent, 255 hatched."""
    overlay = np.zeros((*labels.shape, 4), dtype=np.uint8)
    for class_id in np.unique(labels):
        if class_id not in (0, IGNORED):
            overlay[labels == class_id] = (*palette.colour(int(class_id)), LABEL_ALPHA)
    ignored = labels == IGNORED
    rows, columns = np.indices(labels.shape)
    hatch = (rows + columns) % 6 < 3
    overlay[ignored & hatch] = (225, 225, 225, 200)
    overlay[ignored & ~hatch] = (120, 120, 120, 150)
    overlay[outline(labels)] = _OUTLINE
    return _png(overlay)


def allocation_uri(cells: np.ndarray, shades: dict[int, RGB], size: tuple[int, int]) -> str:
    """The allocation map: each cell in the shade of its prototype, with hard edges.

    Args:
        cells: uint8 (h, w), the prototype of each cell; 255 = none, transparent.
        shades: the colour of each prototype.
        size: (height, width) of the picture in pixels.
    """
    overlay = np.zeros((*cells.shape, 4), dtype=np.uint8)
    for prototype, colour in shades.items():
        overlay[cells == prototype] = (*colour, _ALLOCATION_ALPHA)
    return _png(resize_labels(overlay, size))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of uint8 (H, W) or (H, W, channels) to ``size`` (h, w)."""
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def outline(labels: np.ndarray) -> np.ndarray:
    """The borders between regions, without those to ignored regions: bool (h, w), two pixels wide."""
    edge = np.zeros(labels.shape, dtype=bool)
    for first, second in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
        differs = (labels[first] != labels[second]) & (labels[first] != IGNORED) & (labels[second] != IGNORED)
        edge[first] |= differs
        edge[second] |= differs
    return edge


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


def _png(overlay: np.ndarray) -> str:
    """An RGBA picture as PNG; with a palette, a quarter of the size, if it has few colours."""
    packed = np.ascontiguousarray(overlay).view(np.uint32)[..., 0]
    values = np.unique(packed)
    if len(values) > 256:
        return _uri(Image.fromarray(overlay), "PNG", optimize=True)
    colours = values.view(np.uint8).reshape(-1, 4)
    picture = Image.fromarray(np.searchsorted(values, packed).astype(np.uint8))
    picture.putpalette(colours[:, :3].tobytes())
    return _uri(picture, "PNG", optimize=True, transparency=colours[:, 3].tobytes())


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
