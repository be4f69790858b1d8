"""Files of `transformers` models, given by folder or by name on the Hugging Face hub.

A name is first resolved to a folder of the hub's cache; all further reading is from that folder, offline.
"""

import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import refuse_expansion
from tag2mask.networks.backbones.base import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Colour
from tag2mask.networks.backbones.weights import Notify

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.model",
)
WEIGHTS = {
    "model.safetensors": "",
    "model.safetensors.index.json": "model-*-of-*.safetensors",
    "pytorch_model.bin": "",
    "pytorch_model.bin.index.json": "pytorch_model-*-of-*.bin",
}
"""Files of weights, or indexes of their parts with the pattern of the parts' names, in the order of preference."""

BACKBONE = "network.backbone"
"""The setting that usually names a model."""

_IN_ZERO_TO_ONE: tuple[Colour, Colour] = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_IN_MINUS_ONE_TO_ONE: tuple[Colour, Colour] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_NORMALISATION = {
    "beit": _IN_MINUS_ONE_TO_ONE,
    "clip_vision_model": (CLIP_MEAN, CLIP_STD),
    "mobilenet_v2": _IN_MINUS_ONE_TO_ONE,
    "sam3": _IN_MINUS_ONE_TO_ONE,
    "siglip_vision_model": _IN_MINUS_ONE_TO_ONE,
    "tipsv2": _IN_ZERO_TO_ONE,
    "tipsv2_vision_model": _IN_ZERO_TO_ONE,
    "vit": _IN_MINUS_ONE_TO_ONE,
}
"""Mean and standard deviation of models without a preprocessor configuration; ImageNet's for all others."""

_NEVER_FROM_A_FILE = ("auto_map", "quantization_config", "id2label", "label2id")
"""Entries of a configuration that are dropped: remote code, loaders and class names."""

_LICENCES = {
    "CIDAS/clipseg": ("Apache-2.0", False),
    "facebook/dinov2": ("Apache-2.0", False),
    "facebook/dinov3": ("DINOv3 License", True),
    "facebook/sam-vit": ("Apache-2.0", False),
    "facebook/sam2": ("Apache-2.0", False),
    "facebook/sam3": ("SAM License", True),
    "google/tipsv2": ("Apache-2.0", False),
}
"""The licence of the weights, and whether they are gated, by the beginning of the name on the hub."""

logger = logging.getLogger(__name__)


def check_name(name: str, setting: str = BACKBONE, known: Sequence[str] = ()) -> None:
    """Raise a `UsageError` unless ``name`` is a folder or could be a name on the hub; ``known`` are further values."""
    if Path(name).expanduser().is_dir() or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return
    close = get_close_matches(name, known, n=2)
    choices = f"one of {', '.join(known)}, " if known else ""
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UsageError(
        f"{setting} should be {choices}a folder, or a name on the hub (owner/model), received {name!r}{hint}"
    )


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
        weights: whether the weights are needed.
        setting: the setting with the value ``name``, for messages.
        also: more files to fetch, if the model has them.
        notify: called before a download; None logs a warning.

    Raises:
        UsageError: the folder lacks a file, or ``name`` is neither a folder nor a name on the hub.
        Tag2maskError: the model is not on this machine and could not be fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise UsageError(f"{setting}: the folder {folder} has no {CONFIG}; give the folder of a transformers model")
        if weights and not weight_files(folder):
            random = ", or start from random weights with `--network.weights none`" if setting == BACKBONE else ""
            raise UsageError(
                f"{setting}: the folder {folder} has no weights, or not all of their parts (looked for "
                f"{', '.join(WEIGHTS)}); add them{random}"
            )
        return folder
    check_name(name, setting)
    return cached_folder(name, weights, also) or _download(name, weights, setting, also, notify or logger.warning)


def read_model_config(folder: Path, setting: str = BACKBONE) -> dict[str, Any]:
    """The configuration of the model in ``folder`` as JSON values, without the entries that `clean_config` drops.

    Raises:
        UsageError: it is not readable, or does not name a model type.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{setting}: {path} could not be read as JSON ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise UsageError(f"{setting}: {path} has no `model_type`, so it does not belong to a transformers model")
    return clean_config(values)


def clean_config(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration without code references, loaders, class names and the choice of an attention kernel.

    Raises:
        UsageError: it has more layers, or wider ones, than any published model.
    """
    kept = (key for key in values if key not in _NEVER_FROM_A_FILE and "implementation" not in key)
    found = {key: values[key] for key in kept}
    _check_numbers(found)
    return found


_COUNTS = ("block", "depth", "layer", "stage", "num_")
"""Parts of the names of settings that count layers."""

_SIZES = ("channel", "dim", "feature", "group", "head", "label", "size", "stride", "token", "width")
"""Parts of the names of settings that are sizes."""

_MOST_LAYERS, _LARGEST, _MOST_PARAMETERS = 1000, 1 << 20, 1 << 31


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Raise a `UsageError` for numbers that no model has: building it would take hours, or all memory."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _check_numbers(value)
            continue
        numbers = [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, int)]
        counts = any(part in name for part in _COUNTS) and not any(part in name for part in _SIZES)
        if numbers and (max(numbers) > _LARGEST or (counts and sum(numbers) > _MOST_LAYERS)):
            limit = f"at most {_MOST_LAYERS} in all" if counts else f"at most {_LARGEST}"
            raise UsageError(f"the configuration of the model says {name} {str(value)[:80]}, {limit} are allowed")


