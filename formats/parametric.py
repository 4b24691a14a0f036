"""Catalog names that take the widths of an element format as options: any integer, float, posit, logarithm, ..."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.adaptivfloat import AdaptivFloat, AdaptivScaled, Definition
from macloom.formats.elements.decoded import table_option
from macloom.formats.elements.flint import Flint
from macloom.formats.elements.integer import IntFormat, Range
from macloom.formats.elements.logarithmic import Domain, LogFormat, UnitLog
from macloom.formats.elements.minifloat import FloatFormat, Specials
from macloom.formats.elements.posit import Posit
from macloom.formats.elements.power import AdditivePowerOfTwo, PowerOfTwo
from macloom.formats.elements.tan import Sides, TanFormat
from macloom.formats.families import ANT, FLOAT, INTEGER, LOGARITHMIC, POSIT, TAPERED, Family
from macloom.formats.grammar import (
    CATALOG,
    WORDS,
    Builder,
    Entry,
    Options,
    choice_option,
    granularity_option,
    integer_option,
    integers,
    scaled,
)
from macloom.formats.outliers.sparse_options import number_option
from macloom.formats.scales import Grain
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.statistic import Statistic, statistic_scaled

Make = Callable[[Options], ElementFormat]


class Answer(StrEnum):
    YES = "yes"
    NO = "no"


def _signed(options: Options) -> bool:
    return choice_option(options, "signed", *Answer) is Answer.YES


def _integer(options: Options) -> IntFormat:
    signed, span = _signed(options), choice_option(options, "range", *Range)
    if "range" in options and not signed:
        raise MacloomError("format option range: belongs to signed integers")
    return IntFormat(width=integer_option(options, "bits", 8), signed=signed, symmetric=span is Range.SYMMETRIC)


def _float(options: Options) -> ElementFormat:
    exponent, mantissa = integer_option(options, "exponent", 4), integer_option(options, "mantissa", 3)
    specials = choice_option(options, "specials", *Specials)
    bias = integer_option(options, "bias", (1 << max(exponent - 1, 0)) - 1)
    signed = _signed(options)
    label = f"{'' if signed else 'u'}e{exponent}m{mantissa}{'' if specials is Specials.NONE else specials.value}"
    made = FloatFormat(
        label=label, exponent_bits=exponent, mantissa_bits=mantissa, bias=bias, specials=specials, signed=signed
    )
    if made.bits > 16:
        raise MacloomError(
            f"format option mantissa: must leave at most 16 bits in all, not {made.bits}; see tf32, fp32"
        )
    return made


def _flint(options: Options) -> ElementFormat:
    return Flint(width=integer_option(options, "bits", 4), signed=_signed(options))


def _pot(options: Options) -> ElementFormat:
    domain = choice_option(options, "domain", Domain.LINEAR, Domain.LOG)
    return PowerOfTwo(width=integer_option(options, "bits", 4), signed=_signed(options), domain=domain)


def _apot(options: Options) -> ElementFormat:
    return AdditivePowerOfTwo(width=integer_option(options, "bits", 4), signed=_signed(options))


def _lns(options: Options) -> ElementFormat:
    return LogFormat(
        integer_bits=integer_option(options, "integer", 4),
        fraction_bits=integer_option(options, "fraction", 3),
        domain=choice_option(options, "domain", Domain.LOG, Domain.LINEAR),
        table=table_option(options),
    )


def _log(options: Options) -> ElementFormat:
    fraction = integer_option(options, "fraction", 0)
    return UnitLog(width=integer_option(options, "bits", 4), fraction_bits=fraction, table=table_option(options))


def _tan(options: Options) -> ElementFormat:
    return TanFormat(
        width=integer_option(options, "bits", 4),
        a=number_option(options, "a", 1.0),
        sides=choice_option(options, "sides", Sides.ONE, Sides.TWO),
        table=table_option(options),
    )


def _adaptivfloat(name: str, options: Options) -> TensorFormat:
    element = AdaptivFloat(
        width=integer_option(options, "bits", 8),
        exponent_bits=integer_option(options, "exponent", 4),
        definition=choice_option(options, "definition", *Definition),
    )
    return AdaptivScaled(name=name, element=element, granularity=granularity_option(options, Grain.TENSOR))


def _posit(name: str, options: Options) -> TensorFormat:
    element = Posit(width=integer_option(options, "bits", 8), exponent_bits=integer_option(options, "es", 2))
    return statistic_scaled(element, Statistic.RMS, Statistic.MEAN, Statistic.ABSMAX)(name, options)


def _of(make: Make) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        return scaled(make(options))(name, options)

    return build


def _add(
    name: str,
    family: Family,
    build: Builder,
    summary: str,
    source: str,
    *keys: str,
    words: bool = True,
    explains: tuple[object, ...] = (),
) -> None:
    entry = Entry(family=family, summary=summary, source=source, build=build, keys=keys, words=words, explains=explains)
    CATALOG.add(name, entry)


def _fill() -> None:
    ant = "Guo et al., ANT, MICRO 2022"
    _add(
        "int", INTEGER, integers(_integer), "any integer of 2 to 16 bits (bits=, signed=, range=)", "common practice",
        "bits", "signed", "range", explains=(Range,),
    )  # fmt: skip
    _add(
        "float", FLOAT, _of(_float), "any float of up to 16 bits (exponent=, mantissa=, bias=, specials=, signed=)",
        "IEEE 754-2019, 3.4; specials as in OCP OFP8 and MX v1.0, or Noune et al. 2022",
        "exponent", "mantissa", "bias", "specials", "signed", explains=(Specials,),
    )  # fmt: skip
    _add("flint", ANT, _of(_flint), "any flint of 3 to 8 bits (bits=, signed=)", ant, "bits", "signed")
    _add(
        "pot", LOGARITHMIC, _of(_pot), "any power-of-two format of 2 to 8 bits (bits=, signed=, domain=)", ant,
        "bits", "signed", "domain",
    )  # fmt: skip
    _add(
        "apot", LOGARITHMIC, _of(_apot), "any sum of a few powers of two, 3 to 7 bits (bits=, signed=)",
        "Li, Dong and Wang, Additive Powers-of-Two Quantization, ICLR 2020", "bits", "signed",
    )  # fmt: skip
    _add(
        "lns", LOGARITHMIC, _of(_lns), "any logarithmic number: sign, integer= and fraction= bits of the logarithm",
        "logarithmic number system; rounding in the log domain", "integer", "fraction", "domain", "table",
    )  # fmt: skip
    _add(
        "log", LOGARITHMIC, _of(_log), "any logarithm of data in [0, 1], to the base 2**(1 / 2**fraction) (bits=)",
        "Lin et al., FQ-ViT, IJCAI 2022; Li et al., RepQ-ViT, ICCV 2023", "bits", "fraction", "table",
    )  # fmt: skip
    _add(
        "posit", POSIT, _posit, "any posit of 3 to 16 bits (bits=, es=); the root mean square is scaled to 1",
        "Posit Standard 2022 (es = 2); Gustafson and Yonemoto 2017", "bits", "es", "rule", explains=(Statistic,),
    )  # fmt: skip
    _add(
        "tan", TAPERED, _of(_tan), "any tangent format of 1 to 8 bits for data in [0, 1] (bits=, a=, sides=)",
        "DopQ-ViT, arXiv 2408.03291; the equation is a reconstruction", "bits", "a", "sides", "table",
        explains=(Sides,),
    )  # fmt: skip
    _add(
        "adaptivfloat", TAPERED, _adaptivfloat, "any AdaptivFloat of up to 16 bits (bits=, exponent=, definition=)",
        "Tambe et al., AdaptivFloat, DAC 2020", "bits", "exponent", "definition", *WORDS, "group", "axis",
        words=False, explains=(Definition,),
    )  # fmt: skip


_fill()
