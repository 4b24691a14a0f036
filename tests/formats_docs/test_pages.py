"""The generated pages of the formats say what the catalog says today."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from macloom.formats import FloatFormat, Scaled, format_entry, get_format, list_formats
from macloom.formats.describe import code_tables, describe, element_formats, fixed_elements, format_options
from macloom.formats.describe_datapath import Datapath, datapath
from macloom.formats.describe_error import noise, one_sided, samples
from macloom.formats.families import FAMILIES
from macloom.formats.grammar import CATALOG, WORDS, Entry, scaled

DOCS = Path(__file__).resolve().parents[2] / "docs"
REBUILD = "run `python docs/rebuild_formats.py`"


def load_generator() -> ModuleType:
    sys.path.insert(0, str(DOCS))  # as `python docs/rebuild_formats.py` has it
    spec = importlib.util.spec_from_file_location("rebuild_formats", DOCS / "rebuild_formats.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rebuild_formats"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load_generator()


@pytest.mark.parametrize("key", list(FAMILIES))
def test_committed_page_is_what_the_generator_makes(generator: ModuleType, key: str) -> None:
    assert (DOCS / "formats" / f"{key}.md").read_text(encoding="utf-8") == generator.page(FAMILIES.get(key)), REBUILD


def test_committed_index_is_what_the_generator_makes(generator: ModuleType) -> None:
    assert (DOCS / "formats" / "index.md").read_text(encoding="utf-8") == generator.index(), REBUILD


@pytest.mark.parametrize("key", list(FAMILIES))
def test_committed_picture_shows_the_values_of_today(generator: ModuleType, key: str) -> None:
    text = (DOCS / "formats" / f"{key}.svg").read_text(encoding="utf-8")
    assert f"<!-- data {generator.data_hash(FAMILIES.get(key))} -->" in text, REBUILD
    assert len(text) < 100_000


def test_every_page_belongs_to_a_family() -> None:
    pages = {path.stem for path in (DOCS / "formats").glob("*.md")}
    assert pages == {"index", *FAMILIES} == {"index", *(path.stem for path in (DOCS / "formats").glob("*.svg"))}
    assert {format_entry(name).family.key for name in list_formats()} == set(FAMILIES)


def test_a_format_added_to_the_catalog_appears_by_itself(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new record is on its page with its values; nothing else has to know it."""
    element = FloatFormat(label="fp5_e2m2", exponent_bits=2, mantissa_bits=2)
    family = FAMILIES.get("float")
    entry = Entry(family=family, summary="a new float", source="nobody", build=scaled(element), words=True)
    monkeypatch.setitem(CATALOG._records, "fp5_e2m2", entry)
    page = generator.page(family)
    assert "| `fp5_e2m2` | a new float | pair: 4 x 4 bit multiplier" in page
    assert "### fp5_e2m2" in page
    assert "`fp5_e2m2`: nobody" in page


