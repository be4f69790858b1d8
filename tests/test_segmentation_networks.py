"""The networks of masks: heads, several scales, what trains, sizes, save and load; SegFormer against `transformers`."""

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MobileNetV2Config, SegformerConfig, SegformerForSemanticSegmentation

from network_tester import CLASSES, AnyNetworkTester
from tag2mask.core.errors import UsageError
from tag2mask.networks import (
    NetworkSettings,
    PotNetwork,
    SegmentationNetwork,
    SegmentationNetworkSettings,
    build_backbone,
    build_segmentation_network,
    load_network,
    load_segmentation_network,
    read_network_info,
    save_network,
)
from tag2mask.networks.backbones import wide_resnet
from tag2mask.networks.backbones.base import Stage
from tag2mask.networks.backbones.huggingface import SEGFORMERS
from tag2mask.networks.backbones.resnet import RESNETS, Bottleneck, CaffeBottleneck, ResNet, Variant
from tag2mask.networks.backbones.wide_resnet import WideResNet
from tag2mask.networks.checkpoint import NetworkFileError
from tag2mask.networks.heads import ConcatHead, Head, LargeFovHead, SegformerHead, SumHead
from tag2mask.networks.segmentation import multi_scale
from tag2mask.prediction.multiscale import mean_logits
from tag2mask.prediction.settings import PredictSettings

SEGFORMER = SegformerConfig(
    hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16
)


class SegmentationTester(AnyNetworkTester):
    """Inherited once for every network; a subclass says which one it is."""

    settings: ClassVar[dict[str, Any]]
    config: Any = None
    stride = 8
    last_stride = 8

    def build(self, folder: Path) -> SegmentationNetwork:
        values = {"weights": "none", **self.settings}
        if self.config is not None:
            self.config.save_pretrained(folder / "model")
            values["backbone"] = str(folder / "model")
        return build_segmentation_network(SegmentationNetworkSettings(**values), CLASSES, seed=1)

    def load(self, path: Path) -> SegmentationNetwork:
        return load_segmentation_network(path, classes=CLASSES)

    def test_output_stride(self, network: SegmentationNetwork) -> None:
        assert (network.stride, network.backbone.stages[-1].stride) == (self.stride, self.last_stride)

    def cells(self, side: int) -> int:
        return -(-side // self.stride)

    @pytest.mark.parametrize("size", [(64, 64), (45, 67), (17, 90), (1, 3)])
    def test_forward_at_any_size(self, network: SegmentationNetwork, size: tuple[int, int]) -> None:
        network.eval()
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            logits, full = network(images), network.full_logits(images)
        assert logits.shape == (2, 4, *(self.cells(side) for side in size))
        assert full.shape == (2, 4, *size)
        assert logits.dtype == full.dtype == torch.float32
        assert logits.isfinite().all() and full.isfinite().all()

    def test_training_gives_every_scale_and_their_maximum(self, network: SegmentationNetwork) -> None:
        output = network.train()(torch.rand(2, 3, 64, 96))
        assert (len(output) - 2 if isinstance(output, list) else 0) == len(network.settings.scales)

    def test_groups_hold_every_trainable_parameter_once(self, network: SegmentationNetwork) -> None:
        groups = network.parameter_groups()
        grouped = [id(each) for group in groups for each in group]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(each) for each in network.parameters() if each.requires_grad}
        head = {id(each) for each in network.head.parameters() if each.requires_grad}
        assert {id(each) for group in groups[3:] for each in group} == head
        assert all(each.ndim > 1 for each in (*groups.backbone_weights, *groups.head_weights))
        assert groups.head_biases[-1].shape == (4,)

    def test_what_lies_in_the_padding_does_not_matter(self, network: SegmentationNetwork) -> None:
        network.eval()
        images, valid = torch.rand(2, 3, 64, 80), torch.ones(2, 64, 80, dtype=torch.bool)
        valid[0, 40:], valid[1, :, 30:] = False, False
        other = torch.where(valid.unsqueeze(1), images, 7.0)
        with torch.no_grad():
            assert torch.equal(network(images, valid), network(other, valid))

    def test_the_file_says_what_it_holds(self, network: SegmentationNetwork, tmp_path: Path) -> None:
        network.licence = "only on Sundays"
        save_network(tmp_path / "network.safetensors", network)
        info = read_network_info(tmp_path / "network.safetensors")
        assert (info.kind, info.segmentation) == ("segmentation", network.settings)
        assert self.load(tmp_path / "network.safetensors").licence == "only on Sundays"


