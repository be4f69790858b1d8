"""ResNets: the public parameter names, and parity with two other definitions."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel

from tag2mask.core.errors import UsageError
from tag2mask.networks import NetworkSettings, SegmentationNetworkSettings, build_backbone, build_segmentation_network
from tag2mask.networks.backbones.converters import from_deeplab_port
from tag2mask.networks.backbones.resnet import RESNETS, Bottleneck, CaffeBottleneck, ResNet, Variant

# Parameters of the public models less those of their classifier (512 or 2048 → 1000, with bias), and their tensors.
PUBLIC = {
    "resnet18": (11_689_512 - 513_000, 60, 120),
    "resnet34": (21_797_672 - 513_000, 108, 216),
    "resnet50": (25_557_032 - 2_049_000, 159, 318),
    "resnet101": (44_549_160 - 2_049_000, 312, 624),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_size_of_the_public_models(name: str) -> None:
    with torch.device("meta"):
        network = ResNet(name)
    parameters = list(network.parameters())
    assert (sum(each.numel() for each in parameters), len(parameters), len(network.state_dict())) == PUBLIC[name]


def _of_transformers(name: str) -> tuple[ResNetModel, dict[str, str]]:
    """The same network in `transformers`, and its parameter names by ours."""
    basic, depths = name in ("resnet18", "resnet34"), {"resnet18": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3]}[name]
    sizes = [64, 128, 256, 512] if basic else [256, 512, 1024, 2048]
    model = ResNetModel(ResNetConfig(depths=depths, hidden_sizes=sizes, layer_type="basic" if basic else "bottleneck"))
    names = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours, theirs = f"layer{stage + 1}.{block}", f"encoder.stages.{stage}.layers.{block}"
            for layer in range(2 if basic else 3):
                names[f"{ours}.conv{layer + 1}"] = f"{theirs}.layer.{layer}.convolution"
                names[f"{ours}.bn{layer + 1}"] = f"{theirs}.layer.{layer}.normalization"
            names[f"{ours}.downsample.0"] = f"{theirs}.shortcut.convolution"
            names[f"{ours}.downsample.1"] = f"{theirs}.shortcut.normalization"
    return model, names


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_parity_with_transformers(name: str) -> None:
    model, names = _of_transformers(name)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.get_buffer("running_mean").normal_(0, 0.1)
                module.get_buffer("running_var").uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
    theirs = model.state_dict()
    network = ResNet(name, output_stride=32).eval()
    state = {}
    for key in network.state_dict():
        module, _, attribute = key.rpartition(".")
        state[key] = theirs.pop(f"{names[module]}.{attribute}")
    assert theirs == {}
    network.load_state_dict(state)
    images = torch.randn(1, 3, 61, 83)
    with torch.no_grad():
        expected = model.eval()(images, output_hidden_states=True).hidden_states[1:]
        for found, one in zip(network(images), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-4)


def _slow(
    state: dict[str, Tensor], x: Tensor, strides: list[int], dilations: list[tuple[int, int]], *, caffe: bool = False
) -> list[Tensor]:
    """A ResNet as its definition reads, from a state dict: stride and dilations (first block, others) a stage."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, scale = (
            state[f"{name}.running_mean"],
            (state[f"{name}.running_var"] + 1e-5).rsqrt() * state[f"{name}.weight"],
        )
        return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]

    def conv(x: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2 * dilation, dilation=dilation)

    if "conv1.0.weight" in state:
        x = norm(conv(x, "conv1.0", 2, 1), "conv1.1").relu()
        x = norm(conv(x, "conv1.3", 1, 1), "conv1.4").relu()
        x = norm(conv(x, "conv1.6", 1, 1), "bn1").relu()
    else:
        x = norm(conv(x, "conv1", 2, 1), "bn1").relu()
    after = 2 if caffe else 1  # Caffe sees every row; what a window lacks at the end is filled up
    x = F.max_pool2d(F.pad(x, (1, after, 1, after)), 3, 2)  # zeros are as good as minus infinity after a ReLU
    maps = []
    for number, (stride, (first, others)) in enumerate(zip(strides, dilations, strict=True), start=1):
        block = 0
        while f"layer{number}.{block}.conv1.weight" in state:
            name, step, dilation = f"layer{number}.{block}", 1 if block else stride, others if block else first
            layers = 3 if f"{name}.conv3.weight" in state else 2
            y = x
            for layer in range(1, layers + 1):
                # The first 3×3 convolution carries the stride, in Caffe the first 1×1.
                here = step if layer == (1 if caffe else layers - 1) else 1
                y = norm(conv(y, f"{name}.conv{layer}", here, dilation), f"{name}.bn{layer}")
                y = y.relu() if layer < layers else y
            if f"{name}.downsample.0.weight" in state:
                x = norm(conv(x, f"{name}.downsample.0", step, 1), f"{name}.downsample.1")
            x = (x + y).relu()
            block += 1
        maps.append(x)
    return maps


