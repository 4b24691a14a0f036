"""Double Rounding: one store, several widths, against exact fractions and the published shares."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import DoubleRounding, FloatFormat, IntFormat, gemm, get_format

ROUND = {
    "even": round,
    "up": lambda x: math.floor(x + Fraction(1, 2)),
    "truncate": math.floor,
}


@pytest.mark.parametrize("second", ROUND)
@pytest.mark.parametrize("read", [8, 6, 5, 4, 3, 2])
def test_a_read_rounds_the_stored_integer(read: int, second: str) -> None:
    fmt = get_format(f"dr8:read={read},second={second}")
    x = np.linspace(-1, 1, 509, dtype=np.float32).reshape(1, -1)
    encoded = fmt.encode(x)
    step = 1 << (8 - read)
    limit = 1 << (read - 1)
    scale = encoded.scales
    for v, code, unit, value in zip(
        x.flat, encoded.elements.flat, encoded.operand().units.flat, encoded.decode().flat, strict=True
    ):
        stored = round(Fraction(float(np.float32(v) / scale)))
        assert int(code) == stored % 256
        short = min(max(ROUND[second](Fraction(stored, step)), -limit), limit - 1)
        assert int(unit) == short
        assert value == np.float32(short) * (scale * np.float32(step))
    assert np.array_equal(fmt.quantize(x), encoded.decode())


def test_every_width_reads_the_same_store() -> None:
    x = np.random.default_rng(0).normal(size=(4, 33)).astype(np.float32)
    stores = [get_format(f"dr8:read={b},channel").encode(x) for b in (8, 6, 4, 2)]
    for other in stores[1:]:
        assert np.array_equal(other.codes, stores[0].codes)
        assert np.array_equal(other.scales, stores[0].scales)
        assert other.bits == stores[0].bits == get_format("int8:channel").storage_bits(x.shape)
    assert np.array_equal(stores[0].decode(), get_format("int8:channel").quantize(x))
    again = get_format("dr8:read=4,channel").from_packed(stores[0].codes, stores[0].scales, x.shape)
    assert np.array_equal(again.decode(), stores[2].decode())


@pytest.mark.parametrize("read, share", [(6, 12.4), (4, 2.95), (3, 1.4), (2, 0.59)])
def test_share_of_codes_that_differ_from_direct_rounding(read: int, share: float) -> None:
    x = np.linspace(-1, 1, 400001).astype(np.float32)
    scale = np.float32(1 / 127)
    limit = 1 << (read - 1)
    direct = np.clip(np.rint(x / (scale * (1 << (8 - read)))), -limit, limit - 1)
    fmt = get_format(f"dr8:read={read}")
    double = fmt.encode(x.reshape(1, -1), scale=scale).operand().units[0]
    assert 100 * np.mean(double != direct) == pytest.approx(share, rel=0.05)
    assert np.abs(double - direct).max() == 1
    cut = get_format(f"dr8:read={read},second=truncate").encode(x.reshape(1, -1), scale=scale).operand().units[0]
    assert 30 < 100 * np.mean(cut != direct) < 60
    assert (cut - direct).mean() < -0.3  # dropping bits is biased downwards


def test_products_use_the_read_width() -> None:
    rng = np.random.default_rng(1)
    a = get_format("int8:token").encode(rng.normal(size=(3, 40)).astype(np.float32))
    w = get_format("dr8:read=4,channel").encode(rng.normal(size=(5, 40)).astype(np.float32))
    units = a.operand().units.astype(np.int64) @ w.operand().units.astype(np.int64).T
    want = (units.astype(np.float32) * a.scales[:, None]) * (w.scales * np.float32(16))[None, :]
    assert np.array_equal(gemm(a, w), want)
    fmt = get_format("dr8:read=4")
    assert (fmt.max_unit, fmt.operand.significand_bits, fmt.decoder_bits, fmt.code_bits) == (8, 4, 8, 8)
    assert get_format("dr8").decoder_bits == 0


def test_bad_input_is_refused() -> None:
    for call, message in [
        (lambda: get_format("dr8:read=9"), "dr.read: must be from 2 to 8 bits, not 9"),
        (lambda: get_format("dr8:second=odd"), "unknown name 'odd'"),
        (
            lambda: DoubleRounding(name="x", element=FloatFormat(label="f", exponent_bits=2, mantissa_bits=1)),
            "dr.element",
        ),
        (
            lambda: DoubleRounding(name="x", element=IntFormat(width=8, symmetric=False)),
            "dr.element: must be symmetric",
        ),
    ]:
        with pytest.raises(MacloomError, match=message):
            call()


def test_policies_round_the_stored_integer() -> None:
    x = np.linspace(-1, 1, 300, dtype=np.float32).reshape(3, -1)
    cut = get_format("dr8:read=4,rounding=toward_zero")
    assert np.array_equal(cut.quantize(x), cut.encode(x).decode())
    assert np.array_equal(cut.encode(x).elements, get_format("int8:rounding=toward_zero").encode(x).elements)
