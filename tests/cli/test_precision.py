"""`macloom precision` on a small random model: every option, the files, and the recipe it writes in other verbs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main

pytest.importorskip("scipy")
Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


def arguments(model: str, text: str, *more: str) -> list[str]:
    return [
        "precision", model, "--text", text, "--windows", "2", "--context", "24", "--formats", "int4,int8",
        "--by", "block", *more,
    ]  # fmt: skip


def test_weight_bits_need_no_accelerator(model: str, text: str, run_json: RunJson) -> None:
    found = run_json(*arguments(model, text, "--cost", "weight-bits", "--points", "3", "--seed", "2"))
    assert (found["cost"], found["unit"], found["accelerator"], found["seed"]) == ("weight-bits", "bit", None, 2)
    assert found["sensitivity_text"]["name"] == "python-stdlib/train"
    assert found["text"]["name"] == "pangrams.txt"
    assert [p["method"] for p in found["uniform"]] == ["uniform", "uniform"]
    budgets = [p["budget"] for p in found["points"]]
    assert budgets == sorted(budgets)
    for point in found["points"]:
        assert point["predicted_cost"] == pytest.approx(point["measured_cost"])
        assert point["measured_cost"] <= point["budget"] * (1 + 1e-12)
    assert found["points"][-1]["formats"] == dict.fromkeys(found["losses"], "int8")


def test_every_option_of_the_machine(model: str, text: str, run_json: RunJson) -> None:
    more = ["--accelerator", "olive-sa", "--phase", "decode", "--keys", "40", "--batch", "2", "--workload", model]
    more += ["--budget", "100%", "--method", "greedy,integer,evolutionary", "--loss", "loss", "--recipe", "int8"]
    found = run_json(*arguments(model, text, "--cost", "energy", *more))
    assert (found["workload"]["phase"], found["workload"]["context"], found["workload"]["batch"]) == ("decode", 40, 2)
    assert (found["accelerator"], found["cost"], found["loss"]) == ("olive-sa", "energy", "loss")
    assert found["base"]["weight"] == "int8"
    assert [p["method"] for p in found["points"]] == ["greedy", "integer", "evolutionary"]
    prefill = run_json(*arguments(model, text, "--accelerator", "olive-sa", "--sequence", "33", "--budget", "1 ms"))
    assert prefill["workload"]["sequence"] == 33
    assert prefill["points"][0]["budget"] == pytest.approx(1e-3)


def test_files_and_the_recipe_in_evaluate_and_simulate(
    model: str, text: str, run_json: RunJson, capsys: Capture, tmp_path: Path
) -> None:
    out, picture = tmp_path / "mixed", tmp_path / "frontier.png"
    more = ["--accelerator", "olive-sa", "--points", "3", "--out", str(out), "--plot", str(picture)]
    assert main(arguments(model, text, *more)) == 0
    captured = capsys.readouterr()
    assert "Mixed precision of small" in captured.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (out / "frontier.svg").read_text().startswith("<svg")
    found = json.loads((out / "precision.json").read_text())
    rows = (out / "precision.csv").read_text().splitlines()
    assert len(rows) == 1 + len(found["uniform"]) + len(found["points"])
    point = found["points"][0]
    recipe = out / f"{point['recipe']['name']}.toml"
    given = ["--recipe", str(recipe)]
    accuracy = run_json("evaluate", model, *given, "--text", text, "--windows", "2", "--context", "24")
    assert accuracy["kl_nats"] == pytest.approx(point["measured_kl_nats"], rel=1e-5)
    simulated = run_json("simulate", "--workload", model, "--accelerator", "olive-sa", "--sequence", "24", *given)
    assert simulated["totals"]["seconds"] == pytest.approx(point["measured_cost"], rel=1e-12)
    assert simulated["recipe"]["overrides"] == point["recipe"]["overrides"]


def test_bad_input(model: str, text: str, fail: Fail) -> None:
    message = fail(*arguments(model, text))
    assert "accelerator: must be given for the cost 'latency' (macloom list accelerators)" in message
    weight_bits = ("--cost", "weight-bits")
    assert "cost: unknown name 'latencies'; did you mean 'latency'" in fail(
        *arguments(model, text, "--cost", "latencies")
    )
    assert "method: unknown name 'milp'" in fail(*arguments(model, text, *weight_bits, "--method", "milp"))
    assert "loss: unknown name 'mse'" in fail(*arguments(model, text, *weight_bits, "--loss", "mse"))
    message = fail(*arguments(model, text, *weight_bits, "--budget", "1 kbit"))
    assert "budget: must be at least " in message
    assert ", the cost of the cheapest format everywhere, not 1 kbit; allow more, or add a cheaper format" in message
    message = fail(*arguments(model, text, *weight_bits, "--workload", "opt-125m", "--sequence", "24"))
    assert "must be of the same model, but has no product 'model.layers.0.mlp.down_proj'" in message
    assert "--plot: must be a .png, .svg or .pdf file" in fail(*arguments(model, text, "--plot", "x.gif"))
