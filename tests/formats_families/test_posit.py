"""Posits against bit strings: decoding and rounding written out on text, as the standard describes them."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Posit, get_format

Around = Callable[[np.ndarray], np.ndarray]


SIZES = [(8, 0), (8, 1), (8, 2), (8, 3), (3, 0), (4, 2), (5, 1), (7, 2), (10, 1), (12, 0)]


def decoded(code: int, n: int, es: int) -> Fraction | None:
    """The value of a posit from its bits as text; None for NaR."""
    text = format(code, f"0{n}b")
    if "1" not in text:
        return Fraction(0)
    if text[0] == "1" and "1" not in text[1:]:
        return None
    sign = -1 if text[0] == "1" else 1
    if sign < 0:  # two's complement on text: flip every bit before the last 1
        last = text.rindex("1")
        text = "".join("10"[int(b)] for b in text[:last]) + text[last:]
    body = text[1:]
    run = len(body) - len(body.lstrip(body[0]))
    k = run - 1 if body[0] == "1" else -run
    tail = body[run + 1 :]
    exponent = int((tail[:es] + "0" * es)[:es] or "0", 2)
    fraction = sum((Fraction(int(b), 2**i) for i, b in enumerate(tail[es:], 1)), Fraction(0))
    return sign * Fraction(2) ** (k * 2**es + exponent) * (1 + fraction)


def encoded(x: float, n: int, es: int) -> int:
    """The code of x by rounding its unbounded bit string to nearest even."""
    if x == 0:
        return 0
    magnitude = abs(Fraction(x))
    e = 0
    while magnitude >= 2 ** (e + 1):
        e += 1
    while magnitude < Fraction(2) ** e:
        e -= 1
    k, low = e >> es, e & ((1 << es) - 1)
    text = "1" * (k + 1) + "0" if k >= 0 else "0" * -k + "1"
    text += format(low, f"0{es}b") if es else ""
    rest = magnitude / Fraction(2) ** e - 1
    for _ in range(60):
        rest *= 2
        text += "1" if rest >= 1 else "0"
        rest -= int(rest >= 1)
    assert rest == 0
    kept, dropped = text[: n - 1], text[n - 1 :]
    code = int(kept, 2)
    if dropped[:1] == "1" and ("1" in dropped[1:] or code % 2):
        code += 1
    code = min(max(code, 1), 2 ** (n - 1) - 1)
    return (2**n - code) % 2**n if x < 0 else code


@pytest.mark.parametrize("n, es", [*SIZES, (16, 1), (16, 2)])
def test_every_code_decodes_as_its_bit_string(n: int, es: int) -> None:
    posit = Posit(width=n, exponent_bits=es)
    codes = range(1 << n) if n <= 12 else range(0, 1 << n, 13)
    for code in codes:
        wanted = decoded(code, n, es)
        if wanted is None:
            assert np.isnan(posit.value(code))
        else:
            assert Fraction(posit.value(code)) == wanted


@pytest.mark.parametrize("n, es", SIZES)
def test_values_round_on_their_bit_string(n: int, es: int, float32_around: Around) -> None:
    posit = Posit(width=n, exponent_bits=es)
    rng = np.random.default_rng(n * 8 + es)
    values = posit.encodable[0]
    spread = np.ldexp(rng.normal(size=200), rng.integers(-30, 30, 200))
    longer = [float(v) for c in range(0, 2 << n, 1 << max(0, n - 7)) if (v := decoded(c | 1, n + 1, es)) is not None]
    points = np.concatenate((values[:: max(1, len(values) // 50)], spread, longer))
    x = float32_around(points)[: 5 * len(points)]
    np.testing.assert_array_equal(posit.encode(x), [encoded(float(v), n, es) for v in x])


@pytest.mark.parametrize("es, minpos, maxpos, after_one", [
    (0, 2.0**-6, 64.0, 1.03125), (1, 2.0**-12, 4096.0, 1.0625), (2, 2.0**-24, 2.0**24, 1.125),
])  # fmt: skip
def test_extremes_of_eight_bits(es: int, minpos: float, maxpos: float, after_one: float) -> None:
    posit = Posit(width=8, exponent_bits=es)
    assert (posit.value(1), posit.value(0x7F), posit.value(0x40), posit.value(0x41)) == (minpos, maxpos, 1, after_one)
    assert posit.max_value == maxpos == -posit.min_value


def test_codes_order_as_signed_integers() -> None:
    values, codes = Posit(width=8).encodable
    assert np.all(np.diff(codes.astype(np.uint8).view(np.int8).astype(int)) > 0)
    assert len(values) == 255


def test_nothing_rounds_to_zero_or_nar() -> None:
    posit = Posit(width=8)
    assert posit.encode([1e-45, -1e-45, 1e38, -1e38, np.inf, 0.0, -0.0]).tolist() == [1, 0xFF, 0x7F, 0x81, 0x7F, 0, 0]
    assert posit.encode([np.nan])[0] == 0x80


@pytest.mark.parametrize("n", [3, 8, 16])
def test_the_quire_holds_sums_of_products_exactly(n: int) -> None:
    posit = Posit(width=n)
    assert posit.quire_bits == 16 * n
    smallest, largest = Fraction(posit.value(1)), Fraction(posit.max_value)
    assert (2**31 - 1) * largest**2 / smallest**2 < 2 ** (posit.quire_bits - 1)


def test_a_tie_between_regimes_is_geometric_with_exponent_bits() -> None:
    # Between 2**20 and 2**24 the string's next bit stands for 2**22.
    posit = Posit(width=8)
    assert posit.quantize([2.0**22, np.nextafter(2.0**22, 0), 2.0**22 + 1]).tolist() == [2.0**20, 2.0**20, 2.0**24]


def test_the_root_mean_square_lands_on_one() -> None:
    x = np.float32([[3, -4], [0, 5]])
    fmt = get_format("posit8_2")
    assert float(fmt.calibrate(x)) == np.float32(np.sqrt(12.5))
    assert float(fmt.calibrate(x, clip=0.5)) == np.float32(np.sqrt(12.5)) / 2
    assert float(get_format("posit8_2:rule=absmax").calibrate(x)) == 5 / 2.0**24
    assert not fmt.static_scale
    assert get_format("posit8_2:rule=absmax").static_scale


@pytest.mark.parametrize("arguments, message", [
    ({"width": 2}, "posit.width: must be an integer from 3 to 16, not 2"),
    ({"width": 8, "exponent_bits": -1}, "posit.exponent_bits: must be an integer of at least 0, not -1"),
    ({"width": 16, "exponent_bits": 4}, "posit.exponent_bits: must keep the values of 16 bits within 2**126, which 4"),
])  # fmt: skip
def test_bad_sizes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(MacloomError) as failure:
        Posit(**arguments)
    assert message in str(failure.value)