class TestSum(SegmentationTester):
    settings: ClassVar = {"backbone": "resnet18", "head": "sum"}


class TestSumAtSeveralScales(SegmentationTester):
    settings: ClassVar = {"backbone": "resnet18", "head": "sum", "scales": (0.5, 0.75), "output_stride": 16}
    stride = last_stride = 16


class TestConcat(SegmentationTester):
    settings: ClassVar = {"backbone": "resnet18", "head": "concat", "upsampling": "cells"}


class TestLargeFov(SegmentationTester):
    settings: ClassVar = {"backbone": "wideresnet38", "head": "largefov"}

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wide_resnet, "WideResNet", lambda divisor=32: WideResNet(divisor))


class TestOriginalResnet(SegmentationTester):
    settings: ClassVar[dict[str, Any]] = {"backbone": "resnet101-caffe", "head": "sum", "scales": (0.5, 0.75)}

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(RESNETS, "resnet101-caffe", Variant(CaffeBottleneck, (1, 1, 1, 1)))


class TestOriginalResnetStretched(TestOriginalResnet):
    settings: ClassVar[dict[str, Any]] = {**TestOriginalResnet.settings, "upsampling": "stretched"}

    @staticmethod
    def cells(side: int) -> int:
        pooled = -(-side // 2) // 2 + 1  # a window begins at every second row of ceil(side / 2)
        return -(-pooled // 2)


class TestConcatStretched(TestOriginalResnetStretched):
    settings: ClassVar[dict[str, Any]] = {"backbone": "resnet101-caffe", "head": "concat", "upsampling": "stretched"}


class TestDeepStem(SegmentationTester):
    settings: ClassVar = {"backbone": "resnet101s", "head": "concat", "batch_norm_momentum": 0.01}

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(RESNETS, "resnet101s", Variant(Bottleneck, (1, 1, 1, 1), deep_stem=True))


class TestSegformer(SegmentationTester):
    settings: ClassVar = {"head": "segformer"}
    config = SEGFORMER
    stride, last_stride = 4, 32


class TestSegformerHeadOnMobileNet(SegmentationTester):
    settings: ClassVar = {"head": "segformer", "output_stride": 16}
    config = MobileNetV2Config(depth_multiplier=0.35)
    stride, last_stride = 8, 16


# --- the heads ---


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, rate: int = 1) -> Tensor:
    """A dilated convolution: what the definition says at every cell, zeros outside."""
    height, width = x.shape[2:]
    out = torch.zeros(len(x), len(weight), height, width)
    middle = weight.shape[-1] // 2
    for row in range(height):
        for column in range(width):
            for i in range(-middle, middle + 1):
                for j in range(-middle, middle + 1):
                    y, z = row + rate * i, column + rate * j
                    if 0 <= y < height and 0 <= z < width:
                        out[:, :, row, column] += x[:, :, y, z] @ weight[:, :, middle + i, middle + j].T
    return out if bias is None else out + bias[:, None, None]


def _normed(state: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return ((x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None] * weight[:, None, None]) + bias[
        :, None, None
    ]


def _shaken(head: Head) -> tuple[Head, dict[str, Tensor]]:
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.2)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
            nn.init.uniform_(module.weight, 0.4, 0.8)
            nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    return head.eval(), {name: value.detach() for name, value in head.state_dict().items()}


STAGES = (Stage("first", 4, 4), Stage("last", 6, 8))
MAPS = [torch.zeros(2, 4, 26, 60), torch.linspace(-1, 1, 2 * 6 * 13 * 30).view(2, 6, 13, 30).sin().mul(3)]


def test_sum_head_is_a_sum() -> None:
    head, state = _shaken(SumHead(STAGES, 3))
    expected = torch.zeros(())
    for index, rate in enumerate((6, 12, 18, 24)):
        expected = expected + _conv(
            MAPS[1], state[f"stages.c{index}.weight"], state[f"stages.c{index}.bias"], rate=rate
        )
    torch.testing.assert_close(head(MAPS), expected)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        **{f"stages.c{index}.weight": (3, 6, 3, 3) for index in range(4)},
        **{f"stages.c{index}.bias": (3,) for index in range(4)},
    }


