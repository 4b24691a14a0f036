"""Workloads layer by layer: the same work under other names, in the order and with the reads of the original."""

from __future__ import annotations

import dataclasses
import re

import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads import Gemm, Recipe, Vector, Workload, load_recipe, load_workload
from macloom.workloads.by_layer import by_expert, by_layer, for_recipe, named_like

NAMES = ("tiny", "opt-125m", "gpt2-xl", "mixtral-8x7b", "gemma-2-9b")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_same_work_under_other_names(name: str, phase: str) -> None:
    prefill = phase == "prefill"
    whole = load_workload(name, phase=phase, sequence=64 if prefill else None, context=None if prefill else 64)
    split = by_layer(whole)
    layers = whole.details["layers"]
    assert split.macs == whole.macs
    assert sum(op.repeat for op in split.ops) == sum(op.repeat for op in whole.ops)
    assert len({op.name for op in split.ops}) == len(split.ops)
    kept = [op.name for op in split.ops if not op.name.startswith("model.layers.")]
    assert len(split.ops) == (len(whole.ops) - len(kept)) * layers + len(kept)
    first = [op.name.removeprefix("model.layers.0.") for op in split.ops if op.name.startswith("model.layers.0.")]
    assert [op.name for op in whole.ops if op.name not in kept] == first


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_reads_earlier_ones(name: str) -> None:
    whole, seen = load_workload(name, sequence=16), set()
    assert any(op.reads for op in whole.ops)
    for op in by_layer(whole).ops:
        sources = [op.reads] if isinstance(op, Gemm) else op.reads
        for alternatives in sources:
            assert set(alternatives) <= seen, op.name
        seen.add(op.name)


def test_a_layer_reads_the_one_before() -> None:
    ops = {op.name: op for op in by_layer(load_workload("tiny", sequence=16)).ops}
    assert ops["model.layers.0.input_layernorm"].reads == (("embed_tokens",),)
    assert ops["model.layers.1.input_layernorm"].reads == (("model.layers.0.mlp.residual",),)
    assert ops["model.layers.1.self_attn.q_proj"].reads == ("model.layers.1.input_layernorm",)
    assert ops["norm"].reads == (("model.layers.3.mlp.residual",),)


def test_a_single_layer_is_found_by_what_it_reads() -> None:
    two = load_workload("tiny", sequence=16)
    one = dataclasses.replace(
        two,
        ops=tuple(dataclasses.replace(op, repeat=1) for op in two.ops),
        details={**two.details, "layers": 1},
    )
    names = [op.name for op in by_layer(one).ops]
    assert names[:2] == ["embed_tokens", "model.layers.0.input_layernorm"]
    assert names[-3:] == ["model.layers.0.mlp.residual", "norm", "lm_head"]


def mixed(*patterns: str) -> Recipe:
    exceptions = tuple((pattern, get_format("int8")) for pattern in patterns)
    return dataclasses.replace(load_recipe("int4"), overrides=exceptions)


@pytest.mark.parametrize(
    ("patterns", "split"),
    [
        (("lm_head",), False),
        (("mlp.up_proj",), False),
        (("*.mlp.*", "mlp.*"), False),
        (("model.layers.2.*",), True),
        (("model.layers.[01].mlp.up_proj",), True),
        (("model.layers.*.mlp.up_proj",), True),
        (("decoder.blocks.3.mlp.*",), True),
    ],
)
def test_only_recipes_that_tell_layers_apart_are_written_out(patterns: tuple[str, ...], split: bool) -> None:
    workload = load_workload("tiny", sequence=16)
    recipe = mixed(*patterns)
    found = for_recipe(workload, recipe)
    assert (found is not workload) == split
    eight = [op.name for op in found.gemms if recipe.format_for(op.b, op.name).name == "int8"]
    assert eight


def test_experts_are_written_out_and_cost_what_they_did_together() -> None:
    workload = load_workload("mixtral-8x7b", sequence=33)  # 66 rows over 8 experts: two of nine tokens, six of eight
    split = by_expert(by_layer(workload))
    assert (split.macs, split.useful_macs) == (workload.macs, workload.useful_macs)
    experts = [op for op in split.gemms if op.name.startswith("model.layers.3.mlp.experts.")]
    assert [(op.name.removeprefix("model.layers.3.mlp.experts."), op.m, op.batch) for op in experts] == [
        (f"{i}.{leaf}", 9 if i < 2 else 8, 1) for leaf in ("gate_up_proj", "down_proj") for i in range(8)
    ]
    read = {source for op in split.ops if isinstance(op, Vector) for sources in op.reads for source in sources}
    assert "model.layers.3.mlp.experts.7.down_proj" in read
    assert not any(name.endswith("experts.down_proj") for name in read)
    dense = by_layer(load_workload("tiny", sequence=16))
    assert by_expert(dense) is dense


def test_an_expert_without_a_token_has_no_cost_to_split() -> None:
    message = "must have tokens for all 8 experts of mlp.experts, not 2 of them, to be split; give a longer sequence"
    with pytest.raises(MacloomError, match=re.escape(message)):
        by_expert(load_workload("mixtral-8x7b", phase="decode", context=64))


def test_a_recipe_that_tells_experts_apart_is_written_out_expert_by_expert() -> None:
    workload = load_workload("mixtral-8x7b", sequence=64)
    recipe = mixed("model.layers.1.mlp.experts.5.*")
    eight = [op.name for op in for_recipe(workload, recipe).gemms if recipe.format_for(op.b, op.name).name == "int8"]
    assert eight == [f"model.layers.1.mlp.experts.5.{leaf}" for leaf in ("gate_up_proj", "down_proj")]
    layer = for_recipe(workload, mixed("model.layers.1.*"))
    assert "model.layers.1.mlp.experts.down_proj" in [op.name for op in layer.gemms]


def test_operations_outside_of_layers_are_found_under_longer_names() -> None:
    workload = load_workload("deit-base")
    recipe = mixed("vit.embeddings.patch_embeddings.projection", "vit.layers.3.mlp.fc1")
    found = for_recipe(workload, recipe)
    eight = [op.name for op in found.gemms if recipe.format_for(op.b, op.name).name == "int8"]
    assert eight == ["vit.embeddings.patch_embeddings.projection", "vit.layers.3.mlp.fc1"]
    assert named_like(workload, ["other.projection"]) is workload


def test_what_cannot_be_split() -> None:
    bare = Workload(
        name="w", phase="prefill", ops=(Gemm(name="g", m=2, n=2, k=2),), parameters=4, kv_elements=0, tokens=2
    )
    message = "workload 'w': must say in details how many layers it has, to be split"
    with pytest.raises(MacloomError, match=re.escape(message)):
        by_layer(bare)
    assert for_recipe(bare, mixed("model.layers.0.*")) is bare
    with pytest.raises(MacloomError, match="must have operations that repeat in every layer"):
        by_layer(dataclasses.replace(bare, details={"layers": 3}))
    apart = tuple(Gemm(name=f"g{i}", m=2, n=2, k=2, repeat=r) for i, r in enumerate((3, 1, 3)))
    with pytest.raises(MacloomError, match="must have layers of one kind in a row"):
        by_layer(dataclasses.replace(bare, ops=apart, details={"layers": 3}))
