"""The dot unit of tensor cores: products and the running sum aligned to the largest exponent, cut off, added, rounded.

It is one block of a `TensorCoreAccumulator` in gates (Fasi, Higham, Mikaitis and Pranesh 2021, PeerJ Computer Science
7:e330; Xie et al., arXiv:2511.10909): exact products or sums of groups of them, F fraction bits kept below the largest
exponent. The running sum is one of the terms, or is added late in a register of its own, after every block or where
`promote` says so. The circuit follows the record; no device's own is known.
"""

from __future__ import annotations

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.rtl import wires as w
from macloom.rtl.floats import converted, plus
from macloom.rtl.pe.running import running_unit
from macloom.rtl.pe.tensor_design import TensorDot
from macloom.rtl.pe.tensor_software import after, held_codes, operand_codes
from macloom.rtl.pe.tensor_terms import block_sum
from macloom.rtl.unit import Port, Unit, Values, Wires

__all__ = ["TensorDot", "tensor_dot", "tensor_dot_step"]


def _after(design: TensorDot, held: Wires, inputs: Wires) -> dict[str, WireVector]:
    """Return what every register holds after one more block."""
    total = held["total"]
    if not design.late:
        return {"total": block_sum(design, total, inputs)}
    code = block_sum(design, held.get("chain"), inputs)
    wide = code if design.inner == design.register else converted(design.register, design.inner, code)
    result = plus(design.register, total, wide)
    if not design.chained:
        return {"total": result}
    promote = inputs["promote"]
    return {"total": pyrtl.select(promote, result, total), "chain": w.gated(code, w.inverted(promote))}


def tensor_dot_step(design: TensorDot, module: str | None = None) -> Unit:
    """Return the datapath alone: the operands of one block and the running sum `total` to the `next` one.

    Where blocks are chained before they are added late, `chain` and `next_chain` are the sum of the chain.
    """
    shapes = {"total": design.register, "chain": design.inner}
    nexts = {name: "next" if name == "total" else f"next_{name}" for name in design.registers}

    def values(inputs: Values) -> dict[str, np.ndarray]:
        return {name: shapes[name].values_of(inputs[name]) for name in design.registers}

    def model(inputs: Values) -> Values:
        made = after(design, values(inputs), inputs)
        return {nexts[name]: shapes[name].codes_of(x) for name, x in made.items()}

    def cares(inputs: Values) -> Values:
        # No sum is -0, and there is one NaN.
        held = np.ones(len(np.asarray(inputs["total"])), bool)
        for name, x in values(inputs).items():
            held &= ~((x == 0) & np.signbit(x)) & (~np.isnan(x) | (np.asarray(inputs[name]) == shapes[name].nan))
        return dict.fromkeys(nexts.values(), held)

    def stimuli(count: int, seed: int) -> Values:
        made = operand_codes(design, count, seed)
        return {**made, **held_codes(design, made, count, seed)}

    def circuit(inputs: Wires) -> Wires:
        return {nexts[name]: wire for name, wire in _after(design, inputs, inputs).items()}

    return Unit(
        module=module or f"{design.module}_step",
        inputs=(*design.ports, *(Port(name=name, width=bits) for name, bits in design.registers.items())),
        outputs=tuple(Port(name=nexts[name], width=bits) for name, bits in design.registers.items()),
        circuit=circuit,
        model=model,
        cares=cares,
        stimuli=stimuli,
        facts=design.facts,
    )


def tensor_dot(design: TensorDot, module: str | None = None) -> Unit:
    """Return the unit with its registers: in every cycle with `valid` one block is added to `sum`.

    With `clear` the registers start anew from +0. An instruction of more elements than a block is several cycles.
    Where blocks are chained first, a cycle with `promote` adds the chain to `sum`, this block included, and ends it.

    >>> from macloom.formats import get_accumulator, get_format
    >>> fp16, core = get_format("fp16"), get_accumulator("tc:volta-fp16")
    >>> tensor_dot(TensorDot(a=fp16, b=fp16, core=core)).module
    'fp16_tc_volta_fp16_dot'
    """

    def model(inputs: Values) -> Values:
        zeros = {name: np.zeros(1, np.float32) for name in design.registers}
        sums, held = [], zeros
        names = [port.name for port in design.ports]
        for step, (clear, valid) in enumerate(zip(inputs["clear"].tolist(), inputs["valid"].tolist(), strict=True)):
            sums.append(held["total"])
            if valid:
                one = {name: np.asarray(inputs[name])[step : step + 1] for name in names}
                held = after(design, zeros if clear else held, one)
        return {"sum": design.register.codes_of(np.concatenate(sums))}

    return running_unit(
        module or design.module,
        design.ports,
        design.registers,
        lambda held, inputs: _after(design, held, inputs),
        model,
        lambda count, seed: operand_codes(design, count, seed, 0.004),
        design.facts,
        clear_share=0.08,
    )
