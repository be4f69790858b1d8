"""Edges: the affinity loss against loops over pairs, the edge network against a slow one, and both together."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ConvNextConfig, MobileNetV2Config, ViTConfig

from tag2mask.core.errors import UsageError
from tag2mask.networks import Backbone, NetworkSettings, build_backbone
from tag2mask.networks.edge_network import EdgeNetwork, build_edge_network, default_edge_levels
from tag2mask.refine.affinity_loss import affinity_loss, reduced_labels


def loss_in_loops(logits: Tensor, labels: Tensor, radius: int) -> list[Tensor]:
    """From the description: every pair of cells once, the largest edge on its path, three means, two halves."""
    edge = logits.sigmoid()
    images, height, width = logits.shape
    found: dict[str, list[Tensor]] = {"background": [], "foreground": [], "negative": []}
    for image in range(images):
        cells = [(y, x) for y in range(height) for x in range(width)]
        for number, (y, x) in enumerate(cells):
            for v, u in cells[number + 1 :]:
                one, other = int(labels[image, y, x]), int(labels[image, v, u])
                dy, dx = v - y, u - x
                if dy * dy + dx * dx >= radius * radius or 255 in (one, other):
                    continue
                way = [
                    edge[image, a, b]
                    for a in range(y, v + 1)
                    for b in range(min(x, u), max(x, u) + 1)
                    if (dy * (b - x) - dx * (a - y)) ** 2 < dy * dy + dx * dx
                ]
                affinity = 1 - torch.stack(way).max()
                if one != other:
                    found["negative"].append(-torch.log(1 + 1e-5 - affinity))
                else:
                    found["foreground" if one else "background"].append(-torch.log(affinity + 1e-5))
    parts = [sum(each, torch.zeros((), dtype=edge.dtype)) / (len(each) + 1e-5) for each in found.values()]
    background, foreground, negative = parts
    return [(background / 2 + foreground / 2 + negative) / 2, *parts]


def random_problem(seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 3)), int(rng.integers(1, 9)), int(rng.integers(1, 10)))
    labels = rng.choice([0, 0, 1, 2, 254, 255], size=size).astype(np.uint8)
    if seed % 5 == 3:
        labels[:] = rng.choice([0, 7, 255])
    return torch.from_numpy(rng.normal(0, 3, size)).requires_grad_(), torch.from_numpy(labels)


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_and_its_gradient_equal_loops_over_pairs(seed: int) -> None:
    logits, labels = random_problem(seed)
    radius = 2 + seed % 5
    expected = loss_in_loops(logits, labels, radius)
    loss = affinity_loss(logits, labels, radius=radius)
    for found, each in zip((loss.total, loss.background, loss.foreground, loss.negative), expected, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-9, atol=1e-9)
    single = logits.detach().float().requires_grad_()
    total = affinity_loss(single, labels, radius=radius).total
    assert total.dtype == torch.float32
    torch.testing.assert_close(total.double(), expected[0], rtol=1e-5, atol=1e-5)
    # Adding nothing times the logits: of a problem without pairs the loops give a constant.
    (slow,) = torch.autograd.grad(expected[0] + 0 * logits.sum(), logits)
    torch.testing.assert_close(torch.autograd.grad(loss.total, logits)[0], slow, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(total, single)[0].double(), slow, rtol=1e-4, atol=1e-6)


def test_the_published_radius_on_a_grid_that_holds_all_its_displacements() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 12, 21, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, logits.shape, generator=generator, dtype=torch.uint8)
    torch.testing.assert_close(affinity_loss(logits, labels).total, loss_in_loops(logits, labels, 10)[0])


def test_a_grid_whose_cells_outnumber_short_integers() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 130, 260, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, logits.shape, generator=generator, dtype=torch.uint8)
    edge, label = logits.sigmoid()[0], labels[0]
    block = F.max_pool2d(edge[None], 2, stride=1)[0]
    ways = [
        (label[:, :-1] != label[:, 1:], torch.maximum(edge[:, :-1], edge[:, 1:])),
        (label[:-1] != label[1:], torch.maximum(edge[:-1], edge[1:])),
        (label[:-1, :-1] != label[1:, 1:], block),
        (label[:-1, 1:] != label[1:, :-1], block),
    ]
    pairs = [-torch.log(strongest[differs] + 1e-5) for differs, strongest in ways]
    torch.testing.assert_close(affinity_loss(logits, labels, radius=2).negative, torch.cat(pairs).mean())


def test_extreme_logits_keep_a_finite_loss_and_gradient() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 2, 255]]], dtype=torch.uint8)
    for logits in (torch.full((1, 1, 6), 200.0), torch.full((1, 1, 6), -200.0)):
        loss = affinity_loss(logits.requires_grad_(), labels)
        loss.total.backward()
        assert loss.total.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
        assert torch.maximum(loss.background, loss.negative).item() == pytest.approx(-math.log(1e-5), rel=1e-4)


@pytest.mark.parametrize(
    ("logits", "labels", "radius", "message"),
    [
        (torch.rand(1, 4, 4), torch.zeros(1, 4, 5, dtype=torch.uint8), 10, "labels should be uint8"),
        (torch.rand(1, 4, 4), torch.zeros(1, 4, 4), 10, "received torch.float32"),
        (torch.rand(4, 4), torch.zeros(4, 4, dtype=torch.uint8), 10, "logits should be float"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.uint8), 10, "logits should be"),
        (torch.full((1, 4, 4), torch.nan), torch.zeros(1, 4, 4, dtype=torch.uint8), 10, "finite"),
        (torch.rand(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), 1, "radius should be at least 2"),
    ],
)
def test_wrong_input_of_the_loss_is_refused(logits: Tensor, labels: Tensor, radius: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        affinity_loss(logits, labels, radius=radius)


def test_reduced_labels_take_the_centre_of_each_cell() -> None:
    labels = torch.arange(9 * 14, dtype=torch.uint8).view(1, 9, 14)
    expected = [[labels[0, min(4 * y + 2, 8), min(4 * x + 2, 13)] for x in range(4)] for y in range(3)]
    assert reduced_labels(labels, (3, 4)).tolist() == [[[int(each) for each in row] for row in expected]]
    with pytest.raises(UsageError, match="9 × 14 pixels have no grid of 3 × 3 cells of 4 pixels"):
        reduced_labels(labels, (3, 3))
    with pytest.raises(UsageError, match="uint8"):
        reduced_labels(labels.long(), (3, 4))


def resnet(name: str = "resnet18") -> Backbone:
    return build_backbone(NetworkSettings(backbone=name, weights="none"))


@pytest.mark.parametrize("size", [(64, 64), (45, 67), (17, 90), (7, 5)])
def test_edges_have_stride_4_at_any_size(size: tuple[int, int]) -> None:
    network = build_edge_network(resnet(), seed=0)
    grid = (2, *(-(-side // 4) for side in size))
    for images in (torch.rand(2, 3, *size), torch.rand(2, 3, *size).contiguous(memory_format=torch.channels_last)):
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images)
        for logits in (network(images), network.mean_logits(images), half):
            assert logits.shape == grid and logits.dtype == torch.float32 and logits.isfinite().all()
    with pytest.raises(UsageError, match=r"\(N, 3, H, W\)"):
        network(torch.rand(3, 8, 8))


def test_the_published_branch_in_slow() -> None:
    backbone = resnet("resnet50")
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
    network = build_edge_network(backbone, seed=3).eval()
    assert [stage.channels for stage in backbone.all_stages] == [64, 256, 512, 1024, 2048]
    assert [stage.stride for stage in backbone.all_stages] == [4, 4, 8, 16, 16]
    assert network.levels == (0, 1, 2, 3, 4)
    for norm in (level[1] for level in network.branch.levels):  # type: ignore[index]
        nn.init.normal_(norm.weight, 1, 0.3), nn.init.normal_(norm.bias, 0, 0.3)
    images = torch.rand(2, 3, 37, 50)
    parts = dict(backbone.named_children())
    with torch.no_grad():
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        x = F.max_pool2d(parts["bn1"](parts["conv1"](x)).relu(), 3, 2, 1)
        maps = [x]
        for name in ("layer1", "layer2", "layer3", "layer4"):
            maps.append(parts[name](maps[-1]))
        columns = []
        for each, enlarge, level in zip(maps, (1, 1, 2, 4, 4), network.branch.levels, strict=True):
            weight, norm = level[0].weight[:, :, 0, 0], level[1]  # type: ignore[index]
            y = torch.einsum("oc,nchw->nohw", weight, each)
            groups = y.reshape(2, 4, -1)
            centred = groups - groups.mean(-1, keepdim=True)
            y = (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).view_as(y)
            y = y * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
            y = F.interpolate(y, scale_factor=enlarge, mode="bilinear", align_corners=False)
            columns.append(y[:, :, :10, :13].relu())
        final = network.branch.edge
        expected = torch.einsum("c,nchw->nhw", final.weight[0, :, 0, 0], torch.cat(columns, 1)) + final.bias
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_only_the_branch_trains() -> None:
    network = build_edge_network(resnet(), seed=0).train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    own = list(network.branch.parameters())
    optimiser = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], lr=0.1, momentum=0.9)
    assert {id(each) for each in own} == {id(each) for group in optimiser.param_groups for each in group["params"]}
    assert len(own) == 3 * 5 + 2
    labels = torch.randint(0, 3, (2, 16, 16), dtype=torch.uint8)
    affinity_loss(network(torch.rand(2, 3, 64, 64)), labels).total.backward()
    assert all(each.grad is not None and bool(each.grad.any()) for each in own)
    assert all(each.grad is None for each in network.backbone.parameters())
    optimiser.step()
    assert not any(module.training for module in network.backbone.modules()) and network.branch.training
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())


def test_padding_does_not_say_what_it_holds() -> None:
    network = build_edge_network(resnet(), seed=0)
    images = torch.rand(1, 3, 40, 64)
    other = images.clone()
    other[..., 50:] = 0.3
    valid = torch.ones(1, 40, 64, dtype=torch.bool)
    valid[..., 50:] = False
    assert torch.equal(network(images, valid), network(other, valid))
    assert not torch.equal(network(images), network(other))


@pytest.mark.parametrize("width", [64, 61])
def test_mirrored_inference_is_the_mean_by_hand(width: int) -> None:
    network = build_edge_network(resnet(), seed=0)
    images = torch.rand(2, 3, 39, width)
    filled = network.pixel_mean.expand(2, 3, 39, 64).clone()
    filled[..., :width] = images
    with torch.no_grad():
        by_hand = (network(filled) + network(filled.flip(3)).flip(2)) / 2
    found = network.mean_logits(images)
    torch.testing.assert_close(found, by_hand[..., : -(-width // 4)])
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("config", "levels", "strides"),
    [
        (MobileNetV2Config(depth_multiplier=0.35), (1, 4, 8, 11, 14, 16), (4, 8, 16, 16, 16, 16)),
        (ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]), (0, 1, 2, 3), (4, 8, 16, 32)),
        (
            ViTConfig(
                hidden_size=16,
                num_hidden_layers=4,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=28,
                patch_size=14,
            ),
            (0, 1, 2, 3),
            (14, 14, 14, 14),
        ),
    ],
    ids=["mobilenet_v2", "convnext", "vit"],
)
def test_other_backbones(config: Any, levels: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    backbone = build_backbone(NetworkSettings(backbone=str(tmp_path), weights="none"))
    assert default_edge_levels(backbone) == levels
    network = build_edge_network(backbone, seed=0).train()
    assert network.branch.strides == strides
    logits = network(torch.rand(2, 3, 45, 67))
    assert logits.shape == (2, 12, 17)
    affinity_loss(logits, torch.randint(0, 3, (2, 12, 17), dtype=torch.uint8), radius=4).total.backward()
    assert all(each.grad is not None for each in list(network.branch.parameters()))
    assert all(each.grad is None for each in backbone.parameters())
    assert network.mean_logits(torch.rand(1, 3, 45, 67)).shape == (1, 12, 17)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((0, 5), r"no level 5; it offers 0 \(stem: 64 channels at stride 4\), 1 \(layer1: 64 channels at stride 4\)"),
        ((-1,), "no level -1; it offers"),
        ((), "each at most once; it offers"),
        ((1, 1), "each at most once"),
    ],
)
def test_a_wrong_level_is_refused(levels: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EdgeNetwork(resnet(), levels)


def test_chosen_levels_and_one_seed_one_branch() -> None:
    backbone, state = resnet(), torch.get_rng_state()
    first, again, other = (build_edge_network(backbone, seed=seed, levels=(1,)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state) and first.levels == (1,)
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(first(images), again(images)) and not torch.equal(first(images), other(images))


def test_training_finds_the_border_inside_the_ignored_band() -> None:
    """Two coloured halves and their mirror image; the labels leave open where in a wide band the border runs."""
    picture = torch.rand(1, 3, 64, 64) * 0.2
    picture[:, 0, :, :36] += 0.7
    picture[:, 2, :, 36:] += 0.7
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[..., 36:] = 1
    labels[..., 24:48] = 255
    images, reduced = (
        torch.cat([picture, picture.flip(3)]),
        reduced_labels(torch.cat([labels, labels.flip(2)]), (16, 16)),
    )
    network = build_edge_network(resnet(), seed=0).train()
    optimiser = torch.optim.SGD(list(network.branch.parameters()), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = affinity_loss(network(images), reduced)
        loss.total.backward()
        optimiser.step()
        losses.append(loss.total.item())
    edge = network.eval().mean_logits(picture)[0].sigmoid().mean(0)  # (16,)
    assert losses[-1] < losses[0] / 10
    assert edge[8:10].max() > 0.5 > 0.1 > torch.cat([edge[:5], edge[12:]]).max()


def _one_of_two(rank: int, logits: torch.Tensor, labels: torch.Tensor, folder: str) -> None:
    """A process of two with every other image: writes its loss and its gradient."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = logits[rank::2].clone().requires_grad_()
    loss = affinity_loss(own, labels[rank::2], radius=4).total
    loss.backward()
    torch.save((loss.detach(), own.grad), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_follow_the_loss_of_one(tmp_path: Path) -> None:
    """Also where one of them has pairs of kinds that the other lacks: the mean is over the pairs of all."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 11, generator=generator).requires_grad_()
    labels = torch.randint(0, 3, (4, 9, 11), generator=generator).byte()
    labels[1::2] = 1
    loss = affinity_loss(logits, labels, radius=4).total
    loss.backward()
    torch.multiprocessing.spawn(_one_of_two, (logits.detach(), labels, str(tmp_path)), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.allclose((both[0][0] + both[1][0]) / 2, loss.detach(), atol=1e-5)
    for rank in range(2):
        assert torch.allclose(both[rank][1] / 2, logits.grad[rank::2], atol=1e-6)
