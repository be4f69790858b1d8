"""Conversion of all kinds of pixels to 8-bit RGB, and reading of more than 8 bits in their full range."""

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.data.decoding import (
    BITS,
    COMPRESSION,
    PLANAR,
    SAMPLE_FORMAT,
    decode,
    jpeg2000_bits,
    opened,
    tags_of,
    words,
)
from tag2mask.data.problems import ImageError

Intensity = tuple[float, float]
"""(LOW, HIGH), the pixel values that become black and white."""

DeepKind = Literal["grey", "colour", "unread"]
"""More than 8 bits: readable in full as one channel or as three, or not readable in full."""

RANGE_REMEDY = 'say which values are black and white with --data.intensity "[LOW, HIGH]", or save it with 8 or 16 bits'

_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def to_rgb(path: Path, image: Image.Image) -> Image.Image:
    """Convert decoded pixels of any kind to 8-bit RGB.

    ============================== ==================================================================================
    black and white, grey          the grey value three times; white is 255
    16-bit grey                    v → round(v / 257), so that the whole range 0..65535 becomes 0..255
    palette                        the colours of the palette
    alpha, or a transparent colour laid over white
    bands beyond colour and alpha  dropped, in TIFF and JPEG 2000 also a fourth one that is not declared as alpha
    CMYK, YCbCr, HSV, Lab          Pillow's conversion without colour profiles; an embedded profile is not applied
    16-bit colour                  the high byte of each channel, as Pillow reads it
    32-bit grey, floating point    refused unless integers in 0..65535, which are 16-bit grey
    ============================== ==================================================================================

    Only the first frame or page is read. `read_rgb` takes a range for values of more than 8 bits.

    Raises:
        ImageError: the table has no conversion.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            message = f"grey values {grey.min()}..{grey.max()}, 0..65535 are allowed"
            raise ImageError.about(path, "unsupported-image", f"{message}; {RANGE_REMEDY}")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        low, high = image.getextrema()
        message = f"floating-point pixels have no known range (here {low:g}..{high:g})"
        raise ImageError.about(path, "unsupported-image", f"{message}; {RANGE_REMEDY}")
    try:
        if image.has_transparency_data:
            layered = image.convert("RGBA")
            white = Image.new("RGBA", layered.size, "white")
            return Image.alpha_composite(white, layered).convert("RGB")
        return image.convert("RGB")
    except MemoryError:
        raise  # not a fault of the file
    except Exception as reason:  # a missing or short palette makes converters raise almost anything
        message = f"pixels of the kind {image.mode} cannot become RGB ({words(reason)}); save it as RGB"
        raise ImageError.about(path, "unsupported-image", message) from reason


def deep_kind(image: Image.Image) -> DeepKind | None:
    """The kind of an opened image that is not decoded yet; None for up to 8 bits, and for AVIF."""
    raw, more = _raw_mode(image)
    if not raw:  # a Pillow image without a file, or already decoded
        return "grey" if image.mode.startswith("I") or image.mode == "F" else None
    if image.format == "JPEG2000":
        bits = jpeg2000_bits(image)
        if bits is not None and bits <= 8:
            return None
        return "grey" if bits == 16 and image.mode.startswith("I") else "unread"  # fewer bits are scaled up to 16
    if image.format == "PPM" and more and isinstance(more[0], int) and more[0] > 255:  # scaled by its maximum
        return "grey" if more[0] == 65535 and image.mode == "I" else "unread"
    if image.mode.startswith("I") or image.mode == "F":
        return "grey"
    if image.format not in ("PNG", "TIFF") or ";16" not in raw:
        return None
    tags = tags_of(image)
    planes = tags.get(PLANAR, 1) == 2 and tags.get(COMPRESSION, 1) != 1  # their raw mode has no effect
    is_colour = raw.partition(";")[0] in ("RGB", "RGBA", "RGBX", "RGBa", "LA")
    return "colour" if is_colour and not planes else "unread"


def read_rgb(path: Path, image: Image.Image, intensity: Intensity | None = None) -> npt.NDArray[np.uint8]:
    """Decode an opened image to RGB, uint8 (H, W, 3), upright.

    With ``intensity``, a value v of more than 8 bits becomes round(255 (v - LOW) / (HIGH - LOW)), clipped; without, the
    conversion is that of `to_rgb`.

    Raises:
        ImageError: as `decode` and `to_rgb`; or ``intensity`` is given and full values cannot be read.
    """
    kind = None if intensity is None else deep_kind(image)
    if intensity is None or kind is None:
        return np.array(to_rgb(path, decode(path, image)))
    if kind == "unread":
        message = f"more than 8 bits per channel, {image.format} {image.mode}, whose full values cannot be read"
        remedy = "for data.intensity, save it as PNG or TIFF, 16-bit grey or RGB, with interleaved bands"
        raise ImageError.about(path, "unsupported-image", f"{message}; {remedy}")
    if kind == "grey":
        return np.repeat(scaled(deep_grey(path, image), intensity)[..., None], 3, axis=2)
    values = deep_colour(path, image)
    colours = scaled(values[..., :3], intensity)
    if values.shape[2] == 3:
        return colours
    layers = np.dstack([colours, (values[..., 3] >> 8).astype(np.uint8)])
    return np.array(to_rgb(path, Image.fromarray(layers)))


def deep_grey(path: Path, image: Image.Image) -> npt.NDArray[Any]:
    """The values of an image of kind ``grey``: upright, (H, W), 16- or 32-bit integers or 32-bit floats."""
    tags = tags_of(image)
    values = np.asarray(decode(path, image))
    if image.mode == "I" and tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
        return values.view(np.uint32)  # Pillow has no mode for them
    return values


def deep_colour(path: Path, image: Image.Image) -> npt.NDArray[np.uint16]:
    """The values of an image of kind ``colour``: upright, uint16 (H, W, 3), or (H, W, 4) with alpha.

    Pillow keeps one byte of each value, so the file is decoded with the raw modes of both byte orders: one gives the
    high bytes, the other the low bytes. Source: ours.
    """
    raw, _ = _raw_mode(image)
    kind, _, order = raw.partition(";16")
    if kind == "LA":  # Pillow has no raw mode for its low bytes; read the four bytes as four 8-bit channels
        grey, low_grey, alpha, low_alpha = np.moveaxis(_decoded_as(path, "RGBA").astype(np.uint16), 2, 0)
        return np.dstack([grey << 8 | low_grey] * 3 + [alpha << 8 | low_alpha])
    stored = kind.replace("a", "A")  # associated alpha is divided out below, on 16-bit values
    high, low = (_decoded_as(path, f"{stored};16{byte}").astype(np.uint16) for byte in (order, _OTHER_BYTE[order]))
    values: npt.NDArray[np.uint16] = (high << 8 | low).astype(np.uint16, copy=False)
    if kind == "RGBa":
        whole = np.maximum(values[..., 3:], 1).astype(np.uint32)
        values[..., :3] = np.minimum(values[..., :3] * np.uint32(65535) // whole, 65535)
    clear = image.info.get("transparency")
    if kind == "RGB" and isinstance(clear, tuple):
        opaque = (values != np.array(clear, dtype=np.uint16)).any(axis=2)
        return np.dstack([values, opaque * np.uint16(65535)])
    return values


def scaled(values: npt.NDArray[Any], intensity: Intensity) -> npt.NDArray[np.uint8]:
    """round(255 (v - LOW) / (HIGH - LOW)), clipped to 0..255, uint8 of the same shape; NaN becomes 0."""
    low, high = intensity
    grid = np.arange(65536) if values.dtype == np.uint16 else values  # a lookup table is far cheaper for 16 bits
    shares = (grid.astype(np.float64) - low) / (high - low)
    grey: npt.NDArray[np.uint8] = np.rint(255 * np.clip(np.nan_to_num(shares, nan=0.0), 0, 1)).astype(np.uint8)
    return grey[values] if values.dtype == np.uint16 else grey


def _raw_mode(image: Image.Image) -> tuple[str, tuple[Any, ...]]:
    """Pillow's raw mode of an opened image, and the other arguments of its decoder."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else None
    if isinstance(args, str):
        return args, ()
    return (str(args[0]), args[1:]) if isinstance(args, tuple) and args else ("", ())


def _decoded_as(path: Path, raw: str) -> npt.NDArray[np.uint8]:
    """The file decoded with another raw mode, upright, (H, W, bands)."""
    with opened(path, pixel_limit=sys.maxsize) as image:  # its size was checked before
        tiles = getattr(image, "tile", [])
        changed = [each._replace(args=(raw, *each.args[1:]) if isinstance(each.args, tuple) else raw) for each in tiles]
        image.tile = changed  # type: ignore[attr-defined]
        return np.asarray(decode(path, image))
