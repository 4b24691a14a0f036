"""The table of a floating-point format against its scalar rule."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from macloom.formats.elements.minifloat import BF16, FP16, FloatFormat, Specials

SMALL = [
    FloatFormat(label="any", exponent_bits=w, mantissa_bits=t, specials=specials, signed=signed, zero=zero)
    for w, t, specials, signed, zero in product((1, 2, 5, 8), (0, 1, 3), Specials, (True, False), (True, False))
    if not (specials is Specials.FNUZ and not signed)
]


def same(fmt: FloatFormat) -> bool:
    want = np.array([fmt.value(code) for code in range(1 << fmt.bits)], np.float64)
    return np.array_equal(fmt.values.view(np.uint64), want.view(np.uint64))


def test_table_holds_what_the_scalar_rule_gives_for_every_small_format() -> None:
    assert [fmt for fmt in SMALL if not same(fmt)] == []


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=lambda fmt: fmt.label)
def test_table_holds_what_the_scalar_rule_gives_for_wide_formats(fmt: FloatFormat) -> None:
    assert same(fmt)


def test_tables_of_other_specials_differ() -> None:
    """The comparison above would notice another rule for the top codes."""
    plain, other = (
        FloatFormat(label="any", exponent_bits=4, mantissa_bits=3, specials=s) for s in (Specials.NONE, Specials.FN)
    )
    assert not np.array_equal(plain.values.view(np.uint64), other.values.view(np.uint64))
