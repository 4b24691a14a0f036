"""The catalog's integers, floats, block formats and outlier-victim pairs."""

from __future__ import annotations

from enum import StrEnum

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.codebook import Mode
from macloom.formats.elements.flint import Flint
from macloom.formats.elements.integer import IntFormat, Range
from macloom.formats.elements.minifloat import BF16, FP16, FP32, FloatFormat, Specials
from macloom.formats.families import ANT, BFP, FLOAT, INTEGER, MX
from macloom.formats.grammar import (
    CATALOG,
    Builder,
    Entry,
    Options,
    choice_option,
    integer_option,
    integers,
    scaled,
)
from macloom.formats.scales import Grain
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.block import Block, ScaleRule
from macloom.formats.tensors.mx_upstream import LibraryRounding, MxUpstream


def _signed(width: int) -> Builder:
    def make(options: Options) -> IntFormat:
        return IntFormat(width=width, symmetric=choice_option(options, "range", *Range) is Range.SYMMETRIC)

    return integers(make)


def _float(
    label: str, exponent_bits: int, mantissa_bits: int, specials: Specials, bias: int | None = None
) -> FloatFormat:
    return FloatFormat(
        label=label, exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, specials=specials, bias=bias
    )


FLOATS = {
    f.label: f
    for f in (
        FP16,
        BF16,
        _float("fp8_e4m3", 4, 3, Specials.FN),
        _float("fp8_e5m2", 5, 2, Specials.IEEE),
        _float("fp8_e4m3fnuz", 4, 3, Specials.FNUZ, 8),
        _float("fp8_e5m2fnuz", 5, 2, Specials.FNUZ, 16),
        _float("fp6_e3m2", 3, 2, Specials.NONE),
        _float("fp6_e2m3", 2, 3, Specials.NONE),
        _float("fp4_e2m1", 2, 1, Specials.NONE),
    )
}


class Mantissas(StrEnum):
    """Which end of the two's complement range block floating point uses besides the other."""

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"


def _block(element: ElementFormat, size_of_name: int) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        rule = choice_option(options, "rule", *ScaleRule)
        return Block(name=name, element=element, size=integer_option(options, "block", size_of_name), rule=rule)

    return build


def _mx(element: ElementFormat) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        rounding = choice_option(options, "round", *LibraryRounding)
        if choice_option(options, "mode", *Mode) is Mode.PAPER:
            if "round" in options:
                raise MacloomError("format option round: belongs to mode=upstream; use the policy rounding= otherwise")
            return _block(element, 32)(name, options)
        if "rule" in options:
            raise MacloomError("format option rule: does not apply to mode=upstream, whose scales are its own")
        return MxUpstream(name=name, element=element, size=integer_option(options, "block", 32), round=rounding)

    return build


def _bfp(width: int, size_of_name: int) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        mantissas = choice_option(options, "mantissa", *Mantissas)
        symmetric = mantissas is Mantissas.SYMMETRIC
        element = IntFormat(width=width, fraction_bits=width - 2, symmetric=symmetric)
        return _block(element, size_of_name)(name, options)

    return build


def _any_bfp(name: str, options: Options) -> TensorFormat:
    return _bfp(integer_option(options, "bits", 8), 32)(name, options)


def _nvfp4(name: str, options: Options) -> TensorFormat:
    levels = integer_option(options, "levels", 2)
    if levels not in (1, 2):
        raise MacloomError(f"format option levels: must be 1 or 2, not {levels}")
    return Block(
        name=name,
        element=FLOATS["fp4_e2m1"],
        size=integer_option(options, "block", 16),
        two_level=levels == 2,
        float_scale=levels == 1,
        reciprocal=choice_option(options, "mode", *Mode) is Mode.UPSTREAM,
    )


