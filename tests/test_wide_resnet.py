"""WideResNet-38: names and sizes of the public ports, parity with a slow definition, and its weights from MXNet."""

import math
import re
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.core.errors import UsageError
from tag2mask.networks import NetworkSettings, build_backbone
from tag2mask.networks.backbones.converters import from_mxnet, read_mxnet_params
from tag2mask.networks.backbones.wide_resnet import PreActivationBlock, WideResNet

# Blocks of the published network: name, channels before, widths, stride, dilation of each 3×3 convolution.
BLOCKS = [
    ("b2", 64, (128, 128), 2, (1, 1)),
    ("b2_1", 128, (128, 128), 1, (1, 1)),
    ("b2_2", 128, (128, 128), 1, (1, 1)),
    ("b3", 128, (256, 256), 2, (1, 1)),
    ("b3_1", 256, (256, 256), 1, (1, 1)),
    ("b3_2", 256, (256, 256), 1, (1, 1)),
    ("b4", 256, (512, 512), 2, (1, 1)),
    *[(f"b4_{index}", 512, (512, 512), 1, (1, 1)) for index in range(1, 6)],
    ("b5", 512, (512, 1024), 1, (1, 2)),
    ("b5_1", 1024, (512, 1024), 1, (2, 2)),
    ("b5_2", 1024, (512, 1024), 1, (2, 2)),
    ("b6", 1024, (512, 1024, 2048), 1, (1, 4, 1)),
    ("b7", 2048, (1024, 2048, 4096), 1, (1, 4, 1)),
]


def _expected() -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, from the table."""
    shapes: dict[str, tuple[int, ...]] = {"conv1a.weight": (64, 3, 3, 3), "bn7.weight": (4096,), "bn7.bias": (4096,)}
    for name, channels, widths, stride, _ in BLOCKS:
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        before = channels
        for branch, width, kernel in zip(("2a", "2b1", "2b2"), widths, kernels, strict=False):
            shapes[f"{name}.bn_branch{branch}.weight"] = shapes[f"{name}.bn_branch{branch}.bias"] = (before,)
            shapes[f"{name}.conv_branch{branch}.weight"] = (width, before, kernel, kernel)
            before = width
        if stride > 1 or before != channels:
            shapes[f"{name}.conv_branch1.weight"] = (before, channels, 1, 1)
    return shapes


def _shaken(network: nn.Module) -> nn.Module:
    """Batch norm with statistics and affine parameters of its own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.2)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
            nn.init.uniform_(module.weight, 0.4, 0.8)
            nn.init.normal_(module.bias, 0, 0.2)
    return network


