"""The DRAM burst by burst: banks that activate rows, and a bus that one burst at a time occupies, per channel."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

from macloom.sim.memory import Channel


def piece_cycles(channel: Channel, bits: Sequence[int]) -> list[int]:
    """Return the whole cycles of each piece of a transfer, stepped burst by burst in exact time.

    Slow and readable; `Channel.pieces` equals it. Each piece starts when the one before has left every
    channel. A row is activated as soon as its bank is free; the bus takes bursts in order.
    """
    dram = channel.dram
    clock = Fraction(channel.clock_hz)
    burst_time = Fraction(dram.burst_bits * dram.channels) / Fraction(dram.bandwidth_bits_per_s) * clock
    activate, latency = Fraction(dram.activate_s) * clock, Fraction(dram.latency_s) * clock
    stretch = 1 / (1 - Fraction(dram.refresh_share))
    per_row = dram.page_bits // dram.burst_bits if dram.page_bits else None
    time, found, before = Fraction(0), [], 0
    for piece in bits:
        if piece and not time:
            time = latency
        bursts = -(-piece // dram.burst_bits)
        ends = [time]
        for first in range(min(dram.channels, bursts)):
            ends.append(
                _one_channel(len(range(first, bursts, dram.channels)), per_row, dram.banks, burst_time, activate, time)
            )
        time = max(ends)
        upto = ceil(time * stretch * (1 - Fraction(1, 10**12)))
        found.append(upto - before)
        before = upto
    return found


def _one_channel(
    bursts: int, per_row: int | None, banks: int, burst_time: Fraction, activate: Fraction, start: Fraction
) -> Fraction:
    """Return when the last of so many bursts has passed the bus of one channel."""
    free = [start] * banks  # when a bank may activate its next row
    bus = opened = start
    for burst in range(bursts):
        if per_row is not None and burst % per_row == 0:
            opened = free[burst // per_row % banks] + activate
        bus = max(bus, opened) + burst_time
        if per_row is not None:
            free[burst // per_row % banks] = bus
    return bus
