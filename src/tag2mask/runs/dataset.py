"""Which images a run works on, and reading them while the network works on others."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tag2mask.core.distributed import gathered, is_main
from tag2mask.core.errors import UsageError
from tag2mask.data.dataset import ImageSet, open_images
from tag2mask.data.decoding import opened
from tag2mask.data.images import ImageError
from tag2mask.data.manifest import MANIFEST, ImageItem
from tag2mask.data.settings import DataSettings
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import run_corrections
from tag2mask.runs.run_folder import RunFolder

_AHEAD = 2
"""Batches that are read while one is in the network."""

Answer = TypeVar("Answer")


def run_images(
    config: Config, run: RunFolder, split: str | None = None, *, together: bool = False, corrected: bool = True
) -> ImageSet:
    """The images of a run with its corrections, up to ``--limit``.

    A command reads the data set once, and the corrections at each call.

    Args:
        config: every setting.
        run: the run folder; keeps the data set.
        split: overrides ``data.split``.
        together: all processes call this and get the same corrections.
        corrected: whether to read the corrections; otherwise the tags are those of the data set.

    Raises:
        UsageError: the data set or the corrections cannot be used, or the run folder is among the images.
    """
    key = _key(config.data, split)
    if key not in run.surveyed:
        images = open_images(config.data, split=split)
        _refuse_run_inside(images, config.out)
        run.surveyed[key] = images
    images = replace(run.surveyed[key], intensity=config.data.intensity)
    if corrected:
        images = images.corrected(run_corrections(run, images.classes, together=together))
    return images if config.limit is None else images.of(images.items[: config.limit])


def share_manifest(config: Config, run: RunFolder) -> None:
    """Have all processes of a command, which call this together, map one manifest: RUN/data.arrow."""
    key = _key(config.data, None)
    if is_main():
        images = run.surveyed[key]
        if config.shard is None:  # commands with shards may see other data, and each maps its own
            run.surveyed[key] = images.of(images.items.saved(run / MANIFEST))
    run.surveyed |= gathered({key: run.surveyed[key]} if is_main() else {})[0]


def _key(data: DataSettings, split: str | None) -> str:
    """The settings that a data set in memory depends on."""
    return repr(replace(data, split=data.split if split is None else split, intensity=None))


def _refuse_run_inside(images: ImageSet, out: Path | None) -> None:
    """Refuse a run folder among the images: its masks would be read as images the next time."""
    if out is None:
        return
    root, target = (Path(os.path.abspath(path)) for path in (images.root, out))  # noqa: PTH100 - it takes out ".."
    if root in (target, *target.parents):
        raise UsageError(
            f"--out {out} lies inside the data root {images.root}; choose a folder outside it, "
            "or the next run takes its masks for images"
        )


def reading_workers(config: Config) -> int:
    """How many processes or threads read images: all cores but one, at most 8, unless the user says."""
    return min(8, max(1, (os.cpu_count() or 2) - 1)) if config.workers is None else config.workers


def read_ahead(
    batches: Iterable[Sequence[ImageItem]], read: Callable[[ImageItem], Answer], config: Config
) -> Iterator[list[tuple[ImageItem, Answer]]]:
    """Each image and what ``read`` makes of it, batch by batch; a few batches are read ahead by threads."""
    with ThreadPoolExecutor(max(1, reading_workers(config))) as pool:
        ahead: deque[list[tuple[ImageItem, Future[Answer]]]] = deque()
        waiting = iter(batches)
        while True:
            while len(ahead) <= _AHEAD and (batch := next(waiting, None)) is not None:
                ahead.append([(item, pool.submit(read, item)) for item in batch])
            if not ahead:
                return
            yield [(item, future.result()) for item, future in ahead.popleft()]


AHEAD_PIXELS = 1 << 25
"""Pixels that are read ahead; one image is, however large."""


def read_bounded(
    items: Iterable[ImageItem], read: Callable[[ImageItem], Answer], *, workers: int, pixel_limit: int
) -> Iterator[tuple[ImageItem, Answer]]:
    """What ``read`` makes of each image, in order; by threads, as far ahead as `AHEAD_PIXELS` allows.

    Args:
        photos: which.
        read: called in a thread; an exception of it is raised here.
        workers: threads.
        pixel_limit: a larger image counts as none: ``read`` refuses it before it decodes it.
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[ImageItem, Future[Answer], int]] = deque()
        held = 0
        waiting = iter(items)
        following = _next(waiting, pixel_limit)
        try:
            while ahead or following:
                while following and (not ahead or (held + following[1] <= AHEAD_PIXELS and len(ahead) <= 4 * workers)):
                    item, pixels = following
                    ahead.append((item, pool.submit(read, item), pixels))
                    held += pixels
                    following = _next(waiting, pixel_limit)
                item, future, pixels = ahead.popleft()
                answer = future.result()
                held -= pixels
                yield item, answer
        finally:
            for _, future, _ in ahead:
                future.cancel()


def _next(items: Iterator[ImageItem], pixel_limit: int) -> tuple[ImageItem, int] | None:
    """The next image and how many pixels its header promises."""
    item = next(items, None)
    if item is None:
        return None
    try:
        with opened(item.path, pixel_limit=pixel_limit) as image:
            return item, image.width * image.height
    except ImageError:
        return item, 0
