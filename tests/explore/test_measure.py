"""Models run side by side: order, errors and stopping, with an evaluator that only pretends."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from macloom.errors import MacloomError
from macloom.explore import measure as room
from macloom.explore.measure import TextCut, format_info, measure
from macloom.workloads import load_recipe


@dataclass
class Pretender:
    """Stands for an Evaluator; a model named `bad` fails at its second recipe."""

    model: Any
    text: Any
    windows: int
    context: int
    seed: int
    threads = None

    def run(self, recipe: Any) -> Any:
        Pretender.threads = torch.get_num_threads()
        if self.model.name == "bad" and recipe.name == "int4":
            raise MacloomError("recipe: no good")
        return SimpleNamespace(
            recipe=recipe, model=self.model.name, model_sha256="0" * 64, text="t", text_sha256="1" * 64,
            windows=self.windows, context=self.context, perplexity=float("inf") if recipe.name == "int4" else 2.0,
            bits_per_byte=1.0, kl_nats=0.5, top1_agreement=float("nan"), reference_perplexity=2.0,
            blocks_zeroed_perplexity=9.0, collapsed=False, sqnr_db={"op": float("inf")}, searches=(),
        )  # fmt: skip


def _model(name: str) -> Any:
    return SimpleNamespace(name=name, sha256="0" * 64, parameters={"w": torch.zeros(3, 4)})


@pytest.fixture(autouse=True)
def _pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "Evaluator", Pretender)
    monkeypatch.setattr(room, "_pictures", lambda model, results, seed: ())


def _measure(*names: str, step: Any = lambda text: None) -> room.Measured:
    recipes = [load_recipe(f) for f in ("int8", "int4")]
    return measure([_model(n) for n in names], recipes, TextCut(windows=2, context=8), 0, step)


def test_cells_come_by_model_then_format_whatever_thread_is_first() -> None:
    measured = _measure("a", "b", "c")
    assert [(c.model, c.format) for c in measured.cells] == [(m, f) for m in "abc" for f in ("int8", "int4")]
    assert [(m.name, m.parameters, m.zeroed_perplexity) for m in measured.models] == [(m, 12, 9.0) for m in "abc"]
    assert (measured.text.windows, measured.text.context) == (2, 8)


def test_numbers_that_json_cannot_hold_become_none() -> None:
    cell = _measure("a").cells[1]
    assert (cell.perplexity, cell.top1, cell.sqnr_db) == (None, None, {"op": None})


def test_every_run_and_the_picture_are_announced() -> None:
    seen: list[str] = []
    _measure("a", "b", step=seen.append)
    assert sorted(seen[:-1]) == sorted(f"accuracy of {f} on {m}" for m in "ab" for f in ("int8", "int4"))
    assert seen[-1] == "picture of the values in b"


def test_an_error_in_one_model_ends_the_run_and_gives_threads_back() -> None:
    before = torch.get_num_threads(), threading.active_count()
    with pytest.raises(MacloomError, match="^recipe: no good$"):
        _measure("a", "bad")
    assert (torch.get_num_threads(), threading.active_count()) == before


def test_a_run_computes_on_one_thread() -> None:
    _measure("a")
    assert Pretender.threads == 1


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(MacloomError, match="^demo: must have at least one model and one format$"):
        _measure()


def test_format_info_states_scales_with_the_bits() -> None:
    info = format_info(load_recipe("int4:group=128"))
    # 4 bits and one scale of 16 bits per 128 elements.
    assert (info.name, info.element_bits, info.weight_bits) == ("int4:group=128", 4, 4 + 16 / 128)
