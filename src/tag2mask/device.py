"""The one place where a device is chosen."""

import torch

from tag2mask.errors import UsageError


def resolve_device(name: str) -> torch.device:
    """The device behind a setting.

    Args:
        name: `auto` takes the GPU if there is one; `cpu`; `cuda`.

    Raises:
        UsageError: `cuda` where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available; use --device cpu, or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def emulates_bf16(device: torch.device) -> bool:
    """Whether a device has no instructions for bf16, so that it is slower than fp32 (15 times with AVX2)."""
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
