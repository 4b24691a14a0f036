"""From recorded operations to those of a workload: products with roles, and the operations of the vector unit.

What belongs to an operation of ours is part of it: biases start accumulators; the scaling, mask and bias of scores are
part of softmax; numbers that scale a whole tensor are part of the scale of what made it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from macloom.errors import MacloomError
from macloom.workloads.ops import Gemm, Role, Vector, VectorKind
from macloom.workloads.routing import Routing, expert_groups, expert_rows
from macloom.workloads.trace import fuse
from macloom.workloads.trace.drafts import Draft, Result, origin, out_role
from macloom.workloads.trace.prices import ELEMENTWISE, FREE, POOLS
from macloom.workloads.trace.record import ACTIVATION, CACHE, WEIGHT, Node, Operand


class Converter:
    """Turns the nodes of a recorder into drafts, in order.

    Args:
        causal: whether attention of tokens over themselves that says nothing of a mask has a causal one.
        decode: whether tokens see all keys, so that no mask takes work away.
        requests: requests of the batch.
        past: tokens in the cache before.
        tokens: rows that every token-wise operation has; grouped products have a multiple of it.
        routing: how tokens spread over experts.
        leaves: modules without parts, whose own name an operation takes rather than that of a shared weight.
    """

    def __init__(
        self,
        nodes: list[Node],
        *,
        causal: bool,
        decode: bool,
        requests: int,
        past: int,
        tokens: int,
        routing: Routing,
        leaves: frozenset[str],
    ) -> None:
        self.nodes, self.causal, self.decode = nodes, causal, decode
        self.requests, self.past, self.tokens = requests, past, tokens
        self.routing, self.leaves = routing, leaves
        self.experts = self.experts_per_token = 0
        self._results: list[Result] = []
        self._drafts: list[Draft] = []
        self._counts: dict[str, int] = defaultdict(int)

    def drafts(self) -> list[Draft]:
        """Return all operations, their results in the role in which they are read.

        Raises:
            MacloomError: an operation without a price, with the module it is in.
        """
        fuse.all_of(self.nodes)
        for node in self.nodes:
            self._results.append(self._convert(node))
        for draft in self._drafts:
            if isinstance(draft.op, Gemm) and draft.op.out is Role.OUTPUT:
                draft.op = replace(draft.op, out=out_role(draft))
        return self._drafts

    def _convert(self, node: Node) -> Result:
        if node.op == fuse.ABSORBED:
            return self._read(node.operands[0]) if node.operands else ()
        product = _PRODUCTS.get(node.op)
        if product is not None:
            return product(self, node)
        if node.op in ELEMENTWISE:
            return self._elementwise(node, ELEMENTWISE[node.op])
        if node.op in POOLS:
            return self._pool(node)
        if node.op in FREE:
            return tuple({id(d): d for o in node.operands for d in self._read(o)}.values())
        name = node.op.replace("macloom.", "")
        raise MacloomError(f"trace: the operation {name!r} has no price; it is in {node.module or 'the model itself'}")

    def _read(self, operand: Operand) -> Result:
        return tuple({id(d): d for maker in operand.value.makers for d in self._results[maker]}.values())

    # Drafts

    def _unique(self, name: str) -> str:
        self._counts[name] += 1
        count = self._counts[name]
        return name if count == 1 else f"{name}_{count - 1}"

    def _gemm(self, name: str, reads: Result, b_reads: Result = (), **fields: Any) -> Result:
        draft = Draft(Gemm(name=self._unique(name), **fields), (reads,), b_reads)
        self._drafts.append(draft)
        return (draft,)

    def _vector(self, name: str, kind: VectorKind, shape: tuple[int, ...], *reads: Result, **fields: Any) -> Result:
        width = _width(kind, shape)
        draft = Draft(
            Vector(
                name=self._unique(name),
                kind=kind,
                rows=max(1, math.prod(shape) // width),
                width=width,
                inputs=max(1, len(reads)),
                **fields,
            ),
            reads,
        )
        self._drafts.append(draft)
        return (draft,)

    def _named(self, node: Node, label: str) -> str:
        """Return the name of a vector operation: its module's, if that is made for nothing else."""
        return node.module if node.module in self.leaves else f"{node.module}.{label}".lstrip(".")

    def _weight_name(self, node: Node, weight: Operand) -> str:
        owner, _, last = weight.value.name.rpartition(".")
        if owner != node.module and node.module in self.leaves:
            return node.module
        return owner if last == "weight" else weight.value.name

    # Vector operations

    def _elementwise(self, node: Node, kind: VectorKind) -> Result:
        reads = [self._read(o) for o in node.operands if o.floating and _full(o, node.shape)]
        named = self._named(node, kind.value)
        if kind is VectorKind.EMBEDDING:
            return self._vector(named, kind, node.shape)
        return self._vector(named, kind, node.shape, *reads)

    def _pool(self, node: Node) -> Result:
        first = node.operands[0]
        window = node.arguments[1] if node.op.startswith(("avg_pool", "max_pool")) else None
        if window is not None:
            terms = math.prod(window) if len(window) > 1 else window[0] ** (len(node.shape) - 2)
        else:
            terms = max(1, math.prod(first.shape) // max(1, math.prod(node.shape)))
        return self._vector(self._named(node, "pool"), VectorKind.POOL, node.shape, self._read(first), terms=terms)

    def _softmax(self, node: Node) -> Result:
        first = node.operands[0]
        dim = node.arguments[1] if len(node.arguments) > 1 else -1
        width = first.shape[dim]
        shape = (math.prod(first.shape) // width, width)
        name = self._attention_name(node, "softmax")
        return self._vector(name, VectorKind.SOFTMAX, shape, self._read(first))

    def _norm(self, node: Node) -> Result:
        kind = VectorKind.RMS_NORM if "rms" in node.op else VectorKind.LAYER_NORM
        return self._vector(self._named(node, "norm"), kind, node.shape, self._read(node.operands[0]))

    def _scan(self, node: Node) -> Result:
        x, dt = node.operands[:2]
        batch, width, tokens = x.shape
        reads = (self._read(x), self._read(dt))
        return self._vector(
            f"{node.module}.scan", VectorKind.SCAN, (batch * tokens, width), *reads, terms=node.arguments[2]
        )

    # Products

    def _attention_name(self, node: Node, label: str) -> str:
        return f"{node.module}.{label}".lstrip(".")

    def _attention(self, node: Node) -> Result:
        q, k, v = node.operands[:3]
        batch, heads, queries, width = q.shape
        kv_heads, keys, out_width = k.shape[1], k.shape[2], v.shape[3]
        q_from, k_from, v_from = self._read(q), self._read(k), self._read(v)
        shared: dict[str, Any] = {
            "m": queries,
            "batch": batch * heads,
            "b": Role.KV,
            "b_sharing": heads // kv_heads * k.sharing,
            "causal": bool(node.arguments[3]) and not self.decode,
        }
        stored = tuple({id(d): d for d in (*k_from, *v_from)}.values())
        self._store(node, q_from, stored, kv_heads * (width + out_width) // k.sharing)
        scores = self._gemm(self._attention_name(node, "scores"), q_from, k_from, n=keys, k=width, **shared)
        shape = (batch * heads * queries, keys)
        softmax = self._vector(self._attention_name(node, "softmax"), VectorKind.SOFTMAX, shape, scores)
        return self._gemm(
            self._attention_name(node, "values"), softmax, v_from, n=out_width, k=keys, a=Role.PROBABILITY, **shared
        )

    def _store(self, node: Node, q_from: Result, stored: Result, width: int) -> None:
        """Add the encoding of keys and values that one projection makes together with queries."""
        made = {id(d) for d in map(origin, q_from) if d}
        fused = next((d for d in map(origin, stored) if d and id(d) in made), None)
        if fused is not None and isinstance(fused.op, Gemm):
            rows = fused.op.m * fused.op.batch
            self._vector(self._attention_name(node, "cache"), VectorKind.CACHE, (rows, width), stored)

    def _product(self, node: Node) -> Result:
        """Convert a product of two matrices, or of two rows of them; the last two operands are the matrices."""
        bias = node.op in ("addmm", "baddbmm", "addbmm")
        a, b = node.operands[bias : bias + 2]
        (m, k), n = a.shape[-2:], b.shape[-1]
        batch = a.shape[0] if len(a.shape) == 3 else 1
        if a.value.kind == WEIGHT and b.value.kind != WEIGHT:
            a, b, m, n = b, a, n, m
        if b.value.kind == WEIGHT:
            if batch > 1 and b.sharing == batch:  # one matrix for the whole batch
                m, batch = m * batch, 1
            return self._gemm(self._weight_name(node, b), self._read(a), m=m, n=n, k=k, batch=batch)
        a_role, b_role, label = Role.ACTIVATION, Role.ACTIVATION, "product"
        sharing = b.sharing if batch % b.sharing == 0 else 1
        if node.options.get("scores"):
            b_role, label = Role.KV, "scores"
            # The batch holds the heads of every request; values are as wide as keys.
            self._store(node, self._read(a), self._read(b), max(1, 2 * k * (batch // sharing) // self.requests))
        elif any(d.op.kind is VectorKind.SOFTMAX for d in self._read(a) if isinstance(d.op, Vector)):
            a_role, b_role, label = Role.PROBABILITY, Role.KV, "values"
        keys = n if label == "scores" else k
        causal = self.causal and label != "product" and keys in (m, m + self.past)
        shared: dict[str, Any] = {"b_sharing": sharing, "causal": causal}
        reads = (self._read(a), self._read(b))
        return self._gemm(
            self._attention_name(node, label), *reads, m=m, n=n, k=k, batch=batch, a=a_role, b=b_role, **shared
        )

    def _experts(self, node: Node) -> Result:
        x, w = node.operands[:2]
        rows, k = x.shape
        experts, n = w.shape[0], w.shape[-1]
        if rows % self.tokens:
            raise MacloomError(
                f"trace: experts in {node.module} must get a multiple of the {self.tokens} tokens, not {rows} rows"
            )
        self.experts, self.experts_per_token = experts, rows // self.tokens
        groups = expert_groups(expert_rows(self.tokens, rows // self.tokens, experts, self.routing))
        name, reads = self._weight_name(node, w), self._read(x)
        return tuple(
            self._gemm(name if len(groups) == 1 else f"{name}.{i}", reads, m=m, n=n, k=k, batch=count)[0]
            for i, (m, count) in enumerate(groups)
        )

    def _substitution(self, node: Node) -> Result:
        """Convert a triangular system of equations, counted as the product with the full matrix."""
        a, b = node.operands[:2]
        m, n = b.shape[-2:]
        name = self._attention_name(node, "substitution")
        batch = math.prod(b.shape[:-2])
        return self._gemm(name, self._read(a), self._read(b), m=m, n=n, k=m, batch=batch, b=Role.ACTIVATION)

    def _convolution(self, node: Node) -> Result:
        x, w = node.operands[:2]
        transposed, groups = node.arguments[6], node.arguments[8]
        taps = math.prod(w.shape[2:])
        if transposed:
            m, k, n = math.prod(x.shape) // x.shape[1], w.shape[0] // groups, w.shape[1] * taps
        else:
            m, k, n = math.prod(node.shape) // node.shape[1], w.shape[1] * taps, w.shape[0] // groups
        return self._gemm(self._weight_name(node, w), self._read(x), m=m, n=n, k=k, batch=groups)


_PRODUCTS: dict[str, Callable[[Converter, Node], Result]] = {
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), Converter._product),
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax"), Converter._softmax),
    **dict.fromkeys(
        ("native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm", fuse.RMS_NORM), Converter._norm
    ),
    **dict.fromkeys(("_grouped_mm", "transformers.grouped_mm_fallback"), Converter._experts),
    "convolution": Converter._convolution,
    "linalg_solve_triangular": Converter._substitution,
    "macloom.attention": Converter._attention,
    "macloom.scan": Converter._scan,
}


_BY_ROWS = (VectorKind.SOFTMAX, VectorKind.LAYER_NORM, VectorKind.RMS_NORM, VectorKind.CACHE, VectorKind.ROPE)


def _width(kind: VectorKind, shape: tuple[int, ...]) -> int:
    """Return the width of the rows of a result: its last axis, unless that is short and no row means anything.

    Images and states have their channels in front; rows of a few pixels would be padded to whole blocks of a format.
    """
    if not shape:
        return 1
    return shape[-1] if kind in _BY_ROWS or shape[-1] >= 32 else max(shape[1:] or shape)


def _full(operand: Operand, shape: tuple[int, ...]) -> bool:
    """Whether an operand of an elementwise operation is a tensor of its own, not a vector or number for all rows."""
    size = math.prod(operand.shape)
    return operand.value.kind in (ACTIVATION, CACHE) or (operand.value.kind == WEIGHT and 2 * size > math.prod(shape))
