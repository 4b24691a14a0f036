"""The DRAM channel: how many cycles a transfer takes, from bursts, rows, banks, latency and refresh.

A transfer is a chain of pieces, one per tensor, each contiguous and starting on a row of its own (tensors are
stored tile by tile). Its bursts go to the channels in turn, so the channels work alike and the
one with most bursts decides. In a channel the first row of a piece is activated before its data; further
rows lie in further banks, which activate beside the data of others, so that with B banks only every
B-th row can expose a wait: activate - (B - 1) * row time, where that is positive. Refresh closes
the channel for a fixed share of the time in which it works. Turning from reads to writes, the limits on activations
per time (tRRD, tFAW) and reordering are not modelled; `macloom.sim.cycle.memory` is the machine that this equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from macloom.arch import Accelerator, Dram
from macloom.sim.systolic import Count, ceil_div

ROUNDING = 1e-12  # relative; keeps a whole number of cycles whole after floating-point division


@dataclass(frozen=True, kw_only=True)
class Channel:
    """The DRAM of a machine, in clock cycles of that machine."""

    dram: Dram
    clock_hz: float

    @property
    def bits_per_cycle(self) -> float:
        """Peak of all channels together."""
        return self.dram.bandwidth_bits_per_s / self.clock_hz

    def pieces(self, bits: Sequence[Count]) -> list[np.ndarray]:
        """Return the whole cycles of each piece of a transfer; their sum is that of the transfer.

        >>> slow = Channel(dram=Dram(kind="hbm2", bandwidth_bits_per_s=64e9), clock_hz=1e9)
        >>> [int(cycles) for cycles in slow.pieces([100, 100])]
        [2, 2]
        """
        dram, rate = self.dram, self.bits_per_cycle
        stretch = 1.0 / (1.0 - dram.refresh_share)
        moved, waits, before = np.zeros(()), np.zeros(()), np.zeros((), np.int64)
        found: list[np.ndarray] = []
        for piece in bits:
            moved = moved + self._bus_bits(piece)
            waits = waits + self._waits(np.asarray(piece))
            latency = np.where(moved > 0, dram.latency_s * self.clock_hz, 0.0)
            time = (moved / rate + waits + latency) * stretch
            upto = np.ceil(time * (1 - ROUNDING)).astype(np.int64)
            found.append(upto - before)
            before = upto
        return found

    def cycles(self, *bits: Count) -> np.ndarray:
        """Return the whole cycles of a transfer of these pieces."""
        return np.sum(np.broadcast_arrays(*self.pieces(bits)), axis=0)

    def _bus_bits(self, bits: Count) -> Count:
        """Return the bits for which the bus is busy: whole bursts, as many as the busiest channel has, in each."""
        dram = self.dram
        step = dram.burst_bits * dram.channels
        return np.asarray(ceil_div(np.asarray(bits), step), np.int64) * step

    def _waits(self, bits: np.ndarray) -> np.ndarray:
        dram = self.dram
        if dram.page_bits is None:
            return np.zeros(bits.shape)
        rows = ceil_div(self._bus_bits(bits) // dram.channels, dram.page_bits)
        activate = dram.activate_s * self.clock_hz
        row_time = dram.page_bits * dram.channels / self.bits_per_cycle
        exposed = max(0.0, activate - (dram.banks - 1) * row_time)
        return np.where(rows > 0, activate + (np.maximum(rows, 1) - 1) // dram.banks * exposed, 0.0)

    def row_misses(self, bits: Count) -> Count:
        """Return the rows that all channels activate for a piece; its other bursts are hits."""
        dram = self.dram
        if dram.page_bits is None:
            return np.zeros_like(np.asarray(bits))
        bursts = ceil_div(np.asarray(bits), dram.burst_bits)
        each, more = bursts // dram.channels, bursts % dram.channels
        per_row = dram.page_bits // dram.burst_bits
        return more * ceil_div(each + 1, per_row) + (dram.channels - more) * ceil_div(each, per_row)

    def bursts(self, bits: Count) -> Count:
        """Return the bursts of a piece over all channels."""
        return ceil_div(np.asarray(bits), self.dram.burst_bits) if self.dram.burst_bits > 1 else 0 * np.asarray(bits)


def channel_of(accelerator: Accelerator) -> Channel:
    """Return the DRAM of an accelerator in its clock cycles."""
    return Channel(dram=accelerator.dram, clock_hz=accelerator.clock_hz)


def transfer_cycles(bits: np.ndarray | float, bits_per_cycle: float) -> np.ndarray:
    """Return the whole cycles that a transfer of `bits` takes over a channel of pure bandwidth.

    >>> int(transfer_cycles(1025, 512.0))
    3
    """
    return np.ceil(np.asarray(bits) / bits_per_cycle).astype(np.int64)
