"""The array cycle by cycle: every register of every processing element, with values flowing through it.

`run` multiplies two encoded operands on a machine that knows no closed form: operands enter at the
borders, move one element per cycle, and the cycle in which the last result leaves is observed. Its
values equal `macloom.gemm`, its cycles `macloom.sim.systolic.product_cycles`.

`os_kernel` and `ws_kernel` hold the machines, compiled; `reference` the same machines in plain Python, slow and
readable, for any accumulator that has a step form; `memory` a machine of DRAM channel, buffers and units.
"""

from macloom.sim.cycle.product import CycleRun, run

__all__ = ["CycleRun", "run"]
