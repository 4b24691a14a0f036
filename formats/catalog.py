"""The catalog's integers, floats, block formats and outlier-victim pairs."""

from __future__ import annotations

from collections.abc import Mapping

from macloom.errors import unknown
from macloom.formats.abfloat import AbFloat
from macloom.formats.block import Block, ScaleRule
from macloom.formats.element import ElementFormat
from macloom.formats.flint import Flint
from macloom.formats.grammar import (
    CATALOG,
    Builder,
    Entry,
    Options,
    granularity_option,
    integer_option,
    scale_option,
    scaled,
)
from macloom.formats.integer import IntFormat
from macloom.formats.minifloat import BF16, FP16, FP32, FloatFormat, Specials
from macloom.formats.ovp import Ovp
from macloom.formats.scales import Grain
from macloom.formats.tensor import TensorFormat


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


def _block(element: ElementFormat, size_of_name: int, two_level: bool = False) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        rule = options.get("rule", "floor")
        rules = [r.value for r in ScaleRule]
        if rule not in rules:
            raise unknown("format option rule", rule, rules)
        size = integer_option(options, "block", size_of_name)
        return Block(name=name, element=element, size=size, rule=ScaleRule(rule), two_level=two_level)

    return build


def _ovp(normals: Mapping[str, tuple[ElementFormat, AbFloat]], default: str) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        normal = options.get("normal", default)
        if normal not in normals:
            raise unknown("format option normal", normal, normals)
        granularity = granularity_option(options, Grain.TENSOR)
        return Ovp(
            name=name,
            normal=normals[normal][0],
            outlier=normals[normal][1],
            granularity=granularity,
            scale_format=scale_option(options, granularity),
        )

    return build


def _fill() -> None:
    ieee, ofp8, mx = "IEEE 754-2019", "OCP 8-bit Floating Point (OFP8) v1.0", "OCP Microscaling (MX) v1.0"
    CATALOG.add("fp32", Entry(summary="float32", source=ieee, build=scaled(FP32, Grain.NONE)))
    for name, summary in {"fp16": "IEEE half precision", "bf16": "bfloat16"}.items():
        CATALOG.add(name, Entry(summary=summary, source=ieee, build=scaled(FLOATS[name], Grain.NONE), words=True))
    for name, source in {
        "fp8_e4m3": ofp8, "fp8_e5m2": ofp8, "fp8_e4m3fnuz": "Noune et al. 2022", "fp8_e5m2fnuz": "Noune et al. 2022",
        "fp6_e3m2": mx, "fp6_e2m3": mx, "fp4_e2m1": mx,
    }.items():  # fmt: skip
        element = FLOATS[name]
        summary = f"{element.bits}-bit float: {element.exponent_bits} exponent, {element.mantissa_bits} mantissa bits"
        CATALOG.add(name, Entry(summary=summary, source=source, build=scaled(element), words=True))
    integers = [IntFormat(width=w) for w in range(2, 9)] + [IntFormat(width=w, signed=False) for w in (4, 8)]
    for element in integers:
        summary = f"{element.width}-bit {'symmetric' if element.signed else 'unsigned'} integer"
        CATALOG.add(element.name, Entry(summary=summary, source="common practice", build=scaled(element), words=True))
    flint, ant = Flint(width=4), "Guo et al., ANT, MICRO 2022"
    CATALOG.add(flint.name, Entry(summary="4-bit float-integer hybrid", source=ant, build=scaled(flint), words=True))
    for name, element in {
        "mxfp8_e4m3": FLOATS["fp8_e4m3"], "mxfp8_e5m2": FLOATS["fp8_e5m2"], "mxfp6_e3m2": FLOATS["fp6_e3m2"],
        "mxfp6_e2m3": FLOATS["fp6_e2m3"], "mxfp4": FLOATS["fp4_e2m1"], "mxint8": IntFormat(width=8, fraction_bits=6),
    }.items():  # fmt: skip
        summary = f"blocks of 32 {element.name} with a shared power-of-two scale"
        CATALOG.add(name, Entry(summary=summary, source=mx, build=_block(element, 32), keys=("block", "rule")))
    CATALOG.add(
        "nvfp4",
        Entry(
            summary="blocks of 16 fp4_e2m1 with an E4M3 scale and a float32 scale per tensor",
            source="NVIDIA Blackwell; definition as in torchao",
            build=_block(FLOATS["fp4_e2m1"], 16, two_level=True),
            keys=("block",),
        ),
    )
    for width in (4, 6, 8):
        element = IntFormat(width=width, fraction_bits=width - 2)
        CATALOG.add(
            f"bfp{width}",
            Entry(
                summary=f"block floating point: {width}-bit signed mantissas share an 8-bit exponent",
                source="definition as in d-Matrix dmx-compressor",
                build=_block(element, 32),
                keys=("block", "rule"),
            ),
        )
    olive = "Guo et al., OliVe, ISCA 2023"
    pairs = {
        "int4": (IntFormat(width=4), AbFloat(exponent_bits=2, mantissa_bits=1, bias=2)),
        "flint4": (Flint(width=4), AbFloat(exponent_bits=2, mantissa_bits=1, bias=3)),
    }
    CATALOG.add(
        "ovp4",
        Entry(
            summary="4-bit outlier-victim pairs: int4 (or flint4) with abfloat E2M1 outliers",
            source=olive,
            build=_ovp(pairs, "int4"),
            keys=("normal",),
            words=True,
        ),
    )
    wide = {"int8": (IntFormat(width=8), AbFloat(exponent_bits=4, mantissa_bits=3, bias=4, limit=1 << 15))}
    CATALOG.add(
        "ovp8",
        Entry(
            summary="8-bit outlier-victim pairs: int8 with abfloat E4M3 outliers of bias 4, at most 2**15",
            source=f"{olive}; bias and limit are a reconstruction",
            build=_ovp(wide, "int8"),
            keys=("normal",),
            words=True,
        ),
    )


_fill()
