"""Augmentation: the image, its mask and its CAMs move together, padding is marked, and seeds decide."""

import colorsys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Sampler

from tag2mask.core.errors import UsageError
from tag2mask.data.dataset import ImageItem, ImageSet
from tag2mask.data.images import ImageError
from tag2mask.data.loading.augment import Geometry, cut, draw_geometry, recoloured, training_view
from tag2mask.data.loading.datasets import TrainingSet
from tag2mask.data.settings import AugmentSettings

FILL = (0.5, 0.25, 0.75)


def noise(height: int, width: int, *more: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, *more), dtype=np.uint8)


def cut_slowly(array: np.ndarray, geometry: Geometry, how: Image.Resampling, padding: object) -> np.ndarray:
    """Resize everything, pad everything, cut, mirror."""
    height, width = geometry.size
    crop = geometry.crop
    resized = np.asarray(Image.fromarray(array).resize((width, height), how))
    canvas = np.empty((height + 2 * crop, width + 2 * crop, *array.shape[2:]), dtype=np.float64)
    canvas[:] = padding
    canvas[crop : crop + height, crop : crop + width] = resized
    window = canvas[geometry.top + crop :, geometry.left + crop :][:crop, :crop]
    return window[:, ::-1] if geometry.flip else window


def decided(geometry: Geometry, height: int, width: int) -> np.ndarray:
    """Where a sample does not fall on the border between two pixels, of which either may be taken."""
    sides = []
    for source, size, offset in zip((height, width), geometry.size, (geometry.top, geometry.left), strict=True):
        place = (np.arange(geometry.crop) + offset + 0.5) * source / size
        sides.append(np.abs(place - place.round()) > 1e-6)
    rows, columns = sides
    return rows[:, None] & (columns[::-1] if geometry.flip else columns)


GEOMETRIES = st.builds(
    Geometry,
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    top=st.just(0),
    left=st.just(0),
    crop=st.integers(1, 40),
    flip=st.booleans(),
)


@given(GEOMETRIES, st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))
def test_cutting_first_equals_resizing_first(
    geometry: Geometry, height: int, width: int, down: float, across: float
) -> None:
    room = [side - geometry.crop for side in geometry.size]
    top, left = (round(share * space) for share, space in zip((down, across), room, strict=True))
    geometry = Geometry(geometry.size, top, left, geometry.crop, geometry.flip)
    # Pillow rounds and clips between its two passes, whose order it chooses: colours that do not overshoot agree.
    image, mask = noise(height, width, 3) // 2 + 64, noise(height, width)
    cam = noise(height, width).astype(np.float32) / 255
    view = cut(image, geometry, fill=FILL, mask=mask, cams=cam[None])

    fill = np.array(FILL) * 255
    expected = cut_slowly(image, geometry, Image.Resampling.BICUBIC, fill)
    assert np.abs(view.image.permute(1, 2, 0).numpy() * 255 - expected).max() <= 2.01  # steps of 8 bits
    valid = cut_slowly(np.ones_like(mask), geometry, Image.Resampling.NEAREST, 0)
    assert (view.valid.numpy() == valid.astype(bool)).all()
    assert view.mask is not None
    labels = cut_slowly(mask, geometry, Image.Resampling.NEAREST, 255)
    assert (view.mask.numpy() == labels)[decided(geometry, height, width)].all()
    assert (view.mask.numpy()[~view.valid.numpy()] == 255).all()
    assert view.cams is not None
    assert np.abs(view.cams[0].numpy() - cut_slowly(cam, geometry, Image.Resampling.BILINEAR, 0)).max() < 1e-4


