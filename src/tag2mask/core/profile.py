"""Where the time of a command goes, for ``--profile``: network, method, reading, writing and waiting."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal, get_args

import torch

Part = Literal["network", "method", "writing", "waiting", "reading"]
"""`method`: POT, CRF and random walk, or waiting for threads that compute these (`stop_counting`); `waiting`: for what
threads read; `reading`: in these threads, side by side."""

PARTS: tuple[Part, ...] = get_args(Part)


class _Clock(threading.local):
    """The parts that a thread is in, from the outermost, when the innermost one began, and whether they count."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.began = 0.0
        self.counts = True


_clock, _lock = _Clock(), threading.Lock()
_seconds: dict[Part, float] | None = None


def start_profile() -> None:
    """Begin to count, from 0."""
    global _seconds
    _seconds = dict.fromkeys(PARTS, 0.0)


def read_profile() -> dict[Part, float]:
    """The seconds of each part since `start_profile`."""
    return dict(_seconds or {})


def stop_counting() -> None:
    """Count nothing more in this thread: another thread counts the time that it waits for this one."""
    _clock.counts = False


@contextmanager
def timed(part: Part) -> Iterator[None]:
    """Count the time of a block, or of each call of a function, as a part; what is counted within it is not its own."""
    if _seconds is None or not _clock.counts:
        yield
        return
    _count()
    _clock.parts.append(part)
    try:
        yield
    finally:
        _count()
        _clock.parts.pop()


def _count() -> None:
    """Add the time since the last change to the innermost part of this thread."""
    parts = _clock.parts
    if parts and parts[-1] in ("network", "method") and torch.cuda.is_available():
        torch.cuda.synchronize()
    now = perf_counter()
    if parts and _seconds is not None:
        with _lock:
            _seconds[parts[-1]] += now - _clock.began
    _clock.began = now