def test_sum_head_begins_as_published() -> None:
    head = SumHead((Stage("last", 512, 8),), 21)
    for convolution in head.stages.values():
        assert convolution.get_parameter("weight").std().item() == pytest.approx(0.01, rel=0.02)
        assert convolution.get_parameter("bias").abs().max() == 0


@pytest.mark.parametrize("padded", [False, True])
def test_concat_head_puts_five_branches_side_by_side(padded: bool) -> None:
    head, state = _shaken(ConcatHead(STAGES, 3, width=5))
    x, inside = MAPS[1], None
    mean = x.mean(dim=(2, 3))
    if padded:
        inside = torch.zeros(2, 13, 30, dtype=torch.bool)
        inside[0, :9, :20], inside[1, :, :7] = True, True
        mean = torch.stack([x[0, :, :9, :20].mean(dim=(1, 2)), x[1, :, :, :7].mean(dim=(1, 2))])
    parts = [
        _normed(state, _conv(x, state[f"branch{index}.0.weight"], rate=rate), f"branch{index}.1").relu()
        for index, rate in enumerate((6, 12, 18, 24), start=1)
    ]
    pooled = _normed(state, _conv(mean[:, :, None, None], state["branch5_conv.weight"]), "branch5_bn").relu()
    merged = _conv(torch.cat([*parts, pooled.expand_as(parts[0])], dim=1), state["conv_cat.0.weight"])
    merged = _normed(state, merged, "conv_cat.1").relu()
    expected = _conv(merged, state["cls_conv.weight"], state["cls_conv.bias"])
    torch.testing.assert_close(head(MAPS, inside), expected, rtol=1e-4, atol=1e-4)


def test_large_fov_head() -> None:
    head, state = _shaken(LargeFovHead(STAGES, 3, width=5))
    y = _normed(state, _conv(MAPS[1], state["conv_fov.weight"], rate=12), "bn_fov").relu()
    y = _normed(state, _conv(y, state["conv_fov2.weight"]), "bn_fov2").relu()
    torch.testing.assert_close(head(MAPS), _conv(y, state["cls_conv.weight"], state["cls_conv.bias"]))


@pytest.mark.parametrize("kind", [ConcatHead, LargeFovHead])
def test_dropout_before_the_classes(kind: type[ConcatHead] | type[LargeFovHead]) -> None:
    head = kind(STAGES, 3, width=64)
    seen: list[Tensor] = []
    head.cls_conv.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    for training in (False, True):
        head.train(training)(MAPS)
    zeros = [(each == 0).float().mean().item() for each in seen]
    # About half are zero by the ReLU; of the others two layers of dropout of 0.5 leave a quarter, one leaves half.
    left = (1 - zeros[1]) / (1 - zeros[0])
    assert left == pytest.approx(0.25 if kind is ConcatHead else 0.5, abs=0.12)


