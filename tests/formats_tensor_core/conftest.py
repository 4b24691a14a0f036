"""Cases that the tests of tensor cores share with `macloom verify tensor_core`."""

from __future__ import annotations

from types import ModuleType

import pytest

from macloom.formats.tensor_core import cases as shared


@pytest.fixture(scope="session")
def cases() -> ModuleType:
    return shared
