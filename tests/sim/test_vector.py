"""Operations of the vector unit, counted by hand."""

from __future__ import annotations

import pytest

from macloom.formats import get_format
from macloom.sim.vector import (
    KIND_COSTS,
    Operations,
    encode_operations,
    epilogue_operations,
    kind_operations,
    segment_operations,
)
from macloom.sim.vector_cost import vector_result
from macloom.workloads.ops import Role, Vector, VectorKind
from macloom.workloads.recipe import load_recipe


def test_every_kind_has_a_cost():
    assert set(KIND_COSTS) == set(VectorKind)


@pytest.mark.parametrize(
    "name, multiplies, adds",
    [
        ("fp16", 0, 1),  # round
        ("int8", 1, 2),  # times 1 / scale, round, clamp
        ("int8:token", 1, 3),  # and the running maximum of the row
        ("mxfp4", 1, 3),
        ("ovp4", 1, 3),  # static scale, but a comparison with the outlier threshold
    ],
)
def test_encode_operations(name, multiplies, adds):
    assert encode_operations(get_format(name)) == Operations(multiplies=multiplies, adds=adds)


def test_kinds_by_hand():
    fp16, int8 = get_format("fp16"), get_format("int8")
    assert kind_operations(VectorKind.EMBEDDING, 3, 10, fp16).total == 30  # rounding alone
    assert kind_operations(VectorKind.ADD, 3, 10, fp16) == Operations(adds=60)
    assert kind_operations(VectorKind.ADD, 3, 10, fp16, inputs=4) == Operations(adds=120)  # 3 adds and rounding
    assert kind_operations(VectorKind.RELU, 1, 4, int8) == Operations(multiplies=4, adds=12)
    assert kind_operations(VectorKind.ROPE, 1, 4, fp16) == Operations(multiplies=8, adds=8)
    # x * x, times d, plus c, times x; exponential; plus one; reciprocal; times x; round.
    assert kind_operations(VectorKind.GELU, 1, 1, fp16) == Operations(multiplies=3 + 4 + 4 + 1, adds=1 + 6 + 1 + 3 + 1)
    assert kind_operations(VectorKind.GELU_GATE, 1, 1, fp16) == kind_operations(VectorKind.GELU, 1, 1, fp16)
    assert kind_operations(VectorKind.CACHE, 3, 10, int8) == Operations(multiplies=30, adds=60)
    # Per element: scale, maximum, subtract, exponential, sum, normalise, round; per row a reciprocal.
    assert kind_operations(VectorKind.SOFTMAX, 2, 5, fp16) == Operations(
        multiplies=10 * 6 + 2 * 4, adds=10 * 10 + 2 * 3
    )
    # Square, sum, times 1 / rms, gain, round; per row mean, epsilon and 1 / sqrt.
    assert kind_operations(VectorKind.RMS_NORM, 2, 5, fp16) == Operations(
        multiplies=10 * 3 + 2 * 8, adds=10 * 2 + 2 * 4
    )


def test_kinds_of_other_models_by_hand(machine):
    fp16 = get_format("fp16")

    def once(kind, terms=1):  # rounding left out
        found = kind_operations(kind, 1, 1, fp16, terms)
        return found.multiplies, found.adds - 1

    assert once(VectorKind.DIVIDE) == (4 + 1, 3)
    # Exponential, plus one, reciprocal; for tanh also times 2 and minus one.
    assert once(VectorKind.SIGMOID) == (4 + 4, 6 + 1 + 3)
    assert once(VectorKind.TANH) == (4 + 4 + 1, 6 + 1 + 3 + 1)
    assert once(VectorKind.SOFTPLUS) == (4 + 4, 6 + 1 + 5)
    assert once(VectorKind.POOL, 49) == (1, 49)
    # For each state: exponential of dt * a, times h, plus b * (dt * x), and c * h into the sum; d * x at the end.
    assert once(VectorKind.SCAN, 16) == (2 + 16 * (4 + 4), 1 + 16 * (6 + 2))
    pool = Vector(name="pool", kind=VectorKind.POOL, rows=4, width=16, terms=9)
    scan = Vector(name="scan", kind=VectorKind.SCAN, rows=4, width=16, terms=9, inputs=2)
    assert vector_result(pool, machine(), load_recipe("int8")).dram_read_bits == 9 * 64 * 16
    assert vector_result(scan, machine(), load_recipe("int8")).dram_read_bits == 2 * 64 * 16


def test_work_around_the_array():
    assert segment_operations(2) == Operations(multiplies=2, adds=1)
    assert epilogue_operations(2, get_format("fp16")) == Operations(multiplies=2, adds=1)


def test_residual_add_by_hand(machine):
    op = vector_result(
        Vector(name="residual", kind=VectorKind.ADD, rows=4, width=16, inputs=2, repeat=3),
        machine(),
        load_recipe("int8"),
    )
    # Two inputs and one result in fp16, all rows in one chunk: load, add and round on 8 lanes, store.
    assert (op.dram_read_bits, op.dram_write_bits) == (3 * 2 * 64 * 16, 3 * 64 * 16)
    assert op.cycles == 3 * (32 + 2 * 64 // 8 + 16)
    assert (op.vector_cycles, op.stall_cycles, op.compute_cycles) == (3 * 16, 3 * 48, 0)
    assert (op.unit, op.kind, op.bound) == ("vector", "add", "memory")
    assert op.energy.vector_j == pytest.approx(3 * 128 * 0.4e-12)
    assert op.energy.mac_j == op.energy.decoder_j == 0
    assert op.sram_bits == 3 * 2 * 3 * 64 * 16


def test_results_are_stored_in_the_format_of_what_they_feed(machine):
    recipe = load_recipe("int4")
    softmax = vector_result(Vector(name="softmax", kind=VectorKind.SOFTMAX, rows=8, width=64), machine(), recipe)
    assert softmax.formats == {"a": "fp16", "out": "int4"}
    assert softmax.dram_read_bits == 8 * 64 * 16
    assert softmax.dram_write_bits == recipe.format_for(Role.PROBABILITY, "softmax").storage_bits((8, 64))
    add = vector_result(Vector(name="add", kind=VectorKind.ADD, rows=8, width=64), machine(), recipe)
    assert add.formats["out"] == "fp16"


def test_a_row_that_does_not_fit_is_read_once_per_pass(machine):
    op = Vector(name="softmax", kind=VectorKind.SOFTMAX, rows=2, width=1024)
    roomy, small = machine(), machine(buffer_bits=16384)
    assert vector_result(op, roomy, load_recipe("int8")).dram_read_bits == 2 * 1024 * 16
    long = vector_result(op, small, load_recipe("int8"))
    assert long.dram_read_bits == 2 * (2 * 1024 * 16)
    assert long.compulsory_dram_bits == vector_result(op, roomy, load_recipe("int8")).dram_bits


def test_chunks_of_rows_overlap(machine):
    op = Vector(name="relu", kind=VectorKind.RELU, rows=64, width=64)
    chunked = vector_result(op, machine(buffer_bits=8192), load_recipe("fp16"))
    whole = vector_result(op, machine(buffer_bits=1 << 20), load_recipe("fp16"))
    serial = vector_result(op, machine(buffer_bits=4096, double_buffered=False), load_recipe("fp16"))
    assert chunked.dram_bits == whole.dram_bits == serial.dram_bits
    assert chunked.cycles < whole.cycles == serial.cycles
    assert chunked.cycles >= chunked.dram_bits / 64