def test_one_image_has_no_statistics() -> None:
    head = ConcatHead(STAGES, 3, width=5)
    with pytest.raises(UsageError, match="at least 2 images"):
        head([each[:1] for each in MAPS])
    assert head.eval()([each[:1] for each in MAPS]).shape == (1, 3, 13, 30)
    network = SegmentationNetwork(
        ResNet("resnet18", output_stride=8), CLASSES, _random(head="concat", head_batch_norm="fixed")
    )
    assert network.train()(torch.rand(1, 3, 16, 16)).shape == (1, 4, 2, 2)


# Parameters of the published networks for the 20 classes of VOC: of the head, and their shapes.
PUBLISHED = [
    ("resnet101", "sum", 4 * (2048 * 9 * 21 + 21), {"stages.c3.weight": (21, 2048, 3, 3), "stages.c0.bias": (21,)}),
    (
        "resnet101",
        "concat",
        4 * 2048 * 9 * 256 + 2048 * 256 + 1280 * 256 + 6 * 512 + 257 * 21,
        {"branch4.0.weight": (256, 2048, 3, 3), "branch5_bn.bias": (256,), "conv_cat.0.weight": (256, 1280, 1, 1)},
    ),
    (
        "wideresnet38",
        "largefov",
        4096 * 9 * 512 + 512 * 512 + 2 * 1024 + 513 * 21,
        {"conv_fov.weight": (512, 4096, 3, 3), "bn_fov2.bias": (512,), "cls_conv.weight": (21, 512, 1, 1)},
    ),
]
BACKBONES = {"resnet101": 42_500_160, "wideresnet38": 105_070_912}


@pytest.mark.parametrize(("backbone", "head", "size", "shapes"), PUBLISHED)
def test_the_published_networks(backbone: str, head: Any, size: int, shapes: dict[str, tuple[int, ...]]) -> None:
    settings = SegmentationNetworkSettings(backbone=backbone, head=head, weights="none")
    with torch.device("meta"):
        stages = ResNet(backbone, output_stride=8, dilated=True) if backbone == "resnet101" else WideResNet()
        network = SegmentationNetwork(stages, tuple(map(str, range(20))), settings).eval()
        logits = network(torch.empty(1, 3, 321, 500))
    assert logits.shape == (1, 21, 41, 63)
    assert sum(each.numel() for each in network.head.parameters()) == size
    assert sum(each.numel() for each in network.parameters()) == size + BACKBONES[backbone]
    assert {name: tuple(network.head.get_parameter(name).shape) for name in shapes} == shapes


def test_dilated_resnet_keeps_its_field_of_view() -> None:
    dilated = build_segmentation_network(_random(), CLASSES, seed=0).backbone
    assert isinstance(dilated, ResNet) and dilated.dilated


# --- several scales, and pixels ---


def _random(**values: Any) -> SegmentationNetworkSettings:
    return SegmentationNetworkSettings(**{"backbone": "resnet18", "weights": "none", **values})


def _bilinear(x: Tensor, size: tuple[int, int], *, corners: bool) -> Tensor:
    """Bilinear scaling as a product with two matrices of weights."""
    matrices = []
    for cells, pixels in zip(x.shape[2:], size, strict=True):
        matrix = torch.zeros(pixels, cells)
        for pixel in range(pixels):
            if corners:
                place = pixel * (cells - 1) / (pixels - 1)
            else:
                place = min(max((pixel + 0.5) * cells / pixels - 0.5, 0), cells - 1)
            before = min(math.floor(place), cells - 1)
            matrix[pixel, before] += 1 - (place - before)
            matrix[pixel, min(before + 1, cells - 1)] += place - before
        matrices.append(matrix)
    return torch.einsum("yh,nchw,xw->ncyx", matrices[0], x, matrices[1])


