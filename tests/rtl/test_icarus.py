"""The exported Verilog in Icarus Verilog, where it is installed, and what is said where it is not."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace

import pyrtl
import pytest

from macloom.errors import MacloomError
from macloom.formats import get_accumulator, get_format
from macloom.rtl import icarus
from macloom.rtl.catalog import Shape, build
from macloom.rtl.export import verilog
from macloom.rtl.simulation import run_unit
from macloom.rtl.unit import Port, Unit, Wires, elaborate

here = pytest.mark.skipif(not icarus.available(), reason="Icarus Verilog is not installed")


UNITS = [
    *((name, "decoder") for name in ("ovp4", "ovp8", "fp8_e4m3", "posit8_1", "flint4", "nf4", "hif8")),
    *((name, "encoder") for name in ("fp4_e2m1", "posit8_2", "ovp4")),
    *(("mxfp4:block=2", "block-encoder"), ("int4", "pe"), ("fp8_e5m2", "pe")),
    *(("mxfp4:block=2", "block-dot"), ("int4", "array")),
]


@here
@pytest.mark.parametrize(("name", "kind"), UNITS)
def test_the_exported_module_gives_what_the_software_gives(name: str, kind: str) -> None:
    unit = build(get_format(name), kind, Shape(rows=2, cols=3))
    assert icarus.simulate(unit, count=400).startswith(f"PASS {unit.module}")


@here
def test_a_tensor_core_gives_what_the_software_gives() -> None:
    unit = build(get_format("fp8_e4m3"), "tensor-dot", Shape(accumulator=get_accumulator("tc:ada-fp8,block=2,k=2")))
    assert icarus.simulate(unit, count=300).startswith(f"PASS {unit.module}")


@here
def test_a_mutant_fails() -> None:
    unit = build(get_format("fp8_e4m3"), "decoder")
    text = verilog(unit)
    assert icarus.simulate(unit, text=text.replace(" & ", " | ", 1)).startswith("FAIL")


def fuzz() -> Unit:
    """Return operators on 4-bit inputs, inverted and widened: what PyRTL 1.0.3 exports wrongly, and what is near it.

    The model is PyRTL's own simulation.
    """

    def circuit(i: Wires) -> Wires:
        a, b = i["a"], i["b"]
        named = pyrtl.WireVector(4)
        named <<= ~a
        return {
            "plus": ~a + b, "minus": ~a - b, "times": ~a * b, "cut": (~a + b)[:4], "named": named + b,
            "ones": (a ^ 15) + b, "less": ~a < b, "same": ~a == b, "joined": pyrtl.concat(~a, b),
            "chosen": pyrtl.select(b[0], ~a, b) + a, "extended": (~a).sign_extended(8), "both": (a - b) + ~a,
            "carried": pyrtl.concat(a + b, b), "product": (a + b) * (a - b), "multiplied": pyrtl.signed_mult(~a, b),
        }  # fmt: skip

    block = pyrtl.Block()
    with pyrtl.set_working_block(block):
        made = circuit({name: pyrtl.Input(4, name) for name in "ab"})
    shape = {"inputs": tuple(Port(name=n, width=4) for n in "ab"), "circuit": circuit}
    ports = tuple(Port(name=name, width=len(wire)) for name, wire in made.items())
    plain = Unit(module="fuzz", outputs=ports, model=lambda i: {}, **shape)
    return replace(plain, model=lambda i: run_unit(plain, i))


@here
def test_guard_every_operator_means_in_icarus_what_it_means_in_pyrtl() -> None:
    assert icarus.simulate(fuzz()) == "PASS fuzz 256 vectors"


@here
def test_guard_pyrtls_own_export_is_still_wrong_and_is_noticed() -> None:
    text = io.StringIO()
    pyrtl.output_to_verilog(text, block=elaborate(fuzz()), module_name="fuzz")
    assert icarus.simulate(fuzz(), text=text.getvalue()).startswith("FAIL")


def test_without_icarus_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(MacloomError, match="needs iverilog and vvp on the path"):
        icarus.simulate(build(get_format("int4"), "decoder"))
