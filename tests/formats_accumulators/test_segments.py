"""The loop over segments equals a definition in Python's fractions and numpy's scalars, whatever the shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from macloom.formats import GemmReport, Operand, gemm, get_accumulator, get_format
from macloom.formats.accumulators import segments
from macloom.formats.accumulators.segments import exact_float32, in_segments
from macloom.formats.gemm import gemm_operands
from macloom.formats.kernels import accumulate_segments


@pytest.fixture(params=["bytes", "floats"], autouse=True)
def kind_of_sums(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with sums of bytes in int32, where the processor has them, and with sums in floats."""
    if request.param == "floats":
        monkeypatch.setattr(accumulate_segments, "has_byte_products", lambda: False)
    elif not accumulate_segments.has_byte_products():
        pytest.skip("no 8-bit products on this processor")


def operand(units: np.ndarray, block: int, seed: int, scales: str = "normal", exponent: int = 0) -> Operand:
    """Return integers with a scale for every `block` of K."""
    rng, count = np.random.default_rng(seed), -(-units.shape[-1] // block)
    drawn = rng.normal(size=(*units.shape[:-1], count)).astype(np.float32)
    if scales == "extreme":  # products that underflow, are subnormal, or overflow
        drawn = np.ldexp(drawn, rng.integers(-120, 100, drawn.shape)).astype(np.float32)
    largest = int(np.abs(units).max(initial=1))
    return Operand(units.astype(np.float32), exponent, drawn, block, np.float32(1), largest)


def integers(shape: tuple[int, ...], largest: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(-largest, largest + 1, shape)


def by_definition(a: Operand, b: Operand) -> np.ndarray:
    """Return the product one output and one segment at a time: exact sums, then float32's own operations."""
    segment, unit = min(a.block, b.block, a.units.shape[-1]), 2.0 ** (a.unit_exponent + b.unit_exponent)
    out = np.zeros((*a.units.shape[:-1], b.units.shape[-2]), np.float32)
    with np.errstate(all="ignore"):
        for place in np.ndindex(*out.shape):
            left, right = a.units[place[:-1]], b.units[(*place[:-2], place[-1])]
            products = [int(x) * int(y) for x, y in zip(left, right, strict=True)]
            for first in range(0, len(products), segment):
                total = np.float32(float(sum(products[first : first + segment])) * unit)
                total = total * a.scales[(*place[:-1], first // a.block)]
                total = total * b.scales[(*place[:-2], place[-1], first // b.block)]
                out[place] = out[place] + total
    return out


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """Say whether the bits are the same; NaN of any kind equals itself."""
    return bool(np.all((got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))))


# Rows that do and do not fill a block of eight, columns that do and do not fill a panel, K that ends in a segment.
SHAPES = ((1, 1, 1), (7, 5, 33), (8, 32, 64), (9, 33, 40), (17, 31, 95), (3, 70, 48))


@pytest.mark.parametrize("largest", [7, 127, 4000, 30000])
@pytest.mark.parametrize("blocks", [(16, 16), (32, 32), (8, 32), (48, 16), (1000, 32)])
def test_segmented_products_equal_the_definition(blocks: tuple[int, int], largest: int) -> None:
    for rows, columns, depth in SHAPES:
        for scales in ("normal", "extreme"):
            a = operand(integers((rows, depth), largest, 1), blocks[0], 2, scales, exponent=-3)
            b = operand(integers((columns, depth), largest, 3), blocks[1], 4, scales, exponent=-5)
            with np.errstate(all="ignore"):
                got = exact_float32(a, b, GemmReport())
            assert same(got, by_definition(a, b)), (rows, columns, depth, scales)


@pytest.mark.parametrize("exponent", [-76, -75, -64, 55, 70])
@pytest.mark.parametrize("largest", [100, 4000])
def test_units_beyond_float32_equal_the_definition(largest: int, exponent: int) -> None:
    a, b = (operand(integers((5, 40), largest, s), 16, s, exponent=exponent) for s in (1, 2))
    for x in (a, b):
        x.scales[:] = np.ldexp(x.scales, -exponent)
    got = exact_float32(a, b, GemmReport())
    assert same(got, by_definition(a, b))
    assert np.any(got)


def test_batches_equal_the_definition() -> None:
    a = operand(integers((2, 3, 9, 50), 127, 5), 16, 6)
    b = operand(integers((2, 3, 35, 50), 127, 7), 16, 8)
    assert same(exact_float32(a, b, GemmReport()), by_definition(a, b))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    from macloom.formats import set_threads
    from macloom.formats.threads import thread_count

    a, b = (get_format("mxfp4").encode(integers((3, 50, 200), 9, s).astype(np.float32)) for s in (1, 2))
    want, before = gemm(a, b, "exact"), thread_count()
    try:
        set_threads(threads)
        assert same(gemm(a, b, "exact"), want)
    finally:
        set_threads(before)


def test_sums_at_the_ends_of_what_a_type_holds() -> None:
    # 32 products of 724**2 are 16773632 < 2**24 in magnitude; of 725**2 they are not.
    for size in (724, 725, 16_000_000):
        a, b = (operand(np.full((2, 40), size) * np.where(np.arange(40) % 7, 1, -1), 32, s) for s in (1, 2))
        assert same(exact_float32(a, b, GemmReport()), by_definition(a, b))


@pytest.mark.parametrize("name", ["exact", "int32", "int24:saturate,every=mac", "block:fp32"])
def test_every_way_through_an_accumulator_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (operand(integers((70, 96), 15, s), 32, s + 1) for s in (1, 3))
    assert in_segments(a, b)
    loop = gemm_operands(a, b, get_accumulator(name), GemmReport())
    monkeypatch.setattr(segments, "SHORT_SEGMENT", 0)
    monkeypatch.setattr(segments, "ENOUGH_ROWS", 1 << 30)
    monkeypatch.setattr(segments, "byte_products", lambda products: object())
    assert not in_segments(a, b)
    report = GemmReport(locate=True)
    assert same(gemm_operands(a, b, get_accumulator(name), report), loop)
    assert report.overflows == 0
    assert report.where is not None
    assert not report.where.any()


# -- mutants ---------------------------------------------------------------------------------------


def disagrees(largest: int = 725, blocks: tuple[int, int] = (32, 16), rows: int = 9) -> bool:
    a = operand(integers((rows, 80), largest, 1) | 1, blocks[0], 2)
    b = operand(integers((33, 80), largest, 3) | 1, blocks[1], 4)
    return not same(exact_float32(a, b, GemmReport()), by_definition(a, b))


def test_mutant_float32_beyond_its_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not disagrees(8000)
    monkeypatch.setattr(segments, "bound", lambda a, b, length: 0.0)
    assert disagrees(8000)


def test_mutant_bytes_of_integers_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    if not accumulate_segments.has_byte_products():
        pytest.skip("sums are floats here")
    assert not disagrees(200)
    monkeypatch.setattr(accumulate_segments, "fits_bytes", lambda a, b, segment: True)
    assert disagrees(200)


def test_mutant_an_offset_that_is_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    if not accumulate_segments.has_byte_products():
        pytest.skip("sums are floats here")
    assert not disagrees(100)
    monkeypatch.setattr(accumulate_segments, "OFFSET", 127)
    assert disagrees(100)


def test_mutant_units_that_scales_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (operand(integers((5, 40), 100, s), 16, s, exponent=-30) for s in (1, 2))
    a.scales[:], b.scales[:] = np.ldexp(a.scales, -80), np.ldexp(b.scales, 100)  # the first is subnormal times a unit
    want = by_definition(a, b)
    with np.errstate(all="ignore"):
        assert same(exact_float32(a, b, GemmReport()), want)
        monkeypatch.setattr(accumulate_segments, "with_unit", lambda x, unit, largest: x * np.float32(unit))
        assert not same(exact_float32(a, b, GemmReport()), want)


def test_mutant_the_scale_of_the_segment_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not disagrees()
    honest: Callable[..., Any] = accumulate_segments._segmented

    def late(start: int, stop: int, shape: Any, a: Any, panels: Any, scales: Any, places: Any, *rest: Any) -> None:
        honest(start, stop, shape, a, panels, scales, np.maximum(places - 1, 0), *rest)

    monkeypatch.setattr(accumulate_segments, "_segmented", late)
    assert disagrees()


def test_mutant_segments_of_another_length(monkeypatch: pytest.MonkeyPatch) -> None:
    honest: Callable[..., Any] = segments.common_segment
    monkeypatch.setattr(segments, "common_segment", lambda a, b: 2 * honest(a, b))
    assert disagrees()