def test_a_wrong_value_would_change_the_page(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: E2M1 with another bias is not the committed page."""
    entry = format_entry("fp4_e2m1")
    element = FloatFormat(label="fp4_e2m1", exponent_bits=2, mantissa_bits=1, bias=2)
    monkeypatch.setitem(CATALOG._records, "fp4_e2m1", replace(entry, build=scaled(element)))
    get_format.__globals__["_format_named"].cache_clear()
    try:
        assert generator.page(FAMILIES.get("float")) != (DOCS / "formats" / "float.md").read_text(encoding="utf-8")
    finally:
        get_format.__globals__["_format_named"].cache_clear()


@pytest.mark.parametrize("name", list_formats())
def test_pairs_are_the_values(name: str) -> None:
    """Every code's exponent-integer pair is its value, or what its decode table makes of it, in exact arithmetic."""
    fmt = get_format(name)
    tables = code_tables(fmt)
    for use, element in fixed_elements(fmt).items():
        if use not in tables["values"]:
            continue
        operands = getattr(element, "operand_values", element.values)
        for code, (value, pair) in enumerate(zip(tables["values"][use], tables["pairs"][use], strict=True)):
            assert (pair is None) == (not math.isfinite(value))
            if pair is not None:
                assert math.ldexp(pair[1], pair[0]) == operands[code]


@pytest.mark.parametrize("name", list_formats())
def test_every_option_is_told(name: str) -> None:
    fmt, entry = get_format(name), format_entry(name)
    assert set(entry.keys) - {*WORDS} <= set(format_options(fmt))
    assert all(format_options(fmt).values())
    facts = describe(fmt)
    assert facts["definitions"][type(fmt).__name__]
    assert facts["bits_per_element"] == fmt.storage_bits((4096, 4096)) / 4096**2
    assert facts["family"] in FAMILIES


def test_options_say_what_they_take() -> None:
    assert format_options(get_format("mxfp4"))["rule"] == "floor, ceil, even, rceil (floor)"
    assert format_options(get_format("ovp4"))["normal"] == "int4, flint4, adaptive (int4)"
    assert format_options(get_format("int4"))["scale"].startswith("fp32, fp16, ")
    assert format_options(get_format("gobo3"))["threshold"] == "a number (-4)"


@pytest.mark.parametrize(
    "name, kind, multiplier, exponent, entries",
    [
        ("int4", Datapath.INTEGER, 4, 0, 0),
        ("uint4", Datapath.INTEGER, 5, 0, 0),
        ("ternary", Datapath.ADD, 0, 0, 0),
        ("binary", Datapath.ADD, 0, 0, 0),
        ("pot4", Datapath.SHIFT, 0, 3, 0),
        ("log4", Datapath.SHIFT, 0, 4, 0),
        ("mxfp4", Datapath.PAIR, 3, 2, 0),
        ("ovp4", Datapath.PAIR, 4, 3, 0),
        ("posit8_2", Datapath.PAIR, 5, 6, 0),
        ("nf4", Datapath.EXPAND, 12, 5, 16),
        ("squeezellm3", Datapath.EXPAND, 12, 5, 8),
        ("vptq", Datapath.EXPAND, 12, 5, 256),
        ("dgq4", Datapath.EXPAND, 8, 0, 16),
        ("fp16", Datapath.WIDE, 12, 5, 0),
    ],
)
def test_datapath_classes(name: str, kind: Datapath, multiplier: int, exponent: int, entries: int) -> None:
    found = datapath(get_format(name))
    assert (found.kind, found.multiplier_bits, found.exponent_bits, found.table_entries) == (
        kind, multiplier, exponent, entries,
    )  # fmt: skip


def test_sparse_paths_are_seen() -> None:
    sparse = {name for name in list_formats() if datapath(get_format(name)).sparse}
    assert {"gobo3", "olaccel4", "kvquant3", "llm_int8", "squeezellm4", "biscaled6"} <= sparse
    assert not sparse & {"int4", "mxfp4", "ovp4", "vptq"}


def test_legend_explains_every_class(generator: ModuleType) -> None:
    text = generator.index()
    for kind in Datapath:
        assert re.search(rf"^- \*\*{kind.value}\*\*: \w", text, re.MULTILINE)


def test_noise_is_that_of_a_plain_computation() -> None:
    fmt, x = get_format("int4"), samples()["laplace"].astype(np.float64)
    step = np.abs(x).max() / 7
    error = np.square(np.rint(x / step) * step - x).sum()
    assert noise(fmt)["laplace"] == pytest.approx(10 * math.log10(np.square(x).sum() / error), abs=1e-3)
    assert math.isinf(noise(get_format("fp32"))["gaussian"])


def test_one_sided_formats_get_magnitudes() -> None:
    sided = {name for name in list_formats() if one_sided(get_format(name))}
    assert {"uint4", "uint8", "log4", "logsqrt4", "tan4"} <= sided
    assert not sided & {"int4", "affine4", "nf4"}


def test_learned_values_are_not_shown_as_codes() -> None:
    assert code_tables(get_format("gobo3"))["values"] == {}
    assert fixed_elements(get_format("dgq4")) == {}
    assert list(element_formats(get_format("ovp4"))) == ["normal", "outlier"]
    assert len(element_formats(get_format("ovp4:normal=adaptive"))) == 4
    assert isinstance(get_format("int4"), Scaled)
