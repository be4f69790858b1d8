"""Hostile images: cut off, damaged, bombs by their header, other files under an image's name, odd pixels."""

import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from hostile_case import Case, Executes, Yard, write

SUFFIXES = ("jpg", "png", "webp", "tif", "bmp", "gif", "ppm", "jp2")
FORMATS = dict(zip(("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000"), SUFFIXES, strict=True))
CUTS = 3
DAMAGES = 2


@cache
def image(kind: str = "JPEG", **options: Any) -> bytes:
    """A sound one of 48 × 40 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image, file = Image.fromarray(pixels).resize((48, 40)), io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def checked(yard: Yard, name: str, content: bytes) -> list[str]:
    """`check` of class folders with one hostile image among two sound ones."""
    write(yard.data / "cat/one.jpg", image())
    write(yard.data / "dog/two.png", image("PNG"))
    write(yard.data / "dog" / name, content)
    return ["check", "."]


def _case(kind: str, name: str, file: str, content: bytes, *, usable: bool = False, maybe: bool = False) -> Case:
    codes = (0,) if usable else ((0, 1) if maybe else (1,))
    says = "" if usable or maybe else f"dog/{file}:"
    return Case(kind, name, lambda yard: checked(yard, file, content), says, codes)


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    yield from _cut(rng)
    yield from _damaged(rng)
    yield from _bombs()
    for name, content in _others().items():
        yield _case("other-file", name, "hostile.jpg", content)
    for name, (content, usable) in _odd_pixels().items():
        yield _case("odd-pixels", name, "hostile.png", content, usable=usable)
    for name, content in _nonsense().items():
        yield _case("metadata", name, "hostile.jpg", content, maybe=True)


def _cut(rng: random.Random) -> Iterator[Case]:
    for kind, suffix in FORMATS.items():
        whole = image(kind)
        # Behind three quarters some formats have all pixels: only what follows them is gone.
        for place in sorted(rng.sample(range(1, len(whole) * 3 // 4), CUTS)):
            yield _case("cut-off", f"{suffix}-{place}", f"hostile.{suffix}", whole[:place])


def _damaged(rng: random.Random) -> Iterator[Case]:
    for kind, suffix in FORMATS.items():
        whole = image(kind)
        for number in range(DAMAGES):
            broken = bytearray(whole)
            for place in rng.sample(range(2, len(whole)), 1 + 4 * number):
                broken[place] = rng.randrange(256)
            yield _case("damaged", f"{suffix}-{number}", f"hostile.{suffix}", bytes(broken), maybe=True)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, data: bytes = b"\0" * 9) -> bytes:
    """A PNG of any claimed size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def tiff(width: int, height: int, *more: tuple[int, int, int, int], after: int = 0) -> bytes:
    """A TIFF of one strip of any claimed size; ``after`` is the place of the next directory."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (278, 4, 1, height), (279, 4, 1, 16), *more]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", after)


def claiming(whole: bytes, place: int, form: str, *sides: int) -> bytes:
    """A sound image with other sides in its header."""
    return whole[:place] + struct.pack(form, *sides) + whole[place + struct.calcsize(form) :]


def bmp(width: int, height: int) -> bytes:
    """A BMP of any claimed size."""
    return claiming(image("BMP"), 18, "<ii", width, height)


def gif(width: int, height: int) -> bytes:
    """A GIF of any claimed size, of its screen and of its frame."""
    whole = claiming(image("GIF"), 6, "<HH", width, height)
    return claiming(whole, whole.index(b",\0\0\0\0") + 5, "<HH", width, height)


def jpeg(width: int, height: int) -> bytes:
    """A JPEG of any claimed size."""
    return claiming(image(), image().index(b"\xff\xc0") + 5, ">HH", height, width)


def jpeg2000(width: int, height: int) -> bytes:
    """A JPEG 2000 that claims any size in both of its headers."""
    whole = image("JPEG2000")
    sized = claiming(whole, whole.index(b"ihdr") + 4, ">II", height, width)
    return claiming(sized, whole.index(b"\xff\x51") + 6, ">II", width, height)


def webp(width: int, height: int) -> bytes:
    """An extended WebP whose canvas claims any size."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides + image("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bombs() -> Iterator[Case]:
    text = zlib.compress(bytes(80 << 20))
    huge = {
        "png-2e31": png(2**31 - 1, 2**31 - 1),
        "png-below-the-limit": png(9999, 9999),
        "png-16-bit": png(9999, 9999, depth=16, colour=6),
        "png-text": png(8, 8, png_chunk(b"zTXt", b"k\0\0" + text)),
        "png-international-text": png(8, 8, png_chunk(b"iTXt", b"k\0\1\0\0\0" + text)),
        "png-profile": png(8, 8, png_chunk(b"iCCP", b"k\0\0" + text)),
        "tiff-65535": tiff(65535, 65535),
        "tiff-below-the-limit": tiff(9999, 9999),
        "tiff-many-strips": tiff(64, 64, (700, 1, 2**32 - 1, 8)),
        "tiff-directory-in-itself": tiff(64, 64, after=8),
        "tiff-samples": tiff(64, 64, (277, 3, 1, 65535)),
        "bmp-2e31": bmp(2**31 - 1, 2**31 - 1),
        "bmp-below-the-limit": bmp(9999, 9999),
        "gif-65535": gif(65535, 65535),
        "webp-16384": webp(16384, 16384),
        "jpeg-65535": jpeg(65535, 65535),
        "jp2-65535": jpeg2000(65535, 65535),
        "ppm-digits": b"P6\n" + b"9" * 5000 + b" 4\n255\n" + bytes(9),
        "ppm-comment": b"P6\n#" + b"x" * (1 << 20),
        "ppm-below-the-limit": b"P6\n9999 9999\n255\n" + bytes(9),
    }
    for name, content in huge.items():
        yield _case("bomb", name, f"hostile.{name.partition('-')[0]}".replace(".tiff", ".tif"), content)
    empty = {"png": png(8, 0), "tiff": tiff(0, 0), "bmp": bmp(-8, 8), "gif": gif(0, 0), "jpeg": jpeg(0, 40)}
    for name, content in (empty | {"jp2": jpeg2000(0, 0), "ppm": b"P6\n-8 8\n255\n" + bytes(192)}).items():
        yield _case("zero-size", name, "hostile.png", content)


