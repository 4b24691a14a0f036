"""The width sweep: each cell against an evaluation of its own, what it concludes, resuming, every message."""

from __future__ import annotations

import csv
import inspect
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from macloom.errors import MacloomError
from macloom.workloads.accumulator_widths import AccumulatorWidths, WidthCell, accumulator_width
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.lm.checkpoint import LanguageModel
from macloom.workloads.lm.data import Text
from macloom.workloads.lm.model import LlamaConfig
from macloom.workloads.recipe import load_recipe

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
WIDTHS = range(6, 17)


def random_model(seed: int = 0) -> LanguageModel:
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: torch.normal(0.0, 0.3, shape, generator=generator) if len(shape) == 2 else torch.ones(shape)
        for name, shape in CONFIG.parameter_shapes().items()
    }
    return LanguageModel(name="random", config=CONFIG, parameters=parameters, sha256=f"{seed:064}")


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(random_model(), TEXT, windows=3, context=24, batch=2)


@pytest.fixture(scope="module")
def swept(evaluator: Evaluator) -> AccumulatorWidths:
    return accumulator_width(evaluator, "int4", WIDTHS, every=("end", "mac"))


def test_every_cell_equals_an_evaluation_with_that_accumulator(evaluator: Evaluator, swept: AccumulatorWidths) -> None:
    """The cells above the first without overflow are copied, not run: they must be equal all the same."""
    for cell in swept.cells:
        if cell.skipped is not None:
            continue
        moment = "" if cell.every == "end" else f",every={cell.every}"
        alone = evaluator.run("int4", accumulator=f"int{cell.bits}:{cell.overflow}{moment}")
        assert alone.perplexity == cell.perplexity
        assert alone.kl_nats == cell.kl_nats
        assert alone.overflows == cell.overflows


def test_the_sweep_holds_every_width_of_every_register(swept: AccumulatorWidths) -> None:
    assert list(swept.curves()) == [("wrap", "end"), ("saturate", "end"), ("saturate", "mac")]
    for cells in swept.curves().values():
        assert [c.bits for c in cells] == list(WIDTHS)
        assert [c.skipped is not None for c in cells] == [n < 7 for n in WIDTHS]  # 7 * 7 = 49 needs 7 bits
    assert swept.product_bits == 7
    assert swept.safe_bits == 13  # 64 * 49 = 3136
    assert swept.cells[0].skipped == "narrower than one product, which needs 7 bits"


def test_narrow_registers_overflow_and_cost_accuracy(swept: AccumulatorWidths) -> None:
    for key, cells in swept.curves().items():
        counts = [c.overflow_count for c in cells if c.skipped is None]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > 0
        assert counts[-1] == 0
        lossless = swept.lossless_bits(*key)
        assert lossless is not None
        assert {c.perplexity for c in cells if c.bits >= lossless} == {swept.unlimited_perplexity}
        assert next(c for c in cells if c.bits == lossless - 1).overflow_count > 0
        enough = swept.sufficient_bits(*key)
        assert enough is not None
        assert enough <= lossless
    narrow = {key: cells[1].kl_nats for key, cells in swept.curves().items()}
    assert None not in narrow.values()
    assert narrow["wrap", "end"] > narrow["saturate", "end"]  # type: ignore[operator]


def test_operations_with_an_override_are_not_counted(swept: AccumulatorWidths) -> None:
    ops = {op for cell in swept.cells for op in cell.overflows}
    assert ops
    assert "lm_head" not in ops
    layers = {layer for cell in swept.cells for layer in cell.overflows_by_layer()}
    assert layers == {"model.layers.0", "model.layers.1"}
    for cell in swept.cells:
        assert sum(cell.overflows_by_layer().values()) == cell.overflow_count
        assert cell.overflow_count <= cell.sums


def test_smallest_widths_must_hold_from_there_on() -> None:
    def cell(bits: int, perplexity: float, overflows: int) -> WidthCell:
        return WidthCell(
            bits=bits, overflow="wrap", every="end", perplexity=perplexity, kl_nats=0.0, top1_agreement=1.0, sums=9,
            overflows={"a.b": overflows},
        )  # fmt: skip

    # 10 bits are good by luck, 11 are not; 12 overflow without harm.
    cells = (cell(10, 4.0, 1), cell(11, 5.0, 3), cell(12, 4.03, 1), cell(13, 4.0, 0), cell(14, 4.0, 0))
    record = AccumulatorWidths(
        model="m", model_sha256="", recipe=load_recipe("int4"), vector="float", text="t", text_sha256="", windows=1,
        context=1, seed=0, reference_perplexity=3.9, unlimited_perplexity=4.0, product_bits=7, safe_bits=16,
        cells=cells,
    )  # fmt: skip
    assert record.lossless_bits("wrap") == 13
    assert record.sufficient_bits("wrap") == 12
    assert replace(record, tolerance=0.001).sufficient_bits("wrap") == 13
    assert replace(record, cells=cells[:3]).lossless_bits("wrap") is None
    assert record.lossless_bits("saturate") is None


