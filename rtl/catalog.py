"""Which unit a format has: one builder per kind of unit, by the type of the format's record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from macloom._registry import Registry
from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.formats.accumulator import (
    Accumulator,
    BlockAccumulator,
    ExactAccumulator,
    IntegerAccumulator,
    get_accumulator,
)
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import BF16, FP16
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensor_core.presets import presets_taking
from macloom.formats.tensor_core.record import TensorCoreAccumulator
from macloom.formats.tensors.block import Block
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.array.run import array_unit
from macloom.rtl.formats.block_encoder import block_encoder
from macloom.rtl.formats.decoder import decoder
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.formats.pair_decoder import pair_decoder
from macloom.rtl.formats.pair_encoder import pair_encoder
from macloom.rtl.formats.scaled_encoder import scaled_encoder
from macloom.rtl.pe.block_dot import BlockDot, block_dot
from macloom.rtl.pe.mac import WIDEST_ACCUMULATOR, operand_ports, pe, product_bits
from macloom.rtl.pe.register import FixedPointRegister, Register
from macloom.rtl.pe.tensor_dot import TensorDot, tensor_dot
from macloom.rtl.unit import Unit

# Room of a register above one product, for sums of 2**10 of them.
GUARD_BITS = 10


@dataclass(frozen=True, kw_only=True)
class UnitKind:
    """One kind of unit: what it is, and how a format's record makes it."""

    summary: str
    build: Callable[[TensorFormat, Shape], Unit]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Size and dataflow of an array, which other units ignore, and the accumulator of elements and dot units.

    Attributes:
        accumulator: None takes the unit's own: `accumulator_for` the format in elements and arrays, `block:fp32` in
            dot units of blocks, and in those of tensor cores the oldest that takes the format.
    """

    rows: int = 8
    cols: int = 8
    dataflow: Dataflow = Dataflow.OS
    accumulator: Accumulator | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            if getattr(self, name) < 1:
                raise MacloomError(f"rtl.{name}: must be a positive integer, not {getattr(self, name)}")


UNITS: Registry[UnitKind] = Registry("unit", "macloom rtl --help")


def build(fmt: TensorFormat, kind: str, shape: Shape | None = None) -> Unit:
    """Return the unit of a kind for a format.

    Raises:
        MacloomError: there is no such kind, or the format has no such unit; the message says which ones it has.

    >>> from macloom.formats import get_format
    >>> build(get_format("mxfp4"), "decoder").module
    'fp4_e2m1_decoder'
    """
    chosen = UNITS.get(kind)
    try:
        return chosen.build(fmt, shape or Shape())
    except MacloomError as error:
        have = units_of(fmt)
        if kind in have:
            raise
        raise MacloomError(f"{error} ({fmt.name!r} has: {', '.join(have) or 'no unit'})") from None


def units_of(fmt: TensorFormat) -> list[str]:
    """Return the kinds of units that a format has.

    >>> from macloom.formats import get_format
    >>> units_of(get_format("int4")), units_of(get_format("fp32"))
    (['decoder', 'encoder', 'pe', 'array'], [])
    """
    found = []
    for kind in UNITS:
        try:
            UNITS.get(kind).build(fmt, Shape())
        except MacloomError:
            continue
        found.append(kind)
    return found


def _element(fmt: TensorFormat, kind: str) -> ElementFormat:
    if fmt.element is None:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no {kind}: it has no element format, so that no code of one value exists"
        )
    return fmt.element


def _decoder(fmt: TensorFormat, shape: Shape) -> Unit:
    return pair_decoder(fmt) if isinstance(fmt, Ovp) else decoder(_element(fmt, "decoder"))


def _encoder(fmt: TensorFormat, shape: Shape) -> Unit:
    if isinstance(fmt, Ovp):
        return pair_encoder(fmt)
    element = _element(fmt, "encoder")
    return encoder(element, FP16 if element.bits <= 8 else BF16)


def _block_encoder(fmt: TensorFormat, shape: Shape) -> Unit:
    if not isinstance(fmt, Block):
        raise MacloomError(f"rtl: format {fmt.name!r} has no block encoder: its elements share no scale in blocks")
    return scaled_encoder(fmt) if fmt.two_level or fmt.float_scale else block_encoder(fmt)


def _register(fmt: TensorFormat, shape: Shape) -> Register:
    chosen = shape.accumulator
    if chosen is None:
        return accumulator_for(fmt)
    if isinstance(chosen, ExactAccumulator):
        ports = operand_ports(fmt)
        return FixedPointRegister(bits=product_bits(ports, ports) + GUARD_BITS)
    if not isinstance(chosen, IntegerAccumulator):
        raise MacloomError(f"rtl.accumulator: elements have integer registers or 'exact', not {chosen.name!r}")
    return chosen


def _pe(fmt: TensorFormat, shape: Shape) -> Unit:
    return pe(fmt, fmt, _register(fmt, shape))


def _block_dot(fmt: TensorFormat, shape: Shape) -> Unit:
    if not isinstance(fmt, Block):
        raise MacloomError(f"rtl: format {fmt.name!r} has no block dot unit: its elements share no scale in blocks")
    chosen = shape.accumulator or BlockAccumulator()
    if not isinstance(chosen, BlockAccumulator):
        raise MacloomError(f"rtl.accumulator: a block dot unit has one of the form 'block:...', not {chosen.name!r}")
    return block_dot(BlockDot(a=fmt, b=fmt, accumulator=chosen))


def _tensor_dot(fmt: TensorFormat, shape: Shape) -> Unit:
    core = shape.accumulator
    if core is None:
        scaled = fmt.block is not None
        names = presets_taking(_element(fmt, "tensor-core dot unit"), scaled)
        if not names:
            raise MacloomError(f"rtl: format {fmt.name!r} has no tensor-core dot unit: no known tensor core takes it")
        core = get_accumulator(names[0])
    if not isinstance(core, TensorCoreAccumulator):
        raise MacloomError(f"rtl.accumulator: a tensor-core dot unit has one of the form 'tc:...', not {core.name!r}")
    return tensor_dot(TensorDot(a=fmt, b=fmt, core=core))


def _array(fmt: TensorFormat, shape: Shape) -> Unit:
    register = _register(fmt, shape)
    if isinstance(register, FixedPointRegister):
        ports = operand_ports(fmt)
        raise MacloomError(
            f"rtl.accumulator: arrays have integer registers of up to {WIDEST_ACCUMULATOR} bits, and one product of "
            f"{fmt.name!r} takes {product_bits(ports, ports)}; single elements have a fixed-point register for it"
        )
    return array_unit(
        ArrayDesign(a=fmt, b=fmt, rows=shape.rows, cols=shape.cols, dataflow=shape.dataflow, accumulator=register)
    )


def accumulator_for(fmt: TensorFormat) -> Register:
    """Return the register of an element for a format: 32 bits, as many more as one product takes, or fixed point.

    >>> from macloom.formats import get_format
    >>> accumulator_for(get_format("ovp4")).name, accumulator_for(get_format("fp8_e4m3")).bits > 32
    ('int32:wrap', True)
    >>> accumulator_for(get_format("fp8_e5m2"))
    FixedPointRegister(bits=78)
    """
    ports = operand_ports(fmt)
    width = product_bits(ports, ports)
    if width > WIDEST_ACCUMULATOR:
        return FixedPointRegister(bits=width + GUARD_BITS)
    return IntegerAccumulator(bits=min(max(32, width + GUARD_BITS), WIDEST_ACCUMULATOR))


UNITS.add("decoder", UnitKind(summary="codes to exponent-integer pairs", build=_decoder))
UNITS.add("encoder", UnitKind(summary="fp16 (or bf16) operands to codes", build=_encoder))
UNITS.add("block-encoder", UnitKind(summary="a block of bf16 operands to its scale and codes", build=_block_encoder))
UNITS.add("pe", UnitKind(summary="multiply pairs and accumulate integers", build=_pe))
UNITS.add("block-dot", UnitKind(summary="products of a block, scaled, to a float register", build=_block_dot))
UNITS.add("tensor-dot", UnitKind(summary="products of a tensor core's block, aligned and cut off", build=_tensor_dot))
UNITS.add("array", UnitKind(summary="R x C elements, border decoders, controller", build=_array))
