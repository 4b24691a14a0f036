"""Memory that has been freed, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], object] | None:
    """Return the C library's `malloc_trim`; None where it has none (it is glibc's)."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows, which has no library without a name
        return None


def give_back() -> None:
    """Let the C library return what it keeps of freed memory, so that one part's leftovers do not add to the next's."""
    trim = _trim()
    if trim is not None:
        trim(0)
