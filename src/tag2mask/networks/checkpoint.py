"""The one checkpoint writer: a network in one `.safetensors` file that holds all that is needed to build it again.

The file's metadata has one entry, `tag2mask`: JSON with the format's version, the settings, the backbone's
architecture, the normalisation and the classes. Nothing in the file can run, and loading needs neither a connection
nor another file.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tag2mask.errors import Tag2maskError, UsageError, first_five
from tag2mask.fields import current, fixed, plain
from tag2mask.files import atomic_path
from tag2mask.memory import FAULTS_OF_THE_MACHINE
from tag2mask.networks.backbone import rebuild_backbone
from tag2mask.networks.edge_network import EdgeNetwork
from tag2mask.networks.pot_network import PotNetwork
from tag2mask.networks.segmentation import SegmentationNetwork
from tag2mask.networks.settings import NetworkSettings, OutputStride, SegmentationNetworkSettings
from tag2mask.networks.stages import Backbone

FORMAT_VERSION = 1
"""Of the metadata; a reader refuses a file with a higher one."""

Kind = Literal["pot", "edges", "segmentation"]

SavedNetwork = PotNetwork | EdgeNetwork | SegmentationNetwork
"""What a checkpoint can hold."""

_MADE_BY: dict[Kind, str] = {
    "pot": "tag2mask train",
    "edges": "tag2mask edges",
    "segmentation": "tag2mask segment",
}
_ENTRY = "tag2mask"

_Network = TypeVar("_Network", PotNetwork, EdgeNetwork, SegmentationNetwork)


class NetworkFileError(Tag2maskError):
    """A checkpoint that is missing, damaged, not ours or too new; the message names it."""


@dataclass(frozen=True)
class NetworkInfo:
    """What a checkpoint says about itself, without its weights.

    Attributes:
        kind: `pot`, the network of tags, `edges`, the edge network, or `segmentation`, the network of masks.
        classes: C names, without background; class id = index + 1; none for an edge network.
        settings: the network was built with; for an edge network what its backbone says about itself, for a
            segmentation network those of its backbone.
        architecture: of the backbone.
        mean: of the input normalisation, RGB in [0, 1].
        std: of the input normalisation.
        edge_levels: the stages that an edge network reads; none for other kinds.
        segmentation: the settings that a segmentation network was built with; None for other kinds.
        licence: a note about the weights that a segmentation network began with; empty for other kinds.
        intensity: of a segmentation network, the pixel values that were black and white in training; None for 8 bits.
        extra: what the writer added.
    """

    kind: Kind
    classes: tuple[str, ...]
    settings: NetworkSettings
    architecture: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    edge_levels: tuple[int, ...] = ()
    segmentation: SegmentationNetworkSettings | None = None
    licence: str = ""
    intensity: tuple[float, float] | None = None
    extra: dict[str, str] = field(default_factory=dict)


def save_network(path: Path, network: SavedNetwork, *, extra: Mapping[str, str] | None = None) -> None:
    """Write ``network`` to ``path`` (a `.safetensors`), atomically; the same network gives the same bytes.

    Args:
        path: the file.
        network: not wrapped in anything; on any device.
        extra: more to keep, as strings: the step, a fingerprint, ….

    Raises:
        NetworkFileError: weights are not finite; a file that was there stays.
    """
    if names := not_finite(network):
        raise NetworkFileError(
            f"{path} was not written: weights that are not finite (NaN or infinity): {first_five(names)}; train anew "
            f"with a lower learning rate"
        )
    backbone = network.backbone
    description = {
        "format_version": FORMAT_VERSION,
        **_description(network),
        "backbone": backbone.architecture(),
        "normalisation": {"mean": list(backbone.mean), "std": list(backbone.std)},
        "extra": dict(extra or {}),
    }
    # One entry alone: the library writes several in an order of its own, another one every time.
    metadata = {_ENTRY: json.dumps(description, sort_keys=True, ensure_ascii=False)}
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_path(Path(path)) as temporary:
        save_file(state, temporary, metadata=metadata)
        temporary.chmod(0o644)  # the writer leaves it readable by its owner alone; other files of a run are not


def read_network_info(path: Path) -> NetworkInfo:
    """What the checkpoint says about itself; reads its header alone.

    Raises:
        NetworkFileError: it is missing, damaged, not a network of ours, or written by a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise NetworkFileError(f"{path} could not be read as a .safetensors file ({error})") from error
    if _ENTRY not in metadata:
        raise NetworkFileError(
            f"{path} is not a network of tag2mask: its metadata has no entry {_ENTRY!r}; weights alone are given as "
            f"`--network.weights PATH`"
        )
    try:
        return _parse(json.loads(metadata[_ENTRY]), path)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise NetworkFileError(f"{path} is damaged: its description is not of the format ({error!r})") from error


