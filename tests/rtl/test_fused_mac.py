"""Four narrow elements as one wide one, in gates: against Python's integers and the plain elements of both formats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyrtl
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.formats.accumulator import IntegerAccumulator, get_accumulator
from macloom.rtl import verilator
from macloom.rtl.catalog import Shape, accumulator_for, build, units_of
from macloom.rtl.export import verilog
from macloom.rtl.formats.operands import operand_ports
from macloom.rtl.pe import fused_mac
from macloom.rtl.pe.fused_design import TILE, FusedMac, packed
from macloom.rtl.pe.fused_mac import fused_mac_pe, fused_pe
from macloom.rtl.pe.mac import Mac
from macloom.rtl.pe.register import FixedPointRegister, Register
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.rtl.unit import Unit

PAIRS = [("ovp4", "ovp8"), ("int4", "int8"), ("fp4_e2m1", "fp8_e4m3"), ("int4", "ovp8")]
STEPS = 800


def mac(name: str, register: str | Register = "") -> Mac:
    ports = operand_ports(get_format(name))
    chosen = get_accumulator(register) if isinstance(register, str) and register else register
    chosen = chosen or accumulator_for(get_format(name))
    assert isinstance(chosen, IntegerAccumulator | FixedPointRegister)
    return Mac(a=ports, b=ports, accumulator=chosen)


def decoded(name: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponents and significands that the format's decoder makes of random codes, of pairs the left one."""
    unit = build(get_format(name), "decoder")
    codes = np.random.default_rng(seed).integers(0, 1 << unit.inputs[0].width, count)
    made = unit.model({unit.inputs[0].name: codes})
    number = "0" if "exponent0" in made else ""
    return made[f"exponent{number}"], made[f"significand{number}"]


