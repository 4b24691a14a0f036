"""What one iteration of a server costs, from the simulator's operations.

The operations of a decoder fall into three groups. Those of the tokens (projections, norms, MLP) depend on how many
tokens an iteration has, whatever requests they belong to; the head on how many requests want a next token; the rest,
such as attention, belongs to a request, its new tokens and what its cache holds. Operations run one after another,
so an iteration costs the sum. Costs of sizes between simulated ones lie on straight lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macloom.arch import Accelerator
from macloom.errors import MacloomError, require_positive_integer
from macloom.explore.serving.passes import Passes, passes_of
from macloom.explore.serving.shapes import ends_of, key_of
from macloom.sim import simulate
from macloom.workloads import Recipe, Workload
from macloom.workloads.ops import Op

Costs = NDArray[np.float64]
"""Seconds and joules on the last axis."""

SAMPLE = 5
"""Tokens of the passes that are compared to tell the groups."""


class Group(StrEnum):
    """What an operation depends on: tokens, requests that want a token, or one request."""

    TOKENS = "tokens"
    HEAD = "head"
    REQUEST = "request"


def _by_key(workload: Workload) -> dict[str, list[Op]]:
    found: dict[str, list[Op]] = {}
    for op in workload.ops:
        found.setdefault(key_of(op.name), []).append(replace(op, name="", reads=()))
    return found


def groups_of(passes: Passes) -> Mapping[str, Group]:
    """Return the group of every operation, by its name without numbers.

    Those of the tokens are the same for a prompt and for as many requests with one token each; those of the head
    are others when only last tokens have logits.

    >>> found = groups_of(passes_of("tiny"))
    >>> [name for name, group in found.items() if group is Group.REQUEST]
    ['self_attn.scores', 'self_attn.softmax', 'self_attn.values']
    >>> [name for name, group in found.items() if group is Group.HEAD]
    ['lm_head']
    """
    steps = _by_key(passes.decode(2, SAMPLE))
    every, last = (_by_key(passes.chunk(SAMPLE, 0, head)) for head in ("all", "last"))
    found = {}
    for key in {**every, **steps}:
        if every.get(key) != last.get(key):
            found[key] = Group.HEAD
        else:
            found[key] = Group.TOKENS if every.get(key) == steps.get(key) else Group.REQUEST
    return found


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
        model: what `passes_of` takes, or its passes.
        accelerator, recipe: the machine and the formats.
        longest: the longest context that will be asked for.
        per_octave: steps between a number and its double (`bracket`); None simulates every size.
        workload_options: of `load_workload`, such as `routing`.
        options: of `simulate`, such as `dataflow`; without `prefetch` and `residency`, which join operations.
    """

    model: str | Path | Passes
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
    def passes(self) -> Passes:
        return passes_of(self.model, self.longest, **self.workload_options)

    @cached_property
    def _groups(self) -> Mapping[str, Group]:
        return groups_of(self.passes)

    def group(self, op: Op) -> Group:
        """Return what an operation depends on; where layers differ they are part of its name, in front."""
        names = ends_of(key_of(op.name))
        return next((self._groups[name] for name in names if name in self._groups), Group.REQUEST)

    def part(self, workload: Workload, group: Group) -> tuple[Op, ...]:
        """Return the operations of a pass that belong to a group."""
        return tuple(op for op in workload.ops if self.group(op) is group)

    def _price(self, workload: Workload, group: Group) -> Costs:
        ops = self.part(workload, group)
        if not ops:
            return np.zeros(2)
        result = simulate(replace(workload, ops=ops), self.accelerator, self.recipe, **self.options)
        return np.array([result.seconds, result.energy_j])

    def _at(self, key: tuple[Any, ...], price: Callable[[], Costs]) -> Costs:
        if key not in self._memo:
            self._memo[key] = price()
        return self._memo[key]

    def tokens(self, count: int) -> Costs:
        """Return the cost of the operations that `count` tokens share."""

        def price(size: int) -> Costs:
            return self._at(("tokens", size), lambda: self._price(self.passes.decode(2, size), Group.TOKENS))

        return self._between(count, price)

    def head(self, requests: int) -> Costs:
        """Return the cost of the logits of `requests` tokens."""

        def price(size: int) -> Costs:
            return self._at(("head", size), lambda: self._price(self.passes.decode(2, size), Group.HEAD))

        return self._between(requests, price) if requests else np.zeros(2)

    def _between(self, size: int, price: Callable[[int], Costs], longest: int | None = None) -> Costs:
        low, high = bracket(size, self.per_octave, longest)
        if low == high:
            return price(low)
        share = (size - low) / (high - low)
        return price(low) * (1 - share) + price(high) * share

    def prefill_attention(self, tokens: int, history: int) -> Costs:
        """Return the cost of what is a request's own in `tokens` tokens of its prompt that follow `history` others."""

        def price(size: int, keys: int) -> Costs:
            # Between simulated sizes a chunk may be longer than the keys of a corner; there it has no history.
            seen = max(size, keys)
            return self._at(
                ("chunk", size, seen), lambda: self._price(self.passes.chunk(size, seen - size), Group.REQUEST)
            )

        def at(keys: int) -> Costs:
            return self._between(tokens, lambda size: price(size, keys), self.longest)

        if not history:
            return self._between(tokens, lambda size: price(size, size), self.longest)
        return self._between(history + tokens, at, self.longest)

    @cached_property
    def _decode_table(self) -> tuple[NDArray[np.int64], Costs]:
        sizes = nodes(self.longest, self.per_octave)
        prices = [self._price(self.passes.decode(context, 1), Group.REQUEST) for context in sizes]
        return np.array(sizes), np.array(prices)

    def decode_attention(self, contexts: NDArray[np.int64]) -> Costs:
        """Return the cost of one new token in each of several requests that see `contexts` keys."""
        sizes, prices = self._decode_table
        return np.array([np.interp(contexts, sizes, prices[:, i]).sum() for i in range(2)])
