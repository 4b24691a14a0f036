"""The Llama architecture as plain functions over a dictionary of tensors.

Parameter names and arithmetic are those of Hugging Face's `LlamaForCausalLM`, so that a checkpoint
runs in both. Every matrix product goes through an `Arithmetic` and everything else through `VectorOps`,
which is where quantized execution takes over; training and the unquantized reference use float.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from macloom.errors import MacloomError

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The fields of a Hugging Face Llama `config.json` that decide its arithmetic."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool

    def __post_init__(self) -> None:
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "vocab_size", "max_position_embeddings",
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise MacloomError(f"config.{name}: must be a positive integer, not {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise MacloomError(
                f"config.num_attention_heads: must divide the hidden_size {self.hidden_size}, "
                f"not {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise MacloomError(
                f"config.num_key_value_heads: must divide num_attention_heads {self.num_attention_heads}, "
                f"not {self.num_key_value_heads}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor a checkpoint must hold."""
        h, f, kv = self.hidden_size, self.intermediate_size, self.num_key_value_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, h)}
        for i in range(self.num_hidden_layers):
            shapes |= {
                f"model.layers.{i}.{name}.weight": shape
                for name, shape in {
                    "self_attn.q_proj": (h, h),
                    "self_attn.k_proj": (kv, h),
                    "self_attn.v_proj": (kv, h),
                    "self_attn.o_proj": (h, h),
                    "mlp.gate_proj": (f, h),
                    "mlp.up_proj": (f, h),
                    "mlp.down_proj": (h, f),
                    "input_layernorm": (h,),
                    "post_attention_layernorm": (h,),
                }.items()
            }
        shapes["model.norm.weight"] = (h,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, h)
        return shapes


class Arithmetic(Protocol):
    """Who computes the matrix products of a forward pass."""

    def linear(self, name: str, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., K) times weight (N, K) transposed."""
        ...

    def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention: q (B, H, T, D), k and v (B, H_kv, T, D) to (B, H, T, D)."""
        ...


class FloatArithmetic:
    """Matrix products in the tensors' own float type."""

    def linear(self, name: str, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / math.sqrt(q.shape[-1]))


FLOAT = FloatArithmetic()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square over the last axis, in float32, then scale by `weight`."""
    x32 = x.float()
    x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return weight * x32.to(x.dtype)


def rope_tables(length: int, head_dim: int, theta: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, each length x head_dim (Su et al. 2021, half-split layout)."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding to x (B, H, T, D)."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class VectorOps(Protocol):
    """Who computes what is not a matrix product; `name` says where in the model."""

    def embed(self, name: str, x: Tensor) -> Tensor:
        """Take embeddings (B, T, C) into the residual stream."""
        ...

    def norm(self, name: str, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last axis."""
        ...

    def positions(self, length: int, head_dim: int, theta: float, like: Tensor) -> Any:
        """Return what `rotate` needs to know of positions 0 to length - 1."""
        ...

    def rotate(self, name: str, x: Tensor, positions: Any) -> Tensor:
        """Rotary position embedding of x (B, H, T, D)."""
        ...

    def softmax(self, name: str, scores: Tensor, scale: float) -> Tensor:
        """Return softmax(scale * scores) of scores (..., T, T), exactly zero where a key is later than its query."""
        ...

    def gated(self, name: str, gate: Tensor, up: Tensor) -> Tensor:
        """Return silu(gate) * up."""
        ...

    def add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """Return the residual stream x plus y."""
        ...


class FloatVector:
    """Vector operations of torch, in the tensors' own float type."""

    def embed(self, name: str, x: Tensor) -> Tensor:
        return x

    def norm(self, name: str, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm(x, weight, eps)

    def positions(self, length: int, head_dim: int, theta: float, like: Tensor) -> Any:
        return tuple(t.to(like.dtype) for t in rope_tables(length, head_dim, theta, like.device))

    def rotate(self, name: str, x: Tensor, positions: Any) -> Tensor:
        return rotate(x, *positions)

    def softmax(self, name: str, scores: Tensor, scale: float) -> Tensor:
        return causal_softmax(scores, scale)

    def gated(self, name: str, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up

    def add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        return x + y


FLOAT_VECTOR = FloatVector()


def causal_softmax(scores: Tensor, scale: float) -> Tensor:
    """Return softmax(scale * scores) over the last axis, exactly zero where a key is later than its query.

    Args:
        scores: (..., T, T), queries by keys.
    """
    length = scores.shape[-1]
    mask = torch.full((length, length), -math.inf, device=scores.device).triu(1)
    return torch.add(mask, scores.float(), alpha=scale).softmax(-1)


def forward(
    parameters: Parameters,
    config: LlamaConfig,
    tokens: Tensor,
    arithmetic: Arithmetic = FLOAT,
    vector: VectorOps = FLOAT_VECTOR,
) -> Tensor:
    """Return the logits (B, T, vocabulary) of `tokens` (B, T)."""
    p, batch, length = parameters, tokens.shape[0], tokens.shape[1]
    x = vector.embed("model.embed_tokens", F.embedding(tokens, p["model.embed_tokens.weight"]))
    positions = vector.positions(length, config.head_dim, config.rope_theta, x)
    eps = config.rms_norm_eps

    def heads(t: Tensor) -> Tensor:
        return t.view(batch, length, -1, config.head_dim).transpose(1, 2)

    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."

        def linear(name: str, t: Tensor, layer: str = layer) -> Tensor:
            return arithmetic.linear(layer + name, t, p[f"{layer}{name}.weight"])

        def norm(name: str, t: Tensor, layer: str = layer) -> Tensor:
            return vector.norm(layer + name, t, p[f"{layer}{name}.weight"], eps)

        h = norm("input_layernorm", x)
        q, k, v = (heads(linear(f"self_attn.{n}_proj", h)) for n in "qkv")
        q = vector.rotate(f"{layer}self_attn.rope_q", q, positions)
        k = vector.rotate(f"{layer}self_attn.rope_k", k, positions)
        a = arithmetic.attention(layer + "self_attn", q, k, v).transpose(1, 2).reshape(batch, length, -1)
        x = vector.add(f"{layer}self_attn.add", x, linear("self_attn.o_proj", a))
        h = norm("post_attention_layernorm", x)
        h = vector.gated(f"{layer}mlp.act", linear("mlp.gate_proj", h), linear("mlp.up_proj", h))
        x = vector.add(f"{layer}mlp.add", x, linear("mlp.down_proj", h))

    x = vector.norm("model.norm", x, p["model.norm.weight"], eps)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return arithmetic.linear("lm_head", x, p[head])
