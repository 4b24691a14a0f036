"""Which unit a format has: one builder per kind of unit, by the type of the format's record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from macloom._registry import Registry
from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.formats.accumulator import IntegerAccumulator
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import BF16, FP16
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.block import Block
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.array.run import array_unit
from macloom.rtl.formats.block_encoder import block_encoder
from macloom.rtl.formats.decoder import decoder
from macloom.rtl.formats.encoder import encoder
from macloom.rtl.formats.pair_decoder import pair_decoder
from macloom.rtl.pe.mac import WIDEST_ACCUMULATOR, Mac, operand_ports, pe
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
    """Size and dataflow of an array; other units ignore them."""

    rows: int = 8
    cols: int = 8
    dataflow: Dataflow = Dataflow.OS

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            if getattr(self, name) < 1:
                raise MacloomError(f"rtl.{name}: must be a positive integer, not {getattr(self, name)}")


UNITS: Registry[UnitKind] = Registry("unit", "macloom rtl --help")


def build(fmt: TensorFormat, kind: str, shape: Shape | None = None) -> Unit:
    """Return the unit of a kind for a format.

    Raises:
        MacloomError: there is no such kind, or the format has no such unit.

    >>> from macloom.formats import get_format
    >>> build(get_format("mxfp4"), "decoder").module
    'fp4_e2m1_decoder'
    """
    return UNITS.get(kind).build(fmt, shape or Shape())


def _element(fmt: TensorFormat, kind: str) -> ElementFormat:
    if fmt.element is None:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no {kind}: it has no element format, so that no code of one value exists"
        )
    return fmt.element


def _decoder(fmt: TensorFormat, shape: Shape) -> Unit:
    return pair_decoder(fmt) if isinstance(fmt, Ovp) else decoder(_element(fmt, "decoder"))


def _encoder(fmt: TensorFormat, shape: Shape) -> Unit:
    element = _element(fmt, "encoder")
    return encoder(element, FP16 if element.bits <= 8 else BF16)


def _block_encoder(fmt: TensorFormat, shape: Shape) -> Unit:
    if not isinstance(fmt, Block):
        raise MacloomError(f"rtl: format {fmt.name!r} has no block encoder: its elements share no power-of-two scale")
    return block_encoder(fmt)


def _pe(fmt: TensorFormat, shape: Shape) -> Unit:
    return pe(fmt, fmt, accumulator_for(fmt))


def _array(fmt: TensorFormat, shape: Shape) -> Unit:
    return array_unit(
        ArrayDesign(
            a=fmt, b=fmt, rows=shape.rows, cols=shape.cols, dataflow=shape.dataflow, accumulator=accumulator_for(fmt)
        )
    )


def accumulator_for(fmt: TensorFormat) -> IntegerAccumulator:
    """Return the register of an element for a format: 32 bits, or as many more as one product takes.

    >>> from macloom.formats import get_format
    >>> accumulator_for(get_format("ovp4")).name, accumulator_for(get_format("fp8_e4m3")).bits > 32
    ('int32:wrap', True)
    """
    ports = operand_ports(fmt)
    widest = Mac(a=ports, b=ports, accumulator=IntegerAccumulator(bits=WIDEST_ACCUMULATOR))
    return IntegerAccumulator(bits=min(max(32, widest.product_bits + GUARD_BITS), WIDEST_ACCUMULATOR))


UNITS.add("decoder", UnitKind(summary="codes to exponent-integer pairs", build=_decoder))
UNITS.add("encoder", UnitKind(summary="fp16 (or bf16) operands to codes", build=_encoder))
UNITS.add("block-encoder", UnitKind(summary="a block of bf16 operands to its scale and codes", build=_block_encoder))
UNITS.add("pe", UnitKind(summary="multiply pairs and accumulate integers", build=_pe))
UNITS.add("array", UnitKind(summary="R x C elements, border decoders, controller", build=_array))
