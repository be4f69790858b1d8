"""The dense CRF: against the mean field over all pairs, against pydensecrf2, and what must hold exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tag2mask.core.errors import UsageError
from tag2mask.refine.crf import (
    PUBLISHED,
    CrfPreset,
    CrfSettings,
    CrfValues,
    crf_kernels,
    dense_crf,
    label_probabilities,
)

PRESETS = list(PUBLISHED)


def picture(height: int, width: int, seed: int) -> torch.Tensor:
    """Soft coloured regions with some noise: uint8 (H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(1, 3, 5, 6, generator=generator), size=(height, width), mode="nearest")[0]
    noise = 0.05 * torch.randn(3, height, width, generator=generator)
    return (255 * (coarse + noise).clamp(0, 1)).byte().permute(1, 2, 0).contiguous()


def blurred_labels(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Probabilities as CAMs have them: smooth and unsure, (K, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.randn(1, count, 8, 10, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")[0].softmax(0)


def mean_field_over_all_pairs(image: torch.Tensor, probabilities: torch.Tensor, values: CrfValues) -> torch.Tensor:
    """From the definition, in double precision, with every pair of pixels."""
    height, width = image.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows, columns], -1).reshape(-1, 2).double()
    colour = image.reshape(-1, 3).double()

    def kernel(points: torch.Tensor) -> torch.Tensor:
        gaussian = torch.exp(-0.5 * torch.cdist(points, points) ** 2)
        degree = gaussian.sum(1)
        return gaussian / (degree[:, None] * degree[None]).sqrt()

    near = kernel(place / values.gaussian_sxy)
    alike = kernel(torch.cat([place / values.bilateral_sxy, colour / values.bilateral_srgb], 1))
    unary = (probabilities.double() / probabilities.double().sum(0)).clamp_min(1e-5).log().flatten(1).T
    q = unary.softmax(1)
    for _ in range(values.iterations):
        q = (unary + values.gaussian_weight * near @ q + values.bilateral_weight * alike @ q).softmax(1)
    return q.T.reshape(-1, height, width)


@pytest.mark.parametrize("preset", PRESETS)
def test_near_the_mean_field_over_all_pairs(preset: CrfPreset) -> None:
    """The lattice costs a few per cent of the labels on hard problems; pydensecrf's costs the same ones."""
    agreement, difference, blind = [], [], []
    for seed in range(6):
        image, given = picture(40, 52, seed), blurred_labels(3, 40, 52, seed)
        exact = mean_field_over_all_pairs(image, given, PUBLISHED[preset])
        found = dense_crf(image, given, CrfSettings(preset))
        agreement.append(float((found.argmax(0) == exact.argmax(0)).float().mean()))
        difference.append(float((found - exact).abs().mean()))
        blind.append(float((given.argmax(0) == exact.argmax(0)).float().mean()))
    assert min(agreement) > 0.93 and np.mean(agreement) > 0.95
    assert np.mean(difference) < 0.04
    assert np.mean(agreement) > np.mean(blind) + 0.03  # the problems are such that the CRF has work to do


def sample_images(real: Path | None, count: int) -> list[np.ndarray]:
    """Real images where they are at hand, generated ones elsewhere: uint8 (H, W, 3)."""
    if real is None:
        return [picture(180, 240, seed).numpy() for seed in range(count)]
    paths = sorted((real / "data" / "voc-animals" / "JPEGImages").glob("*.jpg"))
    return [np.array(Image.open(path).convert("RGB")) for path in paths[:: len(paths) // count][:count]]


@pytest.fixture
def real_or_none(request: pytest.FixtureRequest) -> Path | None:
    try:
        return Path(request.getfixturevalue("real_data"))
    except pytest.skip.Exception:
        return None


@pytest.mark.crf
@pytest.mark.parametrize("preset", PRESETS)
def test_agrees_with_pydensecrf_on_20_images(preset: CrfPreset, real_or_none: Path | None) -> None:
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    values, same, pixels = PUBLISHED[preset], 0, 0
    for seed, image in enumerate(sample_images(real_or_none, 20)):
        height, width = image.shape[:2]
        count = 2 + seed % 4
        given = blurred_labels(count, height, width, seed)
        peer = densecrf.DenseCRF2D(width, height, count)
        peer.setUnaryEnergy(np.ascontiguousarray(-given.clamp(1e-5, 1).log().flatten(1).numpy()))
        peer.addPairwiseGaussian(sxy=values.gaussian_sxy, compat=values.gaussian_weight)
        peer.addPairwiseBilateral(
            sxy=values.bilateral_sxy, srgb=values.bilateral_srgb, rgbim=image, compat=values.bilateral_weight
        )
        expected = np.array(peer.inference(values.iterations)).reshape(count, height, width)
        found = dense_crf(torch.from_numpy(image), given, CrfSettings(preset)).numpy()
        agreement = (found.argmax(0) == expected.argmax(0)).mean()
        assert agreement >= 0.995
        same, pixels = same + agreement * height * width, pixels + height * width
        assert np.abs(found - expected).mean() < 1e-3
    assert same / pixels >= 0.9999


@pytest.mark.crf
def test_label_probabilities_are_those_of_pydensecrf() -> None:
    utilities = pytest.importorskip("pydensecrf.utils")
    labels = np.random.default_rng(0).integers(0, 4, (7, 9))
    labels.flat[:4] = range(4)
    energy = utilities.unary_from_labels(labels, 4, gt_prob=0.7, zero_unsure=False)
    found = label_probabilities(torch.from_numpy(labels), 4)
    assert np.allclose(np.exp(-energy).reshape(4, 7, 9), found.numpy(), atol=1e-6)


def test_label_probabilities() -> None:
    found = label_probabilities(torch.tensor([[0, 2], [1, 1]]), 3, 0.8)
    assert torch.allclose(found[:, 0, 1], torch.tensor([0.1, 0.1, 0.8]))
    assert torch.allclose(found.sum(0), torch.ones(2, 2))
    assert torch.equal(label_probabilities(torch.zeros(2, 3, dtype=torch.int64), 1), torch.ones(1, 2, 3))
    with pytest.raises(UsageError, match="from 0 to 2"):
        label_probabilities(torch.tensor([[3]]), 3)
    with pytest.raises(UsageError, match="confidence"):
        label_probabilities(torch.tensor([[0]]), 3, 0.0)


def test_kernels_are_shared_between_calls() -> None:
    image, given = picture(30, 40, 0), [blurred_labels(count, 30, 40, count) for count in (2, 5)]
    kernels = crf_kernels(image, CrfSettings("irn"), torch.device("cpu"))
    for own in given:
        assert torch.equal(
            dense_crf(image, own, CrfSettings("irn"), kernels=kernels), dense_crf(image, own, CrfSettings("irn"))
        )


def test_marginals_and_what_may_not_matter() -> None:
    image, given = picture(33, 47, 1), blurred_labels(4, 33, 47, 1)
    before = given.clone()
    found = dense_crf(image, given.requires_grad_())
    assert found.shape == (4, 33, 47) and found.dtype == torch.float32 and not found.requires_grad
    given = given.detach()
    assert torch.equal(given, before)
    assert torch.allclose(found.sum(0), torch.ones(33, 47), atol=1e-5)
    assert torch.allclose(dense_crf(image, 7 * given), found, atol=1e-4)  # brought to sum 1 here
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(dense_crf(image, given[order]), found[order], atol=1e-4)
    assert torch.equal(dense_crf(image, given[:1]), torch.ones(1, 33, 47))
    assert torch.allclose(dense_crf(image, given, CrfSettings(iterations=0)), given, atol=1e-6)
    many = blurred_labels(21, 33, 47, 1)  # another way through the softmax
    before = many.clone()
    assert torch.allclose(dense_crf(image, many).sum(0), torch.ones(33, 47), atol=1e-5)
    assert torch.equal(many, before)


def test_labels_follow_colour_and_specks_go() -> None:
    """Half red, half blue; the CAM's border lies 6 pixels off and has a hole: the CRF corrects both."""
    image = torch.zeros(40, 60, 3, dtype=torch.uint8)
    image[:, :30, 0], image[:, 30:, 2] = 200, 200
    truth = (torch.arange(60) >= 30).long().expand(40, 60)
    labels = (torch.arange(60) >= 36).long().repeat(40, 1)
    labels[10:13, 45:48] = 0
    found = dense_crf(image, label_probabilities(labels, 2), CrfSettings("irn")).argmax(0)
    assert torch.equal(found, truth)


def test_wrong_shapes_and_settings_are_refused() -> None:
    image, given = picture(6, 8, 0), blurred_labels(2, 6, 8, 0)
    with pytest.raises(UsageError, match=r"uint8 \(H, W, 3\)"):
        dense_crf(image.float(), given)
    for bad in (float("nan"), float("inf"), -0.1):
        with pytest.raises(UsageError, match="finite and not negative"):
            dense_crf(image, torch.where(given == given.max(), bad, given))
    with pytest.raises(UsageError, match="6 × 8 pixels"):
        dense_crf(image, given[:, :, :7])
    with pytest.raises(
        UsageError, match="gaussian_sxy should be above 0, received 0; bilateral_weight should not be negative"
    ):
        CrfSettings("irn", gaussian_sxy=0, bilateral_weight=-1)
    with pytest.raises(UsageError, match="gaussian_weight should be a finite number"):
        CrfSettings(gaussian_weight=float("inf"))
    with pytest.raises(UsageError, match="'deeplab', 'irn', 'largefov', received 'voc'"):
        CrfSettings("voc")  # type: ignore[arg-type]


def test_parameters_replace_those_of_the_preset() -> None:
    assert CrfSettings("irn", iterations=3, bilateral_srgb=8).values() == (3, 3, 3, 50, 8, 10)
