"""Powers of two and sums of them against the grids that ANT's code builds."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import AdditivePowerOfTwo, PowerOfTwo, get_format

GRIDS = json.loads((Path(__file__).parents[1] / "golden" / "ant_grids.json").read_text())["grids"]


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_grids_are_those_of_ant(name: str) -> None:
    kind, width, signed = name[:-3], int(name[-3]), name.endswith("_s")
    element = {"pot": PowerOfTwo, "apot": AdditivePowerOfTwo}[kind](width=width, signed=signed)
    values = element.encodable[0]
    assert len(values) == (1 << width) - signed
    assert element.min_value == (-element.max_value if signed else 0)
    magnitudes = np.float32(values[values >= 0]) * np.float32(10 / element.max_value)
    np.testing.assert_allclose(np.float32(GRIDS[name]), magnitudes, rtol=3e-7)


def test_codes_of_powers() -> None:
    pot = PowerOfTwo(width=4)
    assert [pot.value(c) for c in range(9, 16)] == [-1, -2, -4, -8, -16, -32, -64]
    assert np.isnan(pot.value(8))
    assert [PowerOfTwo(width=4, signed=False).value(c) for c in (0, 1, 15)] == [0, 1, 2**14]
    assert (pot.operand.significand_bits, pot.operand.exponent_bits, pot.operand.integer_bits) == (2, 3, 8)


def test_linear_and_log_domain_part_at_different_points() -> None:
    linear, log = PowerOfTwo(width=4), PowerOfTwo(width=4, domain="log")
    below, above = np.float32(4 * np.sqrt(2)), np.nextafter(np.float32(4 * np.sqrt(2)), np.float32(8))
    assert float(below) < 4 * 2**0.5 < float(above)
    assert log.quantize([below, above, -below, -above]).tolist() == [4, 8, -4, -8]
    assert linear.quantize([above, 5.99, 6.0, 6.01]).tolist() == [4, 4, 8, 8]
    assert log.quantize([0.70, 0.71, -0.70, -0.71]).tolist() == [0, 1, 0, -1]
    assert linear.quantize([0.49, 0.51]).tolist() == [0, 1]


def test_sums_add_one_power_of_each_set() -> None:
    apot = AdditivePowerOfTwo(width=4)
    assert apot.magnitudes == (0, 2, 8, 10, 4, 6, 1, 3)
    assert apot.pair(0b1011) == (0, -10)
    assert np.isnan(apot.value(0b1000))
    assert get_format("apot4").quantize(np.float32([10, -4.9, 2.6, 0.4])).tolist() == [10, -4, 3, 0]


def test_domain_is_an_option_of_the_name() -> None:
    x = np.float32([64, 5.8])
    assert get_format("pot4").quantize(x).tolist() == [64, 4]
    assert get_format("pot4:domain=log").quantize(x).tolist() == [64, 8]


@pytest.mark.parametrize("build, message", [
    (lambda: PowerOfTwo(width=9), "pot.width: must be an integer from 2 to 8, not 9"),
    (lambda: PowerOfTwo(width=8, signed=False), "pot.width: must be an integer from 2 to 7, not 8"),
    (lambda: PowerOfTwo(width=4, domain="loog"), "pot.domain: unknown name 'loog'; did you mean 'log'?"),
    (lambda: AdditivePowerOfTwo(width=8), "apot.width: must be an integer from 3 to 7, not 8"),
    (lambda: AdditivePowerOfTwo(width=1, signed=False), "apot.width: must be an integer from 2 to 6, not 1"),
])  # fmt: skip
def test_bad_parameters(build, message: str) -> None:
    with pytest.raises(MacloomError) as failure:
        build()
    assert message in str(failure.value)
