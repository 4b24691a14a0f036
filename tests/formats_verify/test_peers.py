"""The checks against other packages: each holds, counts what it compared, and sees a wrong scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from macloom.formats.tensors.block import ScaleRule
from macloom.formats.verify import checks, element_checks
from macloom.formats.verify.peers import GFLOAT_ROUNDINGS, NAMES, peer_checks
from macloom.formats.verify.tensors import MX, TORCHAO, blocks, check_definition, tensor_checks
from macloom.verification import Check, Options

OPTIONS = Options()


def subjects(calls: list[Callable[[], Check]]) -> list[Any]:
    return [pytest.param(call, id="-".join(map(str, call.args))) for call in calls]  # type: ignore[attr-defined]


@pytest.mark.parametrize("call", subjects(peer_checks(OPTIONS)))
def test_elements_equal_other_packages(call: Callable[[], Check]) -> None:
    check = call()
    assert check.holds, check
    assert check.cases >= 10_000
    assert any(package in check.against for package in ("ml_dtypes ", "gfloat ", "torch "))


@pytest.mark.parametrize("call", subjects(tensor_checks(OPTIONS)))
def test_blocks_equal_torchao_and_the_definition(call: Callable[[], Check]) -> None:
    if "torchao" in call.func.__name__:  # type: ignore[attr-defined]
        pytest.importorskip("torchao")
    check = call()
    assert check.holds, check
    assert check.cases >= 60_000


def test_every_scale_rule_and_rounding_is_compared() -> None:
    assert {rule.value for rule in ScaleRule} == {"floor", "ceil", "even", "rceil"}
    assert len(tensor_checks(OPTIONS)) >= len(MX)
    assert {mode.value for mode in GFLOAT_ROUNDINGS} == {"nearest_even", "nearest_away", "toward_zero"}
    assert set(TORCHAO) < set(MX)
    assert set(NAMES) >= {"fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1"}


def test_blocks_reach_every_exponent_and_both_zeros() -> None:
    x = blocks(0, 254, 1, 0)
    exponents = np.abs(x).max(axis=1).view(np.uint32) >> 23
    assert sorted(set(exponents.tolist())) == list(range(255))
    assert np.all(np.signbit(x[:, 8]))
    assert not np.any(np.signbit(x[:, 7]))


def test_mutant_a_scale_one_binade_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from macloom.formats import get_format

    monkeypatch.setattr(
        "macloom.formats.verify.tensors.get_format", lambda name: get_format(f"{name.partition(':')[0]}:rule=ceil")
    )
    check = check_definition("mxfp4", False, 0)
    assert not check.holds
    assert check.worst > 0


def test_the_verifier_yields_every_check_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[int] = []
    options = Options(expect=expected.append)
    calls = element_checks(options)
    monkeypatch.setattr("macloom.formats.verify.element_checks", lambda options: calls[:2])
    monkeypatch.setattr("macloom.formats.verify.peers.peer_checks", lambda options: [])
    monkeypatch.setattr("macloom.formats.verify.tensors.tensor_checks", lambda options: [])
    found = list(checks(options))
    assert expected == [2]
    assert [check.holds for check in found] == [True, True]
    assert len(calls) >= 6 * 60
