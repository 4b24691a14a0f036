"""The table and the findings of a made-up result whose numbers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from macloom.explore.result import DemoResult
from macloom.explore.summary import chosen_run, headline, pairs_table, showcase, summary_table, unsupported_notes
from macloom.explore.text_table import Cell, Mark, Table


def _row(table: Table, name: str) -> tuple[Cell, ...]:
    return next(row for row in table.rows if row[0].text == name)


def _column(table: Table, group: str, title: str, unit: str) -> int:
    return next(i for i, c in enumerate(table.columns) if (c.group, c.title, c.unit) == (group, title, unit))


def test_one_row_per_format_in_the_order_given(result: DemoResult) -> None:
    assert [row[0].text for row in summary_table(result).rows] == [f.name for f in result.formats]


def test_it_fits_120_columns(result: DemoResult) -> None:
    assert summary_table(result).width <= 120


def test_every_number_has_its_unit_over_it(result: DemoResult) -> None:
    heads = [(c.group, c.title, c.unit) for c in summary_table(result).columns]
    for model in ("tiny", "tiny-outlier"):
        assert [h for h in heads if h[0] == model] == [(model, "ppl", ""), (model, "KL", "nats"), (model, "top-1", "%")]
    assert [h[1:] for h in heads if h[0] == "opt-6.7b"] == [
        ("on", ""), ("prefill", "s"), ("prefill", "J"), ("decode", "ms/tok"), ("decode", "mJ/tok"),
    ]  # fmt: skip


def test_collapsed_cells_are_marked_and_never_best(result: DemoResult) -> None:
    table = summary_table(result)
    row = _row(table, "int4")
    i = _column(table, "tiny-outlier", "ppl", "")
    assert [c.mark for c in row[i : i + 3]] == [Mark.COLLAPSED] * 3
    assert row[i].shown == "†288.0"
    # int4 is as cheap as ovp4, but a format that collapsed on a model is not ranked in cost either.
    energy = _column(table, "opt-6.7b", "prefill", "J")
    assert row[energy].text == _row(table, "ovp4")[energy].text
    assert row[energy].mark is Mark.PLAIN
    assert _row(table, "ovp4")[energy].mark is Mark.BEST


def test_a_cheap_format_that_loses_accuracy_is_not_best_in_cost(result: DemoResult) -> None:
    worse = tuple(
        replace(c, perplexity=1.5 * c.perplexity) if c.format == "ovp4" and c.perplexity else c for c in result.accuracy
    )
    table = summary_table(replace(result, accuracy=worse))
    energy = _column(table, "opt-6.7b", "prefill", "J")
    assert _row(table, "ovp4")[energy].mark is Mark.PLAIN
    assert _row(table, "ovp4:normal=flint4")[energy].mark is Mark.BEST
    assert "within 10% of the unquantized perplexity on every model" in table.caption[-1]


def test_the_scale_search_is_stated_if_it_is_the_same(result: DemoResult) -> None:
    search = {"search": {"objective": "tensor_mse", "steps": 24}}
    alike = replace(result, recipes={f.name: search for f in result.formats})
    line = "Scales of every format: least squared error, the same 24 candidates, calibration text."
    assert line in summary_table(alike).caption
    other = {**alike.recipes, "int4": {"search": {"objective": "absmax", "steps": 1}}}
    assert line not in summary_table(replace(alike, recipes=other)).caption


def test_the_16_bit_baseline_is_not_ranked(result: DemoResult) -> None:
    table = summary_table(result)
    assert all(cell.mark is not Mark.BEST for cell in _row(table, "fp16"))
    assert _row(table, "int8")[_column(table, "tiny", "ppl", "")].mark is Mark.BEST


def test_best_follows_the_direction_of_the_measure(result: DemoResult) -> None:
    table = summary_table(result)
    top1 = _column(table, "tiny-outlier", "top-1", "%")
    best = [float(row[top1].text) for row in table.rows if row[top1].mark is Mark.BEST]
    ranked = [float(row[top1].text) for row in table.rows if row[0].text not in ("fp16", "int4")]
    assert set(best) == {max(ranked)}


def test_unsupported_pairs_are_footnoted_with_their_reason(result: DemoResult) -> None:
    table = summary_table(result)
    on = _column(table, "opt-6.7b", "on", "")
    assert _row(table, "fp16")[on] == Cell(text="olive-sa", notes="a")
    assert _row(table, "int8")[on] == Cell(text="olive-sa")
    assert table.notes == (("a", "not on int8-sa: its int8 PEs have no exponent path"),)


def test_different_reasons_get_different_letters(result: DemoResult) -> None:
    second = replace(result.unsupported[1], reason="another")
    changed = replace(result, unsupported=(result.unsupported[0], second))
    letters, notes = unsupported_notes(changed)
    assert sorted(letters.values()) == ["a", "b"]
    assert [text for _, text in notes] == [
        "not on int8-sa: its int8 PEs have no exponent path", "not on int8-sa: another",
    ]  # fmt: skip


def test_a_format_that_nothing_runs_has_accuracy_but_no_cost(result: DemoResult) -> None:
    changed = replace(result, runs=tuple(r for r in result.runs if r.format != "mxfp4"))
    row = _row(summary_table(changed), "mxfp4")
    assert [c.text for c in row[-5:]] == ["none", "-", "-", "-", "-"]
    assert row[2].text != "-"


def test_the_chosen_accelerator_has_the_lowest_energy_delay_product(result: DemoResult) -> None:
    runs = [r for r in result.runs_of("opt-6.7b", "prefill") if r.format == "int8"]
    chosen = chosen_run(result, "int8", "decode")
    assert chosen is not None
    assert chosen.accelerator == min(runs, key=lambda r: r.energy_j * r.seconds).accelerator
    assert chosen.phase == "decode"


def test_showcase_prefers_formats_that_run_best_there(result: DemoResult) -> None:
    olive = showcase(result, "olive-sa")
    assert [r.phase for r in olive] == ["prefill", "decode"]
    assert olive[0].format in ("ovp4", "ovp4:normal=flint4")  # int4 is as good, but collapsed
    # Nothing runs best on fp16-sa here, so the best of what it runs stands in.
    assert [r.accelerator for r in showcase(result, "fp16-sa")] == ["fp16-sa", "fp16-sa"]
    assert showcase(result, "nothing") == []


def test_pairs_table_shows_every_accelerator_and_dashes_for_what_does_not_fit(result: DemoResult) -> None:
    table = pairs_table(result)
    assert [c.group for c in table.columns[1:]] == ["int8-sa"] * 4 + ["olive-sa"] * 4 + ["fp16-sa"] * 4
    row = _row(table, "fp16")
    assert all(c == Cell(text="-", mark=Mark.MISSING, notes="a") for c in row[1:5])
    assert all(c.text != "-" for c in row[5:])


def test_caption_states_reference_and_blocks_zeroed_perplexity(result: DemoResult) -> None:
    text = " ".join(summary_table(result).caption)
    assert "tiny 3.000 unquantized, 250.0 with its blocks zeroed" in text
    assert "tiny-outlier 3.200 unquantized, 240.0 with its blocks zeroed" in text
    assert "prefill of 2048 tokens, decode at context 2048" in text
    assert "collapsed" in text


def test_headline_says_who_collapsed_and_who_is_cheapest_among_the_usable(result: DemoResult) -> None:
    first, second, third = headline(result)
    assert first.startswith(
        "tiny: 4 of 11 formats stay within 1% of the unquantized perplexity; int4 raises it most, by"
    )
    assert second.endswith("int4: collapsed.")
    assert "ovp4 on olive-sa takes the least energy" in third


def test_headline_has_no_energy_sentence_without_a_usable_format(result: DemoResult) -> None:
    broken = tuple(replace(c, collapsed=True) for c in result.accuracy)
    assert len(headline(replace(result, accuracy=broken))) == 2


@pytest.mark.parametrize("times", [0.5, 4.0])
def test_headline_writes_large_losses_as_factors(result: DemoResult, times: float) -> None:
    worse = tuple(
        replace(c, perplexity=3.0 * (1 + times)) if (c.format, c.model) == ("int4", "tiny") else c
        for c in result.accuracy
    )
    text = headline(replace(result, accuracy=worse))[0]
    assert ("by 50.0%" in text) if times < 1 else ("5.00 times" in text)
