"""The processing element of two widths: a tile of four narrow elements, or one wide element made of them.

A wide significand is high * 2**w + low, so that its products are those of the tile's four multipliers, shifted
and added (Guo et al., OliVe, ISCA 2023, section 4.5: <4, h> + <0, l> for 4 and 8 bits, and an adder more for every four
elements). The paper does not say how the four share operands, shifters and registers. Here, as a reconstruction,
they are two rows by two columns of an output-stationary array, which becomes one row by one column; the products are
added before the shift by the exponents, which is the same for all four, and the sum goes to the first register.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.formats.accumulator import IntegerAccumulator
from macloom.formats.tensor import TensorFormat
from macloom.rtl import wires as w
from macloom.rtl.formats.operands import operand_ports
from macloom.rtl.formats.pairs import PairPorts, identifier
from macloom.rtl.pe.fused_design import (
    TILE,
    FusedMac,
    legal_wide,
    narrow_operands,
    operand_ports_of,
    stimuli,
    terms,
)
from macloom.rtl.pe.mac import Mac, formats_facts, legal
from macloom.rtl.pe.register import Register, accumulate, clamped, saturates
from macloom.rtl.unit import Port, Unit, Values, Wires


def _halves(wire: WireVector, bits: int, wide: WireVector) -> tuple[WireVector, WireVector]:
    """Return the low half, unsigned in a wide number and signed in a narrow one, and the high half, signed."""
    low_sign = wire[bits - 1] & w.inverted(wide)
    return pyrtl.concat(low_sign, wire[:bits]), w.signed_widened(wire[bits:], bits + 1)


def _shift(exponents: list[WireVector], significand: WireVector, bits: int) -> WireVector:
    """Return a significand shifted left by a sum of exponents, as a number of so many bits."""
    base = w.signed_widened(significand, bits) if len(significand) < bits else w.low(significand, bits)
    if not exponents:
        return base
    return w.shifted_left(base, exponents[0] if len(exponents) == 1 else exponents[0] + exponents[1], bits)


def _narrow_exponent(narrow: PairPorts, port: WireVector, lane: int) -> WireVector | None:
    """Return the exponent of a lane; None where every one is the same."""
    bits = narrow.exponent_bits
    return port[lane * bits : (lane + 1) * bits] if narrow.top > narrow.offset else None


def _first_exponent(narrow: PairPorts, wide: PairPorts, port: WireVector, mode: WireVector) -> WireVector | None:
    """Return the exponent at the first element: the wide operand's, or that of lane 0."""
    small = _narrow_exponent(narrow, port, 0)
    if wide.top == wide.offset:
        return None if small is None else w.gated(small, w.inverted(mode))
    large = port[: wide.exponent_bits]
    if small is None:
        return w.gated(large, mode)
    width = max(len(small), len(large))
    return pyrtl.select(mode, w.widened(large, width), w.widened(small, width))


def _addends(design: FusedMac, inputs: Wires) -> list[WireVector]:
    """Return what each register gets: the first at its own width, the others at the narrow one."""
    mode = inputs["wide"]
    a_bits, b_bits = design.narrow.a.significand_bits, design.narrow.b.significand_bits
    a, b = (_halves(inputs[f"significand_{n}"], p.significand_bits, mode) for n, p, _ in design.sides)
    small = [pyrtl.signed_mult(a[i], b[j]) for i, j in TILE]
    whole = 2 * (a_bits + b_bits)

    def moved(wire: WireVector, amount: int) -> WireVector:
        wire = w.signed_widened(wire, whole)
        return pyrtl.concat(wire[: whole - amount], w.constant(0, amount)) if amount else wire

    fused = w.total([moved(p, i * a_bits + j * b_bits) for p, (i, j) in zip(small, TILE, strict=True)], whole)
    first = pyrtl.select(mode, fused, w.signed_widened(small[0], whole))
    both = [_first_exponent(narrow, wide, inputs[f"exponent_{n}"], mode) for n, narrow, wide in design.sides]
    made = [_shift([e for e in both if e is not None], first, design.register_bits)]
    for element in range(1, len(TILE)):
        lanes = zip(design.sides, TILE[element], strict=True)
        exponents = [_narrow_exponent(narrow, inputs[f"exponent_{n}"], lane) for (n, narrow, _), lane in lanes]
        used = [e for e in exponents if e is not None]
        made.append(_shift(used, small[element], design.narrow.accumulator.bits))
    return made


def _after(mac: Mac, total: WireVector, width: int) -> WireVector:
    """Return an exact sum, wrapped or saturated as the register says, at a width."""
    bits = mac.accumulator.bits
    kept = clamped(total, bits) if saturates(mac.accumulator) else total[:bits]
    return w.signed_widened(kept, width)


