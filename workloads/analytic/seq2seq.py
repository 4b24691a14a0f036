"""Encoder-decoders: BART and T5.

A prefill runs the encoder over `source` tokens and the decoder over `sequence` tokens, as published counts do; both are
equal unless `source` says otherwise (a server's prefill has `sequence=1`). In decode the encoder has run: its keys and
values are in the cache, like those of the tokens so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from macloom.workloads.analytic.fields import activation, divided, flag, integer, only
from macloom.workloads.analytic.listing import Heads, Listing, Read
from macloom.workloads.config import Unsupported
from macloom.workloads.ops import Role, VectorKind, Workload
from macloom.workloads.request import Request


@dataclass(frozen=True, kw_only=True)
class _Names:
    """What a family calls its modules, those of a layer relative to it."""

    attention: str
    cross: str
    mlp: str
    q: str
    k: str
    v: str
    out: str
    rise: tuple[str, ...]
    down: str
    active: str
    embedding: str = "embed_tokens"


@dataclass(frozen=True, kw_only=True)
class _Stack:
    """One of the two halves: `inner` is the width of all heads together."""

    name: str
    layers: int
    heads: int
    wide: int
    names: _Names
    hidden: int
    inner: int
    norm: VectorKind
    active: VectorKind
    gated: bool
    post: bool
    positions: bool

    def project(self, out: Listing, name: str, read: Read, rows: int, role: Role = Role.OUTPUT) -> str:
        return out.gemm(name, read, m=rows, n=self.inner, k=self.hidden, out=role)

    def block(self, out: Listing, place: str, start: Read, source: Read | None, shape: Heads, made: bool) -> str:
        """Append attention, over the tokens themselves or over `source`; `made` says whether keys are to be made."""
        rows, names = shape.batch * shape.queries, self.names
        read = start if self.post else out.vector(f"{place}_layer_norm", self.norm, rows, self.hidden, start)
        q = self.project(out, f"{place}.{names.q}", read, rows, Role.ACTIVATION)
        if made:
            of_keys = rows if source is None else shape.batch * shape.keys
            self.project(out, f"{place}.{names.k}", source or read, of_keys, Role.KV)
            self.project(out, f"{place}.{names.v}", source or read, of_keys, Role.KV)
        values = out.attention(place, q, shape)
        last = out.gemm(f"{place}.{names.out}", values, m=rows, n=self.hidden, k=self.inner)
        return self.residual(out, place, last, start, rows)

    def residual(self, out: Listing, place: str, block: str, start: Read, rows: int) -> str:
        last = out.vector(f"{place}.residual", VectorKind.ADD, rows, self.hidden, block, start)
        return out.vector(f"{place}_layer_norm", self.norm, rows, self.hidden, last) if self.post else last

    def mlp(self, out: Listing, start: str, rows: int) -> str:
        place, wide = self.names.mlp, self.wide
        read = start if self.post else out.vector(f"{place}_layer_norm", self.norm, rows, self.hidden, start)
        risen = out.gemm(self.names.rise[0], read, m=rows, n=wide, k=self.hidden)
        kind = VectorKind.GELU_GATE if self.gated else self.active
        active = out.vector(self.names.active, kind, rows, wide, risen)
        if self.gated:
            up = out.gemm(self.names.rise[1], read, m=rows, n=wide, k=self.hidden)
            active = out.vector(f"{place}.multiply", VectorKind.MULTIPLY, rows, wide, active, up)
        down = out.gemm(self.names.down, active, m=rows, n=self.hidden, k=wide)
        return self.residual(out, place, down, start, rows)

    def embed(self, out: Listing, rows: int) -> str:
        last = out.vector(f"{self.name}.{self.names.embedding}", VectorKind.EMBEDDING, rows, self.hidden)
        if self.positions:
            positions = out.vector(f"{self.name}.embed_positions", VectorKind.EMBEDDING, rows, self.hidden)
            last = out.vector(f"{self.name}.add_positions", VectorKind.ADD, rows, self.hidden, last, positions)
            last = out.vector(f"{self.name}.layernorm_embedding", self.norm, rows, self.hidden, last)
        return last

    def run(
        self, out: Listing, batch: int, queries: int, keys: int, source: Read | None, source_keys: int, made: bool
    ) -> str:
        """Append the whole stack; `source_keys` is 0 for an encoder."""
        rows = batch * queries
        first, decoder = self.embed(out, rows), source_keys > 0
        shape = Heads(
            batch=batch, queries=queries, keys=keys, heads=self.heads, width=self.inner // self.heads,
            causal=decoder and queries == keys and made,
        )  # fmt: skip
        mlp = f"{self.name}.{self.names.mlp}"
        last = f"{mlp}_layer_norm" if self.post else f"{mlp}.residual"
        with out.layers(f"{self.name}.", self.layers):
            start: Read = (first, last)
            attended = self.block(out, self.names.attention, start, None, shape, True)
            if decoder:
                cross = Heads(batch=batch, queries=queries, keys=source_keys, heads=self.heads, width=shape.width)
                attended = self.block(out, self.names.cross, attended, source or "", cross, made)
            ended = self.mlp(out, attended, rows)
        if self.post:
            return ended
        return out.vector(f"{self.name}.final_layer_norm", self.norm, rows, self.hidden, ended)


@dataclass(frozen=True, kw_only=True)
class _Model:
    family: str
    encoder: _Stack
    decoder: _Stack
    vocab: int
    parameters: int
    longest: int | None

    def workload(self, name: str, request: Request) -> Workload:
        request.without_past(name)
        request.without_experts(name)
        length = request.tokens(self.longest)
        source = request.source or length
        batch, decode, out = request.batch, request.decode, Listing()
        states = None if decode else self.encoder.run(out, batch, source, source, None, 0, True)
        queries = 1 if decode else length
        last = self.decoder.run(out, batch, queries, length, states, source, not decode)
        rows = {"all": batch * queries, "last": batch, "none": 0}[request.head_tokens]
        if rows:
            out.gemm("lm_head", last, m=rows, n=self.vocab, k=self.decoder.hidden)
        return Workload(
            name=name,
            phase=request.phase,
            ops=tuple(out.ops),
            parameters=self.parameters,
            kv_elements=2 * self.decoder.layers * self.decoder.inner * (length + source) * batch,
            tokens=batch * queries,
            details={
                "family": self.family,
                "layers": self.encoder.layers + self.decoder.layers,
                "hidden": self.decoder.hidden,
                "heads": self.decoder.heads,
                "vocab": self.vocab,
                "batch": batch,
                "context" if decode else "sequence": length,
                "source": source,
                "head_tokens": request.head_tokens,
            },
        )


def bart_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a BART: norms after residuals, learned positions, a tied head."""
    only(config, "tie_word_embeddings", True)
    hidden, vocab = integer(config, "d_model", 1024), integer(config, "vocab_size", 50265)
    positions = integer(config, "max_position_embeddings", 1024)
    names = _Names(
        attention="self_attn", cross="encoder_attn", mlp="final", q="q_proj", k="k_proj", v="v_proj", out="out_proj",
        rise=("fc1",), down="fc2", active="activation_fn",
    )  # fmt: skip
    active = activation(config, "activation_function", "gelu", "relu", "gelu_new")

    def stack(which: str) -> _Stack:
        heads = integer(config, f"{which}_attention_heads", 16)
        divided(f"{which}_attention_heads", hidden, heads, "d_model")
        return _Stack(
            name=which, layers=integer(config, f"{which}_layers", 12), heads=heads,
            wide=integer(config, f"{which}_ffn_dim", 4096), names=names, hidden=hidden, inner=hidden,
            norm=VectorKind.LAYER_NORM, active=active, gated=False, post=True, positions=True,
        )  # fmt: skip

    encoder, decoder = stack("encoder"), stack("decoder")
    norm, attention = 2 * hidden, 4 * hidden * (hidden + 1)

    def weights(part: _Stack, blocks: int) -> int:
        mlp = 2 * hidden * part.wide + part.wide + hidden
        # Two rows of padding precede the positions.
        return (positions + 2) * hidden + norm + part.layers * (blocks * (attention + norm) + mlp + norm)

    return _Model(
        family="bart", encoder=encoder, decoder=decoder, vocab=vocab, longest=positions,
        parameters=vocab * hidden + weights(encoder, 1) + weights(decoder, 2),
    ).workload(name, request)  # fmt: skip


