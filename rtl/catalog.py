"""Which unit a format has: one builder per kind of unit, by the type of the format's record."""

from __future__ import annotations

from dataclasses import replace

from macloom._registry import Registry
from macloom.errors import MacloomError
from macloom.formats.accumulator import (
    BlockAccumulator,
    ExactAccumulator,
    IntegerAccumulator,
    get_accumulator,
)
from macloom.formats.accumulators.floating import Order
from macloom.formats.element import ElementFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import BF16, FP16
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.policy import Overflow
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensor_core.presets import presets_taking
from macloom.formats.tensor_core.record import TensorCoreAccumulator
from macloom.formats.tensors.block import Block
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.array.run import array_unit
from macloom.rtl.floats import register_of
from macloom.rtl.format_units import fused_multiplier_of, hadamard_of, requantizer_of, scale_decoder_of
from macloom.rtl.formats.block_encoder import block_encoder
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.formats.operand_decoder import decoder_of
from macloom.rtl.formats.operands import operand_ports, require_plain_codes
from macloom.rtl.formats.pair_encoder import pair_encoder
from macloom.rtl.formats.scaled_encoder import scaled_encoder
from macloom.rtl.pe.block_dot import BlockDot, block_dot
from macloom.rtl.pe.fused_mac import fused_pe
from macloom.rtl.pe.mac import WIDEST_ACCUMULATOR, pe, product_bits
from macloom.rtl.pe.register import FixedPointRegister, Register
from macloom.rtl.pe.tensor_dot import TensorDot, tensor_dot
from macloom.rtl.unit import Unit
from macloom.rtl.unit_kind import Shape, UnitKind

# Room of a register above one product, for sums of 2**10 of them.
GUARD_BITS = 10


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
    >>> units_of(get_format("fp4_e2m1")), units_of(get_format("fp32"))
    (['decoder', 'encoder', 'pe', 'tensor-dot', 'array'], ['tensor-dot'])
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
    require_plain_codes(fmt, kind)
    if fmt.element is None:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no {kind}: it has no element format, so that no code of one value exists"
        )
    return fmt.element


def _decoder(fmt: TensorFormat, shape: Shape) -> Unit:
    return decoder_of(fmt)


def _encoder(fmt: TensorFormat, shape: Shape) -> Unit:
    if isinstance(fmt, Ovp):
        _own_policies(fmt, shape)
        return pair_encoder(fmt, shape.source or FP16)
    element = _element(fmt, "encoder")
    source = shape.source or (FP16 if element.bits <= 8 else BF16)
    return encoder(element, source, shape.rounding, shape.overflow)


def _own_policies(fmt: TensorFormat, shape: Shape) -> None:
    """Raise where policies are asked of an encoder that has those of its format."""
    if shape.rounding is not None or shape.overflow is not Overflow.SATURATE:
        raise MacloomError(
            f"rtl.rounding: encoders of pairs and blocks round as their format says, here {fmt.name!r}; "
            "leave rounding and overflow out, and name another format"
        )


def _block_encoder(fmt: TensorFormat, shape: Shape) -> Unit:
    if not isinstance(fmt, Block):
        raise MacloomError(f"rtl: format {fmt.name!r} has no block encoder: its elements share no scale in blocks")
    _own_policies(fmt, shape)
    source = shape.source or BF16
    if isinstance(source, IntFormat):
        raise MacloomError(f"rtl.source: block encoders take floats, such as bf16, not {source.name!r}")
    return scaled_encoder(fmt, source) if fmt.two_level or fmt.float_scale else block_encoder(fmt, source)


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


def _fused_pe(fmt: TensorFormat, shape: Shape) -> Unit:
    narrow = shape.narrow
    if narrow is None:
        raise MacloomError(
            "rtl.narrow: must be the format of the four narrow elements; give one, such as ovp4 for ovp8"
        )
    return fused_pe(narrow, fmt, _register(narrow, shape), _register(fmt, shape))


