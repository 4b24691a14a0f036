"""Recipes: resolution of formats by role and operation, the TOML form, and every message."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.ops import Role
from macloom.workloads.recipe import OPERAND_ROLES, Objective, Recipe, Search, load_recipe

MIXED = """
name = "mixed"
format = "int4"
activation = "int8:token"
probability = "int8"
output = "fp32"
accumulator = "int24:saturate"

[overrides]
"lm_head" = "fp16"
"layers.0.*" = "int8"
"q_proj" = "mxfp4"

[search]
objective = "output_mse"
steps = 5
ratio = 0.5
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_format_string_means_that_format_in_every_operand_role_fp16_output_and_head() -> None:
    recipe = load_recipe("int4:group=128")
    assert {recipe.format_for(role, "model.layers.0.mlp.up_proj").name for role in OPERAND_ROLES} == {"int4:group=128"}
    assert {recipe.format_for(role, "lm_head").name for role in Role} == {"fp16"}
    assert recipe.output.name == "fp16"
    assert recipe.name == "int4:group=128"
    assert recipe.search == Search(objective=Objective.TENSOR_MSE, steps=24, ratio=2 ** (-1 / 3))
    assert load_recipe(recipe) is recipe


def test_roles_of_a_file_override_its_common_format(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "mixed.toml", MIXED))
    names = {role: recipe.format_for(role, "self_attn.scores").name for role in Role}
    assert names == {
        "weight": "int4",
        "activation": "int8:token",
        "kv": "int4",
        "probability": "int8",
        "output": "fp32",
    }
    assert recipe.search == Search(objective=Objective.OUTPUT_MSE, steps=5, ratio=0.5)


@pytest.mark.parametrize(
    "op, expected",
    [
        ("lm_head", "fp16"),
        ("model.layers.0.self_attn.q_proj", "int8"),  # the first match wins
        ("model.layers.1.self_attn.q_proj", "mxfp4"),
        ("q_proj", "mxfp4"),
        ("self_attn.seq_proj", "int4"),  # a pattern starts at a dot
        ("model.layers.10.mlp.up_proj", "int4"),
    ],
)
def test_overrides_match_whole_names_and_their_ends(tmp_path: Path, op: str, expected: str) -> None:
    recipe = load_recipe(str(write(tmp_path / "mixed.toml", MIXED)))
    assert recipe.format_for(Role.WEIGHT, op).name == expected
    assert recipe.format_for(Role.OUTPUT, op).name == "fp32"


def test_accumulator_concerns_operations_without_override(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "mixed.toml", MIXED))
    assert recipe.accumulator_for("model.layers.1.mlp.up_proj") == "int24:saturate"
    assert recipe.accumulator_for("lm_head") is None
    assert load_recipe("int4").accumulator_for("model.layers.1.mlp.up_proj") is None


@pytest.mark.parametrize("source", ["int4", "ovp4:normal=flint4", "bfp4", "mixed"])
def test_toml_and_json_round_trip(tmp_path: Path, source: str) -> None:
    recipe = load_recipe(write(tmp_path / "mixed.toml", MIXED) if source == "mixed" else source)
    assert load_recipe(write(tmp_path / "again.toml", recipe.to_toml())) == recipe
    document = json.loads(json.dumps(recipe.to_dict()))
    assert document["weight"] == recipe.weight.name
    assert document["search"] == {"objective": recipe.search.objective, "steps": recipe.search.steps,
                                  "ratio": recipe.search.ratio}  # fmt: skip


def test_file_without_overrides_keeps_the_head_in_fp16_and_an_empty_table_does_not(tmp_path: Path) -> None:
    kept = load_recipe(write(tmp_path / "a.toml", 'format = "int8"'))
    assert kept.format_for("weight", "lm_head").name == "fp16"
    assert kept.name == "a"
    bare = load_recipe(write(tmp_path / "b.toml", 'format = "int8"\n[overrides]\n'))
    assert bare.format_for("weight", "lm_head").name == "int8"


