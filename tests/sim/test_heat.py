"""Where the work lands on the array, against the cycles that the stepped machine counts in every element."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from macloom.arch import Array, ProcessingElement, load_accelerator
from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.sim import MappingChoice, MappingTable, OpResult, Tiling, simulate
from macloom.sim import heat as module
from macloom.sim.cycle import run
from macloom.sim.heat import element_map, lane_counts, pieces, run_map
from macloom.sim.verify import random_machine
from macloom.workloads import load_workload
from macloom.workloads.ops import Gemm, Workload

BUFFERS = ("operand_a", "operand_b", "output")


def simulated(seed: int) -> tuple[OpResult, Array, str]:
    """Return a small product on a small random machine, and the format of its operands."""
    rng = np.random.default_rng(seed)
    machine = random_machine(rng)
    roomy = {name: replace(getattr(machine.buffers, name), size_bits=1 << 20) for name in BUFFERS}
    machine = replace(machine, buffers=replace(machine.buffers, **roomy))
    fmt = ("int4", "int4:group=4")[seed % 2]
    m, n, k = (int(x) for x in rng.integers(1, 14, 3))
    op = Gemm(name="product", m=m, n=n, k=4 * (1 + k % 4), batch=1 + seed % 2, repeat=2)
    workload = Workload(name="random", phase="prefill", ops=(op,), parameters=1, kv_elements=0, tokens=1)
    tiling = Tiling(m=1 + m // 2, n=1 + n // 3, k=max(4, op.k // 2 // 4 * 4), order="nkm")
    choice = MappingChoice(dataflow=machine.array.dataflow, tiling=tiling)
    given = MappingTable(ops={"product": choice}) if seed % 3 else None  # tiles that leave folds half full
    return simulate(workload, machine, fmt, mapping=given).ops[0], machine.array, fmt


def stepped(op: OpResult, array: Array, fmt: str) -> np.ndarray:
    """Return the cycles in which each element multiplied, over all tiles of the product, as the machine counts them."""
    rng, at = np.random.default_rng(0), op.mapping
    pe = replace(array.pe, accumulator="float", accumulator_bits=32)
    found = np.zeros((array.count, array.rows, array.cols), np.int64)
    cuts = [[min(at[f"tile_{x}"], at[x] - i) for i in range(0, at[x], at[f"tile_{x}"])] for x in "mnk"]
    for m, n, k in product(*cuts):
        # No value that could become zero: whether an element multiplied shows in its product.
        a, b = (get_format(fmt).encode(rng.choice([-7.0, 4.0, 7.0], (size, k)).astype(np.float32)) for size in (m, n))
        done = run(a, b, replace(array, pe=pe), dataflow=at["dataflow"], plain=True)
        assert done.active is not None
        found += done.active
    return op.repeat * at["batch"] * found


@pytest.mark.parametrize("seed", range(24))
def test_active_cycles_equal_those_that_the_stepped_machine_counts(seed: int) -> None:
    op, array, fmt = simulated(seed)
    assert np.array_equal(element_map(op, array).active, stepped(op, array, fmt))


def _one_lane_too_many(real: Any) -> Any:
    return lambda cuts, lanes: real(cuts, lanes) + (np.arange(lanes) == lanes - 1)


def _no_edge(real: Any) -> Any:
    return lambda size, tile, step=None: {tile: -(-size // tile)}


@pytest.mark.parametrize(("name", "mutant"), [("lane_counts", _one_lane_too_many), ("pieces", _no_edge)])
def test_the_machine_refutes_wrong_maps(monkeypatch: pytest.MonkeyPatch, name: str, mutant: Any) -> None:
    right = [element_map(*simulated(seed)[:2]).active for seed in range(24)]
    monkeypatch.setattr(module, name, mutant(getattr(module, name)))
    wrong = [element_map(*simulated(seed)[:2]).active for seed in range(24)]
    assert any(not np.array_equal(a, b) for a, b in zip(right, wrong, strict=True))


@pytest.mark.parametrize(
    ("accelerator", "recipe", "dataflow"),
    [("int8-sa", "int8", "os"), ("int8-sa", "int8", "ws"), ("int8-sa", "int8", "is"), ("olive-sa", "ovp4", "ws"),
     ("olive-sa", "ovp8", "os"), ("olive-sa", "ovp8", "is")],
)  # fmt: skip
def test_maps_hold_every_product_once_and_average_to_the_utilisation(accelerator, recipe, dataflow) -> None:
    base = load_accelerator(accelerator)
    for count in (1, 3):
        machine = replace(base, array=replace(base.array, rows=22, cols=26, count=count))
        result = simulate("tiny", machine, recipe, dataflow)
        for op in result.ops:
            found = element_map(op, machine.array)
            assert found.active.sum() == (op.macs * op.pes_per_mac if op.unit == "array" else 0)
            assert found.utilisation.mean() == pytest.approx(op.utilisation(machine.array.pes))
            assert found.active.max() <= op.cycles
        whole = run_map(result.ops, machine.array)
        assert whole.utilisation.mean() == pytest.approx(result.utilisation)
        assert whole.cycles == result.cycles


def test_fused_elements_work_together_and_what_is_left_over_idles() -> None:
    base = load_accelerator("olive-sa")
    machine = replace(base, array=replace(base.array, rows=6, cols=6))
    fused = next(op for op in simulate("tiny", machine, "ovp8", "os").ops if op.pes_per_mac == 4)
    found = element_map(fused, machine.array).active[0]
    assert np.array_equal(found[::2, ::2], found[1::2, 1::2])
    odd = element_map(fused, replace(machine.array, pe=ProcessingElement(significand_bits=4), rows=7)).active[0]
    assert not odd[6].any()
    assert odd[5].any()


def test_decode_uses_one_row_of_an_output_stationary_array() -> None:
    machine = load_accelerator("int8-sa")
    result = simulate(load_workload("tiny", phase="decode", context=64), machine, "int8", "os")
    projection = next(op for op in result.ops if op.mapping.get("m") == 1)
    used = element_map(projection, machine.array).active[0]
    assert used[0].all()
    assert not used[1:].any()


def test_pieces_cover_the_size() -> None:
    for size, tile, step in product((1, 5, 24, 70), (1, 4, 32, 70), (None, 1, 5, 24)):
        cut = pieces(size, min(tile, size), step)
        assert sum(length * times for length, times in cut.items()) == size
        assert max(cut) <= min(tile, size, step or size)


def test_lanes_share_what_there_is() -> None:
    assert lane_counts({10: 3}, 4).tolist() == [9, 9, 6, 6]
    assert lane_counts({}, 3).tolist() == [0, 0, 0]


def test_a_result_without_sizes_is_refused() -> None:
    machine = load_accelerator("int8-sa")
    op = simulate("tiny", machine, "int8").ops[2]
    old = replace(op, mapping={k: v for k, v in op.mapping.items() if k not in ("m", "a_slices")})
    message = f"heat map: mapping of '{op.name}' must say m, a_slices; simulate again with this version"
    with pytest.raises(MacloomError, match=message):
        element_map(old, machine.array)
