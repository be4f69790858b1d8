"""Checkpoints: a network in one `.safetensors` file, from which it can be rebuilt without other files.

The metadata has one entry, `tag2mask`: JSON with the format's version, the settings, the backbone's architecture, the
normalisation and the classes. No code in the file is run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.fields import plain
from tag2mask.core.files import atomic_path
from tag2mask.core.machine_errors import is_machine_error
from tag2mask.networks.backbones.base import Backbone
from tag2mask.networks.backbones.registry import rebuild_backbone
from tag2mask.networks.edge_network import EdgeNetwork
from tag2mask.networks.pot_network import PotNetwork
from tag2mask.networks.segmentation import SegmentationNetwork
from tag2mask.networks.settings import NetworkSettings, OutputStride, SegmentationNetworkSettings

FORMAT_VERSION = 3
"""The version of the metadata; files with another one are refused."""

Kind = Literal["pot", "edges", "segmentation"]

SavedNetwork = PotNetwork | EdgeNetwork | SegmentationNetwork

_MADE_BY: dict[Kind, str] = {
    "pot": "tag2mask train",
    "edges": "tag2mask edges",
    "segmentation": "tag2mask segment",
}
_ENTRY = "tag2mask"

_Network = TypeVar("_Network", PotNetwork, EdgeNetwork, SegmentationNetwork)


class NetworkFileError(Tag2maskError):
    """A checkpoint is missing, damaged, of another program or too new."""


@dataclass(frozen=True)
class NetworkInfo:
    """The description of a network in a checkpoint.

    Attributes:
        segmentation: the settings of a segmentation network; None for other kinds.
        intensity: for a segmentation network, the pixel values of black and white in training; None for 8 bits.
    """

    kind: Kind
    classes: tuple[str, ...]  # C names, without background; class id = index + 1; empty for an edge network
    settings: NetworkSettings  # of the network; for a segmentation network, of its backbone
    architecture: dict[str, Any]
    mean: tuple[float, float, float]  # of the input normalisation, RGB in [0, 1]
    std: tuple[float, float, float]
    edge_levels: tuple[int, ...] = ()  # the stages that an edge network reads; empty for other kinds
    segmentation: SegmentationNetworkSettings | None = None
    licence: str = ""  # a note on a segmentation network's initial weights; empty for other kinds
    intensity: tuple[float, float] | None = None
    background_cells: int = 0  # of known background, in a network with a frozen backbone


def save_network(path: Path, network: SavedNetwork) -> None:
    """Write ``network`` to ``path`` (a `.safetensors`), atomically; the same network gives the same bytes.

    Raises:
        NetworkFileError: weights are not finite; an existing file does not change.
    """
    if names := not_finite(network):
        raise NetworkFileError(
            f"{path} was not written: weights that are not finite (NaN or infinity): {first_five(names)}; train again "
            f"with a lower learning rate"
        )
    backbone = network.backbone
    description = {
        "format_version": FORMAT_VERSION,
        **_description(network),
        "backbone": backbone.architecture(),
        "normalisation": {"mean": list(backbone.mean), "std": list(backbone.std)},
        "extra": {},
    }
    # A single entry, since the library writes several in random order.
    metadata = {_ENTRY: json.dumps(description, sort_keys=True, ensure_ascii=False)}
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_path(Path(path)) as temporary:
        save_file(state, temporary, metadata=metadata)
        temporary.chmod(0o644)  # the library makes it readable for its owner alone


def read_network_info(path: Path) -> NetworkInfo:
    """The description in a checkpoint's header.

    Raises:
        NetworkFileError: the file is missing, damaged, of another program, or of a newer version.
    """
    try:
        Path(path).open("rb").close()  # safetensors says "No such file" for every error of the system
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NetworkFileError(f"{path} could not be read as a .safetensors file ({reason})") from error
    if _ENTRY not in metadata:
        raise NetworkFileError(
            f"{path} is not a network of tag2mask: its metadata has no entry {_ENTRY!r}; to start from these weights, "
            f"use `--network.weights PATH`"
        )
    try:
        return _parse(json.loads(metadata[_ENTRY]), path)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise NetworkFileError(f"{path} is damaged: its description does not have the format ({error!r})") from error


def not_finite(network: nn.Module) -> list[str]:
    """The names of weights and buffers with NaN or infinity; reads the device once."""
    values = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    sound = torch.stack([value.isfinite().all() for value in values.values()]).tolist() if values else []
    return [name for name, finite in zip(values, sound, strict=True) if not finite]


def load_network(path: Path, *, classes: tuple[str, ...] | None = None) -> PotNetwork:
    """The POT network in ``path``, on the CPU, in evaluation mode.

    Args:
        classes: the required class list; None: any.

    Raises:
        NetworkFileError: the file is missing, damaged, of another kind, or of a newer version.
        UsageError: the network was trained for another class list.
    """
    info = _info_of_kind(path, "pot", classes)
    return _restored(
        path, info, lambda backbone: PotNetwork(backbone, info.classes, info.settings, info.background_cells)
    )


def load_edge_network(path: Path) -> EdgeNetwork:
    """The edge network in ``path``; as `load_network`."""
    info = _info_of_kind(path, "edges")
    return _restored(path, info, lambda backbone: EdgeNetwork(backbone, info.edge_levels))


def load_segmentation_network(path: Path, *, classes: tuple[str, ...] | None = None) -> SegmentationNetwork:
    """The segmentation network in ``path``; as `load_network`."""
    info = _info_of_kind(path, "segmentation", classes)
    settings = info.segmentation or SegmentationNetworkSettings()
    network = _restored(path, info, lambda backbone: SegmentationNetwork(backbone, info.classes, settings))
    network.licence, network.intensity = info.licence, info.intensity
    return network


def _description(network: SavedNetwork) -> dict[str, Any]:
    if isinstance(network, PotNetwork):
        known = {"background_cells": network.background_cells} if network.background_cells else {}
        return {"kind": "pot", "classes": list(network.classes), "settings": plain(network.settings), **known}
    if isinstance(network, SegmentationNetwork):
        return {
            "kind": "segmentation",
            "classes": list(network.classes),
            "settings": plain(network.settings),
            "licence": network.licence,
            **({} if network.intensity is None else {"intensity": list(network.intensity)}),
        }
    settings, stride = NetworkSettings(), network.backbone.stages[-1].stride
    if stride in get_args(OutputStride):  # the only setting that `rebuild_backbone` reads
        settings = NetworkSettings(output_stride=cast("OutputStride", stride))
    return {
        "kind": "edges",
        "classes": [],
        "settings": plain(settings),
        "edge_levels": list(network.levels),
    }


def _info_of_kind(path: Path, kind: Kind, classes: tuple[str, ...] | None = None) -> NetworkInfo:
    info = read_network_info(path)
    if info.kind != kind:
        raise NetworkFileError(f"{path} holds a network of kind {info.kind!r}; `{_MADE_BY[kind]}` makes what is needed")
    if classes is not None and tuple(classes) != info.classes:
        raise UsageError(_other_classes(path, info.classes, tuple(classes)))
    return info


def _restored(path: Path, info: NetworkInfo, build: Callable[[Backbone], _Network]) -> _Network:
    """The network that ``build`` makes on the described backbone, with the weights of the file."""

    def built() -> _Network:
        return build(rebuild_backbone(info.architecture, info.settings, info.mean, info.std))

    try:
        state = load_file(path)
        # The description is not trusted: it is compared with the file's tensors before memory is allocated.
        with torch.device("meta"):
            own = built().state_dict()
        shapes = [{name: value.shape for name, value in each.items()} for each in (own, state)]
        wrong = [name for name in sorted(own.keys() | state.keys()) if shapes[0].get(name) != shapes[1].get(name)]
        if wrong:
            raise NetworkFileError(
                f"{path} is damaged: tensors are missing, unknown or of another shape: {first_five(wrong)}"
            )
        with torch.random.fork_rng(devices=[]):
            network = built()
        network.load_state_dict(state)
        if names := not_finite(network):
            raise NetworkFileError(
                f"{path} is damaged: weights are not finite (NaN or infinity): {first_five(names)}; train "
                f"the network again: `{_MADE_BY[info.kind]}` with --restart {_MADE_BY[info.kind].split()[-1]} and a "
                f"lower learning rate"
            )
    except NetworkFileError:
        raise
    except Exception as error:  # wrong descriptions raise errors of many types in the libraries
        if is_machine_error(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise NetworkFileError(
            f"{path} is damaged: the network that it describes cannot be built ({reason})"
        ) from error
    return network.eval()


def _parse(values: dict[str, Any], path: Path) -> NetworkInfo:
    version = values["format_version"]
    if not isinstance(version, int):
        raise ValueError(f"format_version should be a whole number, received {version!r}")
    if version != FORMAT_VERSION:
        raise NetworkFileError(
            f"{path} has format version {version}, this tag2mask reads {FORMAT_VERSION}; use the tag2mask that wrote "
            f"it, or train again"
        )
    if values["kind"] not in _MADE_BY:
        raise NetworkFileError(
            f"{path} holds a network of kind {values['kind']!r}, which this tag2mask does not know; it knows "
            f"{', '.join(_MADE_BY)}"
        )
    classes = tuple(values["classes"])
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("classes should be names")
    mean_red, mean_green, mean_blue = mean = tuple(float(value) for value in values["normalisation"]["mean"])
    std_red, std_green, std_blue = std = tuple(float(value) for value in values["normalisation"]["std"])
    if not all(isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise ValueError(f"mean {mean} and deviation {std} of the colours should be finite, and the latter above 0")
    made_of = NetworkSettings() if values["kind"] != "segmentation" else SegmentationNetworkSettings()
    settings = type(made_of)(**values["settings"])
    segmentation = settings if isinstance(settings, SegmentationNetworkSettings) else None
    return NetworkInfo(
        values["kind"],
        classes,
        settings if isinstance(settings, NetworkSettings) else settings.backbone_settings(),
        dict(values["backbone"]),
        (mean_red, mean_green, mean_blue),
        (std_red, std_green, std_blue),
        tuple(int(level) for level in values.get("edge_levels", ())),
        segmentation,
        str(values.get("licence", "")),
        parse_intensity(values.get("intensity")),
        int(values.get("background_cells", 0)),
    )


def parse_intensity(value: Any) -> tuple[float, float] | None:
    """The pixel values of black and white from JSON values, None if there are none; a `ValueError` for others."""
    if value is None:
        return None
    low, high = (float(each) for each in value)
    if not -inf < low < high < inf:
        raise ValueError(f"intensity [{low}, {high}] should be two finite ascending pixel values")
    return low, high


def _other_classes(path: Path, trained: tuple[str, ...], given: tuple[str, ...]) -> str:
    """The message for the first difference of two class lists."""
    pairs = enumerate(zip_longest(trained, given), start=1)
    number, names = next((number, names) for number, names in pairs if names[0] != names[1])
    shown = ["no class" if name is None else repr(name) for name in names]
    return (
        f"{path} was trained for another class list ({len(trained)} classes; here there are {len(given)}): class "
        f"{number} is {shown[0]} in the file and {shown[1]} here; set `--data.classes` to the file's list "
        f"({first_five(trained)}), or train a network for these classes"
    )
