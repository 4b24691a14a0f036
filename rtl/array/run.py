"""Whole matrix products on an array in RTL: operands in, sums and cycles out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from macloom.arch import Dataflow
from macloom.errors import MacloomError
from macloom.formats.tensor import Encoded, TensorFormat
from macloom.rtl.array import output_stationary, weight_stationary
from macloom.rtl.array.design import COUNT_BITS, ArrayDesign
from macloom.rtl.simulation import CompiledCircuit
from macloom.rtl.unit import Unit, elaborate

DATAFLOWS = {Dataflow.OS: output_stationary, Dataflow.WS: weight_stationary}


def array_unit(design: ArrayDesign) -> Unit:
    """Return the array of a design, with its decoders and controller.

    >>> from macloom.formats import get_format
    >>> int4 = get_format("int4")
    >>> array_unit(ArrayDesign(a=int4, b=int4, rows=2, cols=2)).module
    'int4_os_array_2x2'
    """
    unit = DATAFLOWS[design.dataflow].array(design)
    return replace(unit, stimuli=lambda count, seed: _random_products(design, unit, count, seed))


def _random_products(design: ArrayDesign, unit: Unit, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return the inputs of about `count` cycles in which the array multiplies random matrices of two folds each way."""
    rng = np.random.default_rng(seed)
    flow = DATAFLOWS[design.dataflow]
    parts: list[dict[str, np.ndarray]] = []
    cycles = 0
    while cycles < count:
        m, n, k = (int(rng.integers(1, 2 * size + 1)) for size in (design.rows, design.cols, design.rows))
        job = flow.Job(design, *(_random_matrix(f, (lines, k), rng) for f, lines in ((design.a, m), (design.b, n))))
        length = job.depth + flow.overhead(design)
        sizes = {"depth": job.depth, "row_folds": job.row_folds, "col_folds": job.col_folds}
        parts.append({name: np.array([value]) for name, value in ({"start": 1} | sizes).items()})
        parts += [job.inputs(row, col, length) for row in range(job.row_folds) for col in range(job.col_folds)]
        parts.append({"start": np.array([0])})
        cycles += sum(len(next(iter(part.values()))) for part in parts[-2 - job.row_folds * job.col_folds :])

    def column(name: str) -> np.ndarray:
        zeros = [np.zeros(len(next(iter(part.values()))), np.int64) for part in parts]
        return np.concatenate([part.get(name, zero) for part, zero in zip(parts, zeros, strict=True)])

    return {port.name: column(port.name) for port in unit.inputs}


def _random_matrix(fmt: TensorFormat, shape: tuple[int, int], rng: np.random.Generator) -> Encoded:
    """Return an encoded matrix of normal values, some of them ten times as large."""
    x = rng.standard_normal(shape) * np.where(rng.random(shape) < 0.05, 10.0, 1.0)
    return fmt.encode(x.astype(np.float32))


@dataclass(frozen=True)
class ArrayRun:
    """What an array gave for a product.

    Attributes:
        sums: int64 (M, N), the registers' final values, in units of 2**unit_exponent.
        cycles: cycles for which the array was busy.
        codes: int64 (M, N), what the output encoders made of the sums; None without any.
    """

    sums: np.ndarray
    cycles: int
    codes: np.ndarray | None = None


@dataclass(frozen=True)
class ArraySimulation:
    """A compiled array that runs products of any size.

    The simulation puts operands on the ports at the cycles at which the array must read them, as told by
    the sizes alone, looks at results only while they must be there, and compares what the controller says.
    """

    design: ArrayDesign

    @cached_property
    def unit(self) -> Unit:
        return array_unit(self.design)

    @cached_property
    def circuit(self) -> CompiledCircuit:
        return CompiledCircuit(elaborate(self.unit))

    def run(self, a: Encoded, b: Encoded) -> ArrayRun:
        """Return the product of encoded matrices (M, K) and (N, K), without scales.

        Raises:
            MacloomError: the formats are not those of the design, sizes are beyond its counters, or the
                array is not busy when it must be.
        """
        design = self.design
        if (a.format, b.format) != (design.a, design.b):
            raise MacloomError(
                f"rtl array: is for {design.a.name} and {design.b.name}, not {a.format.name} and {b.format.name}"
            )
        flow = DATAFLOWS[design.dataflow]
        job = flow.Job(design, a, b)
        if max(job.depth, job.row_folds, job.col_folds) >> COUNT_BITS:
            raise MacloomError(f"rtl array: counts to {(1 << COUNT_BITS) - 1}, too few for {a.shape} times {b.shape}")
        self._step({"start": [1], "depth": [job.depth], "row_folds": [job.row_folds], "col_folds": [job.col_folds]})
        length, busy = job.depth + flow.overhead(design), 0
        for row in range(job.row_folds):
            for col in range(job.col_folds):
                out = self._step(job.inputs(row, col, length))
                where = {"row_fold": row, "col_fold": col, "cycle": np.arange(length)}
                wrong = [name for name, expected in where.items() if (out[name] != expected).any()]
                if wrong or not out["busy"].all():
                    raise MacloomError(f"rtl array: {wrong or 'busy'} differ from the schedule in fold {row}, {col}")
                busy += int(out["busy"].sum())
                job.collect(row, col, out)
        last = self._step({"start": [0]})
        if last["busy"][0] or not last["done"][0]:
            raise MacloomError("rtl array: is not done when it must be")
        return ArrayRun(job.sums, busy, None if design.epilogue is None else job.encoded)

    def _step(self, inputs: dict) -> dict[str, np.ndarray]:
        """Run as many cycles as the inputs have; ports that are not named get 0."""
        steps = len(next(iter(inputs.values())))
        zeros = np.zeros(steps, np.int64)
        bits = {p.name: p.bits_of(np.asarray(inputs.get(p.name, zeros))) for p in self.unit.inputs}
        out = self.circuit.run(bits)
        return {p.name: p.values_of(out[p.name]) for p in self.unit.outputs}
