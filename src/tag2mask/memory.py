"""How the process keeps its memory: training allocates the same large blocks at every step."""

import ctypes
import sys
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def retain_freed_memory() -> bool:
    """Ask the C library to keep freed blocks for the next step instead of handing them back to the system.

    By default glibc maps every large tensor anew, and the first touch of each page costs more than many of the
    operations on it: a training step of MobileNetV2 at 320 px takes about half the time with this. Peak memory stays
    what it was.

    Returns:
        whether the C library could be asked; it can with glibc on Linux alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    never = 2**31 - 1
    return all([mallopt(_M_TRIM_THRESHOLD, never), mallopt(_M_TOP_PAD, 2**26), mallopt(_M_MMAP_MAX, 0)])


def channels_last(network: Network) -> Network:
    """Lay out the weights of ``network`` with the channels last, in place: convolutions run faster so."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
