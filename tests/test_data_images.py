"""Images and masks: every kind of pixel, every orientation, every way to be broken."""

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, features

from hostile_images import png as png_claiming
from tag2mask.core.errors import Tag2maskError
from tag2mask.data.images import ImageError, MaskError, image_size, palette, read_image, read_mask, write_mask


def colours(height: int = 6, width: int = 10) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Conversion to RGB


def of_palette(*numbers: int) -> Image.Image:
    image = Image.fromarray(np.array([numbers], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    return image


BITS = colours()[..., 0] > 127
FRAMES = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
CONVERTED: dict[str, tuple[Image.Image, dict[str, Any], Any]] = {
    "rgb.png": (Image.fromarray(colours()), {}, colours()),
    "grey.png": (Image.fromarray(colours()[..., 0]), {}, np.repeat(colours()[..., :1], 3, 2)),
    "black-and-white.png": (Image.fromarray(BITS), {}, np.repeat(BITS[..., None] * 255, 3, 2)),
    "palette.png": (of_palette(0, 1, 2, 1), {}, [[[10, 20, 30], [40, 50, 60], [70, 80, 90], [40, 50, 60]]]),
    "clear-entry.png": (of_palette(0, 1), {"transparency": 1}, [[[10, 20, 30], [255, 255, 255]]]),
    "clear-colour.png": (
        Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)),
        {"transparency": (1, 2, 3)},
        [[[255, 255, 255], [4, 5, 6]]],
    ),
    "grey-alpha.png": (
        Image.fromarray(np.array([[[90, 255], [90, 0]]], dtype=np.uint8)),
        {},
        [[[90, 90, 90], [255, 255, 255]]],
    ),
    "frames.gif": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, np.full((4, 5, 3), [255, 0, 0])),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_every_kind_of_pixels_becomes_rgb(tmp_path: Path, name: str) -> None:
    image, options, expected = CONVERTED[name]
    image.save(tmp_path / name, **options)
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint8 and read.flags.writeable
    assert read.tolist() == np.asarray(expected).tolist()


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - [0, 255, 255]).max() <= 3  # cyan


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (
            np.ones((3, 3), dtype=np.float32),
            r"a\.tif: floating-point .* --data\.intensity .* save it with 8 or 16 bits",
        ),
        (np.array([[0, 70000]], dtype=np.int32), r"grey values 0\.\.70000, 0\.\.65535 are allowed"),
    ],
)
def test_pixels_beyond_sixteen_bits_are_refused(tmp_path: Path, pixels: np.ndarray, says: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=says) as caught:
        read_image(tmp_path / "a.tif")
    assert caught.value.kind == "unsupported-image"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_whole_range(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 1, 128, 129, 257, 32768, 65278, 65535]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    expected = np.floor(grey / 257 + 0.5)
    assert (read_image(tmp_path / f"a.{suffix}") == expected[..., None]).all()


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    alpha = np.array([[0, 64, 128, 255]], dtype=np.uint8)
    layered = np.dstack([np.full((1, 4), value, dtype=np.uint8) for value in (200, 0, 100)] + [alpha])
    Image.fromarray(layered).save(tmp_path / "a.png")
    share = alpha[..., None] / 255
    expected = share * np.array([200, 0, 100]) + (1 - share) * 255
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() <= 1


# Orientation

TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = np.kron(colours(3, 5), np.ones((16, 16, 1), dtype=np.uint8))  # blocks that JPEG keeps
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif, **options)
    expected = TURNS[orientation](stored)
    read = read_image(path)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).max() <= (4 if suffix == "jpg" else 0)
    assert image_size(path) == expected.shape[:2]


def test_a_lack_of_memory_is_not_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "whole.png")

    def lacking(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lacking)
    with pytest.raises(MemoryError, match=r"while \S+whole\.png was decoded"):
        read_image(tmp_path / "whole.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_leaves_the_image_usable(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0garbage")
    assert read_image(tmp_path / "a.png").shape == (6, 10, 3)
    assert image_size(tmp_path / "a.png") == (6, 10)


# Broken files


