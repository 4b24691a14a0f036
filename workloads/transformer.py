"""Transformers as exact lists of operations. Everything is decided by the fields of a `DecoderConfig`.

Biases start the accumulators of their product. The scaling, masking, ALiBi bias and soft capping of scores are
part of softmax. The factor of an expert is part of the epilogue of its last product, and the choice of experts part
of the router's softmax. None of these is an operation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from macloom.workloads.ops import Gemm, Op, Role, Vector, VectorKind
from macloom.workloads.routing import Routing, expert_groups, expert_rows
from macloom.workloads.shape import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass of a batch: each request brings `queries` tokens behind `past` keys that the cache holds."""

    queries: int
    past: int = 0
    batch: int
    causal: bool
    routing: Routing = "uniform"

    @property
    def keys(self) -> int:
        """Keys that the last token attends to, itself included."""
        return self.past + self.queries

    def keys_within(self, window: int) -> int:
        """Keys in a layer with a sliding window: the cache holds those that the first token still sees."""
        return min(self.past, window - 1) + self.queries

    @property
    def rows(self) -> int:
        return self.queries * self.batch


@dataclass
class _Layers:
    """Collects the operations of `repeat` equal layers; a name gets `prefix` in front of it."""

    config: DecoderConfig
    run: Pass
    keys: int
    repeat: int
    prefix: str
    ops: list[Op] = field(default_factory=list)

    def product(self, place: str, read: tuple[str, ...], out: Role = Role.OUTPUT) -> str:
        p = self.config.projections[place]
        return self.gemm(p.name, m=self.run.rows, n=p.outputs, k=p.inputs, out=out, reads=read)

    def gemm(self, name: str, **fields: Any) -> str:
        self.ops.append(Gemm(name=self.prefix + name, repeat=self.repeat, **fields))
        return self.prefix + name

    def vector(self, name: str, kind: VectorKind, width: int, *reads: tuple[str, ...], rows: int = 0) -> str:
        self.ops.append(
            Vector(
                name=self.prefix + name,
                kind=kind,
                rows=rows or self.run.rows,
                width=width,
                inputs=len(reads),
                repeat=self.repeat,
                reads=reads,
            )
        )
        return self.prefix + name

    def norm(self, name: str, *reads: str) -> str:
        return self.vector(name, self.config.norm, self.config.hidden, reads)

    def add(self, name: str, *reads: tuple[str, ...]) -> str:
        return self.vector(name, VectorKind.ADD, self.config.hidden, *reads)

    def layer(self, start: tuple[str, ...]) -> str:
        """Append one layer that reads the results of `start`, and return the name of its last operation."""
        config, names = self.config, self.config.names
        residual, final = f"{names.attention}.residual", "mlp.residual"
        if config.norm_order == "parallel":
            normed = self.norm(names.first_norm, *start)
            return self.add(final, (self.attention((normed,)),), (self.mlp(normed),), start)
        if config.norm_order == "post":
            attended = self.norm(names.first_norm, self.add(residual, (self.attention(start),), start))
            return self.norm(names.second_norm, self.add(final, (self.mlp(attended),), (attended,)))
        sandwich = config.norm_order == "sandwich"
        block = self.attention((self.norm(names.first_norm, *start),))
        if sandwich:
            block = self.norm(names.attention_norm, block)
        attended = self.add(residual, (block,), start)
        block = self.mlp(self.norm(names.second_norm, attended))
        if sandwich:
            block = self.norm(names.mlp_norm, block)
        return self.add(final, (block,), (attended,))

    def attention(self, read: tuple[str, ...]) -> str:
        config, run, prefix = self.config, self.run, self.config.names.attention
        width, rows = config.head_dim, run.rows
        fused = bool(config.names.qkv)
        if fused:
            q = k = v = self.product("qkv", read)
        else:
            # The results of k and v are what the cache keeps (rope turns K on its way there). Queries that no
            # rope turns, and the attention's results, are encoded as the next product reads them.
            q = self.product("q", read, Role.OUTPUT if config.rope else Role.ACTIVATION)
            k = self.product("k", read, Role.KV)
            v = self.product("v", read, Role.KV)
        heads = {"q": config.heads, "k": config.kv_heads}
        turned = config.rope_width or width
        for kind, used, wide in (
            (VectorKind.RMS_NORM, config.qk_norm, width),
            (VectorKind.ROPE, config.rope, turned),
        ):
            if used:
                name = "rope_{}" if kind is VectorKind.ROPE else "{}_norm"
                q = self.vector(f"{prefix}.{name.format('q')}", kind, wide, (q,), rows=rows * heads["q"])
                k = self.vector(f"{prefix}.{name.format('k')}", kind, wide, (k,), rows=rows * heads["k"])
        if fused:
            self.vector(f"{prefix}.cache", VectorKind.CACHE, 2 * config.kv_heads * width, tuple(dict.fromkeys((k, v))))
        shared: dict[str, Any] = {
            "m": run.queries,
            "batch": run.batch * config.heads,
            "b": Role.KV,
            "b_sharing": config.heads // config.kv_heads,
            "causal": run.causal,
        }
        scores = self.gemm(f"{prefix}.scores", n=self.keys, k=width, a=Role.ACTIVATION, reads=(q,), **shared)
        softmax = self.vector(f"{prefix}.softmax", VectorKind.SOFTMAX, self.keys, (scores,), rows=rows * config.heads)
        values = self.gemm(
            f"{prefix}.values",
            n=width,
            k=self.keys,
            a=Role.PROBABILITY,
            out=Role.ACTIVATION,
            reads=(softmax,),
            **shared,
        )
        return self.product("out", (values,))

    def mlp(self, read: str) -> str:
        if not self.config.experts:
            return self.activated(read, self.run.rows, lambda place, reads: (self.product(place, reads),))[0]
        config, rows = self.config, self.run.rows
        router = self.product("router", (read,))
        self.vector("mlp.router.softmax", VectorKind.SOFTMAX, config.experts, (router,))
        per_token = config.experts_per_token
        groups = expert_groups(expert_rows(rows, per_token, config.experts, self.run.routing))

        def grouped(place: str, reads: tuple[str, ...]) -> tuple[str, ...]:
            p = config.projections[place]
            return tuple(
                self.gemm(
                    p.name if len(groups) == 1 else f"{p.name}.{i}",
                    m=m,
                    n=p.outputs,
                    k=p.inputs,
                    batch=experts,
                    reads=reads,
                )
                for i, (m, experts) in enumerate(groups)
            )

        parts = self.activated(read, rows * per_token, grouped)
        return self.add("mlp.experts.sum", *[parts] * per_token)

    def activated(self, read: str, rows: int, product: Any) -> tuple[str, ...]:
        """Append the MLP of `rows` rows; `product(place, reads)` appends its products and returns their names."""
        config, wide = self.config, self.config.intermediate
        if not config.gated:
            risen = self.vector(config.names.activation, config.activation, wide, product("up", (read,)), rows=rows)
            return product("down", (risen,))
        if config.names.gate_up:
            gate = up = product("gate_up", (read,))
        else:
            gate, up = product("gate", (read,)), product("up", (read,))
        # The product with the other half follows, so that the result is no operand of the array yet.
        kind = VectorKind.GELU_GATE if config.activation is VectorKind.GELU else config.activation
        active = self.vector(config.names.activation, kind, wide, gate, rows=rows)
        multiplied = self.vector("mlp.multiply", VectorKind.MULTIPLY, wide, (active,), up, rows=rows)
        return product("down", (multiplied,))


