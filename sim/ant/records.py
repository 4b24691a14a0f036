"""What the released ANT simulator is told: a layer, a design, and a tiling.

All constants are those of the code, clevercool/ANT-Quantization@bc84067, `ant_simulator`. They are kept to
compare with its published results, not because they are right: designs share one power per element
(that of BitFusion's 8 x 2-bit unit at 45 nm, relabelled), and DRAM takes 0.6 to 0.8 pJ per bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from macloom.arch.array import Dataflow
from macloom.errors import MacloomError, require_positive_integer, unknown

LOOPS = ("B", "OW", "OH", "IC", "OC")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution, or with `kernel` and `output` of 1 a fully connected layer of `batch` rows.

    `output` is the side of the square output. A batch here is the simulator's: 64 images, or 64 times the tokens.
    """

    kernel: int
    output: int
    in_channels: int
    out_channels: int
    batch: int
    act_bits: int
    weight_bits: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require_positive_integer(f"layer.{name}", value)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, without the padding of tiles."""
        return self.batch * self.output**2 * self.kernel**2 * self.in_channels * self.out_channels


@dataclass(frozen=True, kw_only=True)
class Design:
    """An array of `rows` x `cols` elements of `widest_bits`, which split for operands down to `narrowest_bits`.

    Buffers are in bytes; half of each is usable. Leakage and dynamic power are those of one element.
    """

    name: str
    rows: int
    cols: int
    widest_bits: int
    narrowest_bits: int
    dataflow: Dataflow = Dataflow.OS
    leakage_nw: int = 64314
    dynamic_nw: int = 279960
    dram_bits_per_cycle: int = 1024
    weight_bytes: int = 131072
    act_bytes: int = 262144
    out_bytes: int = 131072

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("name", "dataflow"):
                require_positive_integer(f"design.{name}", value)
        if self.dataflow not in (Dataflow.OS, Dataflow.WS):
            raise unknown("design.dataflow", self.dataflow, ["os", "ws"])
        object.__setattr__(self, "dataflow", Dataflow(self.dataflow))

    def split(self, bits: int) -> int:
        """Return how many operands of this width one side of an element takes."""
        return int(self.widest_bits / max(bits, self.narrowest_bits))


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tile sizes, and the five loops over tiles, outermost first; both sides of the output are tiled alike."""

    batch: int
    output: int
    in_channels: int
    out_channels: int
    order: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "order":
                require_positive_integer(f"tiling.{name}", value)
        if sorted(self.order) != sorted(LOOPS):
            raise MacloomError(f"tiling.order: must hold each of {', '.join(LOOPS)} once, not {', '.join(self.order)}")


def _eight_to_four(name: str, rows: int, cols: int, dataflow: Dataflow = Dataflow.OS) -> Design:
    return Design(name=name, rows=rows, cols=cols, widest_bits=8, narrowest_bits=4, dataflow=dataflow)


DESIGNS = {
    design.name: design
    for design in (
        _eight_to_four("ANT-OS", 32, 32),
        _eight_to_four("ANT-WS", 32, 32, Dataflow.WS),
        _eight_to_four("BitFusion", 32, 32),
        _eight_to_four("OLAccel", 16, 18),
        _eight_to_four("AdaFloat", 32, 28),
        Design(name="BiScaled", rows=32, cols=80, widest_bits=6, narrowest_bits=6, leakage_nw=28458, dynamic_nw=123882),
    )
}
