"""Models of `transformers` by folder or by name: where their files are, and what is fetched from where.

A name on the hub becomes a folder of the hub's own cache first, so that everything after it reads a folder and needs
no network.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.networks.public_weights import Notify
from tag2mask.networks.resnet import RESNETS
from tag2mask.networks.segformer import SEGFORMERS
from tag2mask.networks.stages import IMAGENET_MEAN, IMAGENET_STD, Colour
from tag2mask.networks.wide_resnet import WIDE_RESNET

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of a file of weights, or of the list of its parts, in the order of preference."""

BACKBONE = "network.backbone"
"""The setting that names a model where no other is meant."""

_HALF: Colour = (0.5, 0.5, 0.5)
_INPUT_IN_MINUS_ONE_TO_ONE = {"mobilenet_v2", "vit", "beit"}
_NEVER_FROM_A_FILE = ("auto_map", "quantization_config", "id2label", "label2id")
"""What a model's configuration may hold and is never taken over: remote code, loaders, and class names."""

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
        setting: that ``name`` is the value of, for messages.
        also: more files to fetch, where the model has them.
        notify: told what is fetched from where and how large it is, before it is fetched; None logs it.

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
    """The configuration of the model in ``folder`` as JSON values, without what must not come from a file.

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
    """Mean and standard deviation of the model's input, RGB in [0, 1].

    Read from the folder's preprocessor configuration (image processors themselves may ask for torchvision); where
    there is none, 0.5 for the model types that expect [-1, 1] and the ImageNet figures for the others.
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
    """Neither reports nor progress bars of `transformers`: its callers check what matters."""
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
    """The first kind of weights that is whole: its files; empty where there is none."""
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
    """The hub's cache folder of the model where it is whole, and has one of ``also`` if any; asks no network."""
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
        raise UsageError(f"{setting}: {address} does not hold a transformers model ({CONFIG} and {WEIGHTS[0]})")
    return folder


def _wanted(files: list[str], weights: bool) -> list[str]:
    """Of the files of a hub model, those that are read: configuration, preprocessor, and one kind of weights."""
    wanted = [name for name in (CONFIG, PREPROCESSOR) if name in files]
    if weights:
        parts = r"-\d+-of-\d+"
        kinds = (
            r"model\.safetensors",
            rf"model({parts}\.safetensors|\.safetensors\.index\.json)",
            r"pytorch_model\.bin",
            rf"pytorch_model({parts}\.bin|\.bin\.index\.json)",
        )
        found = ([name for name in files if re.fullmatch(kind, name)] for kind in kinds)
        wanted += next((names for names in found if names), [])
    return wanted
