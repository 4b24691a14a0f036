"""Attention and experts as transformers calls them, every product of theirs sent to an arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from macloom.errors import MacloomError
from macloom.workloads.ops import Role
from macloom.workloads.quantized import GemmArithmetic, Operand, RecordingArithmetic

UNREACHED_ROWS = 16
"""Tokens that calibrate an expert which no calibration token is routed to."""


class Rope(StrEnum):
    """When keys are rounded to the cache's format: as attention reads them, or before rotation."""

    AFTER = "after"
    BEFORE = "before"


class Route:
    """Where the products of the model that is running go.

    Args:
        arithmetic: computes them.
        rope: whether attention rounds the keys, or what feeds the rotation has done so before.

    Attributes:
        busy: whether the arithmetic is at work, whose own use of torch is no product of the model.
        compares: whether the products are compared with those of another run on the same tokens.
        stored: keys that calibration saw before rotation, by operation, one tensor per batch.
        reached: the tokens that reached each expert in the first such run; `rerouted`: experts that others reach later.
    """

    def __init__(self, arithmetic: GemmArithmetic, rope: Rope = Rope.AFTER) -> None:
        self.arithmetic, self.rope, self.busy, self.compares = arithmetic, rope, False, False
        self.stored: dict[str, list[Tensor]] = {}
        self.reached: dict[str, Tensor] = {}
        self.rerouted: set[str] = set()

    @property
    def calibrating(self) -> bool:
        return isinstance(self.arithmetic, RecordingArithmetic)

    def linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x (..., K) times weight (N, K) transposed, plus bias."""
        with self._computing():
            return self.arithmetic.linear(name, x, weight, bias)

    def run(self, op: str, a: Operand, b: Operand) -> Tensor:
        """Return a (..., M, K) times b (..., N, K) transposed."""
        with self._computing():
            return self.arithmetic.run(op, a, b)

    def store(self, op: str, keys: Tensor) -> Tensor:
        """Return keys (..., head width) as the cache gives them back, where they are stored before rotation."""
        if self.rope is Rope.AFTER:
            return keys
        if self.calibrating:
            self.stored.setdefault(op, []).append(keys.clone())
        return self.arithmetic.stored(op, keys)

    def reach(self, expert: str, tokens: Tensor) -> None:
        """Note which tokens reach an expert."""
        if self.compares:
            known = self.reached.setdefault(expert, tokens)
            if known is not tokens and not torch.equal(known, tokens):
                self.rerouted.add(expert)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        self.busy = True
        try:
            yield
        finally:
            self.busy = False


_ACTIVE: ContextVar[Route | None] = ContextVar("macloom_route", default=None)


@contextmanager
def routed(route: Route) -> Iterator[None]:
    """Send the products of instrumented models to `route` within the context."""
    token = _ACTIVE.set(route)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def active() -> Route:
    """Return the route in force.

    Raises:
        MacloomError: there is none.
    """
    route = _ACTIVE.get()
    if route is None:
        raise MacloomError("a model with macloom's products must run under an arithmetic; use macloom.evaluate")
    return route


def name_of(module: nn.Module) -> str:
    """Return the name that instrumenting gave a module."""
    return getattr(module, "macloom_name", type(module).__name__)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' `AttentionInterface`: two products per head, float32 between them.

    Query heads that share keys are rows of one product. The softmax is of scores times `scaling`, capped by
    `softcap` where the model says so, plus the mask.

    Args:
        query: (B, H, Tq, D).
        key, value: (B, H_kv, Tk, D).
        attention_mask: added to the scores, broadcast to (B, H, Tq, Tk).

    Returns:
        (B, Tq, H, D), and None in place of the probabilities.
    """
    if others.get("s_aux") is not None:
        raise MacloomError(f"{name_of(module)}: attention sinks are not run; give a model without them")
    route, name = active(), name_of(module)
    batch, heads, length, width = query.shape
    shared = key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    keys = Operand(name="key", role=Role.KV if route.rope is Rope.AFTER else Role.OUTPUT, values=key)
    rows = Operand(name="query", role=Role.ACTIVATION, values=query.reshape(batch, shared, -1, width))
    scores = route.run(f"{name}.scores", rows, keys).view(batch, heads, length, -1) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    probability = scores.softmax(-1).view(batch, shared, -1, key.shape[-2])
    out = route.run(
        f"{name}.values",
        Operand(name="probability", role=Role.PROBABILITY, values=probability),
        Operand(name="value", role=Role.KV, values=value.transpose(-1, -2)),
    )
    return out.view(batch, heads, length, -1).transpose(1, 2).contiguous(), None


def experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Experts of transformers' `ExpertsInterface`: two products per expert that any token is routed to.

    Args:
        hidden_states: (tokens, width).
        top_k_index, top_k_weights: (tokens, k), the experts of each token and what their results are multiplied with.
    """
    route, total = active(), torch.zeros_like(hidden_states)
    for expert in range(module.num_experts):
        token, choice = torch.where(top_k_index == expert)
        if len(token):
            route.reach(f"{name_of(module)}.{expert}", token)
            part = _expert(module, expert, hidden_states[token])
            total.index_add_(0, token, part * top_k_weights[token, choice, None])
        elif route.calibrating:
            _expert(module, expert, hidden_states[:UNREACHED_ROWS])
    return total


def _expert(module: Any, expert: int, x: Tensor) -> Tensor:
    name = f"{name_of(module)}.{expert}"

    def linear(what: str, x: Tensor) -> Tensor:
        weight = getattr(module, what)[expert]
        bias = getattr(module, f"{what}_bias")[expert] if module.has_bias else None
        weight = weight.transpose(-1, -2) if module.is_transposed else weight
        return active().linear(f"{name}.{what}", x, weight, bias)

    if module.has_gate:
        hidden = module._apply_gate(linear("gate_up_proj", x))
    else:
        hidden = module.act_fn(linear("up_proj", x))
    out = linear("down_proj", hidden)
    return module.post_expert_norm(out) if module.has_post_expert_norm else out
