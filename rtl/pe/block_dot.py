"""The dot-product unit of block formats: integers inside a block, a float register across blocks.

The products of one block go through a tree of adders, exactly. Their sum is rounded to float32, multiplied by A's and
by B's scale, rounded to float32 each time, rounded to the register's format and added: the accumulator `block:...` of
`macloom.gemm`, step by step. Where the scales are powers of two the multiplications only add exponents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.accumulator import BlockAccumulator, ExactAccumulator, IntegerAccumulator
from macloom.formats.accumulators.integer import END, IntegerOverflow
from macloom.formats.tensors.block import Block
from macloom.rtl import wires as w
from macloom.rtl.float_units import added, float_codes, to_float32
from macloom.rtl.floats import FP32_REGISTER, FloatRegister, converted, from_integer, plus, register_of, times
from macloom.rtl.formats.pairs import identifier
from macloom.rtl.pe.exact_sum import ExactSum, units_of
from macloom.rtl.pe.register import clamped, integers
from macloom.rtl.pe.running import running_unit
from macloom.rtl.pe.stimuli import scaled_blocks
from macloom.rtl.unit import Port, Unit, Values, Wires


@dataclass(frozen=True, kw_only=True)
class BlockDot:
    """Two block formats and the register that their sums go to.

    Attributes:
        accumulator: its `size`, where given, is the number of products of a step in place of the blocks' size.
    """

    a: Block
    b: Block
    accumulator: BlockAccumulator = BlockAccumulator()

    def __post_init__(self) -> None:
        blocks = f"{self.a.name!r} and {self.b.name!r}"
        if self.a.size != self.b.size:
            raise MacloomError(
                f"rtl: a dot-product unit takes one scale of each side at a time, and {blocks} have blocks of "
                f"{self.a.size} and {self.b.size} elements"
            )
        if self.a.size % self.size:
            raise MacloomError(f"rtl.accumulator.size: must divide blocks of {self.a.size} elements, not {self.size}")
        inner = self.accumulator.inner
        if isinstance(inner, IntegerAccumulator) and not (
            inner.overflow is IntegerOverflow.WRAP
            or (inner.overflow is IntegerOverflow.SATURATE and inner.every == END)
        ):
            raise MacloomError(
                "rtl.accumulator.inner: a tree of adders wraps, or saturates at the end of a block; choose 'exact', "
                f"'int{inner.bits}' or 'int{inner.bits}:saturate', not {inner.name!r}"
            )

    @property
    def size(self) -> int:
        """Products of one step."""
        return min(self.accumulator.size or self.a.size, self.a.size)

    @cached_property
    def tree(self) -> ExactSum:
        """The products of a step and their sum."""
        return ExactSum(a=self.a.element, b=self.b.element, size=self.size)

    @property
    def unit_exponent(self) -> int:
        """Exponent of the unit of the products."""
        return self.tree.unit_exponent

    @property
    def sum_bits(self) -> int:
        """Width of the sum of a block's products."""
        return self.tree.bits

    @property
    def inner_bits(self) -> int:
        """Width of the register inside the block."""
        inner = self.accumulator.inner
        return self.sum_bits if isinstance(inner, ExactAccumulator) else min(inner.bits, self.sum_bits)

    @cached_property
    def register(self) -> FloatRegister:
        return register_of(self.accumulator.outer)

    @property
    def module(self) -> str:
        names = identifier(self.a.name) if self.a == self.b else f"{identifier(self.a.name)}_{identifier(self.b.name)}"
        return f"{names}_block_dot_{self.register.name}"


def _term(design: BlockDot, inputs: Wires) -> WireVector:
    """Return the float32 code of the block's sum times both scales."""
    codes = ([inputs[f"{name}{i}"] for i in range(design.size)] for name in "ab")
    total = w.total(design.tree.products(*codes), design.sum_bits)
    inner = design.accumulator.inner
    if isinstance(inner, IntegerAccumulator) and inner.bits < design.sum_bits:
        wraps = inner.overflow is IntegerOverflow.WRAP
        total = w.low(total, inner.bits) if wraps else clamped(total, inner.bits)
    term = from_integer(FP32_REGISTER, total, design.unit_exponent)
    for name, fmt in (("scale_a", design.a), ("scale_b", design.b)):
        term = times(FP32_REGISTER, term, fmt.scale_format, inputs[name])
    return term


def _next(design: BlockDot, total: WireVector, inputs: Wires) -> WireVector:
    """Return the register after one more block."""
    term = _term(design, inputs)
    if design.register != FP32_REGISTER:
        term = converted(design.register, FP32_REGISTER, term)
    return plus(design.register, total, term)


def _terms(design: BlockDot, inputs: Values) -> np.ndarray:
    """Return the same in software, float32."""
    total: np.ndarray | int = 0
    tables = [integers(units_of(f.element), 64) for f in (design.a, design.b)]
    small = design.sum_bits <= 62
    tables = [t.astype(np.int64) if small else t for t in tables]
    for i in range(design.size):
        total = total + tables[0][np.asarray(inputs[f"a{i}"])] * tables[1][np.asarray(inputs[f"b{i}"])]
    total = np.asarray(total)
    inner = design.accumulator.inner
    if isinstance(inner, IntegerAccumulator):
        half = 1 << (inner.bits - 1)
        if inner.overflow is IntegerOverflow.SATURATE:
            total = np.clip(total, -half, half - 1)
        elif inner.bits < design.sum_bits:
            total = ((total + half) & (2 * half - 1)) - half
    term = to_float32(total, design.unit_exponent)
    with np.errstate(all="ignore"):
        for name, fmt in (("scale_a", design.a), ("scale_b", design.b)):
            term = term * fmt.scale_format.values[np.asarray(inputs[name])].astype(np.float32)
    return term


