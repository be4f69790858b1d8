"""ResNets: the public parameter names, and parity with two other definitions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel

from tag2mask.networks.resnet import ResNet

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


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "resnet18",
            {
                "conv1.weight": (64, 3, 7, 7),
                "bn1.running_mean": (64,),
                "layer1.0.conv1.weight": (64, 64, 3, 3),
                "layer2.0.downsample.0.weight": (128, 64, 1, 1),
                "layer2.0.downsample.1.running_var": (128,),
                "layer4.1.bn2.bias": (512,),
            },
        ),
        (
            "resnet50",
            {
                "conv1.weight": (64, 3, 7, 7),
                "layer1.0.conv1.weight": (64, 64, 1, 1),
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer2.0.conv2.weight": (128, 128, 3, 3),
                "layer3.5.conv3.weight": (1024, 256, 1, 1),
                "layer4.0.downsample.1.num_batches_tracked": (),
                "layer4.2.bn3.running_var": (2048,),
            },
        ),
    ],
)
def test_names_of_the_public_models(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        state = ResNet(name).state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert "layer1.0.downsample.0.weight" in state or name in ("resnet18", "resnet34")
    assert "layer1.1.downsample.0.weight" not in state


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


def _slow(state: dict[str, Tensor], x: Tensor, strides: list[int], dilations: list[tuple[int, int]]) -> list[Tensor]:
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

    x = norm(conv(x, "conv1", 2, 1), "bn1").relu()
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)  # zeros are as good as minus infinity after a ReLU
    maps = []
    for number, (stride, (first, others)) in enumerate(zip(strides, dilations, strict=True), start=1):
        block = 0
        while f"layer{number}.{block}.conv1.weight" in state:
            name, step, dilation = f"layer{number}.{block}", 1 if block else stride, others if block else first
            layers = 3 if f"{name}.conv3.weight" in state else 2
            y = x
            for layer in range(1, layers + 1):
                here = step if layer == layers - 1 else 1  # the first 3×3 convolution carries the stride
                y = norm(conv(y, f"{name}.conv{layer}", here, dilation), f"{name}.bn{layer}")
                y = y.relu() if layer < layers else y
            if f"{name}.downsample.0.weight" in state:
                x = norm(conv(x, f"{name}.downsample.0", step, 1), f"{name}.downsample.1")
            x = (x + y).relu()
            block += 1
        maps.append(x)
    return maps


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(
    ("output_stride", "dilated", "strides", "dilations"),
    [
        (16, False, [1, 2, 2, 1], [(1, 1), (1, 1), (1, 1), (1, 1)]),
        (8, False, [1, 2, 1, 1], [(1, 1), (1, 1), (1, 1), (1, 1)]),
        (16, True, [1, 2, 2, 1], [(1, 1), (1, 1), (1, 1), (1, 2)]),
        (8, True, [1, 2, 1, 1], [(1, 1), (1, 1), (1, 2), (2, 4)]),
    ],
)
def test_parity_with_a_slow_definition(
    name: str, output_stride: int, dilated: bool, strides: list[int], dilations: list[tuple[int, int]]
) -> None:
    network = ResNet(name, output_stride=output_stride, dilated=dilated).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.6)
            torch.nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
    images = torch.randn(1, 3, 37, 53)
    with torch.no_grad():
        expected = _slow(network.state_dict(), images, strides, dilations)
        for found, one in zip(network(images), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-3, atol=1e-3)


def test_random_weights_keep_the_variance_of_the_gradient() -> None:
    weight = ResNet("resnet18").get_parameter("layer3.0.conv2.weight")
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
