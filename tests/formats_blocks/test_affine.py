"""Affine integers and dual-grained quantization against exact fractions and integer sums."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Affine, DualGrained, Encoded, GemmReport, Granularity, gemm, get_format
from macloom.formats.scales import Grain

SPECS = [
    "affine4",
    "affine2:token",
    "affine8:group=8",
    "affine4:group=8,scale=bf16",
    "affine3:axis=0",
    "affine16:channel",
]


def data(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(3, size=shape) + rng.normal(size=(*shape[:-1], 1))).astype(np.float32)


def round_half_even(x: Fraction) -> int:
    return round(x)  # Python rounds fractions to even


def code_by_definition(x: Any, scale: Any, zero: Any, width: int) -> int:
    quotient = Fraction(float(np.float32(x) / np.float32(scale)))
    return min(max(round_half_even(quotient) + int(zero), 0), (1 << width) - 1)


def spread(fmt: Affine, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Scale and zero point of every element, by indexing alone."""
    out = np.empty((*shape, 2), np.float32)
    for index in np.ndindex(*shape):
        match fmt.granularity.grain:
            case Grain.TENSOR:
                key: tuple[int, ...] = ()
            case Grain.ROW:
                key = index[:-1]
            case Grain.GROUP:
                key = (*index[:-1], index[-1] // (fmt.granularity.size or 1))
            case _:
                key = (index[fmt.granularity.axis or 0],)
        out[index] = scale[key]
    return out


@pytest.mark.parametrize("name", SPECS)
def test_codes_and_values_follow_the_definition(name: str) -> None:
    fmt = get_format(name)
    assert isinstance(fmt, Affine)
    x = data(5, 24)
    encoded = fmt.encode(x)
    per_element = spread(fmt, fmt.calibrate(x), x.shape)
    for index in np.ndindex(*x.shape):
        scale, zero = per_element[index]
        code = code_by_definition(x[index], scale, zero, fmt.width)
        assert int(encoded.elements[index]) == code
        assert encoded.decode()[index] == np.float32(code - int(zero)) * scale
    assert np.array_equal(fmt.quantize(x), encoded.decode())


def test_scale_and_zero_point_cover_the_range_and_zero() -> None:
    fmt = get_format("affine4")
    for low, high in [(-3.0, 12.0), (2.0, 30.0), (-45.0, -15.0), (0.0, 0.0)]:
        scale, zero = fmt.calibrate(np.array([low, high], np.float32))
        low, high = min(low, 0.0), max(high, 0.0)
        assert scale == (np.float32((high - low) / 15) if high > low else 1)
        assert zero == round(-low / float(scale))


@pytest.mark.parametrize("name", SPECS)
def test_zero_is_exact_and_quantization_is_idempotent(name: str) -> None:
    fmt = get_format(name)
    x = data(4, 16, seed=3)
    x[:, ::3] = 0
    scale = fmt.calibrate(x)
    once = fmt.quantize(x, scale)
    assert np.all(once[:, ::3] == 0)
    assert np.array_equal(fmt.quantize(once, scale), once)


def test_error_is_half_a_step_inside_the_range() -> None:
    fmt = get_format("affine8")
    x = data(40, 40)
    scale, _ = fmt.calibrate(x)
    # Zero point and value are rounded independently, so that an end may move by up to half a step.
    assert np.abs(fmt.quantize(x) - x).max() <= float(scale) * (1 + 1e-5)
    inside = np.abs(x) < 0.95 * np.abs(x).max()
    assert np.abs(fmt.quantize(x) - x)[inside & (x > x.min() * 0.95)].max() <= float(scale) * 0.5 * (1 + 1e-5)


def test_a_group_as_long_as_the_row_is_the_row() -> None:
    x = data(6, 32)
    assert np.array_equal(
        get_format("affine4:group=32,scale=fp32").quantize(x), get_format("affine4:token").quantize(x)
    )


def test_storage_counts_scales_and_zero_points() -> None:
    assert get_format("affine4:group=128").storage_bits((2, 256)) == 2 * (256 * 4 + 2 * (16 + 4))
    assert get_format("affine4:group=128,zero_bits=16").storage_bits((2, 256)) == 2 * (256 * 4 + 2 * (16 + 16))
    assert get_format("affine8").storage_bits((3, 5)) == 3 * 40 + 32 + 8
    assert get_format("dgq4").bits_per_element() == pytest.approx(4 + 8 / 128 + 16 / 4096)


def integer_product(a: Encoded, b: Encoded, za: np.ndarray, zb: np.ndarray) -> np.ndarray:
    """Sum of (qa - za) * (qb - zb) in Python integers; zero points per row."""
    out = np.empty((a.shape[0], b.shape[0]), object)
    for m in range(a.shape[0]):
        for n in range(b.shape[0]):
            pairs = zip(a.elements[m].tolist(), b.elements[n].tolist(), strict=True)
            out[m, n] = sum((p - int(za[m])) * (q - int(zb[n])) for p, q in pairs)
    return out


@pytest.mark.parametrize(
    "names",
    [("affine8:token", "affine4:channel"), ("affine8:token", "int4:channel"), ("int8:token", "affine8:channel")],
)
def test_gemm_is_the_exact_integer_product(names: tuple[str, str]) -> None:
    formats = [get_format(n) for n in names]
    a, b = (f.encode(data(4, 37, seed=s)) for s, f in enumerate(formats))
    units = [e.operand().centred().units.astype(np.int64) for e in (a, b)]
    want = units[0] @ units[1].T
    if all(isinstance(f, Affine) for f in formats):
        assert np.array_equal(want, integer_product(a, b, a.scales[:, 1], b.scales[:, 1]))
    sa, sb = a.operand().scales[:, 0], b.operand().scales[:, 0]
    scaled = (want.astype(np.float32) * sa[:, None]) * sb[None, :]
    for accumulator in (None, "exact"):
        assert np.array_equal(gemm(a, b, accumulator), scaled)


@pytest.mark.parametrize(
    "names",
    [("affine4:group=8", "affine4:group=16"), ("affine8:token", "affine4:group=8"), ("affine4:group=8", "mxint8")],
)
def test_gemm_with_groups_adds_scaled_segments(names: tuple[str, str]) -> None:
    a, b = (get_format(n).encode(data(5, 32, seed=s)) for s, n in enumerate(names))
    got = gemm(a, b)
    oa, ob = a.operand(), b.operand()
    ca, cb = oa.centred(), ob.centred()
    total = np.zeros(got.shape, np.float32)
    unit = np.float32(2.0 ** (oa.unit_exponent + ob.unit_exponent))
    for start in range(0, 32, 8):
        part = slice(start, start + 8)
        inner = (ca.units[:, part].astype(np.int64) @ cb.units[:, part].astype(np.int64).T).astype(np.float32) * unit
        inner = (inner * oa.scales[:, start // oa.block, None]) * ob.scales[None, :, start // ob.block]
        total = total + inner
    assert np.array_equal(got, total)
    assert np.array_equal(gemm(a, b, "exact"), total)
    assert np.allclose(gemm(a, b, "fp32"), got, rtol=1e-4, atol=1e-3 * np.abs(got).max())


def test_zero_points_do_not_change_what_the_register_holds() -> None:
    x = np.full((1, 300), 255, np.float32)
    scale = np.array([1.0, 0.0], np.float32)
    a = get_format("affine8").encode(x, scale=scale)
    half = get_format("affine8").encode(x - 127, scale=np.array([1.0, 127.0], np.float32))
    report = GemmReport()
    assert gemm(a, a, "int17:wrap", report)[0, 0] == (255 * 255 * 300 + (1 << 16)) % (1 << 17) - (1 << 16)
    assert report.overflows == 1
    # The raw sum of the second product needs 25 bits, the corrected one 23.
    assert gemm(half, half, "int24:error")[0, 0] == 128 * 128 * 300
    with pytest.raises(MacloomError, match="overflow the 22-bit accumulator"):
        gemm(half, half, "int22:error")


def test_batched_operands_broadcast_over_leading_axes() -> None:
    fmt = get_format("affine4:group=4")
    a, b = (fmt.encode(data(3, 2, 8, seed=s)) for s in (0, 1))
    got = gemm(a, b)
    for i in range(3):
        single = [Encoded(fmt, (2, 8), e.elements[i], e.scales[i]) for e in (a, b)]
        assert np.array_equal(got[i], gemm(single[0], single[1]))


def test_dual_grained_integers_equal_the_decoded_floats() -> None:
    fmt = get_format("dgq4:group=16")
    x = data(6, 64) * np.array([[1], [0.01], [300], [1], [1e-3], [7]], np.float32)
    encoded = fmt.encode(x)
    operand = encoded.operand()
    assert np.abs(operand.units).max() <= 120
    assert operand.scales.shape == (6, 1)
    assert operand.block == 64
    row, group, zero = np.moveaxis(encoded.scales, -1, 0)
    for index in np.ndindex(*x.shape):
        g = index[0], index[1] // 16
        code = code_by_definition(x[index], row[g] * group[g], zero[g], 4)
        w8 = (code - int(zero[g])) * int(group[g])
        assert int(operand.units[index]) == w8
        assert Fraction(float(encoded.decode()[index])) == w8 * Fraction(float(row[g]))
    assert np.array_equal(fmt.quantize(x), encoded.decode())


def test_dual_grained_gemm_is_one_integer_product_per_row() -> None:
    a, w = get_format("int8:token").encode(data(3, 64)), get_format("dgq4:group=16").encode(data(5, 64, seed=1))
    units = [e.operand().units.astype(np.int64) for e in (a, w)]
    scales = [e.operand().scales[:, 0] for e in (a, w)]
    want = ((units[0] @ units[1].T).astype(np.float32) * scales[0][:, None]) * scales[1][None, :]
    assert np.array_equal(gemm(a, w), want)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: get_format("affine4:zero_bits=2"), "affine.zero_bits: must be from 4 to 32, not 2"),
        (lambda: get_format("affine4:none"), "affine.granularity: must name what shares a scale"),
        (lambda: get_format("affine4").encode([1.0], scale=[1.0]), "must hold a scale and a zero point"),
        (lambda: get_format("affine4").encode([1.0], scale=[1.0, 2.5]), "zero points must be integers from 0 to 15"),
        (lambda: get_format("affine4").encode([1.0], scale=[1.0, 16.0]), "zero points must be integers from 0 to 15"),
        (lambda: get_format("affine4").encode([1.0], scale=[-1.0, 3.0]), "must be positive and finite"),
        (lambda: get_format("affine4").encode([np.nan]), "holds NaN"),
        (lambda: get_format("affine4").calibrate([1.0], clip=0), "clip: must be positive"),
        (lambda: get_format("affine4:axis=1").encode(np.ones((2, 4))).operand(), "changes along the reduction axis"),
        (lambda: get_format("affine4:group=3").encode(np.ones((2, 4))), "group size 3 does not divide"),
        (lambda: get_format("dgq4").encode([1.0], scale=[[1.0, 1.0]]), "row scale, group scale and zero point"),
        (lambda: get_format("dgq4").encode([1.0], scale=[[1.0, 9.0, 0.0]]), "scales must be integers from 1 to 8"),
        (lambda: get_format("dgq4").encode([1.0], scale=[[0.1, 1.0, 0.0]]), "a row must have one scale, a float16"),
        (lambda: DualGrained(name="x", top=17), "dgq.top: must be from 1 to 16, which 4 bits hold, not 17"),
        (lambda: DualGrained(name="x", granularity=Granularity(grain=Grain.ROW)), "must be 'group'"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        call()  # type: ignore[operator]
