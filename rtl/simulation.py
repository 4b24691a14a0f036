"""Running a circuit on many input vectors at once.

Small circuits run in PyRTL's FastSimulation, large ones compiled, through the raw buffers of the
compiled simulation: its `run()` returns wrong traces in the pinned version (every traced cycle repeats
the first), which a guard test watches.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pyrtl

from macloom.errors import MacloomError
from macloom.rtl.unit import WORD, Port, Unit, Values, elaborate

WIDEST_EXHAUSTIVE = 16
# Vectors times nets above which compiling the simulation pays.
COMPILED_FROM = 2_000_000


class CompiledCircuit:
    """A block compiled to C, run on whole arrays of inputs; registers keep their state between calls."""

    def __init__(self, block: pyrtl.Block) -> None:
        with pyrtl.set_working_block(block, no_sanity_check=True):
            self._simulation: Any = pyrtl.CompiledSimulation(tracer=pyrtl.SimulationTrace(block=block), block=block)
        run = self._simulation._sim_run_all
        run.argtypes = [ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p]
        self._inputs = self._simulation._inputs_metadata
        self._outputs = self._simulation._outputs_metadata
        ports = (wire.name for wire in block.wirevector_subset((pyrtl.Output,)))
        self._wide = [name for name in ports if self._outputs[name].length > 1]

    def run(self, inputs: Values) -> dict[str, np.ndarray]:
        """Return the bits of every output and register of up to 64 bits for each step, and of wider outputs.

        Bits are uint64, and Python integers for ports of more than 64.
        """
        steps = len(next(iter(inputs.values())))
        into: Any = np.zeros((steps, self._simulation._inputs_array_length), np.uint64)
        out = np.zeros((steps, self._simulation._outputs_array_length), np.uint64)
        bits: Any
        for name, bits in inputs.items():
            place = self._inputs[name]
            for word in range(place.length):
                part = bits if place.length == 1 else bits >> (WORD * word) & ((1 << WORD) - 1)
                np.copyto(into[:, place.start + word], part, casting="unsafe")
        self._simulation._sim_run_all(steps, into.ctypes.data, out.ctypes.data)
        made: dict[str, np.ndarray] = {
            name: out[:, place.start] for name, place in self._outputs.items() if place.length == 1
        }
        for name in self._wide:
            place = self._outputs[name]
            words = (out[:, place.start + word].astype(object) << (WORD * word) for word in range(place.length))
            made[name] = sum(words, np.zeros(steps, object))
        return made


def run_block(block: pyrtl.Block, inputs: Values) -> dict[str, np.ndarray]:
    """Return the bits of every output for each step; `inputs` are bits (`Port.bits_of`) by port name."""
    steps = len(next(iter(inputs.values())))
    if steps * len(block.logic) >= COMPILED_FROM:
        return CompiledCircuit(block).run(inputs)
    widths = {wire.name: len(wire) for wire in block.wirevector_subset((pyrtl.Output,))}
    names = list(widths)
    with pyrtl.set_working_block(block, no_sanity_check=True):
        simulation = pyrtl.FastSimulation(tracer=None, block=block)  # pyright: ignore[reportArgumentType]
        out = {name: np.empty(steps, np.uint64 if widths[name] <= WORD else object) for name in names}
        columns = {name: bits.tolist() for name, bits in inputs.items()}
        for step in range(steps):
            simulation.step({name: column[step] for name, column in columns.items()})
            for name in names:
                out[name][step] = simulation.inspect(name)
    return out


def run_unit(unit: Unit, inputs: Values, block: pyrtl.Block | None = None) -> dict[str, np.ndarray]:
    """Return the integers on every output port for integers on the input ports."""
    bits = {port.name: port.bits_of(inputs[port.name]) for port in unit.inputs}
    out = run_block(block or elaborate(unit), bits)
    return {port.name: port.values_of(out[port.name]) for port in unit.outputs}


def all_inputs(unit: Unit) -> dict[str, np.ndarray]:
    """Return every combination of the input ports' values.

    Raises:
        MacloomError: there are too many.
    """
    if unit.input_bits > WIDEST_EXHAUSTIVE:
        raise MacloomError(
            f"unit {unit.module}: has {unit.input_bits} input bits; all inputs are listed up to {WIDEST_EXHAUSTIVE}"
        )
    rest = np.arange(1 << unit.input_bits, dtype=np.uint64)
    inputs = {}
    for port in reversed(unit.inputs):
        inputs[port.name] = port.values_of(rest & np.uint64((1 << port.width) - 1))
        rest = rest >> np.uint64(port.width)
    return inputs


def some_inputs(unit: Unit, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the unit's own stimuli; else every input if they are few, or corners and random vectors.

    Corners are extremes, single bits and runs of ones.
    """
    if unit.stimuli is not None:
        return dict(unit.stimuli(count, seed))
    if unit.input_bits <= WIDEST_EXHAUSTIVE:
        return all_inputs(unit)
    rng = np.random.default_rng(seed)
    inputs = {}
    for port in unit.inputs:
        ones = (1 << port.width) - 1
        corners = sorted({0, ones, *(1 << k for k in range(port.width)), *(ones >> k for k in range(port.width))})
        share = rng.random(count) < 0.25
        random = _random_bits(port, count, rng)
        bits = np.where(share, rng.choice(np.array(corners, random.dtype), count), random)
        inputs[port.name] = port.values_of(bits)
    return inputs


def _random_bits(port: Port, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return random patterns of a port."""
    if port.width <= WORD:
        return rng.integers(0, (1 << port.width) - 1, count, dtype=np.uint64, endpoint=True)
    words = rng.integers(0, 1 << 32, (-(-port.width // 32), count)).astype(object)
    total = sum(word << 32 * k for k, word in enumerate(words))
    return np.asarray(total, object) & ((1 << port.width) - 1)


def mismatches(unit: Unit, inputs: Values, outputs: Values) -> np.ndarray:
    """Return the indices of the inputs on which `outputs` are not what the unit's model says."""
    expected = unit.model(inputs)
    cares = unit.cares(inputs) if unit.cares else {}
    wrong = np.zeros(len(next(iter(inputs.values()))), bool)
    for name, values in expected.items():
        wrong |= (outputs[name] != values) & cares.get(name, True)
    return np.flatnonzero(wrong)


def check_exhaustively(unit: Unit, block: pyrtl.Block | None = None, count: int = 20_000) -> tuple[int, np.ndarray]:
    """Return how many inputs were tried and the indices of those on which circuit and model differ.

    All inputs are tried where they have at most 16 bits, else `count` corners and random ones.
    """
    inputs = some_inputs(unit, count)
    outputs = run_unit(unit, inputs, block)
    return len(next(iter(inputs.values()))), mismatches(unit, inputs, outputs)
