"""BitStack: sign planes, prefixes and bits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from macloom.errors import MacloomError
from macloom.formats import BitStack, gemm, get_format
from macloom.formats.elements.codebook import Mode
from macloom.formats.tensors.bitstack import activation_scales


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["paper", "upstream"])
@pytest.mark.parametrize("shape", [(12, 20), (2, 9, 5), (7,)])
def test_planes_are_the_signs_of_what_is_left(shape: tuple[int, ...], mode: str) -> None:
    fmt = get_format(f"bitstack:planes=3,rank=4,mode={mode}")
    x = weights(*shape)
    factors = fmt.calibrate(x)
    encoded = fmt.encode(x)
    rows, columns = (1, *shape)[-2:]
    codes = encoded.elements.reshape(-1, rows, columns)
    for b, matrix in enumerate(x.reshape(-1, rows, columns).astype(np.float64)):
        rest, total = matrix, np.zeros_like(matrix)
        for p in range(3):
            signs = np.where(rest < 0, -1.0, 1.0)
            assert np.array_equal((codes[b] >> p) & 1, signs > 0)
            stored = encoded.scales[b, p].astype(np.float64)
            assert np.array_equal(stored, factors[b, p].astype(np.float16))
            used = stored if mode == "paper" else factors[b, p].astype(np.float64)
            rest = rest - signs * (used[:, :rows].T @ used[:, rows:])
            total = total + signs * (stored[:, :rows].T @ stored[:, rows:])
        got = encoded.decode().reshape(codes.shape)[b]
        assert np.allclose(got, total, rtol=1e-3, atol=1e-6)
        assert np.array_equal(got.astype(np.float16), got)
    assert np.array_equal(fmt.quantize(x), encoded.decode())


def test_every_plane_is_the_best_of_its_rank() -> None:
    x = weights(10, 14)
    for rank in (1, 3):
        factors = BitStack(name="b", planes=1, rank=rank).calibrate(x)[0, 0].astype(np.float64)
        error = np.square(np.abs(x) - factors[:, :10].T @ factors[:, 10:]).sum()
        singular = np.linalg.svd(np.abs(x.astype(np.float64)), compute_uv=False)
        assert error == pytest.approx(np.square(singular[rank:]).sum(), rel=1e-3)


def test_error_falls_with_every_plane() -> None:
    x = weights(32, 48)
    fmt = BitStack(name="b", planes=8, rank=4)
    encoded = fmt.encode(x)
    errors = [float(np.square(fmt.decode_prefix(encoded, n) - x).sum()) for n in range(1, 9)]
    assert all(later <= earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 0.1 * errors[0]
    short = BitStack(name="b", planes=3, rank=4)
    assert np.array_equal(short.quantize(x), fmt.decode_prefix(encoded, 3))


def test_full_rank_leaves_only_the_rounding() -> None:
    x = weights(6, 9)
    assert np.allclose(BitStack(name="b", planes=1, rank=6).quantize(x), x, rtol=0, atol=4e-3)
    two = BitStack(name="b", planes=2, rank=6).quantize(x)
    assert np.allclose(two, x.astype(np.float16), rtol=2e-3, atol=1e-5)


def test_bits_and_packing() -> None:
    assert get_format("bitstack:planes=1").storage_bits((4096, 4096)) / 4096**2 == 1.125
    assert get_format("bitstack:planes=16").storage_bits((4096, 4096)) / 4096**2 == 18
    fmt = get_format("bitstack:planes=2,rank=2")
    x = weights(3, 11)
    encoded = fmt.encode(x)
    for row, packed in zip(encoded.elements, encoded.codes, strict=True):
        for p in range(2):
            bits = "".join(str((int(c) >> p) & 1) for c in row) + "00000"
            assert packed[2 * p : 2 * p + 2].tolist() == [int(bits[:8], 2), int(bits[8:], 2)]
    again = fmt.from_packed(encoded.codes, encoded.scales, x.shape)
    assert np.array_equal(again.elements, encoded.elements)
    assert np.array_equal(again.decode(), encoded.decode())
    assert encoded.bits == encoded.codes.size * 8 + encoded.scales.size * 16


def test_products_multiply_half_precision_values() -> None:
    a, w = get_format("fp16").encode(weights(3, 16)), get_format("bitstack:rank=2").encode(weights(5, 16, seed=1))
    total = np.zeros((3, 5), np.float32)
    for k in range(16):
        total = total + a.decode()[:, None, k] * w.decode()[None, :, k]
    assert np.array_equal(gemm(a, w), total)


def test_zeros_and_extremes() -> None:
    fmt = get_format("bitstack")
    assert not np.any(fmt.quantize(np.zeros((4, 5), np.float32)))
    assert np.all(np.isfinite(fmt.quantize(np.full((4, 5), 3e38, np.float32))))
    assert np.all((fmt.encode(np.zeros((2, 2), np.float32)).elements & 1) == 1)  # the sign of zero is +


def test_bad_input_is_refused() -> None:
    fmt = get_format("bitstack:planes=2,rank=2")
    x = weights(4, 4)
    for call, message in [
        (lambda: get_format("bitstack:planes=17"), "bitstack.planes: must be from 1 to 16, not 17"),
        (lambda: get_format("bitstack:rank=0"), "bitstack.rank: must be a positive integer, not 0"),
        (lambda: fmt.encode(x, scale=np.ones((1, 2, 2, 7))), r"finite factors of shape \(1, 2, 2, 8\)"),
        (lambda: fmt.encode([np.nan]), "holds NaN"),
        (lambda: fmt.decode_prefix(fmt.encode(x), 3), "must take from 1 to 2 planes, not 3"),  # type: ignore[attr-defined]
        (
            lambda: fmt.from_packed(np.zeros((4, 3), np.uint8), np.ones((1, 2, 2, 8)), (4, 4)),
            r"must have shape \(4, 2\)",
        ),
    ]:
        with pytest.raises(MacloomError, match=message):
            call()


def test_column_scales_are_the_released_prescaling() -> None:
    """`scale_ln_fcs`: the weight's columns times s are decomposed, and the activations divided by s."""
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(24, 32)).astype(np.float32)
    activations = rng.normal(size=(4, 10, 32)) * np.exp(rng.normal(size=32))
    s = activation_scales(activations)
    np.testing.assert_allclose(s, torch.norm(torch.from_numpy(activations), dim=1).mean(dim=0).numpy() + 1e-3)
    fmt = BitStack(name="b", planes=3, rank=4, mode=Mode.UPSTREAM)
    scaled = fmt.quantize((weight * s).astype(np.float32)).astype(np.float64)
    own = fmt.encode(weight, column_scales=s)
    np.testing.assert_allclose(own.decode(), scaled / s, rtol=0.02, atol=5e-3)
    # Signs come from the same residuals but where rounding decides.
    other = fmt.encode((weight * s).astype(np.float32))
    assert np.mean(own.elements != other.elements) < 0.01
    assert own.bits == fmt.encode(weight).bits


def test_column_scales_lower_the_error_of_the_layer() -> None:
    rng = np.random.default_rng(6)
    weight = rng.normal(size=(40, 48)).astype(np.float32)
    x = rng.normal(size=(2, 64, 48)) * np.exp(1.5 * rng.normal(size=48))
    fmt = BitStack(name="b", planes=2, rank=4)
    plain, weighted = fmt.encode(weight).decode(), fmt.encode(weight, column_scales=activation_scales(x)).decode()
    flat = x.reshape(-1, 48)
    assert np.square(flat @ (weighted - weight).T).sum() < 0.8 * np.square(flat @ (plain - weight).T).sum()


def test_wrong_column_scales_are_refused() -> None:
    fmt, x = BitStack(name="b"), np.ones((4, 6), np.float32)
    with pytest.raises(MacloomError, match=r"column_scales: must be 6 positive numbers, not shape \(3,\)"):
        fmt.calibrate(x, column_scales=np.ones(3))
    with pytest.raises(MacloomError, match=r"activations: must be \(samples, tokens, channels\), not shape \(6,\)"):
        activation_scales(np.ones(6))
