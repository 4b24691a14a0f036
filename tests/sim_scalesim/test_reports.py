"""SCALE-Sim's reports: golden rows of 3.0.0 and of v2, the real package, and the stepwise reference."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.sim import scalesim
from macloom.sim.scalesim import (
    REPORT_COLUMNS,
    Config,
    Conv,
    Gemm,
    Layer,
    Mode,
    Report,
    geometry,
    simulate_layer,
    simulate_reference,
)
from macloom.sim.scalesim.oracle import scalesim_report
from macloom.sim.scalesim.samples import samples

GOLDEN = Path(__file__).parents[1] / "golden"
QK = Gemm(m=2048, n=2048, k=128)


def golden_rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((GOLDEN / name).read_text(encoding="utf-8").splitlines()))


ROWS = golden_rows("scalesim.csv")
ROWS_V2 = golden_rows("scalesim_v2.csv")


def layer_of(row: Mapping[str, str]) -> Layer:
    """Return the layer of a golden row; v3's rows have other names for the sizes of a convolution."""
    ratio = row.get("sparsity")
    sparsity = (int(ratio.split(":")[0]), int(ratio.split(":")[1])) if ratio else None
    if "kind" not in row:
        sizes = {
            k: int(row[k]) for k in ("m", "n", "k", "h", "w", "fh", "fw", "channels", "filters", "stride") if row[k]
        }
        return Conv(**sizes) if "h" in sizes else Gemm(**sizes)  # type: ignore[arg-type]
    if row["kind"] == "gemm":
        return Gemm(m=int(row["M"]), n=int(row["N"]), k=int(row["K"]), sparsity=sparsity)
    names = ("ifmap_h", "ifmap_w", "filt_h", "filt_w", "channels", "num_filt", "stride")
    h, w, fh, fw, channels, filters, stride = (int(row[name]) for name in names)
    return Conv(h=h, w=w, fh=fh, fw=fw, channels=channels, filters=filters, stride=stride, sparsity=sparsity)


def config_of(row: Mapping[str, str]) -> Config:
    names = ("ifmap_kb", "filter_kb", "ofmap_kb", "bw_ifmap", "bw_filter", "bw_ofmap")
    sizes = {name: int(row[name]) for name in names}
    rows, cols = int(row.get("R") or row["rows"]), int(row.get("C") or row["cols"])
    return Config(rows=rows, cols=cols, dataflow=row["dataflow"], mode=row["mode"], **sizes)  # type: ignore[arg-type]


def mismatches(row: Mapping[str, str], report: Report) -> dict[str, tuple[str, float]]:
    """Return the columns of a golden row that a report does not have to ten digits."""
    return {
        column: (row[column], report[column])
        for column in REPORT_COLUMNS
        if row.get(column) and float(row[column]) != pytest.approx(report[column], rel=1e-9, abs=0)
    }


def test_golden_rows_are_of_every_kind() -> None:
    kinds = {(row["kind"], row["dataflow"], row["mode"]) for row in ROWS}
    assert len(kinds) == 12
    assert sum(bool(row["sparsity"]) for row in ROWS) == 11
    assert sum(row["stall_cycles"] not in ("", "0") for row in ROWS) >= 20


def test_every_column_equals_scalesim_3() -> None:
    wrong = {
        i: m for i, row in enumerate(ROWS) if (m := mismatches(row, simulate_layer(layer_of(row), config_of(row))))
    }
    assert not wrong


def test_every_column_equals_scalesim_v2() -> None:
    """Rows that the authors' v2 at 22f88b1 gave; it reports no cycles with prefetch."""
    wrong = {
        i: m
        for i, row in enumerate(ROWS_V2)
        if (m := mismatches(row, simulate_layer(layer_of(row), config_of(row), "v2")))
    }
    assert not wrong


