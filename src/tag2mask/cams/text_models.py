"""Loading of text-image models with their tokenizers, and the precision of their image sides."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.machine_errors import is_machine_error
from tag2mask.networks.backbones.hub import TOKENIZER_FILES
from tag2mask.networks.backbones.weights import Notify, library_reason
from tag2mask.networks.pretrained import load_pretrained

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The type of numbers of each precision."""


def model_precision(name: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """The precision behind a setting: `auto` is fp16 on a GPU, fp32 elsewhere."""
    if name == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    return name


def load_text_model(
    name: str, classes: Mapping[str, tuple[str, str]], setting: str = "seeds.model", *, notify: Notify | None = None
) -> tuple[Any, Any, Path]:
    """A text-image model with its tokenizer, on the CPU in fp32; arguments as in `load_pretrained`.

    Returns:
        the model, its tokenizer, and its folder.

    Raises:
        UsageError: it is of another type, or files or packages are missing.
        Tag2maskError: it could not be fetched, or its weights or its tokenizer do not fit.
    """
    import transformers

    model, folder = load_pretrained(name, classes, setting, also=TOKENIZER_FILES, notify=notify)
    is_tips = model.config.model_type == "tipsv2"
    kind = transformers.Tipsv2Tokenizer if is_tips else transformers.CLIPTokenizer
    if not (folder / "tokenizer.json").is_file():
        parts = ("tokenizer.model",) if is_tips else ("vocab.json", "merges.txt")
        if not all((folder / part).is_file() for part in parts):  # the library would read it as one without words
            wanted = " and ".join(parts)
            remedy = "add them" if Path(name).expanduser().is_dir() else f"fetch them with `hf download {name}`"
            raise UsageError(f"{setting}: {folder} has no tokenizer.json and no {wanted}; {remedy}")
        if is_tips:
            _check_sentencepiece(folder, setting)
    try:
        tokenizer = kind.from_pretrained(folder)
    except Exception as error:  # the library raises errors of many kinds
        if is_machine_error(error):
            raise
        reason = library_reason(error)
        raise Tag2maskError(f"{setting}: {folder} could not be loaded ({reason}); fetch it again") from error
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise Tag2maskError(f"{setting}: the tokenizer in {folder} has more tokens than the model; fetch it again")
    return model, tokenizer, folder


def _check_sentencepiece(folder: Path, setting: str) -> None:
    """Check that the library can read a tokenizer that is a file of SentencePiece."""
    if lacking := [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]:
        packages = " ".join(name.removeprefix("google.") for name in lacking)
        raise UsageError(
            f"{setting}: {folder / 'tokenizer.model'} cannot be read without further packages; install them with "
            f"`pip install {packages}`, or give a folder with a tokenizer.json"
        )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that it is a part of
        return False
