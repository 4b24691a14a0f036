"""Wrong circuits, with one operator of a right one exchanged, which checks must reject (DeMillo et al. 1978)."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pyrtl

from macloom.errors import MacloomError
from macloom.rtl.simulation import mismatches, run_unit, some_inputs
from macloom.rtl.unit import Unit, elaborate

# What stands in for an operator; a multiplexer (x) gets its inputs the other way round.
EXCHANGED = {"+": "-", "-": "+", "&": "|", "|": "&", "^": "|", "<": ">", ">": "<", "x": "x"}
TRIES = 8
# A fault that few inputs show is a better one.
RARE = 0.05
# With more operators the first fault that shows is taken: a simulation of every other one would take seconds.
LARGE = 500


def places(unit: Unit) -> int:
    """Return how many operators of a unit can be exchanged."""
    return len(_exchangeable(elaborate(unit)))


def _exchangeable(block: pyrtl.Block) -> list[pyrtl.LogicNet]:
    nets = [net for net in block.logic if net.op in EXCHANGED]
    return sorted(nets, key=lambda net: (len(net.dests[0].name), net.dests[0].name))


def mutated(unit: Unit, place: int) -> pyrtl.Block:
    """Return the unit's circuit with the operator at a place, counted from 0, exchanged."""
    block = elaborate(unit)
    net = _exchangeable(block)[place]
    arguments: tuple[Any, ...] = tuple(net.args)
    if net.op == "x":
        select, zero, one = arguments
        arguments = select, one, zero
    block.logic.remove(net)
    block.logic.add(net._replace(op=EXCHANGED[net.op], args=arguments))
    return block


def mutant(unit: Unit, count: int = 2_000) -> tuple[int, int]:
    """Return the place of a fault that the unit's vectors show, and on how many: the rarest of some.

    Args:
        count: vectors, the same as those of `some_inputs`.

    Raises:
        MacloomError: no fault that was tried shows.
    """
    inputs = some_inputs(unit, count)
    vectors = len(next(iter(inputs.values())))
    total = places(unit)
    best: tuple[int, int] | None = None
    step = max(total // TRIES, 1)
    for place in islice(range(step // 2, total, step), TRIES):
        wrong = len(mismatches(unit, inputs, run_unit(unit, inputs, mutated(unit, place))))
        if wrong and (best is None or wrong < best[0]):
            best = wrong, place
        if best is not None and (best[0] < RARE * vectors or total > LARGE):
            break
    if best is None:
        raise MacloomError(
            f"unit {unit.module}: none of {min(TRIES, total)} exchanged operators shows on {vectors} vectors"
        )
    return best[1], best[0]
