"""`macloom verify formats`: the step functions, that every pattern is looked at, and that a wrong tie is found."""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np
import pytest

from macloom.formats import ElementFormat, Flint, FloatFormat, IntFormat, Posit, Rounding
from macloom.formats.catalog import FLOATS
from macloom.formats.policy import Policy
from macloom.formats.verify.elements import (
    ALL_CHUNKS,
    CHUNK,
    DETERMINISTIC,
    Codec,
    check_policies,
    check_rounding,
    check_stochastic,
    every_pattern,
    kernels_of,
    some_patterns,
)
from macloom.formats.verify.steps import HIGHEST, LOWEST, find_steps, patterns_of, ranks_of, reference_steps
from macloom.formats.verify.subjects import MAX_BITS, elements, label
from macloom.formats.verify.tally import Tally

E4M3, E5M2 = FLOATS["fp8_e4m3"], FLOATS["fp8_e5m2"]


def bfloat16_patterns() -> np.ndarray:
    patterns = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    return patterns[(patterns & 0x7FFFFFFF) <= 0x7F800000]


def test_ranks_are_the_order_of_floats() -> None:
    patterns = bfloat16_patterns()
    order = np.argsort(ranks_of(patterns))
    assert np.all(np.diff(patterns[order].view(np.float32)) >= 0)
    np.testing.assert_array_equal(patterns_of(ranks_of(patterns)), patterns)
    assert (int(ranks_of(patterns).min()), int(ranks_of(patterns).max())) == (LOWEST, HIGHEST)


@pytest.mark.parametrize("element, dtype", [(E4M3, ml_dtypes.float8_e4m3fn), (E5M2, ml_dtypes.float8_e5m2)])
def test_step_functions_equal_ml_dtypes_where_codes_change(element: FloatFormat, dtype: type) -> None:
    steps = reference_steps(element, Rounding.NEAREST_EVEN)
    patterns = np.concatenate((steps.neighbourhoods(3), bfloat16_patterns()))
    x = np.clip(patterns.view(np.float32), element.min_value, element.max_value)
    np.testing.assert_array_equal(steps.at(patterns), x.astype(dtype).view(np.uint8))


def test_runs_cover_a_chunk_once_and_agree_with_at() -> None:
    steps = reference_steps(E4M3, Rounding.NEAREST_EVEN)
    for first in (0x3F800000, 0xBF800000, 0, 0x80000000, 0x43E00000):
        codes = np.full(1 << 20, -1)
        for begin, end, code in steps.runs(first, first + len(codes)):
            assert np.all(codes[begin - first : end - first] == -1)
            codes[begin - first : end - first] = code
        np.testing.assert_array_equal(codes, steps.at(np.arange(first, first + len(codes), dtype=np.uint32)))


def test_chunks_are_every_finite_pattern_once() -> None:
    assert len(ALL_CHUNKS) * CHUNK == (1 << 32) - (1 << 24)
    firsts = np.array(ALL_CHUNKS)
    assert np.all(np.diff(firsts) >= CHUNK)
    assert np.all(firsts & 0x7FFFFFFF <= 0x7F800000 - CHUNK)


def test_steps_of_a_function_by_hand() -> None:
    steps = find_steps(lambda x: int(x >= 2) - int(x <= -2))
    assert patterns_of(steps.firsts).view(np.float32).tolist() == [-np.inf, np.nextafter(np.float32(-2), 0), 2.0]
    assert steps.codes.tolist() == [-1, 0, 1]


def wrong_at(codec: Codec, element: ElementFormat, x: float) -> Codec:
    """Return a codec that moves the one input `x` to the neighbouring code."""

    def encode(inputs: np.ndarray) -> np.ndarray:
        codes = codec.encode(inputs)
        codes[inputs == np.float32(x)] ^= 1
        return codes

    def quantize(inputs: np.ndarray, out: np.ndarray) -> None:
        codec.quantize(inputs, out)
        out[inputs == np.float32(x)] = np.nextafter(out[inputs == np.float32(x)], np.float32(np.inf))

    return Codec(encode, quantize)


def chunk_of(x: float) -> Iterable[int]:
    return [int(np.float32(x).view(np.uint32)) // CHUNK * CHUNK]


# 1.0625 lies halfway between the E4M3 values 1 and 1.125, -17 between -16 and -18.
@pytest.mark.parametrize("x", [1.0625, -17.0])
def test_mutant_one_wrong_tie_is_found(x: float) -> None:
    steps, codec = reference_steps(E4M3, Rounding.NEAREST_EVEN), kernels_of(E4M3, Policy())
    tally = Tally(E4M3)
    every_pattern(tally, codec, steps, chunk_of(x))
    assert (tally.cases, tally.mismatches) == (2 * CHUNK, 0)
    for compare in (
        lambda t, c: every_pattern(t, c, steps, chunk_of(x)),
        lambda t, c: some_patterns(t, c, steps, 0),
    ):
        tally = Tally(E4M3)
        compare(tally, wrong_at(codec, E4M3, x))
        assert tally.mismatches >= 2
        check = tally.check("mutant", "")
        assert not check.holds
        assert check.note.startswith(f"{x.hex()} gives code ")
        assert check.worst >= 0.125


@pytest.mark.parametrize("rounding", DETERMINISTIC)
def test_mutant_another_rounding_is_found(rounding: Rounding) -> None:
    other = DETERMINISTIC[DETERMINISTIC.index(rounding) - 1]
    tally = Tally(E5M2)
    some_patterns(tally, kernels_of(E5M2, Policy(rounding=other)), reference_steps(E5M2, rounding), 0)
    assert tally.mismatches > 0


@pytest.mark.parametrize("element", [E4M3, IntFormat(width=4), Posit(width=8), Flint(width=4)], ids=label)
def test_kernels_equal_the_reference_where_codes_change(element: ElementFormat) -> None:
    for rounding in DETERMINISTIC:
        check = check_rounding(element, rounding, False, 0)
        assert check.holds, check
        assert check.cases > 100_000
    for check in (check_policies(element, 0), check_stochastic(element, False, 0)):
        assert check.holds, check


@pytest.mark.parametrize("element", [e for e in elements() if not np.any(e.encodable[0] == 0)], ids=label)
def test_formats_without_zero_round_stochastically_as_the_reference(element: ElementFormat) -> None:
    check = check_stochastic(element, False, 0)
    assert check.holds, check


def test_subjects_are_distinct_and_of_every_family() -> None:
    found = elements()
    assert len(found) == len({label(e) for e in found}) >= 60
    assert all(e.bits <= MAX_BITS for e in found)
    families = {type(e).__name__ for e in found}
    assert families >= {"IntFormat", "FloatFormat", "AbFloat", "Flint", "PowerOfTwo", "Posit", "LogFormat", "Codebook"}
