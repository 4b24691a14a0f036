"""`macloom list` and `macloom show`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import macloom
from macloom.cli import main
from macloom.cli.parser import KINDS
from macloom.formats import get_format
from macloom.formats.describe import describe

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


@pytest.mark.parametrize("kind", KINDS)
def test_list(capsys: Capture, kind: str, run_json: RunJson) -> None:
    rows = run_json("list", kind)
    assert len(rows) >= 3
    assert main(["list", kind]) == 0
    out = capsys.readouterr().out
    for row in rows:
        assert f"\n{next(iter(row.values()))} " in out


def test_list_formats_counts_metadata(run_json: RunJson) -> None:
    rows = {row["format"]: row for row in run_json("list", "formats")}
    assert rows["mxfp4"]["bits_per_element"] == 4.25  # OCP MX v1.0: 32 elements of 4 bits share an 8-bit scale
    assert rows["mxfp4"]["block"] == 32
    assert rows["nvfp4"]["bits_per_element"] == pytest.approx(
        4.5, abs=1e-5
    )  # 16 elements share 8 bits; one fp32 in all
    assert rows["int8"]["max_value"] == 127


def test_show_format(capsys: Capture, run_json: RunJson) -> None:
    shown = run_json("show", "fp4_e2m1")
    # OCP MX v1.0, section 5.3.3: the magnitudes of E2M1.
    assert [abs(v) for v in shown["values"]["element"]] == [0, 0.5, 1, 1.5, 2, 3, 4, 6] * 2
    assert main(["show", "fp4_e2m1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^bits per element +4, ", out, re.MULTILINE)
    assert re.search(r"\b0111 +6$|\b0111 +6 ", out, re.MULTILINE)


def test_show_pairs(capsys: Capture, run_json: RunJson) -> None:
    """OliVe (ISCA 2023): int4 normals whose code 1000 is the outlier identifier, E2M1 abfloat of bias 2."""
    shown = run_json("show", "ovp4")
    assert shown["unused_codes"]["normal"] == [0b1000]
    assert shown["values"]["outlier"][1:8] == [12, 16, 24, 32, 48, 64, 96]
    assert shown["max_value"] == 96
    assert main(["show", "ovp4"]) == 0
    assert re.search(r"\b1000 +-8\*", capsys.readouterr().out)


def test_list_formats_comes_in_families(run_json: RunJson) -> None:
    rows = run_json("list", "formats")
    families = [row["family"] for row in rows]
    assert families == sorted(families, key=list(dict.fromkeys(families)).index)
    names = [row["format"] for row in rows if row["family"] == "integer"]
    assert names.index("int2") < names.index("int8") < names.index("uint4")
    assert names.index("affine9") < names.index("affine10")


def test_show_tells_what_the_documentation_does(capsys: Capture, run_json: RunJson) -> None:
    shown = run_json("show", "mxfp4")
    assert shown["hardware"] == {
        "kind": "pair", "multiplier_bits": 3, "exponent_bits": 2, "decoder_bits": 4, "decoder_elements": 1,
        "table_entries": 0, "sparse": False,
    }  # fmt: skip
    assert shown["pairs"]["element"][7] == [1, 3]  # 6 = 3 * 2**1
    assert shown["options"]["rule"].startswith("floor, ")
    assert set(shown["sqnr_db"]) == set(shown["sqnr_data"]) == {"gaussian", "laplace", "outlier"}
    assert main(["show", "mxfp4"]) == 0
    out = capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "formats" / "mx.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `mxfp4`"))
    for name, db in shown["sqnr_db"].items():
        assert f"{db:.1f} dB" in out, name
        assert f"| {db:.1f} |" in row
    hardware = re.search(r"^hardware +(.+)$", out, re.MULTILINE)
    assert hardware is not None
    assert hardware[1] in row
    assert re.search(r"^ +rule +floor, ceil, even, rceil \(floor\)$", out, re.MULTILINE)
    assert re.search(r"^policies +rounding, overflow, nan, zero, draw_bits$", out, re.MULTILINE)
    assert "\nBlock:\n  Blocks of `size` elements" in out


def test_show_learned_format_has_no_code_table(capsys: Capture, run_json: RunJson) -> None:
    assert run_json("show", "gobo3")["values"] == {}
    assert main(["show", "gobo3"]) == 0
    out = capsys.readouterr().out
    assert "sparse path" in out
    assert "codes, their values" not in out


def test_show_format_without_codes_says_so(capsys: Capture) -> None:
    facts = describe(get_format("ovp4:mode=upstream"))
    assert (facts["bits_per_element"], facts["hardware"], facts["values"], facts["max_value"]) == (None, None, {}, 96.0)
    assert main(["show", "ovp4:mode=upstream"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^bits per element +none: the released code that this models stores no bit patterns", out, re.M)
    assert re.search(r"^hardware +none: it has values alone, no codes$", out, re.M)
    assert re.search(r"^SQNR +\d+\.\d dB, standard normal$", out, re.M)


def test_show_format_with_options(run_json: RunJson) -> None:
    shown = run_json("show", "int4:group=128")
    assert shown["format"] == "int4:group=128"
    assert shown["block"] == 128


def test_show_wide_format_has_no_table(capsys: Capture) -> None:
    assert main(["show", "fp32"]) == 0
    assert "Value of every code" not in capsys.readouterr().out


def test_show_accelerator_prints_toml_that_loads(capsys: Capture, tmp_path: Path, run_json: RunJson) -> None:
    assert main(["show", "olive-sa"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.toml").write_text(text)
    assert macloom.load_accelerator(tmp_path / "mine.toml") == macloom.load_accelerator("olive-sa")
    assert re.search(r"^# int8_multiply +\S+ J +scaled +22 nm  \[\d\]$", text, re.MULTILINE)
    assert run_json("show", str(tmp_path / "mine.toml")) == run_json("show", "olive-sa")


def test_show_technology(capsys: Capture, run_json: RunJson) -> None:
    shown = run_json("show", "45nm")
    assert all({"source", "kind", "node_nm"} <= set(c) for c in shown["constants"].values())
    assert main(["show", "45nm"]) == 0
    assert "int8_multiply" in capsys.readouterr().out


def test_show_workload(capsys: Capture, run_json: RunJson) -> None:
    shown = run_json("show", "opt-6.7b")
    assert sum(op["macs"] for op in shown["ops"]) == shown["macs"] == macloom.load_workload("opt-6.7b").macs
    assert main(["show", "opt-6.7b"]) == 0
    assert re.search(r"^q_proj +gemm|^self_attn\.q_proj +gemm", capsys.readouterr().out, re.MULTILINE)


def test_show_recipe_file(capsys: Capture, tmp_path: Path, run_json: RunJson) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text('format = "int8"\nweight = "int4"\n')
    shown = run_json("show", str(path))
    assert (shown["weight"], shown["kv"]) == ("int4", "int8")
    assert main(["show", str(path)]) == 0
    assert 'weight = "int4"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("olive-sb", "error: show: unknown name 'olive-sb'; did you mean 'olive-sa'"),
        ("int44", "error: show: unknown name 'int44'; did you mean"),
        ("int4:grup=3", "grup"),
        ("none.toml", "error: none.toml: No such file or directory"),
    ],
)
def test_show_unknown_name(name: str, message: str, fail: Fail) -> None:
    assert message in fail("show", name)


def test_show_malformed_toml(tmp_path: Path, fail: Fail) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("rows = = 3")
    assert f"error: {path}: malformed TOML: " in fail("show", str(path))
