"""Opening and decoding image files: formats, pixel limit, EXIF orientation, and bands that Pillow misreads."""

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from tag2mask.core.files import open_file
from tag2mask.core.machine_errors import is_machine_error
from tag2mask.data.problems import ImageError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""The formats that are read; the file name does not matter. None of them runs another program, as EPS does."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation; 1 is upright. Source: Exif 2.32, tag 0x0112."""

_SIGNATURE_BYTES = 16
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
_BRAND_BYTES = 1024  # bytes of the box that lists the brands of a HEIF file

NEW_SUBFILE_TYPE, COMPRESSION, PHOTOMETRIC, PLANAR = 254, 259, 262, 284
BITS, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 277, 338, 339
PLACES, LENGTHS = (273, 324), (279, 325)  # tags of strips, and of tiles

SAMPLE_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floating point", 5: "complex", 6: "complex"}
"""Sample formats. Source: TIFF 6.0, tag 339."""

COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}
"""Bands of a photometric interpretation: RGB, CMYK, YCbCr, Lab; others have one. Source: TIFF 6.0, tag 262."""

NOT_A_PAGE = 0b101  # bits of `NEW_SUBFILE_TYPE`: a smaller copy of another page, a transparency mask

PAGED = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")
"""Formats with pages or frames; pictures that cameras append to a JPEG do not count."""

MAX_DIRECTORIES = 64  # searched for a second page
HEADER_BYTES = 1 << 20  # a JPEG 2000 file should begin its codestream within these


@contextmanager
def opened(path: Path, *, pixel_limit: int, formats: tuple[str, ...] = IMAGE_FORMATS) -> Iterator[Image.Image]:
    """Open an image file of one of Pillow's ``formats``, detected by content, and read its header without decoding.

    Raises:
        ImageError: the file is missing, empty, unreadable, not an image or damaged, or has more than ``pixel_limit``
            pixels.
    """
    try:
        file = open_file(path)
    except FileNotFoundError as reason:
        message = "the file does not exist; add it, or remove it from the list"
        raise ImageError.about(path, "missing-image", message) from reason
    except OSError as reason:
        raise _unreadable(path, reason) from reason
    with file:
        image = _identified(path, file, formats)
        width, height = image.size
        if width * height > pixel_limit:
            message = f"{width} × {height} pixels, at most {pixel_limit:,} are allowed"
            raise ImageError.about(path, "pixel-limit", f"{message}; shrink it, or raise data.pixel_limit")
        yield image


def decode(path: Path, image: Image.Image) -> Image.Image:
    """Decode all pixels of an opened image and turn it upright by its EXIF orientation.

    A band that Pillow reads as alpha without a declaration in the file is dropped.

    Raises:
        ImageError: the file ends early or its data is damaged.
    """
    try:
        undeclared = _has_undeclared_band(image)
        if image.format == "TIFF":
            image.filename = ""  # type: ignore[attr-defined]  # else Pillow memory-maps it with its upright size
        image.load()
    except MemoryError as reason:  # not a fault of the file
        raise MemoryError(f"while {path} was decoded") from reason
    except Exception as reason:  # a damaged file makes decoders raise almost anything
        message = f"the file is cut off or damaged ({words(reason)}); replace it"
        raise ImageError.about(path, "damaged-image", message) from reason
    turn = UPRIGHT.get(_orientation(image))
    if undeclared:
        image = image.convert(image.mode[:-1])
    return image if turn is None else image.transpose(turn)


def upright_size(path: Path, image: Image.Image) -> tuple[int, int]:
    """(H, W) of an opened image after its EXIF orientation; only PNG, with EXIF possibly after the pixels, is decoded.

    Raises:
        ImageError: a PNG is damaged.
    """
    if image.format == "PNG":
        image = decode(path, image)
        return image.height, image.width
    return _swapped(image, _orientation(image))


def turned_size(path: Path, *, whole: bool = False) -> tuple[int, tuple[int, int]]:
    """The EXIF orientation of an image file, 1..8, and its upright (H, W); (1, (0, 0)) if it cannot be read.

    ``whole``: decode a PNG, which may have its orientation after the pixels; else only the header is read.
    """
    try:
        with opened(path, pixel_limit=sys.maxsize) as image:
            if whole and image.format == "PNG":
                image.load()
            turn = _orientation(image)
            return turn, _swapped(image, turn)
    except Exception:  # a damaged file makes decoders raise almost anything; reading its pixels reports it
        return 1, (0, 0)