def test_several_scales_by_hand() -> None:
    single = build_segmentation_network(_random(), CLASSES, seed=3).eval()
    network = build_segmentation_network(_random(scales=(0.5, 0.75)), CLASSES, seed=3).eval()
    images = torch.rand(1, 3, 75, 101)
    with torch.no_grad():
        first = single(images)
        half = single(_bilinear(images, (38, 51), corners=False))
        most = single(_bilinear(images, (56, 76), corners=False))
        expected = first.maximum(_bilinear(half, (10, 13), corners=False))
        expected = expected.maximum(_bilinear(most, (10, 13), corners=False))
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
        # In training the parts are wanted; batch norm stays fixed here so that they can be compared.
        for module in network.train().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        every = network(images)
        assert len(every) == 4
        for found, one in zip(every, (first, half, most, expected), strict=True):
            torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-5)
        assert torch.equal(network.full_logits(images), network.to_pixels(every[-1], (75, 101)))


@pytest.mark.parametrize("settings", [{}, {"backbone": "resnet101-caffe", "upsampling": "stretched"}])
def test_grids_of_the_published_scales(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the port's, whose pooling rounds up: 321 pixels give 41, 21 and 31 cells."""
    monkeypatch.setitem(RESNETS, "resnet101-caffe", Variant(CaffeBottleneck, (1, 1, 1, 1)))
    network = build_segmentation_network(_random(scales=(0.5, 0.75), **settings), CLASSES, seed=3).train()
    with torch.no_grad():
        assert [each.shape[2:] for each in network(torch.rand(1, 3, 321, 321))] == [
            (cells, cells) for cells in (41, 21, 31, 41)
        ]


def _ported(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Logits (1, K, H, W) of the PyTorch port of DeepLabV2 for RGB of 0 to 255, (H, W, 3), from a state of ours."""

    def unit(x: Tensor, convolution: str, norm: str, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"backbone.{convolution}.weight"], None, stride, padding, dilation)
        mean, variance, scale, shift = (
            state[f"backbone.{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, shift)

    def one_scale(x: Tensor) -> Tensor:
        x = F.max_pool2d(unit(x, "conv1", "bn1", 2, 3).relu(), 3, 2, 1, ceil_mode=True)
        for layer, stride, dilation in ((1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 1, 4)):
            for block in range(
                sum(f"backbone.layer{layer}." in name for name in state if name.endswith("conv1.weight"))
            ):
                name, step = f"layer{layer}.{block}", 1 if block else stride
                y = unit(x, f"{name}.conv1", f"{name}.bn1", step).relu()
                y = unit(y, f"{name}.conv2", f"{name}.bn2", 1, dilation, dilation).relu()
                y = unit(y, f"{name}.conv3", f"{name}.bn3")
                x = (y + (x if block else unit(x, f"{name}.downsample.0", f"{name}.downsample.1", step))).relu()
        total = torch.zeros(1)
        for branch, rate in enumerate((6, 12, 18, 24)):
            weight, bias = (state[f"head.stages.c{branch}.{kind}"] for kind in ("weight", "bias"))
            total = total + F.conv2d(x, weight, bias, padding=rate, dilation=rate)
        return total

    def bilinear(x: Tensor, **how: Any) -> Tensor:
        return F.interpolate(x, **how, mode="bilinear", align_corners=False)

    image = (pixels.float() - torch.tensor([122.675, 116.669, 104.008])).permute(2, 0, 1)[None]
    logits = one_scale(image)
    for scale in (0.5, 0.75):
        logits = logits.maximum(bilinear(one_scale(bilinear(image, scale_factor=scale)), size=logits.shape[2:]))
    return bilinear(logits, size=pixels.shape[:2])


@pytest.mark.parametrize(("size", "grid"), [((321, 321), (41, 41)), ((375, 500), (48, 63)), ((288, 384), (37, 49))])
def test_logits_and_labels_are_those_of_the_port(size: Any, grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port's files are read by `from_deeplab_port`; at 288 and 375 pixels its pooling adds a cell."""
    monkeypatch.setitem(RESNETS, "resnet101-caffe", Variant(CaffeBottleneck, (1, 2, 2, 1)))
    differing = {}
    for upsampling in ("stretched", "corners"):
        settings = _random(backbone="resnet101-caffe", scales=(0.5, 0.75), upsampling=upsampling)
        network = build_segmentation_network(settings, tuple(map(str, range(20))), seed=3).eval()
        generator = torch.Generator().manual_seed(4)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.3, 0.6, generator)
                nn.init.normal_(module.bias, 0, 0.1, generator)
        coarse = torch.randint(256, (1, 3, 8, 9), generator=generator).float()
        pixels = F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255).byte()[0].permute(1, 2, 0)
        with torch.no_grad():
            expected = _ported(network.state_dict(), pixels)[0]
            for block in mean_logits(network, [pixels], PredictSettings(precision="fp32"), torch.device("cpu")):
                there = expected[:, block.rows, block.columns]
                if upsampling == "stretched":
                    torch.testing.assert_close(block.logits, there, rtol=1e-4, atol=1e-4 * expected.std().item())
                count = (block.logits.argmax(0) != there.argmax(0)).sum()
                differing[upsampling] = differing.get(upsampling, 0) + int(count)
            if upsampling == "stretched":
                images = pixels.permute(2, 0, 1)[None].float() / 255
                assert network(images).shape[2:] == grid
                torch.testing.assert_close(network.full_logits(images)[0], expected, rtol=1e-4, atol=1e-3)
    share = {name: count / expected[0].numel() for name, count in differing.items()}
    assert share["stretched"] <= 1e-4 and share["corners"] > 0.02


