"""What the tags of a TIFF say of its bands and pages, and a JPEG 2000 of its alpha, where Pillow says too little."""

import io
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from PIL import Image, TiffImagePlugin

NEW_SUBFILE_TYPE, COMPRESSION, PHOTOMETRIC, PLANAR = 254, 259, 262, 284
BITS, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 277, 338, 339
PLACES, LENGTHS = (273, 324), (279, 325)
"""Of strips, and of tiles."""

SAMPLE_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floating point", 5: "complex", 6: "complex"}
"""What a sample format means. Source: TIFF 6.0, tag 339."""

COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}
"""Bands of a photometric interpretation: RGB, CMYK, YCbCr, Lab; others have one. Source: TIFF 6.0, tag 262."""

NOT_A_PAGE = 0b101
"""Bits of `NEW_SUBFILE_TYPE` of a smaller copy of another page, and of a transparency mask."""

PAGED = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")
"""Formats with pages or frames; the pictures that cameras append to a JPEG are neither."""

MOST_PAGES = 64
"""Directories that are looked at for a second page."""

HEADER_BYTES = 1 << 20
"""Bytes in which a JPEG 2000 file is expected to begin its codestream."""


def tags_of(image: Image.Image) -> Mapping[int, Any]:
    """The tags of an opened TIFF; empty for other formats."""
    return getattr(image, "tag_v2", {})


def layout(tags: Mapping[int, Any]) -> str:
    """Bands, bits and kind of the samples, as ``4 bands × 16 bits, unsigned integers``."""
    bits = tags.get(BITS, (1,))
    bands = tags.get(SAMPLES, len(bits))
    deep = "/".join(str(each) for each in sorted(set(bits)))
    formats = sorted(set(tags.get(SAMPLE_FORMAT, (1,))))
    kind = " and ".join(SAMPLE_KINDS.get(each, f"sample format {each}") for each in formats)
    planar = ", stored one band after another (planar)" if tags.get(PLANAR, 1) == 2 else ""
    return f"{bands} band{'s' * (bands != 1)} × {deep} bits, {kind}{planar}"


def unread_layout(file: IO[bytes]) -> str | None:
    """Why Pillow cannot read a TIFF whose header is whole: kind of pixels or compression; None for a damaged header.

    Whole is a header with a size, with bits for every band, and with strips or tiles that lie inside the file.
    """
    try:
        file.seek(0)
        header = file.read(8)
        header += file.read(8) if header[2] == 43 else b""  # BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        places, lengths = (_numbers(tags, either) for either in (PLACES, LENGTHS))
        bits, end = tags.get(BITS, (1,)), file.seek(0, io.SEEK_END)
        sized = min(tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH], *bits) > 0
        inside = all(0 < place <= place + length <= end for place, length in zip(places, lengths, strict=True))
        if not (sized and places and inside and len(bits) in (1, tags.get(SAMPLES, len(bits)))):
            return None
        compression = tags.get(COMPRESSION, 1)
        if compression not in TiffImagePlugin.COMPRESSION_INFO:
            return f"a TIFF with the compression {compression}, which is not read; save it with LZW or Deflate"
        return f"a TIFF of {layout(tags)}, which is not read; save it as 8- or 16-bit RGB"
    except Exception:  # a damaged header makes its reader raise almost anything
        return None


def misread_layout(image: Image.Image) -> str | None:
    """Why an opened TIFF must not be decoded, although Pillow would: it mixes up planes of such bands; None if it may.

    Uncompressed planes of more than 8 bits are taken for 8 bits, and colours in compressed planes are divided by an
    undeclared fourth band. Source: ours, tried out with Pillow 13.
    """
    tags = tags_of(image)
    if tags.get(PLANAR, 1) != 2:
        return None
    raw = tags.get(COMPRESSION, 1) == 1
    wrong = raw and max(tags.get(BITS, (1,))) > 8
    wrong |= raw and 1 in tags.get(EXTRA_SAMPLES, ())
    wrong |= not raw and image.mode == "RGBA" and not tags.get(EXTRA_SAMPLES)
    return f"a TIFF of {layout(tags)}, which is not read; save it with interleaved bands" if wrong else None


def has_undeclared_band(image: Image.Image) -> bool:
    """Whether Pillow takes a band for alpha that an opened TIFF or JPEG 2000 does not declare as such."""
    if image.format == "TIFF":
        return image.mode == "RGBA" and not tags_of(image).get(EXTRA_SAMPLES)
    head = codestream_head(image) if image.format == "JPEG2000" and image.mode in ("LA", "RGBA") else b""
    return bool(head) and not _declares_alpha(head)


def dropped_bands(image: Image.Image) -> int:
    """How many bands of an opened image are neither colour nor alpha, and are not read; 0 for most formats."""
    if image.format != "TIFF":
        return int(has_undeclared_band(image))
    tags = tags_of(image)
    alpha = image.mode in ("RGBA", "LA", "La", "PA") and not has_undeclared_band(image)
    return max(0, int(tags.get(SAMPLES, 1)) - COLOURS.get(tags.get(PHOTOMETRIC, 0), 1) - alpha)


def has_more_pages(image: Image.Image) -> bool:
    """Whether an opened image of a format in `PAGED` has a second page or frame; the image moves to it.

    Smaller copies of the first page and transparency masks in a TIFF do not count.
    """
    try:
        if image.format != "TIFF" or not getattr(image, "is_animated", False):
            return bool(getattr(image, "is_animated", False))
        for number in range(1, MOST_PAGES):
            with suppress(SyntaxError):  # of a page whose pixels cannot be read the tags are there
                image.seek(number)
            if not tags_of(image).get(NEW_SUBFILE_TYPE, 0) & NOT_A_PAGE:
                return True
    except Exception:  # no more pages, or a damaged one, which leaves the first usable
        pass
    return False


def codestream_head(image: Image.Image) -> bytes:
    """The beginning of an opened JPEG 2000 file; empty where it is decoded already."""
    if not getattr(image, "tile", None):
        return b""
    file: IO[bytes] = image.fp  # type: ignore[attr-defined]
    place = file.seek(0, io.SEEK_CUR)
    file.seek(0)
    head = file.read(HEADER_BYTES)
    file.seek(place)
    return head


def jpeg2000_bits(image: Image.Image) -> int | None:
    """Bits per sample of the first component of an opened JPEG 2000 file; None where its header is not found."""
    head = codestream_head(image)
    at = head.find(b"\xff\x4f\xff\x51")  # the markers SOC and SIZ
    return (head[at + 42] & 0x7F) + 1 if 0 <= at < len(head) - 42 else None


def _declares_alpha(head: bytes) -> bool:
    """Whether a channel definition box of JPEG 2000 has an opacity channel. Source: ISO 15444-1, I.5.3.6."""
    boxes = head.partition(b"jp2c")[0]
    _, found, content = boxes.partition(b"cdef")
    count = int.from_bytes(content[:2], "big") if found else 0
    kinds = [content[start + 2 : start + 4] for start in range(2, 2 + 6 * min(count, 4), 6)]
    return b"\0\1" in kinds or b"\0\2" in kinds


def _numbers(tags: Mapping[int, Any], either: tuple[int, int]) -> tuple[int, ...]:
    """The values of the tag that is there."""
    values = tags[next(tag for tag in either if tag in tags)]
    return values if isinstance(values, tuple) else (values,)