def _embedding(config: DecoderConfig, rows: int) -> list[Op]:
    names, hidden = config.names, config.hidden
    ops: list[Op] = [Vector(name=names.embedding, kind=VectorKind.EMBEDDING, rows=rows, width=config.embedding)]

    def then(name: str, kind: VectorKind, *reads: tuple[str, ...]) -> None:
        ops.append(Vector(name=name, kind=kind, rows=rows, width=hidden, inputs=len(reads), reads=reads))

    if config.scaled_embedding:
        then(f"{names.embedding}.scale", VectorKind.MULTIPLY, (ops[-1].name,))
    if config.embedding != hidden:
        ops.append(Gemm(name="project_in", m=rows, n=hidden, k=config.embedding, reads=(ops[-1].name,)))
    parts = [(ops[-1].name,)]
    for name, used in ((names.positions, config.position_rows), (names.token_types, config.token_types)):
        if used:
            ops.append(Vector(name=name, kind=VectorKind.EMBEDDING, rows=rows, width=hidden))
            parts.append((name,))
    if len(parts) > 1:
        then("add_positions", VectorKind.ADD, *parts)
    if config.embedding_norm:
        then(names.embedding_norm, config.norm, (ops[-1].name,))
    return ops


def _head(config: DecoderConfig, last: str, rows: int, head_rows: int) -> list[Op]:
    names, hidden, ops = config.names, config.hidden, []
    if config.final_norm:
        ops.append(Vector(name=names.final_norm, kind=config.norm, rows=rows, width=hidden, reads=((last,),)))
        last = names.final_norm
    if config.head_transform:
        dense, active = f"{names.transform}.dense", f"{names.transform}.activation"
        ops += [
            Gemm(name=dense, m=head_rows, n=hidden, k=hidden, reads=(last,)),
            Vector(name=active, kind=config.activation, rows=head_rows, width=hidden, reads=((dense,),)),
            Vector(name=f"{names.transform}.norm", kind=config.norm, rows=head_rows, width=hidden, reads=((active,),)),
        ]
        last = ops[-1].name
    if config.embedding != hidden:
        ops.append(Gemm(name="project_out", m=rows, n=config.embedding, k=hidden, out=Role.ACTIVATION, reads=(last,)))
        last = "project_out"
    return [*ops, Gemm(name=names.head, m=head_rows, n=config.vocab, k=config.embedding, reads=(last,))]


