"""Vector codebooks against brute force, and their packing against a bit string."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import VectorCodebook, gemm, get_format, set_threads
from macloom.formats.tensors.vector_codebook import fit_vectors


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (1, 9), (3, 10, 4), (5,)])
@pytest.mark.parametrize("residual", [0, 4])
def test_codes_are_the_nearest_entries_and_values_their_sum(shape: tuple[int, ...], residual: int) -> None:
    fmt = VectorCodebook(name="v", width=4, entries=16, residual=residual)
    x = weights(*shape)
    encoded = fmt.encode(x)
    books = encoded.scales.astype(np.float64)
    main, rest = books[:16], books[16:]
    rows, columns = (1, *shape)[-2:]
    matrices = x.reshape(-1, rows, columns)
    elements = encoded.elements.reshape(len(matrices), -1, columns)
    decoded = encoded.decode().reshape(matrices.shape)
    for b, g, c in np.ndindex(*elements.shape):
        vector = matrices[b, g * 4 : g * 4 + 4, c].astype(np.float64)
        lanes = len(vector)
        index = int(np.argmin(np.square(main[:, :lanes] - vector).sum(axis=1)))
        value = main[index]
        code = index
        if residual:
            second = int(np.argmin(np.square(rest[:, :lanes] - (vector - value[:lanes])).sum(axis=1)))
            value = (value + rest[second]).astype(np.float16)
            code |= second << 4
        assert elements[b, g, c] == code
        assert np.array_equal(decoded[b, g * 4 : g * 4 + lanes, c], value[:lanes].astype(np.float32))
    assert np.array_equal(fmt.quantize(x), encoded.decode())


def test_bits_are_those_of_indices_words_and_codebooks() -> None:
    assert get_format("vptq").storage_bits((4096, 4096)) == 4096 * 1024 * 8 + 256 * 4 * 16
    # 2 bits per weight as VPTQ's v8-k65536, 3 with 256 residual entries.
    for name, bits in {"vptq:vector=8,centroids=65536": 2, "vptq:vector=8,centroids=65536,residual=256": 3}.items():
        fmt = get_format(name)
        assert fmt.code_bits / fmt.decoder_elements == bits
        books = 16 * 8 * (65536 + (256 if bits == 3 else 0))
        assert fmt.storage_bits((4096, 4096)) == bits * 4096**2 + books
    fmt = get_format("vptq:vector=3,centroids=64")
    assert fmt.storage_bits((7, 5)) == 3 * 32 + 64 * 3 * 16  # 5 codes of 6 bits fill a word; 7 rows make 3 vectors


@pytest.mark.parametrize("options", ["centroids=8", "centroids=8,residual=32", "centroids=2048,residual=4096,vector=2"])
def test_packing_is_bit_serial_in_words(options: str) -> None:
    fmt = get_format(f"vptq:{options}")
    rng = np.random.default_rng(0)
    shape = (2, 7, 11)
    rows = -(-7 // fmt.width)  # type: ignore[attr-defined]
    elements = rng.integers(0, 1 << fmt.code_bits, (2, rows, 11)).astype(np.uint32)
    packed = fmt.pack_elements(elements, shape)
    for row, stored in zip(elements.reshape(-1, 11), packed.reshape(-1, packed.shape[-1]), strict=True):
        stream = "".join(format(int(c), f"0{fmt.code_bits}b")[::-1] for c in row)
        stream += "0" * (-len(stream) % 32)
        assert stored.view("<u4").tolist() == [int(stream[i : i + 32][::-1], 2) for i in range(0, len(stream), 32)]
    books = np.zeros((fmt.entries + fmt.residual, fmt.width), np.float32)  # type: ignore[attr-defined]
    assert np.array_equal(fmt.from_packed(packed, books, shape).elements, elements)
    assert packed.size * 8 + fmt.scale_bits(shape) == fmt.storage_bits(shape)


def test_k_means_finds_separate_clusters() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10.0]])
    vectors = np.repeat(centres, 30, axis=0) + rng.normal(size=(120, 2)) * 0.1
    found = fit_vectors(vectors, 4)
    want = vectors.reshape(4, 30, 2).mean(axis=1)
    assert np.allclose(found[np.lexsort(found.round().T)], want[np.lexsort(want.round().T)], atol=1e-12)


def test_lloyd_never_raises_the_error_and_weights_pull() -> None:
    x = weights(16, 64, seed=2)
    errors = []
    for iterations in (1, 3, 10):
        fmt = VectorCodebook(name="v", width=2, entries=16, iterations=iterations)
        errors.append(float(np.square(fmt.quantize(x) - x).sum()))
    assert errors[0] > errors[1] > errors[2]
    fmt = VectorCodebook(name="v", width=2, entries=16)
    heavy = np.where(np.arange(64) < 8, 100.0, 1.0)
    plain, weighted = (np.square(fmt.quantize(x, s) - x) for s in (fmt.fit(x), fmt.fit(x, heavy)))
    assert weighted[:, :8].sum() < plain[:, :8].sum()
    assert weighted.sum() > plain.sum()


def test_a_residual_stage_lowers_the_error() -> None:
    x = weights(32, 32, seed=3)
    one, two = (get_format(f"vptq:centroids=16{r}") for r in ("", ",residual=16"))
    assert np.square(two.quantize(x) - x).sum() < 0.8 * np.square(one.quantize(x) - x).sum()


def test_results_repeat_with_any_number_of_threads() -> None:
    x = weights(64, 128, seed=4)
    fmt = get_format("vptq:centroids=64")
    first = fmt.encode(x)
    try:
        set_threads(2)
        again = fmt.encode(x)
    finally:
        set_threads(None)
    assert np.array_equal(first.elements, again.elements)
    assert np.array_equal(first.scales, again.scales)


def test_products_multiply_half_precision_values() -> None:
    x = get_format("fp16").encode(weights(3, 16))
    w = get_format("vptq:centroids=16").encode(weights(8, 16, seed=1))
    got = gemm(x, w)
    total = np.zeros(got.shape, np.float32)
    for k in range(16):
        total = total + x.decode()[:, None, k] * w.decode()[None, :, k]
    assert np.array_equal(got, total)
    assert gemm(x, w, "exact") == pytest.approx(x.decode().astype(np.float64) @ w.decode().astype(np.float64).T)


def test_values_beyond_half_precision_saturate_and_fewer_vectors_than_entries_are_exact() -> None:
    fmt = get_format("vptq")
    assert np.all(fmt.quantize(np.full((4, 4), 1e30, np.float32)) == 65504)
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert np.array_equal(fmt.quantize(x), x)
    assert not np.any(fmt.quantize(np.zeros((5, 5), np.float32)))


def test_bad_input_is_refused() -> None:
    fmt = get_format("vptq:centroids=4,vector=2")
    x = np.ones((2, 3), np.float32)
    for call, message in [
        (lambda: get_format("vptq:centroids=100"), "vector.entries: must be a power of two from 2 to 65536, not 100"),
        (lambda: get_format("vptq:residual=3"), "vector.residual: must be a power of two"),
        (lambda: get_format("vptq:vector=0"), "vector.width: must be a positive integer, not 0"),
        (lambda: fmt.encode(x, scale=np.ones((3, 2))), r"float16 codebooks of shape \(4, 2\), not \(3, 2\)"),
        (lambda: fmt.encode(x, scale=np.full((4, 2), 1 / 3)), "must hold float16 codebooks"),
        (lambda: fmt.encode([np.inf]), "holds infinity"),
        (lambda: fmt.fit(x, np.ones(2)), r"column_weights: must have shape \(3,\)"),  # type: ignore[attr-defined]
        (lambda: fmt.fit(x, np.zeros(3)), "weights: must be 3 positive numbers"),  # type: ignore[attr-defined]
        (
            lambda: fmt.from_packed(np.zeros((1, 5), np.uint8), np.zeros((4, 2)), (2, 3)),
            r"codes: must have shape \(1, 4\)",
        ),
    ]:
        with pytest.raises(MacloomError, match=message):
            call()