def test_a_smaller_image_keeps_every_valid_pixel() -> None:
    valid = torch.zeros(1, 40, 60, dtype=torch.bool)
    valid[0, 13, 29] = True
    seen: list[Tensor | None] = []

    def logits_of(images: Tensor, part: Tensor | None) -> Tensor:
        seen.append(part)
        return images

    for stretched in (False, True):
        seen.clear()
        multi_scale(logits_of, torch.rand(1, 3, 40, 60), valid, (0.5, 0.1), stretched=stretched)
        assert seen[0] is valid
        assert [int(part.sum()) for part in seen if part is not None] == [1, 1, 1]
        assert seen[1] is not None and seen[1][0, 6, 14]


def test_full_logits_with_aligned_corners() -> None:
    network = build_segmentation_network(_random(), CLASSES, seed=3).eval()
    assert network.upsampling == "corners"
    images = torch.rand(1, 3, 45, 67)
    with torch.no_grad():
        expected = _bilinear(network(images), (45, 67), corners=True)
        torch.testing.assert_close(network.full_logits(images), expected, rtol=1e-4, atol=1e-5)


def test_full_logits_of_cells_that_stay_in_place() -> None:
    network = build_segmentation_network(_random(upsampling="cells"), CLASSES, seed=3).eval()
    logits = torch.rand(1, 4, 6, 9)
    whole = _bilinear(logits, (48, 72), corners=False)
    torch.testing.assert_close(network.to_pixels(logits, (45, 67)), whole[:, :, :45, :67], rtol=1e-4, atol=1e-5)


# --- what trains ---


def _pretrained(folder: Path, **values: Any) -> SegmentationNetworkSettings:
    backbone = ResNet("resnet18")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.2)
    torch.save(backbone.state_dict(), folder / "resnet18.pth")
    return SegmentationNetworkSettings(backbone="resnet18", weights=str(folder / "resnet18.pth"), **values)


def _frozen(network: SegmentationNetwork) -> set[str]:
    return {name for name, each in network.named_parameters() if not each.requires_grad}


def _norms(network: SegmentationNetwork) -> set[str]:
    modules = [name for name, each in network.named_modules() if isinstance(each, nn.BatchNorm2d)]
    return {f"{name}.{part}" for name in modules for part in ("weight", "bias")}


