"""Which photographs a run works on, and reading them while the network works on others."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tag2mask.data.decided import read_decided
from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet, open_photos
from tag2mask.errors import UsageError
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.corrections import data_of, read_together

_AHEAD = 2
"""Batches that are read while one is in the network."""

Answer = TypeVar("Answer")


def photographs(config: Config, split: str | None = None, *, together: bool = False, decided: bool = True) -> PhotoSet:
    """The photographs that a run works on, as the settings and ``--limit`` say.

    Args:
        config: every setting.
        split: overrides that of the settings.
        together: all processes call this, and are to have the same decisions of people.
        decided: with what people decided; else the tags are the data set's.
    """
    data = data_of(config, config.out) if decided else replace(config.data, corrections=None)
    read_decisions = read_together if together else read_decided
    photos = open_photos(data, split=split, read_decisions=read_decisions)
    _refuse_run_inside(photos, config.out)
    return photos if config.limit is None else photos.of(photos.photos[: config.limit])


def _refuse_run_inside(photos: PhotoSet, out: Path | None) -> None:
    """Refuse a run folder among the photographs: its masks would be read as photographs the next time."""
    if out is None:
        return
    root, target = (Path(os.path.abspath(path)) for path in (photos.root, out))  # noqa: PTH100 - it takes out ".."
    if root in (target, *target.parents):
        raise UsageError(
            f"--out {out} lies inside the data root {photos.root}; choose a folder outside it, "
            "or the next run takes its masks for photographs"
        )


def reading_workers(config: Config) -> int:
    """How many processes or threads read photographs: all cores but one, at most 8, unless the user says."""
    return min(8, max(1, (os.cpu_count() or 2) - 1)) if config.workers is None else config.workers


def read_ahead(
    batches: Iterable[Sequence[Photo]], read: Callable[[Photo], Answer], config: Config
) -> Iterator[list[tuple[Photo, Answer]]]:
    """Each photograph and what ``read`` makes of it, batch by batch; a few batches are read ahead by threads."""
    with ThreadPoolExecutor(max(1, reading_workers(config))) as pool:
        ahead: deque[list[tuple[Photo, Future[Answer]]]] = deque()
        waiting = iter(batches)
        while True:
            while len(ahead) <= _AHEAD and (batch := next(waiting, None)) is not None:
                ahead.append([(photo, pool.submit(read, photo)) for photo in batch])
            if not ahead:
                return
            yield [(photo, future.result()) for photo, future in ahead.popleft()]
