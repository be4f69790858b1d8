"""Images as cameras, microscopes and satellites write them: many bits, many bands, pages, EXIF turns."""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from rich.console import Console

from data_sets import CAT, document, image
from run_tiny import BACKBONE, files_of, run
from tag2mask.cli import main
from tag2mask.data import DataSettings, open_images, read_image
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import ImageError, read_mask, read_small
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.data.readers.coco_annotations import read_annotations
from tag2mask.data.readers.rasterise import Rasterisation
from tag2mask.data.readers.scan import Listing
from tag2mask.data.validation.image_check import (
    PixelNotice,
    mask_problems,
    pixel_warnings,
    read_with_notices,
    sample_warnings,
    turned_images,
)
from tag2mask.networks.checkpoint import load_segmentation_network, read_network_info, save_network
from tag2mask.networks.segmentation import build_segmentation_network
from tag2mask.networks.settings import SegmentationNetworkSettings
from tag2mask.prediction.predictor import Predictor, load
from tag2mask.runs.config import Config
from tag2mask.runs.ground_truth import rasterise_missing_truth
from tag2mask.runs.progress import StageResult
from tag2mask.stages.predictions import _batches
from tag2mask.stages.registry import STAGES

RANGE = (100.0, 4095.0)
OWN = (".json", ".npz")
"""Files that name the settings of their run."""

LETTERS = {1: "B", 3: "H", 4: "I"}


def tiff(
    values: np.ndarray,
    *,
    photometric: int = 2,
    order: str = "<",
    extra: Sequence[int] | None = None,
    planar: bool = False,
    deflate: bool = False,
    predictor: bool = False,
    pages: Sequence[int] = (0,),
) -> bytes:
    """A TIFF of (H, W, bands) by its specification; each of ``pages`` is the subfile type of a page."""
    height, width, bands = values.shape
    kinds = {"u": 1, "i": 2, "f": 3}
    stored = values
    if predictor:  # differences between neighbours, per band
        stored = values.copy()
        stored[:, 1:] = values[:, 1:] - values[:, :-1]
    stored = stored.astype(values.dtype.newbyteorder(order))
    planes = [np.ascontiguousarray(stored[..., band]) for band in range(bands)] if planar else [stored]
    strips = [zlib.compress(plane.tobytes()) if deflate else plane.tobytes() for plane in planes]
    body, places = b"", []
    for strip in strips:
        places.append(8 + len(body))
        body += strip + b"\0" * (len(strip) % 2)
    file, link = struct.pack(f"{order}HI", 42, 8 + len(body)) + body, 0
    for subfile in pages:
        start = 2 + len(file)
        tags: list[tuple[int, int, Sequence[int]]] = [
            (254, 4, [subfile]),
            (256, 4, [width]),
            (257, 4, [height]),
            (258, 3, [8 * values.itemsize] * bands),
            (259, 3, [8 if deflate else 1]),
            (262, 3, [photometric]),
            (273, 4, places),
            (277, 3, [bands]),
            (278, 4, [height]),
            (279, 4, [len(strip) for strip in strips]),
            (284, 3, [2 if planar else 1]),
            *([(317, 3, [2])] if predictor else []),
            *([(338, 3, extra)] if extra is not None else []),
            (339, 3, [kinds[values.dtype.kind]] * bands),
        ]
        entries, tail, behind = b"", b"", start + 2 + 12 * len(tags) + 4
        for tag, kind, numbers in tags:
            raw = struct.pack(f"{order}{len(numbers)}{LETTERS[kind]}", *numbers)
            field = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{order}I", behind + len(tail))
            tail += b"" if len(raw) <= 4 else raw + b"\0" * (len(raw) % 2)
            entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + field
        if link:
            file = file[: link - 2] + struct.pack(f"{order}I", start) + file[link + 2 :]
        file += struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + tail
        link = start + 2 + 12 * len(tags)
    return (b"II" if order == "<" else b"MM") + file


