"""`image_maps`: what one pass over several scales and mirror images says."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from tag2mask.cams.inference import image_maps, resize
from tag2mask.cams.kinds import CAM_KINDS, KINDS
from tag2mask.networks import NetworkSettings, build_network
from tag2mask.pot import PotSettings, normalised_cams, transport_cams
from tag2mask.pot.external import NO_MAP, ExternalSettings, suppressed


def test_scores_are_of_the_mean_logits_over_scales_and_mirror_images_image_by_image() -> None:
    network = build_network(NetworkSettings(backbone="resnet18", weights="none"), ("cat", "cow", "dog"), seed=0).eval()
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    tags = torch.tensor([[True, False, False], [True, True, False]])
    with torch.no_grad():
        logits = [
            network(resize(view, scale)).logits[0]
            for image in images
            for scale in (1.0, 1.5)
            for view in (image[None], image[None].flip(3))
        ]
    expected = torch.stack(logits).view(2, 4, 3).mean(1).sigmoid()
    maps = image_maps(network, images, tags, scales=[1.0, 1.5], flip=True)
    torch.testing.assert_close(maps.scores, expected, rtol=1e-4, atol=1e-5)
    assert (maps.scores[0] - maps.scores[1]).abs().max() > 1e-4
    half = image_maps(network, images, tags, scales=[1.0, 1.5], flip=True, bf16=True)
    assert half.cams.dtype == half.features.dtype == half.scores.dtype == torch.float32
    assert not half.features.equal(maps.features)
    torch.testing.assert_close(half.scores, maps.scores, rtol=0, atol=0.05)
    torch.testing.assert_close(half.features, maps.features, rtol=0, atol=0.02)


def test_maps_of_all_scales_are_merged_as_published() -> None:
    """In loops: POT at each scale on its own grid, the sum, and foreground against half of the background and 0.2."""
    network = build_network(NetworkSettings(backbone="resnet18", weights="none"), ("cat", "cow", "dog"), seed=0).eval()
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    tags = torch.tensor([[True, False, False], [True, True, False]])
    external = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    external[1, 0] = NO_MAP
    pot, use = PotSettings().paper(), ExternalSettings(suppression=0.5)
    maps = image_maps(network, images, tags, scales=[1.0, 2.0], flip=False, apart=True).with_external(external, use)
    found = maps.transport(pot)
    expected = torch.zeros(2, 4, 4, 6)
    for scale in (1.0, 2.0):
        with torch.no_grad():
            output = network(resize(images, scale))
        outside = F.interpolate(external, size=output.cams.shape[2:], mode="bilinear")
        own = suppressed(transport_cams(output.features, normalised_cams(output.cams), tags, pot), outside, use)
        expected += F.interpolate(own.cams, size=(4, 6), mode="bilinear")
    for image in range(2):
        for c in range(4):
            expected[image, c] /= expected[image, c].max() + 1e-5
    expected[:, 0] = expected[:, 0] / 2 + 0.2
    areas = maps.transport(replace(pot, normalise_over="image")).cams
    assert float(areas[:, 1:].amax((2, 3)).min()) < 0.9 < float(found.cams[0, 1].max())
    torch.testing.assert_close(found.cams, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps.fused(pot).cams, maps.apart[0].fused(pot).cams)
    assert found.allocation.shape == (2, 4, 6) and 0 <= float(found.cams.min()) <= float(found.cams.max()) <= 1
    together = image_maps(network, images, tags, scales=[1.0, 2.0], flip=False)
    assert not together.apart and together.features.equal(maps.features)


def test_every_kind_of_cam_is_described() -> None:
    assert tuple(KINDS) == CAM_KINDS
