"""The profile for LLMServingSim: its layout and columns, and times that add up to what `simulate` says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from macloom.arch import load_accelerator
from macloom.errors import MacloomError
from macloom.explore.serving.llmservingsim import Grid, bundle, export_profile
from macloom.sim import simulate
from macloom.workloads import load_workload

GRID = Grid(tokens=32, sequences=4, context=64, per_octave=2)
ONCE = ("embedding", "final_layernorm")


def rows(files: Mapping[str, str], name: str) -> list[dict[str, str]]:
    (text,) = (text for path, text in files.items() if path.endswith(f"tp1/{name}.csv"))
    return list(csv.DictReader(io.StringIO(text)))


def microseconds(table: list[dict[str, str]], **key: int | str) -> float:
    (found,) = (row for row in table if all(row[name] == str(value) for name, value in key.items()))
    return float(found["time_us"])


@pytest.fixture(scope="module", params=["llama-3-8b", "qwen3-8b", "mixtral-8x7b"])
def profile(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, str]]:
    return request.param, bundle(
        request.param, "olive-sa", "ovp4", model_name="org/model", variant="fp8", memory_bits=24 * 2**33, grid=GRID
    )


def test_layout_is_that_of_the_output_bundle(profile: tuple[str, Mapping[str, str]]) -> None:
    model, files = profile
    root = "profiler/perf/olive-sa-ovp4/org/model/fp8"
    tables = ["dense", "per_sequence", "attention", *(["moe"] if model == "mixtral-8x7b" else [])]
    assert set(files) == {
        f"{root}/meta.yaml",
        *(f"{root}/tp1/{table}.csv" for table in tables),
        "configs/model/org/model.json",
        "configs/cluster/olive-sa-ovp4.json",
    }
    meta = json.loads(files[f"{root}/meta.yaml"])
    assert meta["engine_effective"] == {"max_num_batched_tokens": 32, "max_num_seqs": 4}
    assert (meta["hardware"], meta["variant"], meta["tp_degrees"]) == ("olive-sa-ovp4", "fp8", [1])
    layers = {row["layer"] for row in rows(files, "dense")}
    expected = {"embedding", "layernorm", "qkv_proj", "rotary_emb", "o_proj", "final_layernorm"}
    if model == "qwen3-8b":
        expected.add("qk_norm")
    if model != "mixtral-8x7b":
        expected |= {"gate_up_proj", "act_fn", "down_proj"}
    assert layers == expected
    assert {row["layer"] for row in rows(files, "per_sequence")} == {"lm_head", "sampler"}
    cluster = json.loads(files["configs/cluster/olive-sa-ovp4.json"])
    (instance,) = cluster["nodes"][0]["instances"]
    assert instance["hardware"] == "olive-sa-ovp4"
    # Its GB_TO_BYTE is 1024 to the power of 3; bandwidths are times 10^9.
    assert instance["npu_mem"] == {"mem_size": 24, "mem_bw": 64, "mem_latency": 0}


@pytest.mark.parametrize("batch", [1, 4])
def test_the_rows_of_a_decoding_step_add_up_to_simulate(batch: int, profile: tuple[str, Mapping[str, str]]) -> None:
    model, files = profile
    dense, attention = rows(files, "dense"), rows(files, "attention")
    layers = load_workload(model).details["layers"]
    total = 0.0
    for layer in {row["layer"] for row in dense}:
        times = 1 if layer in ONCE else 2 * layers if layer == "layernorm" else layers
        total += times * microseconds(dense, layer=layer, tokens=batch)
    if model == "mixtral-8x7b":
        active = min(8, 2 * batch)
        total += layers * microseconds(rows(files, "moe"), tokens=batch, activated_experts=active)
    total += microseconds(rows(files, "per_sequence"), layer="lm_head", sequences=batch)
    total += layers * microseconds(attention, prefill_chunk=0, kv_prefill=0, n_decode=batch, kv_decode=32)
    accelerator = load_accelerator("olive-sa")
    one, every = (
        simulate(load_workload(model, phase="decode", context=33, batch=b), accelerator, "ovp4") for b in (1, batch)
    )
    own = [op.cycles for op in one.ops if op.name.split(".")[-1] in ("scores", "softmax", "values")]
    shared = [op.cycles for op in every.ops if op.name.split(".")[-1] in ("scores", "softmax", "values")]
    if model == "mixtral-8x7b":  # whose router has a softmax
        own, shared = ([c for c in cycles if c != 0][:3] for cycles in (own, shared))
    expected = (every.cycles - sum(shared) + batch * sum(own)) / accelerator.clock_hz * 1e6
    assert total == pytest.approx(expected, rel=1e-4)


def test_attention_is_a_grid_without_the_empty_iteration(profile: tuple[str, Mapping[str, str]]) -> None:
    _, files = profile
    table = rows(files, "attention")
    keys = [tuple(row[name] for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")) for row in table]
    assert len(set(keys)) == len(keys)
    assert ("0", "0", "0", "0") not in keys
    assert {key[0] for key in keys} == {"0", "16", "32"}
    assert {key[3] for key in keys if key[2] != "0"} == {"16", "32", "64"}
    mixed = microseconds(table, prefill_chunk=16, kv_prefill=32, n_decode=2, kv_decode=64)
    parts = microseconds(table, prefill_chunk=16, kv_prefill=32, n_decode=0, kv_decode=0)
    parts += microseconds(table, prefill_chunk=0, kv_prefill=0, n_decode=2, kv_decode=64)
    assert mixed == pytest.approx(parts, rel=1e-5)


def test_files_are_written_below_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.json").write_text("{}")
    paths = export_profile(tmp_path, {"configs/model/a/b.json": "1\n", "profiler/x.csv": "2\n"})
    assert [path.read_text() for path in paths] == ["1\n", "2\n"]
    assert (tmp_path / "configs" / "own.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("model", "variant", "message"),
    [
        ("opt-6.7b", "bf16", r"export.model: must be of a type .* llama, mixtral, qwen3, not opt"),
        ("llama-3-8b", "int3", "export.variant: unknown name 'int3'"),
    ],
)
def test_what_llmservingsim_cannot_read_is_refused(model: str, variant: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        bundle(model, "olive-sa", "ovp4", variant=variant, grid=GRID)
