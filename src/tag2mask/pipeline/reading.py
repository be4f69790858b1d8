"""Reading photographs while the network works on others."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tag2mask.data.photos import Photo
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.train import reading_workers

_AHEAD = 2
"""Batches that are read while one is in the network."""

Answer = TypeVar("Answer")


def read_ahead(
    batches: Sequence[Sequence[Photo]], read: Callable[[Photo], Answer], config: Config
) -> Iterator[list[Answer]]:
    """What ``read`` makes of each photograph, batch by batch and in order; a few batches are read ahead by threads."""
    with ThreadPoolExecutor(max(1, reading_workers(config))) as pool:
        ahead: deque[list[Future[Answer]]] = deque()
        waiting = iter(batches)
        while True:
            while len(ahead) <= _AHEAD and (batch := next(waiting, None)) is not None:
                ahead.append([pool.submit(read, photo) for photo in batch])
            if not ahead:
                return
            yield [future.result() for future in ahead.popleft()]