def check_parameters(build: Callable[[], nn.Module], folder: Path | None, setting: str = BACKBONE) -> None:
    """Check a model before memory is allocated for it.

    Args:
        build: makes the model.
        folder: of its weights; None: random ones.
        setting: the setting that names the model, for messages.

    Raises:
        UsageError: it has more parameters than its weights have bytes or, without weights, than `_MOST_PARAMETERS`; or
            a file of weights would take more memory than it has bytes.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        count = sum(parameter.numel() for parameter in build().parameters())
    files = [] if folder is None else [folder / name for name in weight_files(folder)]
    most = _MOST_PARAMETERS if folder is None else sum(file.stat().st_size for file in files)
    if count > most:
        given = "are allowed" if folder is None else f"fit into the weights in {folder}"
        described = f"{setting}: the configuration of the model describes {count} parameters"
        raise UsageError(f"{described}, at most {most} {given}; fetch the model again, or use another one")
    for file in files:
        try:
            refuse_expansion(file)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(f"{setting}: {file} could not be read as a file of weights ({error})") from error


def read_normalisation(folder: Path, model_type: str, setting: str = BACKBONE) -> tuple[Colour, Colour]:
    """Mean and standard deviation of the model's input, RGB in [0, 1], from the preprocessor configuration.

    What it does not say is that of the model type.
    """
    default = _NORMALISATION.get(model_type, (IMAGENET_MEAN, IMAGENET_STD))
    path = folder / PREPROCESSOR
    if not path.is_file():
        return default
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not values.get("do_normalize", True):
            return _IN_ZERO_TO_ONE
        mean, std = values.get("image_mean") or default[0], values.get("image_std") or default[1]
        (r, g, b), (s, t, u) = ([float(value) for value in colour] for colour in (mean, std))
        return (r, g, b), (s, t, u)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{setting}: {path} is not readable as the model's normalisation ({error})") from error


def read_input_side(folder: Path, patch: int, setting: str = BACKBONE) -> int:
    """Pixels of the square input that the preprocessor configuration names, a multiple of ``patch``.

    Raises:
        UsageError: it is missing or names no such size.
    """
    path = folder / PREPROCESSOR
    try:
        size = json.loads(path.read_text(encoding="utf-8"))["size"]
        side = int(size["height"] if isinstance(size, dict) else size)
        if side % patch or not 0 < side <= 1 << 12:
            raise ValueError(f"{side} pixels")
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UsageError(
            f"{setting}: {path} does not name the size of the model's input, a multiple of {patch} pixels ({error}); "
            "fetch the model again"
        ) from error
    return side


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


def weight_files(folder: Path) -> list[str]:
    """The files of the first complete kind of weights, if any."""
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


def local_folder(name: str, also: Sequence[str] = ()) -> Path | None:
    """The folder of a model that is on this machine, as `resolve_folder` takes it; nothing is fetched."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder if (folder / CONFIG).is_file() else None
    return cached_folder(name, True, also)


def cached_folder(name: str, weights: bool, also: Sequence[str]) -> Path | None:
    """The hub's cache folder of a model, if it is complete and has one of the files ``also``; works offline."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None
    complete = (folder / CONFIG).is_file() and (not weights or weight_files(folder))
    return folder if complete and (not also or any((folder / file).is_file() for file in also)) else None


def licence_note(name: str, *, gated: bool = False) -> str:
    """The licence of a model's weights, or its page if the licence is not known, and the gate."""
    page = f"https://huggingface.co/{name}"
    known = (kind for prefix, kind in _LICENCES.items() if name.startswith(prefix))
    licence, closed = next(known, (f"see {page}", False))
    access = f", gated: ask for access at {page} and log in with `hf auth login`"
    return f"licence: {licence}{access if gated or closed else ''}"


def _cause(name: str, error: Exception) -> str:
    """The cause of a failed download, or the licence, as a part of a sentence."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    gated = isinstance(error, GatedRepoError)
    if isinstance(error, RepositoryNotFoundError) and not gated:  # a gated model's error is of both types
        return "the hub has no such model, or shows it only after `hf auth login`"
    return licence_note(name, gated=gated)


def _download(name: str, weights: bool, setting: str, also: Sequence[str], notify: Notify) -> Path:
    from huggingface_hub import constants, model_info, snapshot_download

    address = f"{constants.ENDPOINT}/{name}"
    try:
        listed = model_info(name, files_metadata=True, timeout=30).siblings or []
        sizes = {file.rfilename: file.size or 0 for file in listed}
        wanted = [*_wanted(list(sizes), weights), *(file for file in also if file in sizes)]
        megabytes = sum(sizes[file] for file in wanted) / 2**20
        size, to = f"{megabytes:.1f} MiB", constants.HF_HUB_CACHE
        notify(f"downloading {', '.join(wanted)} ({size}) of {address} to {to}; {licence_note(name)}")
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises errors of several libraries, which vary by version
        reason = str(error).strip().partition("\n")[0]
        raise Tag2maskError(
            f"the model {name} is not on this machine and could not be fetched from {address} ({type(error).__name__}: "
            f"{reason}); {_cause(name, error)}; give a folder that holds it, as `--{setting} FOLDER`"
        ) from error
    if not (folder / CONFIG).is_file() or (weights and not weight_files(folder)):
        raise UsageError(f"{setting}: {address} does not hold a transformers model ({CONFIG} and model.safetensors)")
    return folder


def _wanted(files: list[str], weights: bool) -> list[str]:
    """The files of a hub model to fetch: configuration, preprocessor, and one kind of weights."""
    wanted = [name for name in (CONFIG, PREPROCESSOR) if name in files]
    kind = next((name for name in WEIGHTS if weights and name in files), None)
    return wanted if kind is None else [*wanted, kind, *matching(files, WEIGHTS[kind])]
