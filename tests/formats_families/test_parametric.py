"""Names that take widths as options: every width of issue and standard, and TF32 and learned tables beside them."""

# Lists stand for arrays; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import (
    AdaptivFloat,
    AdditivePowerOfTwo,
    Flint,
    FloatFormat,
    IntFormat,
    LearnedTable,
    LogFormat,
    Posit,
    PowerOfTwo,
    Specials,
    TanFormat,
    UnitLog,
    fit_codebook,
    gemm,
    get_format,
)
from macloom.formats.tensors.tf32 import TF32, OperandRounding, Tf32, round_tf32


@pytest.mark.parametrize("bits", range(2, 17))
def test_integers_of_2_to_16_bits(bits: int) -> None:
    assert get_format(f"int:bits={bits}").element == IntFormat(width=bits)
    assert get_format(f"int:bits={bits},signed=no").element == IntFormat(width=bits, signed=False)
    full = get_format(f"int:bits={bits},range=full").element
    assert full.min_value == -(2 ** (bits - 1))
    assert get_format(f"affine{bits}").element == IntFormat(width=bits, signed=False)
    assert get_format(f"int:bits={bits}").storage_bits((4, 64)) == 4 * 64 * bits + 32


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_full_range_integers_divide_by_2_to_the_bits_less_1(bits: int) -> None:
    """s = amax / 2**(b-1), q = clip(rint(x / s), -2**(b-1), 2**(b-1) - 1); both spellings, static and dynamic."""
    x = np.random.default_rng(bits).standard_normal((5, 96)).astype(np.float32)
    top = np.float32(2 ** (bits - 1))
    for grain, scale in (
        ("tensor", np.abs(x).max() / top),
        ("token", np.abs(x).max(axis=1, keepdims=True) / top),
    ):
        want = np.clip(np.rint(x / scale), -top, top - 1).astype(np.float32)
        for text in (f"int{bits}:range=full,{grain}", f"int:bits={bits},range=full,{grain}"):
            fmt = get_format(text)
            np.testing.assert_array_equal(fmt.quantize(x), want * scale)
            np.testing.assert_array_equal(fmt.quantize(x, scale=fmt.calibrate(x)), want * scale)
            np.testing.assert_array_equal(fmt.encode(x).elements, want.astype(np.int8).view(np.uint8) & (2**bits - 1))


FLOATS = [(e, m) for e in range(1, 9) for m in range(16) if 1 + e + m <= 16]


def test_floats_of_any_widths_up_to_16_bits() -> None:
    for e, m in FLOATS:
        element = get_format(f"float:exponent={e},mantissa={m}").element
        assert isinstance(element, FloatFormat)
        assert (element.exponent_bits, element.mantissa_bits, element.bits) == (e, m, 1 + e + m)


@pytest.mark.parametrize(
    "text, name",
    [
        ("exponent=4,mantissa=3,specials=fn", "fp8_e4m3"),
        ("exponent=5,mantissa=2,specials=ieee", "fp8_e5m2"),
        ("exponent=4,mantissa=3,specials=fnuz,bias=8", "fp8_e4m3fnuz"),
        ("exponent=2,mantissa=1", "fp4_e2m1"),
        ("exponent=5,mantissa=10,specials=ieee", "fp16"),
        ("exponent=8,mantissa=7,specials=ieee", "bf16"),
    ],
)
def test_floats_by_widths_have_the_values_of_their_names(text: str, name: str) -> None:
    np.testing.assert_array_equal(get_format(f"float:{text}").element.values, get_format(name).element.values)


def test_ue5m3_is_an_unsigned_float() -> None:
    element = get_format("float:exponent=5,mantissa=3,specials=ieee,signed=no").element
    assert element == FloatFormat(
        label="ue5m3ieee", exponent_bits=5, mantissa_bits=3, bias=15, specials=Specials.IEEE, signed=False
    )


def test_block_floating_point_of_any_mantissa_width() -> None:
    for bits in range(2, 17):
        fmt = get_format(f"bfp:bits={bits},block=16")
        assert fmt.element == IntFormat(width=bits, fraction_bits=bits - 2)
        assert fmt.bits_per_element() == bits + 8 / 16
    x = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    np.testing.assert_array_equal(get_format("bfp:bits=4,block=64").quantize(x), get_format("bfp12").quantize(x))
    assert get_format("bfp:bits=5,mantissa=asymmetric").element == IntFormat(width=5, fraction_bits=3, symmetric=False)


