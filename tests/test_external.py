"""External base CAMs in POT against a slow version, and what gradients and padding do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tag2mask.cams.inference import ImageMaps
from tag2mask.core.errors import UsageError
from tag2mask.networks.pot_network import PotOutput
from tag2mask.pot import PotSettings, TransportCams, normalised_cams, transport_cams
from tag2mask.pot.external import (
    CONTRAST,
    FLOOR,
    NO_MAP,
    ExternalSettings,
    base_cams,
    external_loss,
    external_target,
    fused,
    suppressed,
)
from tag2mask.training.settings import TrainSettings
from tag2mask.training.tasks import objective

GRID = (6, 7)
TAGS = torch.tensor([[True, False, True, False], [False, True, False, False], [False, False, False, False]])
POT = PotSettings(affinity_radius=2.0)


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, CAMs, external CAMs and valid pixels of three images."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 8, *GRID, generator=generator)
    valid = torch.ones(3, *GRID, dtype=torch.bool)
    valid[0, :, -2:] = False
    cams = normalised_cams(torch.randn(3, 4, *GRID, generator=generator), valid)
    external = torch.rand(3, 4, *GRID, generator=generator) * valid[:, None]
    external = torch.where(TAGS[:, :, None, None], external, NO_MAP)
    return features, cams, external, valid


def solved(seed: int = 0) -> tuple[TransportCams, Tensor]:
    """POT of the problem, and the external CAMs."""
    features, cams, external, valid = problem(seed)
    return transport_cams(features, cams, TAGS, POT, valid=valid), external


def slow_target(maps: np.ndarray, external: np.ndarray, inside: np.ndarray, settings: ExternalSettings) -> np.ndarray:
    """The target of one image, class by class; ``maps`` and the result hold background first."""
    present = [c for c in range(len(external)) if external[c].max() >= 0]
    if not present:
        return maps
    background = 1 - np.max([external[c] for c in present] or [np.zeros(GRID)], axis=0)
    tags = {c: np.maximum(external[c] - settings.background_subtraction * background, 0) for c in present}
    q = {-1: 1 - np.max([*tags.values(), np.zeros(GRID)], axis=0), **tags}
    total = sum(value * inside for value in q.values())
    target = np.zeros_like(maps)
    for c, value in q.items():
        own = np.maximum((1 + CONTRAST) * value * inside - CONTRAST * total, 0)
        own /= own.max() + 1e-5
        own[own < FLOOR * own[inside].mean()] = 0
        target[c + 1] = own
    agree = target.argmax(0) == maps.argmax(0)
    for c in q:
        target[c + 1] += settings.agreement * agree * maps[c + 1] * inside
    return np.minimum(target, 1)


def test_the_target_agrees_with_the_slow_version() -> None:
    result, external = solved()
    settings = ExternalSettings()
    cams = fused(result, external, settings).cams
    for number, own in enumerate(cams):
        inside = result.slots.valid[number].view(GRID).numpy()
        expected = slow_target(result.cams[number].numpy(), external[number].numpy(), inside, settings)
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-5)
    assert 0.1 < float(cams[0].mean()) < 0.9


def test_suppression_by_hand() -> None:
    result, external = solved()
    found = suppressed(result, external, ExternalSettings(suppression=0.5))
    background = 1 - external[0].amax(0)
    inside = result.slots.valid[0].view(GRID)
    for c in (1, 3):
        expected = (result.cams[0, c] - 0.5 * background).clamp(min=0) * inside
        torch.testing.assert_close(found.cams[0, c], expected)
    torch.testing.assert_close(found.cams[0, 0], (1 - found.cams[0, 1:].amax(0)) * inside)
    assert suppressed(result, external, ExternalSettings()) is result


def test_the_base_of_images_without_external_maps_is_their_own() -> None:
    _, cams, external, valid = problem()
    external[0] = NO_MAP
    for base in ("external", "mean"):
        chosen = base_cams(cams, external, ExternalSettings(base=base), valid)  # type: ignore[arg-type]
        torch.testing.assert_close(chosen[0], cams[0])
        assert not torch.equal(chosen[1], cams[1])
        assert float(chosen[1, 1].max()) == pytest.approx(1, abs=1e-4)
    assert base_cams(cams, external, ExternalSettings(), valid) is cams


def slow_loss(maps: np.ndarray, target: np.ndarray, ids: list[int], inside: np.ndarray) -> float:
    """The mean absolute difference of two sets of maps of one image, class by class, each divided by its maximum."""
    total, count = 0.0, 0
    for c in ids:
        own, other = (each[c] * inside / ((each[c] * inside).max() + 1e-5) for each in (maps, target))
        total += float(np.abs(own - other)[inside].sum())
        count += int(inside.sum())
    return total / count


def test_the_loss_agrees_with_the_slow_version() -> None:
    result, external = solved()
    settings = ExternalSettings(suppression=0.5, consistency_pair="pot-target")
    external[0, 2] = NO_MAP  # a tag without a map does not count; the third image, which has none, counts as 0
    result = suppressed(result, external, settings)
    target = fused(result, external, settings).cams.numpy()
    expected = []
    for number, ids in enumerate(([0, 1], [0, 2])):
        inside = result.slots.valid[number].view(GRID).numpy()
        expected.append(slow_loss(result.cams[number].numpy(), target[number], ids, inside))
    assert float(external_loss(result, external, settings)) == pytest.approx(np.sum(expected) / 3, rel=1e-4)


def test_the_loss_teaches_both_sides_and_not_the_classifier() -> None:
    features, cams, external, valid = problem()
    features.requires_grad_()
    gradients = []
    for agreement in (0.0, 0.2):  # the target holds POT's maps where both agree
        settings = ExternalSettings(consistency_pair="pot-target", agreement=agreement)
        result = transport_cams(features, cams.requires_grad_(), TAGS, POT, valid=valid)
        (own,) = torch.autograd.grad(external_loss(result, external, settings), features)
        gradients.append(own)
    assert cams.grad is None
    assert gradients[0][0].any() and gradients[0][1].any() and not gradients[0].isnan().any()
    assert not torch.equal(*gradients)


def test_the_loss_of_the_network_compares_pot_with_the_target_whatever_stops_gradients() -> None:
    features, cams, external, _ = problem()
    output = PotOutput(torch.zeros(3, 4), (4 * cams - 1).requires_grad_(), features.requires_grad_())
    valid = torch.ones(3, 16 * GRID[0], 16 * GRID[1], dtype=torch.bool)
    use = ExternalSettings(suppression=0.5, consistency_pair="pot-target")
    settings = TrainSettings(consistency_weight=2.0, consistency_start=0.0)
    assert settings.stop_gradient == "pot"
    losses = objective(output, TAGS, valid, settings, POT, stride=16, progress=0.0, external=external, use=use)
    base = normalised_cams(output.cams).detach()
    everywhere = torch.ones(3, *GRID, dtype=torch.bool)
    result = transport_cams(features, base, TAGS, POT, valid=everywhere)
    expected = external_loss(suppressed(result, external, use), external, use)
    assert losses.consistency is not None
    torch.testing.assert_close(losses.consistency, expected)
    torch.testing.assert_close(losses.total, losses.classification + 2 * expected)
    (own,) = torch.autograd.grad(losses.total, features, retain_graph=True)
    assert own[0].any() and torch.autograd.grad(losses.total, output.cams, allow_unused=True) == (None,)


def test_an_image_without_external_maps_teaches_nothing_and_keeps_its_cams() -> None:
    features, cams, external, valid = problem()
    external[0] = NO_MAP
    features.requires_grad_()
    settings = ExternalSettings(suppression=0.5, consistency_pair="pot-target")
    result = transport_cams(features, cams, TAGS, POT, valid=valid)
    torch.testing.assert_close(suppressed(result, external, settings).cams[0], result.cams[0])
    torch.testing.assert_close(fused(result, external, settings).cams[0], result.cams[0])
    (gradient,) = torch.autograd.grad(
        external_loss(suppressed(result, external, settings), external, settings), features
    )
    assert not gradient[0].any() and gradient[1].any()


def test_a_tag_without_a_map_is_not_punished_for_it() -> None:
    features, cams, external, valid = problem()
    external[0, 2] = NO_MAP
    settings = ExternalSettings(suppression=0.5, base="external")
    base = base_cams(cams, external, settings, valid)
    result = transport_cams(features, base, TAGS, POT, valid=valid)
    for made in (suppressed(result, external, settings), fused(result, external, settings)):
        assert float(made.cams[0, 3].sum()) > 0.2 * float(result.cams[0, 3].sum()) > 0


def test_a_class_that_is_out_of_view_is_taught_to_be_absent() -> None:
    features, cams, external, valid = problem()
    external[0, 2] = 0
    settings = ExternalSettings(base="external")
    base = base_cams(cams, external, settings, valid)
    assert not base[0, 2].any() and base[0, 0].any()
    result = transport_cams(features, base, TAGS, POT, valid=valid)
    assert not external_target(result, external, settings)[0, 2].any()


def test_inference_uses_the_same_settings() -> None:
    features, cams, external, _ = problem()
    use = ExternalSettings(base="external", suppression=0.5)
    maps = ImageMaps(cams, torch.nn.functional.normalize(features, dim=1), TAGS, cams[:, :, 0, 0], external, use)
    everywhere = torch.ones(3, *GRID, dtype=torch.bool)
    base = base_cams(cams, external, use, everywhere)
    expected = suppressed(transport_cams(maps.features, base, TAGS, POT), external, use)
    torch.testing.assert_close(maps.transport(POT).cams, expected.cams)
    torch.testing.assert_close(maps.fused(POT).cams, fused(expected, external, use).cams)
    assert not torch.equal(maps.prototype_cams(POT).cams, replace(maps, external=None).prototype_cams(POT).cams)
    with pytest.raises(UsageError, match="tag2mask seeds"):
        replace(maps, external=None).fused(POT)


def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        ExternalSettings(base="clip", suppression=-1)  # type: ignore[arg-type]
    assert "base" in str(caught.value) and "suppression" in str(caught.value)
    assert not ExternalSettings().used and ExternalSettings(base="mean").used
