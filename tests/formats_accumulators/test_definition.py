"""Every accumulator on every kind of operand against its definition in Python integers and fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Encoded, GemmReport, gemm, get_accumulator, get_format
from macloom.formats.accumulator import FAMILIES
from macloom.formats.accumulators import reference
from macloom.formats.accumulators.integer import IntegerAccumulator
from macloom.formats.accumulators.verify import KINDS, PAIRS, accumulators_for, checks, differs, encoded
from macloom.verification import Options

REFUSALS = ("narrower than", "multiplies 16-bit integers", "needs integers", "must be an integer from 2 to 512")


def found(a: Encoded, b: Encoded, name: str) -> tuple[int, str]:
    """Return the wrong outputs, or why there are none."""
    try:
        return differs(a, b, get_accumulator(name)), ""
    except MacloomError as error:
        return 0, str(error)


@pytest.mark.parametrize("pair", PAIRS, ids="*".join)
def test_every_accumulator_equals_fractions(pair: tuple[str, str]) -> None:
    seen = 0
    for turn, name in enumerate(accumulators_for(*(get_format(n) for n in pair))):
        for kind, depth in ((KINDS[turn % 8], 20), (KINDS[(turn + 3) % 8], 5)):
            wrong, reason = found(*encoded(pair, kind, depth, seed=turn), name)
            assert wrong == 0, (name, kind, depth)
            assert not reason or any(text in reason for text in REFUSALS)
            seen += not reason
    assert seen >= 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["int17:saturate,every=mac", "int16:saturate,every=7", "int15:wrap", "e4m3", "e5m3:fused"]
)
def test_hard_data_for_registers_that_overflow_equals_fractions(name: str, kind: str) -> None:
    a, b = encoded(("int8:token", "int8"), kind, 30, seed=9)
    assert differs(a, b, get_accumulator(name)) == 0


def test_a_partial_last_block_equals_fractions() -> None:
    for pair in (("mxfp4", "mxfp8_e4m3"), ("nvfp4", "bfp8")):
        for name in ("exact", "block:bf16", "block:fp16,size=8", "int40:saturate,every=mac"):
            a, b = encoded(pair, "spread", 77, seed=3)
            assert a.shape[1] % 32
            assert differs(a, b, get_accumulator(name)) == 0


def test_batches_equal_their_matrices_and_mark_overflows_in_place() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(0.2, 1, (2, 3, 8, 40)).astype(np.float32)
    fmt, scale = get_format("int8"), np.float32(1 / 127)
    for name in (
        "int16:saturate,every=mac",
        "int16:saturate,every=8",
        "int16:wrap",
        "e5m6",
        "block:bf16,size=8",
        "exact",
    ):
        report = GemmReport(locate=True)
        whole = gemm(fmt.encode(x, scale=scale), fmt.encode(x, scale=scale), name, report)
        assert whole.shape == (2, 3, 8, 8)
        assert report.where is not None
        assert report.where.shape == whole.shape
        total = 0
        for i in np.ndindex(2, 3):
            single = GemmReport(locate=True)
            part = gemm(fmt.encode(x[i], scale=scale), fmt.encode(x[i], scale=scale), name, single)
            np.testing.assert_array_equal(whole[i], part)
            assert single.where is not None
            np.testing.assert_array_equal(report.where[i], single.where)
            total += single.overflows
        assert report.overflows == total


# -- one processing element ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["int16:wrap", "int16:saturate", "int16:saturate,every=mac", "int16:saturate,every=5", "exact"]
)
def test_steps_of_an_integer_register_equal_the_definition(name: str) -> None:
    rng = np.random.default_rng(0)
    accumulator = get_accumulator(name)
    for _ in range(100):
        products = rng.integers(-16129, 16130, rng.integers(1, 30)).tolist()
        state = accumulator.initial()
        for product in products:
            state = accumulator.step(state, product)
        want = (
            reference.integer(products, accumulator)[0]
            if isinstance(accumulator, IntegerAccumulator)
            else reference.exact(products)
        )
        assert accumulator.final(state) == want


@pytest.mark.parametrize("name", ["fp32", "e5m10", "e8m7:toward_zero", "e5m4:fused"])
def test_steps_of_a_float_register_equal_the_product_of_one_row(name: str) -> None:
    a, b = encoded(("fp8_e4m3", "fp8_e4m3"), "spread", 40, seed=1)
    accumulator = get_accumulator(name)
    state = accumulator.initial()
    x, y = a.operand(), b.operand()
    unit = Fraction(2) ** (x.unit_exponent + y.unit_exponent)
    for left, right in zip(x.units[0].tolist(), y.units[0].tolist(), strict=True):
        state = accumulator.step(state, Fraction(left) * Fraction(right) * unit)
    scale = x.scales[0, 0] * np.float32(1)
    want = np.float32(float(state)) * scale * y.scales[0, 0]
    assert gemm(a, b, accumulator)[0, 0] == want


def test_a_register_that_no_single_element_holds_says_so() -> None:
    with pytest.raises(MacloomError, match="accumulator 'block:bf16': has no step form"):
        get_accumulator("block:bf16").initial()
    with pytest.raises(MacloomError, match="has no step form"):
        get_accumulator("block:bf16").step(0, 1)
    with pytest.raises(MacloomError, match="accumulator 'int8:error,every=mac': 300 overflows 8 bits"):
        get_accumulator("int8:error,every=mac").step((0, 0, 0), 300)
    with pytest.raises(MacloomError, match="accumulator 'e4m3': the register becomes infinite"):
        get_accumulator("e4m3").step(Fraction(0), Fraction(1000))


def test_names_read_back_as_equal_records() -> None:
    for family in FAMILIES:
        for text in FAMILIES.get(family).examples:
            accumulator = get_accumulator(text)
            assert get_accumulator(accumulator.name) == accumulator


def test_dynamic_fixed_point_equals_the_worked_example() -> None:
    a = get_format("dfp16:spill=0").encode(np.array([[0.75, -1.9, 0.001]], np.float32))
    b = get_format("dfp16:spill=0").encode(np.array([[12, -3, 100]], np.float32))
    assert gemm(a, b, "dfp16:spill=2")[0, 0] == np.float32(62_066_176 * 2.0**-22)
    assert reference.spill([12288 * 3072, -31130 * -768, 16 * 25600], 2) == 62_066_176
    # The bound on the length of a chain is tight: two products of the largest magnitude fit, a third does not.
    one = np.ones((1, 3), np.float32)
    largest = get_format("dfp16:spill=0").encode(one * np.float32(1.9999999))
    reports = [GemmReport(), GemmReport()]
    gemm(largest, largest, "dfp16:spill=2", reports[0])
    gemm(largest, largest, "dfp16:spill=3", reports[1])
    assert [r.overflows for r in reports] == [0, 1]


def test_the_verifier_finds_nothing_on_a_sample() -> None:
    for count, check in enumerate(checks(Options(seed=5))):
        assert getattr(check, "mismatches", 1) == 0
        if count > 3:
            break