def test_random_weights_keep_the_variance_of_the_gradient() -> None:
    weight = ResNet("resnet18").get_parameter("layer3.0.conv2.weight")
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


# --- relatives: the deep stem, and the original of Caffe ---

# A convolution of k × k from a to b channels has k² · a · b weights, a norm of b channels 2 · b.
DEEP_STEM = 9 * (3 * 64 + 64 * 64 + 64 * 128) + 2 * (64 + 64 + 128) + (128 - 64) * (64 + 256)
PLAIN_STEM = 49 * 3 * 64 + 2 * 64


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_size_and_names_of_the_deep_stem(name: str) -> None:
    with torch.device("meta"):
        network = ResNet(f"{name}s")
    size, tensors, _ = PUBLIC[name]
    parameters = list(network.parameters())
    assert sum(each.numel() for each in parameters) == size - PLAIN_STEM + DEEP_STEM
    assert len(parameters) == tensors + 2 * 3
    stem = {key: tuple(each.shape) for key, each in network.named_parameters() if not key.startswith("layer")}
    assert stem == {
        "conv1.0.weight": (64, 3, 3, 3),
        "conv1.1.weight": (64,),
        "conv1.1.bias": (64,),
        "conv1.3.weight": (64, 64, 3, 3),
        "conv1.4.weight": (64,),
        "conv1.4.bias": (64,),
        "conv1.6.weight": (128, 64, 3, 3),
        "bn1.weight": (128,),
        "bn1.bias": (128,),
    }
    assert network.get_parameter("layer1.0.conv1.weight").shape == (64, 128, 1, 1)
    assert network.get_parameter("layer1.0.downsample.0.weight").shape == (256, 128, 1, 1)
    assert network.all_stages[0] == ("stem", 128, 4)
    frozen = {id(each) for each in network.stem_parameters()}
    assert frozen == {id(each) for key, each in network.named_parameters() if not key.startswith("layer")}


def test_the_original_has_the_shapes_of_resnet101() -> None:
    with torch.device("meta"):
        caffe, usual = ResNet("resnet101-caffe"), ResNet("resnet101")
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (caffe, usual)]
    assert shapes[0] == shapes[1]
    assert [value * 255 for value in caffe.mean] == pytest.approx([122.675, 116.669, 104.008])
    assert [value * 255 for value in caffe.std] == pytest.approx([1, 1, 1])
    assert usual.mean == (0.485, 0.456, 0.406)


