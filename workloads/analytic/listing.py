"""Write a list of operations, layer by layer, as the models of this package do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from macloom.workloads.ops import Gemm, Op, Role, Vector, VectorKind

Read = str | tuple[str, ...]
"""The name of an operation whose result is read, or of several where it is one of them."""


def _names(read: Read) -> tuple[str, ...]:
    return (read,) if isinstance(read, str) else read


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Attention of `batch` requests: `queries` tokens each, `heads` heads of `width`, over `keys` keys."""

    batch: int
    queries: int
    keys: int
    heads: int
    width: int
    causal: bool = False


@dataclass
class Listing:
    """Collects operations; each method returns the name of what it appended, which others may read."""

    ops: list[Op] = field(default_factory=list)
    prefix: str = ""
    repeat: int = 1

    @contextmanager
    def layers(self, prefix: str, repeat: int) -> Iterator[None]:
        """Append the operations of equal layers; their names get `prefix` in front."""
        before = self.prefix, self.repeat
        self.prefix, self.repeat = self.prefix + prefix, self.repeat * repeat
        yield
        self.prefix, self.repeat = before

    def gemm(self, name: str, read: Read | None, *, m: int, n: int, k: int, **fields: Any) -> str:
        reads = () if read is None else _names(read)
        self.ops.append(Gemm(name=self.prefix + name, m=m, n=n, k=k, repeat=self.repeat, reads=reads, **fields))
        return self.prefix + name

    def vector(self, name: str, kind: VectorKind, rows: int, width: int, *reads: Read, **fields: Any) -> str:
        self.ops.append(
            Vector(
                name=self.prefix + name,
                kind=kind,
                rows=rows,
                width=width,
                inputs=fields.pop("inputs", max(1, len(reads))),
                repeat=self.repeat,
                reads=tuple(map(_names, reads)),
                **fields,
            )
        )
        return self.prefix + name

    def convolution(
        self, name: str, read: Read | None, *, out_shape: tuple[int, ...], inputs: int, kernel: int, groups: int = 1
    ) -> str:
        """Append a square convolution as a product: one row for each output pixel, the pixels under the kernel as K.

        `out_shape` is batch, channels, and the extent of each axis. Every group is a product of its own.
        """
        batch, channels, *extent = out_shape
        return self.gemm(
            name,
            read,
            m=batch * math.prod(extent),
            n=channels // groups,
            k=inputs // groups * kernel ** len(extent),
            batch=groups,
        )

    def attention(self, name: str, q: str, shape: Heads) -> str:
        """Append scores, softmax and values of queries that `q` made; keys and values are in the cache."""
        shared: dict[str, Any] = {
            "m": shape.queries,
            "batch": shape.batch * shape.heads,
            "b": Role.KV,
            "causal": shape.causal,
        }
        scores = self.gemm(f"{name}.scores", q, n=shape.keys, k=shape.width, **shared)
        rows = shape.batch * shape.heads * shape.queries
        softmax = self.vector(f"{name}.softmax", VectorKind.SOFTMAX, rows, shape.keys, scores)
        return self.gemm(
            f"{name}.values",
            softmax,
            n=shape.width,
            k=shape.keys,
            a=Role.PROBABILITY,
            out=Role.ACTIVATION,
            **shared,
        )