def png(values: np.ndarray, colour: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    """A PNG of (H, W, channels) with 16 bits, its rows filtered in all five ways in turn."""
    height, width, channels = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def filtered(part: np.ndarray) -> bytes:
        rows = part.astype(">u2").reshape(len(part), -1).view(np.uint8).astype(int)
        above, lines, step = np.zeros_like(rows[0]), b"", 2 * channels
        for number, row in enumerate(rows):
            left, corner = (np.concatenate([np.zeros(step, int), each[:-step]]) for each in (row, above))
            near = left + above - corner
            options = np.stack([abs(near - left), abs(near - above), abs(near - corner)])
            paeth = np.choose(options.argmin(0), [left, above, corner])
            guess = [0 * row, left, above, (left + above) // 2, paeth][number % 5]
            lines += bytes([number % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes()
            above = row
        return lines

    adam7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    parts = [values[y::dy, x::dx] for y, dy, x, dx in adam7] if interlaced else [values]
    data = zlib.compress(b"".join(filtered(part) for part in parts if part.size))
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    made = [chunk(b"IHDR", header), *(chunk(each[:4], each[4:]) for each in chunks), chunk(b"IDAT", data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made) + chunk(b"IEND", b"")


def values(bands: int, dtype: Any = np.uint16, *, most: int = 4200) -> np.ndarray:
    """(9, 14, bands): values up to ``most``, those that bytes in the wrong order would get wrong among them."""
    found = np.random.default_rng(bands).integers(0, most + 1, (9, 14, bands))
    found[0, :4] = np.array([0, min(255, most), min(256, most), most])[:, None]
    return found.astype(dtype)


def in_range(found: np.ndarray) -> np.ndarray:
    """What a value becomes, by the formula of the setting."""
    low, high = RANGE
    return np.rint(255 * np.clip((found.astype(np.float64) - low) / (high - low), 0, 1)).astype(int)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = (alpha >> 8)[..., None] / 255
    return share * colours + (1 - share) * 255


def written(folder: Path, content: bytes, name: str = "a.tif") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


ALPHA = values(4, most=65535)[..., 3:]
COLOUR = values(3)
GREY = values(1)
FOUR = np.dstack([COLOUR, ALPHA])
CLEAR = b"tRNS" + COLOUR[0, 1].astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("content", "expected"),
    {
        "grey png": (png(GREY, 0), in_range(GREY)),
        "grey tiff": (tiff(GREY, photometric=1), in_range(GREY)),
        "grey tiff, big-endian": (tiff(GREY, photometric=1, order=">"), in_range(GREY)),
        "rgb png": (png(COLOUR, 2), in_range(COLOUR)),
        "rgb png, interlaced": (png(COLOUR, 2, interlaced=True), in_range(COLOUR)),
        "rgb png, one colour clear": (
            png(COLOUR, 2, CLEAR),
            np.where((COLOUR[0, 1] == COLOUR).all(2, keepdims=True), 255, in_range(COLOUR)),
        ),
        "rgba png": (png(FOUR, 6), over_white(in_range(COLOUR), ALPHA[..., 0])),
        "grey and alpha png": (png(np.dstack([GREY, ALPHA]), 4), over_white(in_range(GREY), ALPHA[..., 0])),
        "rgb tiff": (tiff(COLOUR), in_range(COLOUR)),
        "rgb tiff, big-endian": (tiff(COLOUR, order=">"), in_range(COLOUR)),
        "rgb tiff, deflate": (tiff(COLOUR, deflate=True), in_range(COLOUR)),
        "rgb tiff, deflate, predictor": (tiff(COLOUR, deflate=True, predictor=True), in_range(COLOUR)),
        "rgb tiff, deflate, big-endian": (tiff(COLOUR, deflate=True, order=">"), in_range(COLOUR)),
        "four bands, alpha": (tiff(FOUR, extra=[2]), over_white(in_range(COLOUR), ALPHA[..., 0])),
        "four bands, undeclared": (tiff(FOUR), in_range(COLOUR)),
        "four bands, unspecified": (tiff(FOUR, extra=[0], deflate=True), in_range(COLOUR)),
        "float": (tiff(GREY.astype(np.float32), photometric=1), in_range(GREY)),
        "32 bits": (tiff(GREY.astype(np.uint32) + 70000, photometric=1), np.full_like(GREY, 255)),
        "32 bits, signed": (tiff(GREY.astype(np.int32) - 9000, photometric=1), np.zeros_like(GREY)),
        "beyond 31 bits": (tiff(np.full((9, 14, 1), 3_000_000_000, np.uint32), photometric=1), np.full_like(GREY, 255)),
        "8 bits": (tiff(COLOUR.astype(np.uint8)), COLOUR.astype(np.uint8)),
    }.values(),
    ids=lambda each: "",
)
def test_a_range_of_values_becomes_black_to_white(tmp_path: Path, content: bytes, expected: np.ndarray) -> None:
    path = written(tmp_path, content)
    read = read_image(path, intensity=RANGE).astype(int)
    assert read.shape == (9, 14, 3)
    assert np.abs(read - expected).max() <= (1 if expected.dtype.kind == "f" else 0)
    assert (read_small(path, 99, intensity=RANGE) == read).all()


def test_associated_alpha_is_undone_by_whole_values(tmp_path: Path) -> None:
    stored = np.array([[[1000, 2000, 4000, 32768], [0, 0, 0, 0], [3000, 1, 2, 65535]]], dtype=np.uint16)
    read = read_image(written(tmp_path, tiff(stored, extra=[1])), intensity=RANGE).astype(float)
    straight = np.array([[[2000, 4000, 8000], [0, 0, 0], [3000, 1, 2]]])
    assert np.abs(read - over_white(in_range(straight), stored[..., 3])).max() <= 1


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA"])
def test_pixels_of_an_uncompressed_tiff_are_turned_not_mixed(tmp_path: Path, mode: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = Image.fromarray(np.arange(9 * 14, dtype=np.uint16).reshape(9, 14) * 257)
    stored = stored if mode == "I;16" else Image.fromarray(np.asarray(stored).astype(np.uint8)).convert(mode)
    stored.save(tmp_path / "a.tif", exif=exif)
    assert (read_image(tmp_path / "a.tif")[..., 0] == np.rot90(np.arange(9 * 14).reshape(9, 14), -1)).all()


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_range_leaves_images_upright(tmp_path: Path, suffix: str, turn: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    if suffix == "png":
        path = written(tmp_path, png(COLOUR, 2, b"eXIf" + exif.tobytes()[6:]), "a.png")
    else:
        path = tmp_path / "a.tif"
        Image.fromarray(GREY[..., 0]).save(path, exif=exif)
    stored = in_range(COLOUR if suffix == "png" else np.repeat(GREY, 3, 2))
    upright = {1: stored, 3: stored[::-1, ::-1], 6: np.rot90(stored, -1), 8: np.rot90(stored)}[turn]
    assert (read_image(path, intensity=RANGE) == upright).all()


def test_without_a_range_16_bit_colour_is_what_pillow_reads(tmp_path: Path) -> None:
    path = written(tmp_path, tiff(COLOUR))
    with Image.open(path) as image:
        assert (read_image(path) == np.asarray(image)).all()
    assert (read_image(path) == COLOUR >> 8).all()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"P6 2 1 4095\n" + bytes(12), "PPM RGB, whose full values cannot be read; for data.intensity, save it as PNG"),
        (b"P5 2 1 4095\n" + bytes(4), "PPM I, whose full values cannot be read"),
        (tiff(COLOUR, planar=True, deflate=True), "TIFF RGB, whose full values .* with interleaved bands"),
        (tiff(FOUR, photometric=5), "TIFF CMYK, whose full values cannot be read"),
    ],
)
def test_a_range_of_values_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = written(tmp_path, content)
    read_image(path)
    with pytest.raises(ImageError, match=says) as caught:
        read_image(path, intensity=RANGE)
    assert caught.value.kind == "unsupported-image"


# What is dropped


@pytest.mark.parametrize("options", [{}, {"extra": [0]}, {"deflate": True}])
def test_an_undeclared_fourth_band_is_no_alpha(tmp_path: Path, options: dict[str, Any]) -> None:
    four = values(4, np.uint8, most=255)
    assert (read_image(written(tmp_path, tiff(four, **options))) == four[..., :3]).all()


def test_an_undeclared_fourth_component_of_jpeg_2000_is_no_alpha(tmp_path: Path) -> None:
    four, file = values(4, np.uint8, most=255), io.BytesIO()
    Image.fromarray(four).save(file, "JPEG2000", irreversible=False)
    declared = read_image(written(tmp_path, file.getvalue(), "a.jp2"))
    assert np.abs(declared - over_white(four[..., :3], four[..., 3].astype(int) << 8)).max() <= 1
    undeclared = file.getvalue().replace(b"cdef", b"xxxx")
    assert (read_image(written(tmp_path, undeclared, "b.jp2")) == four[..., :3]).all()


MANY = values(5, np.uint8, most=255)
HALF = np.dstack([MANY[..., :3], np.full((9, 14), 128, np.uint8)])
SOLID = np.dstack([MANY[..., :3], np.full((9, 14), 255, np.uint8)])


def animation(kind: str) -> bytes:
    frames, file = [Image.new("RGB", (9, 9), name) for name in ("red", "blue")], io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "notices"),
    [
        (png(GREY, 0), [PixelNotice("range", 4200)]),
        (png(COLOUR, 2), [PixelNotice("range", 4200)]),
        (tiff(values(3, most=65000)), [PixelNotice("range", (65000 >> 8) << 8 | 255)]),
        (tiff(FOUR), [PixelNotice("bands", 1), PixelNotice("range", 4200)]),
        (tiff(MANY, extra=[0, 0], deflate=True), [PixelNotice("bands", 2)]),
        (tiff(MANY, extra=[2, 0], deflate=True), [PixelNotice("bands", 1), PixelNotice("alpha")]),
        (tiff(MANY, photometric=1, extra=[0] * 4, planar=True, deflate=True), [PixelNotice("bands", 4)]),
        (tiff(SOLID), [PixelNotice("bands", 1)]),
        (tiff(SOLID, extra=[2]), []),
        (tiff(HALF, extra=[2]), [PixelNotice("alpha")]),
        (tiff(MANY[..., :3]), []),
        (tiff(MANY[..., :3], pages=(0, 0)), [PixelNotice("pages")]),
        (tiff(MANY[..., :3], pages=(0, 1, 4)), []),  # a smaller copy, and a mask
        (tiff(MANY[..., :3], pages=(0, 1, 0)), [PixelNotice("pages")]),
        (animation("GIF"), [PixelNotice("pages")]),
        (animation("WEBP"), [PixelNotice("pages")]),
    ],
)
def test_what_is_not_read_is_noticed(tmp_path: Path, content: bytes, notices: list[PixelNotice]) -> None:
    path = written(tmp_path, content)
    pixels, found = read_with_notices(path, DataSettings())
    assert found == notices
    assert (pixels == read_image(path)).all()
    own, found = read_with_notices(path, DataSettings(intensity=RANGE))
    assert found == [notice for notice in notices if notice.kind != "range"]
    assert (own == read_image(path, intensity=RANGE)).all()


@pytest.mark.parametrize(
    ("greatest", "says"),
    [
        ([200], "1 of 9 images have more than 8 bits and values up to 200 of 65535 only"),
        ([200], '--data.intensity "[0, 255]"'),
        ([900, 200], '--data.intensity "[0, 1023]"'),
        ([4095], '--data.intensity "[0, 4095]"'),
        ([8191], '--data.intensity "[0, 16383]"'),
        ([4000] * 7, "7 of 9 images .*: 0.tif, 1.tif, 2.tif, 3.tif, 4.tif and 2 more; say"),
        ([4000, 60000], "1 of 9 images .* up to 4000 .*: 0.tif; values of other images go up to 60000, so no range"),
    ],
)
def test_one_warning_for_the_whole_set(greatest: list[int], says: str) -> None:
    noticed = [(f"{number}.tif", [PixelNotice("range", value)]) for number, value in enumerate(greatest)]
    (found,) = pixel_warnings(noticed, "root", 9)
    assert (found.level, found.kind, found.subject) == ("warning", "small-range", "root")
    assert re.search(says.replace("[", r"\["), found.message)


def test_bright_images_give_no_warning_and_each_kind_gives_one() -> None:
    assert not list(pixel_warnings([("a", [PixelNotice("range", 8192)])], "root", 1))
    noticed = [(name, [PixelNotice("bands", 2), PixelNotice("alpha"), PixelNotice("pages")]) for name in "abc"]
    found = list(pixel_warnings(noticed, "root", 3))
    assert [each.kind for each in found] == ["extra-bands", "extra-bands", "several-pages"]
    assert all("3 of 3 images" in each.message and "a, b, c" in each.message for each in found)


def test_a_first_look_at_a_few_images(tmp_path: Path) -> None:
    paths = [written(tmp_path, png(GREY, 0), "a.png"), written(tmp_path, b"", "b.png"), tmp_path / "missing.png"]
    (found,) = sample_warnings(paths, DataSettings(root=tmp_path))
    assert (found.kind, found.subject) == ("small-range", str(tmp_path))
    assert ": a.png; " in found.message
    assert sample_warnings(paths, DataSettings(root=tmp_path, intensity=RANGE)) == []


# Wrong causes


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tiff(values(4), photometric=1), r"4 bands × 16 bits, unsigned integers, which is not read; save it as 8- or"),
        (tiff(values(3, np.float32)), r"3 bands × 32 bits, floating point, which is not read"),
        (tiff(values(1, np.float64), photometric=1), r"1 band × 64 bits, floating point"),
        (tiff(values(9, np.uint8, most=255)), r"9 bands × 8 bits, unsigned integers"),
        (tiff(MANY[..., :4], extra=[0], planar=True), r"4 bands × 8 bits, unsigned integers, stored one .* \(planar\)"),
        (tiff(COLOUR, planar=True), r"3 bands × 16 bits, .*\(planar\), which is not read; save it with interleaved"),
        (tiff(MANY[..., :4], planar=True, deflate=True), r"4 bands × 8 bits, .*\(planar\)"),
        (tiff(GREY, photometric=1, order=">", planar=True), r"1 band × 16 bits"),
    ],
)
def test_the_kind_of_pixels_is_the_cause(tmp_path: Path, content: bytes, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ImageError, match=f"a TIFF of {says}") as caught:
        read_image(path)
    assert caught.value.kind == "unsupported-image"
    cut = written(tmp_path, content[: content.index(b"\0\0") + 20], "cut.tif")
    with pytest.raises(ImageError, match="damaged") as caught:
        read_image(cut)
    assert caught.value.kind == "damaged-image"


