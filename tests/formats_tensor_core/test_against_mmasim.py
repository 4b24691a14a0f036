"""Every preset against the instruction models of mmasim, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from macloom.formats import gemm
from macloom.formats.policy import Rounding
from macloom.formats.tensor_core import get_preset, list_presets, verify
from macloom.formats.tensor_core.oracles import INSTRUCTIONS, SCALES, Instruction, pairs, scaled_operand
from macloom.formats.tensor_core.product import multiply_add
from macloom.verification import Options

pytest.importorskip("mmasim.nv_ptx")

ROWS = [(preset, *row) for preset, rows in INSTRUCTIONS.items() for row in rows]
SCALED = [row for row in ROWS if "BlockScale" in row[1]]
PLAIN = [row for row in ROWS if row not in SCALED]


def test_every_preset_that_cites_mmasim_is_compared_with_it() -> None:
    cited = [p for p in list_presets() if any("mmasim" in e.source for e in get_preset(p).evidence)]
    assert sorted(cited) == sorted(INSTRUCTIONS)


@pytest.mark.parametrize("preset, kind, arch, text", PLAIN)
def test_instructions_equal_mmasim(cases: Any, preset: str, kind: str, arch: str, text: str) -> None:
    tc = get_preset(preset)
    rng = np.random.default_rng(len(preset))
    for a, b in pairs(tc, text):
        oracle = Instruction(kind, arch, text, a, b)
        for mode in cases.MODES:
            left, right = (
                cases.codes(rng, a, (oracle.m, oracle.k), mode),
                cases.codes(rng, b, (oracle.n, oracle.k), mode),
            )
            c = cases.sums(rng, oracle.half, (oracle.m, oracle.n), mode)
            theirs = oracle(left, right, c)
            ours = multiply_add(tc, cases.encoded(a, left).operand(), cases.encoded(b, right).operand(), c)
            assert cases.equal(ours, theirs).all(), (oracle.name, mode)
            nan = np.isnan(theirs)
            assert np.array_equal(ours[nan].view(np.uint32), theirs[nan].view(np.uint32))


@pytest.mark.parametrize("preset, kind, arch, text", PLAIN)
def test_products_of_matrices_equal_chains_of_mmasim(cases: Any, preset: str, kind: str, arch: str, text: str) -> None:
    tc = get_preset(preset)
    rng = np.random.default_rng(7)
    for a, b in pairs(tc, text)[:4]:
        oracle = Instruction(kind, arch, text, a, b)
        length = 3 * oracle.k - 3
        for mode in cases.MODES:
            left, right = cases.codes(rng, a, (oracle.m, length), mode), cases.codes(rng, b, (oracle.n, length), mode)
            full = [np.pad(x, ((0, 0), (0, 3))) for x in (left, right)]
            theirs = np.zeros((oracle.m, oracle.n), np.float32)
            for k in range(0, 3 * oracle.k, oracle.k):
                theirs = oracle(full[0][:, k : k + oracle.k], full[1][:, k : k + oracle.k], theirs)
            ours = gemm(cases.encoded(a, left), cases.encoded(b, right), tc)
            assert cases.equal(ours, theirs).all(), (oracle.name, mode)


@pytest.mark.parametrize("preset, kind, arch, text", SCALED)
def test_scaled_instructions_equal_mmasim(cases: Any, preset: str, kind: str, arch: str, text: str) -> None:
    tc = get_preset(preset)
    rng = np.random.default_rng(3)
    for (a, b), scale in product(pairs(tc, text), [fmt.name for fmt in tc.scales]):
        oracle = Instruction(kind, arch, text, a, b, scale)
        top, groups = SCALES[scale][1], oracle.k // tc.scale_block
        for mode in cases.MODES:
            left, right = (
                cases.codes(rng, a, (oracle.m, oracle.k), mode),
                cases.codes(rng, b, (oracle.n, oracle.k), mode),
            )
            c = cases.sums(rng, False, (oracle.m, oracle.n), mode)
            low, high = {"bits": (0, top), "tiny": (0, top // 3)}.get(mode, (top // 2 - 8, top // 2 + 8))
            s_a, s_b = (rng.integers(low, high, (rows, groups)).astype(np.uint8) for rows in (oracle.m, oracle.n))
            theirs = oracle(left, right, c, s_a, s_b)
            ours = multiply_add(
                tc, scaled_operand(a, left, s_a, scale, tc), scaled_operand(b, right, s_b, scale, tc), c
            )
            assert cases.equal(ours, theirs).all(), (oracle.name, mode)


# What must not pass: one parameter off, with the operands of `test_instructions_equal_mmasim`.
MUTANTS = {
    "one bit fewer": {"fraction": -1},
    "one bit more": {"fraction": 1},
    "half the block": {"block": 0.5},
    "rounded, not truncated": {"align": Rounding.NEAREST_EVEN},
    "register to nearest": {"rounding": Rounding.NEAREST_EVEN},
    "late accumulator": {"promote": 1},
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("preset", ["volta-fp16", "ampere-fp16", "hopper-bf16", "hopper-fp8", "rtx-blackwell-fp8"])
def test_mutants_differ_from_mmasim(cases: Any, preset: str, mutant: str) -> None:
    tc, change = get_preset(preset), dict(MUTANTS[mutant])
    if "fraction" in change:
        change["fraction"] += tc.fraction
    if "block" in change:
        change["block"] = tc.block // 2
    if "promote" in change:
        change["promote"] = tc.block
    wrong = replace(tc, **change)
    kind, arch, text = INSTRUCTIONS[preset][0]
    name = tc.takes[0].name
    oracle = Instruction(kind, arch, text, name, name)
    rng = np.random.default_rng(5)
    left, right = (cases.codes(rng, name, (rows, 4 * oracle.k), "spread") for rows in (oracle.m, oracle.n))
    theirs = np.zeros((oracle.m, oracle.n), np.float32)
    for k in range(0, 4 * oracle.k, oracle.k):
        theirs = oracle(left[:, k : k + oracle.k], right[:, k : k + oracle.k], theirs)
    a, b = cases.encoded(name, left), cases.encoded(name, right)
    assert cases.equal(gemm(a, b, tc), theirs).all()
    assert not cases.equal(gemm(a, b, wrong), theirs).all()


def test_verify_counts_cases_and_mismatches(cases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mmaemu")
    totals: list[int] = []
    first = next(iter(verify.checks(Options(expect=totals.append))))
    assert totals[0] > len(ROWS)
    assert first.holds
    assert first.cases == 2 * len(cases.MODES) * 8 * 8
    assert first.against.startswith("mmasim ")
    monkeypatch.setattr(verify, "get_preset", lambda name: replace(get_preset(name), fraction=12))
    wrong = next(iter(verify.checks(Options())))
    assert wrong.mismatches > 0
    assert wrong.note.startswith("first in m8n8k4.f32.f16.f16.f32, ")
