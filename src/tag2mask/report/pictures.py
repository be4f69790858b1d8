"""Pictures of the report: arrays as data URIs.

An image is embedded once. All other pictures have an alpha channel, and the browser lays them over the image.
"""

import base64
import io
from functools import cache

import numpy as np
from PIL import Image

from tag2mask.data.images import IGNORED, palette, reduced

_LIGHTEST, _DARKEST = 0.65, 0.1
"""Shares of white in the lightest and the darkest shade of a class; ours."""

_BACKGROUND = (71, 85, 105)
"""The colour whose shades are the prototypes of background in the allocation map: those of its black would look like
the shades of a grey class; ours."""

_HEAT = ((52, 0, 122), (142, 37, 125), (220, 84, 91), (252, 162, 62), (246, 248, 96))
"""Equidistant colours of the heat map, from 0 to 1: dark blue, red, yellow, at equal steps of lightness; ours."""

OVERLAY_SIDE = 2048
"""Most pixels on the long side of an overlay."""

_TALLEST = 1.6
"""Maximum height over width of a picture; a taller image is made narrower."""

_OUTLINE = (255, 255, 255, 235)
LABEL_ALPHA = 165
_ACTIVATION_ALPHA = 215
_HEAT_ALPHA = 190
_ALLOCATION_ALPHA = 205
_EDGE_ALPHA = 225


def shades(class_id: int, clusters: int) -> np.ndarray:
    """A colour for each cluster of a class, light to dark, uint8 (clusters, 3); the colour itself for one cluster."""
    white = np.linspace(_LIGHTEST, _DARKEST, clusters)[:, None] if clusters > 1 else np.zeros((1, 1))
    colour = palette()[class_id] if class_id else np.array(_BACKGROUND)
    mixed: np.ndarray = np.rint(colour * (1 - white) + 255 * white).astype(np.uint8)
    return mixed


def picture_size(size: tuple[int, int], width: int) -> tuple[int, int]:
    """(height, width) of the picture of an image of ``size`` (H, W): at most ``width`` wide, never enlarged."""
    scale = min(1.0, width / size[1], _TALLEST * width / size[0])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def smooth_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size of an embedded CAM: half of the picture's; CAMs are smooth, and the browser enlarges them."""
    return -(-size[0] // 2), -(-size[1] // 2)


def image_uri(image: np.ndarray, size: tuple[int, int]) -> str:
    """An image, uint8 (H, W, 3), reduced to ``size`` (h, w), as JPEG: printed to PDF, it is stored as it is."""
    small = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return _uri(small, "JPEG", quality=80, optimize=True, progressive=True)


def activation_uri(maps: np.ndarray, ids: np.ndarray) -> str:
    """CAMs in the colours of their classes: the highest CAM of a pixel gives the colour, its value the opacity.

    Args:
        maps: float32 (K, h, w) in [0, 1], without background, K at least 1.
        ids: int (K,), the class ids of the maps.
    """
    alpha = np.clip(maps.max(axis=0), 0, 1) ** 0.9 * _ACTIVATION_ALPHA
    overlay = np.dstack([palette()[ids[maps.argmax(axis=0)]], alpha.astype(np.uint8)])
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
    """The colours of a heat map from 0 to 1, uint8 (256, 3)."""
    places = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(np.linspace(0, 1, 256), places, channel) for channel in zip(*_HEAT, strict=True)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def label_uri(labels: np.ndarray) -> str:
    """A mask, uint8 (h, w): classes coloured and outlined, background transparent, 255 hatched."""
    table = np.column_stack([palette(), np.full(256, LABEL_ALPHA, dtype=np.uint8)])
    table[0] = 0
    overlay = table[labels]
    ignored = labels == IGNORED
    rows, columns = np.indices(labels.shape)
    hatch = (rows + columns) % 6 < 3
    overlay[ignored & hatch] = (*palette()[IGNORED], 200)
    overlay[ignored & ~hatch] = (*palette()[IGNORED] // 2, 150)
    overlay[outline(labels)] = _OUTLINE
    return _png(overlay)


def allocation_uri(cells: np.ndarray, colours: np.ndarray, size: tuple[int, int]) -> str:
    """The allocation map: each cell in the shade of its prototype, with hard edges.

    Args:
        cells: uint8 (h, w), the prototype of each cell; 255 = none, transparent.
        colours: uint8 (P, 3), the colour of each prototype.
        size: (height, width) of the picture in pixels.
    """
    table = np.zeros((256, 4), dtype=np.uint8)
    table[: len(colours), :3], table[: len(colours), 3] = colours, _ALLOCATION_ALPHA
    return _png(resize_labels(table[cells], size))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of uint8 (H, W) or (H, W, channels) to ``size`` (h, w)."""
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A mask in the colours of its palette over its image, outlined: uint8 (h, w, 3), at most `OVERLAY_SIDE` long.

    Args:
        image: uint8 (H, W, 3).
        labels: uint8 (H, W); background and 255 stay as in the image.
    """
    small = reduced(image, OVERLAY_SIDE)
    own = resize_labels(labels, (small.shape[0], small.shape[1]))
    strength = np.where(np.isin(own, (0, IGNORED)), 0, np.float32(LABEL_ALPHA / 255))[..., None]
    mixed: np.ndarray = (small * (1 - strength) + palette()[own] * strength).round().astype(np.uint8)
    mixed[outline(own)] = _OUTLINE[:3]
    return mixed


def outline(labels: np.ndarray) -> np.ndarray:
    """The borders between regions, without those to ignored regions: bool (h, w), two pixels wide."""
    edge = np.zeros(labels.shape, dtype=bool)
    for first, second in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
        differs = (labels[first] != labels[second]) & (labels[first] != IGNORED) & (labels[second] != IGNORED)
        edge[first] |= differs
        edge[second] |= differs
    return edge


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