def _unreadable(path: Path, reason: OSError) -> Exception:
    """What to raise for a file that cannot be opened or read."""
    if is_machine_error(reason):  # not a fault of the file
        return reason
    return ImageError.about(path, "unreadable-image", f"the file could not be read ({reason.strerror})")


def _identified(path: Path, file: IO[bytes], formats: tuple[str, ...]) -> Image.Image:
    # Not `PIL.Image.open`, whose pixel limit is global to the process.
    try:
        signature = file.read(_SIGNATURE_BYTES)
        brands = _brands(signature + file.read(_BRAND_BYTES)) if signature[4:8] == b"ftyp" else set()
    except OSError as reason:
        raise _unreadable(path, reason) from reason
    if not signature:
        raise ImageError.about(path, "empty-image", "the file is empty; replace it")
    if brands & _HEIC_BRANDS and not brands & AVIF_BRANDS:
        raise ImageError.about(path, "not-an-image", "a HEIC image, which is not read; convert it to JPEG")
    Image.init()  # loads the plugins, once
    for name in formats:
        if name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(signature) is not True:
            continue
        file.seek(0)
        try:
            image = cast("Image.Image", factory(file, str(path)))
            unread = _misread_layout(image)
        except Image.DecompressionBombError as reason:
            message = f"its size or its text is beyond Pillow's own limit ({words(reason)}); shrink it"
            raise ImageError.about(path, "pixel-limit", message) from reason
        except Exception as reason:  # a damaged file makes decoders raise almost anything
            if name == "TIFF" and (cause := _unread_layout(file)) is not None:
                raise ImageError.about(path, "unsupported-image", cause) from reason
            message = f"the file begins like {name}, its header is cut off or damaged ({words(reason)}); replace it"
            raise ImageError.about(path, "damaged-image", message) from reason
        if unread is not None:
            raise ImageError.about(path, "unsupported-image", unread)
        return image
    kinds = ", ".join(formats)
    raise ImageError.about(path, "not-an-image", f"not an image, whatever its name says; {kinds} can be read")


