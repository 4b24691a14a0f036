"""Areas and leakage: the sources' own numbers, and how they scale."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from macloom.arch import (
    AccumulatorKind,
    ProcessingElement,
    Provenance,
    Quantity,
    base_cost,
    decoder_area_um2,
    element_area_um2,
    gate_area_um2,
    leakage_w,
    list_accelerators,
    list_technologies,
    load_accelerator,
    load_technology,
    logic_leakage_w,
    sram_area_um2,
    sram_leakage_w,
)
from macloom.arch.gate_costs import gate_costs
from macloom.errors import MacloomError

KIB = 8192  # bits


def known(quantity: Quantity | None) -> Quantity:
    assert quantity is not None
    return quantity


TABLES = {name: load_technology(name) for name in list_technologies()}

# CACTI: bytes, leakage in mW and area in mm2 of one bank; 28 nm as ANT caches it, 45 nm as BitFusion does.
CACTI = {
    "28nm": {128: (0.127708, 0.0010256), 4096: (2.96594, 0.046067), 8192: (5.4983, 0.055584)},
    "45nm": {128: (0.249588, 0.00149898), 4096: (7.30186, 0.0300607), 8192: (13.6943, 0.0575061)},
}


@pytest.mark.parametrize("node", CACTI)
def test_sram_is_cactis_8_kib_bank_and_its_bounds_hold_the_other_banks(node: str) -> None:
    for size, (milliwatts, mm2) in CACTI[node].items():
        leakage = known(sram_leakage_w(TABLES[node], size * 8))
        area = known(sram_area_um2(TABLES[node], size * 8))
        assert leakage.low <= milliwatts * 1e-3 <= leakage.high * 1.001
        assert area.low * 0.999 <= mm2 * 1e6 <= area.high * 1.001
        if size == 8192:
            assert leakage.value == pytest.approx(milliwatts * 1e-3, rel=1e-3)
            assert area.value == pytest.approx(mm2 * 1e6, rel=1e-3)


def test_the_buffers_of_ants_simulator_leak_what_it_would_charge() -> None:
    # 32 banks of 8 KiB, 32 of 4 KiB and 1024 of 128 B leak 0.803257344 nJ in a cycle of 2 ns in ANT's code.
    leakage = known(sram_leakage_w(TABLES["28nm"], 512 * KIB))
    assert leakage.low < 0.803257344 / 2 < leakage.high
    assert leakage.value == pytest.approx(0.803257344 / 2, rel=0.15)


def test_leakage_of_memories_falls_from_node_to_node_and_meets_the_line_between_them() -> None:
    by_node = [known(sram_leakage_w(TABLES[n], KIB)).value for n in ("45nm", "28nm", "22nm", "16nm", "7nm")]
    assert by_node == sorted(by_node, reverse=True)
    slope = math.log(by_node[0] / by_node[1]) / math.log(45 / 28)
    assert by_node[2] == pytest.approx(by_node[1] * (22 / 28) ** slope, rel=0.03)  # CACTI's own 22 nm: 2 % beside


def test_logic_is_bitfusions_synthesis_at_45_nm() -> None:
    element = ProcessingElement(significand_bits=8, gates="int8")
    area = known(element_area_um2(TABLES["45nm"], element))
    assert (area.value, area.kind) == (687.6, Provenance.PUBLISHED)
    leakage = known(logic_leakage_w(TABLES["45nm"], area))
    assert leakage.value == pytest.approx(22952e-9, rel=1e-3)


@pytest.mark.parametrize(
    ("node", "name"), [(n, name) for n in (28, 22, 16) for name in ("int8_mac_area", "logic_leakage")]
)
def test_scaled_logic_lies_on_the_line_between_45_and_7_nm(node: int, name: str) -> None:
    old, new = TABLES["45nm"].constant(name).value, TABLES["7nm"].constant(name).value
    weight = math.log(45 / node) / math.log(45 / 7)
    constant = TABLES[f"{node}nm"].constant(name)
    assert constant.value == pytest.approx(old * (new / old) ** weight, rel=2e-3)
    assert constant.kind is Provenance.SCALED
    if name == "int8_mac_area":
        assert constant.low == pytest.approx(687.6 * (node / 45) ** 2, rel=1e-3)


def test_olives_published_8_bit_element_lies_between_the_two_scaling_models() -> None:
    area = known(element_area_um2(TABLES["28nm"], ProcessingElement(significand_bits=8, gates="int8")))
    assert area.low < 4 * 79.57 < area.value


def test_elements_without_gates_are_as_large_as_their_energy() -> None:
    by_widths = known(element_area_um2(TABLES["22nm"], ProcessingElement(significand_bits=8)))
    named = known(element_area_um2(TABLES["22nm"], ProcessingElement(significand_bits=8, gates="int8")))
    assert by_widths.value == pytest.approx(named.value)
    float_element = ProcessingElement(significand_bits=12, exponent_bits=5, accumulator=AccumulatorKind.FLOAT)
    wide = known(element_area_um2(TABLES["22nm"], float_element))
    assert wide.value > 5 * named.value
    assert wide.kind is Provenance.ESTIMATED


def test_gates_scale_with_transistors_and_flip_flops() -> None:
    row, base = gate_costs("ovp4")["mac"], base_cost()
    area = known(gate_area_um2(TABLES["45nm"], row))
    registers = 4 * 4.522 / 0.798
    wanted = (row.transistors[0] + row.flip_flops * registers) / (base.transistors[0] + base.flip_flops * registers)
    assert area.value == pytest.approx(687.6 * wanted)
    assert (area.low, area.high) == pytest.approx((0.8 * area.value, 1.2 * area.value))


def test_decoders_without_a_row_have_the_published_ratio() -> None:
    area = known(decoder_area_um2(TABLES["45nm"], 8, 2))
    assert area.value == pytest.approx(687.6 / 4 * 60.29 / 79.57)


@pytest.mark.parametrize("name", list_accelerators())
@pytest.mark.parametrize("technology", list_technologies())
def test_every_preset_at_every_node_knows_its_leakage(name: str, technology: str) -> None:
    machine = replace(load_accelerator(name), technology=TABLES[technology])
    for power in leakage_w(machine).values():
        assert 0 < power.low <= power.value <= power.high
    assert set(leakage_w(machine)) == {"buffers", "elements"}


def test_a_table_without_these_constants_knows_no_area_and_no_leakage() -> None:
    full = TABLES["45nm"]
    kept = {
        n: c for n, c in full.constants.items() if not n.startswith(("int8_mac_area", "logic_", "sram_a", "sram_l"))
    }
    bare = replace(full, constants=kept)
    machine = replace(load_accelerator("int8-sa"), technology=bare)
    assert leakage_w(machine) == {}
    assert sram_area_um2(bare, KIB) is None
    assert element_area_um2(bare, machine.array.pe) is None
    assert logic_leakage_w(bare, known(element_area_um2(full, machine.array.pe))) is None


def test_an_element_whose_gates_are_not_in_the_table_is_never_born() -> None:
    message = "arch.array.pe.gates: unknown name 'int9'; did you mean 'int8', 'int4'"
    with pytest.raises(MacloomError, match=message):
        ProcessingElement(significand_bits=8, gates="int9")
    with pytest.raises(MacloomError, match="size_bits: must be a positive integer, not 0"):
        sram_leakage_w(TABLES["45nm"], 0)
