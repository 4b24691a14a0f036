"""The sensitivity map: each kind of cell against a whole evaluation, replay against none, groups, every message."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.groups import By, group_of, grouped, pattern_of
from macloom.workloads.lm.checkpoint import LanguageModel
from macloom.workloads.lm.data import Text
from macloom.workloads.lm.model import LlamaConfig
from macloom.workloads.ops import Role
from macloom.workloads.recipe import load_recipe
from macloom.workloads.replay import Playback, Tape
from macloom.workloads.scoring import divergence
from macloom.workloads.sensitivity import sensitivity
from macloom.workloads.sensitivity_map import SensitivityMap

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)
TEXT = Text(name="pangrams", data=b"The quick brown fox jumps over the lazy dog; pack my box with jugs. " * 12)
OPS = 2 * 9 + 1


def random_model() -> LanguageModel:
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: torch.normal(0.0, 0.3, shape, generator=generator) if len(shape) == 2 else torch.ones(shape)
        for name, shape in CONFIG.parameter_shapes().items()
    }
    return LanguageModel(name="random", config=CONFIG, parameters=parameters, sha256="0" * 64)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(random_model(), TEXT, windows=3, context=24, batch=2)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """int4 whose outputs stay float32, so that a whole evaluation can leave the others alone."""
    path = tmp_path_factory.mktemp("recipe") / "four.toml"
    path.write_text('name = "four"\nformat = "int4"\noutput = "fp32"\n[overrides]\n')
    return str(path)


@pytest.fixture(scope="module")
def mapped(evaluator: Evaluator, recipe: str) -> SensitivityMap:
    return sensitivity(evaluator, [recipe, "int8"])


def test_there_is_a_cell_for_every_operation_role_and_format(mapped: SensitivityMap) -> None:
    assert mapped.formats == ("four", "int8")
    assert len(mapped.groups) == OPS
    # all; weights of 7 linears a layer and the head; activations of those and of the scores; keys and values; P.
    assert len(mapped.cells) == 2 * (OPS + 15 + 17 + 4 + 2)
    assert mapped.cell("lm_head", "kv", "int8") is None
    scores = "model.layers.1.self_attn.scores"
    assert {c.role for c in mapped.cells if c.group == scores} == {"all", "activation", "kv"}
    for cell in mapped.cells:
        assert cell.kl_nats > 0
        assert cell.perplexity == pytest.approx(mapped.reference_perplexity * math.exp(cell.loss_nats), rel=1e-9)
    for role in ("all", "weight", "activation"):
        worse, better = (
            sum(c.kl_nats for c in mapped.cells if (c.format, c.role) == (f, role)) for f in mapped.formats
        )
        assert worse > 10 * better


@pytest.mark.parametrize(
    "op",
    [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.scores",
        "model.layers.1.self_attn.values",
        "model.layers.1.mlp.down_proj",
        "lm_head",
    ],
)
def test_a_cell_equals_a_whole_evaluation_with_everything_else_in_fp32(
    evaluator: Evaluator, mapped: SensitivityMap, op: str
) -> None:
    alone = load_recipe("fp32")
    alone = dataclasses.replace(alone, output=get_format("fp32"), overrides=((op, get_format("int4")),))
    # q, k and v share their input's clip ratio in the map, where all three are in the format.
    if op.endswith("q_proj"):
        plan = evaluator.plan(dataclasses.replace(alone, overrides=(("*", get_format("int4")),)))
        whole = evaluator.plan(alone) | {key: p for key, p in plan.items() if key[0] == op}
        scores = F.log_softmax(evaluator.quantized_logits(alone, whole)[1], -1)
        kl, top1 = divergence(evaluator.reference, scores)
        sqnr = None
    else:
        accuracy = evaluator.run(alone)
        kl, top1, sqnr = accuracy.kl_nats, accuracy.top1_agreement, accuracy.sqnr_db[op]
    cell = mapped.cell(op, "all", "four")
    assert cell is not None
    assert cell.kl_nats == pytest.approx(kl, rel=1e-3)
    assert cell.top1_agreement == pytest.approx(top1, abs=0.02)
    if sqnr is not None:  # of the first batch there, of all windows here
        assert cell.sqnr_db == pytest.approx(sqnr, abs=1.0)


def test_a_weight_cell_equals_a_model_with_that_weight_rounded(evaluator: Evaluator, mapped: SensitivityMap) -> None:
    op = "model.layers.0.mlp.up_proj"
    planned = evaluator.plan(load_recipe("int4"))[op, "weight"]
    weight = evaluator.model.parameters[f"{op}.weight"].numpy()
    rounded = torch.from_numpy(planned.format.quantize(weight, clip=planned.choice.clip))
    model = dataclasses.replace(evaluator.model, parameters={**evaluator.model.parameters, f"{op}.weight": rounded})
    other = Evaluator(model, TEXT, windows=3, context=24, batch=2)
    cell = mapped.cell(op, "weight", "four")
    assert cell is not None
    assert cell.kl_nats == pytest.approx(divergence(evaluator.reference, other.reference)[0], rel=1e-4)
    assert cell.perplexity == pytest.approx(other.reference_perplexity, rel=1e-5)


def test_replay_gives_bit_for_bit_what_a_whole_pass_gives(
    evaluator: Evaluator, mapped: SensitivityMap, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: a playback that never goes live would give no difference at all."""
    built = Playback.__init__

    def always_live(self: Playback, tape: Tape) -> None:
        built(self, tape)
        self.live = True

    with monkeypatch.context() as patch:
        patch.setattr(Playback, "__init__", always_live)
        assert sensitivity(evaluator, [recipe, "int8"]).cells == mapped.cells

    def forgotten(self: Playback) -> None:
        self.position += 1

    monkeypatch.setattr(Playback, "change", forgotten)
    frozen = sensitivity(evaluator, [recipe], roles=("all",)).cells
    assert [c.kl_nats for c in frozen] != [c.kl_nats for c in mapped.cells if (c.role, c.format) == ("all", "four")]
    assert frozen[0].kl_nats < 1e-6 < mapped.cells[0].kl_nats


