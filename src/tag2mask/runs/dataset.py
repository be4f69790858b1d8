"""Which photographs a run works on, and reading them while the network works on others."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tag2mask.core.distributed import gathered, is_main
from tag2mask.core.errors import UsageError
from tag2mask.data.corrections import read_decided
from tag2mask.data.dataset import PhotoSet, decided_photos, survey
from tag2mask.data.decoding import opened
from tag2mask.data.images import ImageError
from tag2mask.data.manifest import MANIFEST, Photo, Photos
from tag2mask.data.settings import DataSettings
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import data_of, read_together
from tag2mask.runs.run_folder import RunFolder

_AHEAD = 2
"""Batches that are read while one is in the network."""

Answer = TypeVar("Answer")


def photographs(
    config: Config, run: RunFolder, split: str | None = None, *, together: bool = False, decided: bool = True
) -> PhotoSet:
    """The images that a run works on, as the settings and ``--limit`` say.

    The data set is surveyed once in a command; what people decided is read each time.

    Args:
        config: every setting.
        run: the run folder, as this command has opened it; keeps what was surveyed.
        split: overrides that of the settings.
        together: all processes call this, and are to have the same decisions of people.
        decided: with what people decided; else the tags are the data set's.
    """
    data = data_of(config, config.out) if decided else replace(config.data, corrections=None)
    read_decisions = read_together if together else read_decided
    key = _key(data, split)
    if key in run.surveyed:
        photos = decided_photos(run.surveyed[key], data, read_decisions)
    else:
        found = survey(data, split=split, read_decisions=read_decisions)
        found.require_usable()
        photos = found.photos
        _refuse_run_inside(photos, config.out)
        run.surveyed[key] = photos.of(Photos(found.manifest))
    return photos if config.limit is None else photos.of(photos.photos[: config.limit])


def share_manifest(config: Config, run: RunFolder) -> None:
    """Have all processes of a command, which call this together, map one manifest: RUN/data.arrow."""
    key = _key(data_of(config, config.out), None)
    if is_main():
        photos = run.surveyed[key]
        if config.shard is None:  # commands with shards may see other data, and each maps its own
            run.surveyed[key] = photos.of(photos.photos.saved(run / MANIFEST))
    run.surveyed |= gathered({key: run.surveyed[key]} if is_main() else {})[0]


def _key(data: DataSettings, split: str | None) -> str:
    """What a survey depends on."""
    return repr(replace(data, split=data.split if split is None else split, intensity=None, corrections=None))


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


AHEAD_PIXELS = 1 << 25
"""Pixels that are read ahead; one photograph is, however large."""


def read_bounded(
    photos: Iterable[Photo], read: Callable[[Photo], Answer], *, workers: int, pixel_limit: int
) -> Iterator[tuple[Photo, Answer]]:
    """What ``read`` makes of each photograph, in order; by threads, as far ahead as `AHEAD_PIXELS` allows.

    Args:
        photos: which.
        read: called in a thread; an exception of it is raised here.
        workers: threads.
        pixel_limit: a larger photograph counts as none: ``read`` refuses it before it decodes it.
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Photo, Future[Answer], int]] = deque()
        held = 0
        waiting = iter(photos)
        following = _next(waiting, pixel_limit)
        try:
            while ahead or following:
                while following and (not ahead or (held + following[1] <= AHEAD_PIXELS and len(ahead) <= 4 * workers)):
                    photo, pixels = following
                    ahead.append((photo, pool.submit(read, photo), pixels))
                    held += pixels
                    following = _next(waiting, pixel_limit)
                photo, future, pixels = ahead.popleft()
                answer = future.result()
                held -= pixels
                yield photo, answer
        finally:
            for _, future, _ in ahead:
                future.cancel()


def _next(photos: Iterator[Photo], pixel_limit: int) -> tuple[Photo, int] | None:
    """The next photograph and how many pixels its header promises."""
    photo = next(photos, None)
    if photo is None:
        return None
    try:
        with opened(photo.path, pixel_limit=pixel_limit) as image:
            return photo, image.width * image.height
    except ImageError:
        return photo, 0
