"""Proofs: decoders against the truth tables of the software, other units against hand-written Verilog, and mutants."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.explore.verify_rtl_proofs import (
    GROUPS,
    Group,
    check,
    element,
    every_element,
    rejected,
    small_encoders,
    table_check,
)
from macloom.formats import get_format, list_formats
from macloom.formats.outliers.ovp import Ovp
from macloom.rtl import abc, yosys
from macloom.rtl.catalog import build
from macloom.rtl.equivalence import PROVED, prove, prove_tables
from macloom.rtl.formats.decoder import decoder
from macloom.rtl.mutants import mutant, mutated, places
from macloom.rtl.proofs import element_proof, fused_proof
from macloom.rtl.reference import names, source
from macloom.rtl.simulation import mismatches, run_unit, some_inputs
from macloom.rtl.unit import Unit, elaborate

pytestmark = pytest.mark.skipif(not yosys.available(), reason="yosys is missing")
needs_abc = pytest.mark.skipif(not abc.available(), reason="abc is missing")


def small_decoders() -> list[Unit]:
    """The decoder of every element format of at most 8 bits in the catalog, and of 4-bit pairs."""
    found: dict[str, Unit] = {}
    for name in list_formats():
        fmt = get_format(name)
        if isinstance(fmt, Ovp) and fmt.decoder_bits <= 8:
            unit = build(fmt, "decoder")
        elif fmt.element is not None and fmt.element.bits <= 8:
            unit = decoder(fmt.element)
        else:
            continue
        found.setdefault(unit.module, unit)
    return list(found.values())


def test_every_decoder_of_up_to_8_bits_is_proved_equal_to_the_software_s_truth_table():
    units = small_decoders()
    assert len(units) > 30
    verdicts = prove_tables(units)
    assert verdicts == {unit.module: "proved" for unit in units}


def test_encoders_of_8_bit_operands_are_proved_equal_to_the_software_s_truth_table_and_a_mutant_is_rejected():
    assert len(small_encoders()) > 80
    found = table_check("encoders", small_encoders, 20)
    assert (found.cases, found.mismatches) == (6, 0)


def test_a_table_with_one_wrong_bit_is_rejected_with_its_input():
    unit = build(get_format("ovp4"), "decoder")

    def model(inputs):
        made = {name: values.copy() for name, values in unit.model(inputs).items()}
        made["significand1"][inputs["pair"] == 0x8A] ^= 1
        return made

    assert prove_tables([unit], tables=[replace(unit, model=model)]) == {"ovp4_decoder": f"differs at input {0x8A}"}


@needs_abc
@pytest.mark.parametrize("name", GROUPS)
def test_units_are_proved_equal_to_hand_written_verilog_and_a_mutant_is_rejected(name):
    found = check(name, exhaustive=False)
    assert found.cases == len(GROUPS[name].default()) + 1
    assert (found.mismatches, found.note[:6]) == (0, "a case")


@needs_abc
def test_a_row_says_which_proof_failed_and_whether_a_mutant_passed(monkeypatch):
    good = element_proof(element("int4", "int4", "int9"), "plain")
    wrong = replace(good, parameters={**good.parameters, "SATURATE": 1})
    monkeypatch.setitem(GROUPS, "test", Group(default=lambda: [wrong], how="by test"))
    monkeypatch.setattr("macloom.explore.verify_rtl_proofs.mutant", lambda unit: (0, 1))
    monkeypatch.setattr("macloom.explore.verify_rtl_proofs.mutated", lambda unit, place: elaborate(unit))
    found = check("test", exhaustive=False)
    assert found.cases == found.mismatches + 1 == 2
    assert found.note.startswith("plain: differs at exponent_a=0, significand_a=")
    assert rejected(good, 60) == "accepted or undecided: proved"


@needs_abc
def test_an_element_with_another_overflow_or_a_wrong_shift_is_rejected_with_inputs_that_show_it():
    proof = element_proof(element("ovp4", "ovp4", "int18"))
    verdict = prove(replace(proof, parameters={**proof.parameters, "SATURATE": 1}))
    assert verdict.startswith("differs at exponent_a=")
    assert "; then exponent_a=" in verdict
    assert prove(replace(proof, unit=_shifted(proof.unit))).startswith("differs at exponent_a=5, ")


def _shifted(unit: Unit) -> Unit:
    """The element with operand A's exponent off by one wherever it is 5."""

    def circuit(inputs):
        exponent = inputs["exponent_a"]
        return unit.circuit({**inputs, "exponent_a": exponent ^ (exponent == 5).zero_extended(len(exponent))})

    return replace(unit, circuit=circuit)


@needs_abc
def test_counterexamples_are_inputs_on_which_the_unit_and_its_model_differ():
    proof = element_proof(element("int4", "int4", "int9:saturate,every=mac"))
    fused = fused_proof(2)
    place, wrong = mutant(fused.unit)
    assert 0 < wrong < 200
    verdict = prove(fused, mutated(fused.unit, place))
    values = {name: np.array([int(x)]) for name, x in re.findall(r"(\w+)=(-?\d+)", verdict)}
    made = run_unit(fused.unit, values, mutated(fused.unit, place))
    assert len(mismatches(fused.unit, values, made)) == 1
    assert set(values) == {"a", "b", "wide"}
    assert prove(proof) == PROVED


@needs_abc
def test_a_proof_that_takes_too_long_is_no_proof():
    assert prove(fused_proof(6), seconds=0.2) == "not proved in 0 s"


def test_the_exhaustive_proofs_are_of_every_different_element_of_up_to_8_bits():
    made = {proof.unit.facts["product_bits"] for proof in every_element()}
    assert len(every_element()) > 25
    for name in ("int8", "ovp8", "fp8_e4m3", "fp8_e5m2", "posit8_2", "nf4", "hif8", "ternary"):
        assert element(name, name).product_bits in made


def test_mutants_differ_in_one_operator_and_show():
    unit = fused_proof(2).unit
    inputs = some_inputs(unit, 2000)
    assert places(unit) == 9
    place, wrong = mutant(unit)
    assert len(mismatches(unit, inputs, run_unit(unit, inputs, mutated(unit, place)))) == wrong > 0
    assert not len(mismatches(unit, inputs, run_unit(unit, inputs)))
    deaf = replace(unit, model=unit.model, cares=lambda values: {"product": np.zeros(len(values["a"]), bool)})
    with pytest.raises(MacloomError, match="none of 8 exchanged operators shows on 512 vectors"):
        mutant(deaf)


def test_references_are_found_by_name():
    assert names() == sorted(names())
    assert "element" in names()
    assert all(f"module reference_{name}" in source(name) for name in names() if name != "float")
    with pytest.raises(MacloomError, match="reference: unknown name 'elemnt'; did you mean 'element'"):
        source("elemnt")


def test_a_missing_abc_is_an_error_that_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(abc, "_program", lambda: None)
    assert not abc.available()
    with pytest.raises(MacloomError, match=r"need abc, which comes with pyosys: pip install 'macloom\[rtl\]'"):
        abc.run("quit", tmp_path, 1)


def test_yosys_says_what_is_wrong_with_a_script():
    with pytest.raises(MacloomError, match="rtl: yosys failed"):
        yosys.run("read_verilog absent.v\n", {})
