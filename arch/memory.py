"""On-chip buffers and the memory behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from macloom.arch._check import require_boolean, require_name, require_positive
from macloom.errors import MacloomError, require_positive_integer


@dataclass(frozen=True, kw_only=True)
class Sram:
    """One on-chip buffer: `size_bits` in all, `bandwidth_bits_per_cycle` through each port of each bank.

    A `double_buffered` buffer computes from one half while the other half is filled or drained. Each of
    `banks` serves `ports` accesses per cycle, and words are spread over the banks without conflicts. DRAM
    transfers have a port of their own where there are two; with one port they have half of the banks of a
    double-buffered memory; a single bank with a single port serves array and transfers in turn.

    >>> Sram(size_bits=2048, bandwidth_bits_per_cycle=64).usable_bits
    1024
    >>> Sram(size_bits=2048, bandwidth_bits_per_cycle=64, banks=4).array_bits_per_cycle
    128
    """

    size_bits: int
    bandwidth_bits_per_cycle: int
    double_buffered: bool = True
    banks: int = 1
    ports: int = 1

    def __post_init__(self) -> None:
        for name in ("size_bits", "bandwidth_bits_per_cycle", "banks", "ports"):
            require_positive_integer(f"arch.buffers.{name}", getattr(self, name))
        require_boolean("arch.buffers.double_buffered", self.double_buffered)

    @property
    def usable_bits(self) -> int:
        """Bits that one tile may occupy: half of a double-buffered memory."""
        return self.size_bits // 2 if self.double_buffered else self.size_bits

    @property
    def shared(self) -> bool:
        """Whether array and DRAM transfers take turns at the same port."""
        return self.ports == 1 and (self.banks == 1 or not self.double_buffered)

    @property
    def port_bits(self) -> int:
        """Bits through all ports of all banks in one cycle."""
        return self.bandwidth_bits_per_cycle * self.banks * self.ports

    @property
    def array_bits_per_cycle(self) -> int:
        """Bits that array and vector unit move in one cycle; transfers as well where the port is shared."""
        if self.ports > 1:
            return self.bandwidth_bits_per_cycle * self.banks * (self.ports - 1)
        return self.bandwidth_bits_per_cycle * (self.banks if self.shared else self.banks // 2)

    @property
    def transfer_bits_per_cycle(self) -> int | None:
        """Bits that DRAM transfers move in one cycle beside the array; None where they share its port."""
        if self.shared:
            return None
        return self.bandwidth_bits_per_cycle * (self.banks if self.ports > 1 else self.banks - self.banks // 2)


@dataclass(frozen=True, kw_only=True)
class Buffers:
    """The buffers of the two operands of a matrix product (`a`: M rows, `b`: N rows) and of its outputs.

    `shared`, where there is one, holds tensors from the operation that makes them to the last that reads
    them, so that they need no DRAM; all of it is usable.
    """

    operand_a: Sram
    operand_b: Sram
    output: Sram
    shared: Sram | None = None

    def __post_init__(self) -> None:
        if self.shared is not None and not isinstance(self.shared, Sram):
            raise MacloomError(f"arch.buffers.shared: must be an Sram or None, not {self.shared!r}")
        for name in ("operand_a", "operand_b", "output"):
            if not isinstance(getattr(self, name), Sram):
                raise MacloomError(f"arch.buffers.{name}: must be an Sram, not {getattr(self, name)!r}")

    @property
    def size_bits(self) -> int:
        """Bits of all buffers together."""
        shared = 0 if self.shared is None else self.shared.size_bits
        return self.operand_a.size_bits + self.operand_b.size_bits + self.output.size_bits + shared

    @property
    def present(self) -> dict[str, Sram]:
        """The buffers that there are, by name."""
        return {name: sram for name, sram in vars(self).items() if sram is not None}


@dataclass(frozen=True, kw_only=True)
class Dram:
    """The off-chip memory: channels that reads and writes share, all working on one transfer together.

    `kind` names the device family; the technology gives its energy per bit. The defaults of the rest make a
    channel of pure bandwidth.

    Attributes:
        bandwidth_bits_per_s: peak of all channels together.
        channels: bursts go to the channels in turn.
        burst_bits: one access; what is smaller takes a whole one.
        page_bits: bits that one activated row of a channel holds; None where rows cost nothing.
        banks: consecutive pages lie in consecutive banks, which activate beside the data of others.
        activate_s: from a request for another row to its first data: precharge and activate (tRP + tRCD).
        latency_s: from the first command of a transfer to its first data, beside that.
        refresh_interval_s, refresh_s: the channel is closed for `refresh_s` out of each interval, spread evenly
            over the time in which it works (controllers may postpone and pull in refreshes).
    """

    kind: str
    bandwidth_bits_per_s: float
    channels: int = 1
    burst_bits: int = 1
    page_bits: int | None = None
    banks: int = 1
    activate_s: float = 0.0
    latency_s: float = 0.0
    refresh_interval_s: float | None = None
    refresh_s: float = 0.0

    def __post_init__(self) -> None:
        path = "arch.dram"
        require_name(f"{path}.kind", self.kind)
        require_positive(f"{path}.bandwidth_bits_per_s", self.bandwidth_bits_per_s)
        for name in ("channels", "burst_bits", "banks"):
            require_positive_integer(f"{path}.{name}", getattr(self, name))
        for name in ("activate_s", "latency_s", "refresh_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise MacloomError(f"{path}.{name}: must be zero or a positive number, not {value!r}")
        if self.page_bits is not None:
            require_positive_integer(f"{path}.page_bits", self.page_bits)
            if self.page_bits % self.burst_bits:
                raise MacloomError(
                    f"{path}.page_bits: must be a multiple of the burst of {self.burst_bits} bits, not {self.page_bits}"
                )
        elif self.activate_s:
            raise MacloomError(f"{path}.activate_s: must be 0 without page_bits, not {self.activate_s!r}")
        if self.refresh_interval_s is not None:
            require_positive(f"{path}.refresh_interval_s", self.refresh_interval_s)
        if self.refresh_s and (self.refresh_interval_s is None or self.refresh_s >= self.refresh_interval_s):
            raise MacloomError(
                f"{path}.refresh_s: must be shorter than refresh_interval_s, {self.refresh_interval_s!r}, "
                f"not {self.refresh_s!r}"
            )

    @property
    def refresh_share(self) -> float:
        """Fraction of the time in which a channel refreshes.

        >>> Dram(kind="ddr4-3200", bandwidth_bits_per_s=1e9, refresh_interval_s=8e-6, refresh_s=4e-7).refresh_share
        0.05
        """
        return self.refresh_s / self.refresh_interval_s if self.refresh_interval_s else 0.0

    @property
    def streaming_bits_per_s(self) -> float:
        """Bandwidth that long transfers reach: the peak less refresh and rows that banks cannot hide."""
        share = 1.0 - self.refresh_share
        if self.page_bits is None:
            return self.bandwidth_bits_per_s * share
        page_s = self.page_bits * self.channels / self.bandwidth_bits_per_s
        wait_s = max(0.0, self.activate_s - (self.banks - 1) * page_s) / self.banks
        return self.bandwidth_bits_per_s * share * page_s / (page_s + wait_s)
