"""The element formats that are verified: those of the catalog's tensor formats, and more widths of their families."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache

from macloom.formats.element import ElementFormat
from macloom.formats.elements.abfloat import AbFloat
from macloom.formats.elements.codebook import Mode, fp4_bnb, nf4
from macloom.formats.elements.flint import Flint
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.logarithmic import LogFormat
from macloom.formats.elements.minifloat import FloatFormat, Specials
from macloom.formats.elements.posit import Posit
from macloom.formats.elements.power import AdditivePowerOfTwo, PowerOfTwo
from macloom.formats.grammar import get_format, list_formats
from macloom.formats.tensor import TensorFormat

MAX_BITS = 8

# What the catalog's names do not show of a family: other widths, unsigned and asymmetric kinds, released code.
FURTHER: tuple[ElementFormat, ...] = (
    *(Flint(width=width) for width in (3, 5, 6, 7, 8)),
    Flint(width=4, signed=False),
    IntFormat(width=8, symmetric=False),
    FloatFormat(label="e3m4", exponent_bits=3, mantissa_bits=4, specials=Specials.IEEE),
    FloatFormat(label="e4m3b11fnuz", exponent_bits=4, mantissa_bits=3, bias=11, specials=Specials.FNUZ),
    FloatFormat(label="e6m1", exponent_bits=6, mantissa_bits=1, specials=Specials.IEEE),
    AbFloat(exponent_bits=2, mantissa_bits=1, bias=3),
    PowerOfTwo(width=8),
    AdditivePowerOfTwo(width=7),
    LogFormat(integer_bits=2, fraction_bits=1),
    Posit(width=5),
    Posit(width=6, exponent_bits=0),
    nf4(Mode.UPSTREAM),
    fp4_bnb(Mode.UPSTREAM),
)


def _elements_of(fmt: TensorFormat) -> list[ElementFormat]:
    """Return the element formats that a tensor format is made of: its elements, outliers and scales."""
    held = [getattr(fmt, field.name) for field in fields(fmt)]  # type: ignore[arg-type]
    return [part for part in (fmt.element, *held) if isinstance(part, ElementFormat)]


@lru_cache(maxsize=1)
def elements() -> tuple[ElementFormat, ...]:
    """Return every distinct element format of at most 8 bits, in order of name."""
    found = {part for name in list_formats() for part in _elements_of(get_format(name))} | set(FURTHER)
    return tuple(sorted((e for e in found if e.bits <= MAX_BITS), key=lambda e: (e.name, repr(e))))


@lru_cache(maxsize=256)
def label(element: ElementFormat) -> str:
    """Return the name of an element format, with the fields that tell it from others of that name.

    >>> label(Flint(width=4)), label(IntFormat(width=8, symmetric=False))
    ('flint4', 'int8 (symmetric=False)')
    """
    others = [other for other in elements() if other.name == element.name and other != element]
    names = [field.name for field in fields(element)]  # type: ignore[arg-type]
    own = [n for n in names if any(getattr(other, n, None) != getattr(element, n) for other in others)]
    texts = [f"{n}={getattr(element, n)}" for n in own]
    short = [text if len(text) < 40 else f"its own {n}" for n, text in zip(own, texts, strict=True)]
    return f"{element.name} ({', '.join(short)})" if short and element in FURTHER else element.name
