"""The released ANT simulator: its recorded layers, its search, and what is refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.sim.ant import DESIGNS, Design, Layer, Tiling, best_tiling, cost, layer_cost

GOLDEN = Path(__file__).parents[1] / "golden" / "ant_sim.csv"
ROWS = list(csv.DictReader(GOLDEN.read_text(encoding="utf-8").splitlines()))
JOULES = {
    name: f"E_{name.removesuffix('_nj')}_nJ" for name in ("static_nj", "dram_nj", "buffer_nj", "core_nj", "total_nj")
}
FFN = Layer(kernel=1, output=1, in_channels=768, out_channels=3072, batch=8192, act_bits=4, weight_bits=4)
ORDER = ("B", "OW", "OH", "IC", "OC")


def parsed(row: dict[str, str]) -> tuple[Layer, Design, Tiling]:
    sizes = {name: int(row[name]) for name in ("K", "O", "IC", "OC", "batch", "act_bits", "wgt_bits")}
    layer = Layer(
        kernel=sizes["K"],
        output=sizes["O"],
        in_channels=sizes["IC"],
        out_channels=sizes["OC"],
        batch=sizes["batch"],
        act_bits=sizes["act_bits"],
        weight_bits=sizes["wgt_bits"],
    )
    tiling = Tiling(
        batch=int(row["tile_b"]),
        output=int(row["tile_o"]),
        in_channels=int(row["tile_ic"]),
        out_channels=int(row["tile_oc"]),
        order=tuple(loop.split("/")[0] for loop in row["loop_order_outer_to_inner"].split(">")),
    )
    return layer, DESIGNS[row["design"]], tiling


def mismatches() -> list[str]:
    found = []
    for row in ROWS:
        layer, design, tiling = parsed(row)
        result = layer_cost(layer, design, tiling)
        counts = [name for name in vars(result) if not name.endswith("_nj")]
        found += [name for name in counts if getattr(result, name) != int(row[name])]
        found += [n for n, c in JOULES.items() if getattr(result, n) != pytest.approx(float(row[c]), rel=1e-12)]
        if layer.macs != int(row["macs"]):
            found.append("macs")
    return found


def test_rows_are_of_every_design_and_network() -> None:
    assert {row["design"] for row in ROWS} == set(DESIGNS)
    assert len({row["network"] for row in ROWS}) == 8


def test_designs_are_those_of_the_released_configurations() -> None:
    for row in ROWS:
        _, design, _ = parsed(row)
        assert (design.rows, design.cols) == (int(row["N"]), int(row["M"]))
        assert (design.widest_bits, design.narrowest_bits) == (int(row["pmax"]), int(row["pmin"]))
        assert design.dataflow.value.upper() == row["dataflow"]


def test_every_column_equals_the_released_simulator_given_its_tilings() -> None:
    assert not mismatches()


def test_search_finds_the_tilings_of_the_released_simulator() -> None:
    for row in ROWS[::9]:
        layer, design, tiling = parsed(row)
        assert best_tiling(layer, design) == tiling


def test_mutant_sum_width_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SUM_BITS", 32)
    assert mismatches()


def test_mutant_outputs_remembered_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bug that forgets outputs that grew, storing the last of them counts as latency."""
    promoted = cost._promoted
    monkeypatch.setattr(
        cost, "_promoted", lambda fill, buffer, *rest: promoted(fill, "act" if buffer == "out" else buffer, *rest)
    )
    assert mismatches()


def test_arrays_of_tilings_equal_one_by_one() -> None:
    sides = [np.array([16, 64, 8192]), np.ones(3, int), np.array([8, 64, 768]), np.array([128, 512, 3072])]
    together = cost.costs(FFN, DESIGNS["ANT-WS"], cost.Sizes(*sides), ORDER)
    for i in range(2):
        b, o, ic, oc = (int(side[i]) for side in sides)
        one = layer_cost(
            FFN, DESIGNS["ANT-WS"], Tiling(batch=b, output=o, in_channels=ic, out_channels=oc, order=ORDER)
        )
        assert one.total_cycles == together.total_cycles[i]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(FFN, batch=0), "layer.batch: must be a positive integer, not 0"),
        (lambda: replace(DESIGNS["OLAccel"], rows=-1), "design.rows: must be a positive integer, not -1"),
        (
            lambda: replace(DESIGNS["OLAccel"], dataflow="is"),
            "design.dataflow: unknown name 'is'; did you mean 'ws', 'os'?",
        ),
        (
            lambda: Tiling(batch=1, output=1, in_channels=1, out_channels=1, order=("B", "OW", "OH", "IC", "IC")),
            "tiling.order: must hold each of B, OW, OH, IC, OC once, not B, OW, OH, IC, IC",
        ),
        (
            lambda: layer_cost(
                FFN, DESIGNS["ANT-OS"], Tiling(batch=1, output=2, in_channels=1, out_channels=1, order=ORDER)
            ),
            "tiling.output: must not exceed the layer's 1",
        ),
        (
            lambda: layer_cost(
                FFN, DESIGNS["ANT-OS"], Tiling(batch=1, output=1, in_channels=768, out_channels=3072, order=ORDER)
            ),
            "tiling: its tile needs 9437184 bits of the wgt buffer, whose half holds 524288",
        ),
        (
            lambda: best_tiling(FFN, replace(DESIGNS["ANT-OS"], weight_bytes=8)),
            "design 'ANT-OS': must have buffers that hold a tile of one output; enlarge them",
        ),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(MacloomError) as error:
        make()
    assert str(error.value) == message
