"""Logarithmic formats against decimal arithmetic of 60 digits."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import LogFormat, UnitLog, get_format
from macloom.formats.elements.logarithmic import exp2_nearest, exp2_separator
from macloom.formats.elements.minifloat import BF16, FP16, FP32

Around = Callable[[np.ndarray], np.ndarray]


def log2(x: float) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return Decimal(x).ln() / Decimal(2).ln()


@pytest.mark.parametrize("f", [0, 1, 2, 3, 5, 8])
def test_powers_are_the_nearest_float64_and_separators_part_float64_alike(f: int) -> None:
    with localcontext() as context:
        context.prec = 60
        for k in (*range(-40, 41), 1001, -997):
            exact = Decimal(2) ** (Decimal(k) / 2**f)
            assert exp2_nearest(k, f) == float(exact)
            separator, near = exp2_separator(k, f), float(exact)
            for x in (np.nextafter(near, 0), near, np.nextafter(near, np.inf)):
                if k % 2**f:
                    assert (Fraction(float(x)) > separator) == (Decimal(float(x)) > exact)
                    assert Fraction(float(x)) != separator
                else:
                    assert separator == Fraction(near)


@pytest.mark.parametrize("f, step", [(0, 1.0), (1, 0.41), (2, 0.189), (3, 0.0905)])
def test_relative_steps(f: int, step: float) -> None:
    lns = LogFormat(integer_bits=3, fraction_bits=f)
    positive = lns.encodable[0][lns.encodable[0] > 0]
    np.testing.assert_allclose(positive[1:] / positive[:-1] - 1, step, rtol=0.011)
    assert positive[-1] == exp2_nearest((1 << (2 + f)) - 1, f)


def lns_code(x: float, i: int, f: int) -> int:
    """Nearest logarithm in decimal arithmetic; a logarithm of the reserved code or less is zero."""
    if x == 0:
        return 1 << (i + f - 1)
    logarithm = int((log2(abs(x)) * 2**f).to_integral_value())
    half = 1 << (i + f - 1)
    if logarithm <= -half:
        return half
    return min(logarithm, half - 1) % (2 * half) | (x < 0) << (i + f)


@pytest.mark.parametrize("i, f", [(4, 3), (5, 2), (3, 0), (6, 1)])
def test_signed_logarithms_round_in_the_log_domain(i: int, f: int, float32_around: Around) -> None:
    lns = LogFormat(integer_bits=i, fraction_bits=f)
    values = lns.encodable[0]
    middles = np.sqrt(np.abs(values[1:] * values[:-1])) * np.sign(values[1:])
    x = float32_around(np.concatenate((values, middles)))[: 10 * len(values)]
    np.testing.assert_array_equal(lns.encode(x), [lns_code(float(v), i, f) for v in x])


def test_the_linear_domain_takes_the_nearest_value() -> None:
    lns = LogFormat(integer_bits=3, fraction_bits=0, domain="linear")
    assert lns.quantize([1.45, 1.55, -1.45]).tolist() == [1, 2, -1]
    assert LogFormat(integer_bits=3, fraction_bits=0).quantize([1.40, 1.45, -1.45]).tolist() == [1, 2, -2]


@pytest.mark.parametrize("width, f", [(4, 0), (4, 1), (6, 2), (8, 2), (1, 0)])
def test_unit_logarithms_are_the_clipped_nearest_logarithm(width: int, f: int, float32_around: Around) -> None:
    unit = UnitLog(width=width, fraction_bits=f)
    top = (1 << width) - 1
    points = np.exp2(-np.arange(0, top + 2, 0.5) / 2**f)
    x = np.abs(float32_around(points)[: 10 * len(points)])
    expected = [min(max(int((-log2(float(v)) * 2**f).to_integral_value()), 0), top) if v else top for v in x]
    np.testing.assert_array_equal(unit.encode(x), expected)


def test_unit_values() -> None:
    assert [UnitLog(width=4).value(q) for q in (0, 1, 15)] == [1, 0.5, 2.0**-15]
    assert UnitLog(width=4, fraction_bits=1).value(3) == 2.0**-1.5
    assert UnitLog(width=4).pair(9) == (-9, 1)
    assert UnitLog(width=4).operand.exponent_bits == 4


def test_fractions_decode_by_a_table_in_half_precision() -> None:
    assert LogFormat(integer_bits=4, fraction_bits=3).table == FP16
    assert LogFormat(integer_bits=6, fraction_bits=1).table == BF16
    assert LogFormat(integer_bits=4, fraction_bits=0).table is None
    lns = LogFormat(integer_bits=4, fraction_bits=3, table=FP32)
    np.testing.assert_array_equal(lns.operand_values[:8], lns.values[:8].astype(np.float32))
    half = LogFormat(integer_bits=4, fraction_bits=3)
    used = np.isfinite(half.values)
    np.testing.assert_array_equal(half.operand_values[used], half.values[used].astype(np.float16))
    assert np.all(np.isnan(half.operand_values[~used]))


def test_one_sided_formats_refuse_negative_data() -> None:
    for name in ("log4", "logsqrt4"):
        with pytest.raises(MacloomError, match="stores no negative values, but the tensor holds -0.5"):
            get_format(name).encode(np.float32([0.25, -0.5]))


def test_zero_and_small_probabilities_take_the_last_level() -> None:
    got = get_format("log4:none").quantize(np.float32([0, 1e-9, 1, 0.3, 0.36]))
    assert got.tolist() == [2.0**-15, 2.0**-15, 1, 0.25, 0.5]


@pytest.mark.parametrize("build, message", [
    (lambda: LogFormat(integer_bits=0, fraction_bits=3), "log.integer_bits: must be an integer from 1 to 7, not 0"),
    (lambda: LogFormat(integer_bits=4, fraction_bits=9), "log.fraction_bits: must be an integer from 0 to 8, not 9"),
    (lambda: LogFormat(integer_bits=4, fraction_bits=3, domain="cubic"), "log.domain: unknown name 'cubic'"),
    (lambda: LogFormat(integer_bits=6, fraction_bits=1, table=FP16), "log.table: must be a format with room for"),
    (lambda: UnitLog(width=9), "unit_log.width: must be an integer from 1 to 8, not 9"),
    (lambda: UnitLog(width=8), "unit_log.width: must keep the values above 2**-126, which 8 does not"),
    (lambda: UnitLog(width=4, fraction_bits=-1), "unit_log.fraction_bits: must be an integer from 0 to 8, not -1"),
    (lambda: get_format("lns8:fraction=7"), "log.integer_bits: must be an integer from 1 to 7, not 0"),
    (lambda: get_format("lns8:table=fp99"), "format option table: unknown name 'fp99'"),
    (lambda: get_format("lns8:domain=lin"), "format option domain: unknown name 'lin'; did you mean 'linear'?"),
])  # fmt: skip
def test_bad_parameters(build, message: str) -> None:
    with pytest.raises(MacloomError) as failure:
        build()
    assert message in str(failure.value)
