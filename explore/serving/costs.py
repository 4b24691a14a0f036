"""What one iteration of a server costs, from the simulator's operations.

A transformer's operations fall into three groups. Those of the tokens (projections, norms, MLP) depend on how many
tokens an iteration has, whatever requests they belong to; the head on how many requests want a next token; attention
belongs to a request, its new tokens and the keys that they see. Operations run one after another, so an iteration
costs the sum. Costs of sizes between simulated ones lie on straight lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macloom.arch import Accelerator
from macloom.errors import MacloomError, require_positive_integer
from macloom.sim import simulate
from macloom.workloads import Recipe, Workload, load_workload
from macloom.workloads.ops import Gemm, Op, Role

Costs = NDArray[np.float64]
"""Seconds and joules on the last axis."""


def attention_ops(workload: Workload) -> tuple[Op, ...]:
    """Return the operations that belong to one request: products with keys and values, and what lies between.

    >>> workload = load_workload("tiny", phase="decode", context=4)
    >>> [op.name for op in attention_ops(workload)]
    ['self_attn.scores', 'self_attn.softmax', 'self_attn.values']
    """
    found: list[Op] = []
    between: list[Op] | None = None
    for op in workload.ops:
        if isinstance(op, Gemm) and op.b is Role.KV:
            found += [*(between or ()), op]
            between = [] if between is None else None
        elif between is not None:
            between.append(op)
    if not found or between is not None:
        raise MacloomError(f"serve: {workload.name} must have attention with a cache of keys and values")
    return tuple(found)


def head_ops(model: str | Path, **options: Any) -> frozenset[str]:
    """Return the names of the operations that only tokens with a successor need."""
    every, last = (load_workload(model, sequence=2, head_tokens=which, **options) for which in ("all", "last"))
    return frozenset(a.name for a, b in zip(every.ops, last.ops, strict=True) if a != b)


def nodes(longest: int, per_octave: int | None) -> tuple[int, ...]:
    """Return the sizes from 1 to `longest` that are simulated, as `bracket` needs them.

    >>> nodes(40, 4)
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 24, 25, 28, 29, 32, 33, 40)
    """
    found = {size for wanted in range(1, longest + 1) for size in bracket(wanted, per_octave, longest)}
    return tuple(sorted(found))


def bracket(size: int, per_octave: int | None, longest: int | None = None) -> tuple[int, int]:
    """Return the nearest simulated sizes below and above `size`, equal where it is one itself.

    Between a number and its double lie `per_octave` steps. The end of each and what follows it are simulated,
    because there a product needs one more tile; inside a step costs are close to straight lines.

    >>> bracket(19, 4), bracket(20, 4), bracket(21, 4), bracket(45, 4, longest=46)
    ((17, 20), (20, 20), (21, 21), (41, 46))
    """
    if per_octave is None or size <= per_octave:
        return size, size
    step = max(1, (1 << size.bit_length() - 1) // per_octave)
    low, inside = size - (size - 1) % step, size % step > 1
    if not inside:
        return size, size
    high = low - 1 + step
    return low, high if longest is None else min(high, longest)


@dataclass
class StepCosts:
    """The costs of the parts of an iteration; each size is simulated when it is first needed.

    Attributes:
        model: what `load_workload` takes; it must have a decode phase.
        accelerator, recipe: the machine and the formats.
        longest: the longest context that will be asked for.
        per_octave: steps between a number and its double (`bracket`); None simulates every size.
        workload_options: of `load_workload`, such as `routing`.
        options: of `simulate`, such as `dataflow`; without `prefetch` and `residency`, which join operations.
    """

    model: str | Path
    accelerator: Accelerator
    recipe: Recipe
    longest: int
    per_octave: int | None = 4
    workload_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    _memo: dict[tuple[Any, ...], Costs] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require_positive_integer("serve.longest", self.longest)
        if self.per_octave is not None:
            require_positive_integer("serve.per_octave", self.per_octave)
        for name in ("prefetch", "residency"):
            if self.options.get(name):
                raise MacloomError(f"serve.{name}: must be left out; it joins operations that a server may separate")

    @cached_property
    def _attention(self) -> frozenset[str]:
        return frozenset(op.name for op in attention_ops(self.decode(1, 1)))

    @cached_property
    def _head(self) -> frozenset[str]:
        return head_ops(self.model, **self.workload_options)

    def decode(self, context: int, batch: int) -> Workload:
        return load_workload(self.model, phase="decode", context=context, batch=batch, **self.workload_options)

    def chunk(self, tokens: int, history: int) -> Workload:
        """Return the prefill of `tokens` tokens after `history` earlier ones."""
        return load_workload(self.model, sequence=tokens, past=history, head_tokens="last", **self.workload_options)

    def _price(self, workload: Workload, ops: Iterable[Op]) -> Costs:
        result = simulate(replace(workload, ops=tuple(ops)), self.accelerator, self.recipe, **self.options)
        return np.array([result.seconds, result.energy_j])

    def _at(self, key: tuple[Any, ...], price: Callable[[], Costs]) -> Costs:
        if key not in self._memo:
            self._memo[key] = price()
        return self._memo[key]

    def tokens(self, count: int) -> Costs:
        """Return the cost of all operations of `count` tokens but attention and head."""

        def price(size: int) -> Costs:
            workload = self.decode(1, size)
            own = (op for op in workload.ops if op.name not in self._attention | self._head)
            return self._at(("tokens", size), lambda: self._price(workload, own))

        return self._between(count, price)

    def head(self, requests: int) -> Costs:
        """Return the cost of the logits of `requests` tokens."""

        def price(size: int) -> Costs:
            workload = self.decode(1, size)
            own = (op for op in workload.ops if op.name in self._head)
            return self._at(("head", size), lambda: self._price(workload, own))

        return self._between(requests, price) if requests else np.zeros(2)

    def _between(self, size: int, price: Callable[[int], Costs], longest: int | None = None) -> Costs:
        low, high = bracket(size, self.per_octave, longest)
        if low == high:
            return price(low)
        share = (size - low) / (high - low)
        return price(low) * (1 - share) + price(high) * share

    def prefill_attention(self, tokens: int, history: int) -> Costs:
        """Return the cost of the attention of `tokens` tokens of one request that follow `history` others."""

        def price(size: int, keys: int) -> Costs:
            # Between simulated sizes a chunk may be longer than the keys of a corner; there it has no history.
            seen = max(size, keys)
            return self._at(
                ("chunk", size, seen),
                lambda: self._price(chunk := self.chunk(size, seen - size), attention_ops(chunk)),
            )

        def at(keys: int) -> Costs:
            return self._between(tokens, lambda size: price(size, keys), self.longest)

        if not history:
            return self._between(tokens, lambda size: price(size, size), self.longest)
        return self._between(history + tokens, at, self.longest)

    @cached_property
    def _decode_table(self) -> tuple[NDArray[np.int64], Costs]:
        sizes = nodes(self.longest, self.per_octave)
        prices = []
        for context in sizes:
            workload = self.decode(context, 1)
            prices.append(self._price(workload, attention_ops(workload)))
        return np.array(sizes), np.array(prices)

    def decode_attention(self, contexts: NDArray[np.int64]) -> Costs:
        """Return the cost of one new token in each of several requests that see `contexts` keys."""
        sizes, prices = self._decode_table
        return np.array([np.interp(contexts, sizes, prices[:, i]).sum() for i in range(2)])
