"""The released ANT simulator's search: tile sizes of powers of two, all 120 loop orders, the fewest cycles."""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations

import numpy as np

from macloom.errors import MacloomError
from macloom.sim.ant.cost import Sizes, costs, fills, usable_bits
from macloom.sim.ant.records import LOOPS, Design, Layer, Tiling

# nJ per bit of DRAM in the energy that breaks ties; the one that is reported has others.
TIE_READ_NJ, TIE_WRITE_NJ = 1.18294 / 1024, 1.47797 / 1024


@lru_cache(maxsize=1024)
def best_tiling(layer: Layer, design: Design) -> Tiling:
    """Return the tiling that the released simulator finds: the fewest total cycles, of these the least energy.

    That energy has other constants for DRAM than the one that is reported. Where it ties too, the first order wins.

    Raises:
        MacloomError: no tile of weights and activations fits half the buffers.

    >>> from macloom.sim.ant import DESIGNS, Layer, layer_cost
    >>> ffn = Layer(kernel=1, output=1, in_channels=768, out_channels=3072, batch=8192, act_bits=4, weight_bits=4)
    >>> layer_cost(ffn, DESIGNS["ANT-OS"], best_tiling(ffn, DESIGNS["ANT-OS"])).total_cycles
    4718656
    """
    sides = [_powers(size) for size in (layer.batch, layer.output, layer.in_channels, layer.out_channels)]
    tile = Sizes(*(axis.ravel() for axis in np.meshgrid(*sides, indexing="ij")))
    need, room = fills(layer, design, tile), usable_bits(design)
    fits = (need["wgt"] <= room["wgt"]) & (need["act"] <= room["act"])
    if not fits.any():
        raise MacloomError(f"design {design.name!r}: must have buffers that hold a tile of one output; enlarge them")
    tile = Sizes(*(size[fits] for size in tile))
    best, chosen = (np.inf, np.inf), None
    for order in permutations(LOOPS):
        found = costs(layer, design, tile, order)
        dram = found.dram_reads_bits * TIE_READ_NJ + found.dram_writes_bits * TIE_WRITE_NJ
        energy = found.buffer_nj + found.core_nj + dram
        place = np.lexsort([energy, found.total_cycles])[0]
        key = (found.total_cycles[place], energy[place])
        if key < best:
            best, chosen = key, (order, place)
    assert chosen is not None  # there is a tile, and 120 orders
    order, place = chosen
    batch, output, in_channels, out_channels = (int(size[place]) for size in tile)
    return Tiling(batch=batch, output=output, in_channels=in_channels, out_channels=out_channels, order=order)


def _powers(size: int) -> np.ndarray:
    """Return the powers of two below `size`, and `size`."""
    return np.array([1 << i for i in range((size - 1).bit_length())] + [size])
