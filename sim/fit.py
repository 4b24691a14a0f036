"""How the operands of a product meet the processing elements: as they are, decoded, in slices, or not at all."""

from __future__ import annotations

from dataclasses import dataclass

from macloom.arch import AccumulatorKind, Array
from macloom.errors import MacloomError
from macloom.formats import TensorFormat

MAX_SLICES = 2  # fusable elements join two by two: they multiply significands of twice their width


class UnsupportedFormat(MacloomError):
    """An accelerator cannot multiply a format; the message says why and where it would run."""


@dataclass(frozen=True, kw_only=True)
class OperandFit:
    """How one operand enters the array.

    `slices` elements side by side share its significand. `exponent` says whether the exponent path
    switches. `decoded` says whether a border decoder turns its codes into operands.
    """

    slices: int
    exponent: bool
    decoded: bool


@dataclass(frozen=True, kw_only=True)
class ProductFit:
    """How both operands of a product enter the array."""

    a: OperandFit
    b: OperandFit

    @property
    def pes_per_mac(self) -> int:
        """Elements that one product occupies."""
        return self.a.slices * self.b.slices

    @property
    def exponent(self) -> bool:
        """Whether the exponent path switches; slices are aligned by it, too."""
        return self.a.exponent or self.b.exponent or self.pes_per_mac > 1


def fit_operand(fmt: TensorFormat, array: Array) -> OperandFit | str:
    """Return how `fmt` enters `array`, or the reason why it cannot.

    An element multiplies a significand of its own width and adds exponents of its own width. A
    format with exponents also fits an integer element that is wide enough for every value written
    as a plain integer, in units of the smallest step. Fusable elements take twice the width. The
    way with the fewest elements wins. Codes that are not operands need border decoders; the format
    that equals a float element's own operand needs none.
    """
    pe, operand = array.pe, fmt.operand
    ways: list[tuple[int, bool]] = []
    if operand.exponent_bits <= pe.exponent_bits:
        ways.append((-(-operand.significand_bits // pe.significand_bits), operand.exponent_bits > 0))
    ways.append((-(-operand.integer_bits // pe.significand_bits), False))
    slices, exponent = min(ways)
    if slices > (MAX_SLICES if pe.fusable else 1):
        return _reason(fmt, array)
    float_pe = pe.accumulator is AccumulatorKind.FLOAT
    own = (operand.significand_bits, operand.exponent_bits) == (pe.significand_bits, pe.exponent_bits)
    decoded = fmt.decoder_bits > 0 and not (float_pe and own and fmt.element.bits == fmt.decoder_bits)
    if decoded and not array.border_decoders:
        return f"its {fmt.element.bits}-bit codes are not operands and the array has no border decoders"
    return OperandFit(slices=slices, exponent=exponent or float_pe, decoded=decoded)


def _reason(fmt: TensorFormat, array: Array) -> str:
    pe, operand = array.pe, fmt.operand
    widest = pe.significand_bits * (MAX_SLICES if pe.fusable else 1)
    wide = f"{widest} bits" + (f" in {MAX_SLICES} fused slices" if pe.fusable else "")
    if operand.exponent_bits > pe.exponent_bits:
        path = f"an exponent path of {pe.exponent_bits} bits" if pe.exponent_bits else "no exponent path"
        return (
            f"it needs exponents of {operand.exponent_bits} bits, the PEs have {path}, and as a plain integer it "
            f"needs {operand.integer_bits} bits, the PEs multiply {wide}"
        )
    return f"it needs significands of {operand.significand_bits} bits, the PEs multiply {wide}"


def accumulator_reason(a: TensorFormat, b: TensorFormat, array: Array) -> str | None:
    """Return why integer accumulators cannot hold products of `a` and `b`, or None if they may.

    The product of a p-bit and a q-bit magnitude has p + q - 1 bits at least. So this refuses only what
    must overflow; whether a long sum does is a matter of the data, which the accuracy side computes.
    """
    needed = a.operand.integer_bits + b.operand.integer_bits - 2
    if array.pe.accumulator is AccumulatorKind.FLOAT or needed <= array.pe.accumulator_bits:
        return None
    return (
        f"the product of the largest values of A and B, in units of the smallest steps, needs at least {needed} bits, "
        f"the accumulators hold {array.pe.accumulator_bits}"
    )


def _fit_of(a: TensorFormat, b: TensorFormat, array: Array) -> ProductFit | tuple[str, TensorFormat, str]:
    """Return how both operands fit, or the one that does not and why."""
    found = []
    for side, fmt in (("A", a), ("B", b)):
        fit = fit_operand(fmt, array)
        if isinstance(fit, str):
            return side, fmt, fit
        found.append(fit)
    reason = accumulator_reason(a, b, array)
    return ("A", a, reason) if reason else ProductFit(a=found[0], b=found[1])


def fits(a: TensorFormat, b: TensorFormat, array: Array) -> bool:
    """Return whether `array` multiplies operands in formats `a` and `b`."""
    return isinstance(_fit_of(a, b, array), ProductFit)


def fit_product(name: str, a: TensorFormat, b: TensorFormat, accelerator_name: str, array: Array) -> ProductFit:
    """Return how the product `name` of operands in formats `a` and `b` enters the array.

    Raises:
        UnsupportedFormat: an operand does not fit; the message names the presets where it would.
    """
    found = _fit_of(a, b, array)
    if isinstance(found, ProductFit):
        return found
    side, fmt, reason = found
    raise UnsupportedFormat(
        f"accelerator {accelerator_name!r}: must be able to multiply {fmt.name!r}, operand {side} of {name!r}: "
        f"{reason}; {_advice(a, b)}"
    )


def _advice(a: TensorFormat, b: TensorFormat) -> str:
    from macloom.arch import list_accelerators, load_accelerator

    able = [name for name in list_accelerators() if fits(a, b, load_accelerator(name).array)]
    if able:
        return "run it on " + " or ".join(able) + ", or choose another format"
    return "choose another format (macloom list formats) or wider PEs (arch.array.pe)"
