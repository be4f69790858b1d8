"""Map a function over many items in threads, a few items ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tag2mask.core.profile import timed

_AHEAD = 8
"""Items per thread that are submitted and not yet consumed."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def map_ahead(work: Callable[[Item], Answer], items: Iterable[Item], *, threads: int) -> Iterator[Answer]:
    """``work(item)`` for each item, in order; like ``Executor.map``, but ``items`` is consumed a few at a time."""
    ahead: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(ahead) == _AHEAD * threads:
                    yield waited(ahead.popleft())
                ahead.append(pool.submit(timed("reading")(work), item))
            while ahead:
                yield waited(ahead.popleft())
        finally:
            for future in ahead:
                future.cancel()


@timed("waiting")
def waited(future: Future[Answer]) -> Answer:
    """The result of a future."""
    return future.result()