def not_finite(network: nn.Module) -> list[str]:
    """The weights and buffers that hold NaN or infinity, by name; the device is read once."""
    values = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    sound = torch.stack([value.isfinite().all() for value in values.values()]).tolist() if values else []
    return [name for name, finite in zip(values, sound, strict=True) if not finite]


def load_network(path: Path, *, classes: tuple[str, ...] | None = None) -> PotNetwork:
    """The network in ``path``, on the CPU, in evaluation mode. No code from the file runs and nothing is downloaded.

    Args:
        path: what `save_network` wrote.
        classes: the class list that it must have; None takes the file's own.

    Raises:
        NetworkFileError: it is missing, damaged, not a network of ours, or written by a newer version.
        UsageError: it was trained for another class list.
    """
    info = _info_of_kind(path, "pot", classes)
    return _restored(path, info, lambda backbone: PotNetwork(backbone, info.classes, info.settings))


def load_edge_network(path: Path) -> EdgeNetwork:
    """The edge network in ``path``, on the CPU, in evaluation mode; as `load_network`.

    Raises:
        NetworkFileError: it is missing, damaged, not an edge network of ours, or written by a newer version.
    """
    info = _info_of_kind(path, "edges")
    return _restored(path, info, lambda backbone: EdgeNetwork(backbone, info.edge_levels))


def load_segmentation_network(path: Path, *, classes: tuple[str, ...] | None = None) -> SegmentationNetwork:
    """The segmentation network in ``path``, on the CPU, in evaluation mode; as `load_network`.

    Args:
        path: what `save_network` wrote.
        classes: the class list that it must have; None takes the file's own.

    Raises:
        NetworkFileError: it is missing, damaged, not a segmentation network of ours, or written by a newer version.
        UsageError: it was trained for another class list.
    """
    info = _info_of_kind(path, "segmentation", classes)
    settings = info.segmentation or SegmentationNetworkSettings()  # `_parse` has seen to it that there are some
    network = _restored(path, info, lambda backbone: SegmentationNetwork(backbone, info.classes, settings))
    network.licence, network.intensity = info.licence, info.intensity
    return network


