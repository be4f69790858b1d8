"""Files of `transformers` models, given by folder or by name on the Hugging Face hub.

A name is resolved to a folder of the hub's cache first: everything else reads a folder and needs no connection.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Colour
from tag2mask.networks.backbones.resnet import RESNETS
from tag2mask.networks.backbones.weights import Notify
from tag2mask.networks.backbones.wide_resnet import WIDE_RESNET

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = {
    "model.safetensors": "",
    "model.safetensors.index.json": "model-*-of-*.safetensors",
    "pytorch_model.bin": "",
    "pytorch_model.bin.index.json": "pytorch_model-*-of-*.bin",
}
"""Files of weights, or the lists of their parts with the names of these, in the order of preference."""

BACKBONE = "network.backbone"
"""The setting that usually names a model."""


def _segformer(depths: tuple[int, int, int, int], width: int, decoder: int) -> dict[str, Any]:
    """A configuration; the stages have ``width``, 2, 5 and 8 times as many channels, as all published ones do."""
    return {
        "model_type": "segformer",
        "depths": list(depths),
        "hidden_sizes": [width, 2 * width, 5 * width, 8 * width],
        "decoder_hidden_size": decoder,
    }


SEGFORMERS = {
    "segformer-b0": _segformer((2, 2, 2, 2), 32, 256),
    "segformer-b1": _segformer((2, 2, 2, 2), 64, 256),
    "segformer-b2": _segformer((3, 4, 6, 3), 64, 768),
    "segformer-b3": _segformer((3, 4, 18, 3), 64, 768),
    "segformer-b4": _segformer((3, 8, 27, 3), 64, 768),
    "segformer-b5": _segformer((3, 6, 40, 3), 64, 768),
}
"""Configurations by name, for random weights. Source: Xie et al., SegFormer, NeurIPS 2021, table 6."""

_HALF: Colour = (0.5, 0.5, 0.5)
_INPUT_IN_MINUS_ONE_TO_ONE = {"mobilenet_v2", "vit", "beit"}
_NEVER_FROM_A_FILE = ("auto_map", "quantization_config", "id2label", "label2id")
"""Entries of a configuration that are dropped: remote code, loaders and class names."""

logger = logging.getLogger(__name__)


def resolve_folder(
    name: str,
    *,
    weights: bool,
    setting: str = BACKBONE,
    also: Sequence[str] = (),
    notify: Notify | None = None,
) -> Path:
    """The folder with a model's configuration and, if asked for, its weights.

    Args:
        name: a folder, or ``owner/model`` on the hub; the latter is downloaded unless the hub's cache has it.
        weights: whether the weights are needed as well.
        setting: the setting with the value ``name``, for messages.
        also: more files to fetch, where the model has them.
        notify: called before a download; None logs a warning.

    Raises:
        UsageError: the folder lacks a file, or ``name`` is neither a folder nor a name.
        Tag2maskError: the model is not on this machine and could not be fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise UsageError(f"{setting}: the folder {folder} has no {CONFIG}; give the folder of a transformers model")
        if weights and not _weight_files(folder):
            otherwise = ", or start from random weights with `--network.weights none`" if setting == BACKBONE else ""
            raise UsageError(
                f"{setting}: the folder {folder} has no weights, or not all of their parts (looked for "
                f"{', '.join(WEIGHTS)}); add them{otherwise}"
            )
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        if setting != BACKBONE:
            raise UsageError(
                f"{setting}: {name!r} is no folder, and no name on the hub (owner/model); give one of these"
            )
        known = (*RESNETS, WIDE_RESNET, *SEGFORMERS)
        close = get_close_matches(name, known, n=2)
        offer = f"did you mean {' or '.join(close)}? " if close else ""
        raise UsageError(
            f"{setting}: {name!r} is none of {', '.join(known)}, no folder, and no name on the hub "
            f"(owner/model); {offer}give one of these"
        )
    return cached_folder(name, weights, also) or _download(name, weights, setting, also, notify or logger.warning)


def read_model_config(folder: Path, setting: str = BACKBONE) -> dict[str, Any]:
    """The configuration of the model in ``folder`` as JSON values, without the entries that `clean_config` drops.

    Raises:
        UsageError: it is not readable, or names no model type.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{setting}: {path} could not be read as JSON ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise UsageError(f"{setting}: {path} names no `model_type`, so it is not that of a transformers model")
    return clean_config(values)


def clean_config(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration without code references, loaders and class names, and without a choice of attention kernel."""
    kept = (key for key in values if key not in _NEVER_FROM_A_FILE and "implementation" not in key)
    return {key: values[key] for key in kept}


def read_normalisation(folder: Path, model_type: str) -> tuple[Colour, Colour]:
    """Mean and standard deviation of the model's input, RGB in [0, 1], from the preprocessor configuration.

    Without one: 0.5 for the model types that expect [-1, 1], ImageNet's for the others.
    """
    default = (_HALF, _HALF) if model_type in _INPUT_IN_MINUS_ONE_TO_ONE else (IMAGENET_MEAN, IMAGENET_STD)
    path = folder / PREPROCESSOR
    if not path.is_file():
        return default
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not values.get("do_normalize", True):
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return _colour(values.get("image_mean", default[0])), _colour(values.get("image_std", default[1]))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"network.backbone: {path} is not readable as the model's normalisation ({error})") from error


def _colour(values: Any) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the reports and progress bars of `transformers`."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _weight_files(folder: Path) -> list[str]:
    """The files of the first complete kind of weights; empty where there is none."""
    for name in WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [name]
        try:
            parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if all((folder / part).is_file() for part in parts):
            return [name, *parts]
    return []


def cached_folder(name: str, weights: bool, also: Sequence[str]) -> Path | None:
    """The hub's cache folder of a complete model with one of the files ``also``, if any; uses no connection."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None
    whole = (folder / CONFIG).is_file() and (not weights or bool(_weight_files(folder)))
    whole = whole and (not also or any((folder / file).is_file() for file in also))
    return folder if whole else None


def _download(name: str, weights: bool, setting: str, also: Sequence[str], notify: Notify) -> Path:
    from huggingface_hub import constants, model_info, snapshot_download

    address = f"{constants.ENDPOINT}/{name}"
    try:
        files = model_info(name, files_metadata=True, timeout=30).siblings or []
        sizes = {file.rfilename: file.size or 0 for file in files}
        wanted = [*_wanted(list(sizes), weights), *(file for file in also if file in sizes)]
        megabytes = sum(sizes[file] for file in wanted) / 2**20
        notify(f"downloading {', '.join(wanted)} ({megabytes:.1f} MiB) of {address} to {constants.HF_HUB_CACHE}")
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises errors of several libraries, and other ones in every version
        reason = str(error).strip().partition("\n")[0]
        raise Tag2maskError(
            f"the model {name} is not on this machine and could not be fetched from {address} ({type(error).__name__}: "
            f"{reason}); give a folder that holds it, as `--{setting} FOLDER`"
        ) from error
    if not (folder / CONFIG).is_file() or (weights and not _weight_files(folder)):
        raise UsageError(f"{setting}: {address} does not hold a transformers model ({CONFIG} and model.safetensors)")
    return folder


def _wanted(files: list[str], weights: bool) -> list[str]:
    """The files of a hub model that are read: configuration, preprocessor, and one kind of weights."""
    wanted = [name for name in (CONFIG, PREPROCESSOR) if name in files]
    kind = next((name for name in WEIGHTS if weights and name in files), None)
    return wanted if kind is None else [*wanted, kind, *matching(files, WEIGHTS[kind])]
