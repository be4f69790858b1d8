"""The device of a command, and the memory of the process and of networks."""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import nn

from tag2mask.core.errors import UsageError

Network = TypeVar("Network", bound=nn.Module)

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4


def resolve_device(name: str) -> torch.device:
    """The device of a setting: `cpu`, `cuda`, or `auto`, the GPU if there is one.

    Raises:
        UsageError: `cuda` without a GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available; use --device cpu, or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def emulates_bf16(device: torch.device) -> bool:
    """Whether a device has no instructions for bf16, so that bf16 is slower than fp32 (15 times with AVX2)."""
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not _processor_has_bf16()


def _processor_has_bf16() -> bool:
    if platform.machine().lower() in ("x86_64", "amd64"):  # oneDNN says yes to any AVX-512, and emulates
        asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(has is not None and has() for has in asked)
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def precision_on(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision on a device; `auto` is bf16 if the device has instructions for it."""
    if precision != "auto":
        return precision
    return "fp32" if emulates_bf16(device) else "bf16"


def channels_last(network: Network) -> Network:
    """Store the weights of ``network`` in channels-last order, in place, for faster convolutions."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


@contextmanager
def retained_memory() -> Iterator[None]:
    """Let glibc keep freed blocks while the block runs, then return them to the system; without glibc, do nothing.

    By default glibc maps every large tensor anew, and the first touch of each page is slow: a training step of
    MobileNetV2 at 320 px takes about half the time with this. Use it only for work that repeats the same sizes: with
    varying sizes the kept blocks accumulate.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TOP_PAD, 2**26)
        library.mallopt(_M_MMAP_MAX, 0)
    try:
        yield
    finally:
        release_memory()


def release_memory() -> None:
    """Return freed blocks to the system, from now on at the thresholds that glibc would have raised its own to.

    It raises them with the sizes that are freed until one is set, mallopt(3): with the initial ones, every tensor from
    128 kB on would be mapped anew, and the dense CRF would take twice as long after a training as before.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, 2**25)
        library.mallopt(_M_TRIM_THRESHOLD, 2**26)
        library.mallopt(_M_TOP_PAD, 2**17)
        library.mallopt(_M_MMAP_MAX, 2**16)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
