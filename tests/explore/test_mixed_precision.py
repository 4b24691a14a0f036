"""The precision search: costs against whole simulations, predictions against what ran, frontier, plot and table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from typing import Any

import pytest

from macloom.arch import Accelerator, load_accelerator
from macloom.errors import MacloomError
from macloom.explore.mixed_precision.costs import COSTS, Machine, cost_table, mixed_recipe, split_for
from macloom.explore.mixed_precision.plot import frontier, frontier_figure
from macloom.explore.mixed_precision.result import PrecisionSearch
from macloom.explore.mixed_precision.search import search_precision
from macloom.explore.mixed_precision.table import precision_table
from macloom.explore.style import figure_of
from macloom.formats import get_format
from macloom.sim import simulate
from macloom.workloads import Evaluator, Role, Workload, load_recipe, load_workload
from macloom.workloads.groups import grouped

pytest.importorskip("scipy")
FORMATS = ("int4", "ovp4", "int8")


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator("tiny", windows=4, context=64, batch=4)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return load_workload("tiny", sequence=64)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return load_accelerator("olive-sa")


@pytest.fixture(scope="module")
def found(evaluator: Evaluator, workload: Workload, accelerator: Accelerator) -> PrecisionSearch:
    return search_precision(
        evaluator, workload, FORMATS, accelerator, methods=("greedy", "integer"), points=4, by="block", seed=3
    )


@pytest.mark.parametrize("by", ["operation", "block", "layer"])
@pytest.mark.parametrize("cost", list(COSTS))
def test_costs_add_up_to_a_whole_simulation(
    evaluator: Evaluator, workload: Workload, accelerator: Accelerator, cost: str, by: str
) -> None:
    """A recipe with formats alternating over groups costs what its parts cost, to the last digits."""
    operations = [s.op for s in evaluator.samples() if s.op != "lm_head"]
    machine = Machine(workload=split_for(workload, operations), accelerator=accelerator, cost=cost)
    groups, formats = grouped(operations, by), {name: get_format(name) for name in FORMATS}
    base = load_recipe("int4")
    table, fixed = cost_table(machine, base, formats, groups)
    chosen = {group: FORMATS[i % 3] for i, group in enumerate(groups)}
    recipe = mixed_recipe(base, "mixed", {g: formats[f] for g, f in chosen.items()}, groups)
    added = fixed + math.fsum(table[i, FORMATS.index(f)] for i, f in enumerate(chosen.values()))
    assert added == pytest.approx(sum(machine.by_operation(recipe).values()), rel=1e-12)
    if cost == "weight-bits":
        expected = 0
        for op in workload.gemms:
            if op.b is Role.WEIGHT:
                expected += op.repeat * base.format_for(Role.WEIGHT, op.name).storage_bits((op.n, op.k))
        assert fixed + table[:, 0].sum() == expected
    else:
        whole = simulate(machine.workload, accelerator, recipe)
        totals = {"latency": whole.seconds, "energy": whole.energy_j, "traffic": whole.dram_bits}
        assert added == pytest.approx(totals[cost], rel=1e-9)
        rolled = simulate(workload, accelerator, base)
        uniform = {"latency": rolled.seconds, "energy": rolled.energy_j, "traffic": rolled.dram_bits}
        assert fixed + table[:, 0].sum() == pytest.approx(uniform[cost], rel=1e-9)


def test_points_stay_within_their_budgets_and_cost_what_was_predicted(found: PrecisionSearch) -> None:
    assert {p.method for p in found.points} == {"greedy", "integer"}
    for point in (*found.uniform, *found.points):
        assert point.measured_cost == pytest.approx(point.predicted_cost, rel=1e-12)
        assert point.budget is None or point.predicted_cost <= point.budget
        assert list(point.formats) == [f"model.layers.{i}.{b}" for i in range(4) for b in ("self_attn", "mlp")]
    integer = [p for p in found.points if p.method == "integer"]
    assert [p.predicted_loss_nats for p in integer] == sorted((p.predicted_loss_nats for p in integer), reverse=True)
    best = found.uniform[-1]
    assert integer[-1].measured_kl_nats == best.measured_kl_nats  # int8 everywhere loses least


def test_predictions_from_single_groups_come_near_what_the_whole_recipe_does(found: PrecisionSearch) -> None:
    for point in found.points:
        assert point.measured_loss_nats == point.measured_kl_nats
        assert 0.5 < point.predicted_loss_nats / point.measured_loss_nats < 2  # type: ignore[operator]


def test_greedy_is_never_better_than_the_integer_program(found: PrecisionSearch) -> None:
    for greedy in (p for p in found.points if p.method == "greedy"):
        assert greedy.budget is not None
        rivals = [p for p in found.points if p.method == "integer" and p.budget and p.budget <= greedy.budget]
        assert min(p.predicted_loss_nats for p in rivals) <= greedy.predicted_loss_nats + 1e-12


def test_the_recipe_of_a_point_is_the_one_that_was_measured(
    found: PrecisionSearch, evaluator: Evaluator, tmp_path: Any
) -> None:
    point = found.points[1]
    path = tmp_path / "mixed.toml"
    path.write_text(point.recipe.to_toml())
    loaded = load_recipe(path)
    assert loaded == point.recipe
    for group, fmt in point.formats.items():
        for op in found.map.operations[group]:
            assert loaded.format_for("weight", op).name == fmt
    assert loaded.format_for("weight", "lm_head").name == "fp16"
    assert evaluator.run(path).kl_nats == point.measured_kl_nats


def test_one_budget_the_increase_of_the_loss_and_no_measurement(
    evaluator: Evaluator, workload: Workload, found: PrecisionSearch
) -> None:
    one = search_precision(
        evaluator, workload, FORMATS, cost="weight-bits", loss="loss", budget="60%", by="layer", measure=False
    )
    assert len(one.points) == 1
    (point,) = one.points
    assert (point.measured_cost, point.measured_perplexity, point.collapsed) == (None, None, None)
    assert point.predicted_cost <= 0.6 * one.problem.cost(one.problem.best)
    assert (one.problem.losses >= 1e-6).all()
    assert "-" in [c.text for c in precision_table(one).rows[-1]]
    least = one.problem.written(one.problem.cost(one.problem.cheapest))
    message = f"budget: must be at least {least}, the cost of the cheapest format everywhere, not 1 kbit"
    with pytest.raises(MacloomError, match=re.escape(message)):
        search_precision(evaluator, workload, FORMATS, cost="weight-bits", budget="1 kbit", by="layer", measure=False)
    frontier(one)
    frontier(dataclasses.replace(found, loss="loss"))


def test_operations_that_the_base_recipe_names_are_left_to_it(
    evaluator: Evaluator, workload: Workload, found: PrecisionSearch
) -> None:
    base = dataclasses.replace(
        load_recipe("int4"), overrides=(("down_proj", get_format("ovp4")), ("lm_head", get_format("int8")))
    )
    one = search_precision(
        evaluator, workload, ("int4", "int8"), cost="weight-bits", base=base, by="layer", points=2, measure=False
    )
    assert all(not op.endswith(("down_proj", "lm_head")) for ops in one.map.operations.values() for op in ops)
    last = one.points[-1].recipe
    assert [last.format_for("weight", f"model.layers.0.mlp.{n}").name for n in ("up_proj", "down_proj")] == [
        "int8",
        "ovp4",
    ]


def test_record_table_and_plot(found: PrecisionSearch) -> None:
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (data["seed"], data["by"], data["unit"], data["accelerator"]) == (3, "block", "s", "olive-sa")
    assert data["costs"]["model.layers.0.mlp"]["int4"] < data["costs"]["model.layers.0.mlp"]["int8"]
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(rows) == len(found.points) + len(found.uniform)
    assert rows[0]["model.layers.0.mlp"] == "int4"
    shown = precision_table(found).plain()
    assert "8 int4" in shown
    assert "what each block does alone" in " ".join(shown.split())
    ax = frontier(found)
    figure_of(ax).draw_without_rendering()
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == ["greedy", "integer", "one format everywhere", "frontier", "predicted"]
    sizes = [float(c.get_sizes()[0]) for c in ax.collections if c.get_label() in ("greedy", "integer")]
    assert sizes[0] > sizes[1]  # points at one place stay visible
    assert {t.get_text() for t in ax.texts} >= set(FORMATS)
    assert frontier_figure(found) == frontier_figure(found)


def test_collapsed_recipes_are_marked(found: PrecisionSearch) -> None:
    dead = dataclasses.replace(found.uniform[0], collapsed=True, measured_loss_nats=math.inf)
    marked = dataclasses.replace(found, uniform=(dead, *found.uniform[1:]))
    assert "†inf" in precision_table(marked).plain()
    assert "collapsed (not ranked)" in [t.get_text() for t in frontier(marked).get_legend().get_texts()]
    assert json.loads(json.dumps(marked.to_dict(), allow_nan=False))["uniform"][0]["measured_loss_nats"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mse"}, "loss: unknown name 'mse'; known are kl, loss"),
        ({"methods": ("milp",)}, "method: unknown name 'milp'"),
        ({"methods": ()}, "methods: must be at least one of greedy, integer, evolutionary"),
        ({"points": 0}, "points: must be a positive integer, not 0"),
        ({"cost": "power"}, "cost: unknown name 'power'"),
        ({"cost": "energy"}, "accelerator: must be given for the cost 'energy'"),
        ({"formats": ()}, "recipe: "),
    ],
)
def test_bad_arguments(evaluator: Evaluator, workload: Workload, options: dict[str, Any], message: str) -> None:
    given = {"formats": FORMATS, "cost": "weight-bits", **options}
    with pytest.raises(MacloomError, match=re.escape(message)):
        search_precision(evaluator, workload, **given)


def test_another_models_workload(evaluator: Evaluator) -> None:
    message = "workload 'opt-125m': must be of the same model, but has no product 'model.layers.0.mlp.down_proj'"
    with pytest.raises(MacloomError, match=re.escape(message)):
        search_precision(evaluator, load_workload("opt-125m", sequence=8), FORMATS, cost="weight-bits")
