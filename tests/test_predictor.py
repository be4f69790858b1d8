"""Prediction: scales and mirror images against the obvious version, tiles, bounded memory, what can be given."""

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from subprocess import run as run_process
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import tag2mask
from segmenters import TinySegmenter, by_brightness, filled_side, obvious_mean_logits
from tag2mask.core.errors import UsageError
from tag2mask.data.images import ImageError
from tag2mask.networks.settings import Upsampling
from tag2mask.prediction import multiscale
from tag2mask.prediction.multiscale import mean_logits
from tag2mask.prediction.predictor import PROBABILITY_LIMIT, Predictor
from tag2mask.prediction.settings import PredictSettings
from tag2mask.prediction.tiles import BLOCK_SIDE, tile_axis
from tag2mask.refine.crf import PublishedCrf, dense_crf

CPU = torch.device("cpu")
exact = partial(PredictSettings, precision="fp32")
PUBLISHED = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


def pixels(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)))


def assembled(network: TinySegmenter, image: torch.Tensor, settings: PredictSettings) -> torch.Tensor:
    """The mean logits in one tensor, every pixel given exactly once."""
    whole = torch.full((len(network.classes) + 1, *image.shape[:2]), torch.nan)
    for block in mean_logits(network.eval(), [image], settings, CPU):
        target = whole[:, block.rows, block.columns]
        assert target.shape == block.logits.shape
        assert bool(target.isnan().all())
        target.copy_(block.logits)
    assert not bool(whole.isnan().any())
    return whole


def as_batch(image: torch.Tensor) -> torch.Tensor:
    return image.permute(2, 0, 1)[None].float() / 255


# Scales and mirror images


@pytest.mark.parametrize("size", [(48, 64), (37, 53), (1, 1), (3, 90), (33, 1)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [[1.0], [0.5, 2.0], PUBLISHED])
@pytest.mark.parametrize("upsampling", get_args(Upsampling))
def test_batched_scales_and_mirror_images_are_the_obvious_mean(
    size: tuple[int, int], flip: bool, scales: list[float], upsampling: Upsampling
) -> None:
    network, image = TinySegmenter(), pixels(*size)
    network.upsampling = upsampling
    found = assembled(network, image, exact(scales=scales, flip=flip))
    forwards = len(network.seen)
    expected = obvious_mean_logits(network, as_batch(image), scales, flip)
    assert torch.allclose(found, expected, atol=1e-4)
    assert forwards == len(scales)  # the mirror image came along
    assert all(shape[0] == 1 + flip for shape in network.seen[:forwards])


@pytest.mark.parametrize("size", [(40, 56), (37, 53), (5, 9)])
@pytest.mark.parametrize("upsampling", get_args(Upsampling))
def test_one_pass_is_the_network_itself(size: tuple[int, int], upsampling: Upsampling) -> None:
    network, image = TinySegmenter().eval(), pixels(*size)
    network.upsampling = upsampling
    filled = network.pixel_mean.expand(1, 3, *(filled_side(network, side) for side in size)).clone()
    filled[..., : size[0], : size[1]] = as_batch(image)
    with torch.no_grad():
        expected = network.full_logits(filled)[0, :, : size[0], : size[1]]
    assert torch.allclose(assembled(network, image, exact()), expected, atol=1e-5)


@pytest.mark.parametrize("width", [51, 52, 53, 54, 55])
def test_a_mirrored_image_has_the_mirrored_mask_whatever_its_width(width: int) -> None:
    """Local and of stride 1, so that nothing but the alignment could differ."""
    network, image = TinySegmenter(stride=1, kernel=1), pixels(20, width)
    settings = exact(scales=[1.0], flip=True)
    found, mirrored = assembled(network, image, settings), assembled(network, image.flip(1), settings)
    assert torch.allclose(found, mirrored.flip(2), atol=1e-5)
    assert torch.allclose(found, assembled(network, image, exact()), atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "height", "width", "upsampling"),
    [
        (4, 16, 48, "cells"),
        (4, 16, 51, "cells"),
        (5, 17, 48, "corners"),
        (5, 17, 49, "corners"),
        (5, 17, 51, "corners"),
        (4, 16, 48, "stretched"),
        (5, 17, 49, "stretched"),
    ],
)
def test_mirroring_averages_cells_of_the_same_pixels(
    kernel: int, height: int, width: int, upsampling: Upsampling
) -> None:
    """Cells of 4 × 4 pixels, or of the pixels around every fourth: mirroring must not mix them with others."""
    network, image = TinySegmenter(kernel=kernel), pixels(height, width)
    network.upsampling = upsampling
    with torch.no_grad():
        weight = network.backbone.conv.weight
        weight.copy_((weight + weight.flip(3)) / 2)
    one = assembled(network, image, exact())
    both = assembled(network, image, exact(flip=True))
    assert torch.allclose(one, both, atol=1e-5)


