"""Whole workloads on the presets: what runs where, how fast, and what an unknown name says."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from macloom.arch import Dataflow, load_accelerator
from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.sim import UnsupportedFormat, check_physical, map_gemm, simulate
from macloom.workloads.models import load_workload
from macloom.workloads.ops import Gemm, Role, VectorKind
from macloom.workloads.recipe import load_recipe

FORMATS = [
    "fp16", "int8", "int4", "int4:group=128", "mxfp8", "mxfp4", "nvfp4", "bfp4", "ovp8", "ovp4", "ovp4:normal=flint4"
]  # fmt: skip
RUNS = {
    "int8-sa": {"int8", "int4", "int4:group=128", "bfp4"},
    "olive-sa": {"int8", "int4", "int4:group=128", "mxfp4", "nvfp4", "bfp4", "ovp8", "ovp4", "ovp4:normal=flint4"},
    "fp16-sa": set(FORMATS),
}


@pytest.fixture(scope="module")
def opt():
    return load_workload("opt-6.7b", sequence=2048, head_tokens="last")


@pytest.mark.parametrize("accelerator", RUNS)
def test_formats_on_presets(opt, accelerator):
    for name in FORMATS:
        if name in RUNS[accelerator]:
            result = simulate(opt, accelerator, name)
            assert result.macs == opt.macs
            assert all(check.closest <= 1 + 1e-9 for check in check_physical(result))
            assert result.cycles >= opt.macs / load_accelerator(accelerator).array.peak_macs_per_cycle
        else:
            with pytest.raises(UnsupportedFormat, match=f"accelerator '{accelerator}': must be able to multiply"):
                simulate(opt, accelerator, name)


def test_prefill_of_opt_takes_a_fraction_of_a_second(opt):
    accelerator, recipe = load_accelerator("olive-sa"), load_recipe("ovp4")
    simulate(opt, accelerator, "int8")  # imports and tables
    start = time.process_time()
    simulate(opt, accelerator, recipe)
    assert time.process_time() - start < 0.3


def test_an_array_bound_layer_takes_the_closed_form(opt):
    result = simulate(opt, "olive-sa", "ovp4")
    q = next(op for op in result.ops if op.name == "self_attn.q_proj")
    # 64 x 64 elements, K = 4096 cut in tiles: folds of the stream one after another, one skew and drain.
    assert q.steady_cycles == 32 * (2048 // 64) * (4096 // 64) * 4096
    assert q.compute_cycles == q.steady_cycles + 32 * (64 + 64 - 2 + 64)
    assert q.bound == "compute"


def test_exceptions_of_the_recipe_run_on_the_vector_unit_where_they_must(opt):
    on_int8 = simulate(opt, "int8-sa", "int8")
    on_fp16 = simulate(opt, "fp16-sa", "int8")
    units = [{op.name: op.unit for op in r.ops}["lm_head"] for r in (on_int8, on_fp16)]
    assert units == ["vector", "array"]
    assert {op.unit for op in on_int8.ops if op.kind == "gemm" and op.name != "lm_head"} == {"array"}


def test_an_exception_that_no_unit_can_compute_is_refused(machine, workload):
    recipe = replace(load_recipe("int8"), overrides=(("lm_head", get_format("mxfp4")),))
    head = replace(workload, ops=(Gemm(name="lm_head", m=2, n=8, k=64),))
    with pytest.raises(UnsupportedFormat, match="and the vector unit multiplies no format whose scale changes"):
        simulate(head, machine(), recipe)


def test_causal_attention_computes_the_full_product(machine, workload):
    result = simulate(workload, machine(), "int8")
    scores = next(op for op in result.ops if op.name == "scores")
    assert scores.macs == 2 * 4 * 6 * 6 * 8


def test_decode_moves_each_weight_once_and_obeys_the_bandwidth():
    decode = load_workload("opt-6.7b", phase="decode", context=2048)
    result = simulate(decode, "olive-sa", "ovp4")
    weights = [op for op in decode.gemms if op.b is Role.WEIGHT]
    stored = sum(get_format("ovp4").storage_bits((op.n, op.k)) * op.repeat for op in weights if op.name != "lm_head")
    assert result.dram_bits > stored
    assert result.seconds >= result.dram_bits / load_accelerator("olive-sa").dram.bandwidth_bits_per_s
    for op in result.ops:
        assert op.dram_bits <= 1.01 * op.compulsory_dram_bits, op.name


def test_the_order_of_dataflows_is_that_of_the_array(machine, workload):
    default = simulate(workload, machine(dataflow=Dataflow.WS), "int8")
    given = simulate(workload, machine(), "int8", dataflow="ws")
    assert [op.cycles for op in default.ops] == [op.cycles for op in given.ops]
    gemms = [op for op in given.ops if op.unit == "array"]
    assert {op.mapping["dataflow"] for op in gemms} == {"ws"}


def test_names_are_loaded():
    result = simulate("tiny", "olive-sa", "ovp4")
    assert (result.phase, result.accelerator.name, result.recipe["weight"]) == ("prefill", "olive-sa", "ovp4")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("tiny", "olive-sb", "ovp4"), "did you mean 'olive-sa'?"),
        (("tinny", "olive-sa", "ovp4"), "did you mean 'tiny'"),
        (("tiny", "olive-sa", "ovp5"), "recipe: format: unknown name 'ovp5'; did you mean 'ovp8', 'ovp4'"),
        (("tiny", "olive-sa", "ovp4", "oss"), "dataflow: unknown name 'oss'; did you mean 'os'"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(MacloomError, match=re.escape(message)):
        simulate(*arguments)


def test_unknown_objective():
    with pytest.raises(MacloomError, match=re.escape("objective: unknown name 'tim'; did you mean 'time'?")):
        simulate("tiny", "olive-sa", "ovp4", objective="tim")


def test_every_kind_of_operation_of_the_models_is_costed(machine):
    kinds = set()
    for name in ("opt-6.7b", "llama-3-8b", "gpt2", "gemma-2-9b"):
        result = simulate(load_workload(name, phase="decode", context=16), "fp16-sa", "fp16")
        kinds |= {op.kind for op in result.ops}
        assert all(op.cycles > 0 and op.energy.total_j > 0 for op in result.ops)
    # The others have a test that runs each of them: tests/sim/test_vector_counts.py.
    assert {"gemm", "softmax", "layer_norm", "rms_norm", "rope", "gelu", "relu", "silu", "gelu_gate"} <= kinds
    assert kinds <= {"gemm", *VectorKind}


def test_mapping_is_available_alone():
    op = Gemm(name="q_proj", m=64, n=64, k=64)
    mapping = map_gemm(op, load_accelerator("olive-sa"), load_recipe("ovp8"))
    assert (mapping.pes_per_mac, mapping.problem.rows, mapping.on_array) == (4, 32, True)


def test_import_is_light():
    code = "import sys, macloom.sim; print([m for m in ('torch', 'numba', 'matplotlib', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