def test_an_unknown_compression_is_the_cause(tmp_path: Path) -> None:
    whole = tiff(COLOUR)
    content = whole.replace(struct.pack("<HHIH", 259, 3, 1, 1), struct.pack("<HHIH", 259, 3, 1, 34887))
    with pytest.raises(ImageError, match="with the compression 34887, which is not read"):
        read_image(written(tmp_path, content))


def brands(major: bytes, *compatible: bytes) -> bytes:
    names = b"".join(compatible)
    return struct.pack(">I", 16 + len(names)) + b"ftyp" + major + bytes(4) + names + bytes(40)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (brands(b"mif1", b"mif1", b"heic"), "a HEIC image"),
        (brands(b"msf1", b"hevc"), "a HEIC image"),
        (brands(b"heic", b"mif1"), "a HEIC image"),
        (brands(b"mif1", b"avif", b"miaf"), "begins like AVIF"),
        (brands(b"avif", b"mif1", b"miaf"), "begins like AVIF"),
    ],
)
def test_brands_decide_between_heic_and_avif(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        read_image(written(tmp_path, content, "a.jpg"))


def test_an_avif_with_the_general_brand_is_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "AVIF")
    content = file.getvalue()
    assert b"avif" in content[16:40]
    read = read_image(written(tmp_path, content[:8] + b"mif1" + content[12:], "a.avif"))
    assert np.abs(read.astype(int) - [255, 0, 0]).max() <= 3


