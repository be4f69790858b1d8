"""Public checkpoints and files of weights: fetched, read, and loaded into a backbone. No code in a file is run."""

import hashlib
import logging
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import refuse_expansion
from tag2mask.core.machine_errors import machine_error

ADDRESS = "https://download.pytorch.org/models/"
"""Address of torchvision's public checkpoints."""

Notify = Callable[[str], None]
"""Called before a download with one line of text: what, from where, how large."""

_CLASSIFIERS = ("fc.", "fc8.", "linear1000.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicCheckpoint:
    """A file at `ADDRESS`, trained on ImageNet."""

    file: str  # its name, which ends in the first digits of its SHA-256
    megabytes: float  # its size in MiB, rounded

    @property
    def url(self) -> str:
        """Its address."""
        return ADDRESS + self.file

    @property
    def licence(self) -> str:
        """A note on its origin and licence."""
        return f"torchvision's {self.file} (BSD-3-Clause), trained on ImageNet, whose images have their own terms"

    @property
    def hash_prefix(self) -> str:
        """The first digits of its SHA-256."""
        return Path(self.file).stem.rpartition("-")[2]

    @property
    def cached(self) -> Path:
        """Its path in the cache of torch.hub, which the environment variable TORCH_HOME moves."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


def missing_by_name(name: str, source: str) -> UsageError:
    """The error for weights that cannot be fetched by name: ``source`` says how the user gets them."""
    return UsageError(
        f"network.weights: those of {name} are not fetched by name; {source} and give its path: "
        f"`--network.weights PATH`"
    )


def fetch(checkpoint: PublicCheckpoint, notify: Notify | None = None) -> Path:
    """The checkpoint's file on this machine; downloaded once, its hash verified every time.

    Args:
        notify: called before a download; None logs a warning.

    Raises:
        Tag2maskError: the download failed, or the file has another hash.
    """
    target = checkpoint.cached
    if not target.is_file():
        (notify or logger.warning)(f"downloading {checkpoint.url} ({checkpoint.megabytes} MiB) to {target}")
        _download(checkpoint, target)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(checkpoint.hash_prefix):
        raise Tag2maskError(
            f"{target} is damaged: its SHA-256 should begin with {checkpoint.hash_prefix}, it is {digest[:16]}…; "
            f"delete it to have it fetched again"
        )
    return target


def _download(checkpoint: PublicCheckpoint, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            checkpoint.url, str(target), hash_prefix=checkpoint.hash_prefix, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:
        raise Tag2maskError(
            f"{checkpoint.file} ({checkpoint.megabytes} MiB) could not be fetched from {checkpoint.url} ({error}); put "
            f"the file into {target.parent}, or give it by `--network.weights PATH`, or start from random weights with "
            f"`--network.weights none`"
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` or `.safetensors` file, by name, on the CPU.

    Raises:
        UsageError: the file is missing, unreadable, or does not hold named tensors.
    """
    if not path.is_file():
        raise UsageError(
            f"network.weights: there is no file {path}; give a .pth or .safetensors file, `imagenet` or `none`"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        refuse_expansion(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises many kinds of errors
        if found := machine_error(error):
            size = path.stat().st_size
            raise Tag2maskError(f"{path} was not read; it has {size} bytes and may claim more: {found}") from error
        reason = library_reason(error)
        raise UsageError(f"network.weights: {path} could not be read as a file of weights ({reason})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(
            f"network.weights: {path} should hold named tensors (a state dict), it holds a {type(state).__name__}"
        )
    if other := [name for name, value in state.items() if not _is_plain(value)]:
        raise UsageError(
            f"network.weights: {path} should hold dense tensors of real numbers; other: {first_five(other)}; save its "
            f"state dict again with `.float()`"
        )
    return state


def _is_plain(value: Tensor) -> bool:
    is_dense = value.layout == torch.strided and value.device.type == "cpu"
    return is_dense and not value.is_quantized and not value.is_complex()


def library_reason(error: Exception) -> str:
    """The reason of an error of a library that reads weights, without torch's advice to load code with them."""
    reason = str(error).strip().partition("\n")[0]
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds something else than tensors, numbers and text, which is never loaded"
    return reason or type(error).__name__


def fit_weights(network: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Load tensors into a network without a classifier; tensors of a classifier (`fc…`, `linear1000`) are left out.

    Raises:
        UsageError: missing, unexpected or misshapen tensors.
    """
    state = {key: value for key, value in state.items() if not key.startswith(_CLASSIFIERS)}
    own = network.state_dict()
    # Checkpoints older than torch 0.4 do not count batches, and nothing here reads the count.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {list(value.shape)} instead of {list(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)]
    problems = [f"{label}: {first_five(keys)}" for label, keys in found if keys]
    if problems:
        raise UsageError(f"network.weights: {path} does not fit {name}; {'; '.join(problems)}")
    network.load_state_dict(state, strict=False)
