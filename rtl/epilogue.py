"""The output encoder: from the sum of a 32-bit register to the code of the next operand, in integers.

It is `macloom.formats.requantize` in gates: bias, multiplication by an integer scale, one of its four roundings,
activation, zero point and range. Scheme, zero point and range belong to the circuit; multiplier, shift and bias, which
differ from channel to channel, come through ports.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.requantize import Requantize, Scheme
from macloom.rtl import wires as w
from macloom.rtl.pe.register import clamped
from macloom.rtl.unit import Port, Unit, Values, Wires

WORD = 32
# What a channel brings along, by the names of the ports.
CHANNEL = (
    Port(name="multiplier", width=31),
    Port(name="shift", width=6, signed=True),
    Port(name="bias", width=WORD, signed=True),
)


def encoded_sum(record: Requantize, total: WireVector, channel: Wires) -> WireVector:
    """Return the code of a sum; `channel` has the wires of `CHANNEL`, in place of what the record says of channels.

    Raises:
        MacloomError: the sum has more than 32 bits.
    """
    if len(total) > WORD:
        raise MacloomError(f"rtl: an output encoder takes sums of up to {WORD} bits, not {len(total)}")
    x = clamped(w.low(w.signed_widened(total, WORD + 1) + w.signed_widened(channel["bias"], WORD + 1), WORD + 1), WORD)
    shift, multiplier = channel["shift"], w.widened(channel["multiplier"], WORD)
    if record.scheme is Scheme.DOUBLING_HIGH:
        scaled = _by_doubling_high(x, multiplier, shift)
    else:
        product = w.low(pyrtl.signed_mult(x, multiplier), 2 * WORD)
        # 30 - shift keeps one bit below the last place; shifts are from -31 to 30.
        amount = w.low(w.constant(30, 7) - w.signed_widened(shift, 7), 6)
        kept, lost = w.shifted_right_signed(product, amount)
        whole, guard = kept[1:], kept[0]
        match record.scheme:
            case Scheme.SINGLE:
                up = guard
            case Scheme.EVEN:
                up = guard & (lost | whole[0])
            case _:
                up = w.constant(0, 1)
        width = len(whole) + 1
        scaled = w.low(w.signed_widened(whole, width) + w.widened(up, width), width)
    width = len(scaled) + 1
    moved = w.low(w.signed_widened(scaled, width) + w.constant(record.zero_point, width), width)
    low, high = record.range
    held = pyrtl.select(pyrtl.signed_lt(moved, w.constant(low, width)), w.constant(low, width), moved)
    held = pyrtl.select(pyrtl.signed_lt(w.constant(high, width), held), w.constant(high, width), held)
    return w.low(held, record.output.bits)


def _by_doubling_high(x: WireVector, multiplier: WireVector, shift: WireVector) -> WireVector:
    """Return the product's high half, rounded, then divided by a power of two, rounded again (gemmlowp)."""
    negative = shift[-1]
    left = w.gated(shift[:5], w.inverted(negative))
    right = w.gated(w.low(w.constant(0, 6) - shift, 6), negative)
    wide = w.shifted_left(w.signed_widened(x, 2 * WORD), left, 2 * WORD)
    product = w.low(pyrtl.signed_mult(clamped(wide, WORD), multiplier), 2 * WORD)
    # To nearest, ties toward plus infinity: both of gemmlowp's nudges with its division come to this.
    high = w.low(product + w.constant(1 << 30, 2 * WORD), 2 * WORD)[31:]
    kept, lost = w.shifted_right_signed(pyrtl.concat(high, w.constant(0, 1)), right)
    whole, guard = kept[1:], kept[0]
    up = guard & (lost | w.inverted(whole[-1]))  # ties away from zero
    return w.low(whole + w.widened(up, len(whole)), len(whole))


def encoded_sums(record: Requantize, total: np.ndarray, channel: Values) -> np.ndarray:
    """Return the same in software, by the record itself, for sums and channels one by one."""
    multiplier, shift, bias = (tuple(np.asarray(channel[port.name]).tolist()) for port in CHANNEL)
    if not multiplier:
        return np.zeros(0, np.int64)
    every = replace(record, multiplier=multiplier, shift=shift, bias=bias)
    return every(np.asarray(total, np.int64)[None, :])[0]