def _defined(design: BlockDot, inputs: Values) -> np.ndarray:
    """Return which steps have numbers everywhere: the arithmetic room refuses NaN and infinite codes."""
    known = np.ones(len(np.asarray(inputs["a0"])), bool)
    for name, fmt in (("a", design.a), ("b", design.b)):
        finite = np.isfinite(fmt.element.values)
        for i in range(design.size):
            known &= finite[np.asarray(inputs[f"{name}{i}"])]
        known &= np.isfinite(fmt.scale_format.values)[np.asarray(inputs[f"scale_{name}"])]
    return known


def _ports(design: BlockDot) -> tuple[Port, ...]:
    return tuple(
        port
        for name, fmt in (("a", design.a), ("b", design.b))
        for port in (
            *(Port(name=f"{name}{i}", width=fmt.element.bits) for i in range(design.size)),
            Port(name=f"scale_{name}", width=fmt.scale_format.bits),
        )
    )


def _facts(design: BlockDot) -> dict[str, object]:
    return {
        "block": design.size,
        "accumulator": design.accumulator.name,
        "sum_bits": design.sum_bits,
        "register": design.register.name,
        "unit_exponent": design.unit_exponent,
    }


def block_dot_step(design: BlockDot, module: str | None = None) -> Unit:
    """Return the datapath alone: `total` and the codes and scales of one block to the register's `next` value."""
    register = design.register

    def model(inputs: Values) -> Values:
        total = register.values_of(inputs["total"])
        return {"next": register.codes_of(added(register, total, _terms(design, inputs)))}

    def cares(inputs: Values) -> Values:
        # A register that starts at +0 never holds -0, and is infinite only where its sums do not saturate.
        total = register.values_of(inputs["total"])
        held = ~((total == 0) & np.signbit(total)) & (np.isfinite(total) | np.isinf(register.accumulator.beyond))
        return {"next": _defined(design, inputs) & held}

    def stimuli(count: int, seed: int) -> Values:
        made = _codes(design, count, seed)
        # Half of the totals near the term, where the sum is rounded and cancels.
        near = register.codes_of(added(register, np.zeros(count), _terms(design, made)))
        rng = np.random.default_rng([seed, 1])
        wide = near + rng.integers(-3, 4, count) * (1 << rng.integers(0, register.mantissa_bits + 3, count))
        near = (wide ^ rng.integers(0, 2, count) << (register.bits - 1)) & ((1 << register.bits) - 1)
        anywhere = float_codes(register, count, seed, "total")
        return {**made, "total": np.where(rng.random(count) < 0.6, near, anywhere)}

    return Unit(
        module=module or f"{design.module}_step",
        inputs=(*_ports(design), Port(name="total", width=register.bits)),
        outputs=(Port(name="next", width=register.bits),),
        circuit=lambda inputs: {"next": _next(design, inputs["total"], inputs)},
        model=model,
        cares=cares,
        stimuli=stimuli,
        facts=_facts(design),
    )


def block_dot(design: BlockDot, module: str | None = None) -> Unit:
    """Return the unit with its register: in every cycle with `valid` one block is added to `sum`.

    With `clear` the register starts anew from +0. A dot product is the blocks of K in the accumulator's order.

    >>> from macloom.formats import get_format
    >>> mxfp4 = get_format("mxfp4")
    >>> [port.name for port in block_dot(BlockDot(a=mxfp4, b=mxfp4)).inputs][-4:]
    ['b31', 'scale_b', 'clear', 'valid']
    """
    register = design.register

    def model(inputs: Values) -> Values:
        terms, known = _terms(design, inputs), _defined(design, inputs)
        zero = np.zeros(1, np.float32)
        sums, total = [], zero
        controls = zip(inputs["clear"].tolist(), inputs["valid"].tolist(), strict=True)
        for step, (clear, valid) in enumerate(controls):
            sums.append(total)
            if valid:
                term = terms[step : step + 1] if known[step] else zero
                total = added(register, zero if clear else total, term)
        return {"sum": register.codes_of(np.concatenate(sums))}

    def cares(inputs: Values) -> Values:
        # What is no number spoils the sum until it is cleared.
        spoilt, clean = False, []
        columns = (_defined(design, inputs).tolist(), inputs["clear"].tolist(), inputs["valid"].tolist())
        for known, clear, valid in zip(*columns, strict=True):
            clean.append(not spoilt)
            spoilt = ((spoilt and not clear) or not known) if valid else spoilt
        return {"sum": np.array(clean)}

    return running_unit(
        module or design.module,
        _ports(design),
        {"total": register.bits},
        lambda held, inputs: {"total": _next(design, held["total"], inputs)},
        model,
        lambda count, seed: _codes(design, count, seed, 0.002),
        _facts(design),
        clear_share=0.05,
        cares=cares,
    )


def _codes(design: BlockDot, count: int, seed: int, special: float = 0.02) -> dict[str, np.ndarray]:
    sides = tuple((fmt.element, fmt.scale_format) for fmt in (design.a, design.b))
    return scaled_blocks(sides, design.size, count, seed, special)
