"""Share the rows of a tensor between threads; the result never depends on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

from macloom.errors import require_positive_integer

T = TypeVar("T")
R = TypeVar("R")

# Below this many elements the hand-over costs more than it saves.
MIN_ELEMENTS_PER_THREAD = 1 << 17
# Parts for each thread, so that one that is held up leaves its share to the others.
PARTS = 8

_threads: int | None = None


def set_threads(count: int | None) -> None:
    """Set how many threads the kernels use; None means one per available processor."""
    global _threads
    if count is not None:
        require_positive_integer("threads", count)
    _threads = count


def thread_count() -> int:
    """Return how many threads the kernels use."""
    if _threads is not None:
        return _threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=4)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="macloom")


def run_rows(kernel: Callable[..., Any], rows: int, elements: int, *arguments: Any) -> None:
    """Call kernel(start, stop, *arguments) over all rows, in parallel where it pays."""
    count = max(1, min(thread_count(), rows, elements // MIN_ELEMENTS_PER_THREAD))
    if count == 1:
        kernel(0, rows, *arguments)
        return
    parts = min(rows, count * PARTS)
    bounds = list(pairwise(rows * i // parts for i in range(parts + 1)))
    run_each(count, bounds, lambda: lambda part: kernel(*part, *arguments))


def run_each(count: int, items: Sequence[T], worker: Callable[[], Callable[[T], object]]) -> None:
    """Hand the items to `count` threads, in order; each makes itself a `worker()` and calls that with its items."""
    waiting = iter(items)

    def work() -> None:
        call = worker()
        for item in waiting:  # one thread at a time takes the next, whoever is free
            call(item)

    futures = [_pool(count - 1).submit(work) for _ in range(count - 1)]
    try:
        work()
    finally:
        wait(futures)
    for future in futures:
        future.result()


def one_ahead(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield function(item) for every item, in order, each computed by another thread while the last one is in use."""
    if thread_count() == 1 or len(items) < 2:
        yield from map(function, items)
        return
    ahead = _pool(1).submit(function, items[0])
    for item in items[1:]:
        result = ahead.result()
        ahead = _pool(1).submit(function, item)
        yield result
    yield ahead.result()
