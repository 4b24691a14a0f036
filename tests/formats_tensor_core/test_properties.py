"""What truncation does to sums: witnesses of what docs/tensor-cores.md says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from macloom.formats import gemm, get_format
from macloom.formats.tensor import Encoded

DEVICES = ["volta-fp16", "ampere-fp16", "hopper-fp16", "blackwell-fp16"]
FP8 = ["tc:hopper-fp8", "tc:ada-fp8", "tc:hopper-fp8,promote=128", "tc:blackwell-fp8"]


def _encode(name: str, x: np.ndarray) -> Encoded:
    """Return values that the format holds exactly, without a scale."""
    x = np.atleast_2d(x).astype(np.float32)
    encoded = Encoded(get_format(name), x.shape, get_format(name).element.encode(x), np.ones((), np.float32))
    assert np.array_equal(encoded.decode(), x)
    return encoded


def _dot(accumulator: str, name: str, a: np.ndarray, b: np.ndarray) -> float:
    return float(gemm(_encode(name, a), _encode(name, b), accumulator)[0, 0])


@pytest.mark.parametrize("preset, bits", [("volta-fp16", 23), ("ampere-fp16", 24), ("hopper-fp16", 25)])
def test_a_larger_factor_gives_a_smaller_sum(preset: str, bits: int) -> None:
    # The others' products, 2**-(bits + 1), are cut off beside 1 and not beside the next smaller half-precision number.
    block = {23: 4, 24: 8, 25: 16}[bits]
    count = block * (2 ** (bits + 1 - 11) // block + 2)
    a, b = np.full(count, 2.0**-12), np.full(count, 2.0 ** (11 - bits))
    a[0], b[0] = 1.0, 1.0
    smaller = a.copy()
    smaller[0] = 1 - 2.0**-11
    assert _dot(f"tc:{preset}", "fp16", a, b) == 1.0
    assert _dot(f"tc:{preset}", "fp16", smaller, b) > 1.0


@pytest.mark.parametrize("preset", DEVICES)
def test_the_order_of_products_matters(preset: str) -> None:
    a = np.zeros(64)
    a[0], a[20], a[40] = 4096.0, 2.0**-14, -4096.0
    b = np.full(64, 1.0)
    b[0] = b[40] = 4096.0
    late = np.r_[a[:20], a[21:], a[20]], np.r_[b[:20], b[21:], b[20]]
    assert _dot(f"tc:{preset}", "fp16", a, b) == 0
    assert _dot(f"tc:{preset}", "fp16", *late) == 2.0**-14
    assert _dot("exact", "fp16", a, b) == _dot("exact", "fp16", *late) == 2.0**-14


@pytest.mark.parametrize("preset", DEVICES)
def test_sums_of_positive_products_are_never_too_large(preset: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (get_format("fp16").encode(rng.random((16, 512))) for _ in range(2))
    exact = a.decode().astype(np.float64) @ b.decode().astype(np.float64).T
    error = gemm(a, b, f"tc:{preset}") - exact
    assert (error <= 0).all()
    assert (error < 0).mean() > 0.9
    nearest = gemm(a, b, "fp32") - exact
    assert abs(nearest.mean()) < 0.3 * abs(error.mean())


def test_fp8_sums_of_positive_products_lose_percents() -> None:
    rng = np.random.default_rng(0)
    a, b = (get_format("fp8_e4m3").encode(rng.random((16, 4096))) for _ in range(2))
    left, right = (x.decode().astype(np.float64) for x in (a, b))
    bias = {name: float((gemm(a, b, name) / (left @ right.T) - 1).mean()) for name in FP8}
    assert -0.09 < bias["tc:hopper-fp8"] < -0.06
    assert bias["tc:ada-fp8"] < bias["tc:hopper-fp8"]  # twice as many roundings
    assert -1e-3 < bias["tc:hopper-fp8,promote=128"] < -3e-4
    assert -2e-6 < bias["tc:blackwell-fp8"] < 0


def test_fp8_sums_of_both_signs_are_biased_toward_zero() -> None:
    rng = np.random.default_rng(0)
    a, b = (get_format("fp8_e4m3").encode(rng.standard_normal((64, 1024))) for _ in range(2))
    left, right = (x.decode().astype(np.float64) for x in (a, b))
    exact = left @ right.T
    bias = {name: float(((gemm(a, b, name) - exact) * np.sign(exact)).mean()) for name in [*FP8, "fp32"]}
    assert all(bias[name] < 0 for name in FP8)
    assert bias["tc:hopper-fp8"] < 10 * bias["tc:blackwell-fp8"]
    assert abs(bias["fp32"]) < 0.5 * abs(bias["tc:blackwell-fp8"])


def test_instructions_of_one_device_disagree() -> None:
    # sm_100: the running sum is aligned with the products (tcgen05) or added late in float32 (mma.sync). The second
    # block's sum, -2**16 + 2**-9, has one bit too many for float32.
    a, b = np.zeros(64), np.zeros(64)
    a[0], b[0], a[32], b[32], a[33], b[33] = 256.0, 256.0, 2.0**-9, 1.0, -256.0, 256.0
    assert _dot("tc:blackwell-fp8", "fp8_e4m3", a, b) == 2.0**-9
    assert _dot("tc:blackwell-fp8-sync", "fp8_e4m3", a, b) == 2.0**-8


def test_the_oracles_differ_only_where_fp8_cannot_show_it(cases: Any) -> None:
    # mmasim says -133 and mmaemu -132 for Hopper's FP8; its products have exponents of at least -32.
    rng = np.random.default_rng(1)
    for mode in cases.MODES:
        a, b = (cases.encoded("fp8_e5m2", cases.codes(rng, "fp8_e5m2", (16, 96), mode)) for _ in range(2))
        assert cases.equal(gemm(a, b, "tc:hopper-fp8"), gemm(a, b, "tc:hopper-fp8,lowest=-132")).all()
