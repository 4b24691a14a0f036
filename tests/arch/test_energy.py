"""Energies per event: the published points, the laws between them, and where each number comes from."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macloom.arch import (
    Provenance,
    Quantity,
    add_energy_j,
    decoder_energy_j,
    dram_energy_j_per_bit,
    float_add_energy_j,
    float_multiply_energy_j,
    list_technologies,
    load_technology,
    multiply_energy_j,
    shift_energy_j,
    sram_energy_j_per_bit,
)
from macloom.errors import MacloomError

KIB = 8192  # bits
N45, N7 = load_technology("45nm"), load_technology("7nm")
TABLES = [load_technology(name) for name in list_technologies()]

# Horowitz, ISSCC 2014, and Jouppi et al., ISCA 2021, Table 2, in pJ; SRAM per 64-bit access.
PUBLISHED = {
    "int8_add": (0.03, 0.007),
    "int32_add": (0.1, 0.03),
    "int8_multiply": (0.2, 0.07),
    "int32_multiply": (3.1, 1.48),
    "fp16_add": (0.4, 0.16),
    "fp16_multiply": (1.1, 0.34),
    "fp32_add": (0.9, 0.38),
    "fp32_multiply": (3.7, 1.31),
    "sram_64_bit_8_kib": (10, 7.5),
    "sram_64_bit_32_kib": (20, 8.5),
    "sram_64_bit_1024_kib": (100, 14),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_hold_the_published_values(name):
    for table, value in zip((N45, N7), PUBLISHED[name], strict=True):
        constant = table.constant(name)
        assert constant.value == pytest.approx(value * 1e-12, rel=1e-12)
        assert constant.kind is Provenance.PUBLISHED
        assert constant.node_nm == table.node_nm


@pytest.mark.parametrize("node, factor", [(28, 0.507), (22, 0.305), (16, 0.187)])
@pytest.mark.parametrize("name", PUBLISHED)
def test_scaled_tables_are_interpolated_between_the_published_ones(name, node, factor):
    constant = load_technology(f"{node}nm").constant(name)
    old, new = PUBLISHED[name]
    weight = math.log(45 / node) / math.log(45 / 7)
    assert constant.value == pytest.approx(1e-12 * old * (new / old) ** weight, rel=1e-3)
    assert constant.kind is Provenance.SCALED
    if name.startswith("sram"):  # never scaled with the logic factor
        assert (constant.low, constant.high) == pytest.approx((new * 1e-12, old * 1e-12))
    else:
        assert constant.low == pytest.approx(1e-12 * old * factor, rel=1e-3)


def test_stillmaker_baas_factors_are_linear_between_32_and_20_nm():
    for node, factor in [(28, 0.507), (22, 0.305)]:
        assert 0.238 + (0.641 - 0.238) * (node - 20) / 12 == pytest.approx(factor, abs=5e-4)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_every_constant_says_where_it_comes_from(table):
    for name, constant in table.constants.items():
        assert len(constant.source) > 40, name
        assert isinstance(constant.kind, Provenance)
        if constant.kind is not Provenance.SCALED and name in PUBLISHED:
            assert "not re-read" in constant.source  # nobody has checked these against the paper yet


def test_energy_falls_from_node_to_node():
    by_node = sorted(TABLES, key=lambda t: -t.node_nm)
    assert [t.node_nm for t in by_node] == [45, 28, 22, 16, 7]
    for name in PUBLISHED:
        values = [t.constant(name).value for t in by_node]
        assert values == sorted(values, reverse=True), name


def test_multiply_law_meets_the_table_and_predicts_int32():
    assert multiply_energy_j(N45, 8, 8) == Quantity(
        value=N45.constant("int8_multiply").value, kind=Provenance.PUBLISHED
    )
    assert multiply_energy_j(N45, 32, 32).value == N45.constant("int32_multiply").value
    assert multiply_energy_j(N45, 4, 4).value == pytest.approx(0.05e-12)
    assert multiply_energy_j(N45, 4, 8).value == pytest.approx(0.1e-12)
    assert multiply_energy_j(N45, 4, 4).kind is Provenance.ESTIMATED
    # The law from int8 alone: 16 x 0.2 = 3.2 pJ, published 3.1 pJ.
    assert 16 * multiply_energy_j(N45, 8, 8).value == pytest.approx(multiply_energy_j(N45, 32, 32).value, rel=0.04)


def test_add_law_by_hand():
    assert add_energy_j(N45, 8) == Quantity(value=N45.constant("int8_add").value, kind=Provenance.PUBLISHED)
    assert add_energy_j(N45, 4).value == pytest.approx(0.015e-12)
    assert add_energy_j(N45, 20).value == pytest.approx(0.065e-12)
    assert add_energy_j(N45, 64).value == pytest.approx(0.2e-12)
    assert add_energy_j(N45, 20).kind is Provenance.ESTIMATED


def test_float_law_meets_both_table_values():
    for energy, name in [(float_multiply_energy_j, "multiply"), (float_add_energy_j, "add")]:
        for bits in (16, 32):
            assert energy(N7, bits).value == N7.constant(f"fp{bits}_{name}").value
            assert energy(N7, bits).kind is Provenance.PUBLISHED
        assert energy(N7, 24).kind is Provenance.ESTIMATED
        assert not energy(N7, 24).extrapolated
        assert energy(N7, 8).extrapolated
    # Geometric mean of the two published values at the geometric mean of the widths (16 * sqrt 2 is 22.6).
    expected = 1.1 * (3.7 / 1.1) ** math.log2(24 / 16)
    assert float_multiply_energy_j(N45, 24).value == pytest.approx(expected * 1e-12)


def test_shifter_is_stages_of_multiplexers():
    add = add_energy_j(N45, 8).value
    assert shift_energy_j(N45, 8, 1).value == 0
    assert shift_energy_j(N45, 8, 2).value == pytest.approx(add * 4 / 9)
    assert shift_energy_j(N45, 8, 16).value == pytest.approx(add * 4 * 4 / 9)
    assert shift_energy_j(N45, 8, 17).value == pytest.approx(add * 5 * 4 / 9)
    assert shift_energy_j(N45, 8, 16).kind is Provenance.ESTIMATED


def test_decoder_energy_is_the_area_ratio_times_the_energy_of_an_exponent_integer_pe():
    # By hand at 45 nm: 4 x 4 multiply 0.05, 4-bit add 0.015, 8-bit shift 4 stages x 4/9 x 0.03, 32-bit add 0.1 pJ.
    pe = (0.05 + 0.015 + 4 * 4 / 9 * 0.03 + 0.1) * 1e-12
    assert decoder_energy_j(N45, 8, 2).value == pytest.approx(pe * 60.29 / 79.57)
    assert decoder_energy_j(N45, 16, 2).value == pytest.approx(pe * 80.18 / 79.57)
    assert decoder_energy_j(N45, 12, 2).value == pytest.approx(pe * (60.29 + 80.18) / 2 / 79.57)
    assert decoder_energy_j(N45, 4, 2).value == pytest.approx(pe * 60.29 / 2 / 79.57)
    assert decoder_energy_j(N45, 4).value == pytest.approx(pe * 4.9 / 79.57)
    assert decoder_energy_j(N45, 8).value == pytest.approx(pe * 9.8 / 79.57)
    assert decoder_energy_j(N45, 0) == Quantity(value=0.0, kind=Provenance.PUBLISHED)
    assert decoder_energy_j(N45, 8, 2).kind is Provenance.ESTIMATED


def test_sram_energy_at_between_and_outside_the_published_sizes():
    assert sram_energy_j_per_bit(N45, 8 * KIB) == Quantity(value=10e-12 / 64, kind=Provenance.PUBLISHED)
    between = sram_energy_j_per_bit(N45, 16 * KIB)  # half way in log size: geometric mean
    assert between.value == pytest.approx(math.sqrt(10 * 20) * 1e-12 / 64)
    assert (between.kind, between.extrapolated) == (Provenance.SCALED, False)
    below = sram_energy_j_per_bit(N45, 2 * KIB)
    assert below.value == pytest.approx(5e-12 / 64)
    assert (below.kind, below.extrapolated) == (Provenance.ESTIMATED, True)
    above = sram_energy_j_per_bit(N45, 32 * 1024 * KIB)  # one step of 32 to 1024 KiB further
    assert above.value == pytest.approx(500e-12 / 64)
    assert above.extrapolated


def test_dram_energy_does_not_change_with_the_logic_node():
    for kind in N45.dram_kinds:
        assert {dram_energy_j_per_bit(t, kind) for t in TABLES} == {dram_energy_j_per_bit(N45, kind)}
    assert dram_energy_j_per_bit(N45, "hbm2") == Quantity(value=3.9e-12, kind=Provenance.PUBLISHED, high=450e-12 / 64)
    assert dram_energy_j_per_bit(N45, "lpddr5-6400").kind is Provenance.ESTIMATED


def test_quantities_add_and_keep_the_weakest_origin():
    strong = Quantity(value=2.0, kind=Provenance.MEASURED)
    weak = Quantity(value=1.0, kind=Provenance.SCALED, extrapolated=True)
    assert strong + weak == Quantity(value=3.0, kind=Provenance.SCALED, extrapolated=True)
    assert 3 * strong == strong * 3 == Quantity(value=6.0, kind=Provenance.MEASURED)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: multiply_energy_j(N45, 0, 8), "significand_bits_a: must be a positive integer, not 0"),
        (lambda: multiply_energy_j(N45, 8, -2), "significand_bits_b: must be a positive integer, not -2"),
        (lambda: add_energy_j(N45, -1), "bits: must be a positive integer, not -1"),
        (lambda: float_add_energy_j(N45, 0), "bits: must be a positive integer, not 0"),
        (lambda: shift_energy_j(N45, 8, 0), "positions: must be a positive integer, not 0"),
        (lambda: shift_energy_j(N45, 0, 8), "bits: must be a positive integer, not 0"),
        (lambda: decoder_energy_j(N45, -8), "decoder_bits: must be a positive integer, not -8"),
        (lambda: decoder_energy_j(N45, 8, 3), "decoder_elements: must be 1 or 2, not 3"),
        (lambda: sram_energy_j_per_bit(N45, 0), "size_bits: must be a positive integer, not 0"),
        (
            lambda: dram_energy_j_per_bit(N45, "hmb2"),
            "dram kind: unknown name 'hmb2'; did you mean 'hbm2', 'hbm2e', 'hbm3'? (technology 45nm)",
        ),
    ],
)
def test_arguments_that_mean_nothing_raise(call, message):
    with pytest.raises(MacloomError) as caught:
        call()
    assert str(caught.value) == message


@given(st.sampled_from(TABLES), st.integers(1, 40), st.integers(1, 40))
def test_wider_never_costs_less(table, bits, other):
    assert multiply_energy_j(table, bits, other).value <= multiply_energy_j(table, bits + 1, other).value
    assert multiply_energy_j(table, bits, other).value == multiply_energy_j(table, other, bits).value
    assert 0 < add_energy_j(table, bits).value <= add_energy_j(table, bits + 1).value
    assert float_add_energy_j(table, bits).value <= float_add_energy_j(table, bits + 1).value
    assert shift_energy_j(table, bits, other).value <= shift_energy_j(table, bits + 1, other + 1).value
    assert decoder_energy_j(table, bits, 2).value <= decoder_energy_j(table, bits + 1, 2).value


@given(st.sampled_from(TABLES), st.integers(1, 2**30), st.integers(1, 2**30))
def test_larger_memories_never_cost_less(table, size, other):
    small, large = sorted((size, other))
    small_j, large_j = (sram_energy_j_per_bit(table, s).value for s in (small, large))
    assert 0 < small_j <= large_j * (1 + 1e-12)
