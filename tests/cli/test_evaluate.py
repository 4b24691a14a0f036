"""`macloom evaluate` on a small random model that is saved as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


def test_every_option_reaches_the_evaluation(model: str, text: str, run_json: RunJson) -> None:
    arguments = ("evaluate", "--model", model, "--recipe", "int4", "--text", text, "--windows", "3", "--context", "48")
    result = run_json(*arguments, "--seed", "5")
    assert result["model"]["name"] == "small"
    assert result["recipe"]["weight"] == "int4"
    assert result["text"]["name"] == "pangrams.txt"
    assert (result["windows"], result["context"], result["seed"]) == (3, 48, 5)
    assert result["perplexity"] != result["reference_perplexity"]
    other = run_json(*arguments, "--seed", "6")
    assert other["search"] != result["search"]


def test_prints_for_reading_and_writes_the_result(model: str, text: str, capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "new" / "accuracy.json"
    arguments = ["evaluate", "--model", model, "--recipe", "fp32", "--text", text, "--windows", "2", "--context", "32"]
    assert main([*arguments, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    result = json.loads(out.read_text())
    assert f"perplexity per byte  {result['perplexity']:.4f}" in captured.out
    assert f"top-1 agreement      {100 * result['top1_agreement']:.2f} %" in captured.out
    assert "pangrams.txt, 2 windows of 32 bytes" in captured.out
    assert "lm_head" in captured.out
    steps = [line for line in captured.err.splitlines() if line.startswith(f"{model} in fp32: step ")]
    assert steps[0] == f"{model} in fp32: step 1 of 5: unquantized"
    assert steps[-1] == f"{model} in fp32: step 5 of 5: quantized"
    assert captured.err.endswith(f"wrote {out}\n")


TYPO = 'format = "int4"\n[overrides]\n"*.q_porj" = "int8"\n"self_attn.*" = "int8"\n'


def test_an_override_that_matches_nothing_is_named(
    model: str, text: str, run_json: RunJson, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "typo.toml").write_text(TYPO)
    recipe = str(tmp_path / "typo.toml")
    note = "typo: overrides['*.q_porj'] matches no operation of "
    sizes = ("--windows", "1", "--context", "16")
    found = run_json("evaluate", "--model", model, "--recipe", recipe, "--text", text, *sizes)
    assert found["unmatched_overrides"] == ["*.q_porj"]
    arguments = ["simulate", "--workload", "tiny", "--accelerator", "olive-sa", "--recipe", recipe, "--sequence", "8"]
    assert main(arguments) == 0
    assert note + "tiny" in capsys.readouterr().err
    assert run_json(*arguments)["unmatched_overrides"] == ["*.q_porj"]
    (tmp_path / "typo.toml").write_text(TYPO.replace("q_porj", "q_proj"))
    assert "unmatched_overrides" not in run_json(*arguments)


def test_accumulator_and_vector_operations(model: str, text: str, run_json: RunJson, capsys: Capture) -> None:
    arguments = ("evaluate", model, "--recipe", "int4", "--text", text, "--windows", "2", "--context", "32")
    result = run_json(*arguments, "--accumulator", "int8:saturate", "--vector", "exact:fixed16")
    assert result["recipe"]["accumulator"] == "int8:saturate"
    assert result["vector"] == "exact:fixed16"
    assert sum(result["overflows"].values()) > 0
    assert main([*arguments, "--accumulator", "int8:saturate", "--vector", "exact:fixed16"]) == 0
    shown = capsys.readouterr().out
    assert "recipe                 int4, accumulator int8:saturate" in shown
    assert "vector operations      exact:fixed16" in shown
    assert f"  logits sha256        {result['logits_sha256'][:16]}" in shown
    assert f"overflows              {sum(result['overflows'].values()):,} registers did not hold a sum" in shown


def test_width_sweep(model: str, text: str, run_json: RunJson, capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "widths"
    arguments = ["evaluate", model, "--recipe", "int4", "--text", text, "--windows", "2", "--context", "32"]
    arguments += ["--accumulator-sweep", "6:14", "--accumulator-every", "end,mac"]
    result = run_json(*arguments)
    assert [c["bits"] for c in result["cells"]] == [*range(6, 15)] * 3
    assert [(s["overflow"], s["every"]) for s in result["smallest"]] == [
        ("wrap", "end"),
        ("saturate", "end"),
        ("saturate", "mac"),
    ]
    assert main([*arguments, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "bits of one product               7\n" in captured.out
    assert f"within 1 %, {result['smallest'][0]['lossless_bits']} without overflow" in captured.out
    assert json.loads((out / "widths.json").read_text()) == result
    assert (out / "widths.csv").read_text().startswith("overflow,every,bits,perplexity")
    assert (out / "widths.svg").read_text().startswith("<svg")
    kept = (out / "cells.jsonl").read_text()
    assert main([*arguments, "--out", str(out), "-q"]) == 0
    assert (out / "cells.jsonl").read_text() == kept


def test_quiet(model: str, text: str, capsys: Capture) -> None:
    arguments = ["evaluate", "-q", "--model", model, "--recipe", "int8", "--text", text]
    assert main([*arguments, "--windows", "1", "--context", "16"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "tyni", "error: model: unknown name 'tyni'; did you mean 'tiny'"),
        ("--model", "no/where", "error: model: no such directory 'no/where'"),
        ("--recipe", "int44", "did you mean 'int4'"),
        ("--recipe", "none.toml", "error: recipe: no such file 'none.toml'"),
        ("--text", "none.txt", "error: text: no such file 'none.txt'"),
        ("--context", "65", "error: context: must be at most 64, the model's limit, not 65"),
        ("--accumulator", "int8:satrate", "did you mean 'saturate'"),
        (
            "--accumulator",
            "int6",
            "q_proj: gemm: accumulator 'int6:wrap' is narrower than products of 'int4'",
        ),
        ("--vector", "exact:bf61", "error: vector: unknown name 'exact:bf61'; did you mean 'exact:bf16'"),
        ("--accumulator-sweep", "24:8", "argument --accumulator-sweep: must be LOW:HIGH, such as 8:24, not '24:8'"),
        ("--accumulator-every", "mac", "error: --accumulator-every: belongs to --accumulator-sweep"),
    ],
)
def test_bad_input(model: str, text: str, fail: Fail, tmp_path: Path, option: str, value: str, message: str) -> None:
    given = {"--model": model, "--recipe": "int4", "--text": text, "--context": "16", option: value}
    out = tmp_path / "result.json"
    assert message in fail("evaluate", *(word for pair in given.items() for word in pair), "--out", str(out))
    assert not out.exists()


def test_truncated_checkpoint(model: str, text: str, fail: Fail, tmp_path: Path) -> None:
    for file in Path(model).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = fail("evaluate", "--model", str(tmp_path), "--recipe", "int4", "--text", text)
    assert "model.safetensors: is not a whole safetensors file" in message


def test_contradictions(model: str, text: str, fail: Fail) -> None:
    arguments = ("evaluate", model, "--recipe", "int4", "--text", text)
    assert "model: must be given once, not as" in fail(*arguments, "--model", "tiny")
    message = fail(*arguments, "--accumulator-sweep", "8:9", "--accumulator", "int9")
    assert "--accumulator: must not be given with --accumulator-sweep, which sets it" in message
    message = fail(*arguments, "--context", "16", "--accumulator-sweep", "8:9", "--accumulator-every", "max")
    assert "every: must be 'end', 'mac' or a positive number of products, not 'max'" in message