def test_pretrained_batch_norm_is_really_fixed(tmp_path: Path) -> None:
    network = build_segmentation_network(_pretrained(tmp_path, head="concat"), CLASSES, seed=0).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    assert _frozen(network) == _norms(network)  # in no group of the published training
    network(torch.rand(2, 3, 32, 32))
    moved = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("head.") for name in moved)
    groups = network.parameter_groups()
    assert groups.backbone_norms == groups.head_norms == groups.backbone_biases == []
    assert [tuple(each.shape) for each in groups.head_biases] == [(4,)]
    assert "backbone.conv1.weight" not in _frozen(network)


def test_fixed_norm_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    settings = _pretrained(tmp_path, head="largefov", head_batch_norm="fixed")
    network = build_segmentation_network(settings, CLASSES, seed=0)
    assert isinstance(network.head, LargeFovHead)
    network.head.dropout1.p = 0.0
    images, before = torch.rand(3, 3, 32, 32), {name: value.clone() for name, value in network.named_buffers()}
    for _ in range(2):
        network.train()
        both, alone = network(images), network(images[:1])
        torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)
        network.eval()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_settings_say_what_trains(tmp_path: Path) -> None:
    frozen = {}
    for affine in ("auto", "trained"):
        network = build_segmentation_network(_pretrained(tmp_path, batch_norm_affine=affine), CLASSES, seed=0)
        frozen[affine] = _frozen(network)
    assert frozen == {"auto": _norms(network), "trained": set()}
    random = build_segmentation_network(_random(head="concat"), CLASSES, seed=0)
    assert _frozen(random) == set()
    fixed = build_segmentation_network(_random(head="concat", batch_norm_affine="fixed"), CLASSES, seed=0)
    assert _frozen(fixed) == _norms(fixed)