def test_other_families_take_their_widths() -> None:
    for bits, signed in itertools.product(range(3, 9), (True, False)):
        assert get_format(f"flint:bits={bits},signed={'yes' if signed else 'no'}").element == Flint(
            width=bits, signed=signed
        )
    assert get_format("pot:bits=6,domain=log").element == PowerOfTwo(width=6, domain="log")
    assert get_format("apot:bits=7").element == AdditivePowerOfTwo(width=7)
    assert get_format("lns:integer=5,fraction=2").element == LogFormat(integer_bits=5, fraction_bits=2)
    assert get_format("log:bits=6,fraction=1").element == UnitLog(width=6, fraction_bits=1)
    assert get_format("tan:bits=3,sides=two,a=0.5").element == TanFormat(width=3, a=0.5, sides="two")
    assert get_format("adaptivfloat:bits=6,exponent=3").element == AdaptivFloat(width=6, exponent_bits=3)
    assert get_format("twinlog4:bits=3").bits_per_element() == 3 + 64 / 4096
    for bits in range(3, 17):
        for es in range(3):
            assert get_format(f"posit:bits={bits},es={es}").element == Posit(width=bits, exponent_bits=es)


@pytest.mark.parametrize(
    "text, message",
    [
        ("int:bits=17", "int.width: must be an integer from 2 to 16, not 17"),
        ("int:signed=no,range=full", "format option range: belongs to signed integers"),
        ("float:exponent=8,mantissa=9", "must have at most 16 bits"),
        ("float:exponent=8,mantissa=23", "format option mantissa: must leave at most 16 bits in all, not 32; see tf32"),
        ("float:exponent=9", "float.exponent_bits: must be from 1 to 8, not 9"),
        ("float:specials=iee", "format option specials: unknown name 'iee'; did you mean 'ieee'"),
        ("flint:bits=9", "flint.width: must be an integer from 3 to 8, not 9"),
        ("posit:bits=8,es=5", "posit.exponent_bits: must keep the values"),
        ("tan:a=x", "format option a: must be a number, not 'x'"),
        ("kmeans:bits=9", "kmeans.width: must be an integer from 1 to 8, not 9"),
        ("tf32:round=odd", "format option round: unknown name 'odd'"),
    ],
)
def test_widths_that_do_not_exist(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_format(text)


# -- TF32 ------------------------------------------------------------------------------------------


def exact_tf32(x: float, rounding: OperandRounding) -> Fraction:
    """Round in fractions: 10 mantissa bits in the number's binade, subnormals in steps of 2**-136."""
    value = Fraction(abs(x))
    if not value:
        return Fraction(0)
    exponent = -126
    while Fraction(2) ** (exponent + 1) <= value:
        exponent += 1
    step = Fraction(2) ** (exponent - 10)
    whole, rest = divmod(value, step)
    up = {
        OperandRounding.NEAREST_AWAY: rest * 2 >= step,
        OperandRounding.NEAREST_EVEN: rest * 2 > step or (rest * 2 == step and whole % 2 == 1),
        OperandRounding.TOWARD_ZERO: False,
    }[rounding]
    rounded = min((whole + up) * step, Fraction(TF32.max_value))
    return rounded if x > 0 else -rounded


@pytest.mark.parametrize("rounding", list(OperandRounding))
def test_tf32_rounds_as_in_fractions(rounding: OperandRounding) -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 0x7F800000, 300, dtype=np.uint32) | rng.integers(0, 2, 300, dtype=np.uint32) << np.uint32(
        31
    )
    ties = (words & np.uint32(0xFFFFE000)) | np.uint32(0x1000)
    x = (
        np.concatenate((words, ties, [0, 1, 0x1000, 0x7F7FFFFF, 0xFF7FFFFF, 0x80000000]))
        .astype(np.uint32)
        .view(np.float32)
    )
    got = get_format(f"tf32:round={rounding.value}").quantize(x)
    assert [Fraction(float(v)) for v in got] == [exact_tf32(float(v), rounding) for v in x]
    np.testing.assert_array_equal(got.view(np.uint32) & np.uint32(0x1FFF), 0)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


