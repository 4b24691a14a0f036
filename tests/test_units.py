"""Quantities: text to numbers in the base unit and back."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.units import format_quantity, parse_quantity

UNITS = ["Hz", "J", "s", "W", "V", "B/s", "bit/s", "J/bit", "bit/cycle", "cycle", "m2", "um2", "nm"]


@pytest.mark.parametrize(
    "text, unit, value",
    [
        ("256 KiB", "bit", 256 * 1024 * 8),
        ("256 KiB", "B", 262144),
        ("1 MiB", "B", 2**20),
        ("64 kB", "B", 64000),
        ("12 bit", "bit", 12),
        ("1 Kibit", "bit", 1024),
        ("500 MHz", "Hz", 5e8),
        ("1 GHz", "Hz", 1e9),
        ("1GHz", "Hz", 1e9),
        ("  1.5e3 Hz ", "Hz", 1500.0),
        (".5 Hz", "Hz", 0.5),
        ("0.4 pJ", "J", 0.4e-12),
        ("-3 mV", "V", -0.003),
        ("64 GB/s", "bit/s", 512e9),
        ("512 Gbit/s", "B/s", 64e9),
        ("1 GiB/s", "B/s", 2.0**30),
        ("3.9 pJ/bit", "J/bit", 3.9e-12),
        ("8 pJ/B", "J/bit", 1e-12),
        ("64 B/cycle", "bit/cycle", 512.0),
        ("2 us", "s", 2e-6),
        ("2 µs", "s", 2e-6),
        ("79.57 um2", "um2", 79.57),
        ("0.5 mm2", "um2", 500000.0),
        ("22 nm", "nm", 22.0),
        ("3 ms", "s", 0.003),
        ("3 m", "m", 3.0),
    ],
)
def test_text_is_worth_the_number_by_hand(text, unit, value):
    assert parse_quantity(text, unit) == value
    assert isinstance(parse_quantity(text, unit), int) == (unit in ("bit", "B"))


@pytest.mark.parametrize(
    "text, unit, message",
    [
        ("256 MHz", "bit", "must be a data size such as '256 KiB', not '256 MHz' (a frequency)"),
        (
            "256 KB",
            "bit",
            "must be a data size such as '256 KiB', not '256 KB' (unknown unit 'KB'; did you mean 'kB' or 'KiB'?)",
        ),
        (
            "2 Gb/s",
            "B/s",
            "must be a data size per time such as '64 GB/s', not '2 Gb/s' "
            "(unknown unit 'Gb/s'; did you mean 'Gbit/s' or 'GB/s'?)",
        ),
        (
            "500 Mhz",
            "Hz",
            "must be a frequency such as '500 MHz', not '500 Mhz' (unknown unit 'Mhz'; did you mean 'mHz' or 'MHz'?)",
        ),
        ("5 zork", "V", "must be a voltage such as '0.9 V', not '5 zork' (unknown unit 'zork')"),
        ("1 KiHz", "Hz", "must be a frequency such as '500 MHz', not '1 KiHz' (unknown unit 'KiHz'"),
        ("1 J/s/s", "J", "must be an energy such as '0.4 pJ', not '1 J/s/s' (unknown unit 'J/s/s'"),
        ("5 J", "J/bit", "must be an energy per data size such as '3.9 pJ/bit', not '5 J' (an energy)"),
        ("500", "Hz", "must be a frequency such as '500 MHz', not '500' (no unit)"),
        (500, "Hz", "must be a frequency such as '500 MHz', not 500"),
        (None, "s", "must be a time such as '2 ms', not None"),
        ("fast", "Hz", "must be a frequency such as '500 MHz', not 'fast'"),
        ("nan Hz", "Hz", "must be a frequency such as '500 MHz', not 'nan Hz'"),
        ("1,5 GHz", "Hz", "must be a frequency such as '500 MHz', not '1,5 GHz'"),
        ("", "J", "must be an energy such as '0.4 pJ', not ''"),
        ("0.3 bit", "bit", "must be a whole number of bit, not '0.3 bit'"),
        ("1e999 J", "J", "must fit a 64-bit float, not '1e999 J'"),
    ],
)
def test_other_text_raises_one_message_with_path_value_and_example(text, unit, message):
    with pytest.raises(MacloomError) as caught:
        parse_quantity(text, unit, "arch.clock")
    assert str(caught.value).startswith("arch.clock: " + message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", [lambda: parse_quantity("1 J", "furlong"), lambda: format_quantity(1, "furlong")])
def test_unknown_target_unit_raises(call):
    with pytest.raises(MacloomError, match=r"^unit: must be made of bit, B, Hz, .*, not 'furlong'$"):
        call()


@pytest.mark.parametrize(
    "value, unit, digits, text",
    [
        (5e8, "Hz", 3, "500 MHz"),
        (262144, "B", 3, "256 KiB"),
        (64000, "B", 3, "64 kB"),
        (3 * 2**20, "bit", 3, "3 Mibit"),
        (1.234567e-9, "J", 3, "1.23 nJ"),
        (1.234567e-9, "J", 5, "1.2346 nJ"),
        (999.9996, "J", 3, "1 kJ"),
        (0.0, "J", 3, "0 J"),
        (-0.004, "V", 3, "-4 mV"),
        (6.4e10, "B/s", 3, "64 GB/s"),
        (3.9e-12, "J/bit", 2, "3.9 pJ/bit"),
        (79.57, "um2", 4, "79.57 um2"),
        (2.5e-6, "m2", 3, "2.5 mm2"),
        (1 / 3, "s", None, "333.3333333333333 ms"),
        (1e-30, "J", 3, "1e-30 J"),
        (987.6, "J", 1, "1 kJ"),
        (123.0, "J", 1, "100 J"),
        (1.5, "bit", None, "1.5 bit"),
        (1413120 * 1024, "B", 3, "1.35 GiB"),
        (1536 * 1024, "B", 3, "1.5 MiB"),
        (1536 * 1024, "B", None, "1536 KiB"),
        (1023 * 1024, "B", 3, "0.999 MiB"),
        (440 * 2**20, "B", 3, "440 MiB"),
    ],
)
def test_numbers_read_well(value, unit, digits, text):
    assert format_quantity(value, unit, digits) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1.5e10, "14 GiB"),
        (9.75e9, "9.08 GiB"),
        (1023.9996 * 2**20, "1 GiB"),
        (12.5, "12.5 B"),
    ],
)
def test_sizes_in_a_row_have_one_base(value, text):
    assert format_quantity(value, "B", binary=True) == text


@given(st.integers(1, 2**63), st.sampled_from([True, False, None]))
def test_a_size_has_at_most_three_digits_before_the_point(value, binary):
    number = format_quantity(value, "B", binary=binary).partition(" ")[0]
    assert "e" not in number
    assert len(number.partition(".")[0]) <= 3


def test_formatting_refuses_what_is_no_quantity():
    with pytest.raises(MacloomError, match=r"^quantity: must be finite, not nan J$"):
        format_quantity(math.nan, "J")
    with pytest.raises(MacloomError, match=r"^digits: must be a positive integer, not 0$"):
        format_quantity(1.0, "J", 0)


@given(st.floats(1e-20, 1e20) | st.floats(-1e20, -1e-20), st.sampled_from(UNITS), st.integers(1, 15))
def test_parse_after_format_is_within_half_a_digit(value, unit, digits):
    back = parse_quantity(format_quantity(value, unit, digits), unit)
    assert back == pytest.approx(value, rel=0.5 * 10 ** (1 - digits) * 1.0000001)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(UNITS))
def test_parse_after_exact_format_is_equal(value, unit):
    assert parse_quantity(format_quantity(value, unit, None), unit) == value


@given(st.integers(0, 2**80), st.sampled_from(["bit", "B"]))
def test_sizes_read_back_exactly(value, unit):
    assert parse_quantity(format_quantity(value, unit, None), unit) == value


@given(st.decimals(-1000000, 1000000, places=6), st.sampled_from([("p", -12), ("", 0), ("G", 9)]))
def test_value_is_the_float_nearest_to_the_written_decimal(number, prefix):
    name, power = prefix
    assert parse_quantity(f"{number} {name}J", "J") == float(Fraction(number) * Fraction(10) ** power)