def test_candidates_fall_by_the_ratio_from_one() -> None:
    candidates = Search().candidates
    assert len(candidates) == 24
    assert candidates[0] == 1.0
    assert candidates[3] == pytest.approx(0.5)
    assert Search(objective=Objective.ABSMAX).candidates == (1.0,)


@pytest.mark.parametrize(
    "text, message",
    [
        ("wieght = 'int4'\nformat = 'int4'", "{path}: key: unknown name 'wieght'; did you mean 'weight'?"),
        ("format = 'int44'", "{path}: format: format: unknown name 'int44'; did you mean"),
        ("format = 'int4'\nkv = 'int44'", "{path}: kv: format: unknown name 'int44'; did you mean"),
        ("format = 4", "{path}: format: must be a format string, not 4"),
        ("weight = 'int4'", "{path}: activation: must be given, or `format` for every operand role that is not"),
        (
            "format = 'int4'\n[overrides]\nlm_head = 'nope4'",
            "{path}: overrides['lm_head']: format: unknown name 'nope4'",
        ),
        ("format = 'int4'\noverrides = 3", "{path}: overrides: must be a table, not 3"),
        ("format = 'int4'\nsearch = 'absmax'", "{path}: search: must be a table, not 'absmax'"),
        ("format = 'int4'\n[search]\nstep = 3", "{path}: search: key: unknown name 'step'; did you mean 'steps'?"),
        (
            "format = 'int4'\n[search]\nobjective = 'output-mse'",
            "{path}: search.objective: unknown name 'output-mse'; did you mean 'output_mse'",
        ),
        ("format = 'int4'\n[search]\nsteps = 0", "{path}: search.steps: must be a positive integer, not 0"),
        ("format = 'int4'\n[search]\nratio = 1.5", "{path}: search.ratio: must be a number between 0 and 1, not 1.5"),
        ("format = 'int4'\n[search]\nratio = true", "{path}: search.ratio: must be a number between 0 and 1, not True"),
        ("format = 'int4'\nname = ''", "{path}: name: must be a non-empty string, not ''"),
        ("format = 'int4'\naccumulator = 32", "{path}: accumulator: must be a non-empty string, not 32"),
        (
            "format = 'int4'\naccumulator = 'int999'",
            "{path}: recipe.accumulator: accumulator.bits: must be an integer from 2 to 512, not 999",
        ),
        ("format = \n", "{path}: malformed TOML: Invalid value (at line 1, column 10)"),
    ],
)
def test_messages_of_files(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "r.toml", text)
    with pytest.raises(MacloomError, match="^" + re.escape(message.format(path=path))):
        load_recipe(path)


def test_messages_of_sources(tmp_path: Path) -> None:
    with pytest.raises(MacloomError, match="^recipe: format: unknown name 'int44'; did you mean"):
        load_recipe("int44")
    with pytest.raises(
        MacloomError, match=r"^recipe: no such file 'none.toml'; give a format \(macloom list formats\)"
    ):
        load_recipe("none.toml")
    with pytest.raises(MacloomError, match="^recipe: cannot read "):
        load_recipe(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MacloomError, match="^recipe: cannot read .*binary.toml"):
        load_recipe(tmp_path / "binary.toml")


def test_messages_of_records() -> None:
    recipe = load_recipe("int4")
    with pytest.raises(MacloomError, match="^role: unknown name 'weights'; did you mean 'weight'"):
        recipe.format_for("weights", "lm_head")
    with pytest.raises(MacloomError, match="^recipe.name: must be a non-empty string, not ''"):
        dataclasses.replace(recipe, name="")
    with pytest.raises(MacloomError, match="^recipe.kv: must be a TensorFormat .*, not 'int4'"):
        dataclasses.replace(recipe, kv="int4")  # type: ignore[arg-type]
    with pytest.raises(MacloomError, match=r"^recipe.overrides\['x'\]: must be a TensorFormat"):
        dataclasses.replace(recipe, overrides=(("x", None),))  # type: ignore[arg-type]
    fp16 = get_format("fp16")
    assert isinstance(dataclasses.replace(recipe, weight=fp16), Recipe)
