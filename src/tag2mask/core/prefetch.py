"""Map a function over many items in threads, a few items ahead: to read, or to compute."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from tag2mask.core.profile import stop_counting, timed

_AHEAD = 8
"""Items per thread that are submitted and not yet consumed."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def map_ahead(work: Callable[[Item], Answer], items: Iterable[Item], *, threads: int) -> Iterator[Answer]:
    """``work(item)`` for each item, in order; like ``Executor.map``, but ``items`` is consumed a few at a time."""
    with ThreadPoolExecutor(threads) as pool:
        yield from _mapped(pool, timed("reading")(work), items, _AHEAD * threads, waited)


def map_computing(work: Callable[[Item], Answer], items: Iterable[Item], *, threads: int) -> Iterator[Answer]:
    """``work(item)`` for each item, in order, by ``threads`` threads whose torch operations take one core each.

    With as many threads as cores, this is faster than all cores for each operation. The caller's thread iterates over
    ``items``; with one thread it also does the work, with all cores. While this runs, any new thread of the process has
    one core for torch operations too.
    """
    if threads == 1:
        yield from map(work, items)
        return
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=_take_one_core) as pool:
            yield from _mapped(pool, work, items, 2 * threads, timed("method")(Future.result))
    finally:
        torch.set_num_threads(cores)  # of threads to come; this one has kept its number


def _take_one_core() -> None:
    torch.set_num_threads(1)
    stop_counting()


def _mapped(
    pool: Executor,
    work: Callable[[Item], Answer],
    items: Iterable[Item],
    limit: int,
    result: Callable[[Future[Answer]], Answer],
) -> Iterator[Answer]:
    """Results in order, with at most ``limit`` items submitted and not yet consumed."""
    ahead: deque[Future[Answer]] = deque()
    try:
        for item in items:
            if len(ahead) == limit:
                yield result(ahead.popleft())
            ahead.append(pool.submit(work, item))
        while ahead:
            yield result(ahead.popleft())
    finally:
        for future in ahead:
            future.cancel()


@timed("waiting")
def waited(future: Future[Answer]) -> Answer:
    """The result of a future."""
    return future.result()