def test_tf32_costs_a_word_and_multiplies_11_bits() -> None:
    fmt = get_format("tf32")
    assert isinstance(fmt, Tf32)
    assert fmt.storage_bits((3, 5)) == 15 * 32
    assert (fmt.operand.significand_bits, fmt.operand.exponent_bits) == (12, 8)
    x = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    encoded = fmt.encode(x)
    np.testing.assert_array_equal(encoded.decode(), round_tf32(x))
    np.testing.assert_array_equal(fmt.from_packed(encoded.codes, encoded.scales, x.shape).decode(), encoded.decode())
    want = encoded.decode().astype(np.float64) @ encoded.decode().astype(np.float64).T
    np.testing.assert_allclose(gemm(encoded, encoded), want, rtol=1e-5, atol=1e-5)
    with pytest.raises(MacloomError):
        fmt.quantize(np.float32([np.inf]))


# -- learned tables --------------------------------------------------------------------------------


def best_of_all(values: list[float], weights: list[float], count: int) -> float:
    """The least weighted squared error of any cut of the sorted values into `count` runs."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    v, w = [values[i] for i in order], [weights[i] for i in order]
    best = np.inf
    for cuts in itertools.combinations(range(1, len(v)), count - 1):
        error = 0.0
        for a, b in itertools.pairwise((0, *cuts, len(v))):
            mean = np.average(v[a:b], weights=w[a:b])
            error += float(np.sum(np.array(w[a:b]) * (np.array(v[a:b]) - mean) ** 2))
        best = min(best, error)
    return best


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [1, 2])
def test_learned_table_is_the_best_of_all_cuts(bits: int, weighted: bool) -> None:
    rng = np.random.default_rng(bits)
    x = rng.normal(size=(3, 9)).astype(np.float32)
    weights = rng.uniform(0.1, 3, x.shape).astype(np.float32) if weighted else np.ones_like(x)
    fmt = get_format(f"kmeans:bits={bits},per=row,table=fp32")
    assert isinstance(fmt, LearnedTable)
    tables = fmt.calibrate(x, weights=weights if weighted else None)
    for row, mass, table in zip(x, weights, tables, strict=True):
        error = float((mass * (row[:, None] - table).__pow__(2).min(axis=1)).sum())
        assert error == pytest.approx(best_of_all(row.tolist(), mass.tolist(), 1 << bits), rel=1e-4)


def test_learned_table_errs_no_more_than_lloyd() -> None:
    x = np.random.default_rng(3).standard_t(3, (16, 64)).astype(np.float32)
    own = np.square(get_format("kmeans:table=fp32").quantize(x) - x).sum()
    lloyd = np.square(fit_codebook(x, 4).quantize(x) - x).sum()
    assert own <= lloyd * (1 + 1e-6)


def test_learned_table_storage_codes_and_errors() -> None:
    x = np.random.default_rng(4).normal(size=(4, 30)).astype(np.float32)
    tensor, row = get_format("kmeans:bits=3"), get_format("kmeans:bits=3,per=row")
    assert tensor.storage_bits((4, 30)) == 4 * 96 + 8 * 16
    assert row.storage_bits((4, 30)) == 4 * 96 + 4 * 8 * 16
    encoded = row.encode(x)
    scales, codes = np.asarray(encoded.scales), encoded.elements
    np.testing.assert_array_equal(encoded.decode(), [[scales[r, c] for c in codes[r]] for r in range(4)])
    nearest = np.abs(x[:, :, None] - scales[:, None]).min(axis=2)
    np.testing.assert_allclose(np.abs(encoded.decode() - x), nearest)
    with pytest.raises(MacloomError, match=r"scale: must have shape \(4, 8\) for a tensor of \(4, 30\), not \(8,\)"):
        row.encode(x, scale=np.ones(8, np.float32))
    with pytest.raises(MacloomError, match="the tables of format .* must be finite and ascend"):
        tensor.encode(x, scale=np.arange(8, dtype=np.float32)[::-1].copy())
    assert isinstance(row, LearnedTable)
    with pytest.raises(
        MacloomError, match=r"weights: must be finite, not negative and of the tensor's shape \(4, 30\)"
    ):
        row.encode(x, weights=-np.ones((4, 30), np.float32))


def test_mutant_table_is_worse() -> None:
    """A table of evenly spaced quantiles is not the optimum that the definition asks for."""
    x = np.random.default_rng(5).standard_t(3, (8, 64)).astype(np.float32)
    fmt = get_format("kmeans:bits=3,table=fp32")
    wrong = np.quantile(x, (np.arange(8) + 0.5) / 8).astype(np.float32)
    assert np.square(fmt.quantize(x, scale=wrong) - x).sum() > 1.05 * np.square(fmt.quantize(x) - x).sum()