def fused_mac_pe(design: FusedMac, module: str = "fused_mac_pe") -> Unit:
    """Return the processing element, for a 2 x 2 tile of an output-stationary array.

    Without `wide` the ports `exponent_a` and `significand_a` hold the pairs of two rows, those of `b` of two columns
    (`packed`), and `sum0` to `sum3` are the sums of row 0 with columns 0 and 1, and of row 1 with both. With `wide`
    they hold one pair each, and `sum0` is its sum, while the other registers keep theirs. In every cycle with `valid`
    products are added, or replace the sums with `clear`; the operands leave a cycle later. Where `wide` changes
    without `clear`, the first register goes on from the number it holds, wrapped or saturated to the other width.
    """
    bits, narrow_bits = design.register_bits, design.narrow.accumulator.bits
    operands = operand_ports_of(design)
    widths = (bits, *[narrow_bits] * 3)

    def circuit(inputs: Wires) -> Wires:
        mode, kept = inputs["wide"], w.inverted(inputs["clear"])
        totals = [pyrtl.Register(width, f"total{element}") for element, width in enumerate(widths)]
        enables = [inputs["valid"], *[inputs["valid"] & w.inverted(mode)] * 3]
        made: dict[str, WireVector] = {}
        for element, addend in enumerate(_addends(design, inputs)):
            total, room = totals[element], widths[element] + 1
            before = w.signed_widened(w.gated(total, kept), room)
            exact = w.low(before + w.signed_widened(addend, room), room)
            after = _after(design.narrow, exact, widths[element])
            if not element and design.wide.accumulator != design.narrow.accumulator:
                after = pyrtl.select(mode, _after(design.wide, exact, bits), after)
            w.clock(total, pyrtl.select(enables[element], after, total))
            made[f"sum{element}"] = total
        for port in operands:
            made[f"{port.name}_out"] = w.held(inputs[port.name], f"{port.name}_held")
        return made

    def model(inputs: Values) -> Values:
        wide, narrow = terms(design, inputs)
        totals, sums = [0] * len(TILE), []
        controls = zip(*(inputs[name].tolist() for name in ("wide", "clear", "valid")), strict=True)
        for step, (mode, clear, valid) in enumerate(controls):
            sums.append(list(totals))
            if not valid:
                continue
            mac, addends = (design.wide, [wide]) if mode else (design.narrow, narrow)
            for element, term in enumerate(addends):
                before = 0 if clear else totals[element]
                totals[element] = int(accumulate(mac.accumulator, before, int(term[step])))
        made = {f"sum{element}": np.array(column) for element, column in enumerate(zip(*sums, strict=True))}
        passed = {f"{p.name}_out": np.concatenate(([0], np.asarray(inputs[p.name])[:-1])) for p in operands}
        return made | passed

    def cares(inputs: Values) -> Values:
        # A product that no decoder sends spoils a sum until it is cleared.
        mode, valid = (np.asarray(inputs[name]) == 1 for name in ("wide", "valid"))
        made = {}
        for element in range(len(TILE)):
            fits = legal(design.narrow, narrow_operands(design, inputs, element))
            fits = fits if element else np.where(mode, legal_wide(design, inputs), fits)
            enabled = valid if not element else valid & ~mode
            spoilt, clean = False, []
            columns = fits.tolist(), np.asarray(inputs["clear"]).tolist(), enabled.tolist()
            for fit, clear, enable in zip(*columns, strict=True):
                clean.append(not spoilt)
                spoilt = ((spoilt and not clear) or not fit) if enable else spoilt
            made[f"sum{element}"] = np.array(clean)
        return made

    return Unit(
        module=module,
        inputs=(*operands, *(Port(name=name, width=1) for name in ("wide", "clear", "valid"))),
        outputs=(
            *(Port(name=f"sum{element}", width=width, signed=True) for element, width in enumerate(widths)),
            *(Port(name=f"{p.name}_out", width=p.width, signed=p.signed) for p in operands),
        ),
        circuit=circuit,
        model=model,
        cares=cares,
        clocked=True,
        stimuli=lambda count, seed: stimuli(design, count, seed),
        facts=_facts(design),
    )


def _facts(design: FusedMac) -> dict[str, object]:
    found: dict[str, object] = {}
    for prefix, mac in (("", design.wide), ("narrow_", design.narrow)):
        found |= {
            f"{prefix}accumulator": mac.accumulator.name,
            f"{prefix}accumulator_bits": mac.accumulator.bits,
            f"{prefix}product_bits": mac.product_bits,
            f"{prefix}exponent_offset": mac.unit_exponent,
        }
    return found


def fused_pe(
    narrow: TensorFormat,
    wide: TensorFormat,
    narrow_accumulator: Register | None = None,
    wide_accumulator: Register | None = None,
) -> Unit:
    """Return the element for both operands in a narrow or a wide format, with 32-bit wrapping registers unless given.

    Raises:
        MacloomError: a format has no decoder, wide significands are too long, or a register does not hold a product.

    >>> from macloom.formats import get_format
    >>> unit = fused_pe(get_format("int4"), get_format("int8"))
    >>> unit.module, [port.width for port in unit.outputs[:4]]
    ('int4_int8_fused_pe', [32, 32, 32, 32])
    """
    macs = [
        Mac(a=operand_ports(fmt), b=operand_ports(fmt), accumulator=accumulator or IntegerAccumulator())
        for fmt, accumulator in ((narrow, narrow_accumulator), (wide, wide_accumulator))
    ]
    unit = fused_mac_pe(
        FusedMac(narrow=macs[0], wide=macs[1]), f"{identifier(narrow.name)}_{identifier(wide.name)}_fused_pe"
    )
    facts = {**formats_facts(wide, wide), **{f"narrow_{k}": v for k, v in formats_facts(narrow, narrow).items()}}
    return replace(unit, facts={**facts, **unit.facts})