def t5_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a T5: norms before blocks, positions as a bias of the scores, part of softmax.

    Without `tie_word_embeddings`, as in version 1.1, the head has weights of its own.
    """
    hidden, inner_head = integer(config, "d_model", 512), integer(config, "d_kv", 64)
    heads, wide = integer(config, "num_heads", 8), integer(config, "d_ff", 2048)
    layers, vocab = integer(config, "num_layers", 6), integer(config, "vocab_size", 32128)
    decoder_layers = integer(config, "num_decoder_layers", layers)
    kinds = {"relu": (VectorKind.RELU, False), "gated-gelu": (VectorKind.GELU, True), "gelu": (VectorKind.GELU, False)}
    projection = config.get("feed_forward_proj", "relu")
    if projection not in kinds:
        raise Unsupported(f"config.feed_forward_proj: must be 'relu', 'gelu' or 'gated-gelu', not {projection!r}")
    active, gated = kinds[projection]
    buckets, tied = integer(config, "relative_attention_num_buckets", 32), flag(config, "tie_word_embeddings", True)
    inner = heads * inner_head
    mlp = "DenseReluDense"
    names = _Names(
        attention="SelfAttention", cross="EncDecAttention", mlp=mlp, q="q", k="k", v="v", out="o",
        rise=(f"{mlp}.wi_0", f"{mlp}.wi_1") if gated else (f"{mlp}.wi",), down=f"{mlp}.wo", active=f"{mlp}.act",
    )  # fmt: skip

    def stack(which: str, count: int) -> _Stack:
        return _Stack(
            name=which, layers=count, heads=heads, wide=wide, names=names, hidden=hidden, inner=inner,
            norm=VectorKind.RMS_NORM, active=active, gated=gated, post=False, positions=False,
        )  # fmt: skip

    of_mlp = (2 + gated) * hidden * wide + hidden
    block = 4 * hidden * inner + hidden
    weights = layers * (block + of_mlp) + decoder_layers * (2 * block + of_mlp) + 2 * (buckets * heads + hidden)
    return _Model(
        family="t5", encoder=stack("encoder", layers), decoder=stack("decoder", decoder_layers), vocab=vocab,
        parameters=weights + vocab * hidden * (1 if tied else 2), longest=None,
    ).workload(name, request)  # fmt: skip
