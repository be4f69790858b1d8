"""Reading photographs of unknown sizes ahead, without holding more of their pixels than is good."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tag2mask.data.decoding import opened
from tag2mask.data.images import ImageError
from tag2mask.data.photo import Photo

AHEAD_PIXELS = 1 << 25
"""Pixels that are read ahead; one photograph is, however large."""

Answer = TypeVar("Answer")


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
