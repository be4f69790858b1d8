"""`image_maps`: what one pass over several scales and mirror images says."""

import torch

from tag2mask.cams.inference import image_maps, resize
from tag2mask.cams.kinds import CAM_KINDS, KINDS
from tag2mask.networks import NetworkSettings, build_network


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


def test_every_kind_of_cam_is_described() -> None:
    assert tuple(KINDS) == CAM_KINDS