# EXIF and annotations


def item_of(folder: Path, turn: int, size: tuple[int, int]) -> ImageItem:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    Image.new("RGB", size).save(folder / f"{turn}.jpg", exif=exif)
    return ImageItem(str(turn), folder / f"{turn}.jpg", ())


@pytest.mark.parametrize(
    ("turn", "stored", "annotated", "kind", "says"),
    [
        (1, (60, 40), (40, 60), None, ""),
        (1, (60, 40), (60, 40), "mask-size", "use the image that was annotated"),
        (6, (60, 40), (40, 60), "mask-size", r"EXIF turns the image \(orientation 6\), so annotate the upright"),
        (6, (60, 40), (60, 40), None, ""),
        (3, (60, 40), (40, 60), "mask-turn", r"\(orientation 3\), and the size of its annotation cannot tell"),
        (6, (40, 40), (40, 40), "mask-turn", r"\(orientation 6\)"),
    ],
)
def test_exif_and_annotations(
    tmp_path: Path, turn: int, stored: tuple[int, int], annotated: tuple[int, int], kind: str | None, says: str
) -> None:
    item = item_of(tmp_path, turn, stored)
    rasterisation = Rasterisation(tmp_path / "masks", "ignore", {}, {item.id: annotated}, tmp_path)
    listing = Listing("coco", tmp_path, rasterisation=rasterisation)
    size = stored if turn > 4 else stored[::-1]
    found = list(
        mask_problems(listing, item, size, DataSettings(), ImageSet(("cat",), [item], tmp_path, rasterisation))
    )
    assert [each.kind for each in found] == ([] if kind is None else [kind])
    assert all(re.search(says, each.message) for each in found)
    doubtful = turn > 1 and kind is not None
    expected = [f"{turn}.jpg (orientation {turn})"] if doubtful else []
    assert turned_images([item], rasterisation.sizes) == expected


