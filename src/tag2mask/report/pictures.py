"""The pictures of the gallery: arrays in, data URIs out.

A photograph is embedded once. Everything else is a picture with an alpha channel that the browser lays over it, so
that the reader can fade it and the page stays small.
"""

import base64
import io
from functools import cache

import numpy as np
from PIL import Image

from tag2mask.report.colours import RGB, Palette, oklch

IGNORED = 255
TALLEST = 1.6
"""Height of a picture over its width, at most: a very tall photograph is made narrower instead."""

OUTLINE = (255, 255, 255, 235)
LABEL_ALPHA = 165
ACTIVATION_ALPHA = 215
HEAT_ALPHA = 190
ALLOCATION_ALPHA = 205
EDGE_ALPHA = 225


def picture_size(size: tuple[int, int], width: int) -> tuple[int, int]:
    """(height, width) of the picture of a photograph of ``size`` (H, W): ``width`` wide at most, never enlarged."""
    scale = min(1.0, width / size[1], TALLEST * width / size[0])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def smooth_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size in which a CAM is embedded: half of the picture's, for it is smooth and the browser enlarges it so."""
    return -(-size[0] // 2), -(-size[1] // 2)


def photo_uri(image: np.ndarray, size: tuple[int, int]) -> str:
    """A photograph, uint8 (H, W, 3), reduced to ``size`` (h, w)."""
    reduced = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return _uri(reduced, "WEBP", quality=80, method=4)


def activation_uri(maps: np.ndarray, ids: np.ndarray, palette: Palette) -> str:
    """CAMs in the colours of their classes: the strongest class of a pixel gives the colour, its value the opacity.

    Args:
        maps: float32 (K, h, w) in [0, 1], without background, K at least 1.
        ids: int (K,), the class ids of the maps.
        palette: the colours.
    """
    colours = np.array([palette.colour(int(class_id)) for class_id in ids], dtype=np.uint8)  # (K, 3)
    alpha = np.clip(maps.max(axis=0), 0, 1) ** 0.9 * ACTIVATION_ALPHA
    overlay = np.dstack([colours[maps.argmax(axis=0)], alpha.astype(np.uint8)])
    return _uri(Image.fromarray(overlay), "WEBP", quality=85, alpha_quality=85, method=4)


def outline_uri(labels: np.ndarray) -> str:
    """The borders of the regions of a label map, uint8 (h, w), as white lines."""
    overlay = np.zeros((*labels.shape, 4), dtype=np.uint8)
    overlay[outline(labels)] = OUTLINE
    return _png(overlay)


def heat_uri(values: np.ndarray) -> str:
    """One CAM, float32 (h, w) in [0, 1], as a heat map; what is near 0 is transparent."""
    clipped = np.clip(values, 0, 1)
    alpha = np.clip(clipped / 0.25, 0, 1) * HEAT_ALPHA
    overlay = np.dstack([heat_colours()[(clipped * 255).round().astype(np.uint8)], alpha.astype(np.uint8)])
    return _uri(Image.fromarray(overlay), "WEBP", quality=80, alpha_quality=80, method=4)


def edge_uri(values: np.ndarray) -> str:
    """An edge map, float32 (h, w) in [0, 1]: the stronger an edge, the brighter; the rest dark."""
    grey = (255 * np.clip(values, 0, 1)).round().astype(np.uint8)
    overlay = np.dstack([grey, grey, grey, np.full_like(grey, EDGE_ALPHA)])
    return _uri(Image.fromarray(overlay), "WEBP", quality=80, method=4)


@cache
def heat_colours() -> np.ndarray:
    """The colours of a heat map from 0 to 1, uint8 (256, 3): from dark blue over red to yellow, ever lighter."""
    return np.array(
        [oklch(0.3 + 0.65 * value, 0.17, 290 + 180 * value) for value in np.linspace(0, 1, 256)], dtype=np.uint8
    )


def heat_scale() -> tuple[RGB, ...]:
    """Some colours of the heat map from 0 to 1, for its legend."""
    return tuple((int(r), int(g), int(b)) for r, g, b in heat_colours()[::23])


def label_uri(labels: np.ndarray, palette: Palette) -> str:
    """A mask, uint8 (h, w): classes coloured and outlined, background clear, 255 hatched."""
    overlay = np.zeros((*labels.shape, 4), dtype=np.uint8)
    for class_id in np.unique(labels):
        if class_id not in (0, IGNORED):
            overlay[labels == class_id] = (*palette.colour(int(class_id)), LABEL_ALPHA)
    ignored = labels == IGNORED
    rows, columns = np.indices(labels.shape)
    hatch = (rows + columns) % 6 < 3
    overlay[ignored & hatch] = (225, 225, 225, 200)
    overlay[ignored & ~hatch] = (120, 120, 120, 150)
    overlay[outline(labels)] = OUTLINE
    return _png(overlay)


def allocation_uri(cells: np.ndarray, shades: dict[int, RGB], size: tuple[int, int]) -> str:
    """The allocation map: each cell in the shade of its prototype, cells with hard edges.

    Args:
        cells: uint8 (h, w), the prototype of each cell; 255 = none, left clear.
        shades: the colour of each prototype that occurs.
        size: (height, width) of the picture in pixels.
    """
    overlay = np.zeros((*cells.shape, 4), dtype=np.uint8)
    for prototype, colour in shades.items():
        overlay[cells == prototype] = (*colour, ALLOCATION_ALPHA)
    return _png(resize_labels(overlay, size))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of uint8 (H, W) or (H, W, channels) to ``size`` (h, w)."""
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def outline(labels: np.ndarray) -> np.ndarray:
    """The borders between regions: bool (h, w), two pixels wide. The border to an ignored region is none."""
    edge = np.zeros(labels.shape, dtype=bool)
    for first, second in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
        differs = (labels[first] != labels[second]) & (labels[first] != IGNORED) & (labels[second] != IGNORED)
        edge[first] |= differs
        edge[second] |= differs
    return edge


def _png(overlay: np.ndarray) -> str:
    """An RGBA picture of few colours as a palette PNG, which is a quarter of the size."""
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
