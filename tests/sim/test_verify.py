"""`macloom verify simulator`: every check holds, and would not if a rung were wrong."""

from __future__ import annotations

from macloom.sim import verify
from macloom.verification import Options


def test_every_check_holds():
    announced = []
    found = [check for check in verify.checks(Options(expect=announced.append)) if check.cases]
    assert announced == [len(found)]
    assert all(check.holds for check in found), [c.note for c in found if not c.holds]
    assert sum(check.cases for check in found) > 4000


def test_a_wrong_rung_is_found(monkeypatch):
    right = verify.product_cycles

    class Late:
        def __init__(self, cycles):
            self.total = cycles.total + 1

    monkeypatch.setattr(verify, "product_cycles", lambda *a, **o: Late(right(*a, **o)))
    check = verify.cycles_equal_the_closed_form(verify.Dataflow.OS, 1)
    assert check.mismatches == check.cases
    assert "first mismatch: 1x1x1 on 1x1" in check.note