def _description(network: SavedNetwork) -> dict[str, Any]:
    """What the metadata says of a network, besides its backbone."""
    if isinstance(network, PotNetwork):
        return {"kind": "pot", "classes": list(network.classes), "settings": plain(network.settings, whole=True)}
    if isinstance(network, SegmentationNetwork):
        return {
            "kind": "segmentation",
            "classes": list(network.classes),
            "settings": plain(network.settings, whole=True),
            "licence": network.licence,
            **({} if network.intensity is None else {"intensity": list(network.intensity)}),
        }
    settings, stride = NetworkSettings(), network.backbone.stages[-1].stride
    if stride in get_args(OutputStride):  # all that building the backbone again takes from settings
        settings = NetworkSettings(output_stride=cast("OutputStride", stride))
    return {
        "kind": "edges",
        "classes": [],
        "settings": plain(settings, whole=True),
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
        _refuse_depth(info.architecture, len(state))
        # The description may be anybody's: what it asks for is compared with the file before it takes any memory.
        with torch.device("meta"):
            own = built().state_dict()
        wrong = [name for name in sorted(own.keys() | state.keys()) if _shape(own, name) != _shape(state, name)]
        if wrong:
            raise NetworkFileError(
                f"{path} is damaged: it has tensors that are missing, unknown or of another shape: {first_five(wrong)}"
            )
        # The random weights are overwritten: making them must not move the caller's random state.
        with torch.random.fork_rng(devices=[]):
            network = built()
        network.load_state_dict(state)
        if names := not_finite(network):
            raise NetworkFileError(
                f"{path} is damaged: it has weights that are not finite (NaN or infinity): {first_five(names)}; train "
                f"the network anew: `{_MADE_BY[info.kind]}` with --restart {_MADE_BY[info.kind].split()[-1]} and a "
                f"lower learning rate"
            )
    except NetworkFileError:
        raise
    except FAULTS_OF_THE_MACHINE:
        raise
    except Exception as error:  # what a description leads the libraries to that build from it is theirs
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise NetworkFileError(
            f"{path} is damaged: the network that it describes cannot be built ({reason})"
        ) from error
    network.eval()
    return network


_COUNTS = ("block", "depth", "layer", "stage", "num_")
"""Parts of the names of settings that say how many of something are made one by one, each with tensors of its own."""

_NO_COUNTS = ("channel", "dim", "feature", "group", "head", "label", "size", "stride", "token", "width")
"""Parts of names that say how large one of them is."""


def _refuse_depth(architecture: Mapping[str, Any], tensors: int) -> None:
    """Refuse a description with more layers than the file has tensors, before they are made one by one.

    Raises:
        ValueError: it has.
    """
    for name, value in architecture.items():
        if isinstance(value, Mapping):
            _refuse_depth(value, tensors)
        elif any(part in name for part in _COUNTS) and not any(part in name for part in _NO_COUNTS):
            deep = next((number for number in _numbers(value) if number > tensors), None)
            if deep is not None:
                raise ValueError(f"{name} is {deep}, and the file has {tensors} tensors")


def _numbers(value: Any) -> Iterator[int]:
    """The integers in a value, or in lists of such."""
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _parse(values: dict[str, Any], path: Path) -> NetworkInfo:
    version = values["format_version"]
    if version > FORMAT_VERSION:
        raise NetworkFileError(
            f"{path} has format version {version}, this tag2mask reads up to {FORMAT_VERSION}; update tag2mask, or "
            f"train again"
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
    # Of what is a constant now, only the grid of the joint feature matters to a network that is trained.
    old = fixed(made_of).keys() - {"feature_stride"}
    read = {name: value for name, value in values["settings"].items() if name not in old}
    settings = type(made_of)(**current(made_of, read))
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
        _intensity(values.get("intensity")),
        {str(key): str(value) for key, value in values["extra"].items()},
    )


def _intensity(value: Any) -> tuple[float, float] | None:
    """Two ascending pixel values, or None.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return None
    low, high = (float(each) for each in value)
    if not -inf < low < high < inf:
        raise ValueError(f"intensity [{low}, {high}] should be two finite ascending pixel values")
    return low, high


def _shape(state: Mapping[str, torch.Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _other_classes(path: Path, trained: tuple[str, ...], given: tuple[str, ...]) -> str:
    """The message for two class lists that differ, by their first difference."""
    pairs = zip((*trained, *[None] * len(given)), (*given, *[None] * len(trained)), strict=True)
    number, (theirs, ours) = next((index, pair) for index, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
    said = ["no class" if name is None else repr(name) for name in (theirs, ours)]
    return (
        f"{path} was trained for another class list ({len(trained)} classes; here there are {len(given)}): class "
        f"{number} is {said[0]} in the file and {said[1]} here; set `--data.classes` to the file's list "
        f"({first_five(trained)}), or train a network for these classes"
    )
