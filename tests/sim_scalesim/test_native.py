"""What SCALE-Sim counts wrongly or cannot count, and what macloom's own simulator gives instead: docs/scalesim.md."""

from __future__ import annotations

from importlib import import_module

import pytest

from macloom.arch import Dataflow, load_accelerator
from macloom.sim import array_cycles, buffer_accesses, map_gemm, utilisation
from macloom.sim.scalesim import Config, Conv, Gemm, Report, simulate_layer
from macloom.workloads import load_recipe, load_workload

LAYER = Gemm(m=40, n=24, k=30)
SIZES = (LAYER.m, LAYER.n, LAYER.k, 8, 4)


def reported(dataflow: str, layer: Gemm | Conv = LAYER, version: str = "v3", **changes: object) -> Report:
    sizes = {"rows": 8, "cols": 4, "ifmap_kb": 64, "filter_kb": 64, "ofmap_kb": 64}
    return simulate_layer(layer, Config(dataflow=dataflow, **(sizes | changes)), version)  # type: ignore[arg-type]


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_total_is_the_index_of_the_last_cycle(dataflow: Dataflow) -> None:
    assert array_cycles(dataflow, *SIZES, shift_out=False).total == reported(dataflow).total_cycles + 1


def test_output_stationary_sums_never_leave_the_array() -> None:
    with_drain, folds = array_cycles("os", *SIZES), 5 * 6  # type: ignore[arg-type]
    assert with_drain.total == reported("os").total_cycles + 1 + folds * 8


def test_output_stationary_writes_gain_rows_and_columns_per_fold() -> None:
    assert buffer_accesses(Dataflow.OS, *SIZES).out_writes == LAYER.m * LAYER.n
    assert reported("os").sram_of_writes == LAYER.m * LAYER.n + 5 * 6 * (8 + 4)


@pytest.mark.parametrize("dataflow", [Dataflow.WS, Dataflow.IS])
def test_partial_sums_are_written_and_not_read_back(dataflow: Dataflow) -> None:
    own = buffer_accesses(dataflow, *SIZES)
    assert own.out_writes == reported(dataflow).sram_of_writes == reported(dataflow).dram_of_writes
    assert own.out_reads == own.out_writes - LAYER.m * LAYER.n > 0


@pytest.mark.parametrize("dataflow", [Dataflow.WS, Dataflow.IS])
def test_stationary_utilisation_counts_the_drain_twice(dataflow: Dataflow) -> None:
    cycles = array_cycles(dataflow, *SIZES)
    true = 100 * utilisation(LAYER.macs, cycles.total, 8, 4)
    longer = cycles.total + cycles.folds * (4 - 1)
    assert reported(dataflow).compute_util == pytest.approx(100 * utilisation(LAYER.macs, longer, 8, 4))
    assert reported(dataflow).compute_util < true


def test_waits_for_dram_are_added_twice_by_v3() -> None:
    small = {"mode": "USER", "ifmap_kb": 1, "filter_kb": 1, "bw_ifmap": 2, "bw_filter": 2, "bw_ofmap": 2}
    once, twice = reported("ws", version="v2", **small), reported("ws", **small)
    assert once.dram_if_reads == twice.dram_if_reads
    assert twice.stall_cycles > once.stall_cycles > 0


def test_half_full_rows_count_as_full_at_dram() -> None:
    report = reported("ws", Gemm(m=60, n=60, k=8), mode="USER", ofmap_kb=1, bw_ofmap=4)
    assert report.dram_of_writes > report.sram_of_writes == 60 * 60


def test_calc_forgets_the_whole_half_of_a_buffer_that_holds_the_operand() -> None:
    """27 KiB of input in a buffer of 64 KiB are read once; 36 KiB, which fit too, once per column of folds."""
    fits, forgotten = Gemm(m=400, n=24, k=70), Gemm(m=400, n=24, k=92)
    assert reported("ws", fits).dram_if_reads == 400 * 70
    assert reported("ws", forgotten).dram_if_reads == 400 * 92 * 6
    assert 400 * 92 < 64 * 1024


def test_three_dram_ports_give_three_times_the_bandwidth() -> None:
    report = reported("ws", version="v2", mode="USER", ifmap_kb=1, filter_kb=1, ofmap_kb=1, bw_ifmap=2, bw_filter=2)
    moved = report.dram_if_reads + report.dram_fl_reads + report.dram_of_writes
    cycles = report.total_cycles_incl_prefetch
    assert moved / cycles > 2
    one = load_accelerator("int8-sa")
    workload = load_workload("tiny")
    mapping = map_gemm(workload.gemms[0], one, load_recipe("int8"))
    assert isinstance(mapping.problem.dram_bits_per_cycle, float)  # one channel for all three tensors


def test_words_have_one_byte_whatever_the_format() -> None:
    chip, workload = load_accelerator("int8-sa"), load_workload("tiny")
    wide, narrow = (map_gemm(workload.gemms[0], chip, load_recipe(name)).problem for name in ("int8", "int4"))
    assert narrow.b_bits < 0.6 * wide.b_bits


def test_convolutions_round_windows_up() -> None:
    """An 8 x 8 input has 3 x 3 windows of 3 x 3 with stride 2; SCALE-Sim computes 4 x 4 of them."""
    conv = Conv(h=8, w=8, fh=3, fw=3, channels=2, filters=4, stride=2)
    assert (conv.output, reported("ws", conv).macs) == ((4, 4), 16 * 18 * 4)


def test_sparse_layers_are_busier_than_possible() -> None:
    report = reported("ws", Gemm(m=400, n=24, k=32, sparsity=(1, 4)), rows=8, cols=8)
    assert report.overall_util > 100
    assert report.sram_if_reads == 4 * 400 * 8 * 3


def test_edge_folds_cost_whole_folds_and_folds_never_overlap() -> None:
    assert reported("ws", Gemm(m=9, n=4, k=8)).total_cycles == reported("ws", Gemm(m=9, n=1, k=1)).total_cycles
    overlapped = array_cycles(Dataflow.WS, *SIZES, shadow_registers=True).total
    assert overlapped < reported("ws").total_cycles


def test_total_of_a_network_is_a_type_error() -> None:
    pytest.importorskip("scalesim")
    simulator = import_module("scalesim.simulator").simulator()
    simulator.all_layer_run_done = True
    simulator.single_layer_sim_object_list = [import_module("scalesim.single_layer_sim").single_layer_sim()]
    with pytest.raises(TypeError, match="not subscriptable"):
        simulator.get_total_cycles()
