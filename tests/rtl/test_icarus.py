"""The exported Verilog in Icarus Verilog, where it is installed, and what is said where it is not."""

from __future__ import annotations

import shutil

import pytest

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.rtl import icarus
from macloom.rtl.catalog import build
from macloom.rtl.export import verilog

here = pytest.mark.skipif(not icarus.available(), reason="Icarus Verilog is not installed")


@here
@pytest.mark.parametrize(
    ("name", "kind"),
    [("ovp4", "decoder"), ("fp8_e4m3", "decoder"), ("posit8_1", "decoder"), ("fp4_e2m1", "encoder"), ("int4", "pe")],
)
def test_the_exported_module_gives_what_the_software_gives(name: str, kind: str) -> None:
    unit = build(get_format(name), kind)
    assert icarus.simulate(unit).startswith(f"PASS {unit.module}")


@here
def test_a_mutant_fails() -> None:
    unit = build(get_format("fp8_e4m3"), "decoder")
    text = verilog(unit)
    assert icarus.simulate(unit, text=text.replace(" & ", " | ", 1)).startswith("FAIL")


def test_without_icarus_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(MacloomError, match="needs iverilog and vvp on the path"):
        icarus.simulate(build(get_format("int4"), "decoder"))