@pytest.mark.parametrize(("mode", "count"), [(Mode.CALC, 30), (Mode.USER, 20)])
def test_random_layers_equal_installed_scalesim(mode: Mode, count: int) -> None:
    pytest.importorskip("scalesim")
    for layer, config in samples(20, count, mode, cycles=1500):
        assert dict(simulate_layer(layer, config)) == scalesim_report(layer, config), (layer, config)


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("mode", list(Mode))
def test_random_layers_equal_stepwise_reference(mode: Mode, version: str) -> None:
    for layer, config in samples(3, 40, mode):
        assert simulate_layer(layer, config, version) == simulate_reference(layer, config, version), (layer, config)


side = st.integers(1, 9)


@settings(max_examples=40, deadline=None)
@given(
    layer=st.one_of(
        st.builds(Gemm, m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 60)),
        st.builds(
            Conv,
            h=st.integers(4, 9),
            w=st.integers(4, 9),
            fh=st.integers(1, 4),
            fw=st.integers(1, 4),
            channels=st.integers(1, 12),
            filters=st.integers(1, 12),
            stride=st.integers(1, 3),
            stride_w=st.integers(1, 3),
        ),
    ),
    config=st.builds(
        Config,
        rows=side,
        cols=side,
        dataflow=st.sampled_from(["os", "ws", "is"]),
        ifmap_kb=st.integers(1, 2),
        filter_kb=st.integers(1, 2),
        ofmap_kb=st.integers(1, 2),
        mode=st.sampled_from(list(Mode)),
        bw_ifmap=st.integers(1, 40),
        bw_filter=st.integers(1, 40),
        bw_ofmap=st.integers(1, 2000),
    ),
)
def test_fast_equals_stepwise_reference(layer: Layer, config: Config) -> None:
    if layer.macs <= 20_000 * config.rows * config.cols:
        assert simulate_layer(layer, config) == simulate_reference(layer, config)


def test_repeats_of_a_conv_pass_are_extrapolated_right() -> None:
    """A convolution whose passes end alike: the second half of them is never stepped."""
    layer = Conv(h=12, w=12, fh=3, fw=3, channels=8, filters=64, stride=1)
    for dataflow in ("ws", "os"):
        config = Config(rows=8, cols=2, dataflow=dataflow, ifmap_kb=1, filter_kb=4, ofmap_kb=4)
        assert simulate_layer(layer, config) == simulate_reference(layer, config)


def test_without_numba_the_reference_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(rows=4, cols=4, dataflow="os", ifmap_kb=1, filter_kb=1, ofmap_kb=1)
    fast = simulate_layer(Gemm(m=9, n=9, k=9), config)
    monkeypatch.setenv("MACLOOM_NUMBA", "0")
    monkeypatch.setattr("macloom.sim.scalesim.calc.estimate", None)
    assert simulate_layer(Gemm(m=9, n=9, k=9), config) == fast


def test_scores_of_opt_take_milliseconds_of_work() -> None:
    """The row loop visits 38,880 rows for 536,870,912 products."""
    for dataflow, total in (("ws", 38879), ("is", 38879), ("os", 97791)):
        config = Config(rows=128, cols=128, dataflow=dataflow, ifmap_kb=512, filter_kb=512, ofmap_kb=256)
        report = simulate_layer(QK, config)
        assert (report.total_cycles, report.stall_cycles) == (total, 0)


# Mutants: what the proofs above must not let pass.


def caught() -> bool:
    return any(mismatches(row, simulate_layer(layer_of(row), config_of(row))) for row in ROWS)