@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.sampled_from(["long_side_range", "stretch"]),
    st.integers(16, 64),
    st.integers(0, 2**32),
)
def test_image_mask_and_cams_agree_after_any_augmentation(
    size: tuple[int, int], resize: str, crop: int, seed: int
) -> None:
    # Four quarters, each its colour, its class and its CAM.
    height, width = size
    mask = np.zeros(size, dtype=np.uint8)
    mask[: height // 2, width // 2 :] = 1
    mask[height // 2 :, : width // 2] = 2
    mask[height // 2 :, width // 2 :] = 3
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=np.uint8)
    chosen = AugmentSettings(crop=crop, resize=resize, long_side=(24, 80))  # type: ignore[arg-type]
    cams = np.stack([mask == number for number in range(4)]).astype(np.float16)
    view = training_view(colours[mask], chosen, rng=np.random.default_rng(seed), fill=(0, 0, 0), mask=mask, cams=cams)
    assert view.mask is not None
    assert view.cams is not None
    seen = view.image.permute(1, 2, 0)[:, :, None] - torch.from_numpy(colours / 255)
    nearest = seen.square().sum(-1).argmin(-1)
    inside = view.valid
    # Away from borders between quarters the colour is pure; the CAM agrees with the mask but for a pixel at the border.
    pure = seen.square().sum(-1).amin(-1) < 1e-6
    assert (nearest == view.mask)[inside & pure].all()
    assert (view.cams.argmax(0) == view.mask)[inside & pure].all()
    assert (pure & inside).sum() > 0.5 * inside.sum()
    assert resize == "long_side_range" or inside.all()
    assert view.image.shape == (3, crop, crop) and view.cams.shape == (4, crop, crop)
    assert [values.dtype for values in (view.image, view.cams, view.mask)] == [
        torch.float32,
        torch.float32,
        torch.uint8,
    ]
    assert view.image.min() >= 0 and view.image.max() <= 1
    assert (view.mask[~inside] == 255).all()
    assert (view.cams[:, ~inside] == 0).all()
    assert (view.image[:, ~inside] == 0).all()


@pytest.mark.parametrize("scale", [0.5, 0.75, 1, 1.25, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_choice_of_sizes_resizes_as_the_port(scale: float, seed: int) -> None:
    """OpenCV's bilinear interpolation of floats and Pillow's nearest labels, everything resized before the crop."""
    chosen = AugmentSettings(crop=61, resize="scale_choice", scales=(scale,), padding="bottom_right")
    image, mask = noise(75, 101, 3), noise(75, 101)
    view = training_view(image, chosen, rng=np.random.default_rng(seed), fill=FILL, mask=mask)
    geometry = draw_geometry((75, 101), chosen, np.random.default_rng(seed))
    height, width = size = int(75 * scale), int(101 * scale)
    assert geometry.size == size
    weights = [np.zeros((after, before)) for before, after in zip((75, 101), size, strict=True)]
    for matrix in weights:
        after, before = matrix.shape
        for pixel in range(after):
            place = (pixel + 0.5) * before / after - 0.5
            for neighbour in (int(np.floor(place)), int(np.floor(place)) + 1):
                matrix[pixel, min(max(neighbour, 0), before - 1)] += 1 - abs(place - neighbour)
    expected = np.full((61, 61, 3), np.array(FILL) * 255)
    labels = np.full((61, 61), 255)
    place = slice(geometry.top, geometry.top + 61), slice(geometry.left, geometry.left + 61)
    resized = np.einsum("yh,hwc,xw->yxc", weights[0], image, weights[1], optimize=True)[place]
    expected[: len(resized), : resized.shape[1]] = resized
    nearest = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))[place]
    labels[: len(nearest), : nearest.shape[1]] = nearest
    if geometry.flip:
        expected, labels = expected[:, ::-1], labels[:, ::-1]
    assert np.abs(view.image.permute(1, 2, 0).numpy() * 255 - expected).max() < 1e-3
    assert view.mask is not None
    assert (view.mask.numpy() == labels)[decided(geometry, 75, 101)].all()


def test_padding_has_the_fill_and_nothing_else_is_padding() -> None:
    view = cut(np.full((10, 20, 3), 255, np.uint8), Geometry((10, 20), -6, -3, 32, False), fill=FILL)
    assert view.valid.nonzero().min(0).values.tolist() == [6, 3]
    assert int(view.valid.sum()) == 200
    assert (view.image[:, view.valid] == 1).all()
    assert torch.equal(view.image[:, ~view.valid], torch.tensor(FILL)[:, None].expand(-1, 32 * 32 - 200))


def test_long_side_is_uniform_and_both_ends_occur() -> None:
    chosen = AugmentSettings(crop=8, long_side=(10, 14))
    rng = np.random.default_rng(0)
    drawn = [draw_geometry((40, 60), chosen, rng) for _ in range(5000)]
    counts = np.bincount([geometry.size[1] for geometry in drawn])
    assert set(np.flatnonzero(counts)) == {10, 11, 12, 13, 14}
    assert np.abs(counts[10:] - 1000).max() < 150  # five standard deviations
    assert all(abs(geometry.size[0] - geometry.size[1] * 2 / 3) <= 0.5 for geometry in drawn)
    assert abs(sum(geometry.flip for geometry in drawn) - 2500) < 180


def test_relative_sizes_are_uniform_over_their_range() -> None:
    chosen = AugmentSettings(crop=8, resize="scale_range", scales=(0.5, 1.5))
    rng = np.random.default_rng(0)
    drawn = np.array([draw_geometry((400, 600), chosen, rng).size for _ in range(5000)])
    ratios = drawn[:, 1] / 600
    assert 0.5 <= ratios.min() < 0.501 and 1.499 < ratios.max() <= 1.5
    assert np.abs(np.histogram(ratios, 5, (0.5, 1.5))[0] - 1000).max() < 150  # five standard deviations
    assert np.abs(drawn[:, 0] - drawn[:, 1] * 2 / 3).max() <= 1


def test_sizes_of_a_choice_occur_alike_and_no_others() -> None:
    chosen = AugmentSettings(crop=8, resize="scale_choice", scales=(0.5, 0.75, 1, 1.25, 1.5))
    rng = np.random.default_rng(0)
    drawn = [draw_geometry((375, 500), chosen, rng).size for _ in range(5000)]
    sizes = {(187, 250), (281, 375), (375, 500), (468, 625), (562, 750)}  # rounded down
    assert set(drawn) == sizes
    assert max(abs(drawn.count(size) - 1000) for size in sizes) < 150


@pytest.mark.parametrize("size", [(6, 20), (20, 6), (5, 5)])
def test_padding_after_the_image(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        geometry = draw_geometry(
            size, AugmentSettings(crop=8, resize="scale_choice", scales=(1,), padding="bottom_right"), rng
        )
        for place, side in zip((geometry.top, geometry.left), size, strict=True):
            assert place == 0 if side < 8 else 0 <= place <= side - 8
        rows, columns = geometry.inside
        assert rows.start == columns.start == 0


@pytest.mark.parametrize("side", [3, 8, 11])
def test_every_place_of_the_window_occurs_alike(side: int) -> None:
    chosen = AugmentSettings(crop=8, long_side=(side, side))
    rng = np.random.default_rng(1)
    tops = [draw_geometry((20, 20), chosen, rng).top for _ in range(4000)]
    places = range(8 - side + 1) if side < 8 else range(side - 8 + 1)
    expected = {-place if side < 8 else place for place in places}
    assert set(tops) == expected
    assert max(abs(tops.count(place) - 4000 / len(expected)) for place in expected) < 160


def test_flip_can_be_switched_off_without_moving_the_rest() -> None:
    for seed in range(20):
        with_flip, without = (
            draw_geometry((40, 60), AugmentSettings(crop=32, flip=flip), np.random.default_rng(seed))
            for flip in (True, False)
        )
        assert not without.flip
        assert (with_flip.size, with_flip.top, with_flip.left) == (without.size, without.top, without.left)


# The dataset


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.fromarray(noise(30 + number, 40, 3)).save(path)
        made.append(ImageItem(str(number), path, ((), (1,), (2, 3), (1, 3))[number]))
    return ImageSet(("cat", "cow", "dog"), tuple(made), tmp_path)


class Keys(Sampler[tuple[int, int]]):
    def __init__(self, keys: list[tuple[int, int]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def test_a_sample_depends_on_seed_draw_and_index_alone(images: ImageSet) -> None:
    chosen = AugmentSettings(crop=24, long_side=(16, 48))
    keys = [(draw, index) for draw in range(3) for index in range(4)]
    first = TrainingSet(images, chosen, seed=5)
    expected = {key: first[key] for key in keys}
    again = TrainingSet(images, chosen, seed=5)
    for key in reversed(keys):
        assert torch.equal(again[key]["image"], expected[key]["image"])
        assert torch.equal(again[key]["valid"], expected[key]["valid"])
    assert len({expected[draw, 1]["image"].numpy().tobytes() for draw in range(3)}) == 3
    assert not torch.equal(TrainingSet(images, chosen, seed=6)[0, 1]["image"], expected[0, 1]["image"])


def test_workers_change_nothing(images: ImageSet) -> None:
    dataset = TrainingSet(images, AugmentSettings(crop=24, long_side=(16, 48)), seed=5)
    keys = [(7, 3), (7, 0), (8, 3), (7, 1)]
    batches = []
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_size=2, sampler=Keys(keys), num_workers=workers)
        batches.append(list(loader))
    for alone, shared in zip(*batches, strict=True):
        assert alone.keys() == shared.keys() == {"image", "valid", "tags", "index"}
        assert all(torch.equal(alone[name], shared[name]) for name in alone)
    assert batches[0][0]["index"].tolist() == [3, 0]
    assert batches[0][0]["tags"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert batches[0][0]["tags"].dtype == torch.float32


def test_an_unreadable_image_is_named_by_its_worker(images: ImageSet) -> None:
    images.items[2].path.write_bytes(b"")
    loader = DataLoader(TrainingSet(images, AugmentSettings(crop=24), seed=0), sampler=Keys([(0, 2)]), num_workers=1)
    batches = iter(loader)
    with pytest.raises(ImageError, match=r"2\.png: the file is empty; replace it$"):
        next(batches)
    with pytest.raises(ImageError, match="at most 100 are allowed"):
        TrainingSet(replace(images, pixel_limit=100), AugmentSettings(crop=24), seed=0)[0, 0]
    with pytest.raises(UsageError, match="seed should be 0 or more"):
        TrainingSet(images, AugmentSettings(), seed=-1)
    batches._shutdown_workers()  # left to the garbage collector, this takes torch five seconds


def test_colours_move_as_colorsys_says() -> None:
    generator = np.random.default_rng(0)
    image = torch.from_numpy(generator.random((3, 6, 7), dtype=np.float32))
    found = recoloured(image, np.array([30, -9, 7]))
    for y in range(6):
        for x in range(7):
            hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) for c in image[:, y, x]))
            moved = ((hue + 30 / 180) % 1, min(1, max(0, saturation - 9 / 255)), min(1, max(0, value + 7 / 255)))
            assert np.allclose(found[:, y, x], colorsys.hsv_to_rgb(*moved), atol=0.04)
    assert torch.allclose(recoloured(image, np.zeros(3, dtype=int)), image, atol=0.03)


def test_padding_keeps_its_colour() -> None:
    image = np.full((10, 10, 3), 200, dtype=np.uint8)
    settings = AugmentSettings(crop=30, long_side=(10, 10), hsv_jitter=60)
    view = training_view(image, settings, rng=np.random.default_rng(1), fill=(0.5, 0.25, 0.125))
    assert torch.allclose(view.image[:, ~view.valid], torch.tensor([0.5, 0.25, 0.125])[:, None])
    assert not torch.allclose(view.image[:, view.valid], torch.tensor(200 / 255), atol=0.05)
