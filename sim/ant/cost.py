"""Cycles, traffic and energy of a tiled layer, as the released ANT simulator counts them.

Sizes of a tiling may be arrays, so that a search prices thousands at once. Its artefacts are kept: sums of 16
bits are written to DRAM and never read back, no pipeline fills or drains, and the time to store the last
outputs counts only if they never grew into a larger piece on chip.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from macloom.arch.array import Dataflow
from macloom.errors import MacloomError, unknown
from macloom.sim.ant.records import Design, Layer, Tiling
from macloom.sim.systolic import Count, ceil_div

SUM_BITS = 16
# nJ per cycle: 484.615 mW of static DRAM power at 500 MHz, and nJ per bit read and written.
STATIC_NJ, DRAM_READ_NJ, DRAM_WRITE_NJ = 484.615 / 500, 0.644304 / 1024, 0.784104 / 1024
# nJ per bit, from CACTI at 28 nm: banks of 512 bits per access for weights and activations, of 32 for outputs.
WEIGHT_READ_NJ, WEIGHT_WRITE_NJ = 0.0168924 / 512, 0.0203422 / 512
ACT_READ_NJ, ACT_WRITE_NJ = 0.0177688 / 512, 0.0248866 / 512
OUT_READ_NJ, OUT_WRITE_NJ = 0.000294945 / 32, 0.000415925 / 32
NW_TO_NJ_PER_CYCLE = 5e8

DEPENDS = {"act": {"B", "OW", "OH", "IC"}, "wgt": {"IC", "OC"}, "out": {"B", "OW", "OH", "OC"}}


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What a layer costs, under the names of the simulator's table: cycles, bits and nanojoules."""

    compute_cycles: Count
    mem_stall_cycles: Count
    total_cycles: Count
    act_reads_bits: Count
    act_writes_bits: Count
    wgt_reads_bits: Count
    wgt_writes_bits: Count
    out_reads_bits: Count
    out_writes_bits: Count
    dram_reads_bits: Count
    dram_writes_bits: Count
    static_nj: Count
    dram_nj: Count
    buffer_nj: Count
    core_nj: Count

    @property
    def total_nj(self) -> Count:
        """Energy of all parts."""
        return self.static_nj + self.dram_nj + self.buffer_nj + self.core_nj


class Sizes(NamedTuple):
    """Tile sizes, numbers or arrays."""

    batch: Any
    output: Any
    in_channels: Any
    out_channels: Any


def fills(layer: Layer, design: Design, tile: Sizes) -> dict[str, Count]:
    """Return the bits that one tile takes in each buffer, padded to the elements that they feed."""
    window = layer.kernel**2 * tile.in_channels
    down = design.rows * design.split(layer.weight_bits)
    across = design.cols * design.split(layer.act_bits)
    return {
        "wgt": ceil_div(window, down) * down * tile.out_channels * layer.weight_bits,
        "act": tile.output**2 * ceil_div(window, across) * across * tile.batch * layer.act_bits,
        "out": tile.output**2 * tile.out_channels * tile.batch * SUM_BITS,
    }


def usable_bits(design: Design) -> dict[str, int]:
    """Return half of each buffer, in bits."""
    return {"wgt": design.weight_bytes * 4, "act": design.act_bytes * 4, "out": design.out_bytes * 4}


def layer_cost(layer: Layer, design: Design, tiling: Tiling) -> LayerCost:
    """Return what one layer costs with a given tiling, which `best_tiling` finds as the simulator does.

    Raises:
        MacloomError: a tile of weights or activations does not fit half its buffer, or is larger than the layer.

    >>> from macloom.sim.ant import DESIGNS, Layer, Tiling
    >>> ffn = Layer(kernel=1, output=1, in_channels=768, out_channels=3072, batch=8192, act_bits=4, weight_bits=4)
    >>> tiling = Tiling(batch=64, output=1, in_channels=64, out_channels=1024, order=("OW", "OH", "IC", "B", "OC"))
    >>> layer_cost(ffn, DESIGNS["ANT-OS"], tiling).compute_cycles
    4718592
    """
    for name in Sizes._fields:
        if getattr(tiling, name) > getattr(layer, name):
            raise MacloomError(f"tiling.{name}: must not exceed the layer's {getattr(layer, name)}")
    tile = Sizes(*(getattr(tiling, name) for name in Sizes._fields))
    for buffer, need in fills(layer, design, tile).items():
        if buffer != "out" and need > usable_bits(design)[buffer]:
            room = usable_bits(design)[buffer]
            raise MacloomError(f"tiling: its tile needs {need} bits of the {buffer} buffer, whose half holds {room}")
    cost = costs(layer, design, tile, tiling.order)
    return LayerCost(**{field.name: getattr(cost, field.name).item() for field in fields(LayerCost)})