@pytest.mark.parametrize("field", ["fold_cycles", "stream", "last_cols"])
def test_mutant_geometry_is_caught(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(layer: Layer, config: Config) -> geometry.Geometry:
        shape = geometry.geometry(layer, config)
        return replace(shape, **{field: getattr(shape, field) + 1})

    monkeypatch.setattr("macloom.sim.scalesim.layer.geometry", wrong)
    assert caught()


def test_mutant_single_wait_is_caught() -> None:
    assert any(mismatches(row, simulate_layer(layer_of(row), config_of(row), "v2")) for row in ROWS)


def test_mutant_double_wait_is_caught() -> None:
    assert any(mismatches(row, simulate_layer(layer_of(row), config_of(row), "v3")) for row in ROWS_V2)


def test_mutant_epoch_of_a_whole_buffer_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macloom.sim.scalesim.calc.LIVE_SETS", 100)
    assert caught()


def test_mutant_line_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macloom.sim.scalesim.user.LINES_PER_BUFFER", 50)
    assert caught()


# Bad input.

SMALL = {"rows": 4, "cols": 4, "dataflow": "ws", "ifmap_kb": 1, "filter_kb": 1, "ofmap_kb": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "config.rows: must be a positive integer, not 0"),
        ({"ofmap_kb": -1}, "config.ofmap_kb: must be a positive integer, not -1"),
        ({"mode": "USER", "bw_filter": 0}, "config.bw_filter: must be a positive integer, not 0"),
        ({"dataflow": "rs"}, "config.dataflow: unknown name 'rs'; did you mean 'ws', 'os', 'is'?"),
        ({"mode": "user"}, "config.mode: unknown name 'user'; known are CALC, USER"),
    ],
)
def test_bad_config_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(MacloomError) as error:
        Config(**(SMALL | change))  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gemm(m=0, n=1, k=1), "layer.m: must be a positive integer, not 0"),
        (
            lambda: Gemm(m=1, n=1, k=1, sparsity=(3, 2)),
            "layer.sparsity: must keep at most m of every m values, not 3 of 2",
        ),
        (lambda: Gemm(m=1, n=1, k=1, sparsity=(0, 2)), "layer.sparsity: must be a positive integer, not 0"),
        (
            lambda: Gemm(m=1, n=1, k=1, sparsity="2:4"),  # type: ignore[arg-type]
            "layer.sparsity: must be a pair (n, m), or None for a dense filter, not '2:4'",
        ),
        (
            lambda: Conv(h=3, w=8, fh=4, fw=3, channels=1, filters=1, stride=1),
            "layer.fh: must not exceed the input's h of 3, not 4; add the padding to the input",
        ),
        (
            lambda: Conv(h=3, w=8, fh=3, fw=3, channels=1, filters=1, stride=1, stride_w=0),
            "layer.stride_w: must be a positive integer, not 0",
        ),
    ],
)  # fmt: skip
def test_bad_layer_is_refused(make, message: str) -> None:
    with pytest.raises(MacloomError) as error:
        make()
    assert str(error.value) == message


def test_bad_call_is_refused() -> None:
    config = Config(**SMALL)  # type: ignore[arg-type]
    with pytest.raises(MacloomError, match=r"^version: unknown name 'v4'; did you mean 'v[23]'"):
        simulate_layer(QK, config, "v4")
    with pytest.raises(MacloomError, match=r"^layer: must be a Gemm or a Conv, not \(1, 2, 3\)$"):
        simulate_layer((1, 2, 3), config)  # type: ignore[arg-type]
    with pytest.raises(MacloomError, match=r"^config: must be a Config, not None$"):
        simulate_layer(QK, None)  # type: ignore[arg-type]
    with pytest.raises(MacloomError, match=r"^report: unknown name 'cycles'; did you mean"):
        simulate_layer(QK, config)["cycles"]


def test_report_is_a_row_of_the_golden_file() -> None:
    report = simulate_layer(Gemm(m=5, n=6, k=7), Config(**SMALL))  # type: ignore[arg-type]
    assert list(dict(report)) == list(REPORT_COLUMNS) == [c for c in ROWS[0] if c in REPORT_COLUMNS]
    assert report.values() == tuple(dict(report).values())
    assert set(scalesim.__all__) >= {"simulate_layer", "Gemm", "Conv", "Config"}
