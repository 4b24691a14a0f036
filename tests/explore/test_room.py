"""The room's public names, and that they cost nothing until they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import macloom.explore


def test_every_public_name_is_there() -> None:
    for name in macloom.explore.__all__:
        assert getattr(macloom.explore, name).__name__ == name
    assert set(macloom.explore.__all__) <= set(dir(macloom.explore))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'macloom\.explore' has no attribute 'nothing'$"):
        _ = macloom.explore.nothing


def test_importing_the_room_or_reading_a_result_brings_no_heavy_package() -> None:
    code = (
        "import sys, macloom.explore, macloom.explore.result, macloom.explore.summary\n"
        "print([m for m in ('torch', 'matplotlib', 'rich', 'numba', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