def _norm(state: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    column = {key: state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")}
    return (x - column["running_mean"]) / (column["running_var"] + 1e-5).sqrt() * column["weight"] + column["bias"]


def _conv(state: dict[str, Tensor], x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
    """A convolution as a sum over the positions of its kernel."""
    weight = state[f"{name}.weight"]
    half = weight.shape[-1] // 2 * dilation
    padded, (rows, columns) = F.pad(x, [half] * 4), x.shape[2:]
    out = torch.zeros(())
    for i in range(weight.shape[-1]):
        for j in range(weight.shape[-1]):
            part = padded[:, :, i * dilation : i * dilation + rows, j * dilation : j * dilation + columns]
            out = out + torch.einsum("nchw,oc->nohw", part[:, :, ::stride, ::stride], weight[:, :, i, j])
    return out


def _slow_block(state: dict[str, Tensor], x: Tensor, name: str, stride: int, dilations: tuple[int, ...]) -> Tensor:
    first = _norm(state, x, f"{name}.bn_branch2a").clamp_min(0)
    y = _conv(state, first, f"{name}.conv_branch2a", stride, dilations[0])
    for branch, dilation in zip(("2b1", "2b2"), dilations[1:], strict=False):
        y = _conv(
            state, _norm(state, y, f"{name}.bn_branch{branch}").relu(), f"{name}.conv_branch{branch}", 1, dilation
        )
    return y + (_conv(state, first, f"{name}.conv_branch1", stride) if f"{name}.conv_branch1.weight" in state else x)


def test_names_and_shapes_of_the_published_network() -> None:
    with torch.device("meta"):
        network = WideResNet()
    found = {name: tuple(each.shape) for name, each in network.named_parameters()}
    expected = _expected()
    assert found == expected
    assert (len(found), sum(math.prod(shape) for shape in expected.values())) == (117, 105_070_912)
    assert [tuple(stage) for stage in network.all_stages] == [
        ("b2", 128, 2),
        ("b3", 256, 4),
        ("b4", 512, 8),
        ("b5", 1024, 8),
        ("b6", 2048, 8),
        ("b7", 4096, 8),
    ]
    dropouts = {name: network.get_submodule(f"{name}.dropout").p for name in ("b5_2", "b6", "b7")}
    assert dropouts == {"b5_2": 0.0, "b6": 0.3, "b7": 0.5}


def test_parity_with_a_slow_definition() -> None:
    network = _shaken(WideResNet(32)).eval()
    state = network.state_dict()
    images = torch.randn(1, 3, 37, 53)
    expected = []
    with torch.no_grad():
        x = _conv(state, images, "conv1a")
        for name, _, _, stride, dilations in BLOCKS:
            if "_" not in name:
                expected.append(_norm(state, x, f"{name}.bn_branch2a").relu())
            x = _slow_block(state, x, name, stride, dilations)
        expected.append(_norm(state, x, "bn7").relu())
        for found, one in zip(network.all_maps(images), expected[1:], strict=True):
            torch.testing.assert_close(found, one, rtol=1e-3, atol=1e-3)


def test_dropout_takes_whole_channels_before_all_but_the_first_convolution() -> None:
    block = PreActivationBlock(8, (8, 8, 16), (1, 3, 1), dilations=(4, 4, 4), dropout=0.5)
    seen: dict[str, Tensor] = {}
    for name in ("conv_branch2a", "conv_branch2b1", "conv_branch2b2"):
        block.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    block(torch.randn(64, 8, 6, 6))
    dropped = {name: (x == 0).flatten(2).all(dim=2).float().mean().item() for name, x in seen.items()}
    assert dropped["conv_branch2a"] == 0
    assert 0.35 < dropped["conv_branch2b1"] < 0.65
    assert 0.35 < dropped["conv_branch2b2"] < 0.65


# --- weights from MXNet ---


def _packed(tensor: Tensor, layout: str) -> bytes:
    shape, half = tensor.shape, tensor.dtype == torch.float16
    if layout == "legacy":
        head = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    else:
        start = struct.pack("<I", 0xF993FAC8) if layout == "wide" else struct.pack("<Ii", 0xF993FAC9, 0)
        head = start + struct.pack(f"<I{len(shape)}q", len(shape), *shape)
    return head + struct.pack("<iii", 1, 0, 2 if half else 0) + tensor.contiguous().numpy().tobytes()


def _list(arrays: dict[str, Tensor], layout: str) -> bytes:
    """An MXNet file, written from the description of its layouts."""
    names = b"".join(struct.pack("<Q", len(name.encode())) + name.encode() for name in arrays)
    body = b"".join(_packed(tensor, layout) for tensor in arrays.values())
    return struct.pack("<QQQ", 0x112, 0, len(arrays)) + body + struct.pack("<Q", len(arrays)) + names


def _mxnet_name(name: str) -> str:
    """What the authors' file calls a tensor of the ports."""
    module, _, attribute = name.rpartition(".")
    last = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}[attribute]
    kind = "aux" if last.startswith("moving") else "arg"
    found = re.fullmatch(r"b(\d)(?:_(\d))?\.(conv|bn)_(branch\w+)", module)
    if found is None:
        return f"{kind}:{module}_{'weight' if module == 'conv1a' else last}"
    level, block, what, branch = found.groups()
    prefix, suffix = ("res", "weight") if what == "conv" else ("bn", last)
    return f"{kind}:{prefix}{level}{'b' + block if block else 'a'}_{branch}_{suffix}"


@pytest.mark.parametrize("layout", ["legacy", "wide", "storage"])
def test_mxnet_file_round_trip(tmp_path: Path, layout: str) -> None:
    source = _shaken(WideResNet(32)).eval()
    arrays = {_mxnet_name(k): v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    arrays |= {"arg:linear1000_weight": torch.rand(10, 128), "arg:linear1000_bias": torch.rand(10)}
    assert "arg:res4b5_branch2b1_weight" in arrays and "aux:bn6a_branch2b2_moving_var" in arrays
    path = tmp_path / "network.params"
    path.write_bytes(_list(arrays, layout))
    read = read_mxnet_params(path)
    assert list(read) == list(arrays)
    assert all(torch.equal(read[name], arrays[name]) for name in arrays)
    network = WideResNet(32).eval()
    missing = network.load_state_dict(from_mxnet(read), strict=False)
    assert missing.unexpected_keys == []
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    images = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(network(images)[-1], source(images)[-1])


def test_half_precision_arrays_become_float32(tmp_path: Path) -> None:
    values = torch.rand(3, 2).half()
    path = tmp_path / "half.params"
    path.write_bytes(_list({"arg:bn7_beta": values}, "storage"))
    assert torch.equal(read_mxnet_params(path)["arg:bn7_beta"], values)
    assert torch.equal(from_mxnet(read_mxnet_params(path))["bn7.bias"], values.float())


GOOD = _list({"arg:bn7_beta": torch.full((2, 2), 0.3), "arg:bn7_gamma": torch.full((3,), 0.3)}, "storage")
SHAPE = struct.pack("<Iqq", 2, 2, 2)


@pytest.mark.parametrize("layout", ["legacy", "wide", "storage"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, layout: str) -> None:
    whole = _list({"arg:bn7_beta": torch.rand(2, 2), "arg:bn7_gamma": torch.rand(3)}, layout)
    path = tmp_path / "cut.params"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cut\.params could not be read"):
            read_mxnet_params(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "its magic number is missing"),
        (GOOD + b"\0", "1 bytes follow its end"),
        (GOOD.replace(struct.pack("<Ii", 0xF993FAC9, 0), struct.pack("<Ii", 0xF993FAC9, 2), 1), "not dense"),
        (GOOD.replace(SHAPE + struct.pack("<iii", 1, 0, 0), SHAPE + struct.pack("<iii", 1, 0, 4)), "of type 4"),
        (GOOD.replace(SHAPE, struct.pack("<Iqq", 2, 1 << 62, 1 << 62)), "ends too early"),
        (GOOD.replace(SHAPE, struct.pack("<Iqq", 2, -2, -2)), "the shape"),
        (GOOD.replace(SHAPE, struct.pack("<Iqq", 999, 2, 2)), "999 dimensions"),
        (GOOD.replace(b"gamma", b"g\xffmma"), "not text"),
        (GOOD.replace(struct.pack("<Q", 13), struct.pack("<Q", 1 << 40)), "ends too early"),
        (struct.pack("<QQQ", 0x112, 0, 1 << 60), "ends too early"),
        (struct.pack("<QQQ", 0x112, 0, 0) + struct.pack("<Q", 1), "0 arrays and 1 names"),
        (_list({"arg:bn7_beta": torch.full((2,), 0.3)}, "legacy").replace(struct.pack("<I", 2), bytes(4)), "shape"),
    ],
)
def test_broken_and_foreign_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.params"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_mxnet_params(path)


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.params"
    path.write_bytes(_list({"a": torch.rand(1), "b": torch.rand(1)}, "wide")[:-1] + b"a")
    with pytest.raises(UsageError, match="more than once: a"):
        read_mxnet_params(path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """`wideresnet38` by name is a 32nd as wide: the published one has 420 MB."""
    monkeypatch.setattr("tag2mask.networks.backbones.wide_resnet.WideResNet", lambda divisor=32: WideResNet(divisor))


@pytest.mark.usefixtures("small")
def test_by_name_with_the_file_of_the_authors(tmp_path: Path) -> None:
    source = _shaken(WideResNet(32)).eval()
    arrays = {_mxnet_name(k): v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "ilsvrc.params"
    path.write_bytes(_list(arrays | {"arg:linear1000_bias": torch.rand(10)}, "legacy"))
    torch.save(source.state_dict() | {"fc8.weight": torch.rand(20, 128, 1, 1)}, tmp_path / "port.pth")
    images = torch.rand(1, 3, 24, 24)
    for file in (path, tmp_path / "port.pth"):
        backbone = build_backbone(NetworkSettings(backbone="wideresnet38", weights=str(file))).eval()
        assert backbone.pretrained and backbone.norm_fixed and backbone.stem_fixed
        with torch.no_grad():
            assert torch.equal(backbone(images)[-1], source(images)[-1])


@pytest.mark.usefixtures("small")
def test_files_that_do_not_fit(tmp_path: Path) -> None:
    settings = NetworkSettings(backbone="wideresnet38", weights=str(tmp_path / "other.params"))
    with pytest.raises(UsageError, match=r"no file .*other\.params"):
        build_backbone(settings)
    (tmp_path / "other.params").write_bytes(_list({"arg:fc1_weight": torch.rand(2, 2)}, "storage"))
    with pytest.raises(UsageError, match=r"does not fit wideresnet38; missing: .*unexpected: arg:fc1_weight"):
        build_backbone(settings)


def test_weights_by_name_say_where_to_get_the_file() -> None:
    with pytest.raises(UsageError, match=r"ilsvrc-cls_rna-a1_cls1000_ep-0001\.params.*--network\.weights PATH"):
        build_backbone(NetworkSettings(backbone="wideresnet38"))
