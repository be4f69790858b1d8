"""How the process keeps its memory: training allocates the same large blocks at every step."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

# The second one came with a later torch.
FAULTS_OF_THE_MACHINE: tuple[type[BaseException], ...] = (
    MemoryError,
    torch.OutOfMemoryError,
    *([torch.AcceleratorError] if hasattr(torch, "AcceleratorError") else []),
)
"""What a full or broken device raises, whatever file is being read: no reason to call the file damaged."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@contextmanager
def retained_memory() -> Iterator[bool]:
    """Have the C library keep freed blocks for the next step while the block runs, then hand them back to the system.

    By default glibc maps every large tensor anew, and the first touch of each page costs more than many of the
    operations on it: a training step of MobileNetV2 at 320 px takes about half the time with this. It suits work that
    allocates the same sizes again and again; with ever new sizes the kept blocks would pile up.

    Yields:
        whether the C library could be asked; it can with glibc on Linux alone.
    """
    library = _glibc()
    if library is None:
        yield False
        return
    never = 2**31 - 1
    kept = [
        library.mallopt(_M_TRIM_THRESHOLD, never),
        library.mallopt(_M_TOP_PAD, 2**26),
        library.mallopt(_M_MMAP_MAX, 0),
    ]
    try:
        yield all(kept)
    finally:
        release_memory()


def release_memory() -> None:
    """Hand freed blocks back to the system, from now on again: glibc's initial thresholds, mallopt(3), held fixed."""
    library = _glibc()
    if library is not None:
        library.mallopt(_M_TRIM_THRESHOLD, 2**17)
        library.mallopt(_M_TOP_PAD, 2**17)
        library.mallopt(_M_MMAP_MAX, 2**16)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def channels_last(network: Network) -> Network:
    """Lay out the weights of ``network`` with the channels last, in place: convolutions run faster so."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
