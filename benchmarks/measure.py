"""Time and memory of a piece of work in this process, for the other benchmarks."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tag2mask.core.device import release_memory


def process_memory(name: str) -> float:
    """A field of /proc/self/status, such as VmRSS, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def peak_memory(work: Callable[[], object]) -> float:
    """The peak of resident memory during some work, above the memory before it, in MiB."""
    release_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = process_memory("VmRSS")
    work()
    return process_memory("VmHWM") - before


def seconds(work: Callable[[], object]) -> float:
    """The duration of some work, including its work on a GPU."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def hardware(device: str = "cpu") -> dict[str, Any]:
    """The hardware and software of a measurement."""
    return {
        "processor": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
