"""Images and masks: every kind of pixel, every orientation, every way to be broken."""

import io
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, features

from tag2mask.data.images import ImageError, MaskError, image_size, palette, read_image, read_mask, write_mask
from tag2mask.errors import Tag2maskError


def colours(height: int = 6, width: int = 10) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


# Conversion to RGB


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8
    assert (read == colours()).all()
    assert read.flags.writeable


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = colours()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == grey[..., None]).all()


def test_black_and_white(tmp_path: Path) -> None:
    bits = colours()[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == (bits[..., None] * 255)).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_whole_range(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 1, 128, 129, 257, 32768, 65278, 65535]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    expected = np.floor(grey / 257 + 0.5)
    assert (read_image(tmp_path / f"a.{suffix}") == expected[..., None]).all()


def test_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90], [40, 50, 60]]]


def test_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=1)
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_transparent_colour_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    alpha = np.array([[0, 64, 128, 255]], dtype=np.uint8)
    layered = np.dstack([np.full((1, 4), value, dtype=np.uint8) for value in (200, 0, 100)] + [alpha])
    Image.fromarray(layered).save(tmp_path / "a.png")
    share = alpha[..., None] / 255
    expected = share * np.array([200, 0, 100]) + (1 - share) * 255
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() <= 1


def test_grey_with_alpha(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[90, 255], [90, 0]]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[90] * 3, [255] * 3]]


def test_cmyk(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    ink.save(tmp_path / "a.jpg", quality=100)
    read = read_image(tmp_path / "a.jpg").astype(int)
    assert np.abs(read - np.array([0, 255, 255])).max() <= 3  # cyan


def test_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == [255, 0, 0]).all()


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 3), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: floating-point .* save it with 8 or 16 bits") as caught:
        read_image(tmp_path / "a.tif")
    assert caught.value.kind == "unsupported-image"


def test_grey_beyond_sixteen_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"grey values 0\.\.70000, 0\.\.65535 are allowed"):
        read_image(tmp_path / "a.tif")


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


@pytest.mark.parametrize("side", [10_001, 12_000, 60_000])
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


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
def test_cut_off_file_is_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colours(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ImageError, match=r"(cut off|damaged)") as caught:
        read_image(path)
    assert caught.value.kind == "damaged-image"


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


def test_mask_of_few_classes_keeps_eight_bits(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.ones((4, 4), dtype=np.uint8))
    assert (tmp_path / "a.png").read_bytes()[24:26] == bytes([8, 3])  # bit depth, palette


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


def test_grey_mask_holds_ids(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", classes=3).tolist() == [[0, 3, 255]]


def test_wrong_values_are_listed(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.array([[0, 3, 4, 200, 255]], dtype=np.uint8))
    with pytest.raises(MaskError, match=r"a\.png: the values 4, 200 are no class; 0 is background, 1..3") as caught:
        read_mask(tmp_path / "a.png", classes=3)
    assert caught.value.kind == "mask-values"


def test_wrong_size_is_named_and_a_turned_mask_recognised(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.zeros((4, 6), dtype=np.uint8))
    with pytest.raises(MaskError, match=r"6 × 4 pixels, its photograph 8 × 5; draw it at that size$") as caught:
        read_mask(tmp_path / "a.png", size=(5, 8))
    assert caught.value.kind == "mask-size"
    with pytest.raises(MaskError, match="lies on its side"):
        read_mask(tmp_path / "a.png", size=(6, 4))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "I;16", "LA"])
def test_pixels_without_ids_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match="holds no class ids") as caught:
        read_mask(tmp_path / "a.png")
    assert caught.value.kind == "mask-format"


def test_other_broken_masks(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "jpeg.png", format="JPEG")
    write_mask(tmp_path / "short.png", np.random.default_rng(0).integers(0, 9, (40, 40), dtype=np.uint8))
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:-200])
    for name, kind in {"jpeg": "mask-format", "short": "unreadable-mask", "gone": "missing-mask"}.items():
        with pytest.raises(MaskError, match=rf"{name}\.png: ") as caught:
            read_mask(tmp_path / f"{name}.png")
        assert caught.value.kind == kind