def _brands(head: bytes) -> set[bytes]:
    """The brands of a HEIF file. Source: ISO 14496-12, the box `ftyp`."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[place : place + 4] for place in range(16, end, 4))}


def _swapped(image: Image.Image, turn: int) -> tuple[int, int]:
    # Pillow swaps the sides of a TIFF when it reads the header.
    swapped = image.format != "TIFF" and turn in (5, 6, 7, 8)
    return (image.width, image.height) if swapped else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raises almost anything; the pixels remain usable
        return 1


def words(reason: BaseException) -> str:
    """The message of an exception on one line, or its name."""
    return " ".join(str(reason).split()) or type(reason).__name__


def tags_of(image: Image.Image) -> Mapping[int, Any]:
    """The tags of an opened TIFF; empty for other formats."""
    return getattr(image, "tag_v2", {})


def _layout(tags: Mapping[int, Any]) -> str:
    # As "4 bands × 16 bits, unsigned integers".
    bits = tags.get(BITS, (1,))
    bands = tags.get(SAMPLES, len(bits))
    deep = "/".join(str(each) for each in sorted(set(bits)))
    formats = sorted(set(tags.get(SAMPLE_FORMAT, (1,))))
    kind = " and ".join(SAMPLE_KINDS.get(each, f"sample format {each}") for each in formats)
    planar = ", stored one band after another (planar)" if tags.get(PLANAR, 1) == 2 else ""
    return f"{bands} band{'s' * (bands != 1)} × {deep} bits, {kind}{planar}"


def _unread_layout(file: IO[bytes]) -> str | None:
    """Why Pillow cannot read a TIFF with a valid header; None for a damaged header."""
    try:
        file.seek(0)
        header = file.read(8)
        header += file.read(8) if header[2] == 43 else b""  # BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        places, lengths = (np.ravel(tags.get(strips, tags.get(tiles, ()))) for strips, tiles in (PLACES, LENGTHS))
        bits, end = tags.get(BITS, (1,)), file.seek(0, io.SEEK_END)
        sized = min(tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH], *bits) > 0
        inside = all(0 < place <= place + length <= end for place, length in zip(places, lengths, strict=True))
        if not (sized and len(places) and inside and len(bits) in (1, tags.get(SAMPLES, len(bits)))):
            return None
        compression = tags.get(COMPRESSION, 1)
        if compression not in TiffImagePlugin.COMPRESSION_INFO:
            return f"a TIFF with the compression {compression}, which is not read; save it with LZW or Deflate"
        return f"a TIFF of {_layout(tags)}, which is not read; save it as 8- or 16-bit RGB"
    except Exception:  # a damaged header makes its reader raise almost anything
        return None


def _misread_layout(image: Image.Image) -> str | None:
    """Why Pillow would decode an opened TIFF wrongly; None if it would not. Source: ours, tested with Pillow 13.

    Pillow reads uncompressed planes of more than 8 bits as 8 bits, and divides colours in compressed planes by an
    undeclared fourth band.
    """
    tags = tags_of(image)
    if tags.get(PLANAR, 1) != 2:
        return None
    raw = tags.get(COMPRESSION, 1) == 1
    wrong = raw and max(tags.get(BITS, (1,))) > 8
    wrong |= raw and 1 in tags.get(EXTRA_SAMPLES, ())
    wrong |= not raw and image.mode == "RGBA" and not tags.get(EXTRA_SAMPLES)
    return f"a TIFF of {_layout(tags)}, which is not read; save it with interleaved bands" if wrong else None


def _has_undeclared_band(image: Image.Image) -> bool:
    """Whether Pillow reads a band as alpha that the TIFF or JPEG 2000 does not declare as alpha."""
    if image.format == "TIFF":
        return image.mode == "RGBA" and not tags_of(image).get(EXTRA_SAMPLES)
    head = _codestream_head(image) if image.format == "JPEG2000" and image.mode in ("LA", "RGBA") else b""
    return bool(head) and not _declares_alpha(head)


def dropped_bands(image: Image.Image) -> int:
    """The number of bands that are neither colour nor alpha, and are not read; 0 for most formats."""
    if image.format != "TIFF":
        return int(_has_undeclared_band(image))
    tags = tags_of(image)
    alpha = image.mode in ("RGBA", "LA", "La", "PA") and not _has_undeclared_band(image)
    return max(0, int(tags.get(SAMPLES, 1)) - COLOURS.get(tags.get(PHOTOMETRIC, 0), 1) - alpha)


def has_more_pages(image: Image.Image) -> bool:
    """Whether an image has a second page or frame, smaller copies and masks excluded; seeks in the image."""
    try:
        if image.format != "TIFF" or not getattr(image, "is_animated", False):
            return bool(getattr(image, "is_animated", False))
        for number in range(1, MAX_DIRECTORIES):
            with suppress(SyntaxError):  # the tags of a page with unreadable pixels are available
                image.seek(number)
            if not tags_of(image).get(NEW_SUBFILE_TYPE, 0) & NOT_A_PAGE:
                return True
    except Exception:  # no more pages, or a damaged one; the first remains usable
        pass
    return False


def _codestream_head(image: Image.Image) -> bytes:
    """The beginning of an opened JPEG 2000 file; empty if it is already decoded."""
    if not getattr(image, "tile", None):
        return b""
    file: IO[bytes] = image.fp  # type: ignore[attr-defined]
    place = file.seek(0, io.SEEK_CUR)
    file.seek(0)
    head = file.read(HEADER_BYTES)
    file.seek(place)
    return head


def jpeg2000_bits(image: Image.Image) -> int | None:
    """Bits per sample of the first component of an opened JPEG 2000 file; None if its header is not found."""
    head = _codestream_head(image)
    at = head.find(b"\xff\x4f\xff\x51")  # the markers SOC and SIZ
    return (head[at + 42] & 0x7F) + 1 if 0 <= at < len(head) - 42 else None


def _declares_alpha(head: bytes) -> bool:
    """Whether a channel definition box of JPEG 2000 has an opacity channel. Source: ISO 15444-1, I.5.3.6."""
    boxes = head.partition(b"jp2c")[0]
    _, found, content = boxes.partition(b"cdef")
    count = int.from_bytes(content[:2], "big") if found else 0
    kinds = [content[start + 2 : start + 4] for start in range(2, 2 + 6 * min(count, 4), 6)]
    return b"\0\1" in kinds or b"\0\2" in kinds
