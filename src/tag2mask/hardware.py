"""What this machine has: cores, memory, disk; by the standard library alone, so that it can be asked when torch fails.

Every answer may be None: not every system tells.
"""

import os
import shutil
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 1 << 60
"""Bytes; cgroups of version 1 write a number like this for no limit."""


def cores() -> int | None:
    """The processor cores that this process may use: those it is bound to, and no more than its quota."""
    try:
        bound = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        bound = os.cpu_count() or 0
    quota = _quota()
    return min(bound, max(1, round(quota))) if quota and bound else bound or None


def memory() -> tuple[int | None, int | None]:
    """(total, free) bytes of memory that this process may use: the machine's, and no more than its cgroups allow."""
    total, free = _machine_memory()
    for limit, used in _cgroup_memory():
        total = limit if total is None else min(total, limit)
        left = max(0, limit - used)
        free = left if free is None else min(free, left)
    return total, free


def disk_free(folder: Path) -> int | None:
    """Free bytes where ``folder`` is, or where it would be made."""
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def _machine_memory() -> tuple[int | None, int | None]:
    """(total, available) of the whole machine."""
    try:
        lines = (line.split() for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        found = {line[0].rstrip(":"): int(line[1]) << 10 for line in lines if len(line) > 1 and line[1].isdecimal()}
        return found.get("MemTotal"), found.get("MemAvailable", found.get("MemFree"))
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (AttributeError, OSError, ValueError):
        return None, None


def _cgroup_memory() -> list[tuple[int, int]]:
    """(limit, used without what can be given back) of each control group above this process that has a limit."""
    found = []
    for folder in _own_groups("memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < _NO_LIMIT:
            found.append((limit, max(0, used - _reclaimable(folder / "memory.stat"))))
    return found


def _reclaimable(path: Path) -> int:
    """Bytes of file cache that the kernel gives back when memory is wanted."""
    try:
        words = dict(line.split()[:2] for line in path.read_text(encoding="ascii").splitlines())
        return int(words.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0


def _quota() -> float | None:
    """Processors that the control groups give this process; None for all."""
    shares = []
    for folder in _own_groups("cpu"):
        try:
            words = (folder / "cpu.max").read_text(encoding="ascii").split()
            shares += [int(words[0]) / int(words[1])] if words[0] != "max" else []
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
            shares += [quota / period] if quota and period else []
    return min(shares, default=None)


def _own_groups(controller: str) -> list[Path]:
    """The folders of this process's control groups, from its own to the root, of both versions."""
    folders = [_CGROUPS, _CGROUPS / controller]
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or controller in controllers.split(","):
                root = _CGROUPS if controllers == "" else _CGROUPS / controller
                own = root / path.lstrip("/")
                folders += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    except (OSError, ValueError):
        pass
    return list(dict.fromkeys(folders))


def _number(path: Path) -> int | None:
    """A file that holds one number; None where there is none, or it says `max` or a negative number."""
    try:
        value = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return value if value >= 0 else None