def test_what_was_filled_up_counts_as_padding() -> None:
    seen: list[torch.Tensor | None] = []

    class Watching(TinySegmenter):
        def forward(self, images: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
            seen.append(valid)
            return super().forward(images)

    assembled(Watching(), pixels(8, 10), exact(flip=True))
    assembled(Watching(), pixels(8, 12), exact(flip=True))
    first, second = seen
    assert first is not None and first.shape == (2, 8, 12) and second is None
    assert first.any(1).tolist() == [[True] * 10 + [False] * 2, [False] * 2 + [True] * 10]


def test_images_of_one_size_go_together_and_come_back_in_order() -> None:
    network = TinySegmenter()
    predictor = Predictor(network, "cpu", exact(scales=[0.5, 1.0], flip=True, batch_size=3))
    images = [pixels(24, 32, 1), pixels(20, 20, 2), pixels(24, 32, 3), pixels(24, 32, 4)]
    together = predictor.predictions([image.numpy() for image in images])
    assert (6, 3, 24, 32) in network.seen
    for image, found in zip(images, together, strict=True):
        assert (found.labels == predictor.predict(image.numpy())).all()


def test_a_forward_pass_has_a_limited_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [pixels(21, 30, seed).numpy() for seed in range(3)]
    settings = exact(scales=[0.5, 1.0], flip=True, batch_size=3)
    whole = Predictor(TinySegmenter(), "cpu", settings).predictions(images)
    monkeypatch.setitem(multiscale.FORWARD_PIXELS, "cpu", 24 * 32)
    network = TinySegmenter()
    parts = Predictor(network, "cpu", settings).predictions(images)
    assert network.seen == [(4, 3, 12, 16), (2, 3, 12, 16), *[(1, 3, 24, 32)] * 6]
    for one, other in zip(whole, parts, strict=True):
        assert (one.labels == other.labels).all()


def test_the_long_side_is_that_of_scale_one() -> None:
    network, image = TinySegmenter(), pixels(60, 80)
    found = Predictor(network, "cpu", exact(long_side=40, scales=[1.0, 1.5])).predict(image.numpy())
    assert found.shape == (60, 80)
    assert network.seen == [(1, 3, 32, 40), (1, 3, 48, 60)]


# Tiles


@given(
    length=st.integers(1, 700),
    ratio=st.floats(0.05, 1.0),
    side=st.integers(64, 300),
    share=st.floats(0, 0.5),
)
def test_tiles_cover_every_pixel_with_weights_that_sum_to_one(
    length: int, ratio: float, side: int, share: float
) -> None:
    overlap, result = int(side * share), max(1, round(length * ratio))
    axis = tile_axis(length, result, side=side, overlap=overlap, blend=overlap // 2)
    assert axis.side <= side and axis.starts[0] == 0 and axis.starts[-1] + axis.side == length
    assert all(second - first <= axis.side - overlap for first, second in pairwise(axis.starts))
    total = torch.zeros(result)
    reached = 0
    for interval in axis.intervals:
        assert interval.start == reached and 0 < interval.stop - interval.start <= BLOCK_SIDE
        reached = interval.stop
        for tile in interval.tiles:
            weights = interval.weights(tile)
            assert float(weights.min()) >= 0
            total[interval.start : interval.stop] += weights
            # a tile counts only where it is
            assert (interval.start + 0.5) / ratio >= axis.starts[tile] - 1 / ratio
            assert (interval.stop - 0.5) / ratio <= axis.starts[tile] + axis.side + 1 / ratio
    assert reached == result
    assert torch.allclose(total, torch.ones(result), atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(150, 211), (64, 300), (65, 65)])
def test_tiles_of_a_local_network_are_the_whole(size: tuple[int, int], flip: bool) -> None:
    network, image = TinySegmenter(stride=1, kernel=1), pixels(*size)
    whole = assembled(network, image, exact(flip=flip, tile=None))
    cut_up = assembled(network, image, exact(flip=flip, tile=64, batch_size=3))
    assert torch.allclose(whole, cut_up, atol=1e-4)
    assert max(max(shape[2:]) for shape in network.seen[1:]) <= 64


def test_tiles_fade_into_each_other_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose logits depend on where in its input a pixel lies: the step at a cut must be spread out."""

    class Sloped(TinySegmenter):
        def forward(self, images: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
            slope = torch.linspace(0, 1, images.shape[3]).expand(len(images), 3, images.shape[2], -1)
            return slope.contiguous()

    found = assembled(Sloped(stride=1, kernel=1), pixels(10, 200), exact(tile=64))
    assert float(found[0, 0].diff().abs().max()) < 0.08  # of a step of one at a hard cut; the slope has 1/64
    monkeypatch.setattr(multiscale, "OVERLAP", 0)
    hard = assembled(Sloped(stride=1, kernel=1), pixels(10, 200), exact(tile=64))
    assert float(hard[0, 0].diff().abs().max()) > 0.9


def test_tiles_and_long_side_and_scales_work_together() -> None:
    network, image = by_brightness(), pixels(170, 230)
    settings = {"scales": [0.5, 1.0, 1.5], "flip": True}
    whole = Predictor(network, "cpu", exact(tile=None, **settings)).predict(image.numpy())
    for more in ({"tile": 64}, {"tile": 64, "long_side": 150}):
        found = Predictor(network, "cpu", exact(**settings, **more)).predict(image.numpy())
        assert found.shape == whole.shape
        assert (found == whole).mean() > 0.98


# Memory


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that an operation made, uint8 left out."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and value.dtype != torch.uint8:
                self.numbers = max(self.numbers, value.numel())
        return result


@pytest.mark.parametrize("crf", [False, True])
def test_no_tensor_holds_all_classes_at_the_size_of_a_large_image(crf: bool) -> None:
    image = pixels(1500, 2100).numpy()
    settings = exact(tile=256, crf=crf, crf_long_side=64, crf_settings=PublishedCrf("largefov"))
    predictor = Predictor(TinySegmenter(classes=20, stride=16, kernel=17), "cpu", settings)
    with Largest() as largest:
        predictor.predict(image)
    whole = 21 * 1500 * 2100
    assert largest.numbers <= 21 * BLOCK_SIDE * BLOCK_SIDE < whole / 10


def test_a_small_long_side_does_not_bring_the_whole_image_into_one_tensor_of_logits() -> None:
    predictor = Predictor(TinySegmenter(classes=20, stride=16, kernel=17), "cpu", exact(long_side=128))
    with Largest() as largest:
        predictor.predict(pixels(1500, 2100).numpy())
    assert largest.numbers <= 21 * BLOCK_SIDE * BLOCK_SIDE


# The CRF


def test_the_crf_is_that_of_the_softmax_of_the_mean_logits() -> None:
    network, image = TinySegmenter(), pixels(40, 50)
    settings = exact(scales=[0.5, 1.0], flip=True, crf=True)
    logits = obvious_mean_logits(network, as_batch(image), settings.scales, True)
    expected = dense_crf(image, logits.softmax(0), PublishedCrf())
    predictor = Predictor(network, "cpu", settings)
    assert np.allclose(predictor.probabilities(image.numpy()), expected.numpy(), atol=2e-3)
    assert (predictor.predict(image.numpy()) == expected.argmax(0).numpy()).mean() > 0.995
    assert (expected.argmax(0) != logits.argmax(0)).any()  # there was something to refine


def test_the_crf_works_at_bounded_size() -> None:
    image = pixels(90, 120)
    small = Predictor(by_brightness(), "cpu", exact(crf=True, crf_long_side=40)).prediction(image.numpy())
    whole = Predictor(by_brightness(), "cpu", exact(crf=True)).prediction(image.numpy())
    assert small.labels.shape == (90, 120)
    assert (small.labels == whole.labels).mean() > 0.9
    assert 0.5 < small.confidence <= 1


# What can be given, and what comes back


def test_paths_images_and_arrays_are_the_same_image(tmp_path: Path) -> None:
    predictor, image = Predictor(TinySegmenter(), "cpu", exact()), pixels(30, 41).numpy()
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = predictor.predict(image)
    assert (expected.dtype, expected.shape) == (np.uint8, (30, 41))
    read_only = image.copy()
    read_only.flags.writeable = False
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image), read_only, image[::-1][::-1]):
        assert (predictor.predict(same) == expected).all()


def test_images_are_turned_upright_before_they_are_labelled(tmp_path: Path) -> None:
    predictor, image = Predictor(by_brightness(), "cpu", exact()), pixels(30, 41).numpy()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    upright = predictor.predict(np.rot90(image, -1))
    assert upright.shape == (41, 30)
    assert (predictor.predict(tmp_path / "a.png") == upright).all()
    with Image.open(tmp_path / "a.png") as opened:
        assert (predictor.predict(opened) == upright).all()


def test_grey_and_one_pixel() -> None:
    predictor = Predictor(by_brightness(), "cpu", exact(scales=PUBLISHED, flip=True))
    grey = np.full((9, 12), 255, dtype=np.uint8)
    grey[:, :4] = 0
    assert (predictor.predict(grey) == predictor.predict(Image.fromarray(grey))).all()
    assert (predictor.predict(grey)[:, [0, -1]] == [0, 1]).all()
    assert predictor.predict(np.zeros((1, 1, 3), dtype=np.uint8)).tolist() == [[0]]


def test_a_prediction_counts_what_it_found() -> None:
    image = np.zeros((10, 20, 3), dtype=np.uint8)
    image[:, 5:] = 255
    predictor = Predictor(by_brightness(), "cpu", exact())
    found, probabilities = predictor.prediction(image), predictor.probabilities(image)
    assert probabilities.dtype == np.float32 and probabilities.shape == (3, 10, 20)
    assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
    assert found.shares.tolist() == [0.25, 0.75, 0]
    assert found.confidence == pytest.approx(float(probabilities.max(0).mean()), abs=1e-6)
    for label in (0, 1):
        own = probabilities.max(0)[found.labels == label].mean()
        assert found.class_confidence[label] == pytest.approx(float(own), abs=1e-6)
    assert found.class_confidence[2] == 0


def test_what_is_refused_says_why(tmp_path: Path) -> None:
    predictor = Predictor(TinySegmenter(), "cpu", exact())
    for wrong in (np.zeros((4, 4, 4), dtype=np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), dtype=np.uint8), 7):
        with pytest.raises(UsageError, match="an image should be"):
            predictor.predict(wrong)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="does not exist"):
        predictor.predict(tmp_path / "gone.jpg")
    side = int((PROBABILITY_LIMIT / 3) ** 0.5) + 1
    with pytest.raises(UsageError, match="reduce the image, or take `predict`"):
        predictor.probabilities(np.broadcast_to(np.uint8(0), (side, side, 3)))
    with pytest.raises(UsageError) as refused:
        exact(scales=[0.0], long_side=3, tile=10, batch_size=0)
    assert all(name in str(refused.value) for name in ("scales", "long_side", "tile", "batch_size"))


def test_one_line_from_a_checkpoint_to_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pixels(12, 16)
    Image.fromarray(image.numpy()).save(tmp_path / "a.png")
    asked: list[Path] = []

    def reader(path: Path) -> TinySegmenter:
        asked.append(path)
        return by_brightness()

    for name in ("n.safetensors", "segment/network.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr("tag2mask.prediction.predictor.load_segmentation_network", reader)
    assert tag2mask.load(tmp_path / "n.safetensors", device="cpu").predict(tmp_path / "a.png").shape == (12, 16)
    assert isinstance(tag2mask.load(tmp_path, "cpu"), tag2mask.Predictor)
    assert asked == [tmp_path / "n.safetensors", tmp_path / "segment/network.safetensors"]


def test_importing_the_package_stays_light() -> None:
    code = "import sys, tag2mask; assert 'torch' not in sys.modules; tag2mask.Predictor; assert 'torch' in sys.modules"
    assert run_process([sys.executable, "-c", code]).returncode == 0
