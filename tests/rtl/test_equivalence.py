"""Proofs by SAT: decoders against the truth tables of the software, elements against hand-written Verilog."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format, list_formats
from macloom.formats.accumulator import IntegerAccumulator, get_accumulator
from macloom.formats.outliers.ovp import Ovp
from macloom.rtl import yosys
from macloom.rtl.catalog import build
from macloom.rtl.equivalence import prove_by_induction, prove_tables
from macloom.rtl.formats.decoder import decoder
from macloom.rtl.pe.mac import Mac, mac_pe, operand_ports
from macloom.rtl.unit import Unit

pytestmark = pytest.mark.skipif(not yosys.available(), reason="yosys is missing")
REFERENCE = (Path(__file__).parent / "reference_pe.v").read_text()


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


def test_a_table_with_one_wrong_bit_is_rejected_with_its_input():
    unit = build(get_format("ovp4"), "decoder")

    def model(inputs):
        made = {name: values.copy() for name, values in unit.model(inputs).items()}
        made["significand1"][inputs["pair"] == 0x8A] ^= 1
        return made

    assert prove_tables([unit], tables=[replace(unit, model=model)]) == {"ovp4_decoder": f"differs at input {0x8A}"}


CASES = [
    ("int4", "int4", "int16"),
    ("int4", "int4", "int9:saturate,every=mac"),
    ("ovp4", "ovp4", "int20"),
    ("ovp4", "int4", "int16:saturate,every=mac"),
    ("fp4_e2m1", "fp4_e2m1", "int12"),
    ("flint4", "flint4", "int16"),
    ("pot4", "int4", "int16"),
    ("ternary", "int4", "int12:saturate,every=mac"),
    ("int8", "int8", "int20"),
]


def element(a: str, b: str, accumulator: str) -> Mac:
    register = get_accumulator(accumulator)
    assert isinstance(register, IntegerAccumulator)
    return Mac(a=operand_ports(get_format(a)), b=operand_ports(get_format(b)), accumulator=register)


def proved(mac: Mac, saturate: bool, unit: Unit | None = None) -> bool:
    sizes = {"EA": mac.a.exponent_bits, "SA": mac.a.significand_bits, "EB": mac.b.exponent_bits}
    sizes |= {"SB": mac.b.significand_bits, "BITS": mac.accumulator.bits, "SATURATE": int(saturate)}
    legal = {}
    for name, ports in (("a", mac.a), ("b", mac.b)):
        top = ports.top - ports.offset
        legal[f"exponent_{name}"] = f"raw > {top} ? {top} : raw"
        if ports.significand_bits == 2:
            legal[f"significand_{name}"] = "raw == 2'b10 ? 2'b11 : raw"
    return prove_by_induction(unit or mac_pe(mac, "unit_pe"), REFERENCE, "reference_pe", sizes, legal)


@pytest.mark.parametrize("a, b, accumulator", CASES)
def test_elements_are_proved_equal_to_hand_written_verilog(a, b, accumulator):
    assert proved(element(a, b, accumulator), "saturate" in accumulator)


def test_an_element_with_another_overflow_or_a_wrong_shift_is_rejected():
    mac = element("ovp4", "ovp4", "int18")
    assert not proved(mac, saturate=True)
    assert not proved(mac, saturate=False, unit=_shifted(mac))


def _shifted(mac: Mac) -> Unit:
    """The element with operand A's exponent off by one wherever it is 5."""
    unit = mac_pe(mac, "unit_pe")

    def circuit(inputs):
        exponent = inputs["exponent_a"]
        return unit.circuit({**inputs, "exponent_a": exponent ^ (exponent == 5).zero_extended(len(exponent))})

    return replace(unit, circuit=circuit)


def test_yosys_says_what_is_wrong_with_a_script():
    with pytest.raises(MacloomError, match="rtl: yosys failed"):
        yosys.run("read_verilog absent.v\n", {})
