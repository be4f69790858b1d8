"""External base CAMs in POT against a slow version, and what gradients and padding do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tag2mask.cams.inference import ImageMaps
from tag2mask.core.errors import UsageError
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

GRID = (6, 7)
TAGS = torch.tensor([[True, False, True, False], [False, True, False, False], [False, False, False, False]])
POT = PotSettings(affinity_radius=2.0)


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, CAMs, external CAMs and valid pixels of three images."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 8, *GRID, generator=generator)
    valid = torch.ones(3, *GRID, dtype=torch.bool)
    valid[0, :, -2:] = False
    cams = normalised_cams(torch.randn(3, 4, *GRID, generator=generator), TAGS, valid)
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
    settings = ExternalSettings(consistency_weight=1.0)
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
        chosen = base_cams(cams, external, TAGS, ExternalSettings(base=base), valid)  # type: ignore[arg-type]
        torch.testing.assert_close(chosen[0], cams[0])
        assert not torch.equal(chosen[1], cams[1])
        assert float(chosen[1, 1].max()) == pytest.approx(1, abs=1e-4)
    assert base_cams(cams, external, TAGS, ExternalSettings(), valid) is cams


def test_the_loss_teaches_the_classifier_alone() -> None:
    features, cams, external, valid = problem()
    cams, features = cams.requires_grad_(), features.requires_grad_()
    result = transport_cams(features, cams.detach(), TAGS, POT, valid=valid)
    settings = ExternalSettings(consistency_weight=1.0)
    loss = external_loss(cams, TAGS, external, external_target(result, external, settings), result)
    loss.backward()  # type: ignore[no-untyped-call]
    assert features.grad is None and cams.grad is not None
    assert not cams.grad[~TAGS].any() and not cams.grad[0, :, :, -2:].any() and cams.grad[0].any()


def test_an_image_without_external_maps_teaches_nothing_and_keeps_its_cams() -> None:
    features, cams, external, valid = problem()
    external[0] = NO_MAP
    cams = cams.requires_grad_()
    settings = ExternalSettings(consistency_weight=1.0, suppression=0.5)
    result = transport_cams(features, cams.detach(), TAGS, POT, valid=valid)
    torch.testing.assert_close(suppressed(result, external, settings).cams[0], result.cams[0])
    torch.testing.assert_close(fused(result, external, settings).cams[0], result.cams[0])
    loss = external_loss(cams, TAGS, external, external_target(result, external, settings), result)
    loss.backward()  # type: ignore[no-untyped-call]
    assert cams.grad is not None and not cams.grad[0].any() and cams.grad[1].any()
    few, own = _first(result, 2), external_target(result, external, settings)[:2]
    two = external_loss(cams[:2], TAGS[:2], external[:2], own, few)
    torch.testing.assert_close(two, loss)


def test_a_tag_without_a_map_is_not_punished_for_it() -> None:
    features, cams, external, valid = problem()
    external[0, 2] = NO_MAP
    settings = ExternalSettings(consistency_weight=1.0, suppression=0.5, base="external")
    base = base_cams(cams, external, TAGS, settings, valid)
    result = transport_cams(features, base, TAGS, POT, valid=valid)
    for made in (suppressed(result, external, settings), fused(result, external, settings)):
        assert float(made.cams[0, 3].sum()) > 0.2 * float(result.cams[0, 3].sum()) > 0
    cams = cams.requires_grad_()
    external_loss(cams, TAGS, external, external_target(result, external, settings), result).backward()  # type: ignore[no-untyped-call]
    assert cams.grad is not None and cams.grad[0, 0].any()
    only = cams.grad[0, 2].abs() > 0  # its CAM counts where it is the strongest, and so decides the background's
    assert not (only & (cams[0, 0] > cams[0, 2])).any()


def test_a_class_that_is_out_of_view_is_taught_to_be_absent() -> None:
    features, cams, external, valid = problem()
    external[0, 2] = 0
    settings = ExternalSettings(consistency_weight=1.0, base="external")
    base = base_cams(cams, external, TAGS, settings, valid)
    assert not base[0, 2].any() and base[0, 0].any()
    result = transport_cams(features, base, TAGS, POT, valid=valid)
    target = external_target(result, external, settings)
    assert not target[0, 2].any()
    cams = cams.requires_grad_()
    external_loss(cams, TAGS, external, target, result).backward()  # type: ignore[no-untyped-call]
    assert cams.grad is not None
    lit = (cams[0, 2] > 0) & (cams[0, 2] < cams[0, 0])  # elsewhere it also decides the background's
    assert lit.any() and (cams.grad[0, 2][lit] > 0).all()


def _first(result: TransportCams, count: int) -> TransportCams:
    """The first images of a batch."""
    slots = result.slots
    few = replace(slots, **{name: getattr(slots, name)[:count] for name in ("ids", "used", "base", "valid", "dropped")})
    return replace(result, cams=result.cams[:count], maps=result.maps[:count], slots=few)


def test_a_perfect_classifier_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.pot.external.CONTRAST", 0.0)
    monkeypatch.setattr("tag2mask.pot.external.FLOOR", 0.0)
    features, _, external, valid = problem()
    settings = ExternalSettings(consistency_weight=1, background_subtraction=0, agreement=0)
    external[:, :, 0, 0] = 0  # sure background, so that dividing by its maximum changes nothing
    external = normalised_cams(external, TAGS, valid)
    result = transport_cams(features, external, TAGS, POT, valid=valid)
    loss = external_loss(external, TAGS, external, external_target(result, external, settings), result)
    assert float(loss) < 1e-3


def test_inference_uses_the_same_settings() -> None:
    features, cams, external, _ = problem()
    use = ExternalSettings(base="external", suppression=0.5)
    maps = ImageMaps(cams, torch.nn.functional.normalize(features, dim=1), TAGS, cams[:, :, 0, 0], external, use)
    everywhere = torch.ones(3, *GRID, dtype=torch.bool)
    base = base_cams(cams, external, TAGS, use, everywhere)
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
