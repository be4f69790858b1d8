"""Weights of other frameworks and ports, renamed for our backbones. No code in a file is run.

- WideResNet-38: the authors' MXNet `.params` files, read without MXNet.
- Caffe's ResNet-101: checkpoints of the public PyTorch port of DeepLabV2.
"""

import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tag2mask.core.errors import UsageError, first_five

DEEPLAB_PORT = "https://github.com/kazuto1011/deeplab-pytorch"
"""The PyTorch port of DeepLabV2, with links to its checkpoints."""

_MXNET_LIST = 0x112
_SHAPE_64 = 0xF993FAC8
_STORAGE_AND_SHAPE_64 = 0xF993FAC9
"""First number of an array. In the layout of 2016, an array begins with its number of dimensions."""

_MXNET_TYPES = {0: torch.float32, 2: torch.float16}
_MOST_DIMENSIONS = 8


def read_mxnet_params(path: Path) -> dict[str, Tensor]:
    """The dense float32 and float16 arrays of an MXNet `.params` file, by names that begin with `arg:` or `aux:`.

    Raises:
        UsageError: the file is missing, of another format, truncated, or holds arrays of another type.
    Source: the layouts of MXNet's `NDArray::Save`; all numbers are little-endian.
    """
    if not path.is_file():
        raise UsageError(f"network.weights: there is no file {path}; give an MXNet .params file")
    try:
        reader = _MxnetReader(path, path.read_bytes())
    except OSError as error:
        raise UsageError(f"network.weights: {path} could not be read ({error})") from error
    return reader.arrays()


class _MxnetReader:
    """Parses the bytes of a `.params` file: magic number, reserved number, arrays, names."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data, self.place = path, data, 0

    def arrays(self) -> dict[str, Tensor]:
        if len(self.data) < 24 or self.number("Q") != _MXNET_LIST:
            raise self.wrong("its magic number is missing")
        self.number("Q")  # reserved
        arrays = [self.array(index) for index in range(self.number("Q"))]
        count = self.number("Q")
        if count != len(arrays):
            raise self.wrong(f"it has {len(arrays)} arrays and {count} names")
        names = [self.name() for _ in range(count)]
        double = [name for name, times in Counter(names).items() if times > 1]
        if double:
            raise self.wrong(f"names should differ, more than once: {first_five(double)}")
        if self.place < len(self.data):
            raise self.wrong(f"{len(self.data) - self.place} bytes follow its end")
        return dict(zip(names, arrays, strict=True))

    def array(self, index: int) -> Tensor:
        """The shape, the device (ignored), the type and the values."""
        start = self.number("I")
        if start == _STORAGE_AND_SHAPE_64 and (storage := self.number("i")) != 0:
            raise self.wrong(f"array {index} is not dense (its storage type is {storage}, it should be 0)")
        wide = start in (_STORAGE_AND_SHAPE_64, _SHAPE_64)
        dimensions = self.number("I") if wide else start
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self.wrong(f"array {index} has {dimensions} dimensions, or is of an unknown layout")
        shape = [self.number("q" if wide else "I") for _ in range(dimensions)]
        if min(shape) < 1:
            raise self.wrong(f"array {index} has the shape {shape}")
        self.take(8)  # type and number of the device
        kind = self.number("i")
        if kind not in _MXNET_TYPES:
            raise self.wrong(f"array {index} is of type {kind}; supported are 0 (float32) and 2 (float16)")
        values = self.take(math.prod(shape) * _MXNET_TYPES[kind].itemsize)
        return torch.frombuffer(bytearray(values), dtype=_MXNET_TYPES[kind]).reshape(shape)

    def name(self) -> str:
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong("a name is not text") from error

    def number(self, kind: str) -> int:
        """One number; ``kind`` as in `struct`: I and i have four bytes, Q and q eight."""
        return int(struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0])

    def take(self, count: int) -> bytes:
        remaining = len(self.data) - self.place
        if count > remaining:
            raise self.wrong(f"it ends too early, {count} bytes are missing from {remaining}")
        self.place += count
        return self.data[self.place - count : self.place]

    def wrong(self, what: str) -> UsageError:
        return UsageError(
            f"network.weights: {self.path} could not be read as an MXNet .params file: {what} (before byte "
            f"{self.place} of {len(self.data)}); fetch it again, or give a .pth or .safetensors file"
        )


_WIDE_LAYER = re.compile(r"(res|bn)(\d)(a|b\d+)_(branch\w+?)_(weight|gamma|beta|moving_mean|moving_var)")
_WIDE_END = re.compile(r"(conv1a|bn7)_(weight|gamma|beta|moving_mean|moving_var)")
_WIDE_CLASSIFIER = re.compile(r"linear\d+_(weight|bias)")
_ATTRIBUTES = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}


def from_mxnet(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays of the authors' MXNet files under the names of `WideResNet`, without the classifier `linear…`.

    `arg:res2b1_branch2a_weight` and `aux:bn7_moving_mean` become `b2_1.conv_branch2a.weight` and `bn7.running_mean`, in
    float32; unknown names do not change.
    """
    state = {}
    for key, array in arrays.items():
        name = key.rpartition(":")[2]
        if not _WIDE_CLASSIFIER.fullmatch(name):
            state[_wide_name(name) or key] = array.to(torch.float32)
    return state