def test_a_warning_before_painting(tmp_path: Path) -> None:
    items = [item_of(tmp_path, turn, (60, 40)) for turn in (1, 3)]
    source = tmp_path / "instances_x.json"
    entries = [image(number, f"{item.id}.jpg", height=40, width=60) for number, item in enumerate(items, 1)]
    source.write_text(document(entries, [], CAT))
    digest = read_annotations(source, "x").digest
    sizes = {item.id: (40, 60) for item in items}
    rasterisation = Rasterisation(tmp_path / "masks", "ignore", {source: digest}, sizes, tmp_path)
    console = Console(file=io.StringIO(), width=9999)
    rasterise_missing_truth(
        Config(workers=0), ImageSet(("cat",), items, tmp_path, rasterisation=rasterisation), console
    )
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "warning: EXIF turns 1 of the 2 images" in said
    assert "3.jpg (orientation 3); masks of those" in said
    assert (tmp_path / "masks/3.png").is_file()


# The range of a network


def test_a_network_is_used_with_the_range_it_was_trained_with(tmp_path: Path) -> None:
    settings = SegmentationNetworkSettings(backbone=BACKBONE, weights="none")
    network = build_segmentation_network(settings, ("cat",), seed=0)
    save_network(tmp_path / "none.safetensors", network)
    network.intensity = RANGE
    save_network(tmp_path / "some.safetensors", network)
    assert b'"intensity"' not in (tmp_path / "none.safetensors").read_bytes()[:5000]
    assert load_segmentation_network(tmp_path / "none.safetensors").intensity is None
    assert read_network_info(tmp_path / "some.safetensors").intensity == RANGE
    predictor = load(tmp_path / "some.safetensors", "cpu")
    assert predictor.intensity == RANGE
    path = written(tmp_path, png(COLOUR, 2), "a.png")
    assert (predictor._array(path) == in_range(COLOUR)).all()
    batches = _batches(
        Images.from_list([ImageItem("a", path, ())]), Config(workers=0), predictor, StageResult("predictions"), {}
    )
    ((_, pixels),) = next(batches)
    assert (pixels == in_range(COLOUR)).all()
    assert (predictor._array(Image.fromarray(GREY[..., 0])) == in_range(GREY)).all()
    with Image.open(path) as image, pytest.raises(Exception, match=r"16-bit colour.*give its path"):
        predictor._array(image)
    assert (Predictor(network, "cpu", intensity=(0, 65535))._array(path) <= 17).all()


