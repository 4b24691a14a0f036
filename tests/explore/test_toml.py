"""TOML writing, against the standard library's reader."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.explore.toml import dump_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
DOCUMENTS = st.recursive(
    st.dictionaries(TEXT, SCALARS | st.lists(SCALARS, max_size=3), max_size=4),
    lambda inner: st.dictionaries(
        TEXT, SCALARS | inner | st.lists(inner, max_size=3) | st.lists(SCALARS | inner, max_size=3), max_size=4
    ),
    max_leaves=12,
)


@given(DOCUMENTS)
def test_round_trip(document: dict[str, Any]) -> None:
    assert tomllib.loads(dump_toml(document)) == document


def test_none_is_left_out_and_nan_is_written() -> None:
    read = tomllib.loads(dump_toml({"a": None, "b": float("nan"), "t": {"c": None}}))
    assert set(read) == {"b", "t"}
    assert math.isnan(read["b"])


def test_other_kinds_are_refused_with_their_path() -> None:
    with pytest.raises(
        MacloomError, match=r"^array\.pe\[1\]: must be a string, number, boolean, list or mapping, not complex$"
    ):
        dump_toml({"array": {"pe": [1, 2j]}})