def _others() -> dict[str, bytes]:
    """Files that are no images, under the name of one."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../escaped.txt", "x")
    return {
        "nothing": b"",
        "one-byte": b"\xff",
        "zeros": bytes(4096),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "zip": packed.getvalue(),
        "pickle": pickle.dumps(Executes(Path("executed"))),
        "script": b"#!/bin/sh\ntouch executed\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file closefile\n",
        "video": bytes([0, 0, 0, 24]) + b"ftypisom" + bytes(24),
        "photoshop": b"8BPS" + bytes(60),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(60),
        "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
        "two-signatures": b"\x89PNG\r\n\x1a\n\xff\xd8\xff" + image(),
    }


def _odd_pixels() -> dict[str, tuple[bytes, bool]]:
    """Whole files of unusual pixels, and whether they can be used; tests/test_real_pixels.py has the sound kinds."""
    colours = Image.open(io.BytesIO(image("PNG")))
    whole = saved(colours.quantize(16), "PNG")
    at = whole.index(b"IDAT") - 4
    short = (b"\0" + b"\xff" * 8) * 8
    return {
        "lab": (saved(colours.convert("LAB"), "TIFF"), True),
        "transparency-too-long": (whole[:at] + png_chunk(b"tRNS", bytes(300)) + whole[at:], False),
        "transparency-empty": (whole[:at] + png_chunk(b"tRNS", b"") + whole[at:], True),
        "no-palette": (png(8, 8, depth=8, colour=3, data=bytes(72)), False),
        "palette-too-short": (png(8, 8, png_chunk(b"PLTE", bytes(3)), depth=8, colour=3, data=short), True),
        "unknown-colour-type": (png(8, 8, colour=5, data=bytes(200)), False),
        "unknown-depth": (png(8, 8, depth=7, data=bytes(200)), False),
        "two-headers": (png(8, 8, png_chunk(b"IHDR", bytes(13)), data=bytes(200)), False),
        "garbage-behind": (image("PNG") + b"executed" * 99, True),
    }


def _nonsense() -> dict[str, bytes]:
    """JPEGs and PNGs whose metadata is nonsense; their pixels are sound."""
    one_entry = b"II*\0\x08\0\0\0\x01\0"
    exif = {
        "orientation-999": one_entry + b"\x12\x01\x03\0\x01\0\0\0\xe7\x03\0\0\0\0\0\0",
        "orientation-as-text": one_entry + b"\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0",
        "orientation-by-zero": one_entry + b"\x12\x01\x05\0\x01\0\0\0\x1a\0\0\0\0\0\0\0" + bytes(8),
        "loop": one_entry + b"\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
        "many-entries": b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0" * 40,
        "far-away": b"II*\0\xff\xff\xff\x7f",
        "noise": bytes(range(256)),
    }
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "\x1b[31m" * 99)
    return {f"exif-{name}": _with_exif(content) for name, content in exif.items()} | {
        "profile-of-noise": image("JPEG", icc_profile=bytes(range(256)) * 9),
        "text-with-escapes": saved(Image.open(io.BytesIO(image("PNG"))), "PNG", pnginfo=info),
        "xmp-bomb": image("JPEG", xmp=b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]>" + b"&a;" * 9000),
    }


def _with_exif(content: bytes) -> bytes:
    segment = b"Exif\0\0" + content
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + image()[2:]
