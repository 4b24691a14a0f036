"""The draws of stochastic rounding: one order, whoever draws them.

A generator is drawn from serially, but PCG64, numpy's default, can be advanced by any distance at once. So
each thread draws for its own part with a copy of the generator, and gets the very words that the one
generator would have given there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from macloom.formats.policy import Policy
from macloom.formats.threads import one_ahead, run_each, thread_count

ADVANCING = (np.random.PCG64, np.random.PCG64DXSM)  # one step of these is one 64-bit word


def _advances(rng: np.random.Generator | None) -> bool:
    return type(rng) is np.random.Generator and type(rng.bit_generator) in ADVANCING


def _moved(bits: Any, state: Any, words: int) -> Any:
    """Set a bit generator to `words` words after a state and return it; the rest of a halved word stays."""
    bits.state = state
    bits.advance(words)
    bits.state = {**state, "state": bits.state["state"]}
    return bits


def draw_parts(policy: Policy, sizes: Sequence[int], use: Callable[[int, np.ndarray], None]) -> None:
    """Call use(i, draws) for each part i, with its sizes[i] draws; see `Policy.draw`.

    Parts follow each other in the order of draws. Threads share them where the generator can be advanced;
    else another thread draws for the next part while one is in use. The generator is left where drawing
    all parts in turn leaves it.

    Raises:
        MacloomError: there is no generator.
    """
    count = min(thread_count(), len(sizes))
    if count < 2 or not _advances(policy.rng):
        for index, draws in enumerate(one_ahead(policy.draw, sizes)):
            use(index, draws)
        return
    own: Any = policy.rng.bit_generator  # type: ignore[union-attr]
    begins = list(accumulate((-(-size // 4) for size in sizes), initial=0))
    state = own.state

    def worker() -> Callable[[int], None]:
        bits = type(own)(0)
        drawing = replace(policy, rng=np.random.Generator(bits))

        def call(index: int) -> None:
            _moved(bits, state, begins[index])
            use(index, drawing.draw(sizes[index]))

        return call

    run_each(count, range(len(sizes)), worker)
    _moved(own, state, begins[-1])
