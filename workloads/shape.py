"""The shape of a transformer: every field that decides which operations it consists of, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.ops import VectorKind

NORM_ORDERS = {"pre": 2, "post": 2, "sandwich": 4, "parallel": 1}
"""Norms of one layer: before each block, after each residual, on both sides of each block, one before both blocks."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A matrix of the model, named like its checkpoint module: `inputs` to `outputs` features."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.outputs * (self.inputs + self.bias)


@dataclass(frozen=True, kw_only=True)
class Modules:
    """What a family calls its modules. `qkv` or `gate_up`, if named, is one matrix in place of three or two."""

    attention: str = "self_attn"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    qkv: str = ""
    out: str = "self_attn.o_proj"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    gate_up: str = ""
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    activation: str = "mlp.silu"
    first_norm: str = "input_layernorm"
    second_norm: str = "post_attention_layernorm"
    attention_norm: str = ""
    mlp_norm: str = ""
    embedding: str = "embed_tokens"
    positions: str = "embed_positions"
    token_types: str = "embed_token_types"
    embedding_norm: str = "embed_norm"
    final_norm: str = "norm"
    transform: str = "transform"
    head: str = "lm_head"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder-only transformer, or of an encoder (`causal` false).

    `embedding` is the width of the token embedding, which opt-350m projects to `hidden`. `norm_parameters`
    counts one norm; `position_rows` the learned position vectors (0: none). `output_bias` is that of the
    attention's last matrix, `attention_bias` that of the others. In `windowed_layers` of the layers a token sees
    only the last `window` keys. With `experts`, each token passes `experts_per_token` of so many MLPs.
    `rope_width` is how much of each head rope turns, if not all. `head_transform` is BERT's dense layer, activation
    and norm before the head.
    """

    family: str
    names: Modules
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    embedding: int
    position_rows: int
    rope: bool
    norm: VectorKind
    norm_parameters: int
    norm_order: str
    final_norm: bool
    activation: VectorKind
    gated: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    tied: bool
    causal: bool = True
    token_types: int = 0
    embedding_norm: bool = False
    scaled_embedding: bool = False
    qk_norm: bool = False
    window: int | None = None
    windowed_layers: int = 0
    experts: int = 0
    experts_per_token: int = 0
    head_transform: bool = False
    head_bias: bool = False
    rope_width: int = 0

    def __post_init__(self) -> None:
        for name in (
            "hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocab", "max_positions", "embedding",
        ):  # fmt: skip
            require_positive_integer(f"config.{name}", getattr(self, name))
        if self.heads % self.kv_heads:
            raise MacloomError(
                f"config.num_key_value_heads: must divide num_attention_heads {self.heads}, not {self.kv_heads}"
            )
        if self.norm_order not in NORM_ORDERS:
            raise MacloomError(f"config.norm_order: must be one of {', '.join(NORM_ORDERS)}, not {self.norm_order!r}")
        if self.experts and not 0 < self.experts_per_token <= self.experts:
            raise MacloomError(
                f"config.num_experts_per_tok: must be from 1 to the {self.experts} experts, "
                f"not {self.experts_per_token}"
            )

    @property
    def projections(self) -> dict[str, Projection]:
        """Every matrix of one layer by its place: q, k, v or qkv; out; gate, up or gate_up; down; router.

        With experts, the matrices of the MLP are those of one expert.
        """
        names, hidden, wide = self.names, self.hidden, self.intermediate
        q, kv, bias = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.attention_bias
        found = {}

        def add(place: str, name: str, inputs: int, outputs: int, bias: bool) -> None:
            found[place] = Projection(name=name, inputs=inputs, outputs=outputs, bias=bias)

        if names.qkv:
            add("qkv", names.qkv, hidden, q + 2 * kv, bias)
        else:
            add("q", names.q, hidden, q, bias)
            add("k", names.k, hidden, kv, bias)
            add("v", names.v, hidden, kv, bias)
        add("out", names.out, q, hidden, self.output_bias)
        if self.experts:
            add("router", names.router, hidden, self.experts, False)
        if self.gated and names.gate_up:
            add("gate_up", names.gate_up, hidden, 2 * wide, self.mlp_bias)
        else:
            if self.gated:
                add("gate", names.gate, hidden, wide, self.mlp_bias)
            add("up", names.up, hidden, wide, self.mlp_bias)
        add("down", names.down, wide, hidden, self.mlp_bias)
        return found

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer, norms and all experts included."""
        mlp = ("gate", "up", "gate_up", "down")
        matrices = sum(
            p.parameters * (self.experts or 1 if place in mlp else 1) for place, p in self.projections.items()
        )
        return matrices + NORM_ORDERS[self.norm_order] * self.norm_parameters + 2 * self.head_dim * self.qk_norm

    @property
    def parameters(self) -> int:
        """Weights of the whole model; a tied head is counted once, in the embedding."""
        tables = self.vocab * self.embedding * (1 if self.tied else 2)
        tables += (self.position_rows + self.token_types) * self.hidden
        resize = 2 * self.hidden * self.embedding if self.embedding != self.hidden else 0
        head = self.head_transform * (self.hidden * (self.hidden + 1) + self.norm_parameters)
        norms = (self.embedding_norm + self.final_norm) * self.norm_parameters
        return self.layers * self.layer_parameters + tables + resize + norms + head + self.head_bias * self.vocab
