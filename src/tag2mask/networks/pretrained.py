"""Whole models of `transformers`, for texts and images or for masks: their weights, and images as their input."""

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.machine_errors import is_machine_error
from tag2mask.core.provenance import crc_of
from tag2mask.networks.backbones.base import Colour
from tag2mask.networks.backbones.hub import (
    CONFIG,
    PREPROCESSOR,
    TOKENIZER_FILES,
    check_parameters,
    quiet,
    read_model_config,
    resolve_folder,
    weight_files,
)
from tag2mask.networks.backbones.weights import Notify, library_reason


def find_type(name: str, classes: Mapping[str, tuple[str, str]], setting: str, *, notify: Notify | None = None) -> str:
    """The `model_type` of a model, of whose files only the configuration is fetched; arguments as in `load_pretrained`.

    Raises:
        UsageError: it is not allowed, the installed `transformers` lacks it, or the configuration is missing.
        Tag2maskError: it could not be fetched.
    """
    import transformers

    folder = resolve_folder(name, weights=False, setting=setting, notify=notify)
    kind: str = read_model_config(folder, setting)["model_type"]
    if kind not in classes:
        allowed = " or ".join(f"'{each}'" for each in classes)
        raise UsageError(f"{setting}: {name} is a model of type '{kind}', it should be {allowed}")
    if not all(hasattr(transformers, each) for each in classes[kind]):
        raise UsageError(
            f"{setting}: transformers {transformers.__version__} has no models of type '{kind}'; update it with "
            "`pip install --upgrade transformers`"
        )
    return kind


def load_pretrained(
    name: str,
    classes: Mapping[str, tuple[str, str]],
    setting: str,
    *,
    also: Sequence[str] = (),
    attention: str = "eager",
    notify: Notify | None = None,
) -> tuple[Any, Path]:
    """A model from a local folder or by name, frozen, on the CPU in fp32.

    Args:
        name: a folder of `transformers`, or ``owner/model`` on the hub.
        classes: of `transformers` for the configuration and for the model, by the allowed `model_type`.
        setting: the setting that names the model, for messages.
        also: more files to fetch, if the model has them.
        attention: how `transformers` computes it; only ``eager`` returns the attention itself.
        notify: called before a download; None logs a warning.

    Returns:
        the model and its folder.

    Raises:
        UsageError: it is of another type, or files are missing.
        Tag2maskError: it could not be fetched, or its weights do not fit.
    """
    import transformers

    kind = find_type(name, classes, setting, notify=notify)
    folder = resolve_folder(name, weights=True, setting=setting, also=also, notify=notify)
    values = read_model_config(folder, setting)
    config_class, model_class = (getattr(transformers, each) for each in classes[kind])
    try:
        check_parameters(lambda: model_class(config_class.from_dict(values)), folder, setting)
        with quiet():
            model, info = model_class.from_pretrained(
                folder, attn_implementation=attention, dtype=torch.float32, output_loading_info=True
            )
    except UsageError:
        raise
    except ImportError as error:
        raise UsageError(f"{setting}: {name} needs a library that is not installed: {library_reason(error)}") from error
    except Exception as error:  # the library raises errors of many kinds
        if is_machine_error(error):
            raise
        reason = library_reason(error)
        raise Tag2maskError(f"{setting}: {folder} could not be loaded ({reason}); fetch it again") from error
    if missing := [key for key in info["missing_keys"] if "position_ids" not in key]:
        lacking = first_five(sorted(missing))
        raise Tag2maskError(f"{setting}: the weights in {folder} lack {lacking}; fetch them again")
    return model.eval().requires_grad_(False), folder


def model_input(
    image: npt.NDArray[np.uint8], size: tuple[int, int], normalisation: tuple[Colour, Colour], resampling: int
) -> Tensor:
    """An RGB image, uint8 (H, W, 3), resized by a filter of Pillow, float32 (3, h, w), normalised."""
    pixels = Image.fromarray(image).resize(size[::-1], Image.Resampling(resampling))
    mean, std = (np.array(values, np.float32) for values in normalisation)
    normalised = (np.asarray(pixels, dtype=np.float32) / 255 - mean) / std
    return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()


def model_digest(folder: Path) -> str:
    """A digest of the content of the files that are read: configuration, preprocessor, tokenizer and weights."""
    small = [name for name in (CONFIG, PREPROCESSOR, *TOKENIZER_FILES) if (folder / name).is_file()]
    paths = [folder / name for name in sorted({*small, *weight_files(folder)})]
    contents = [(path.name, _crc(path, path.stat().st_size, path.stat().st_mtime_ns)) for path in paths]
    return f"{zlib.crc32(repr(contents).encode()):08x}"


@lru_cache
def _crc(path: Path, size: int, modified: int) -> int:
    """`crc_of`, once per command; size and time of the file tell its states apart."""
    return crc_of(path)
