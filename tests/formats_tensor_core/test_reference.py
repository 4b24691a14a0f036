"""Every kernel against the scalar definition on fractions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from macloom.formats import GemmReport, gemm, get_format
from macloom.formats.accumulator import get_accumulator
from macloom.formats.tensor_core import get_preset, list_presets
from macloom.formats.tensor_core.operands import Side
from macloom.formats.tensor_core.product import chains, values_are_exact
from macloom.formats.tensor_core.reference import dot, exponent
from macloom.formats.threads import set_threads

FLOATING = [name for name in list_presets() if get_preset(name).register.name != "int32"]
UNSCALED = [name for name in FLOATING if not get_preset(name).scale_block]
# Records that no device is known to have.
OWN = [
    "tc:volta-fp16,block=2", "tc:volta-fp16,block=1,fraction=10", "tc:ampere-fp16,block=16,fraction=30",
    "tc:ampere-fp16,align=nearest_even", "tc:ampere-fp16,rounding=nearest_even", "tc:ampere-bf16,register=e8m13",
    "tc:hopper-fp16,register=fp16,rounding=toward_zero", "tc:hopper-fp8,block=4,fraction=25",
    "tc:hopper-fp8,register=fp32,fraction=20", "tc:hopper-fp8,promote=32", "tc:hopper-fp8,promote=64,split=2,tile=64",
    "tc:ada-fp8,split=3,tile=16,order=interleaved,sum=pairwise", "tc:hopper-tf32,block=4", "tc:hopper-bf16,lowest=-20",
    "tc:ampere-bf16,k=24,block=12",
]  # fmt: skip


def _expected(tc: Any, left: np.ndarray, right: np.ndarray, formats: tuple[str, str]) -> np.ndarray:
    if tc.operand_mantissa:
        left, right = ((x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for x in (left, right))
    least = tuple(get_format(name).element.min_exponent for name in formats)  # type: ignore[attr-defined]
    rows = [[dot(tc, x.tolist(), y.tolist(), least) for y in right] for x in left]  # type: ignore[arg-type]
    return np.array(rows, np.float32)


@pytest.mark.parametrize("name", [f"tc:{preset}" for preset in UNSCALED] + OWN)
def test_products_equal_the_reference(cases: Any, name: str) -> None:
    tc: Any = get_accumulator(name)
    rng = np.random.default_rng(len(name))
    formats = tc.takes[0].name, tc.takes[-1].name
    for mode in cases.MODES:
        length = int(rng.integers(1, 4 * tc.block + 2))
        a, b = (cases.codes(rng, fmt, (3, length), mode) for fmt in formats)
        ours = gemm(cases.encoded(formats[0], a), cases.encoded(formats[1], b), tc)
        theirs = _expected(tc, cases.values(formats[0], a), cases.values(formats[1], b), formats)
        assert cases.equal(ours, theirs).all(), mode


SCALED = [f"tc:{name}" for name in FLOATING if get_preset(name).scale_block]
# K ends within a block of the last stretch.
CUT = [
    "tc:blackwell-mxfp4,promote=64", "tc:blackwell-nvfp4,promote=64", "tc:blackwell-nvfp4,split=3,tile=64",
    "tc:blackwell-mxfp4,split=2,tile=64,order=interleaved,promote=64", "tc:blackwell-mxfp8,promote=32,split=2,tile=32",
]  # fmt: skip


@pytest.mark.parametrize("name", SCALED + CUT)
def test_scaled_products_equal_the_reference(cases: Any, name: str) -> None:
    tc: Any = get_accumulator(name)
    rng = np.random.default_rng(1)
    source = "nvfp4" if tc.scale_block == 16 else "mxfp4" if tc.group > 1 else "mxfp8_e4m3"
    fmt = get_format(source)
    for length in (16, 70, 64 * 3, 64 * 2 + 42):
        a, b = (fmt.encode(rng.standard_normal((4, length)) * 4.0 ** rng.integers(-3, 3, (4, length))) for _ in "ab")
        left, right = a.operand(), b.operand()
        width, least = tc.group if tc.group > 1 else tc.scale_block, fmt.element.steps
        assert least is not None
        report = GemmReport()
        ours = tc.product(left, right, report)
        for m, n in np.ndindex(4, 4):
            scales = []
            for start in range(0, -(-length // tc.block) * tc.block, width):
                at = min(start // left.block, left.scales.shape[-1] - 1)
                x, y = float(left.scales[m, at]), float(right.scales[n, at])
                low = -6 if tc.scale_block == 16 else -127
                scales.append((x * y, exponent(x, low) + exponent(y, low)))
            units = [np.ldexp(side.units.astype(float), side.unit_exponent) for side in (left, right)]
            expected = dot(tc, units[0][m].tolist(), units[1][n].tolist(), (least[1], least[1]), scales)
            assert ours[m, n] == np.float32(expected)


def test_batches_threads_and_odd_shapes_do_not_matter(cases: Any) -> None:
    rng = np.random.default_rng(2)
    a, b = (cases.codes(rng, "fp16", (3 * rows, 77), "spread").reshape(3, rows, 77) for rows in (67, 301))
    left, right = cases.encoded("fp16", a), cases.encoded("fp16", b)
    for name in ("tc:volta-fp16", "tc:ampere-fp16", "tc:hopper-fp16", "tc:hopper-fp16-fp16"):
        whole = gemm(left, right, name)
        assert whole.shape == (3, 67, 301)
        set_threads(2)
        try:
            assert np.array_equal(gemm(left, right, name), whole)
        finally:
            set_threads(None)
        for i in range(3):
            one = gemm(cases.encoded("fp16", a[i, 5:6]), cases.encoded("fp16", b[i, 290:]), name)
            assert np.array_equal(one, whole[i, 5:6, 290:])


@pytest.mark.parametrize("spread", [0, 30, 60])
def test_lanes_on_values_and_on_significands_agree(cases: Any, spread: int) -> None:
    rng = np.random.default_rng(spread)
    x, y = (rng.standard_normal((5, 96)) * 2.0 ** rng.integers(-spread, spread + 1, (5, 96)) for _ in "ab")
    left, right = (
        Side((v.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32), 7, -126) for v in (x, y)
    )
    tc = get_preset("hopper-bf16")
    assert values_are_exact(tc, left, right) == (spread < 60)
    start = np.zeros((5, 5), np.float32)
    assert np.array_equal(chains(tc, left, right), chains(tc, left, right, start))  # significands
    expected = [[dot(tc, a.tolist(), b.tolist(), (-126, -126)) for b in right.values] for a in left.values]
    assert np.array_equal(chains(tc, left, right), np.array(expected, np.float32))


def test_zeros_that_fill_an_instruction_change_nothing(cases: Any) -> None:
    rng = np.random.default_rng(4)
    a, b = (cases.codes(rng, "fp8_e4m3", (4, 40), "finite") for _ in range(2))
    padded = [np.pad(x, ((0, 0), (0, 24))) for x in (a, b)]
    for name in ("tc:hopper-fp8", "tc:ada-fp8-fp16", "tc:blackwell-fp8"):
        short = gemm(cases.encoded("fp8_e4m3", a), cases.encoded("fp8_e4m3", b), name)
        left, right = (cases.encoded("fp8_e4m3", x) for x in padded)
        assert np.array_equal(short, gemm(left, right, name))


def test_integer_cores_wrap_modulo_two_to_the_32() -> None:
    fmt = get_format("int8")
    a, b = (fmt.encode(np.full((1, 8), 127, np.float32)) for _ in range(2))
    assert gemm(a, b, "tc:ampere-int8") == np.float32(8 * 127 * 127)
    assert dot(get_preset("ampere-int8"), [127.0] * 140000, [127.0] * 140000, (0, 0)) == 140000 * 127**2 - 2**32


def test_scales_of_segments_are_applied_outside(cases: Any) -> None:
    rng = np.random.default_rng(6)
    fmt = get_format("fp8_e4m3:group=128")
    a, b = (fmt.encode(rng.standard_normal((4, 256)).astype(np.float32)) for _ in range(2))
    total = np.zeros((4, 4), np.float32)
    for start in (0, 128):
        left, right = (cases.encoded("fp8_e4m3", x.elements[:, start : start + 128]) for x in (a, b))
        inner = gemm(left, right, "tc:hopper-fp8")
        inner = inner * a.operand().scales[:, start // 128, None] * b.operand().scales[None, :, start // 128]
        total += inner
    assert np.array_equal(gemm(a, b, "tc:hopper-fp8"), total)


def test_report_counts_sums_that_became_infinite(cases: Any) -> None:
    big = np.full((2, 32), 0x7BFF, np.uint16)
    report = GemmReport(locate=True)
    out = gemm(cases.encoded("fp16", big), cases.encoded("fp16", big[:1]), "tc:ampere-fp16-fp16", report)
    assert np.isinf(out).all()
    assert report.overflows == 2
    assert report.where is not None
    assert report.where.all()
