"""`macloom verify vector`: every operation of every unit is checked, and a wrong kernel is found."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.formats.vector import get_vector_unit, list_vector_units, verify
from macloom.verification import Options


def test_every_operation_of_every_unit_holds() -> None:
    found = list(verify.checks(Options(seed=3)))
    assert [c.subject for c in found] == [f"{u}: {op}" for u in list_vector_units() for op in verify.OPERATIONS]
    assert [c.subject for c in found if not c.holds] == []
    assert {c.cases for c in found} == {2048}


def test_exhaustive_inputs_are_all_numbers_of_16_bits() -> None:
    rng = np.random.default_rng(0)
    assert len(np.unique(verify.inputs(get_vector_unit("fixed16"), True, rng))) == 1 << 16
    assert len(np.unique(verify.inputs(get_vector_unit("bf16"), True, rng))) == (1 << 16) - 2 * 128 - 1
    assert len(np.unique(verify.inputs(get_vector_unit("fp16"), True, rng))) == (1 << 16) - 2 * 1024 - 1
    assert verify.inputs(get_vector_unit("fp32"), True, rng).size == 1 << 16


def test_one_wrong_bit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = verify.norm

    def wrong(*arguments: object) -> np.ndarray:
        result = original(*arguments)  # type: ignore[arg-type]
        result[1, 2] = np.nextafter(result[1, 2], np.float32(9))
        return result

    monkeypatch.setattr(verify, "norm", wrong)
    found = verify.check("bf16", "RMSNorm", False, 0)
    assert (found.mismatches, found.holds) == (1, False)
    assert found.worst > 0