def costs(layer: Layer, design: Design, tile: Sizes, order: tuple[str, ...]) -> LayerCost:
    """Return the costs of tilings of one loop order as arrays."""
    tile = Sizes(*(np.asarray(size, np.int64) for size in tile))
    steps = {
        "B": ceil_div(layer.batch, tile.batch),
        "OW": ceil_div(layer.output, tile.output),
        "OH": ceil_div(layer.output, tile.output),
        "IC": ceil_div(layer.in_channels, tile.in_channels),
        "OC": ceil_div(layer.out_channels, tile.out_channels),
    }
    tiles = steps["B"] * steps["OW"] * steps["OH"] * steps["IC"] * steps["OC"]
    moved, kept = {}, {}
    for buffer, fill in fills(layer, design, tile).items():
        moved[buffer], kept[buffer] = _promoted(fill, buffer, order, steps, usable_bits(design)[buffer])
    pixels, window = tile.batch * tile.output**2, layer.kernel**2 * tile.in_channels
    macs = tiles * pixels * window * tile.out_channels
    act_split, weight_split = design.split(layer.act_bits), design.split(layer.weight_bits)
    across = ceil_div(tile.out_channels, design.cols * weight_split)
    if design.dataflow is Dataflow.OS:
        compute = tiles * ceil_div(pixels, design.rows * act_split) * across * window
        weight_reads, sums = macs * layer.weight_bits, tiles * pixels * tile.out_channels * SUM_BITS
    elif design.dataflow is Dataflow.WS:
        compute = tiles * pixels * across * ceil_div(window, design.rows * act_split)
        weight_reads, sums = tiles * window * tile.out_channels * layer.weight_bits, macs * SUM_BITS
    else:
        raise unknown("design.dataflow", design.dataflow, ["os", "ws"])
    reads, writes = moved["wgt"] + moved["act"], moved["out"]
    rate = design.dram_bits_per_cycle
    latency = ceil_div(kept["wgt"] + kept["act"], rate) + ceil_div(kept["out"], rate)
    between = reads + writes - kept["wgt"] - kept["act"] - kept["out"]
    stalls = np.maximum(0, ceil_div(between, rate) - compute) + latency
    total = compute + stalls
    act_reads, out_reads = macs * layer.act_bits, sums + writes
    elements = design.rows * design.cols / NW_TO_NJ_PER_CYCLE
    buffer = act_reads * ACT_READ_NJ + moved["act"] * ACT_WRITE_NJ
    buffer = buffer + weight_reads * WEIGHT_READ_NJ + moved["wgt"] * WEIGHT_WRITE_NJ
    return LayerCost(
        compute_cycles=compute,
        mem_stall_cycles=stalls,
        total_cycles=total,
        act_reads_bits=act_reads,
        act_writes_bits=moved["act"],
        wgt_reads_bits=weight_reads,
        wgt_writes_bits=moved["wgt"],
        out_reads_bits=out_reads,
        out_writes_bits=sums,
        dram_reads_bits=reads,
        dram_writes_bits=writes,
        static_nj=total * STATIC_NJ,
        dram_nj=reads * DRAM_READ_NJ + writes * DRAM_WRITE_NJ,
        buffer_nj=buffer + out_reads * OUT_READ_NJ + sums * OUT_WRITE_NJ,
        core_nj=(total * design.leakage_nw + compute * design.dynamic_nw) * elements,
    )


def _promoted(
    fill: Count, buffer: str, order: tuple[str, ...], steps: dict[str, Any], room: int
) -> tuple[Count, Count]:
    """Return the bits that a buffer exchanges with DRAM, and the largest piece that stayed in it.

    From the innermost loop out a piece grows by every loop that it depends on while it fits; then every
    loop moves all of it. Of outputs the largest piece is forgotten as soon as it grows, by one step even (a bug
    of the code, which takes the size of another direction).
    """
    moved, largest = fill, fill
    resident, forgotten = np.ones_like(fill, bool), np.zeros_like(fill, bool)
    for loop in reversed(order):
        depends = loop in DEPENDS[buffer]
        grown = moved * (steps[loop] if depends else 1)
        stays = resident & ((grown <= room) if depends else True)
        forgotten |= stays & depends
        moved = np.where(resident, grown, moved * steps[loop])
        largest = np.where(stays, grown, largest)
        resident = stays
    if buffer == "out":
        largest = np.where(forgotten, 0, largest)
    return moved, largest
