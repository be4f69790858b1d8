"""The POT network: joint feature, scores and CAMs against slow definitions; padding; precision."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.core.errors import UsageError
from tag2mask.networks import Backbone, NetworkSettings, PotNetwork, Stage, build_network

CLASSES = ("cat", "dog")


class Toy(Backbone):
    """Stages that are the image itself, averaged over cells and mixed by a fixed matrix: what they hold is known."""

    mean = (0.5, 0.4, 0.3)
    std = (0.2, 0.3, 0.4)
    default_levels = (0, 1, 2)

    def __init__(self, strides: tuple[int, ...] = (4, 8, 16)) -> None:
        super().__init__()
        self.stages = tuple(Stage(f"s{stride}", 4 + index, stride) for index, stride in enumerate(strides))
        generator = torch.Generator().manual_seed(3)
        self.mixing = nn.ParameterList(
            nn.Parameter(torch.randn(stage.channels, 3, generator=generator)) for stage in self.stages
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        pooled = (F.avg_pool2d(images, each.stride, ceil_mode=True, count_include_pad=False) for each in self.stages)
        return [F.conv2d(x, matrix[:, :, None, None]) for x, matrix in zip(pooled, self.mixing, strict=True)]


def _network(strides: tuple[int, ...] = (4, 8, 16), **settings: object) -> PotNetwork:
    return PotNetwork(Toy(strides), CLASSES, NetworkSettings(**settings)).eval()  # type: ignore[arg-type]


def test_joint_feature_against_its_definition() -> None:
    network = _network()
    images = torch.rand(2, 3, 64, 96)
    features = network(images).features
    normalised = (images - torch.tensor(Toy.mean)[:, None, None]) / torch.tensor(Toy.std)[:, None, None]
    maps = network.backbone(normalised)
    for row, column in [(0, 0), (1, 4), (3, 5)]:
        parts = []
        for each, cells in zip(maps, (4, 2, 1), strict=True):
            block = each[:, :, row * cells : (row + 1) * cells, column * cells : (column + 1) * cells].flatten(2)
            parts.append((block / (block.norm(dim=1, keepdim=True) + 1e-5)).mean(2))
        expected = torch.cat(parts, dim=1)
        expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(features[:, :, row, column], expected)


def test_scores_are_the_mean_of_the_raw_cams() -> None:
    network = _network()
    with torch.no_grad():
        network.classifier.weight[0] = -network.classifier.weight[1]  # one of the two is negative: the ReLU is not here
    images = torch.rand(2, 3, 40, 50)
    output = network(images)
    torch.testing.assert_close(output.logits, output.cams.mean(dim=(2, 3)))
    last = network.backbone((images - network.pixel_mean) / network.pixel_std)[-1]
    expected = torch.einsum("ndhw,cd->nchw", last, network.classifier.weight[:, :, 0, 0])
    torch.testing.assert_close(output.cams, expected)
    assert network.classifier.bias is None


@pytest.mark.parametrize("padding", [0.0, 0.7, float("inf")])
def test_padding_does_not_matter(padding: float) -> None:
    """An image of whole cells, padded by whole cells, gives what it gives alone, whatever the padding holds."""
    network = _network()
    image = torch.rand(1, 3, 32, 48)
    alone = network(image)
    images = torch.full((1, 3, 64, 64), padding)
    images[:, :, 16:48, 16:64] = image
    valid = torch.zeros(1, 64, 64, dtype=torch.bool)
    valid[:, 16:48, 16:64] = True
    padded = network(images, valid)
    torch.testing.assert_close(padded.logits, alone.logits)
    torch.testing.assert_close(padded.cams[:, :, 1:3, 1:4], alone.cams)
    torch.testing.assert_close(padded.features[:, :, 1:3, 1:4], alone.features)
    assert padded.features.isfinite().all()


def test_only_whole_cells_count() -> None:
    network = _network()
    images = torch.rand(2, 3, 48, 48)
    valid = torch.zeros(2, 48, 48, dtype=torch.bool)
    valid[0, :40, :33] = True  # 2 × 2 whole cells
    valid[1, 3:7, 20:47] = True  # no whole cell: the two that it touches stand in
    output = network(images, valid)
    torch.testing.assert_close(output.logits[0], output.cams[0, :, :2, :2].mean(dim=(1, 2)))
    torch.testing.assert_close(output.logits[1], output.cams[1, :, 0, 1:3].mean(dim=1))


def test_an_image_without_padding_needs_no_mask() -> None:
    network = _network()
    images = torch.rand(1, 3, 45, 67)
    for one, other in zip(network(images), network(images, torch.ones(1, 45, 67, dtype=torch.bool)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("strides", "expected"),
    [((4, 8, 16, 16), 16), ((4, 8, 16, 32), 16), ((14, 14), 14), ((8, 8), 8), ((4, 4), 4), ((32,), 32)],
)
def test_the_grid_of_the_joint_feature(strides: tuple[int, ...], expected: int) -> None:
    assert _network(strides, out_indices=tuple(range(len(strides)))).stride == expected


@pytest.mark.parametrize(("strides", "expected"), [((4, 8, 16, 16), 8), ((4, 16, 32), 16), ((14, 14), 14), ((4, 4), 4)])
def test_the_grid_of_a_frozen_network_is_as_fine_as_asked_for(strides: tuple[int, ...], expected: int) -> None:
    settings = {"freeze": True, "weights": "imagenet", "out_indices": tuple(range(len(strides)))}
    assert _network(strides, output_stride=8, **settings).stride == expected
    assert _network(strides, **settings).stride == (16 if 16 in strides else expected)


def test_cams_follow_the_grid_of_the_features() -> None:
    network = _network((8, 32), out_indices=(0,))
    images = torch.rand(1, 3, 45, 67)
    output = network(images)
    assert network.stride == 8
    assert output.features.shape == (1, 4, 6, 9)
    assert output.cams.shape == (1, 2, 6, 9)
    raw = network.classifier(network.backbone((images - network.pixel_mean) / network.pixel_std)[-1])
    torch.testing.assert_close(output.logits, raw.mean(dim=(2, 3)), msg="scores come from the classifier's own grid")


def test_projections_are_the_published_ones() -> None:
    settings = NetworkSettings(backbone="resnet50", weights="none", projections=True)
    network = build_network(settings, CLASSES, seed=0)
    assert network.projections is not None
    shapes = {name: tuple(each.shape[:2]) for name, each in network.projections.named_parameters()}
    assert shapes == {
        "0.weight": (128, 259),
        "1.weight": (128, 515),
        "2.weight": (256, 1027),
        "3.weight": (256, 2051),
    }
    assert network.feature_channels == 768
    heads = {id(each) for each in network.head_parameters()}
    assert heads == {id(network.classifier.weight), *(id(each) for each in network.projections.parameters())}


def taps(cells: int, wanted: int, *, corners: bool) -> Tensor:
    """The weights (wanted, cells) of bilinear sampling along one side: two neighbours of each place."""
    weights = torch.zeros(wanted, cells)
    for place in range(wanted):
        at = place * (cells - 1) / (wanted - 1) if corners else (place + 0.5) * cells / wanted - 0.5
        at = min(max(at, 0.0), cells - 1.0)
        low = min(int(at), cells - 2)
        weights[place, low], weights[place, low + 1] = 1 - (at - low), at - low
    return weights


def test_the_joint_feature_of_projections_is_the_published_one() -> None:
    """In loops: colours with aligned corners, unit length, and two taps per side to the grid of the last stages."""
    network = build_network(NetworkSettings(backbone="resnet18", weights="none", projections=True), CLASSES, seed=0)
    network.eval()
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        normalised = (images - network.pixel_mean) / network.pixel_std
        parts = []
        for maps, projection in zip(network.backbone(normalised), network.projections or [], strict=True):
            rows, columns = maps.shape[2:]
            down, right = taps(96, rows, corners=True), taps(128, columns, corners=True)
            colours = torch.einsum("hi,wj,ncij->nchw", down, right, normalised)
            part = torch.einsum("oc,nchw->nohw", projection.weight[:, :, 0, 0], torch.cat([maps, colours], 1))
            part = part / (part.square().sum(1, keepdim=True).sqrt() + 1e-5)
            down, right = taps(rows, 6, corners=False), taps(columns, 8, corners=False)
            parts.append(torch.einsum("hi,wj,ncij->nchw", down, right, part))
        expected = torch.cat(parts, 1)
        found = network(images).features
    torch.testing.assert_close(found, expected / expected.square().sum(1, keepdim=True).sqrt(), rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_features_in_single() -> None:
    network = build_network(NetworkSettings(backbone="resnet18", weights="none", projections=True), CLASSES, seed=0)
    images = torch.rand(2, 3, 64, 80)
    network.eval()
    exact = network(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images)
    assert all(part.dtype == torch.float32 for part in output)
    assert output.features.norm(dim=1).sub(1).abs().max() < 1e-5
    assert F.cosine_similarity(output.features, exact.features, dim=1).min() > 0.99
    (output.logits.sum() + output.features[:, 0].sum()).backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in network.parameters())


def test_a_dead_stage_gives_no_nan() -> None:
    network = _network()
    with torch.no_grad():
        for matrix in network.backbone.mixing:  # type: ignore[union-attr]
            matrix.zero_()
    output = network(torch.rand(1, 3, 32, 32))
    output.features.sum().backward()
    assert not output.features.any()
    assert all(each.grad is None or each.grad.isfinite().all() for each in network.parameters())


def test_wrong_levels_name_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"has no level 3, 9; it offers 0 \(s4: 4 channels at stride 4\), 1 "):
        _network(out_indices=(0, 3, 9))


@pytest.mark.parametrize(
    ("classes", "text"),
    [((), "0 were given"), (tuple(map(str, range(255))), "255 were given"), (("a", "b", "a"), "more than once: a")],
)
def test_wrong_classes(classes: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        PotNetwork(Toy(), classes, NetworkSettings())


def test_wrong_images() -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, H, W\), received \(3, 32, 32\)"):
        _network()(torch.rand(3, 32, 32))
