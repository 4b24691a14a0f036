"""Every message about accumulators and products that a user can run into."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Encoded, GemmReport, IntegerAccumulator, gemm, get_accumulator, get_format


def encode(name: str, rows: int = 2, columns: int = 64) -> Encoded:
    rng = np.random.default_rng(0)
    return get_format(name).encode(rng.normal(size=(rows, columns)).astype(np.float32))


@pytest.mark.parametrize(
    "text, message",
    [
        ("int20:saturate,every=0", "accumulator.every: must be 'mac', 'end' or a positive number of products, not 0"),
        (
            "int20:saturate,every=never",
            "accumulator.every: must be 'mac', 'end' or a positive number of products, not 'n",
        ),
        (
            "int20:saturate,each=mac",
            r"accumulator: must be 'intN\[:wrap|saturate|error\]\[,every=mac|end|K\]', not 'int20",
        ),
        ("int20:clamp", "accumulator overflow: unknown name 'clamp'"),
        ("integer", "accumulator: must be one of 'exact', 'eXmY"),
        ("intN", r"accumulator: must be 'intN\["),
        ("e9m3", "accumulator: a float register has 2 to 8 exponent bits and 1 to 23 mantissa bits, not e9m3"),
        ("e5m0", "a float register has 2 to 8 exponent bits and 1 to 23 mantissa bits, not e5m0"),
        ("e5m10:toward_one", "accumulator option: unknown name 'toward_one'; did you mean 'toward_zero'?"),
        ("e5", r"accumulator: must be 'eXmY\[:ROUNDING\]"),
        ("fp8", r"accumulator: must be 'eXmY"),
        ("block", r"accumulator: must be 'block:fp32\|bf16"),
        ("block:bf16,size=", r"accumulator: must be 'block:"),
        ("block:bf16,size=0", "accumulator.size: must be a positive integer, not 0"),
        ("block:bf16,inner=fp16", r"accumulator: must be 'intN\["),
        ("block:e5m10:fused", "accumulator.outer: adds sums of blocks, not products: 'e5m10:fused' must not be fused"),
        ("dfp16:spill=x", r"accumulator: must be 'dfpP\[:spill=L\]"),
        ("dfp:spill=2", r"accumulator: must be 'dfpP\[:spill=L\]"),
        ("dfp16:spill=0", "accumulator.spill: must be a positive integer, not 0"),
        ("dfp20:spill=1", "accumulator.width: must be from 2 to 16 bits, not 20"),
    ],
)
def test_bad_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_accumulator(text)


def test_a_stochastic_register_is_refused() -> None:
    from macloom.formats import SmallFloatAccumulator
    from macloom.formats.policy import Rounding

    with pytest.raises(MacloomError, match="accumulator rounding: unknown name 'stochastic'"):
        SmallFloatAccumulator(rounding=Rounding.STOCHASTIC)


def test_a_register_narrower_than_one_product_names_both_operands_and_what_fits() -> None:
    with pytest.raises(
        MacloomError,
        match="gemm: accumulator 'int12:wrap' is narrower than products of 'int8' and 'ovp4': 'int15' holds one, "
        "'int21' any sum of 64",
    ):
        gemm(encode("int8"), encode("ovp4"), "int12")
    assert gemm(encode("int8"), encode("ovp4"), "int15:error").shape == (2, 2)
    with pytest.raises(
        MacloomError,
        match="'int32:wrap' is narrower than products of 'posit16_1' and 'fp16': 'int97' holds one, 'int103' any sum "
        "of 64",
    ):
        gemm(encode("posit16_1"), encode("fp16"), "int32")


def test_zero_points_need_the_width_of_the_difference() -> None:
    message = (
        "'int16:wrap' is narrower than products of 'affine8' and 'affine8': 'int17' holds one, 'int23' any sum of 64"
    )
    with pytest.raises(MacloomError, match=message):
        gemm(encode("affine8"), encode("affine8"), "int16")
    gemm(encode("affine8"), encode("affine8"), "int17")


def test_formats_without_a_common_integer_unit_are_refused_by_integer_registers() -> None:
    with pytest.raises(
        MacloomError,
        match="gemm: accumulator 'int32:wrap' needs integers, and products of 'bf16' and 'int8' have no common "
        "integer unit within 120 bits; use 'exact', 'fp32' or a float register",
    ):
        gemm(encode("bf16"), encode("int8"), "int32")


def test_int64_has_no_room_for_wider_sums() -> None:
    accumulator, operand = get_accumulator("int65"), encode("int8").operand()
    assert isinstance(accumulator, IntegerAccumulator)
    with pytest.raises(MacloomError, match="'int65:wrap': int64 has no room for its 65 bits; use 64 or less"):
        accumulator.sums(operand, operand, GemmReport())


def test_overflow_with_the_policy_error_counts_the_sums() -> None:
    ones = get_format("int8").encode(np.ones((3, 64), np.float32))
    for every in ("end", "mac", "16"):
        with pytest.raises(
            MacloomError,
            match="gemm: 9 of 9 sums overflow the 16-bit accumulator; widen it or choose 'wrap' or 'saturate'",
        ):
            gemm(ones, ones, f"int16:error,every={every}")


def test_a_sum_that_overflows_on_the_way_is_an_error_only_where_the_register_would_notice() -> None:
    row = np.array([[1, 1, 1, -1, -1]], np.float32)
    a, b = get_format("int8").encode(row), get_format("int8").encode(np.ones((1, 5), np.float32))
    gemm(a, b, "int16:error")
    with pytest.raises(MacloomError, match="1 of 1 sums overflow the 16-bit accumulator"):
        gemm(a, b, "int16:error,every=mac")


def test_codes_that_are_no_numbers_are_refused_with_both_operands() -> None:
    for name, code in (("fp8_e4m3", 0x7F), ("fp8_e5m2", 0x7C), ("mxfp8_e5m2", 0x7E)):
        fmt = get_format(name)
        good = encode(name)
        elements = good.elements.copy()
        elements[1, 5] = code
        bad = Encoded(fmt, good.shape, elements, good.scales, good.outer)
        for accumulator in ("exact", "fp32", "e5m10", "block:bf16"):
            with pytest.raises(
                MacloomError,
                match=f"gemm: 1 codes of '{name}' \\(in the product of '{name}' and 'int8'\\) are NaN or infinite",
            ):
                gemm(bad, encode("int8"), accumulator)


def test_what_is_not_an_operand_or_an_accumulator_is_refused() -> None:
    good = encode("int8")
    cases: list[tuple[Any, Any, str]] = [(np.ones((2, 64)), good, "a"), (good, [[1]], "b")]
    for a, b, name in cases:
        with pytest.raises(
            MacloomError, match=rf"gemm.{name}: must be an encoded tensor, not (ndarray|list); use get_f"
        ):
            gemm(a, b)
    for wrong in (32, 0, GemmReport()):
        with pytest.raises(
            MacloomError, match="gemm.accumulator: must be a name such as 'int32' or an Accumulator, no"
        ):
            gemm(good, good, wrong)  # type: ignore[arg-type]


def test_shapes_name_both_operands() -> None:
    with pytest.raises(MacloomError, match=r"\(2, 64\) \('int8'\) and \(2, 32\) \('mxfp4'\)"):
        gemm(encode("int8"), encode("mxfp4", columns=32))


def test_dynamic_fixed_point_refuses_wider_operands_and_pieces_that_do_not_fit() -> None:
    with pytest.raises(MacloomError, match="'dfp8:spill=4' multiplies 8-bit integers, and 'dfp16' .* needs 16 bits"):
        gemm(encode("dfp16"), encode("dfp8"), "dfp8:spill=4")
    with pytest.raises(
        MacloomError,
        match="gemm: 'block:fp32,size=12' cuts blocks of 32 elements .* into pieces of 12; choose a size that",
    ):
        gemm(encode("mxfp4"), encode("mxfp4"), "block:fp32,size=12")
