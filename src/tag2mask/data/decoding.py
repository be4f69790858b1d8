"""Opening image files: which formats, how large, which way up, and how every kind of pixel becomes 8-bit RGB."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import ExifTags, Image

from tag2mask.data.problems import Fault, one_line
from tag2mask.data.tiff_kinds import has_undeclared_band, misread_layout, unread_layout
from tag2mask.errors import Tag2maskError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""What is read, whatever the file is called. No format that runs another program, as EPS does."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation; 1 is upright. Source: Exif 2.32, tag 0x0112."""

SIGNATURE_BYTES = 16
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
BRAND_BYTES = 1024
"""Of the box that lists the brands of a HEIF file, its beginning."""


RANGE_REMEDY = 'say which values are black and white with --data.intensity "[LOW, HIGH]", or save it with 8 or 16 bits'


class ImageError(Tag2maskError):
    """An image that cannot be used; the message names it, the rule and the remedy.

    It can be made from a message alone, so that it stays what it is on the way out of a data loader's worker.

    Attributes:
        kind: which rule is broken, as in `tag2mask.data.problems`.
        reason: the message without the name of the file.
    """

    def __init__(self, message: str, *, kind: Fault = "unreadable-image", reason: str | None = None) -> None:
        """Keep the message and what a check needs to sort it."""
        super().__init__(message)
        self.kind: Fault = kind
        self.reason = message if reason is None else reason


class MaskError(ImageError):
    """A mask that cannot be used; the message names it, the rule and the remedy."""


def image_error(path: Path, kind: Fault, reason: str) -> ImageError:
    """An `ImageError` about ``path``."""
    return ImageError(one_line(f"{path}: {reason}"), kind=kind, reason=one_line(reason))


