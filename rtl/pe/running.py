"""A dot-product unit around its registers: what block and tensor-core units have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyrtl

import macloom.rtl.wires as w
from macloom.rtl.unit import Port, Unit, Values, Wires


def running_unit(
    module: str,
    ports: tuple[Port, ...],
    registers: Mapping[str, int],
    after: Callable[[Wires, Wires], Wires],
    model: Callable[[Values], Values],
    codes: Callable[[int, int], dict[str, np.ndarray]],
    facts: Mapping[str, Any],
    *,
    clear_share: float,
    cares: Callable[[Values], Values] | None = None,
) -> Unit:
    """Return a unit that adds one step to its registers in every cycle with `valid`, to zero with `clear`.

    The register `total` is its output, `sum`.

    Args:
        module: name of the Verilog module.
        ports: operands of one step.
        registers: width of each register, `total` among them.
        after: from the registers and the operands to the registers after the step.
        model, cares, facts: those of the `Unit`; the model sees `clear` and `valid`, too.
        codes: from a count and a seed to operands that exercise the unit.
        clear_share: share of the vectors that clear the registers.
    """

    def circuit(inputs: Wires) -> Wires:
        held = {name: pyrtl.Register(bits, name) for name, bits in registers.items()}
        kept = w.inverted(inputs["clear"])
        made = after({name: w.gated(register, kept) for name, register in held.items()}, inputs)
        for name, register in held.items():
            w.clock(register, pyrtl.select(inputs["valid"], made[name], register))
        return {"sum": held["total"][:]}

    def stimuli(count: int, seed: int) -> Values:
        rng = np.random.default_rng([seed, 2])
        controls = {"clear": (rng.random(count) < clear_share) * 1, "valid": (rng.random(count) < 0.9) * 1}
        return {**codes(count, seed), **controls}

    return Unit(
        module=module,
        inputs=(*ports, Port(name="clear", width=1), Port(name="valid", width=1)),
        outputs=(Port(name="sum", width=registers["total"]),),
        circuit=circuit,
        model=model,
        cares=cares,
        clocked=True,
        stimuli=stimuli,
        facts=facts,
    )
