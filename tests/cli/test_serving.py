"""`macloom serve-sim` and `macloom export`: files, figures, and refusals that write nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main

RunJson = Callable[..., Any]
Fail = Callable[..., str]
MACHINE = ("--workload", "tiny", "--accelerator", "olive-sa", "--recipe", "ovp4")
SMALL = ("--requests", "6", "--rate", "300", "--tokens", "64", "--batch", "4")


def test_a_scenario_is_served_and_written(tmp_path: Path, run_json: RunJson) -> None:
    out, plot = tmp_path / "run", tmp_path / "run.svg"
    arguments = ["serve-sim", *MACHINE, *SMALL, "--scenario", "fixed", "--prompt", "80", "--output", "5"]
    arguments += ["--variation", "0", "--memory", "4 MiB", "--slo-ttft", "10 ms", "--slo-tpot", "1 s", "--block", "8"]
    found = run_json(*arguments, "--out", str(out), "--plot", str(plot), "--seed", "3")
    assert found["settings"]["requests"]["scenario"] == "fixed"
    assert found["settings"]["policy"]["block"] == 8
    assert found["settings"]["seed"] == 3
    assert found["objective"] == {"ttft_s": 0.01, "tpot_s": 1.0}
    assert found["totals"]["requests"] == 6
    assert found["totals"]["output_tokens_per_s"] * found["totals"]["seconds"] == pytest.approx(30)
    assert {path.name for path in out.iterdir()} == {"serving.json", "requests.csv", "iterations.csv"}
    assert json.loads((out / "serving.json").read_text()) == found
    assert "time per output token" in plot.read_text()


def test_a_trace_is_served_whole_prompts_or_chunks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,90,1\n0,40,1\n")
    for further in ([], ["--whole-prompts"]):
        assert main(["serve-sim", *MACHINE, *SMALL, "--trace", str(trace), *further]) == 0
    shown = capsys.readouterr().out
    assert shown.count("time to first token") == 2
    assert re.search(r"time per output token +-", shown)  # one token has no time between tokens


def test_prompts_and_outputs_beyond_the_model_are_cut_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ("--requests", "2", "--rate", "300", "--scenario", "long-context", "--seed", "12")
    assert main(["serve-sim", *MACHINE, *two, "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    assert "2 of 2 prompts are cut to the model's longest context, 1024 tokens" in shown.err
    assert "1 of 2 outputs are cut to the model's longest context, 1024 tokens" in shown.err
    assert re.search(r"goodput +-\n", shown.out)
    found = json.loads((tmp_path / "run" / "serving.json").read_text())
    assert (found["settings"]["requests"]["prompts_cut"], found["settings"]["requests"]["outputs_cut"]) == (2, 1)
    assert found["totals"]["goodput_requests_per_s"] is None


def test_stored_sizes_have_one_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-sim", *MACHINE, *SMALL, "--memory", "64 MiB"]) == 0  # chat
    shown = capsys.readouterr().out
    assert re.search(r"weights +\d[\d.]{0,4} MiB\n", shown)
    assert re.search(r"cache +\d[\d.]{0,4} MiB at most of \d[\d.]{0,4} MiB\n", shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", "chatt"], "scenario: unknown name 'chatt'; did you mean 'chat'"),
        (["--scenario", "chat", "--prompt", "8"], "--prompt, --output: must be left out for chat"),
        (["--scenario", "chat", "--trace", "x.csv"], "--trace: must not be given beside --scenario"),
        (["--trace", "x.csv"], "requests: no such file 'x.csv'"),
        (["--memory", "12"], "--memory: must be a data size such as '256 KiB'"),
        (["--memory", "1 KiB"], "serve.memory_bits (--memory): must be more than the 1.25 MiB of the weights"),
        (["--slo-ttft", "soon"], "--slo-ttft: must be a time"),
        (["--rate", "0"], "serve.rate: must be a positive number of requests per second"),
        (["--tokens", "2"], "serve.tokens: must be at least the 4 requests of a batch"),
        (["--plot", "x.txt"], "--plot"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments: list[str], message: str, fail: Fail) -> None:
    assert message in fail("serve-sim", *MACHINE, *SMALL, *arguments)


def test_a_profile_is_exported(tmp_path: Path, run_json: RunJson) -> None:
    grid = ("--tokens", "16", "--batch", "2", "--context", "16", "--per-octave", "1")
    found = run_json("export", "llmservingsim", *MACHINE, *grid, "--model-name", "org/tiny", "--variant", "fp8",
                     "--memory", "8 GiB", "--out", str(tmp_path / "sim"))  # fmt: skip
    root = tmp_path / "sim" / "profiler" / "perf" / "olive-sa-ovp4" / "org" / "tiny" / "fp8"
    assert str(root / "tp1" / "dense.csv") in found["files"]
    assert (root / "meta.yaml").is_file()
    cluster = json.loads((tmp_path / "sim" / "configs" / "cluster" / "olive-sa-ovp4.json").read_text())
    assert cluster["nodes"][0]["instances"][0]["npu_mem"]["mem_size"] == 8  # GiB


def test_an_export_that_cannot_be_read_there_is_refused(tmp_path: Path, fail: Fail) -> None:
    out = tmp_path / "sim"
    machine = ("--workload", "opt-125m", "--accelerator", "olive-sa", "--recipe", "ovp4", "--out", str(out))
    assert "export.model: must be of a type that LLMServingSim has layers of" in fail(
        "export", "llmservingsim", *machine
    )
    assert "TARGET" in fail("export", "vidur", *machine)
    assert not out.exists()
