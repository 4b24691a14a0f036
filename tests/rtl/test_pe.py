"""Processing elements in gates against Python integers and the registers of the arithmetic room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import macloom
from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.formats.accumulator import IntegerAccumulator, get_accumulator
from macloom.formats.accumulators.integer import IntegerOverflow
from macloom.formats.tensor import Encoded
from macloom.rtl import verilator
from macloom.rtl.catalog import accumulator_for, build
from macloom.rtl.export import verilog
from macloom.rtl.float_units import rounder
from macloom.rtl.floats import FP32_REGISTER
from macloom.rtl.pe.mac import Mac, mac_pe, mac_step, operand_ports, pe, products
from macloom.rtl.pe.register import FixedPointRegister, accumulate
from macloom.rtl.simulation import check_exhaustively, mismatches, run_unit, some_inputs
from macloom.rtl.unit import Unit

CASES = [("int4", 9), ("int4", 32), ("int8", 32), ("ovp4", 20), ("ovp4:normal=flint4", 24), ("ovp8", 44),
         ("flint4", 16), ("fp4_e2m1", 12), ("fp8_e4m3", 40), ("pot4", 18),
         ("ternary", 8), ("nf4", 53), ("uint4", 16)]  # fmt: skip


def mac(name: str, bits: int, overflow: str) -> Mac:
    ports = operand_ports(get_format(name))
    register = IntegerAccumulator(bits=bits, overflow=IntegerOverflow(overflow), every="mac")
    return Mac(a=ports, b=ports, accumulator=register)


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize("name, bits", CASES)
def test_one_step_equals_python_integers(name, bits, overflow):
    design = mac(name, bits, overflow)
    unit = mac_step(design)
    inputs = some_inputs(unit, 3000)
    cares = unit.cares(inputs)["next"] if unit.cares else np.ones(3000, bool)
    made = run_unit(unit, inputs)["next"].tolist()
    half = 1 << (bits - 1)
    columns = [inputs[p.name].tolist() for p in unit.inputs]
    for (ea, sa, eb, sb, total), got, legal in zip(zip(*columns, strict=True), made, cares, strict=True):
        if not legal:
            continue
        exact = total + (sa * sb << (ea + eb))
        expected = (exact + half) % (2 * half) - half if overflow == "wrap" else max(-half, min(half - 1, exact))
        assert got == expected
    assert cares.sum() > 500


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize("name, bits", CASES)
def test_a_running_element_equals_its_model(name, bits, overflow):
    _, wrong = check_exhaustively(mac_pe(mac(name, bits, overflow)), count=4000)
    assert not len(wrong)


@pytest.mark.parametrize("text", ["int12:wrap,every=mac", "int12:saturate,every=mac"])
def test_registers_step_as_those_of_the_arithmetic_room(text):
    accumulator = get_accumulator(text)
    assert isinstance(accumulator, IntegerAccumulator)
    rng = np.random.default_rng(1)
    state, total = accumulator.initial(), 0
    for product in rng.integers(-1500, 1500, 300).tolist():
        state, total = accumulator.step(state, product), int(accumulate(accumulator, total, product))
        assert accumulator.final(state) == total


def test_products_of_pairs_are_products_of_values():
    fmt = get_format("fp8_e4m3")
    assert fmt.element is not None
    ports, values = operand_ports(fmt), fmt.element.values
    unit = build(fmt, "decoder")
    codes = np.flatnonzero(np.isfinite(values))
    pairs = unit.model({"code": codes})
    grid = np.meshgrid(np.arange(len(codes)), np.arange(len(codes)))
    inputs = {
        f"{part}_{n}": pairs[part][index]
        for n, index in zip("ab", grid, strict=True)
        for part in ("exponent", "significand")
    }
    expected = values[codes[grid[0]]] * values[codes[grid[1]]]
    np.testing.assert_array_equal(np.ldexp(products(inputs).astype(float), 2 * ports.offset), expected)


@pytest.mark.skipif(not verilator.available(), reason="verilator, g++, make or perl is missing")
def test_verilator_runs_the_clocked_elements_alike_and_rejects_a_mutant():
    good = [pe(get_format(n), get_format(n)) for n in ("int4", "int8", "ovp4", "pot4", "ternary")]
    design = mac("int4", 9, "wrap")
    # A register that saturates, held to the model of one that wraps.
    mutant = replace(mac_pe(mac("int4", 9, "saturate"), "mutant"), model=mac_pe(design).model)
    units: list[Unit] = [*good, mutant]
    assert all(verilator.lint(verilog(unit)) == [] for unit in units)
    verdicts = verilator.cross_simulate(units, count=4000)
    assert {m: v.split()[0] for m, v in verdicts.items()} == {u.module: "PASS" for u in good} | {"mutant": "FAIL"}


def test_registers_that_hardware_cannot_have_are_refused():
    ports = operand_ports(get_format("int8"))
    with pytest.raises(MacloomError, match="must hold one product, which takes 16 bits, not 12"):
        Mac(a=ports, b=ports, accumulator=IntegerAccumulator(bits=12))
    with pytest.raises(MacloomError, match="hardware wraps or saturates; choose 'wrap' or 'saturate', not 'error'"):
        Mac(a=ports, b=ports, accumulator=IntegerAccumulator(overflow=IntegerOverflow.ERROR))
    with pytest.raises(MacloomError, match="elements saturate at every product; choose 'int20:saturate,every=mac'"):
        Mac(a=ports, b=ports, accumulator=IntegerAccumulator(bits=20, overflow=IntegerOverflow.SATURATE))
    wide = operand_ports(get_format("fp8_e5m2"))
    with pytest.raises(MacloomError, match="takes 68 bits, not 53; take the fixed-point register 'exact'"):
        Mac(a=wide, b=wide, accumulator=IntegerAccumulator(bits=53))


@pytest.mark.parametrize("name", ["fp8_e5m2", "fp16", "bf16", "posit16_2"])
def test_fixed_point_registers_hold_what_exact_accumulators_do(name):
    fmt, rng = get_format(name), np.random.default_rng(4)
    element = fmt.element
    assert element is not None
    register = accumulator_for(fmt)
    assert isinstance(register, FixedPointRegister)
    ports, depth = operand_ports(fmt), 24
    finite = np.flatnonzero(np.isfinite(element.values))
    codes = [finite[rng.integers(0, len(finite), (2, depth))].astype(np.uint16) for _ in "ab"]
    codes = [c.astype(np.uint8) if element.bits <= 8 else c for c in codes]
    codes[0][:, 0] = finite[np.argmax(element.values[finite])]  # sums of the largest magnitudes, and what cancels them
    codes[0][1, 1], codes[1][1, :2] = finite[np.argmin(element.values[finite])], codes[0][0, 0]
    a, b = (Encoded(fmt, c.shape, c, np.ones((), np.float32)) for c in codes)
    pairs = [build(fmt, "decoder").model({"code": c.astype(np.int64).ravel()}) for c in codes]
    order = [np.repeat([0, 1], 2), np.tile([0, 1], 2)]
    inputs = {
        f"{part}_{n}": np.append(pair[part].reshape(2, depth)[rows].ravel(), 0)
        for n, pair, rows in zip("ab", pairs, order, strict=True)
        for part in ("exponent", "significand")
    }
    inputs |= {"clear": (np.arange(4 * depth + 1) % depth == 0) * 1, "valid": np.append(np.ones(4 * depth, int), 0)}
    sums = run_unit(build(fmt, "pe"), inputs)["sum"][depth::depth]
    unit = rounder(register.bits, 2 * ports.offset)
    values = FP32_REGISTER.values_of(run_unit(unit, {"sum": sums})["y"]).reshape(2, 2)
    np.testing.assert_array_equal(values, macloom.gemm(a, b, "exact"))


def test_a_wide_register_whose_shifter_lacks_its_last_stage_is_noticed():
    ports = operand_ports(get_format("fp8_e5m2"))
    unit = mac_pe(Mac(a=ports, b=ports, accumulator=FixedPointRegister(bits=78)))
    inputs = some_inputs(unit, 600)
    assert not len(mismatches(unit, inputs, run_unit(unit, inputs)))

    def circuit(wires):
        exponent = wires["exponent_a"]
        return {**unit.circuit({**wires, "exponent_a": exponent[:-1].zero_extended(len(exponent))})}

    made = run_unit(replace(unit, circuit=circuit), inputs)
    assert len(mismatches(unit, inputs, made | {"exponent_a_out": run_unit(unit, inputs)["exponent_a_out"]}))
