"""Small circuits that every generator uses.

PyRTL exports an unnamed `~x` wrongly where a wider `+`, `-` or `*` reads it (Verilog widens before it
inverts), so that nothing in this room writes `~`: `inverted` is an exclusive or with ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError


def constant(value: int, width: int) -> WireVector:
    """Return a constant; a negative value in two's complement."""
    return pyrtl.Const(value & ((1 << width) - 1), width)


def inverted(wire: WireVector) -> WireVector:
    """Return every bit inverted."""
    return wire ^ constant(-1, len(wire))


def any_bit(wire: WireVector) -> WireVector:
    """Return whether a bit is set."""
    return pyrtl.or_all_bits(wire)


def no_bit(wire: WireVector) -> WireVector:
    """Return whether every bit is clear."""
    return inverted(any_bit(wire))


def widened(wire: WireVector, width: int) -> WireVector:
    """Return the unsigned number at a width, which must not be smaller."""
    return wire if len(wire) == width else wire.zero_extended(width)


def signed_widened(wire: WireVector, width: int) -> WireVector:
    """Return the two's complement number at a width, which must not be smaller."""
    return wire if len(wire) == width else wire.sign_extended(width)


def low(wire: WireVector, width: int) -> WireVector:
    """Return the lowest `width` bits."""
    return wire if len(wire) == width else wire[:width]


def gated(wire: WireVector, enable: WireVector) -> WireVector:
    """Return the wire where `enable` is 1, else 0."""
    return wire & (enable if len(wire) == 1 else enable.sign_extended(len(wire)))


def with_sign(magnitude: WireVector, negative: WireVector) -> WireVector:
    """Return a magnitude as a two's complement number one bit wider, negated where `negative` is 1."""
    width = len(magnitude) + 1
    spread = negative.sign_extended(width)
    return low((widened(magnitude, width) ^ spread) + widened(negative, width), width)


def magnitude_of(number: WireVector) -> tuple[WireVector, WireVector]:
    """Return the sign and the magnitude, equally wide, of a two's complement number."""
    sign = number[-1]
    width = len(number)
    return sign, low((number ^ sign.sign_extended(width)) + widened(sign, width), width)


def table(index: WireVector, values: Sequence[int], width: int) -> WireVector:
    """Return `values[index]`, a constant table as multiplexers that share equal parts.

    Raises:
        MacloomError: the table does not have an entry for every index.
    """
    if len(values) != 1 << len(index):
        raise MacloomError(f"table: must have {1 << len(index)} entries, not {len(values)}")
    mask = (1 << width) - 1
    memory: dict[tuple[int, ...], WireVector] = {}

    def build(part: tuple[int, ...], level: int) -> WireVector:
        if part not in memory:
            if len(set(part)) == 1:
                memory[part] = constant(part[0], 1)
            else:
                half = len(part) // 2
                below, above = build(part[:half], level - 1), build(part[half:], level - 1)
                memory[part] = pyrtl.select(index[level - 1], above, below)
        return memory[part]

    bits = [build(tuple((v & mask) >> b & 1 for v in values), len(index)) for b in range(width)]
    return pyrtl.concat(*reversed(bits))


def leading_zeros(wire: WireVector) -> WireVector:
    """Return the number of zeros above the highest one; all bits for zero."""
    width = len(wire)
    count_bits = width.bit_length()
    count = constant(width, count_bits)
    for position in range(width):
        count = pyrtl.select(wire[position], constant(width - 1 - position, count_bits), count)
    return count


def normalised(wire: WireVector) -> tuple[WireVector, WireVector]:
    """Return the unsigned number shifted left until its highest bit is 1, equally wide, and by how much.

    The amount means nothing for zero, which stays zero.
    """
    width, amount = len(wire), []
    for k in reversed(range(max((width - 1).bit_length(), 1))):
        step = 1 << k
        if step >= width:
            continue
        clear = no_bit(wire[width - step :])
        wire = pyrtl.select(clear, pyrtl.concat(wire[: width - step], constant(0, step)), wire)
        amount.append(clear)
    return wire, pyrtl.concat(*amount) if amount else constant(0, 1)


def shifted_left(wire: WireVector, amount: WireVector, width: int) -> WireVector:
    """Return the unsigned number shifted left, cut to `width` bits."""
    result = widened(wire, width) if len(wire) <= width else low(wire, width)
    for k in range(len(amount)):
        step = 1 << k
        moved = pyrtl.concat(low(result, width - step), constant(0, step)) if step < width else constant(0, width)
        result = pyrtl.select(amount[k], moved, result)
    return result


def shifted_right_sticky(wire: WireVector, amount: WireVector) -> tuple[WireVector, WireVector]:
    """Return the unsigned number shifted right, equally wide, and whether a one was shifted out."""
    result, lost = wire, constant(0, 1)
    width = len(wire)
    for k in range(len(amount)):
        step = 1 << k
        if step < width:
            moved, out = result[step:].zero_extended(width), any_bit(low(result, step))
        else:
            moved, out = constant(0, width), any_bit(result)
        lost = lost | (amount[k] & out)
        result = pyrtl.select(amount[k], moved, result)
    return result, lost


def shifted_right_signed(number: WireVector, amount: WireVector) -> tuple[WireVector, WireVector]:
    """Return the two's complement number shifted right, equally wide, and whether a one was shifted out."""
    result, lost = number, constant(0, 1)
    width = len(number)
    for k in range(len(amount)):
        step = min(1 << k, width - 1)
        lost = lost | (amount[k] & any_bit(low(result, step)))
        result = pyrtl.select(amount[k], result[step:].sign_extended(width), result)
    return result, lost


def clock(register: pyrtl.Register, wire: WireVector) -> None:
    """Let a register take the value of a wire at the end of every cycle."""
    register.next <<= wire  # pyright: ignore[reportAttributeAccessIssue]


def held(wire: WireVector, name: str) -> pyrtl.Register:
    """Return the wire one cycle later, in a register of this name."""
    register = pyrtl.Register(len(wire), name)
    clock(register, wire)
    return register


def largest(numbers: Sequence[WireVector]) -> WireVector:
    """Return the largest of equally wide unsigned numbers, by a tree of comparators."""
    level = list(numbers)
    while len(level) > 1:
        pairs = [pyrtl.select(level[i] < level[i + 1], level[i + 1], level[i]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0]


def total(numbers: Sequence[WireVector], width: int) -> WireVector:
    """Return the sum of equally wide two's complement numbers modulo 2**width, by a tree of adders."""

    def add(a: WireVector, b: WireVector) -> WireVector:
        return low(a + b, width)

    level = [signed_widened(n, width) if len(n) < width else low(n, width) for n in numbers]
    while len(level) > 1:
        sums = [add(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = sums + level[len(level) - len(level) % 2 :]
    return reduce(add, level)
