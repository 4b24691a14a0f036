"""Without numba: the same bits from numpy's loops, and a clear error where there is no other way."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import fallback, get_format
from macloom.formats.catalog import FLOATS
from macloom.formats.rounders import steps_of

TWINS = sorted(path.stem for path in Path(fallback.__file__).parent.glob("*.py"))
TWINS = [name for name in TWINS if name not in ("__init__", "tiles")]
SCRIPT = Path(__file__).with_name("bits.py")
# Exact k-means takes numpy seconds for a tensor; `test_clusters` compares it on small ones.
SLOW = ("kvquant", "squeezellm", "kmeans", "ovp4:normal=adaptive")
# Parts of loops, which work on lanes there and on tiles here.
INLINED = {"nearest", "nearest_code", "roles", "joint_choice", "whole_pair", "cells"}
HIDE_NUMBA = "import runpy, sys; sys.modules['numba'] = None; sys.argv = sys.argv[1:]; "


def bits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bits_of_formats", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_without_numba(code: str, *arguments: str) -> str:
    environment = {**os.environ, "MACLOOM_NUMBA": "0"}
    command = [sys.executable, "-c", HIDE_NUMBA + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def functions(name: str) -> dict[str, Any]:
    """Return the public functions that a module defines, compiled ones as the Python function behind them."""
    module = importlib.import_module(name)
    plain = {key: getattr(value, "py_func", value) for key, value in vars(module).items() if key[0] != "_"}
    return {key: f for key, f in plain.items() if inspect.isfunction(f) and f.__module__ == name}


def imported_from_kernels() -> set[tuple[str, str]]:
    """Return (module, function) of everything that the package imports from a kernel module."""
    found = set()
    for path in Path(fallback.__file__).parents[1].rglob("*.py"):
        if "kernels" in (path.parent.name, path.stem) and path.stem != "fused":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("macloom.formats.kernels."):
                found |= {(node.module.rpartition(".")[2], alias.name) for alias in node.names}  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("name", TWINS)
def test_twins_take_the_arguments_of_the_compiled_loops(name: str) -> None:
    compiled, plain = (functions(f"macloom.formats.{room}.{name}") for room in ("kernels", "fallback"))
    for function in plain.keys() & compiled.keys() - INLINED:
        wanted, got = (list(inspect.signature(f[function]).parameters) for f in (compiled, plain))
        assert got == wanted, function


def test_everything_that_callers_import_has_a_twin() -> None:
    missing = []
    for module, function in sorted(imported_from_kernels()):
        if module == "fused":
            continue
        twin = f"macloom.formats.fallback.{module}"
        if module not in TWINS or not hasattr(importlib.import_module(twin), function):
            missing.append(f"{module}.{function}")
    assert missing == []


def test_every_format_gives_the_same_bits_without_numba() -> None:
    module = bits()
    names = [name for name in module.known_names() if not name.startswith(SLOW)]
    out = run_without_numba(f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')", str(SCRIPT), *names)
    plain = json.loads(out)
    compiled = json.loads(json.dumps(module.every_digest(names)))
    assert len(names) > 100
    assert [name for name in names if plain[name] != compiled[name]] == []
    products = compiled["products"]
    assert {name for name in products if plain["products"][name] != products[name]} == set()
    assert len({text for text in products.values() if len(text) == 16}) > 50
    assert "numba" not in out


def test_mutant_a_wrong_magic_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from macloom.formats.fallback import step

    steps = steps_of(FLOATS["fp8_e4m3"])
    assert steps is not None
    x = np.linspace(-3, 3, 1000, dtype=np.float32)[None]
    grid = (np.ones((1, 1), np.float32), 1000, steps.min_bits, steps.lift, steps.low, steps.high, np.float32(-0.0))
    want, got, worst = np.empty_like(x), np.empty_like(x), np.empty(1, np.uint32)
    step.round_steps(0, 1, x, *grid, want, worst)
    np.testing.assert_array_equal(want, FLOATS["fp8_e4m3"].quantize(x))
    monkeypatch.setattr(step, "HALF", 0)
    step.round_steps(0, 1, x, *grid, got, worst)
    assert np.any(got != want)


@pytest.mark.parametrize("count", [1, 3, 8, 60])
def test_clusters_equal_the_compiled_ones(count: int) -> None:
    from macloom.formats.fallback.cluster import optimal_rows as plain
    from macloom.formats.kernels.cluster import optimal_rows

    rng = np.random.default_rng(count)
    values = np.sort(rng.normal(size=(4, 50)).astype(np.float32), axis=1)
    values[1, 10:30] = values[1, 10]
    weights = rng.integers(0, 3, values.shape).astype(np.float32)
    want, got = np.empty((2, 4, count))
    optimal_rows(0, 4, values, weights, want)
    plain(0, 4, values, weights, got)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("text", ["fp8_e4m3", "int4", "fp8_e4m3:rounding=to_odd", "nf4"])
def test_nothing_but_tiles_is_allocated(text: str) -> None:
    code = f"""
import tracemalloc, numpy as np
from macloom.formats import get_format
x = np.random.default_rng(0).normal(size=(4096, 4096)).astype(np.float32)
out = np.empty_like(x); fmt = get_format({text!r}); scale = fmt.calibrate(x); fmt.quantize(x[:8])
tracemalloc.start(); fmt.quantize(x, scale, out=out); print(tracemalloc.get_traced_memory()[1] / x.nbytes)
"""
    assert float(run_without_numba(code)) <= 0.2  # scales of small blocks, and tiles


def test_peak_of_compiled_loops_is_measured_the_same_way() -> None:
    x = np.zeros((256, 4096), np.float32)
    fmt, out = get_format("fp8_e4m3"), np.empty_like(x)
    fmt.quantize(x, out=out)
    tracemalloc.start()
    fmt.quantize(x, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.05 * x.nbytes


def test_the_room_imports_without_numba() -> None:
    out = run_without_numba("import macloom.formats, macloom; print(macloom.get_format('mxfp4').name)")
    assert out == "mxfp4\n"


def test_without_another_way_the_error_says_what_to_install() -> None:
    code = """
from macloom.errors import MacloomError
try:
    from macloom._numba import njit
except MacloomError as error:
    print(error)
"""
    message = "numba: is not installed, or MACLOOM_NUMBA=0 turns it off, and this has no other way; pip install numba\n"
    assert run_without_numba(code) == message


def test_unknown_names_of_numba_are_attribute_errors() -> None:
    from macloom import _numba

    with pytest.raises(AttributeError):
        _numba.no_such_name  # noqa: B018
    assert _numba.njit is importlib.import_module("numba").njit
    assert issubclass(MacloomError, ValueError)