SMALL = {
    "resnet101s": Variant(Bottleneck, (2, 2, 2, 2), deep_stem=True),
    "resnet101-caffe": Variant(CaffeBottleneck, (2, 2, 2, 2)),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relatives with two blocks a stage."""
    for name, variant in SMALL.items():
        monkeypatch.setitem(RESNETS, name, variant)


def _shaken(name: str, output_stride: int, dilated: bool) -> ResNet:
    network = ResNet(name, output_stride=output_stride, dilated=dilated).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.6)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            torch.nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnet50", *SMALL])
@pytest.mark.parametrize(
    ("output_stride", "dilated", "strides", "dilations"),
    [
        (16, False, [1, 2, 2, 1], [(1, 1), (1, 1), (1, 1), (1, 1)]),
        (8, False, [1, 2, 1, 1], [(1, 1), (1, 1), (1, 1), (1, 1)]),
        (16, True, [1, 2, 2, 1], [(1, 1), (1, 1), (1, 1), (1, 2)]),
        (8, True, [1, 2, 1, 1], [(1, 1), (1, 1), (1, 2), (2, 4)]),
    ],
)
@pytest.mark.parametrize("size", [(37, 53), (40, 55)])
@pytest.mark.usefixtures("small")
def test_parity_with_a_slow_definition(
    name: str, output_stride: int, dilated: bool, strides: list[int], dilations: list[tuple[int, int]], size: Any
) -> None:
    network, caffe = _shaken(name, output_stride, dilated), name == "resnet101-caffe"
    if caffe:  # every block of a stage has the dilation of the stage
        dilations = [(others, others) for _, others in dilations]
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = _slow(network.state_dict(), images, strides, dilations, caffe=caffe)
        for stage, found, one in zip(network.stages, network(images), expected, strict=True):
            rows, columns = (-(-side // stage.stride) for side in size)
            assert found.shape[2:] == (rows, columns)
            torch.testing.assert_close(found, one[:, :, :rows, :columns], rtol=1e-3, atol=1e-3)


def _port_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the port's DeepLabV2 for 21 classes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def unit(name: str, before: int, after: int, side: int) -> None:
        shapes[f"{name}.conv.weight"] = (after, before, side, side)
        shapes.update({f"{name}.bn.{key}": (after,) for key in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    unit("layer1.conv1", 3, 64, 7)
    before = 64
    for layer, (depth, width) in enumerate([(3, 64), (4, 128), (23, 256), (3, 512)], start=2):
        for block in range(1, depth + 1):
            name = f"layer{layer}.block{block}"
            unit(f"{name}.reduce", before, width, 1)
            unit(f"{name}.conv3x3", width, width, 3)
            unit(f"{name}.increase", width, 4 * width, 1)
            if block == 1:
                unit(f"{name}.shortcut", before, 4 * width, 1)
            before = 4 * width
    for branch in range(4):
        shapes |= {f"aspp.c{branch}.weight": (21, 2048, 3, 3), f"aspp.c{branch}.bias": (21,)}
    return shapes


@pytest.mark.parametrize("prefix", ["", "base.", "scale.", "base.scale."])
def test_names_of_the_port(prefix: str) -> None:
    with torch.device("meta"):
        own = ResNet("resnet101-caffe").state_dict()
        state = {f"{prefix}{name}": torch.empty(shape) for name, shape in _port_shapes().items()}
    found = from_deeplab_port(state)
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in own.items()}


def test_older_files_of_the_port_name_the_shortcut_otherwise() -> None:
    state = {name: torch.rand(1, 3, 1, 1) for name in _port_shapes()}
    older = {f"scale.{name.replace('shortcut', 'proj')}": value for name, value in state.items()}
    assert from_deeplab_port(older).keys() == from_deeplab_port(state).keys()
    assert "layer1.0.downsample.0.weight" in from_deeplab_port(older)


@pytest.mark.usefixtures("small")
def test_weights_of_the_port_see_bgr_of_0_to_255(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in _port_shapes().items() if re.match(r"layer1|.*block[12]\.", name)}
    state = {name: torch.rand(shape) + 0.5 for name, shape in shapes.items()}
    state |= {name: value / value[0].numel() - 0.01 for name, value in state.items() if value.ndim == 4}
    torch.save({f"base.{name}": value for name, value in state.items()}, tmp_path / "port.pth")
    settings = SegmentationNetworkSettings("resnet101-caffe", str(tmp_path / "port.pth"), scales=(0.5,))
    network = build_segmentation_network(settings, ("cat",), seed=0).eval()
    images = torch.rand(1, 3, 33, 41)
    blue_first = images[:, [2, 1, 0]] * 255 - torch.tensor([104.008, 116.669, 122.675])[:, None, None]
    stem = F.conv2d(blue_first, state["layer1.conv1.conv.weight"], stride=2, padding=3)
    seen: list[Tensor] = []
    network.backbone.get_submodule("conv1").register_forward_hook(lambda *of: seen.append(of[2]))
    with torch.no_grad():
        network(images)
    torch.testing.assert_close(seen[0], stem, rtol=1e-4, atol=1e-2)
    for ours, theirs in {
        "layer3.1.conv2.weight": "layer4.block2.conv3x3.conv.weight",
        "layer2.0.downsample.1.running_var": "layer3.block1.shortcut.bn.running_var",
        "bn1.bias": "layer1.conv1.bn.bias",
    }.items():
        assert torch.equal(network.backbone.state_dict()[ours], state[theirs])


def test_weights_that_are_not_of_the_port_or_not_fetched(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.rand(64, 3, 7, 7)}, tmp_path / "usual.pth")
    with pytest.raises(UsageError, match=r"names of https://.*layer1\.conv1\.conv\.weight.*they have conv1\.weight"):
        build_backbone(NetworkSettings("resnet101-caffe", str(tmp_path / "usual.pth")))
    for name, where in {
        "resnet101s": "resnet101s-….pth, from https://.*PyTorch-Encoding",
        "resnet101-caffe": "from",
    }.items():
        with pytest.raises(UsageError, match=rf"{name} are not fetched by name.*{where}.*--network\.weights PATH"):
            build_backbone(NetworkSettings(name))


@pytest.mark.usefixtures("small")
def test_weights_of_the_deep_stem_from_a_path(tmp_path: Path) -> None:
    state = {**ResNet("resnet101s").state_dict(), "fc.weight": torch.rand(1000, 2048), "fc.bias": torch.rand(1000)}
    torch.save(state, tmp_path / "resnet101s.pth")
    backbone = build_backbone(NetworkSettings("resnet101s", str(tmp_path / "resnet101s.pth")))
    assert torch.equal(backbone.get_parameter("conv1.3.weight"), state["conv1.3.weight"])
    with pytest.raises(UsageError, match=r"does not fit resnet50; missing: conv1\.weight"):
        build_backbone(NetworkSettings("resnet50", str(tmp_path / "resnet101s.pth")))