def layer_groups(config: DecoderConfig, run: Pass) -> list[tuple[str, int, int]]:
    """Return (prefix of the names, layers, keys that a token attends to) of each kind of layer.

    A cache with a sliding window holds no more than its keys. A prefill computes the whole square of its tokens
    and masks it, so all layers of a whole prompt are equal.
    """
    if config.window is None or run.keys_within(config.window) == run.keys:
        return [("", config.layers, run.keys)]
    windowed, rest = config.windowed_layers, config.layers - config.windowed_layers
    seen = run.keys_within(config.window)
    return [("windowed.", windowed, seen), ("full.", rest, run.keys)] if rest else [("", windowed, seen)]


def transformer_ops(config: DecoderConfig, run: Pass, head_rows: int) -> tuple[Op, ...]:
    """Return all operations of one pass in order of execution; equal layers are one layer repeated.

    With two kinds of layers, one of each kind follow one another. Without `head_rows` the pass ends with the last
    layer, as that of a part of a prompt does.
    """
    embedding = _embedding(config, run.rows)
    groups = layer_groups(config, run)
    final = config.names.second_norm if config.norm_order == "post" else "mlp.residual"
    # What a layer starts from: the embedding in the first one, the result of the layer before in the others.
    before = (embedding[-1].name, groups[-1][0] + final)
    ops: list[Op] = []
    for prefix, layers, keys in groups:
        collected = _Layers(config=config, run=run, keys=keys, repeat=layers, prefix=prefix)
        before = (collected.layer(before),)
        ops += collected.ops
    return (*embedding, *ops, *(_head(config, before[0], run.rows, head_rows) if head_rows else ()))


def cache_elements(config: DecoderConfig, run: Pass) -> int:
    """Return the key and value elements that are live after the pass: none without later passes."""
    if not config.causal:
        return 0
    windowed = config.windowed_layers if config.window is not None else 0
    keys = (config.layers - windowed) * run.keys + windowed * min(run.keys, config.window or run.keys)
    return 2 * keys * config.kv_heads * config.head_dim * run.batch
