"""Weights of the original ResNet-101 under the names of the public PyTorch port of DeepLabV2, brought to ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from tag2mask.errors import UsageError, first_five

PUBLIC_PORT = "https://github.com/kazuto1011/deeplab-pytorch"
"""The port, which says where its checkpoints are."""

_FIRST = "layer1.conv1.conv.weight"
_PREFIX = re.compile(r"^((base|scale)\.)+")
_HEADS = ("aspp.", "fc.", "fc1000.")
_STEM = re.compile(r"layer1\.conv1\.(conv|bn)\.(\w+)")
_BLOCK = re.compile(r"layer([2-5])\.block(\d+)\.(reduce|conv3x3|increase|shortcut|proj)\.(conv|bn)\.(\w+)")
_NUMBERS = {"reduce": 1, "conv3x3": 2, "increase": 3}


def from_deeplab_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of a checkpoint of the port, under the names of a `ResNet` and for RGB.

    ``layer1.conv1.conv`` and ``.bn`` become ``conv1`` and ``bn1``; in ``layer2.block1`` …, here ``layer1.0`` …,
    ``reduce``, ``conv3x3`` and ``increase`` become ``conv1`` to ``conv3`` with ``bn1`` to ``bn3``, and ``shortcut``,
    in older files ``proj``, ``downsample``. The prefixes ``base.`` and ``scale.`` of a network of several scales are
    taken away, the heads ``aspp.``, ``fc.`` and ``fc1000.`` left out. The first convolution, made for BGR, has its
    input channels turned round.

    Args:
        state: the checkpoint.

    Returns:
        its tensors by our names; one of another name keeps it.

    Raises:
        UsageError: it has not the names of the port; then the order of its colours is not known either.
    """
    plain = {_PREFIX.sub("", name): tensor for name, tensor in state.items()}
    if _FIRST not in plain:
        raise UsageError(
            f"network.weights: those of resnet101-caffe should have the names of {PUBLIC_PORT} ({_FIRST}, …), they "
            f"have {first_five(plain)}"
        )
    plain[_FIRST] = plain[_FIRST].flip(1)
    return {_renamed(name): tensor for name, tensor in plain.items() if not name.startswith(_HEADS)}


def _renamed(name: str) -> str:
    if found := _STEM.fullmatch(name):
        return f"{found[1]}1.{found[2]}"
    if found := _BLOCK.fullmatch(name):
        layer, block, unit, kind, attribute = found.groups()
        own = f"downsample.{int(kind == 'bn')}" if unit in ("shortcut", "proj") else f"{kind}{_NUMBERS[unit]}"
        return f"layer{int(layer) - 1}.{int(block) - 1}.{own}.{attribute}"
    return name
