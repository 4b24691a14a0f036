"""Simulated costs as records, against the simulator's own results."""

from __future__ import annotations

import pytest

from macloom.arch import load_accelerator
from macloom.explore.cost import accelerator_info, constants_of, refusal, run_record, simulate_all, workload_info
from macloom.sim import check_physical, simulate
from macloom.workloads import load_recipe, load_workload


def test_a_record_says_what_the_simulator_found() -> None:
    workload, accelerator = load_workload("tiny", phase="decode", context=100), load_accelerator("olive-sa")
    result = simulate(workload, accelerator, recipe="ovp4")
    run = run_record(result, workload, accelerator, "ovp4")
    assert run.key == ("ovp4", "olive-sa", "tiny", "decode")
    assert (run.cycles, run.seconds, run.energy_j) == (result.cycles, result.seconds, result.energy_j)
    assert run.edp == result.totals()["edp_j_s"]
    assert sum(run.energy.values()) == pytest.approx(run.energy_j)
    assert {k for k, v in run.energy.items() if v} == run.energy_kinds.keys()
    assert [op.name for op in run.ops] == [op.name for op in result.ops]
    assert sum(op.cycles for op in run.ops) == run.cycles
    assert sum(op.energy_j for op in run.ops) == pytest.approx(run.energy_j)
    assert all(op.cycles == op.compute_cycles + op.stall_cycles + op.vector_cycles for op in run.ops)
    assert run.dram_bits / run.seconds <= run.dram_bits_per_s


def test_every_recipe_meets_every_accelerator() -> None:
    recipes = [load_recipe(f) for f in ("int4", "mxfp4")]
    accelerators = [load_accelerator(a) for a in ("int8-sa", "olive-sa")]
    workloads = [load_workload("tiny", phase=p) for p in ("prefill", "decode")]
    seen: list[str] = []
    simulated = simulate_all(workloads, accelerators, recipes, seen.append)
    assert [r.key for r in simulated.runs] == [
        (f, a, "tiny", p)
        for f, a in (("int4", "int8-sa"), ("int4", "olive-sa"), ("mxfp4", "olive-sa"))
        for p in ("prefill", "decode")
    ]
    assert [(u.format, u.accelerator) for u in simulated.unsupported] == [("mxfp4", "int8-sa")]
    assert list(simulated.results) == [r.key for r in simulated.runs]
    assert seen == ["cost of int4", "cost of mxfp4"]
    laws = [check_physical(r) for r in simulated.results.values()]
    for i, check in enumerate(simulated.checks):
        assert check.cases == sum(found[i].cases for found in laws)
        assert check.closest == max(found[i].closest for found in laws)


def test_the_reason_of_a_refusal_is_part_of_the_simulators_message() -> None:
    for name in ("fp16", "mxfp8", "mxfp4", "ovp8"):
        for machine in ("int8-sa", "olive-sa"):
            accelerator = load_accelerator(machine)
            reason = refusal(load_recipe(name), accelerator)
            if reason is None:
                simulate(load_workload("tiny", phase="decode", context=8), accelerator, recipe=name)
            else:
                with pytest.raises(ValueError) as error:
                    simulate(load_workload("tiny", phase="decode", context=8), accelerator, recipe=name)
                assert reason in str(error.value)


def test_constants_are_kept_once_per_technology_with_their_origin() -> None:
    accelerators = [load_accelerator(a) for a in ("int8-sa", "olive-sa", "fp16-sa")]
    constants = constants_of(accelerators)
    technologies = {a.technology.name: a.technology for a in accelerators}
    assert len(constants) == sum(len(t.constants) for t in technologies.values())
    assert all(c.source and c.kind and c.unit for c in constants)
    for c in constants:
        assert technologies[c.technology].constants[c.name].value == c.value


def test_an_accelerator_keeps_its_configuration_without_the_constants() -> None:
    accelerator = load_accelerator("olive-sa")
    configuration = accelerator_info(accelerator).configuration
    assert configuration["array"]["rows"] == 64
    assert configuration["technology"]["name"] == accelerator.technology.name
    assert "constants" not in configuration["technology"]


def test_a_workload_is_described_by_its_size() -> None:
    workload = load_workload("opt-6.7b", phase="decode", context=2048)
    info = workload_info(workload)
    assert (info.name, info.phase, info.tokens, info.macs) == ("opt-6.7b", "decode", 1, workload.macs)
    assert info.details["context"] == 2048
