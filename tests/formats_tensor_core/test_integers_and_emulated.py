"""Integer tensor cores against Python's integers, and FP8 instructions that devices turn into FP16 ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import Encoded, gemm, get_format
from macloom.formats.gemm_report import GemmReport
from macloom.formats.tensor_core import get_preset, list_presets, verify
from macloom.formats.tensor_core.operands import dealt
from macloom.formats.tensor_core.product import late_sum, multiply_add, product
from macloom.formats.tensor_core.record import FP16, FP32, INT32
from macloom.formats.tensor_core.reference import dealt as dealt_by_definition

INTEGERS = [name for name in list_presets() if get_preset(name).register is INT32]
EMULATED = [name for name in list_presets() if get_preset(name).reads is not None]
GOLDEN = Path(__file__).parents[1] / "golden" / "tensor_core_fp8_sync.json"
RECORDED = json.loads(GOLDEN.read_text())["cases"]
OURS = {"H100": "hopper", "H200": "hopper", "B200": "blackwell"}


@pytest.mark.parametrize("preset", INTEGERS)
@pytest.mark.parametrize("compare", [verify._wrapped, verify._clamped])
def test_integer_products_equal_python_integers(preset: str, compare: Any) -> None:
    cases = list(compare(np.random.default_rng(3), preset, 1))
    assert len(cases) >= 12
    assert all(same.all() for _, same in cases)


def test_sums_beyond_32_bits_are_among_the_integer_cases() -> None:
    longest = [p for *_, products in verify._integers(np.random.default_rng(3), "ampere-int8", 1) for p in products]
    assert max(abs(sum(p)) for p in longest) >= 2**31


@pytest.mark.parametrize("case", RECORDED)
def test_fp8_with_half_precision_sums_equals_recorded_outputs(case: str) -> None:
    assert recorded_equal(case, lambda tc: tc) == 16


def recorded_equal(case: str, change: Any) -> int:
    """Return how many of the recorded outputs a changed preset gives."""
    device, kind = case.split()
    tc = change(get_preset(f"{OURS[device]}-fp8-sync-fp16"))
    fmt, rows = get_format(f"fp8_{kind.lower()}"), RECORDED[case]
    a, b = (np.array([[int(w, 16) << 16 for w in row.split()] for row in rows[x]], np.uint32) for x in "ab")
    c = np.array([int(w, 16) for w in rows["c"]], np.uint32).view(np.float32).astype(np.float16).astype(np.float32)
    want = np.array([int(w, 16) for w in rows["d"]], np.uint32).view(np.float32)
    left, right = (
        Encoded(fmt, (16, 1, 32), fmt.element.encode(x.view(np.float32))[:, None], np.ones((), np.float32)).operand()
        for x in (a, b)
    )
    sums = multiply_add(tc, left, right, np.zeros((16, 1, 1), np.float32))[:, 0, 0]
    return int(np.count_nonzero(late_sum(tc, sums, c) == want))


@pytest.mark.parametrize(
    "name, change",
    {
        "neighbours": lambda tc: replace(tc, run=0),
        "runs of four": lambda tc: replace(tc, run=4),
        "one block": lambda tc: replace(tc, block=32),
        "late sum in float32": lambda tc: replace(tc, late=FP32),
        "float32 chain": lambda tc: replace(tc, register=FP32),
        "less bits": lambda tc: replace(tc, fraction=9),
    }.items(),
)
def test_mutant_presets_do_not_give_the_recorded_outputs(name: str, change: Any) -> None:
    assert sum(recorded_equal(case, change) for case in RECORDED) < 16 * len(RECORDED)


@pytest.mark.parametrize("preset", EMULATED)
def test_products_of_matrices_chain_whole_instructions_in_half_precision(preset: str, cases: Any) -> None:
    tc, rng = get_preset(preset), np.random.default_rng(5)
    for depth in (1, 31, 32, 33, 100):
        a, b = (cases.codes(rng, "fp8_e4m3", (3, depth), "normal") for _ in "ab")
        got = gemm(cases.encoded("fp8_e4m3", a), cases.encoded("fp8_e4m3", b), tc)
        want = np.zeros((3, 3), np.float32)
        for start in range(0, depth, tc.k):
            part = slice(start, start + tc.k)
            left, right = (cases.encoded("fp8_e4m3", x[:, part]).operand() for x in (a, b))
            term = multiply_add(tc, left, right, np.zeros((3, 3), np.float32))
            want = term if not start else late_sum(tc, want, term)
        assert np.array_equal(got, want)


def test_subnormals_of_fp8_are_normal_in_fp16() -> None:
    # 2**-9 and 3 * 2**-9 have exponents -9 and -8 as half precision numbers, and -6 both as E4M3's.
    fmt, tc = get_format("fp8_e4m3"), get_preset("hopper-fp8-sync-fp16")
    side = Encoded(fmt, (1, 2), np.array([[1, 3]], np.uint8), np.ones((), np.float32)).operand()
    narrow = replace(tc, fraction=5, lowest=-60)
    found = [float(product(t, side, side, GemmReport())[0, 0]) for t in (narrow, replace(narrow, reads=None))]
    assert found == [10 * 2.0**-18, 8 * 2.0**-18]


def test_elements_are_dealt_out_as_the_definition_says() -> None:
    tc = get_preset("hopper-fp8-sync-fp16")
    for depth in (1, 32, 45):
        full = [float(i) for i in range(1, depth + 1)]
        places = dealt(tc, depth)
        padded = np.array([*full, *[0.0] * (len(places) - depth)])
        assert padded[places].tolist() == dealt_by_definition(tc, full)


def test_dealing_needs_whole_instructions() -> None:
    tc = get_preset("hopper-fp8-sync-fp16")
    for changes in ({"run": 3}, {"promote": 16}, {"tile": 48}):
        with pytest.raises(MacloomError, match="tc.run: elements dealt out to blocks need a block that is a multiple"):
            replace(tc, **changes)
    assert tc.late is FP16
