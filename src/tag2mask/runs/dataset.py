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
from tag2mask.data.corrections import read_decided
from tag2mask.data.dataset import ImageSet, corrected_images, survey
from tag2mask.data.decoding import opened
from tag2mask.data.images import ImageError
from tag2mask.data.manifest import MANIFEST, ImageItem, Images
from tag2mask.data.settings import DataSettings
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import data_of, read_together
from tag2mask.runs.run_folder import RunFolder

_AHEAD = 2
"""Batches that are read while one is in the network."""

Answer = TypeVar("Answer")


def run_images(
    config: Config, run: RunFolder, split: str | None = None, *, together: bool = False, decided: bool = True
) -> ImageSet:
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
        images = corrected_images(run.surveyed[key], data, read_decisions)
    else:
        found = survey(data, split=split, read_decisions=read_decisions)
        found.require_usable()
        images = found.images
        _refuse_run_inside(images, config.out)
        run.surveyed[key] = images.of(Images(found.manifest))
    return images if config.limit is None else images.of(images.items[: config.limit])


def share_manifest(config: Config, run: RunFolder) -> None:
    """Have all processes of a command, which call this together, map one manifest: RUN/data.arrow."""
    key = _key(data_of(config, config.out), None)
    if is_main():
        images = run.surveyed[key]
        if config.shard is None:  # commands with shards may see other data, and each maps its own
            run.surveyed[key] = images.of(images.items.save(run / MANIFEST))
    run.surveyed |= gathered({key: run.surveyed[key]} if is_main() else {})[0]


def _key(data: DataSettings, split: str | None) -> str:
    """What a survey depends on."""
    return repr(replace(data, split=data.split if split is None else split, intensity=None, corrections=None))


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