def _wide_name(name: str) -> str | None:
    if found := _WIDE_LAYER.fullmatch(name):
        kind, level, block, branch, attribute = found.groups()
        number = "" if block == "a" else f"_{block[1:]}"
        return f"b{level}{number}.{'conv' if kind == 'res' else 'bn'}_{branch}.{_ATTRIBUTES[attribute]}"
    if found := _WIDE_END.fullmatch(name):
        return f"{found[1]}.{_ATTRIBUTES[found[2]]}"
    return None


_PORT_FIRST = "layer1.conv1.conv.weight"
_PORT_PREFIX = re.compile(r"^((base|scale)\.)+")
_PORT_HEADS = ("aspp.", "fc.", "fc1000.")
_PORT_STEM = re.compile(r"layer1\.conv1\.(conv|bn)\.(\w+)")
_PORT_BLOCK = re.compile(r"layer([2-5])\.block(\d+)\.(reduce|conv3x3|increase|shortcut|proj)\.(conv|bn)\.(\w+)")
_PORT_NUMBERS = {"reduce": 1, "conv3x3": 2, "increase": 3}


def from_deeplab_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of a checkpoint of `DEEPLAB_PORT`, under the names of `ResNet` and for RGB.

    `layer2.block1.reduce.conv.weight` becomes `layer1.0.conv1.weight`; unknown names do not change. Prefixes `base.`
    and `scale.` and the heads are dropped. The input channels of the first convolution, made for BGR, are reversed.

    Raises:
        UsageError: the names are not the port's, so that the order of the colours is unknown.
    """
    plain = {_PORT_PREFIX.sub("", name): tensor for name, tensor in state.items()}
    if _PORT_FIRST not in plain:
        raise UsageError(
            f"network.weights: those of resnet101-caffe should have the names of {DEEPLAB_PORT} ({_PORT_FIRST}, …), "
            f"they have {first_five(plain)}"
        )
    plain[_PORT_FIRST] = plain[_PORT_FIRST].flip(1)
    return {_port_name(name): tensor for name, tensor in plain.items() if not name.startswith(_PORT_HEADS)}


def _port_name(name: str) -> str:
    if found := _PORT_STEM.fullmatch(name):
        return f"{found[1]}1.{found[2]}"
    if found := _PORT_BLOCK.fullmatch(name):
        layer, block, unit, kind, attribute = found.groups()
        own = f"downsample.{int(kind == 'bn')}" if unit in ("shortcut", "proj") else f"{kind}{_PORT_NUMBERS[unit]}"
        return f"layer{int(layer) - 1}.{int(block) - 1}.{own}.{attribute}"
    return name
