"""Cores, memory and disk that this process may use; None where the system does not say."""

import os
import shutil
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int | None:
    """The processor cores of this process: those it is bound to, up to its quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    for group in _groups():
        quota = _words(group / "cpu.max")  # microseconds of quota and of period
        if bound and quota and quota[0].isdecimal():
            bound = min(bound, max(1, round(int(quota[0]) / int(quota[1]))))
    return bound


def memory() -> tuple[int | None, int | None]:
    """(total, free) bytes of memory: the machine's, up to the limits of its control groups."""
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
    """Free bytes where ``folder`` is, or where it would be made."""
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def _groups() -> list[Path]:
    """The folders of this process's control groups (version 2), from its own to the root."""
    own = [line.removeprefix("0::/") for line in _words(Path("/proc/self/cgroup")) if line.startswith("0::/")]
    group = _CGROUPS / "".join(own)
    return [group, *(parent for parent in group.parents if parent.is_relative_to(_CGROUPS))]


def _words(path: Path) -> list[str]:
    """The words of a file; none where there is none."""
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []
