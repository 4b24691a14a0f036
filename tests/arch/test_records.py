"""The records of the room: valid at birth, or one message."""

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from macloom.arch import (
    AccumulatorKind,
    Array,
    Buffers,
    Constant,
    Dataflow,
    Dram,
    ProcessingElement,
    Provenance,
    Sram,
    VectorUnit,
    load_accelerator,
    load_technology,
)
from macloom.errors import MacloomError

PE = ProcessingElement(significand_bits=8)
ARRAY = Array(rows=4, cols=4, pe=PE)
SRAM = Sram(size_bits=1024, bandwidth_bits_per_cycle=64)
CONSTANT = Constant(value=1e-12, unit="J", kind=Provenance.PUBLISHED, source="a book", node_nm=45.0, voltage_v=None)


def test_text_becomes_a_member():
    array = Array(rows=2, cols=2, pe=replace(PE, accumulator="float"), dataflow="ws")  # pyright: ignore[reportArgumentType]
    assert array.dataflow is Dataflow.WS
    assert array.pe.accumulator is AccumulatorKind.FLOAT


def test_derived_sizes():
    assert Array(rows=6, cols=5, pe=PE).pes == Array(rows=6, cols=5, pe=PE).peak_macs_per_cycle == 30
    assert SRAM.usable_bits == 512
    assert replace(SRAM, double_buffered=False).usable_bits == 1024
    assert Buffers(operand_a=SRAM, operand_b=SRAM, output=replace(SRAM, size_bits=8)).size_bits == 2056


def test_accelerator_peaks():
    accelerator = load_accelerator("olive-sa")
    assert accelerator.peak_macs_per_s == 64 * 64 * 500e6
    assert accelerator.dram_bits_per_cycle == 1024


def test_records_are_frozen_hashable_and_can_be_sent_to_another_process():
    accelerator = load_accelerator("int8-sa")
    with pytest.raises(FrozenInstanceError):
        accelerator.clock_hz = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    twin = pickle.loads(pickle.dumps(accelerator))
    assert twin == accelerator == copy.deepcopy(accelerator)
    assert hash(twin) == hash(accelerator)
    assert replace(accelerator, clock_hz=1e9) != accelerator


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: replace(ARRAY, rows=0), "arch.array.rows: must be a positive integer, not 0"),
        (lambda: replace(ARRAY, cols=2.5), "arch.array.cols: must be a positive integer, not 2.5"),
        (lambda: replace(ARRAY, rows=True), "arch.array.rows: must be a positive integer, not True"),
        (lambda: replace(ARRAY, pe=None), "arch.array.pe: must be a ProcessingElement, not None"),
        (
            lambda: replace(ARRAY, dataflow="so"),
            "arch.array.dataflow: unknown name 'so'; did you mean 'ws', 'os', 'is'?",
        ),
        (
            lambda: replace(ARRAY, dataflow="diagonal"),
            "arch.array.dataflow: unknown name 'diagonal'; known are is, os, ws",
        ),
        (
            lambda: replace(ARRAY, shadow_registers=1),
            "arch.array.shadow_registers: must be true or false, not 1",
        ),
        (
            lambda: replace(ARRAY, border_decoders=None),
            "arch.array.border_decoders: must be true or false, not None",
        ),
        (
            lambda: replace(ARRAY, cols=7, pe=replace(PE, fusable=True)),
            "arch.array.cols: must be even, because the PEs fuse two by two, not 7",
        ),
        (
            lambda: ProcessingElement(significand_bits=0),
            "arch.array.pe.significand_bits: must be a positive integer, not 0",
        ),
        (
            lambda: replace(PE, accumulator_bits=-1),
            "arch.array.pe.accumulator_bits: must be a positive integer, not -1",
        ),
        (
            lambda: replace(PE, exponent_bits=-1),
            "arch.array.pe.exponent_bits: must be zero (no exponent path) or a positive integer, not -1",
        ),
        (
            lambda: replace(PE, accumulator="fixed"),
            "arch.array.pe.accumulator: unknown name 'fixed'; known are float, int",
        ),
        (lambda: replace(PE, fusable="yes"), "arch.array.pe.fusable: must be true or false, not 'yes'"),
        (lambda: replace(PE, block_scaling=0), "arch.array.pe.block_scaling: must be true or false, not 0"),
        (
            lambda: replace(PE, accumulator_bits=15),
            "arch.array.pe.accumulator_bits: must hold a product of 16 bits, not 15",
        ),
        (lambda: replace(SRAM, size_bits=0), "arch.buffers.size_bits: must be a positive integer, not 0"),
        (
            lambda: replace(SRAM, bandwidth_bits_per_cycle=0.5),
            "arch.buffers.bandwidth_bits_per_cycle: must be a positive integer, not 0.5",
        ),
        (
            lambda: replace(SRAM, double_buffered="no"),
            "arch.buffers.double_buffered: must be true or false, not 'no'",
        ),
        (
            lambda: replace(Buffers(operand_a=SRAM, operand_b=SRAM, output=SRAM), output=64),
            "arch.buffers.output: must be an Sram, not 64",
        ),
        (lambda: Dram(kind="", bandwidth_bits_per_s=1e9), "arch.dram.kind: must be a name, not ''"),
        (
            lambda: Dram(kind="hbm2", bandwidth_bits_per_s=-1.0),
            "arch.dram.bandwidth_bits_per_s: must be a positive number, not -1.0",
        ),
        (
            lambda: Dram(kind="hbm2", bandwidth_bits_per_s=float("nan")),
            "arch.dram.bandwidth_bits_per_s: must be a positive number, not nan",
        ),
        (lambda: VectorUnit(lanes=0), "arch.vector.lanes: must be a positive integer, not 0"),
        (lambda: VectorUnit(lanes=1, bits=0), "arch.vector.bits: must be a positive integer, not 0"),
        (lambda: replace(load_accelerator("int8-sa"), name=" "), "arch.name: must be a name, not ' '"),
        (
            lambda: replace(load_accelerator("int8-sa"), clock_hz=0),
            "arch.clock_hz: must be a positive number, not 0",
        ),
        (
            lambda: replace(load_accelerator("int8-sa"), vector=3),
            "arch.vector: must be of type VectorUnit, not 3",
        ),
        (
            lambda: replace(load_accelerator("int8-sa"), dram=Dram(kind="hbm9", bandwidth_bits_per_s=1.0)),
            "arch.dram.kind: unknown name 'hbm9'; did you mean 'hbm3', 'hbm2', 'hbm2e'? (technology 22nm)",
        ),
        (lambda: replace(CONSTANT, value=0), "constant.value: must be a positive number, not 0"),
        (
            lambda: replace(CONSTANT, kind="folklore"),
            "constant.kind: unknown name 'folklore'; known are estimated, measured, published, scaled",
        ),
        (lambda: replace(CONSTANT, source=""), "constant.source: must say where the number comes from, not ''"),
        (lambda: replace(CONSTANT, unit=""), "constant.unit: must be a name, not ''"),
        (lambda: replace(CONSTANT, node_nm=-7), "constant.node_nm: must be a positive number, not -7"),
        (
            lambda: replace(CONSTANT, low=2e-12),
            "constant.value: must be at least the lower bound 2e-12, not 1e-12",
        ),
        (
            lambda: replace(CONSTANT, high=5e-13),
            "constant.value: must be at most the upper bound 5e-13, not 1e-12",
        ),
    ],
)
def test_a_record_that_is_not_valid_is_never_born(build, message):
    with pytest.raises(MacloomError) as caught:
        build()
    assert str(caught.value) == message