def test_momentum_of_the_backbone() -> None:
    networks = [
        build_segmentation_network(_random(head="concat", batch_norm_momentum=momentum), CLASSES, seed=0).train()
        for momentum in (None, 3e-4)
    ]
    images, moved = torch.rand(2, 3, 64, 64), []
    for network in networks:
        network(images)
        moved.append(network.get_buffer("backbone.layer4.1.bn2.running_mean"))  # from 0
    torch.testing.assert_close(moved[0] * 3e-4, moved[1] * 0.1)
    assert {m.momentum for m in networks[1].head.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


# --- SegFormer ---


def _segformer(folder: Path, **values: Any) -> tuple[SegmentationNetwork, SegformerForSemanticSegmentation]:
    model = SegformerForSemanticSegmentation(SEGFORMER).eval()
    nn.init.normal_(model.decode_head.batch_norm.running_mean, 0, 0.2)
    model.save_pretrained(folder / "model")
    settings = SegmentationNetworkSettings(backbone=str(folder / "model"), head="segformer", **values)
    return build_segmentation_network(settings, ("cat",), seed=0).eval(), model


def test_segformer_is_that_of_transformers(tmp_path: Path) -> None:
    network, model = _segformer(tmp_path)
    head, theirs = network.head, model.decode_head
    assert isinstance(head, SegformerHead)
    linears = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
    for ours, linear in zip(head.projections, linears, strict=True):
        ours.load_state_dict({"weight": linear.weight[:, :, None, None], "bias": linear.bias})
    for name in ("linear_fuse", "batch_norm", "classifier"):
        head.get_submodule(name).load_state_dict(theirs.get_submodule(name).state_dict())
    images = torch.rand(2, 3, 64, 96)
    mean, std = torch.tensor(network.backbone.mean), torch.tensor(network.backbone.std)
    with torch.no_grad():
        expected = model((images - mean[:, None, None]) / std[:, None, None]).logits
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    assert network.upsampling == "cells"


def test_pretrained_segformer_trains_whole(tmp_path: Path) -> None:
    network, _ = _segformer(tmp_path)
    assert network.backbone.pretrained
    assert _frozen(network) == set()
    groups = network.parameter_groups()
    assert all(each.ndim == 1 for each in (*groups.backbone_norms, *groups.head_norms))
    assert len(groups.head_norms) == 2
    norms = [m for m in network.backbone.modules() if isinstance(m, nn.LayerNorm)]
    assert len(groups.backbone_norms) == 2 * len(norms)


def test_segformers_by_name(tmp_path: Path) -> None:
    assert {name: sum(values["depths"]) for name, values in SEGFORMERS.items()} == {
        "segformer-b0": 8,
        "segformer-b1": 8,
        "segformer-b2": 16,
        "segformer-b3": 28,
        "segformer-b4": 41,
        "segformer-b5": 52,
    }
    settings = SegmentationNetworkSettings(backbone="segformer-b0", head="segformer", weights="none")
    network = build_segmentation_network(settings, tuple(map(str, range(149))), seed=0)
    # 3.7 to 3.8 million with the 150 outputs of ADE20K. Source: SegFormer, table 1.
    assert sum(each.numel() for each in network.parameters()) == 3_752_694
    with pytest.raises(UsageError, match="random weights"):
        build_segmentation_network(
            SegmentationNetworkSettings(backbone="segformer-b0", head="segformer"), CLASSES, seed=0
        )
    pot = PotNetwork(build_backbone(NetworkSettings("segformer-b0", "none")), CLASSES, NetworkSettings())
    assert pot.eval()(torch.rand(1, 3, 40, 40)).cams.shape == (1, 3, 3, 3)


# --- settings and files ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"head": "aspp"},
            "segment.network: head should be one of 'sum', .*'segformer', received 'aspp'",
        ),
        ({"scales": (0.5, 1.0)}, r"none 1, received \[0.5, 1.0\]"),
        ({"scales": (0.5, 0.5)}, "each given once"),
        ({"scales": (-0.5,)}, "positive"),
        (
            {"head_batch_norm": "frozen"},
            "head_batch_norm should be one of 'auto', 'fixed', 'trained', received 'frozen'",
        ),
        ({"batch_norm_affine": "no"}, "norm_affine should be one of"),
        ({"head_batch_norm_momentum": 0.0}, r"head_batch_norm_momentum should lie in \(0, 1\], received 0.0"),
        ({"batch_norm_momentum": 1.5}, r"batch_norm_momentum should lie in \(0, 1\], received 1.5"),
        (
            {"output_stride": 4, "batch_norm": "off"},
            "output_stride should be one of 8, 16, 32, received 4; batch_norm should be one of",
        ),
    ],
)
def test_wrong_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SegmentationNetworkSettings(**values)


def test_wrong_classes_before_anything_is_fetched() -> None:
    with pytest.raises(UsageError, match="given more than once: cat"):
        build_segmentation_network(SegmentationNetworkSettings(), ("cat", "cat"), seed=0)


def test_files_of_other_kinds_and_classes(tmp_path: Path) -> None:
    masks, tags = tmp_path / "masks.safetensors", tmp_path / "tags.safetensors"
    save_network(masks, build_segmentation_network(_random(), CLASSES, seed=0))
    save_network(tags, PotNetwork(ResNet("resnet18"), CLASSES, NetworkSettings("resnet18", "none")))
    with pytest.raises(NetworkFileError, match="kind 'segmentation'; `tag2mask train`"):
        load_network(masks)
    with pytest.raises(NetworkFileError, match="kind 'pot'; `tag2mask segment`"):
        load_segmentation_network(tags)
    with pytest.raises(UsageError, match="class 3 is 'horse' in the file and 'cow' here"):
        load_segmentation_network(masks, classes=("cat", "dog", "cow"))
    assert read_network_info(masks).settings == NetworkSettings("resnet18", "none", output_stride=8)


def test_licence_notes(tmp_path: Path) -> None:
    assert build_segmentation_network(_random(), CLASSES, seed=0).licence == "begun from random weights"
    given = build_segmentation_network(_pretrained(tmp_path), CLASSES, seed=0).licence
    assert "resnet18.pth" in given and str(tmp_path) not in given