def test_groups_of_a_layer_hold_all_its_operations(evaluator: Evaluator, recipe: str) -> None:
    layers = sensitivity(evaluator, [recipe], by="layer", roles=("all", "probability"))
    assert layers.groups == ("model.layers.0", "model.layers.1", "lm_head")
    assert [len(ops) for ops in layers.operations.values()] == [9, 9, 1]
    assert layers.cell("lm_head", "probability", "four") is None
    alone = dataclasses.replace(load_recipe("fp32"), output=get_format("fp32"))
    alone = dataclasses.replace(alone, overrides=((pattern_of("model.layers.1", layers.operations["model.layers.1"]),
                                                   get_format("int4")),))  # fmt: skip
    cell = layers.cell("model.layers.1", "all", "four")
    assert cell is not None
    assert cell.kl_nats == pytest.approx(evaluator.run(alone).kl_nats, rel=1e-3)


def test_a_model_without_finite_logits_collapses_and_json_stays_strict() -> None:
    model = random_model()
    blown = {n: t * 1e3 if n.endswith("down_proj.weight") else t for n, t in model.parameters.items()}
    evaluator = Evaluator(dataclasses.replace(model, parameters=blown), TEXT, windows=2, context=16)
    mapped = sensitivity(evaluator, ["ternary"], by=By.LAYER, roles=("all",))
    data = json.loads(json.dumps(mapped.to_dict(), allow_nan=False))
    assert data["by"] == "layer"
    assert all(isinstance(cell["collapsed"], bool) for cell in data["cells"])
    # A random model is no better than guessing, whatever its format.
    assert all(cell["collapsed"] for cell in data["cells"])


def test_the_table_and_the_record(mapped: SensitivityMap, evaluator: Evaluator) -> None:
    rows = list(csv.DictReader(io.StringIO(mapped.to_csv())))
    assert len(rows) == len(mapped.cells)
    assert float(rows[0]["kl_nats"]) == mapped.cells[0].kl_nats
    data = mapped.to_dict()
    assert data["text"]["name"] == "pangrams"
    assert (data["windows"], data["context"], data["by"]) == (3, 24, "operation")
    assert data["reference_perplexity"] == evaluator.reference_perplexity
    assert list(data["operations"]) == list(mapped.groups)


def test_progress_counts_every_cell_of_every_batch(evaluator: Evaluator) -> None:
    seen: list[tuple[int, int]] = []
    found = sensitivity(
        evaluator, ["int8"], by="layer", roles=("all",), progress=lambda text, done, total: seen.append((done, total))
    )
    assert seen[1:] == [(i, 2 * len(found.cells)) for i in range(2 * len(found.cells))]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("model.layers.10.self_attn.q_proj", ("model.layers.10.self_attn", "model.layers.10")),
        ("transformer.h.3.attn.c_attn", ("transformer.h.3.attn", "transformer.h.3")),
        ("model.decoder.layers.2.fc1", ("model.decoder.layers.2.fc1", "model.decoder.layers.2")),
        ("model.layers.0.mlp.experts.7.up_proj", ("model.layers.0.mlp", "model.layers.0")),
        ("lm_head", ("lm_head", "lm_head")),
    ],
)
def test_groups_of_names_as_families_write_them(op: str, expected: tuple[str, str]) -> None:
    assert group_of(op, By.OPERATION) == op
    assert (group_of(op, By.BLOCK), group_of(op, By.LAYER)) == expected


def test_the_pattern_of_a_group_matches_its_operations_and_no_others() -> None:
    ops = [f"model.layers.{i}.{name}" for i in (1, 10, 11) for name in ("mlp.up_proj", "self_attn.q_proj")] + [
        "lm_head"
    ]
    for by in By:
        for group, members in grouped(ops, by).items():
            exception = ((pattern_of(group, members), get_format("int8")),)
            chosen = dataclasses.replace(load_recipe("int4"), overrides=exception)
            assert [op for op in ops if chosen.format_for(Role.WEIGHT, op).name == "int8"] == list(members)


@pytest.mark.parametrize(
    ("formats", "options", "message"),
    [
        ([], {}, "formats: must be a list of at least one format, not []"),
        ("int4", {}, "formats: must be a list of at least one format, not 'int4'"),
        (["int4", "int4"], {}, "formats: must be different, not int4, int4"),
        (["int44"], {}, "recipe: format: unknown name 'int44'"),
        (["int4"], {"by": "layers"}, "by: unknown name 'layers'; did you mean 'layer'"),
        (["int4"], {"roles": ["weights"]}, "roles: unknown name 'weights'; did you mean 'weight'?"),
        (["int4"], {"roles": []}, "roles: must be at least one of all, weight, activation, kv, probability"),
    ],
)
def test_bad_arguments(evaluator: Evaluator, formats: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError, match=re.escape(message)):
        sensitivity(evaluator, formats, **options)


def test_a_group_without_operations_has_no_pattern() -> None:
    with pytest.raises(MacloomError, match=re.escape("group 'x': must hold at least one operation")):
        pattern_of("x", [])


def test_takes_a_model_by_directory(tmp_path: Path) -> None:
    with pytest.raises(MacloomError, match="no such directory"):
        sensitivity(tmp_path / "none", ["int8"])
