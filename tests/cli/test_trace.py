"""`macloom trace`, and the options of other verbs that concern workloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main
from macloom.workloads import load_workload
from macloom.workloads.trace import load_trace

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]

MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 90,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "num_local_experts": 4,
    "num_experts_per_tok": 2, "sliding_window": None,
}  # fmt: skip


@pytest.fixture
def mixtral(tmp_path: Path) -> str:
    pytest.importorskip("transformers")
    directory = tmp_path / "mixtral"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(MIXTRAL))
    return str(directory)


def test_trace_prints_every_operation_and_writes_a_trace(mixtral: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "trace.json"
    assert main(["trace", mixtral, "--phase", "decode", "--context", "20", "--batch", "3", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    workload = load_workload(mixtral, phase="decode", context=20, batch=3)
    assert captured.out.startswith(f"mixtral, decode of 3 tokens: {workload.macs:,} MACs\n")
    assert f"wrote {out}" in captured.err
    assert load_trace(out).macs == workload.macs


def test_trace_as_json(mixtral: str, tmp_path: Path, run_json: RunJson) -> None:
    shares = tmp_path / "shares.json"
    shares.write_text("[4, 3, 2, 1]")
    given = ["--sequence", "8", "--past", "20", "--head-tokens", "last", "--routing", str(shares)]
    data = run_json("trace", mixtral, *given)
    workload = load_workload(mixtral, sequence=8, past=20, head_tokens="last", routing=[4, 3, 2, 1])
    assert (data["macs"], data["useful_macs"]) == (workload.macs, workload.useful_macs)
    assert data["details"]["routing"] == [4, 3, 2, 1]
    assert data["details"]["traced"].startswith("transformers ")


def test_trace_of_an_encoder_decoder(tmp_path: Path, run_json: RunJson) -> None:
    pytest.importorskip("transformers")
    config = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    data = run_json("trace", str(tmp_path), "--sequence", "1", "--source", "30")
    assert data["macs"] == load_workload(tmp_path, sequence=1, source=30).macs


def test_a_saved_trace_is_shown_and_simulated(mixtral: str, tmp_path: Path, run_json: RunJson) -> None:
    out = tmp_path / "trace.json"
    traced = run_json("trace", mixtral, "--sequence", "16", "--out", str(out))
    assert run_json("show", str(out)) == traced
    result = run_json("simulate", "--workload", str(out), "--accelerator", "int8-sa", "--recipe", "int8")
    assert len(result["ops"]) == len(traced["ops"])


def test_show_of_a_model_directory_with_a_routing(mixtral: str, run_json: RunJson) -> None:
    uniform, skewed = run_json("show", mixtral), run_json("show", mixtral, "--routing", "zipf:2")
    assert uniform["macs"] == skewed["macs"]
    assert skewed["details"]["routing"] == "zipf:2"
    assert len(skewed["ops"]) > len(uniform["ops"])


def test_simulate_with_chunks_and_routing(mixtral: str, run_json: RunJson) -> None:
    given = ["--workload", mixtral, "--accelerator", "int8-sa", "--recipe", "int8", "--sequence", "32"]
    parts = run_json("simulate", *given, "--chunk", "16", "--routing", "zipf")
    names = [op["name"] for op in parts["ops"]]
    assert [name for name in names if name.endswith("lm_head")] == ["chunk1.lm_head"]
    assert "chunk0.self_attn.scores" in names


def test_simulate_with_a_source(run_json: RunJson) -> None:
    given = ["--workload", "t5-small", "--accelerator", "int8-sa", "--recipe", "int8", "--sequence", "1"]
    short, long = (run_json("simulate", *given, "--source", n)["totals"]["cycles"] for n in ("16", "64"))
    assert short < long


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace"], "the following arguments are required: MODEL"),
        (["trace", "nowhere/at/all"], "workload: no such model directory or configuration 'nowhere/at/all'"),
        (["trace", "opt-6.8b"], "workload: unknown name 'opt-6.8b'; did you mean 'opt-6.7b'"),
        (["trace", "dit-s-2"], "config.model_type: transformers has no 'dit' to trace; it has a formula here: "),
        (
            ["trace", "opt-125m", "--context", "5"],
            "--context: must not be given for prefill, not 5; set --sequence instead",
        ),
        (
            ["trace", "opt-125m", "--phase", "decode", "--sequence", "5"],
            "--sequence: must not be given for decode, not 5; set --context instead",
        ),
        (["show", "int4", "--routing", "zipf"], "--routing: must be left out for int4, which is no workload"),
        (
            ["show", "mixtral-8x7b", "--routing", "random"],
            "routing: must be 'uniform', 'zipf', 'zipf:S' with a number S > 0, or one share for each expert in a JSON "
            "file, not 'random'",
        ),
    ],
)
def test_bad_command_lines(arguments: list[str], message: str, fail: Fail) -> None:
    pytest.importorskip("transformers")
    assert message in fail(*arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"a": 1}', "must hold a list with one share for each expert, not dict"), ("[1,", "is not valid JSON: ")],
)
def test_bad_routing_files(content: str, message: str, tmp_path: Path, fail: Fail) -> None:
    path = tmp_path / "shares.json"
    path.write_text(content)
    assert f"{path}: {message}" in fail("show", "mixtral-8x7b", "--routing", str(path))


def test_trace_without_transformers(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    from macloom.workloads.trace import available

    monkeypatch.setattr(available, "find_spec", lambda name: None)
    assert fail("trace", "opt-125m") == (
        "error: trace: cannot read opt-125m; tracing needs torch and transformers: pip install 'macloom[llm]', "
        "or use a saved trace"
    )
