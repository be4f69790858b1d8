"""Cores, memory and disk that this process may use; None if the system does not say."""

import os
import shutil
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int | None:
    """Processor cores of this process: its CPU affinity, up to the quota of its control groups."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    for group in _groups():
        quota = _words(group / "cpu.max")  # microseconds of quota and of period
        if bound and quota and quota[0].isdecimal():
            bound = min(bound, max(1, round(int(quota[0]) / int(quota[1]))))
    return bound


def memory() -> tuple[int | None, int | None]:
    """(total, free) bytes of memory of the machine, up to the limits of the control groups."""
    try:
        machine = psutil.virtual_memory()
    except OSError:
        return None, None
    total, free = machine.total, machine.available
    for group in _groups():
        limit, used, stat = (_words(group / f"memory.{name}") for name in ("max", "current", "stat"))
        if limit and used and limit[0].isdecimal():
            cached = int(dict(zip(stat[::2], stat[1::2], strict=False)).get("inactive_file", 0))  # can be reclaimed
            left = int(limit[0]) - max(0, int(used[0]) - cached)
            total, free = min(total, int(limit[0])), max(0, min(free, left))
    return total, free


def disk_free(folder: Path) -> int | None:
    """Free bytes of the disk of ``folder``, which need not exist."""
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def _groups() -> list[Path]:
    """The control groups (version 2) of this process, from its own to the root."""
    own = [line.removeprefix("0::/") for line in _words(Path("/proc/self/cgroup")) if line.startswith("0::/")]
    group = _CGROUPS / "".join(own)
    return [group, *(parent for parent in group.parents if parent.is_relative_to(_CGROUPS))]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []
