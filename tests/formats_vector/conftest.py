"""Every vector unit by name: adding one adds its tests."""

from __future__ import annotations

import pytest

from macloom.formats.vector import VectorUnit, get_vector_unit, list_vector_units


@pytest.fixture(params=list_vector_units())
def unit(request: pytest.FixtureRequest) -> VectorUnit:
    return get_vector_unit(request.param)
