"""Every family: table encoder, lookup kernel and scalar reference agree on what decides."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import ElementFormat, Posit, PowerOfTwo, Rounding, encode_reference
from macloom.formats.grid import lookup_table
from macloom.formats.policy import Overflow
from macloom.formats.rounders import encode_rows, quantize_rows

Around = Callable[[np.ndarray], np.ndarray]


def points_of(element: ElementFormat) -> np.ndarray:
    values, codes = element.encodable
    decided = []
    for a, b in pairwise(codes.tolist()):
        point = element.decision(a, b)
        decided.append(float((Fraction(element.value(a)) + Fraction(element.value(b))) / 2 if point is None else point))
    return np.concatenate((values, decided))


def test_kernels_equal_the_scalar_reference_around_every_decision(
    element: ElementFormat, float32_around: Around
) -> None:
    x = float32_around(points_of(element))
    expected = np.array([encode_reference(element, float(v)) for v in x])
    np.testing.assert_array_equal(element.encode(x), expected)
    assert lookup_table(element) is not None
    rows, scales = x.reshape(1, -1), np.ones((1, 1), np.float32)
    np.testing.assert_array_equal(encode_rows(element, rows, scales, x.size, "t")[0], expected)
    out = np.empty_like(rows)
    quantize_rows(element, rows, scales, x.size, out, "t")
    np.testing.assert_array_equal(out.view(np.uint32), element.decode(expected).view(np.uint32).reshape(1, -1))


ROUNDINGS = [Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO, Rounding.TO_ODD]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_rounding_equals_the_scalar_reference(
    element: ElementFormat, rounding: Rounding, float32_around: Around
) -> None:
    x = float32_around(points_of(element))[::3]
    expected = [encode_reference(element, float(v), rounding) for v in x]
    np.testing.assert_array_equal(element.encode(x, rounding), expected)
    table = lookup_table(element, rounding)
    if table is None:  # exact values next to each other in one cell leave no room for two limits
        assert rounding is Rounding.TO_ODD
        return
    bits = x.view(np.uint32)
    cells = bits >> np.uint32(table.shift)
    later = (bits & np.uint32((1 << table.shift) - 1) != 0) if table.limits is None else bits >= table.limits[cells]
    np.testing.assert_array_equal(table.codes[2 * cells.astype(np.int64) + later], expected)


def test_codes_and_values_are_one_to_one_and_idempotent(element: ElementFormat) -> None:
    values, codes = element.encodable
    assert np.all(np.diff(values) > 0)
    np.testing.assert_array_equal(element.encode(values), codes)
    np.testing.assert_array_equal(element.quantize(values), values.astype(np.float32))


def test_encoding_is_monotone(element: ElementFormat, float32_around: Around) -> None:
    x = np.sort(float32_around(points_of(element)))
    assert np.all(np.diff(element.quantize(x)) >= 0)


def test_infinities_saturate_and_nan_follows_the_format(element: ElementFormat) -> None:
    ends = element.quantize(np.float32([-np.inf, np.inf]))
    np.testing.assert_array_equal(ends, np.float32([element.min_value, element.max_value]))
    if element.nan_code is None:
        with pytest.raises(MacloomError, match="the input holds NaN, which the format cannot store"):
            element.encode(np.float32([np.nan]))
    else:
        assert element.encode(np.float32([np.nan]))[0] == element.nan_code


def test_pairs_are_the_values_that_multipliers_see(element: ElementFormat) -> None:
    seen = getattr(element, "operand_values", element.values)
    units, unit, largest = element.units
    operand = element.operand
    for code in element.encodable[1].tolist():
        e, i = element.pair(code)
        assert i * Fraction(2) ** e == Fraction(float(seen[code]))
        assert Fraction(float(units[code])) * Fraction(2) ** unit == Fraction(float(seen[code]))
        assert -(1 << operand.significand_bits - 1) <= i < 1 << (operand.significand_bits - 1)
        assert abs(float(units[code])) <= largest < 1 << (operand.integer_bits - 1)


def test_sixteen_bit_posits_round_as_the_reference(float32_around: Around) -> None:
    for es in (1, 2):
        element = Posit(width=16, exponent_bits=es)
        points = points_of(element)
        x = float32_around(np.random.default_rng(es).choice(points, 300))
        np.testing.assert_array_equal(element.encode(x), [encode_reference(element, float(v)) for v in x])


def test_lookup_needs_a_compare_only_where_decisions_are_not_short(elements: Sequence[ElementFormat]) -> None:
    with_limits = {e.name for e in elements if (t := lookup_table(e)) and t.limits is not None}
    assert {"nf4", "lns4.3", "tan4", "posit8_2", "logsqrt4"} <= with_limits
    assert not {"hif8", "pot4", "apot4", "ternary", "adaptivfloat8e4"} & with_limits


@pytest.mark.parametrize("overflow", [Overflow.TO_INF, Overflow.TO_NAN])
def test_overflow_policies_that_a_format_lacks_are_refused(overflow: Overflow) -> None:
    with pytest.raises(MacloomError, match="overflow: format 'pot4' has no"):
        PowerOfTwo(width=4).encode(np.float32([1.0]), overflow=overflow)