def _block_dot(fmt: TensorFormat, shape: Shape) -> Unit:
    if not isinstance(fmt, Block):
        raise MacloomError(f"rtl: format {fmt.name!r} has no block dot unit: its elements share no scale in blocks")
    chosen = shape.accumulator or BlockAccumulator()
    if not isinstance(chosen, BlockAccumulator):
        raise MacloomError(f"rtl.accumulator: a block dot unit has one of the form 'block:...', not {chosen.name!r}")
    return block_dot(BlockDot(a=fmt, b=fmt, accumulator=chosen))


def _tensor_dot(fmt: TensorFormat, shape: Shape) -> Unit:
    element, core = _element(fmt, "tensor-core dot unit"), shape.accumulator
    if core is None:
        return tensor_dot(_oldest_core(fmt, presets_taking(element, fmt.block is not None)))
    if not isinstance(core, TensorCoreAccumulator):
        raise MacloomError(f"rtl.accumulator: a tensor-core dot unit has one of the form 'tc:...', not {core.name!r}")
    return tensor_dot(TensorDot(a=fmt, b=fmt, core=core))


def _oldest_core(fmt: TensorFormat, names: list[str]) -> TensorDot:
    """Return the dot unit of the oldest device that takes a format, with the core that takes the fewest others."""
    if not names:
        raise MacloomError(f"rtl: format {fmt.name!r} has no tensor-core dot unit: no known tensor core takes it")
    cores = [core for core in map(get_accumulator, names) if isinstance(core, TensorCoreAccumulator)]
    oldest = sorted((core for core in cores if core.device == cores[0].device), key=lambda core: len(core.takes))
    reasons = []
    for core in oldest:
        try:
            return TensorDot(a=fmt, b=fmt, core=core)
        except MacloomError as error:
            reasons.append(str(error).removeprefix("rtl: "))
    raise MacloomError(f"rtl: {'; '.join(reasons)}")


def _array(fmt: TensorFormat, shape: Shape) -> Unit:
    require_plain_codes(fmt, "array")
    chosen, outer = shape.accumulator, None
    if isinstance(chosen, BlockAccumulator):
        outer = register_of(chosen.outer)
        if chosen.size is not None or chosen.order is not Order.ASCENDING:
            raise MacloomError(f"rtl.accumulator: arrays add whole blocks in ascending order, not as {chosen.name!r}")
        inner = None if isinstance(chosen.inner, ExactAccumulator) else chosen.inner
        shape = replace(shape, accumulator=inner)
    register = _register(fmt, shape)
    if isinstance(register, FixedPointRegister):
        ports = operand_ports(fmt)
        raise MacloomError(
            f"rtl.accumulator: arrays have integer registers of up to {WIDEST_ACCUMULATOR} bits, and one product of "
            f"{fmt.name!r} takes {product_bits(ports, ports)}; single elements have a fixed-point register for it"
        )
    design = ArrayDesign(
        a=fmt, b=fmt, rows=shape.rows, cols=shape.cols, dataflow=shape.dataflow, accumulator=register, outer=outer
    )
    return array_unit(design)


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


for _name, _summary, _build, _takes in (
    ("decoder", "codes to exponent-integer pairs", _decoder, ()),
    ("encoder", "float or fixed-point operands to codes", _encoder, ("source", "rounding", "overflow")),
    ("scale-decoder", "codes of scales to exponent-integer pairs", scale_decoder_of, ()),
    ("block-encoder", "a block of float operands to its scale and codes", _block_encoder, ("source",)),
    ("pe", "multiply pairs and accumulate integers", _pe, ("accumulator",)),
    ("fused-pe", "four narrow elements as one wide one", _fused_pe, ("accumulator", "narrow")),
    ("block-dot", "products of a block, scaled, to a float register", _block_dot, ("accumulator",)),
    ("tensor-dot", "products of a tensor core's block, aligned and cut off", _tensor_dot, ("accumulator",)),
    ("array", "R x C elements, border decoders, controller", _array, ("rows", "cols", "dataflow", "accumulator")),
    ("hadamard", "butterflies of the Walsh-Hadamard transform of integers", hadamard_of, ("size",)),
    ("requantizer", "sums, scaled by an integer and shifted, to codes", requantizer_of, ("accumulator", "rounding")),
    ("fused-multiplier", "four multipliers as one twice as wide", fused_multiplier_of, ()),
):
    UNITS.add(_name, UnitKind(summary=_summary, build=_build, takes=_takes))