def controls(wide: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    made = {"clear": (rng.random(STEPS) < 0.02) * 1, "valid": (rng.random(STEPS) < 0.9) * 1}
    return made | {"wide": np.full(STEPS, wide)}


def operands(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    return {"exponent_a": a[0], "significand_a": a[1], "exponent_b": b[0], "significand_b": b[1]}


@pytest.mark.parametrize("narrow, wide", PAIRS)
def test_the_wide_element_equals_that_of_its_format_on_its_decoders_outputs(narrow, wide):
    formats = get_format(narrow), get_format(wide)
    inputs = operands(decoded(wide, STEPS, 1), decoded(wide, STEPS, 2)) | controls(1)
    made = run_unit(fused_pe(*formats, *map(accumulator_for, formats)), inputs)
    plain = run_unit(build(formats[1], "pe"), {name: x for name, x in inputs.items() if name != "wide"})
    np.testing.assert_array_equal(made["sum0"], plain["sum"])
    assert len(np.unique(plain["sum"])) > STEPS // 2
    assert not any(made[f"sum{element}"].any() for element in (1, 2, 3))


@pytest.mark.parametrize("narrow, wide", PAIRS)
def test_the_narrow_elements_equal_those_of_their_format_on_its_decoders_outputs(narrow, wide):
    formats = get_format(narrow), get_format(wide)
    rows, columns = ([decoded(narrow, STEPS, seed) for seed in seeds] for seeds in ((1, 2), (3, 4)))
    ports = operand_ports(formats[0])
    inputs = operands(packed(ports, *rows), packed(ports, *columns)) | controls(0)
    made = run_unit(fused_pe(*formats, *map(accumulator_for, formats)), inputs)
    for element, (row, column) in enumerate(TILE):
        alone = operands(rows[row], columns[column]) | {name: inputs[name] for name in ("clear", "valid")}
        np.testing.assert_array_equal(made[f"sum{element}"], run_unit(build(formats[0], "pe"), alone)["sum"])


@pytest.mark.parametrize("mode", [0, 1])
def test_every_product_of_int4_and_int8_equals_that_of_numpy(mode):
    a, b = (x.ravel() for x in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    zero, one = np.zeros(len(a) + 1, np.int64), np.ones(len(a) + 1, np.int64)
    held = {"significand_a": np.append(a, 0), "significand_b": np.append(b, 0), "wide": mode * one}
    inputs = {"exponent_a": zero, "exponent_b": zero, "clear": one, "valid": one} | held
    made = run_unit(fused_pe(get_format("int4"), get_format("int8")), inputs)
    if mode:
        np.testing.assert_array_equal(made["sum0"][1:], a * b)
        return
    halves = [(x << 60 >> 60, x >> 4) for x in (a, b)]
    for element, (row, column) in enumerate(TILE):
        np.testing.assert_array_equal(made[f"sum{element}"][1:], halves[0][row] * halves[1][column])


@pytest.mark.parametrize("registers", [("int18", "int40"), ("int18:saturate,every=mac", "int41:saturate,every=mac"),
                                       ("int44:saturate,every=mac", "int40:wrap")])  # fmt: skip
def test_a_running_element_equals_its_model_when_widths_change(registers):
    design = FusedMac(narrow=mac("ovp4", registers[0]), wide=mac("ovp8", registers[1]))
    _, wrong = check_exhaustively(fused_mac_pe(design), count=4000)
    assert not len(wrong)


def test_operands_of_two_formats_each_equal_their_model():
    int4, ovp4, int8, ovp8 = (operand_ports(get_format(name)) for name in ("int4", "ovp4", "int8", "ovp8"))
    register = IntegerAccumulator(bits=40)
    narrow, wide = Mac(a=int4, b=ovp4, accumulator=register), Mac(a=ovp8, b=int8, accumulator=register)
    _, wrong = check_exhaustively(fused_mac_pe(FusedMac(narrow=narrow, wide=wide)), count=3000)
    assert not len(wrong)


def test_a_low_half_taken_for_a_signed_number_is_noticed(monkeypatch):
    unit = fused_pe(get_format("int4"), get_format("int8"))
    inputs = some_inputs(unit, 1000)
    assert not len(mismatches(unit, inputs, run_unit(unit, inputs)))
    halves = fused_mac._halves
    monkeypatch.setattr(fused_mac, "_halves", lambda wire, bits, _: halves(wire, bits, pyrtl.Const(0, 1)))
    wrong = mismatches(unit, inputs, run_unit(unit, inputs))
    assert len(wrong)
    assert inputs["wide"][wrong[0] - 1] == 1


@pytest.mark.skipif(not verilator.available(), reason="verilator, g++, make or perl is missing")
def test_verilator_runs_fused_elements_alike_and_rejects_a_mutant():
    good = [build(get_format(wide), "fused-pe", Shape(narrow=get_format(narrow))) for narrow, wide in PAIRS[:2]]
    wraps = fused_mac_pe(FusedMac(narrow=mac("int4", "int9"), wide=mac("int8", "int18")), "mutant")
    saturates = FusedMac(narrow=mac("int4", "int9:saturate,every=mac"), wide=mac("int8", "int18"))
    units: list[Unit] = [*good, replace(fused_mac_pe(saturates, "mutant"), model=wraps.model)]
    assert all(verilator.lint(verilog(unit)) == [] for unit in units)
    verdicts = verilator.cross_simulate(units, count=3000)
    assert {m: v.split()[0] for m, v in verdicts.items()} == {u.module: "PASS" for u in good} | {"mutant": "FAIL"}


def test_its_facts_are_those_of_the_wide_format_and_of_the_narrow_one():
    facts = build(get_format("ovp8"), "fused-pe", Shape(narrow=get_format("ovp4"))).facts
    assert (facts["format"], facts["code_bits"], facts["accumulator_bits"]) == ("ovp8", 8, 50)
    assert (facts["narrow_format"], facts["narrow_code_bits"], facts["narrow_accumulator_bits"]) == ("ovp4", 4, 32)
    assert (facts["exponent_offset"], facts["narrow_exponent_offset"]) == (0, 0)


def test_elements_that_cannot_be_fused_say_why():
    with pytest.raises(
        MacloomError, match="rtl.narrow: significands of 3 bits make wide ones of up to 6, and those of"
    ):
        FusedMac(narrow=mac("fp4_e2m1"), wide=mac("int8"))
    with pytest.raises(MacloomError, match="rtl.accumulator: a fused element has integer registers, not 'exact'"):
        FusedMac(narrow=mac("int4"), wide=mac("int8", FixedPointRegister(bits=70)))
    with pytest.raises(MacloomError, match="must hold one product, which takes 40 bits, not 32"):
        fused_pe(get_format("ovp4"), get_format("ovp8"))
    assert "fused-pe" not in units_of(get_format("int8"))
