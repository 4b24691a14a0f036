"""What a workload is made of: matrix products, vector operations, and the tensors they touch.

A role says what a tensor is to the model. Formats are assigned to roles by a recipe, so that a
workload is the same whatever number formats it runs in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from macloom.errors import MacloomError, require_positive_integer


class Role(StrEnum):
    """What a tensor is to the model."""

    WEIGHT = "weight"
    ACTIVATION = "activation"
    KV = "kv"
    PROBABILITY = "probability"
    OUTPUT = "output"


class VectorKind(StrEnum):
    """What a vector operation computes.

    `gelu_gate` is gelu whose result is multiplied before a matrix product reads it. `cache` puts keys and values
    into the cache where one projection makes them together with the queries. `online_softmax` finds maximum and sum
    of a row together; `hadamard` transforms whole rows; `gather` takes elements in another order. `pool` is a sum or
    an extreme of `Vector.terms` elements; `scan` the recurrence of a state-space model with so many states for each
    element.
    """

    EMBEDDING = "embedding"
    RMS_NORM = "rms_norm"
    LAYER_NORM = "layer_norm"
    ROPE = "rope"
    SOFTMAX = "softmax"
    SILU = "silu"
    RELU = "relu"
    GELU = "gelu"
    GELU_GATE = "gelu_gate"
    CACHE = "cache"
    MULTIPLY = "multiply"
    ADD = "add"
    DIVIDE = "divide"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    EXPONENTIAL = "exponential"
    LOGARITHM = "logarithm"
    SOFTPLUS = "softplus"
    ROOT = "root"
    SINE = "sine"
    ONLINE_SOFTMAX = "online_softmax"
    HADAMARD = "hadamard"
    GATHER = "gather"
    POOL = "pool"
    SCAN = "scan"


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """`batch` products of an M x K by a K x N matrix, `repeat` times in the workload.

    `a` is the streamed operand (M rows), `b` the other (N rows of length K, one per output
    channel). `b_sharing` batches in a row use the same `b` (grouped-query attention).
    `causal` keeps only what a causal mask leaves of the M x N result (QK^T) or of the M x K operand (PV) as useful
    work: the last row meets every key, each row before it one less. The full product is what an array without
    masking computes, and what `macs` counts; `useful_macs` leaves out what is masked. `reads` names the operation
    whose result `a` is, or several where it is one of them (in the first layer and in others); it says
    what may stay on chip and is empty where nobody knows.
    """

    name: str
    m: int
    n: int
    k: int
    a: Role = Role.ACTIVATION
    b: Role = Role.WEIGHT
    out: Role = Role.OUTPUT
    batch: int = 1
    b_sharing: int = 1
    causal: bool = False
    repeat: int = 1
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for f in ("m", "n", "k", "batch", "b_sharing", "repeat"):
            require_positive_integer(f"gemm {self.name!r}.{f}", getattr(self, f))
        if self.batch % self.b_sharing:
            raise MacloomError(
                f"gemm {self.name!r}.b_sharing: must divide the batch {self.batch}, not {self.b_sharing}"
            )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all batches and repeats, causal masking not subtracted."""
        return self.m * self.n * self.k * self.batch * self.repeat

    @property
    def useful_macs(self) -> int:
        """Multiply-accumulates that a causal mask leaves: all of them where there is none.

        >>> Gemm(name="scores", m=4, n=4, k=8, causal=True).useful_macs  # 1 + 2 + 3 + 4 keys
        80
        >>> Gemm(name="scores", m=2, n=4, k=8, causal=True).useful_macs  # the second half: 3 + 4
        56
        """
        masked = self.m * (self.m - 1) // 2 if self.causal else 0
        # The masked triangle is one of the M x N result or, where the operand is the probabilities, of M x K.
        depth = self.n if self.a is Role.PROBABILITY else self.k
        return self.macs - masked * depth * self.batch * self.repeat

    @property
    def a_elements(self) -> int:
        """Elements of operand A over all batches, for one repeat."""
        return self.m * self.k * self.batch

    @property
    def b_elements(self) -> int:
        """Distinct elements of operand B over all batches, for one repeat."""
        return self.n * self.k * (self.batch // self.b_sharing)

    @property
    def out_elements(self) -> int:
        return self.m * self.n * self.batch


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A row-wise or elementwise operation on `rows` rows of `width` elements, `repeat` times.

    `terms` is how many elements or states go into each result of a `pool` or `scan`. `reads` has for each of its
    inputs what `Gemm.reads` has, or is empty.
    """

    name: str
    kind: VectorKind
    rows: int
    width: int
    inputs: int = 1
    repeat: int = 1
    terms: int = 1
    reads: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for f in ("rows", "width", "inputs", "repeat", "terms"):
            require_positive_integer(f"vector {self.name!r}.{f}", getattr(self, f))
        if self.reads and len(self.reads) != self.inputs:
            raise MacloomError(
                f"vector {self.name!r}.reads: must name {self.inputs} inputs or be empty, not {self.reads!r}"
            )

    @property
    def elements(self) -> int:
        """Elements produced, for one repeat."""
        return self.rows * self.width


Op = Gemm | Vector


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model in one phase as a list of operations, in execution order within a layer.

    `repeat` on an op stands for the identical layers of the model. `parameters` counts the model's
    weights; `kv_elements` the key and value elements that are live at the end of the phase.
    """

    name: str
    phase: str
    ops: tuple[Op, ...]
    parameters: int
    kv_elements: int
    tokens: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.phase not in ("prefill", "decode"):
            raise MacloomError(f"workload {self.name!r}.phase: must be 'prefill' or 'decode', not {self.phase!r}")
        if not self.ops:
            raise MacloomError(f"workload {self.name!r}.ops: must hold at least one operation")

    @property
    def gemms(self) -> tuple[Gemm, ...]:
        return tuple(op for op in self.ops if isinstance(op, Gemm))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole workload, causal masking not subtracted."""
        return sum(op.macs for op in self.gemms)

    @property
    def useful_macs(self) -> int:
        """Multiply-accumulates of the whole workload without those that a causal mask throws away."""
        return sum(op.useful_macs for op in self.gemms)

    def renamed(self, name: str) -> Workload:
        return replace(self, name=name)