def test_pixel_limit_is_exact_and_nothing_is_decoded(tmp_path: Path) -> None:
    Image.fromarray(colours(6, 10)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", pixel_limit=60).shape == (6, 10, 3)
    for call in (read_image, image_size):
        with pytest.raises(ImageError, match=r"a\.png: 10 × 6 pixels, at most 59 are allowed") as caught:
            call(tmp_path / "a.png", pixel_limit=59)
        assert caught.value.kind == "pixel-limit"


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_bomb_is_refused_without_a_warning(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_claiming(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=rf"bomb\.png: {side} × {side} pixels, at most 100,000,000 are allowed"):
            read_image(tmp_path / "bomb.png")


def test_limit_may_be_raised_beyond_that_of_pillow(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_claiming(20_000, 20_000))
    with pytest.raises(ImageError, match="cut off or damaged"):  # its pixels are not there, its size is allowed
        read_image(tmp_path / "large.png", pixel_limit=500_000_000)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty-image"),
        (b"These are words.\n", "not-an-image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not-an-image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "not-an-image"),
        (b"\xff\xd8\xff\xe0\0\x10JF", "damaged-image"),
        (b"\x89PNG\r\n\x1a\n\0\0", "damaged-image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    for call in (read_image, image_size):
        with pytest.raises(ImageError, match=r"a\.jpg: ") as caught:
            call(tmp_path / "a.jpg")
        assert caught.value.kind == kind


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.jpg: the file does not exist") as caught:
        read_image(tmp_path / "a.jpg")
    assert caught.value.kind == "missing-image"
    with pytest.raises(ImageError, match="could not be read") as caught:
        read_image(tmp_path)
    assert caught.value.kind == "unreadable-image"


@given(st.data())
def test_no_damage_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    suffixes = [name for name in ("jpg", "png", "gif", "webp", "tif") if name != "webp" or features.check("webp")]
    suffix = data.draw(st.sampled_from(suffixes))
    buffer = io.BytesIO()
    Image.fromarray(colours(16, 16)).save(buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    content = bytearray(buffer.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / f"a.{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call in (read_image, image_size):
            try:
                call(path, pixel_limit=100_000)
            except ImageError as error:
                assert str(error).startswith(f"{path}: ")
                assert "\n" not in str(error)


def test_error_survives_pickling_and_a_message_alone() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg: empty", kind="empty-image", reason="empty")))
    assert (str(error), error.kind, error.reason) == ("a.jpg: empty", "empty-image", "empty")
    assert isinstance(ImageError("from a worker"), Tag2maskError)


# Masks


def test_mask_round_trip(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 256, (7, 9), dtype=np.uint8)
    write_mask(tmp_path / "deep" / "a.b.png", mask)
    assert (read_mask(tmp_path / "deep" / "a.b.png", size=(7, 9), classes=254) == mask).all()
    with Image.open(tmp_path / "deep" / "a.b.png") as image:
        assert (image.mode, image.format) == ("P", "PNG")
        assert (np.array(image.convert("RGB")) == palette()[mask]).all()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.b.png"]
    write_mask(tmp_path / "few.png", np.ones((4, 4), dtype=np.uint8))
    assert (tmp_path / "few.png").read_bytes()[24:26] == bytes([8, 3])  # bit depth, palette


def test_palette_is_that_of_voc() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {number: tuple(palette()[number].tolist()) for number in known} == known
    assert palette()[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette(), axis=0)) == 256


@pytest.mark.parametrize("bad", [np.zeros((3, 3), np.int64), np.zeros((3, 3, 3), np.uint8), np.zeros((0, 3), np.uint8)])
def test_only_ids_can_be_written(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(MaskError, match="should be uint8"):
        write_mask(tmp_path / "a.png", bad)
    assert not list(tmp_path.iterdir())


def test_wrong_values_are_listed(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.array([[0, 3, 4, 200, 255]], dtype=np.uint8))
    with pytest.raises(MaskError, match=r"a\.png: the values 4, 200 are not classes; 0 is background, 1..3") as caught:
        read_mask(tmp_path / "a.png", classes=3)
    assert caught.value.kind == "mask-values"


def test_wrong_size_is_named_and_a_turned_mask_recognised(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.zeros((4, 6), dtype=np.uint8))
    with pytest.raises(MaskError, match=r"6 × 4 pixels, its image 8 × 5; draw it at that size$") as caught:
        read_mask(tmp_path / "a.png", size=(5, 8))
    assert caught.value.kind == "mask-size"
    with pytest.raises(MaskError, match="lies on its side"):
        read_mask(tmp_path / "a.png", size=(6, 4))


def test_what_is_no_mask_is_named_by_its_kind(tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA", "1", "I;16", "LA"):
        Image.new(mode, (4, 4)).save(tmp_path / f"{mode.replace(';', '')}.png")
    Image.new("L", (8, 8)).save(tmp_path / "jpeg.png", format="JPEG")
    kinds = dict.fromkeys(["RGB", "RGBA", "1", "I16", "LA", "jpeg"], "mask-format")
    write_mask(tmp_path / "short.png", np.random.default_rng(0).integers(0, 9, (40, 40), dtype=np.uint8))
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:-200])
    for name, kind in (kinds | {"short": "unreadable-mask", "gone": "missing-mask"}).items():
        with pytest.raises(MaskError, match=rf"{name}\.png: ") as caught:
            read_mask(tmp_path / f"{name}.png")
        assert caught.value.kind == kind
    Image.fromarray(np.array([[0, 3, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    assert read_mask(tmp_path / "grey.png", classes=3).tolist() == [[0, 3, 255]]