def _fill() -> None:
    ieee, ofp8, mx = "IEEE 754-2019", "OCP 8-bit Floating Point (OFP8) v1.0", "OCP Microscaling (MX) v1.0"
    CATALOG.add("fp32", Entry(family=FLOAT, summary="float32", source=ieee, build=scaled(FP32, Grain.NONE)))
    for name, summary in {"fp16": "IEEE half precision", "bf16": "bfloat16"}.items():
        build = scaled(FLOATS[name], Grain.NONE)
        CATALOG.add(name, Entry(family=FLOAT, summary=summary, source=ieee, build=build, words=True))
    for name, source in {
        "fp8_e4m3": ofp8, "fp8_e5m2": ofp8, "fp8_e4m3fnuz": "Noune et al. 2022", "fp8_e5m2fnuz": "Noune et al. 2022",
        "fp6_e3m2": mx, "fp6_e2m3": mx, "fp4_e2m1": mx,
    }.items():  # fmt: skip
        element = FLOATS[name]
        summary = f"{element.bits}-bit float: {element.exponent_bits} exponent, {element.mantissa_bits} mantissa bits"
        CATALOG.add(name, Entry(family=FLOAT, summary=summary, source=source, build=scaled(element), words=True))
    integers = [IntFormat(width=w) for w in range(2, 9)] + [IntFormat(width=w, signed=False) for w in (4, 8)]
    for element in integers:
        summary = f"{element.width}-bit {'symmetric' if element.signed else 'unsigned'} integer"
        build = _signed(element.width) if element.signed else scaled(element)
        keys = ("range",) if element.signed else ()
        entry = Entry(family=INTEGER, summary=summary, source="common practice", build=build, keys=keys, words=True)
        CATALOG.add(element.name, entry)
    flint, ant = Flint(width=4), "Guo et al., ANT, MICRO 2022"
    entry = Entry(family=ANT, summary="4-bit float-integer hybrid", source=ant, build=scaled(flint), words=True)
    CATALOG.add(flint.name, entry)
    for name, element in {
        "mxfp8_e4m3": FLOATS["fp8_e4m3"], "mxfp8_e5m2": FLOATS["fp8_e5m2"], "mxfp6_e3m2": FLOATS["fp6_e3m2"],
        "mxfp6_e2m3": FLOATS["fp6_e2m3"], "mxfp4": FLOATS["fp4_e2m1"], "mxint8": IntFormat(width=8, fraction_bits=6),
    }.items():  # fmt: skip
        keys, explains = ("block", "rule", "mode", "round"), (ScaleRule, MxUpstream)
        summary = f"blocks of 32 {element.name} with a shared power-of-two scale"
        entry = Entry(family=MX, summary=summary, source=mx, build=_mx(element), keys=keys, explains=explains)
        CATALOG.add(name, entry)
    CATALOG.add(
        "nvfp4",
        Entry(
            family=MX,
            summary="blocks of 16 fp4_e2m1 with an E4M3 scale and a float32 scale per tensor",
            source="NVIDIA Blackwell; definition as in torchao",
            build=_nvfp4,
            keys=("block", "levels", "mode"),
        ),
    )
    bfp = {f"bfp{width}": (width, 32) for width in (4, 6, 8)}
    # d-Matrix's names count the shared exponent: BFP12 = BFP[4|8].
    bfp |= {f"bfp{width + 8}": (width, 64) for width in (4, 8, 16)}
    for name, (width, size) in bfp.items():
        CATALOG.add(
            name,
            Entry(
                family=BFP,
                summary=f"block floating point: {width}-bit signed mantissas, {size} of them share an 8-bit exponent",
                source="definition as in d-Matrix dmx-compressor",
                build=_bfp(width, size),
                keys=("block", "rule", "mantissa"),
                explains=(ScaleRule, Mantissas),
            ),
        )
    CATALOG.add(
        "bfp",
        Entry(
            family=BFP,
            summary="any block floating point: signed mantissas of 2 to 16 bits (bits=) share an 8-bit exponent",
            source="definition as in d-Matrix dmx-compressor",
            build=_any_bfp,
            keys=("bits", "block", "rule", "mantissa"),
            explains=(ScaleRule, Mantissas),
        ),
    )
    for bits, name in {3: "msfp12", 7: "msfp16"}.items():
        # Sign and magnitude without a hidden bit: a float with one exponent bit has just these values.
        magnitude = _float(f"sm{bits + 1}", 1, bits - 1, Specials.NONE, 1)
        CATALOG.add(
            name,
            Entry(
                family=BFP,
                summary=f"block floating point: sign and {bits} magnitude bits, 16 of them share an 8-bit exponent",
                source="Darvish Rouhani et al., Microsoft Floating Point, NeurIPS 2020; a reconstruction",
                build=_block(magnitude, 16),
                keys=("block", "rule"),
            ),
        )


_fill()