def test_exact_vector_operations_can_be_swept(evaluator: Evaluator) -> None:
    swept = accumulator_width(evaluator, "int4", [9, 13], "saturate", vector="exact:fixed16")
    alone = evaluator.run("int4", accumulator="int9:saturate", vector="exact:fixed16")
    assert swept.cells[0].perplexity == alone.perplexity
    assert swept.vector == "exact:fixed16"


def test_result_is_json_and_a_table(swept: AccumulatorWidths) -> None:
    document = json.loads(json.dumps(swept.to_dict(), allow_nan=False))
    assert document["recipe"]["name"] == "int4"
    assert len(document["cells"]) == len(swept.cells)
    assert document["smallest"][0]["lossless_bits"] == swept.lossless_bits("wrap")
    rows = list(csv.DictReader(io.StringIO(swept.to_csv())))
    assert len(rows) == len(swept.cells)
    assert rows[1]["overflows"] == str(swept.cells[1].overflow_count)
    assert rows[1]["model.layers.0"] == str(swept.cells[1].overflows_by_layer()["model.layers.0"])


# -- an interrupted sweep -----------------------------------------------------------------------------------


def test_an_interrupted_sweep_continues_and_ends_the_same(
    evaluator: Evaluator, swept: AccumulatorWidths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "new" / "cells.jsonl"
    original, runs = Evaluator.quantized_logits, []

    def counted(self: Evaluator, *args: Any, **options: Any) -> Any:
        if len(runs) == 4:
            raise KeyboardInterrupt
        runs.append(args[0].accumulator)
        return original(self, *args, **options)

    monkeypatch.setattr(Evaluator, "quantized_logits", counted)
    with pytest.raises(KeyboardInterrupt):
        accumulator_width(evaluator, "int4", WIDTHS, every=("end", "mac"), store=store)
    content = store.read_text()
    assert len(content.splitlines()) == 5
    store.write_text(content[:-30])  # as if the last write had been cut off
    monkeypatch.setattr(Evaluator, "quantized_logits", original)
    first = runs.copy()
    runs.clear()

    def spied(self: Evaluator, *args: Any, **options: Any) -> Any:
        runs.append(args[0].accumulator)
        return original(self, *args, **options)

    monkeypatch.setattr(Evaluator, "quantized_logits", spied)
    again = accumulator_width(evaluator, "int4", WIDTHS, every=("end", "mac"), store=store)
    assert again.to_dict() == swept.to_dict()
    assert set(first[:3]).isdisjoint(runs)
    assert runs[0] == first[3]
    runs.clear()
    assert accumulator_width(evaluator, "int4", WIDTHS, every=("end", "mac"), store=store).cells == swept.cells
    assert runs == []


def test_the_store_of_another_sweep_is_refused(evaluator: Evaluator, tmp_path: Path) -> None:
    store = tmp_path / "cells.jsonl"
    accumulator_width(evaluator, "int4", [13], "wrap", store=store)
    accumulator_width(evaluator, "int4", [12, 13], "saturate", store=store)  # other widths of the same sweep are not
    with pytest.raises(MacloomError, match="holds another sweep .model, recipe, text or options.; give another"):
        accumulator_width(evaluator, "int8", [24], "wrap", store=store)


def test_progress_counts_every_cell(evaluator: Evaluator) -> None:
    seen: list[tuple[str, int, int]] = []
    accumulator_width(evaluator, "int4", [9, 13], ["saturate"], "32", progress=lambda *step: seen.append(step))
    assert seen == [("scale search", 0, 3), ("int9:saturate,every=32", 1, 3), ("int13:saturate,every=32", 2, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": []}, "bits: must be integers from 2 to 48, at least one, not []"),
        ({"bits": [8, 99]}, "bits: must be integers from 2 to 48, at least one, not [8, 99]"),
        ({"overflow": "warp"}, "overflow: unknown name 'warp'; did you mean 'wrap'"),
        ({"every": "max"}, "every: must be 'end', 'mac' or a positive number of products, not 'max'"),
        ({"every": ["mac", "0"]}, "every: must be 'end', 'mac' or a positive number of products, not '0'"),
        ({"tolerance": 1.5}, "tolerance: must be a number from 0 to 1, not 1.5"),
        ({"vector": "exat"}, "vector: unknown name 'exat'; did you mean 'exact'"),
        ({"recipe": "int44"}, "recipe: format: unknown name 'int44'; did you mean"),
        ({"recipe": "bf16"}, "recipe 'bf16': sums of its products may need"),
    ],
)
def test_messages(evaluator: Evaluator, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError, match="^" + re.escape(message)):
        accumulator_width(evaluator, **{"recipe": "int4", "bits": [9], **options})


def test_recipes_without_integer_operations_are_refused(evaluator: Evaluator) -> None:
    recipe = load_recipe("int4")
    everywhere = replace(recipe, overrides=(("*", recipe.weight),))
    with pytest.raises(MacloomError, match="^recipe 'int4': must leave an operation without override to sweep"):
        accumulator_width(evaluator, everywhere, [9])


def test_public_names_are_not_hidden_by_modules_of_the_same_name() -> None:
    import macloom.workloads

    for name in macloom.workloads.__all__:
        assert not inspect.ismodule(getattr(macloom.workloads, name)), name
