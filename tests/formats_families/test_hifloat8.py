"""HiFloat8 against the enumeration of its binades and the arithmetic of the public model."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from macloom.formats import HiFloat8, Overflow, Rounding, get_format

HIF8 = HiFloat8()


def test_specials() -> None:
    assert HIF8.value(0x00) == 0
    assert np.isnan(HIF8.value(0x80))
    assert (HIF8.value(0x6F), HIF8.value(0xEF)) == (np.inf, -np.inf)
    assert HIF8.value(0x6E) == 32768 == HIF8.max_value
    assert HIF8.negative_zero_code is None


def test_values_per_binade() -> None:
    positive = [HIF8.value(c) for c in range(1, 0x80) if np.isfinite(HIF8.value(c))]
    count = Counter(int(np.frexp(v)[1]) - 1 for v in positive)
    wanted = dict.fromkeys(range(-3, 4), 8)
    wanted |= dict.fromkeys((*range(-7, -3), *range(4, 8)), 4)
    wanted |= dict.fromkeys((*range(-15, -7), *range(8, 15)), 2) | {15: 1}
    wanted |= dict.fromkeys(range(-22, -15), 1)
    assert count == wanted
    assert len(count) == 38
    assert sorted(HIF8.value(c) for c in range(1, 8)) == [2.0**e for e in range(-22, -15)]


def test_negative_codes_mirror_positive_ones() -> None:
    for code in range(1, 0x80):
        assert HIF8.value(code | 0x80) == -HIF8.value(code)


def public_model(x: float) -> float:
    """ddddwee1/HiFloat8 (hif8_quant_cuda.cu) in exact arithmetic."""
    a = abs(Fraction(x))
    if a < Fraction(1, 2**23):
        return 0.0
    if a >= 40960:
        return np.copysign(np.inf, x)
    e = int(np.frexp(abs(x))[1]) - 1
    e = -22 if e == -23 else e
    bits = next((b for limit, b in ((3, 3), (7, 2), (15, 1)) if abs(e) <= limit), 0)
    steps = a * Fraction(2) ** (bits - e) + Fraction(1, 2)
    return float(np.copysign(float((steps.numerator // steps.denominator) * Fraction(2) ** (e - bits)), x))


def test_all_bfloat16_inputs_round_as_the_public_model() -> None:
    patterns = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    x = patterns[np.isfinite(patterns)]
    got = HIF8.decode(HIF8.encode(x, overflow=Overflow.TO_INF))
    np.testing.assert_array_equal(got, np.array([public_model(float(v)) for v in x], np.float32))


def test_saturation_is_the_default() -> None:
    assert HIF8.quantize([40959.0, 40960.0, 1e9, -np.inf]).tolist() == [32768, 32768, 32768, -32768]


@pytest.mark.parametrize("x, away, even", [(1.0625, 1.125, 1.0), (-1.0625, -1.125, -1.0), (2.0**-23, 2.0**-22, 0.0)])
def test_ties_go_away_from_zero_unless_asked(x: float, away: float, even: float) -> None:
    assert HIF8.default_rounding is Rounding.NEAREST_AWAY
    assert HIF8.quantize([x])[0] == away
    assert HIF8.quantize([x], Rounding.NEAREST_EVEN)[0] == even


def test_tensor_format_uses_the_formats_own_rounding() -> None:
    fmt = get_format("hif8:none")
    x = np.float32([[1.0625, -1.0625, 40000.0, 2.0**-23]])
    assert fmt.quantize(x).tolist() == [[1.125, -1.125, 32768.0, 2.0**-22]]
    assert fmt.storage_bits((4, 4)) == 128