def technology_with(**changes: Constant | None):
    table = load_technology("45nm")
    constants = {**table.constants, **changes}
    return replace(table, constants={n: c for n, c in constants.items() if c is not None})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"int8_add": None}, "must hold 'int8_add' (unit J); it is missing"),
        ({"int8_sub": CONSTANT}, "unknown name 'int8_sub'; did you mean 'int8_add'"),
        ({"sram_64_bit_big_kib": CONSTANT}, "unknown name 'sram_64_bit_big_kib'; did you mean"),
        ({"sram_64_bit_0_kib": CONSTANT}, "unknown name 'sram_64_bit_0_kib'"),
        ({"fp16_add": replace(CONSTANT, unit="um2")}, "fp16_add: must be in J, not 'um2'"),
        ({"dram_hbm2": CONSTANT}, "dram_hbm2: must be in J/bit, not 'J'"),
        (
            {"sram_64_bit_8_kib": None, "sram_64_bit_32_kib": None},
            "must hold 'sram_64_bit_<size>_kib' for at least two sizes",
        ),
        (
            {f"dram_{k}": None for k in load_technology("45nm").dram_kinds},
            "must hold 'dram_<kind>' for at least one kind of DRAM",
        ),
    ],
)
def test_a_technology_holds_what_the_energy_functions_need(changes, message):
    with pytest.raises(MacloomError) as caught:
        technology_with(**changes)
    text = str(caught.value)
    assert text.startswith("technology '45nm'.constants")
    assert text.removeprefix("technology '45nm'.constants").lstrip(":. ").startswith(message)


def test_a_technology_of_the_user_may_know_more_sizes_and_kinds():
    table = technology_with(sram_64_bit_128_kib=CONSTANT, dram_mine=replace(CONSTANT, unit="J/bit"))
    assert list(table.sram_sizes_bits) == [8 * 8192, 32 * 8192, 128 * 8192, 1024 * 8192]
    assert "mine" in table.dram_kinds


def test_an_unknown_constant_raises_with_the_nearest_names():
    with pytest.raises(
        MacloomError, match=r"^technology '7nm'.constants: unknown name 'int8_mul'; did you mean 'int8_"
    ):
        load_technology("7nm").constant("int8_mul")


@pytest.mark.parametrize("changes", [{"name": ""}, {"node_nm": 0.0}, {"voltage_v": -1.0}])
def test_a_technology_needs_a_name_a_node_and_a_voltage_or_none(changes):
    (field,) = changes
    with pytest.raises(MacloomError, match=rf"^technology\.{field}: must be a "):
        replace(load_technology("45nm"), **changes)
