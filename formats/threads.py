"""Share the rows of a tensor between threads; the result never depends on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

from macloom.errors import require_positive_integer

# Below this many elements the hand-over costs more than it saves.
MIN_ELEMENTS_PER_THREAD = 1 << 17

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
    edges = [rows * i // count for i in range(count + 1)]
    futures = [_pool(count).submit(kernel, a, b, *arguments) for a, b in pairwise(edges)]
    for future in futures:
        future.result()