@pytest.mark.parametrize("stage", ["seeds", "train", "cams", "edges", "refine", "segment"])
def test_the_range_is_part_of_fingerprints_where_it_is_given(scenes: Path, stage: str) -> None:
    images = open_images(DataSettings(root=scenes, split="train"))
    without = STAGES[stage].fingerprint(Config(), images)
    given = STAGES[stage].fingerprint(Config(data=DataSettings(intensity=(0, 4095))), images)
    assert "intensity" not in without.get("data", {})
    assert given == without | {"data": {**without.get("data", {}), "intensity": [0.0, 4095.0]}}


def test_a_run_on_12_bits_is_that_on_8_bits(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same pixels with 12 bits give the same masks, predictions and confidence."""
    deep, eight = tmp_path / "deep", tmp_path / "eight"
    for root in (deep, eight):
        copytree(scenes / "masks", root / "masks")
        for item in open_images(DataSettings(root=scenes)).items:
            image = read_image(item.path)
            path = root / item.path.relative_to(scenes).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            if root == deep:
                path.write_bytes(png(np.rint(image / 255 * 4095).astype(np.uint16), 2))
            else:
                Image.fromarray(image).save(path)
        (root / "tags.csv").write_text((scenes / "tags.csv").read_text().replace(".jpg", ".png"))
    outs = []
    segment = {"backbone": BACKBONE, "weights": "none", "upsampling": "cells"}
    settings = {f"segment__network__{name}": value for name, value in segment.items()}
    settings |= {"segment__enabled": "true", "segment__steps": "2", "segment__batch_size": "4"}
    settings |= {"segment__augment__crop": "64", "segment__augment__long_side": "[56,80]"}
    settings |= {"refine__method": "crf", "cams__kinds": "[pot]", "evaluate__splits": "val"}
    for root, more in ((eight, {}), (deep, {"data__intensity": "[0, 4095]"})):
        out = tmp_path / f"run-{root.name}"
        assert run("run", root, out, **settings, **more) == 0
        outs.append(out)
    for kind, count in {"masks": 10, "predictions": 4, "confidence": 2}.items():
        made = [{name: text for name, text in files_of(out / kind).items() if not name.endswith(OWN)} for out in outs]
        for out, files in zip(outs, made, strict=True):  # masks also say which image they are of
            pixels = {name: read_mask(out / kind / name).tobytes() for name in files if name.endswith(".png")}
            files.update(pixels)
        assert len(made[0]) == count
        assert made[0] == made[1]
    assert main(["refine", str(outs[1]), "--data.root", str(deep), "--data.intensity", "null"]) == 2
    assert "data.intensity was [0.0, 4095.0] and is at its default" in capsys.readouterr().err
