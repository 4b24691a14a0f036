"""The heat map and the table show every cell, mark collapsed ones and leave blank what there is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.explore.sensitivity_plot import sensitivity_figure, sensitivity_heat
from macloom.explore.sensitivity_table import sensitivity_table
from macloom.explore.style import figure_of
from macloom.explore.text_table import Mark
from macloom.workloads.recipe import Search
from macloom.workloads.sensitivity_map import SensitivityCell, SensitivityMap


def cell(group: str, role: str, fmt: str, kl: float) -> SensitivityCell:
    return SensitivityCell(
        group=group, role=role, format=fmt, perplexity=4 * math.exp(kl), loss_nats=kl, kl_nats=kl, top1_agreement=0.9,
        sqnr_db=20.0, collapsed=kl > 3,
    )  # fmt: skip


def mapped(*cells: SensitivityCell) -> SensitivityMap:
    return SensitivityMap(
        model="m", model_sha256="", text="t", text_sha256="", windows=1, context=1, seed=0, calibration_text="c",
        calibration_sha256="", by="block", formats=("int4", "int8"), roles=("all", "kv"),
        operations={g: (g,) for g in ("model.layers.0.mlp", "model.layers.1.mlp", "lm_head")}, search=Search(),
        reference_perplexity=4.0, collapse_perplexity=256.0, cells=cells,
    )  # fmt: skip


FOUND = mapped(
    cell("model.layers.0.mlp", "all", "int4", 0.02),
    cell("model.layers.1.mlp", "all", "int4", math.inf),
    cell("lm_head", "all", "int4", 4.0),
    cell("model.layers.0.mlp", "kv", "int8", 1e-9),
)


def test_every_cell_is_drawn_and_the_rest_blank() -> None:
    ax = sensitivity_heat(FOUND)
    figure_of(ax).draw_without_rendering()
    columns = [np.ma.masked_invalid(mesh.get_array()) for mesh in ax.collections]
    assert [int(c.count()) for c in columns] == [3, 0, 0, 1]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0.mlp", "1.mlp", "lm_head"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["all", "kv", "all", "kv"]
    assert [t.get_text() for t in ax.texts if t.get_text() != "†"] == ["int4", "int8"]
    assert sum(t.get_text() == "†" for t in ax.texts) == 2


def test_equal_maps_give_equal_figures() -> None:
    assert sensitivity_figure(FOUND) == sensitivity_figure(FOUND)
    assert "sensitivity of m to int4, int8" in sensitivity_figure(FOUND)


def test_nothing_to_draw() -> None:
    with pytest.raises(MacloomError, match="^plot: must have at least one cell to draw"):
        sensitivity_heat(mapped())


def test_the_table_marks_what_collapsed() -> None:
    table = sensitivity_table(FOUND)
    assert [c.shown for c in table.rows[0]] == ["0.mlp", "0.020", "", "", "1.00e-09"]
    assert [c.shown for c in table.rows[1]][:2] == ["1.mlp", "†inf"]
    assert table.rows[2][1].mark is Mark.COLLAPSED
    assert "not to be ranked" in table.plain()
    alive = sensitivity_table(mapped(cell("lm_head", "all", "int4", 0.5)))
    assert "not to be ranked" not in alive.plain()
    assert "int4" in alive.plain()
