"""Tensor-core dot units in gates, against `macloom.gemm`, the definition in fractions, and Verilator."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import macloom
from macloom.errors import MacloomError
from macloom.formats import get_accumulator, get_format, list_formats
from macloom.formats.elements.minifloat import FP16, FloatFormat
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensor_core import cases
from macloom.formats.tensor_core.presets import get_preset, list_presets
from macloom.formats.tensor_core.record import E8M13, FP32, INT32, Maturity, TensorCoreAccumulator
from macloom.formats.tensor_core.reference import Scale, exponent, grouped_block
from macloom.formats.tensor_core.reference import block as reference_block
from macloom.formats.tensors.block import Block
from macloom.rtl import verilator
from macloom.rtl.catalog import Shape, build
from macloom.rtl.export import verilog
from macloom.rtl.pe.products import dot_products, scaled
from macloom.rtl.pe.stimuli import values_at
from macloom.rtl.pe.tensor_dot import TensorDot, tensor_dot, tensor_dot_step
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs


def core_of(text: str) -> TensorCoreAccumulator:
    chosen = get_accumulator(text)
    assert isinstance(chosen, TensorCoreAccumulator)
    return chosen


def core_design(a: str, b: str, core: str) -> TensorDot:
    return TensorDot(a=get_format(a), b=get_format(b), core=core_of(core))


MXFP4 = ("mxfp4", "mxfp4", "tc:blackwell-mxfp4,block=16,k=16")
NVFP4 = ("nvfp4", "nvfp4", "tc:blackwell-nvfp4,block=32,k=32")
MXFP8 = ("mxfp8_e5m2", "mxfp6_e3m2", "tc:blackwell-mxfp8,block=2,k=2")
TF32 = ("fp32", "fp32", "tc:ampere-tf32,block=2,k=2")
HOPPER = ("fp8_e4m3", "fp8_e5m2", "tc:hopper-fp8,block=2,k=2")
# With few fraction bits, how subnormals are read is seen in most sums.
COARSE = ("fp8_e4m3", "fp8_e5m2", "tc:hopper-fp8-sync-fp16,block=2,k=4,fraction=6")
COARSE_FP4 = "tc:blackwell-fp8-fp16,block=2,k=2,fraction=4"


# Records and pairs of formats beside those of `test_every_preset...`.
@pytest.mark.parametrize(
    "a, b, core",
    [
        ("fp8_e5m2", "fp8_e4m3", "tc:hopper-fp8,block=2,promote=2"),
        ("fp8_e4m3", "fp8_e4m3", "tc:hopper-fp8,block=2,promote=8"),
        ("fp8_e4m3", "fp4_e2m1", "tc:blackwell-fp8-fp16,block=2,promote=4"),
        ("fp16", "fp16", "tc:volta-fp16,block=2,fraction=12,align=nearest_even,rounding=nearest_even"),
        ("nvfp4:levels=1", "mxfp4:block=16", "tc:rtx-blackwell-nvfp4,block=16,k=16,promote=32"),
        *(HOPPER, COARSE, MXFP8, NVFP4),
    ],
)
def test_one_block_of_a_tensor_core_equals_the_software(a, b, core):
    _, wrong = check_exhaustively(tensor_dot_step(core_design(a, b, core)), count=120)
    assert not len(wrong)


def values_of(design: TensorDot, inputs: dict[str, np.ndarray], side: int) -> np.ndarray:
    """Return the operands of one side (steps, block), as the instruction reads them."""
    core, element = design.core, design.elements[side]
    x = np.stack([values_at(element, inputs[f"{'ab'[side]}{i}"]) for i in range(core.block)], axis=1)
    if core.operand_mantissa:
        kept = (x.view(np.uint32) & np.uint32(0x100000000 - (1 << 23 - core.operand_mantissa))).view(np.float32)
        x = np.where(np.isnan(x), x, kept)
    return x


def scales_of(design: TensorDot, inputs: dict[str, np.ndarray], step: int) -> list[Scale]:
    """Return the product of both scales of every group, and the sum of their exponents."""
    made = []
    for a, b in zip(*design.scale_ports, strict=True):
        x, y = (float(f.values[inputs[p][step]]) for f, p in zip(design.scale_formats, (a, b), strict=True))
        lowest = [f.min_exponent for f in design.scale_formats]
        known = np.isfinite(x) and np.isfinite(y) and x and y
        made += [(x * y, exponent(x, lowest[0]) + exponent(y, lowest[1]) if known else 0)] * (
            min(design.core.block, design.core.scale_block) // design.core.group
        )
    return made


@pytest.mark.parametrize("a, b, core", [TF32, HOPPER, MXFP8, MXFP4, NVFP4])
def test_one_block_of_a_tensor_core_equals_the_definition_in_fractions(a, b, core):
    design = core_design(a, b, core)
    unit = tensor_dot_step(design)
    inputs = some_inputs(unit, 100, seed=11)
    made = design.register.values_of(run_unit(unit, inputs)["next"])
    cares = unit.cares(inputs)["next"] if unit.cares else np.ones(len(made), bool)
    totals = design.register.values_of(inputs["total"])
    left, right = (values_of(design, inputs, side) for side in range(2))
    smallest = design.elements[0].min_exponent, design.elements[1].min_exponent
    for step in np.flatnonzero(cares).tolist():
        x, y, c, got = left[step].tolist(), right[step].tolist(), float(totals[step]), made[step]
        scales = scales_of(design, inputs, step) if design.scales else [(1.0, 0)]
        if design.core.group > 1:
            expected = grouped_block(design.core, x, y, c, scales)
        else:
            expected = reference_block(design.core, x, y, c, smallest, scales[0])
        assert got == expected or (np.isnan(got) and np.isnan(expected)), step


@pytest.mark.parametrize(
    "name, core, depth, modes",
    [
        ("fp16", "tc:volta-fp16,block=2,k=2", 7, ("spread", "tiny")),
        ("fp8_e5m2", "tc:ada-fp8,block=4,k=4", 14, ("cancel", "bits")),
        ("fp32", "tc:hopper-tf32,block=2,k=2", 7, ("cancel", "bits")),
        ("fp8_e4m3", "tc:hopper-fp8-sync-fp16,block=2,k=4,promote=4", 15, ("tiny", "bits")),
        ("fp8_e4m3", "tc:hopper-fp8,block=2,k=2,promote=6", 17, ("spread", "cancel")),
    ],
)
def test_products_of_matrices_on_a_tensor_core_equal_gemm(name, core, depth, modes):
    design, rng = core_design(name, name, core), np.random.default_rng(9)
    for mode in modes:
        a, b = (cases.encoded(name, cases.codes(rng, name, (lines, depth), mode)) for lines in (2, 3))
        assert cases.equal(dot_products(design, a, b).sums, macloom.gemm(a, b, core)).all(), mode


@pytest.mark.parametrize(
    "a, b, core, depth",
    [
        ("mxfp8_e4m3", "mxfp4", "tc:blackwell-mxfp8,block=4,k=4", 38),
        ("mxfp4", "mxfp4", "tc:blackwell-mxfp4,block=16,k=16,promote=32", 70),
        ("nvfp4", "nvfp4", "tc:blackwell-nvfp4,block=32,k=32", 70),
        ("nvfp4", "mxfp4:block=16", "tc:rtx-blackwell-nvfp4,block=16,k=16", 40),
    ],
)
def test_scaled_products_of_matrices_on_a_tensor_core_equal_gemm(a, b, core, depth):
    design, rng = core_design(a, b, core), np.random.default_rng(5)
    left, right = (
        fmt.encode((rng.standard_normal((n, depth)) * np.exp2(rng.integers(-5, 6, (n, depth)))).astype(np.float32))
        for fmt, n in ((design.a, 3), (design.b, 2))
    )
    run = dot_products(design, left, right)
    np.testing.assert_array_equal(scaled(design, run, left, right), macloom.gemm(left, right, core))
    assert run.cycles == 6 * -(-depth // design.core.block)


# -- mutants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell, change",
    [
        (HOPPER, {"fraction": 12}),
        (HOPPER, {"promote": 2, "register": FP32}),
        (COARSE, {"reads": None}),
        (COARSE, {"lowest": -12}),
        (TF32, {"operand_mantissa": 11}),
        (MXFP4, {"fraction": 34}),
        (MXFP4, {"group": 8}),
    ],
    ids=lambda x: x[2] if isinstance(x, tuple) else ",".join(x),
)
def test_a_step_of_another_record_is_noticed(cell, change):
    design = core_design(*cell)
    unit, other = tensor_dot_step(design), tensor_dot_step(replace(design, core=replace(design.core, **change)))
    inputs = some_inputs(unit, 260)
    assert len(mismatches(unit, inputs, run_unit(other, inputs)))


def test_running_units_equal_their_models_and_one_that_promotes_later_does_not():
    late = core_design("fp8_e4m3", "fp8_e4m3", "tc:hopper-fp8,block=2,k=2,promote=4")
    design = core_design("fp8_e4m3", "fp8_e4m3", "tc:hopper-fp8,block=2,k=2")
    for each in (design, late):
        unit = tensor_dot(each)
        inputs = some_inputs(unit, 300)
        out = run_unit(unit, inputs)
        assert not len(mismatches(unit, inputs, out))
    delayed = {**inputs, "promote": np.roll(inputs["promote"], 1)}
    assert len(mismatches(unit, inputs, run_unit(unit, delayed)))


def test_operands_that_are_dealt_out_in_another_order_are_noticed():
    core, name = "tc:hopper-fp8-sync-fp16,block=4,k=8,promote=8", "fp8_e4m3"
    design, rng = core_design(name, name, core), np.random.default_rng(3)
    a, b = (cases.encoded(name, cases.codes(rng, name, (4, 40), "spread")) for _ in "ab")
    neighbours = replace(design, core=replace(design.core, run=0))
    assert (dot_products(neighbours, a, b).sums != macloom.gemm(a, b, core)).any()


@pytest.mark.skipif(not verilator.available(), reason="needs verilator")
def test_verilator_gives_what_the_software_gives_and_rejects_a_mutant():
    design = replace_core("nvfp4", "tc:blackwell-nvfp4", block=8, group=8, k=8, promote=16, fraction=16)
    units = [tensor_dot(design), tensor_dot(replace_core("fp4_e2m1", COARSE_FP4), "mutant")]
    wrong = tensor_dot(replace_core("fp4_e2m1", COARSE_FP4, fraction=2), "mutant")
    texts = [verilog(units[0]), verilog(wrong)]
    assert not verilator.lint(texts[0])
    verdicts = verilator.cross_simulate(units, texts=texts, count=400)
    assert [verdicts[unit.module].split()[0] for unit in units] == ["PASS", "FAIL"]


# -- every preset ---------------------------------------------------------------------------------------------------


def small(core: TensorCoreAccumulator) -> TensorCoreAccumulator:
    """Return the record with as few products as it can have, and a chain of as many blocks."""
    size = core.group if core.group > 1 else max(core.run, 2)
    k = size * (core.k // core.block)
    return replace(core, block=size, k=k, promote=core.promote // core.block * size)


@cache
def block_formats() -> list[Block]:
    return [fmt for fmt in map(get_format, list_formats()) if isinstance(fmt, Block)]


def formats_of(core: TensorCoreAccumulator) -> list[tuple[TensorFormat, TensorFormat]]:
    """Return pairs of tensor formats of the first and the last element that a tensor core takes, for every scale."""
    first, last = core.takes[0], core.takes[-1]
    if not core.scale_block:
        return [(get_format(first.name), get_format(last.name))]
    made = []
    for scale in core.scales:
        found = {fmt.element: fmt for fmt in block_formats() if fmt.scale_format == scale}
        made.append(tuple(get_format(f"{found[e].name}:block={core.scale_block}") for e in (first, last)))
    return made


@cache
def equals_the_software(design: TensorDot) -> bool:
    _, wrong = check_exhaustively(tensor_dot_step(design), count=50)
    return not len(wrong)


@pytest.mark.parametrize("preset", list_presets())
def test_every_preset_has_a_unit_that_equals_the_software_or_says_what_has(preset):
    core = get_preset(preset)
    if core.register is INT32:
        fmt = get_format(core.takes[0].name)
        with pytest.raises(
            MacloomError, match=f"'tc:{preset}' sums integers.*its element is the unit 'pe' with the acc"
        ):
            TensorDot(a=fmt, b=fmt, core=core)
        assert build(fmt, "pe", Shape(accumulator=get_accumulator("int32"))).outputs
        return
    # Devices that add alike share a circuit; it is compared once.
    alike = replace(
        small(core), preset="volta-fp16", device="", instruction="", evidence=(), maturity=Maturity.PUBLISHED
    )
    for a, b in formats_of(core):
        TensorDot(a=a, b=b, core=core)
        assert equals_the_software(TensorDot(a=a, b=b, core=alike))


@pytest.mark.parametrize(
    "name, module",
    [
        ("mxfp4", "mxfp4_tc_blackwell_mxfp4_dot"),
        ("nvfp4", "nvfp4_tc_blackwell_nvfp4_dot"),
        ("mxfp8_e4m3", "mxfp8_e4m3_tc_blackwell_mxfp8_dot"),
        ("fp8_e5m2", "fp8_e5m2_tc_ada_fp8_dot"),
        ("fp32", "fp32_tc_ampere_tf32_dot"),
        ("fp16", "fp16_tc_volta_fp16_dot"),
    ],
)
def test_formats_have_the_unit_of_the_oldest_device_that_takes_them(name, module):
    assert build(get_format(name), "tensor-dot").module == module


def test_a_unit_says_how_it_is_fed():
    facts = tensor_dot(core_design("fp8_e4m3", "fp8_e4m3", "tc:hopper-fp8-sync-fp16,block=2,k=4,promote=8")).facts
    assert facts["promote_every"] == 4
    assert facts["elements"] == [[0, 1], [2, 3]]
    assert facts["sum"] == "late, with promote"
    unit = tensor_dot(core_design("nvfp4", "nvfp4", "tc:blackwell-nvfp4,block=32,k=32"))
    assert unit.facts["scales"] == ["fp8_e4m3", "fp8_e4m3"]
    assert [p.name for p in unit.inputs[-6:]] == ["scale_a0", "scale_a1", "scale_b0", "scale_b1", "clear", "valid"]


# -- refusals -------------------------------------------------------------------------------------------------------

HALF = FloatFormat(label="half", exponent_bits=4, mantissa_bits=10, bias=8, specials=FP16.specials)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: core_design("int8", "int8", "tc:ampere-int8"), "sums integers, without alignment; its element is the"),
        (
            lambda: core_design("bf16", "bf16", "tc:volta-fp16"),
            "takes fp16, not 'bf16'; it fits tc:ampere-bf16, tc:ada",
        ),
        (lambda: core_design("mxfp8_e4m3", "mxfp8_e4m3", "tc:hopper-fp8"), "takes no scales, not 'mxfp8_e4m3'"),
        (lambda: core_design("ovp4", "ovp4", "tc:blackwell-fp8"), "fp4_e2m1, not 'ovp4'"),
        (
            lambda: core_design("fp16", "fp16", "tc:volta-fp16,split=2"),
            "the 2 parts of K are sums of the unit of 'tc:volta-fp16', which are added in float32 afterwards",
        ),
        (
            lambda: core_design("nvfp4", "nvfp4", "tc:blackwell-mxfp4"),
            r"takes blocks of 32 elements with a scale \(e8m0\), not 'nvfp4'",
        ),
        (
            lambda: core_design("mxfp4", "mxfp4", "tc:blackwell-mxfp4,block=48,k=48"),
            "its block must divide the 32 elements of a scale, or be a multiple of them, not 48; change it",
        ),
        (
            lambda: replace_core("mxfp4", "tc:blackwell-mxfp4", group=64),
            "groups of 64 products must lie within the 32 elements of a scale",
        ),
        (
            lambda: replace_core("nvfp4", "tc:blackwell-nvfp4,block=16,k=16", group=1),
            "for 'nvfp4': without groups, scales are powers of two",
        ),
        (
            lambda: replace_core("fp8_e4m3", "tc:hopper-fp8,promote=32", late=E8M13),
            "late sums are kept in fp32, or in fp16 where blocks leave fp16, not in e8m13 after e8m13",
        ),
        (
            lambda: replace_core("fp8_e4m3", "tc:hopper-fp8-sync-fp16", reads=HALF),
            "for 'fp8_e4m3', of whose subnormals half has some as normal numbers and some not",
        ),
    ],
)
def test_units_that_cannot_be_say_why(make, message):
    with pytest.raises(MacloomError, match=message):
        make()


def replace_core(name: str, core: str, **changes: object) -> TensorDot:
    fmt = get_format(name)
    return TensorDot(a=fmt, b=fmt, core=replace(core_of(core), **changes))  # type: ignore[arg-type]