def output_encoder(record: Requantize, sum_bits: int = WORD, module: str | None = None) -> Unit:
    """Return the unit of ports `sum`, `multiplier`, `shift` and `bias` to `code`.

    Multipliers are 0 or from 2**30 on, shifts from -31 to 30, as those of the record.

    >>> from macloom.formats.elements.integer import IntFormat
    >>> output_encoder(Requantize.from_scale(0.01, output=IntFormat(width=8))).module
    'doubling_high_int8_output_encoder'
    """
    output = record.output

    def legal(inputs: Values) -> np.ndarray:
        multiplier, shift = (np.asarray(inputs[n]) for n in ("multiplier", "shift"))
        return ((multiplier == 0) | (multiplier >= 1 << 30)) & (shift > -32) & (shift < 31)

    def model(inputs: Values) -> Values:
        known = legal(inputs)
        channel = {port.name: np.where(known, inputs[port.name], 0) for port in CHANNEL}
        return {"code": encoded_sums(record, inputs["sum"], channel)}

    def stimuli(count: int, seed: int) -> Values:
        rng = np.random.default_rng(seed)
        half = 1 << (sum_bits - 1)
        sums = np.clip(rng.standard_normal(count) * half * np.exp2(-rng.integers(0, sum_bits, count)), -half, half - 1)
        sums = np.where(rng.random(count) < 0.1, rng.choice([-half, half - 1, 0, 1, -1], count), sums.astype(np.int64))
        multiplier = np.where(rng.random(count) < 0.4, 1 << 30, rng.integers(1 << 30, 1 << 31, count))
        # Most results within the range of the output.
        aimed = output.bits - np.ceil(np.log2(np.abs(sums) + 1)).astype(np.int64) + rng.integers(-3, 2, count)
        shift = np.where(rng.random(count) < 0.8, np.clip(aimed, -31, 30), rng.integers(-31, 31, count))
        bias = np.where(
            rng.random(count) < 0.5, 0, rng.integers(-1 << 31, 1 << 31, count) >> rng.integers(0, 32, count)
        )
        multiplier = np.where(rng.random(count) < 0.02, 0, multiplier)
        return {"sum": sums, "multiplier": multiplier, "shift": shift, "bias": bias}

    return Unit(
        module=module or f"{record.scheme.value}_{output.name}_output_encoder",
        inputs=(Port(name="sum", width=sum_bits, signed=True), *CHANNEL),
        outputs=(Port(name="code", width=output.bits, signed=output.signed),),
        circuit=lambda inputs: {"code": encoded_sum(record, inputs["sum"], inputs)},
        model=model,
        cares=lambda inputs: {"code": legal(inputs)},
        stimuli=stimuli,
        facts={"scheme": record.scheme.value, "output": output.name, "zero_point": record.zero_point},
    )


def channel_values(record: Requantize, count: int) -> dict[str, np.ndarray]:
    """Return multiplier, shift and bias of so many output channels (int64), 0 beyond those of the record.

    Raises:
        MacloomError: the record has fewer channels.
    """
    made = {}
    for port in CHANNEL:
        value = getattr(record, port.name)
        if isinstance(value, tuple) and len(value) != count:
            raise MacloomError(f"rtl: the epilogue has {len(value)} output channels, and the product {count}")
        made[port.name] = np.broadcast_to(np.array(value, np.int64), count).copy()
    return made


def column_ports(cols: int) -> tuple[Port, ...]:
    """Return the ports of `CHANNEL` of every column of an array."""
    return tuple(replace(port, name=f"{port.name}{j}") for j in range(cols) for port in CHANNEL)


def column(inputs: Wires, j: int) -> dict[str, WireVector]:
    """Return the wires of one column's channel."""
    return {port.name: inputs[f"{port.name}{j}"] for port in CHANNEL}


def column_values(inputs: Values, j: int) -> dict[str, np.ndarray]:
    """Return the same in software."""
    return {port.name: np.asarray(inputs[f"{port.name}{j}"]) for port in CHANNEL}
