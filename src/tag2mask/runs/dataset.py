"""The images of a run, and their prefetching while the network works."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tag2mask.core.distributed import gathered, is_main
from tag2mask.core.errors import UsageError
from tag2mask.core.prefetch import waited
from tag2mask.core.profile import timed
from tag2mask.data.dataset import ImageSet, open_images
from tag2mask.data.decoding import opened
from tag2mask.data.images import ImageError
from tag2mask.data.manifest import MANIFEST, ImageItem
from tag2mask.data.settings import DataSettings
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import run_corrections
from tag2mask.runs.run_folder import RunFolder

_BATCHES = 2
"""Batches that are read while one is in the network."""

PREFETCH_PIXELS = 1 << 25
"""Most pixels that are read ahead; a single image may have more."""

Result = TypeVar("Result")


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
        refuse_run_inside(images, config.out)
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
            run.surveyed[key] = images.of(images.items.save(run / MANIFEST))
    run.surveyed |= gathered({key: run.surveyed[key]} if is_main() else {})[0]


def _key(data: DataSettings, split: str | None) -> str:
    """The settings that a data set in memory depends on."""
    return repr(replace(data, split=data.split if split is None else split, intensity=None))


def refuse_run_inside(images: ImageSet, out: Path | None) -> None:
    """Refuse a run folder among the images: the next run would read its masks as images."""
    if out is None:
        return
    root, target = (Path(os.path.abspath(path)) for path in (images.root, out))  # noqa: PTH100 - it takes out ".."
    if root in (target, *target.parents):
        raise UsageError(
            f"--out {out} lies inside the data root {images.root}; choose a folder outside it, "
            "or the next run takes its masks for images"
        )


def reading_workers(config: Config) -> int:
    """The number of processes or threads that read images: `workers`, by default all cores but one, at most 8."""
    return min(8, max(1, (os.cpu_count() or 2) - 1)) if config.workers is None else config.workers


def prefetch_batches(
    batches: Iterable[Sequence[ImageItem]], read: Callable[[ImageItem], Result], config: Config
) -> Iterator[list[tuple[ImageItem, Result]]]:
    """Each image with the result of ``read``, batch by batch; threads read a few batches ahead."""
    with ThreadPoolExecutor(max(1, reading_workers(config))) as pool:
        ahead: deque[list[tuple[ImageItem, Future[Result]]]] = deque()
        for batch in batches:
            ahead.append([(item, pool.submit(timed("reading")(read), item)) for item in batch])
            if len(ahead) > _BATCHES:
                yield [(item, waited(future)) for item, future in ahead.popleft()]
        while ahead:
            yield [(item, waited(future)) for item, future in ahead.popleft()]


def prefetch_images(
    items: Iterable[ImageItem], read: Callable[[ImageItem], Result], *, workers: int, pixel_limit: int
) -> Iterator[tuple[ImageItem, Result]]:
    """Each image with the result of ``read``, in order; threads read ahead within `PREFETCH_PIXELS`.

    Args:
        items: the images.
        read: called in a thread; its exceptions are raised here.
        workers: threads.
        pixel_limit: a larger image counts as 0 pixels: ``read`` refuses it before it decodes it.
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[ImageItem, Future[Result], int]] = deque()
        total = 0
        try:
            for item in items:
                pixels = _pixels(item, pixel_limit)
                while ahead and (total + pixels > PREFETCH_PIXELS or len(ahead) > 4 * workers):
                    first, future, freed = ahead.popleft()
                    result = waited(future)
                    total -= freed
                    yield first, result
                ahead.append((item, pool.submit(timed("reading")(read), item), pixels))
                total += pixels
            while ahead:
                first, future, _ = ahead.popleft()
                yield first, waited(future)
        finally:
            for _, future, _ in ahead:
                future.cancel()


def _pixels(item: ImageItem, pixel_limit: int) -> int:
    """The number of pixels by the header of an image."""
    try:
        with opened(item.path, pixel_limit=pixel_limit) as image:
            return image.width * image.height
    except ImageError:
        return 0