@contextmanager
def opened(path: Path, *, pixel_limit: int, formats: tuple[str, ...] = IMAGE_FORMATS) -> Iterator[Image.Image]:
    """Open an image file and read its header; the pixels are not decoded yet.

    Pillow's own limit is not used: it is global, and warns instead of refusing up to twice its value.

    Args:
        path: the file; its content decides what it is, not its name.
        pixel_limit: more pixels are refused.
        formats: the formats that are allowed, as Pillow calls them.

    Yields:
        the image, neither decoded nor turned upright.

    Raises:
        ImageError: the file is missing, empty, not readable, not an image, damaged, or too large.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as reason:
        message = "the file does not exist; add it, or remove it from the list"
        raise image_error(path, "missing-image", message) from reason
    except OSError as reason:
        message = f"the file could not be read ({reason.strerror})"
        raise image_error(path, "unreadable-image", message) from reason
    with file:
        image = _identified(path, file, formats)
        width, height = image.size
        if width * height > pixel_limit:
            message = f"{width} × {height} pixels, at most {pixel_limit:,} are allowed"
            raise image_error(path, "pixel-limit", f"{message}; shrink it, or raise data.pixel_limit")
        yield image


def decode(path: Path, image: Image.Image) -> Image.Image:
    """Decode all pixels of an opened image and turn it upright by its EXIF orientation.

    A band that Pillow takes for alpha, and that the file does not declare as such, is dropped.

    Raises:
        ImageError: the file ends early or its data is damaged.
    """
    try:
        undeclared = has_undeclared_band(image)
        if image.format == "TIFF":
            image.filename = ""  # type: ignore[attr-defined]  # else Pillow maps it into memory by its upright size
        image.load()
    except MemoryError as reason:  # which is not the file's fault
        raise MemoryError(f"while {path} was decoded") from reason
    except Exception as reason:  # a damaged file makes decoders raise almost anything
        message = f"the file is cut off or damaged ({_words(reason)}); replace it"
        raise image_error(path, "damaged-image", message) from reason
    turn = UPRIGHT.get(_orientation(image))
    if undeclared:
        image = image.convert(image.mode[:-1])
    return image if turn is None else image.transpose(turn)


def upright_size(path: Path, image: Image.Image) -> tuple[int, int]:
    """(H, W) of an opened image after its EXIF orientation, without decoding it where the format allows that.

    Raises:
        ImageError: a PNG, which may keep its orientation behind the pixels, is damaged.
    """
    if image.format == "PNG":
        image = decode(path, image)
        return image.height, image.width
    return _swapped(image, _orientation(image))


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

    Of a file with several frames or pages the first is read. For a range of values of more than 8 bits see
    `tag2mask.data.deep_pixels.read_rgb`.

    Raises:
        ImageError: there is no documented conversion.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            message = f"grey values {grey.min()}..{grey.max()}, 0..65535 are allowed"
            raise image_error(path, "unsupported-image", f"{message}; {RANGE_REMEDY}")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        low, high = image.getextrema()
        message = f"floating-point pixels have no known range (here {low:g}..{high:g})"
        raise image_error(path, "unsupported-image", f"{message}; {RANGE_REMEDY}")
    try:
        if image.has_transparency_data:
            layered = image.convert("RGBA")
            white = Image.new("RGBA", layered.size, "white")
            return Image.alpha_composite(white, layered).convert("RGB")
        return image.convert("RGB")
    except MemoryError:
        raise  # which is not the file's fault
    except Exception as reason:  # a palette that is not there, or too short, makes converters raise almost anything
        message = f"pixels of the kind {image.mode} cannot become RGB ({_words(reason)}); save it as RGB"
        raise image_error(path, "unsupported-image", message) from reason


def turned_size(path: Path) -> tuple[int, tuple[int, int]]:
    """The EXIF orientation of an image file, 1..8, and its upright (H, W), from the header alone.

    (1, (0, 0)) where it cannot be read. What a PNG keeps behind the pixels is not found.
    """
    try:
        with opened(path, pixel_limit=sys.maxsize) as image:
            turn = _orientation(image)
            return turn, _swapped(image, turn)
    except Exception:  # a damaged file makes decoders raise almost anything; who reads its pixels says so
        return 1, (0, 0)


def file_orientation(path: Path) -> int:
    """The EXIF orientation of an image file, 1..8; 1 where there is none, or the file cannot be read."""
    try:
        with opened(path, pixel_limit=sys.maxsize) as image:
            if image.format == "PNG":  # which may keep it behind the pixels
                image.load()
            return _orientation(image)
    except Exception:  # a damaged file makes decoders raise almost anything; who reads its pixels says so
        return 1


@cache
def _known_formats() -> frozenset[str]:
    """The formats that this Pillow can open; its plugins are loaded at the first image, not at import."""
    Image.init()
    return frozenset(Image.OPEN)


def _identified(path: Path, file: IO[bytes], formats: tuple[str, ...]) -> Image.Image:
    """The image in ``file`` with its header read.

    `PIL.Image.open` would do, but warns or raises above a limit that is global to the process; its registry is
    public.
    """
    try:
        signature = file.read(SIGNATURE_BYTES)
        brands = _brands(signature + file.read(BRAND_BYTES)) if signature[4:8] == b"ftyp" else set()
    except OSError as reason:
        raise image_error(path, "unreadable-image", f"the file could not be read ({reason.strerror})") from reason
    if not signature:
        raise image_error(path, "empty-image", "the file is empty; replace it")
    if brands & HEIC_BRANDS and not brands & AVIF_BRANDS:
        raise image_error(path, "not-an-image", "a HEIC photograph, which is not read; convert it to JPEG")
    for name in formats:
        if name not in _known_formats():
            continue
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(signature) is not True:
            continue
        file.seek(0)
        try:
            image = cast("Image.Image", factory(file, str(path)))
            unread = misread_layout(image)
        except Image.DecompressionBombError as reason:
            message = f"its size or its text is beyond Pillow's own limit ({_words(reason)}); shrink it"
            raise image_error(path, "pixel-limit", message) from reason
        except Exception as reason:  # a damaged file makes decoders raise almost anything
            if name == "TIFF" and (cause := unread_layout(file)) is not None:
                raise image_error(path, "unsupported-image", cause) from reason
            message = f"the file begins like {name}, its header is cut off or damaged ({_words(reason)}); replace it"
            raise image_error(path, "damaged-image", message) from reason
        if unread is not None:
            raise image_error(path, "unsupported-image", unread)
        return image
    kinds = ", ".join(formats)
    raise image_error(path, "not-an-image", f"not an image, whatever its name says; {kinds} can be read")


def _brands(head: bytes) -> set[bytes]:
    """The major and the compatible brands of a HEIF file. Source: ISO 14496-12, the box `ftyp`."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[place : place + 4] for place in range(16, end, 4))}


def _swapped(image: Image.Image, turn: int) -> tuple[int, int]:
    """(H, W) of an opened image of that EXIF orientation, upright."""
    # Pillow swaps the sides of a TIFF by itself, already when it reads the header.
    swapped = image.format != "TIFF" and turn in (5, 6, 7, 8)
    return (image.width, image.height) if swapped else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or the EXIF data is damaged, which leaves the pixels usable."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF parsing raises whatever damaged bytes lead it to
        return 1


def _words(reason: BaseException) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__
