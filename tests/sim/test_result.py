"""Results add, compare, and turn into rows, JSON and timelines."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from macloom.errors import MacloomError
from macloom.sim import Result, simulate


@pytest.fixture
def result(machine, workload):
    return simulate(workload, machine(), "int8:token")


def test_totals_are_sums_over_operations(result):
    assert result.cycles == sum(op.cycles for op in result.ops)
    assert result.macs == sum(op.macs for op in result.ops)
    assert result.seconds == result.cycles / 1e9
    assert result.energy_j == pytest.approx(sum(op.energy.total_j for op in result.ops))
    assert result.energy_j == pytest.approx(sum(result.energy.parts.values()))
    assert result.peak_macs_per_s == 16e9
    assert result.totals()["macs_per_s"] <= result.peak_macs_per_s
    assert 0 < result.utilisation < 1


def test_results_of_one_machine_and_recipe_add(result, machine, workload):
    decode = simulate(replace(workload, name="small", phase="decode"), machine(), "int8:token")
    both = result + decode
    assert (both.workload, both.phase) == ("small", "prefill + decode")
    assert both.cycles == result.cycles + decode.cycles
    assert both.energy_j == pytest.approx(result.energy_j + decode.energy_j)
    assert len(both.ops) == len(result.ops) + len(decode.ops)
    other = simulate(workload.renamed("other"), machine(), "int8:token")
    assert (result + other).workload == "small + other"


@pytest.mark.parametrize("part", ["accelerator", "recipe"])
def test_results_that_do_not_add(result, machine, workload, part):
    other = (
        simulate(workload, machine(lanes=4), "int8:token")
        if part == "accelerator"
        else simulate(workload, machine(), "int4")
    )
    message = (
        f"result.{part}: must be equal to add 'small' and 'small'; use `compare` to set different ones side by side"
    )
    with pytest.raises(MacloomError, match=re.escape(message)):
        _ = result + other


def test_compare(result, machine, workload):
    int4 = simulate(workload, machine(), "int4")
    compared = result.compare(int4)
    assert compared["dram_bits"]["here"] == result.dram_bits
    assert compared["dram_bits"]["ratio"] == int4.dram_bits / result.dram_bits < 1
    assert compared["decoder_j"] == {"here": 0.0, "there": 0.0, "ratio": None}
    assert all(entry["ratio"] in (None, 1.0) for entry in result.compare(result).values())


def test_a_result_needs_operations(result):
    with pytest.raises(MacloomError, match=re.escape("result 'small'.ops: must hold at least one operation")):
        replace(result, ops=())


def test_rows_are_flat_and_have_one_set_of_columns(result):
    rows = result.rows()
    assert len(rows) == len(result.ops)
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert all(isinstance(value, int | float | str) for row in rows for value in row.values())
    by_name = {row["name"]: row for row in rows}
    assert by_name["up_proj"]["a_format"] == "int8:token"
    assert by_name["up_proj"]["dataflow"] == "os"
    assert by_name["norm"]["dataflow"] == ""
    assert by_name["lm_head"]["unit"] == "vector"  # fp16 by the recipe's exception
    assert by_name["lm_head"]["utilisation"] == 0
    assert 0 < by_name["up_proj"]["utilisation"] <= 1
    assert by_name["up_proj"]["macs_per_dram_bit"] == by_name["up_proj"]["macs"] / by_name["up_proj"]["dram_bits"]


def test_to_dict_is_json_and_complete(result):
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["workload"] == "small"
    assert document["version"] == result.version
    assert document["recipe"]["activation"] == "int8:token"
    assert document["accelerator"]["array"]["rows"] == 4
    assert document["totals"]["cycles"] == result.cycles
    assert document["energy"]["kinds"]["dram_j"] == "published"
    assert [op["name"] for op in document["ops"]] == [op.name for op in result.ops]


def test_results_are_equal_when_inputs_are(result, machine, workload):
    again = simulate(workload, machine(), "int8:token")
    assert isinstance(again, Result)
    assert again == result
