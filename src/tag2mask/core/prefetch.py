"""Work on many items by threads, a few items at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AHEAD = 8
"""Items per thread that are in work, or done and not yet taken."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def map_ahead(work: Callable[[Item], Answer], items: Iterable[Item], *, threads: int) -> Iterator[Answer]:
    """``work(item)`` for each item, in their order.

    Like ``Executor.map``, but with a few items at a time instead of all, to save memory.

    Args:
        work: called in a thread; its exceptions are raised here.
        items: taken as the work goes on.
        threads: at least 1.
    """
    ahead: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(ahead) == _AHEAD * threads:
                    yield ahead.popleft().result()
                ahead.append(pool.submit(work, item))
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
