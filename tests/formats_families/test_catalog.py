"""The families' catalog names: storage, options and exact products."""

# Lists stand for arrays and strings for enumerations; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from macloom.formats import ExactAccumulator, FloatAccumulator, format_entry, gemm, get_format, list_formats

NAMES = {
    "posit8_0": 8, "posit8_1": 8, "posit8_2": 8, "posit16_1": 16, "posit16_2": 16, "pot4": 4, "apot4": 4, "lns8": 8,
    "log4": 4, "logsqrt4": 4, "twinlog4": 4, "tan4": 4, "hif8": 8, "adaptivfloat8": 8, "nf4": 4, "fp4_bnb": 4,
    "af4": 4, "ternary": 2, "binary": 1,
}  # fmt: skip
ONE_SIDED = {"log4", "logsqrt4", "tan4"}


def data(name: str, shape: tuple[int, ...] = (6, 128), seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.abs(x) / np.abs(x).max() if name in ONE_SIDED else x


@pytest.mark.parametrize("name", NAMES)
def test_names_are_listed_with_a_source(name: str) -> None:
    assert name in list_formats()
    entry = format_entry(name)
    assert entry.source
    assert entry.summary
    fmt = get_format(name)
    assert get_format(fmt.name) == fmt
    assert fmt.element.bits == NAMES[name]


@pytest.mark.parametrize("name", NAMES)
def test_stored_tensors_read_back(name: str) -> None:
    fmt, x = get_format(name), data(name)
    encoded = fmt.encode(x)
    values = encoded.decode()
    np.testing.assert_array_equal(values, fmt.quantize(x))
    back = fmt.from_packed(encoded.codes, encoded.scales, x.shape)
    np.testing.assert_array_equal(back.decode(), values)
    assert encoded.bits == fmt.storage_bits(x.shape) == encoded.codes.size * 8 + fmt.scale_bits(x.shape)
    out = x.copy()
    fmt.quantize(out, scale=encoded.scales, out=out)
    np.testing.assert_array_equal(out, values)


@pytest.mark.parametrize("name", NAMES)
def test_a_known_scale_makes_quantizing_idempotent(name: str) -> None:
    fmt, x = get_format(name), data(name, seed=3)
    scale = fmt.calibrate(x)
    once = fmt.quantize(x, scale=scale)
    np.testing.assert_array_equal(fmt.quantize(once, scale=scale), once)


# Signal to quantization noise on normal data of 4096 elements, at least; a wrong scale rule loses far more.
FLOORS = {
    "posit8_0": 38, "posit8_1": 35, "posit8_2": 30, "posit16_1": 80, "posit16_2": 75, "pot4": 12, "apot4": 15,
    "lns8": 31, "twinlog4": 15, "hif8": 30, "adaptivfloat8": 30, "nf4": 19, "fp4_bnb": 16, "af4": 19, "ternary": 5,
    "binary": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", FLOORS)
def test_noise_on_normal_data(name: str) -> None:
    x = data(name, (16, 256), seed=1)
    noise = get_format(name).quantize(x) - x
    assert 10 * np.log10(np.square(x).sum() / np.square(noise).sum()) > FLOORS[name]


def real(name: str, seed: int) -> tuple[object, list[list[Fraction]], np.ndarray]:
    """An encoded 3 x 64 matrix, what multipliers see of it as fractions, and the scale of each row's segments."""
    encoded = get_format(name).encode(data(name, (3, 64), seed))
    operand = encoded.operand()
    unit = Fraction(2) ** operand.unit_exponent
    return encoded, [[Fraction(float(u)) * unit for u in row] for row in operand.units], operand.scales


# Sums of products of 16-bit posits with 2 exponent bits need more than the two registers of the exact sum.
@pytest.mark.parametrize("name", sorted(NAMES.keys() - {"posit16_2"}))
def test_products_are_exact_sums_rounded_once_then_scaled(name: str) -> None:
    a, left, scale_a = real(name, 1)
    b, right, scale_b = real(name, 2)
    expected = np.empty((3, 3), np.float32)
    for m in range(3):
        for n in range(3):
            total = sum((x * y for x, y in zip(left[m], right[n], strict=True)), Fraction(0))
            expected[m, n] = np.float32(float(total)) * scale_a[m, 0] * scale_b[n, 0]
    np.testing.assert_array_equal(gemm(a, b, ExactAccumulator()), expected)


@pytest.mark.parametrize("name", ["nf4", "lns8", "tan4", "twinlog4", "posit8_2"])
def test_the_float_accumulator_adds_in_order(name: str) -> None:
    a, left, scale_a = real(name, 5)
    b, right, scale_b = real(name, 6)
    total = np.float32(0)
    for x, y in zip(left[1], right[2], strict=True):
        total = np.float32(total + np.float32(float(x * y)))
    got = gemm(a, b, FloatAccumulator())[1, 2]
    assert got == np.float32(total * scale_a[1, 0]) * scale_b[2, 0]


def test_mixed_operands_multiply() -> None:
    a = get_format("int8:token").encode(data("int8", (2, 64)))
    b = get_format("nf4:channel").encode(data("nf4", (3, 64), 9))
    wanted = a.decode() @ b.decode().T
    np.testing.assert_allclose(gemm(a, b), wanted, rtol=2e-3, atol=2e-3)


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(data("nf4"))
    for name in ("nf4", "posit8_2", "twinlog4", "ternary"):
        got = get_format(name).quantize(x)
        assert isinstance(got, torch.Tensor)
        np.testing.assert_array_equal(got.numpy(), get_format(name).quantize(x.numpy()))
