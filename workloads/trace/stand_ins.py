"""Operations that the tracer puts in place of those that have many ways to be computed.

Attention keeps grouped queries apart from what its caller would copy for them. The recurrence of a state-space model is
one operation in place of one per token, and its convolution computes only the results that are used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

ATTENTION = "macloom_trace"
"""The name by which a configuration asks for `attention` (`transformers.AttentionInterface`)."""

_LIBRARY = torch.library.Library("macloom", "FRAGMENT")
_LIBRARY.define("attention(Tensor q, Tensor k, Tensor v, bool causal) -> Tensor")
_LIBRARY.define("scan(Tensor x, Tensor dt, int states) -> Tensor")
_LIBRARY.impl("attention", lambda q, k, v, causal: q.new_empty((*q.shape[:3], v.shape[3])), "Meta")
_LIBRARY.impl("scan", lambda x, dt, states: torch.empty_like(x), "Meta")


def attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, is_causal: Any = None, **further: Any
) -> tuple[torch.Tensor, None]:
    """Stand in for attention: (batch, heads, tokens, width) to (batch, tokens, heads, width)."""
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    return torch.ops.macloom.attention(query, key, value, causal).transpose(1, 2).contiguous(), None


def selective_scan(
    hidden_states: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **further: Any,
) -> Any:
    """Stand in for Mamba's scan: channels (batch, width, tokens), states from A (width, states)."""
    if delta_softplus:
        dt = functional.softplus(dt)
    out = torch.ops.macloom.scan(hidden_states, dt, A.shape[-1])
    if z is not None:
        out = out * functional.silu(z)
    state = hidden_states.new_empty((*hidden_states.shape[:2], A.shape[-1]))
    return (out, state) if return_last_state else out


def selective_state_update(
    state: Any,
    hidden_states: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    dt_bias: Any = None,
    dt_softplus: bool = False,
    z: Any = None,
    **further: Any,
) -> Any:
    """Stand in for the scan of one token: channels (batch, width)."""
    return selective_scan(
        hidden_states[..., None], dt[..., None], A, B, C, D, None if z is None else z[..., None], dt_bias, dt_softplus
    )[..., 0]


def _convolved(full: Any, weight: Any, bias: Any, activation: Any, dtype: Any) -> Any:
    from transformers.activations import ACT2FN

    out = functional.conv1d(full.to(weight.dtype), weight.unsqueeze(1), bias, groups=full.shape[1])
    return (out if activation is None else ACT2FN[activation](out)).to(dtype)


def causal_convolution(
    hidden_states: Any, weight: Any, bias: Any = None, activation: Any = None, **further: Any
) -> Any:
    """Stand in for the causal convolution of a prompt: as many results as tokens."""
    full = functional.pad(hidden_states, (weight.shape[-1] - 1, 0))
    return _convolved(full, weight, bias, activation, hidden_states.dtype)


def causal_convolution_update(
    hidden_states: Any, conv_state: Any, weight: Any, bias: Any = None, activation: Any = None, **further: Any
) -> Any:
    """Stand in for the causal convolution of new tokens behind a state: as many results as new tokens."""
    full = torch.cat([conv_state, hidden_states], dim=-1)
    used = full[..., -(hidden_states.shape[-1] + weight.shape[-1] - 1) :]
    return _convolved(used, weight, bias, activation, hidden_states.dtype)


REPLACED: dict[str, Callable[..., Any]] = {
    "mamba_selective_scan": selective_scan,
    "mamba_selective_state_update": selective_state_update,
    "causal_conv1d_fn": causal_convolution,
    "causal_conv1d_update": causal_convolution_update,
}
"""Functions of transformers' modeling files, by their names there."""

_WARNING = "warn_if_padding_and_no_attention_mask"


def _nothing(*arguments: Any, **options: Any) -> None:
    """Stand in for a warning that looks at the input, which has no values here."""


@contextmanager
def standing_in(model: torch.nn.Module) -> Iterator[None]:
    """Put the stand-ins into the modules that define the parts of a model, and take them out again."""
    homes = {sys.modules[type(m).__module__] for m in model.modules() if type(m).__module__ in sys.modules}
    saved: list[tuple[Any, str, Any]] = [
        (home, name, getattr(home, name)) for home in homes for name in REPLACED if hasattr(home, name)
    ]
    saved.append((PreTrainedModel, _WARNING, getattr(PreTrainedModel, _WARNING)))
    try:
        for home, name, _ in saved:
            setattr(home, name, REPLACED.get(name, _nothing))
        yield
    finally:
        for home, name, function in saved:
            setattr(home, name, function)
