"""The weight-stationary array: rows hold K, columns N; weights shift in, A streams, sums flow down and out.

A fold of R x C weights that T = M vectors stream through takes T + 2 R + C - 2 cycles: R to shift the
weights in, R - 1 and C - 1 of skew. Sums of one fold along K enter from above in the next, so that the
register semantics apply in ascending order of K over all folds.
"""

from __future__ import annotations

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.rtl import wires as w
from macloom.rtl.array.block_scales import BlockTotals
from macloom.rtl.array.controller import CONTROL_INPUTS, CONTROL_OUTPUTS, folds_of, sequencer
from macloom.rtl.array.design import ArrayDesign, delayed
from macloom.rtl.array.output_stationary import channel_inputs, padded, padded_channels, passed
from macloom.rtl.array.output_stationary import overhead as overhead
from macloom.rtl.pe.mac import product_wires
from macloom.rtl.pe.register import accumulate, accumulate_wires
from macloom.rtl.unit import Port, Unit, Values, Wires


def array(design: ArrayDesign) -> Unit:
    """Return the array with its decoders and controller.

    After `start` (with `depth`, `row_folds` along K and `col_folds` along N) the unit is `busy` for whole
    folds. With `load` it takes on `b0`, ... the codes of the weights of row R - 1 - `cycle`; with `read`, on
    `a0`, ... the codes of one vector of A and on `sum_in0`, ... the sums of the fold above. With `sum_valid`
    the ports `sum0`, ... hold the sums of one vector. Rows from `rows_used` on take no part. Arrays of an odd number
    of rows whose operands come in pairs are told with `odd` that a fold begins with the second element of a pair.
    """
    rows, cols, bits = design.rows, design.cols, design.accumulator.bits
    lane_a, lane_b = design.lane(design.a), design.lane(design.b)
    used_bits = rows.bit_length()
    data = (
        Port(name="rows_used", width=used_bits),
        *((Port(name="odd", width=1),) if design.cuts_pairs else ()),
        *(Port(name=f"a{i}", width=lane_a.code_bits) for i in range(rows)),
        *(Port(name=f"b{j}", width=lane_b.code_bits) for j in range(cols)),
        *(Port(name=f"sum_in{j}", width=bits, signed=True) for j in range(cols)),
    )

    def circuit(inputs: Wires) -> Wires:
        control = sequencer(inputs, overhead(design))
        loading = control.within(0, rows)
        reading = control.within(rows, control.after(rows))
        valid = control.within(2 * rows + cols - 2, control.after(2 * rows + cols - 2))
        odd = inputs.get("odd", w.constant(0, 1))
        row_slot = w.constant(rows - 1, 1) ^ control.cycle[0] ^ odd
        above = [lane_b.decoded(inputs[f"b{j}"], row_slot, w.constant(1, 1)) for j in range(cols)]
        totals = [delayed([w.gated(inputs[f"sum_in{j}"], reading)], j, f"skew_sum{j}")[0] for j in range(cols)]
        for i in range(rows):
            takes = reading & (w.constant(i, used_bits) < inputs["rows_used"])
            code, valid_here = delayed([inputs[f"a{i}"], takes], i, f"skew_a{i}")
            from_left = lane_a.decoded(code, w.constant(i & 1, 1) ^ odd, valid_here)
            below, following = [], []
            for j in range(cols):
                weight = tuple(
                    pyrtl.Register(len(wire), f"weight_{part}_{i}_{j}")
                    for part, wire in zip(("e", "s"), above[j], strict=True)
                )
                for register, wire in zip(weight, above[j], strict=True):
                    w.clock(register, pyrtl.select(loading, wire, register))
                total = accumulate_wires(
                    design.accumulator, totals[j], product_wires(design.mac, from_left, (weight[0], weight[1]))
                )
                following.append(total if i == rows - 1 else delayed([total], 1, f"sum_{i}_{j}")[0])
                from_left = passed(from_left, f"a_{i}_{j}")
                below.append((weight[0], weight[1]))
            above, totals = below, following
        sums: dict[str, WireVector] = {
            f"sum{j}": delayed([totals[j]], cols - 1 - j, f"deskew{j}")[0][:] for j in range(cols)
        }
        codes = design.encoded(sums, inputs)
        return {**control.outputs, "load": loading, "read": reading, "sum_valid": valid, **sums, **codes}

    def model(inputs: Values) -> Values:
        folds, made = folds_of(inputs, overhead(design))
        steps = len(inputs["start"])
        load, read, valid = (np.zeros(steps, np.int64) for _ in range(3))
        out = np.zeros((steps, cols), np.int64)
        for fold in folds:
            loads = slice(fold.begin, fold.begin + rows)
            reads = slice(fold.begin + rows, fold.begin + rows + fold.depth)
            first = fold.begin + 2 * rows + cols - 2
            load[loads], read[reads], valid[first : first + fold.depth] = 1, 1, 1
            odd = int(inputs["odd"][fold.begin]) if design.cuts_pairs else 0
            slots = (np.arange(rows) + odd & 1)[:, None]
            weights = np.stack([np.asarray(inputs[f"b{j}"])[loads][::-1] for j in range(cols)], axis=1)
            vectors = np.stack([np.asarray(inputs[f"a{i}"])[reads] for i in range(rows)])
            (ea, ia), (eb, ib) = lane_a.values(vectors, slots), lane_b.values(weights, slots)
            total = np.stack([np.asarray(inputs[f"sum_in{j}"])[reads] for j in range(cols)], axis=1)
            for i in range(rows):
                used = np.asarray(inputs["rows_used"])[reads] > i
                product = (np.where(used, ia[i], 0)[:, None] * ib[i]) << (ea[i][:, None] + eb[i])
                total = accumulate(design.accumulator, total, product)
            out[first : first + fold.depth] = total
        sums = {f"sum{j}": out[:, j] for j in range(cols)}
        codes = design.encoded_values(sums, inputs, valid)
        return {**made, "load": load, "read": read, "sum_valid": valid, **sums, **codes}

    def cares(inputs: Values) -> Values:
        valid = model(inputs)["sum_valid"] == 1
        borders = (port.name for port in design.border_outputs)
        return {name: valid for name in (*(f"sum{j}" for j in range(cols)), *borders)}  # noqa: C420

    return Unit(
        module=design.module,
        inputs=(*CONTROL_INPUTS, *data, *design.border_inputs),
        outputs=(
            *CONTROL_OUTPUTS,
            *(Port(name=name, width=1) for name in ("load", "read", "sum_valid")),
            *(Port(name=f"sum{j}", width=bits, signed=True) for j in range(cols)),
            *design.border_outputs,
        ),
        circuit=circuit,
        model=model,
        cares=cares,
        clocked=True,
        facts=design.facts,
    )


class Job:
    """One product on the array: its folds, the operands of each, and the sums as they pass through."""

    def __init__(self, design: ArrayDesign, a: np.ndarray, b: np.ndarray, totals: BlockTotals | None = None) -> None:
        """Take the lanes' codes of both operands, (M, K) and (N, K)."""
        self.design = design
        (self.depth, self.k), self.n = a.shape, len(b)
        self.row_folds, self.col_folds = -(-self.k // design.rows), -(-self.n // design.cols)
        height, width = self.row_folds * design.rows, self.col_folds * design.cols
        self.a, self.b = padded(a.T, height), padded(padded(b, width).T, height)
        self._sums = np.zeros((self.depth, width), np.int64)
        self._codes = np.zeros_like(self._sums)
        self.totals = None if totals is None else totals.padded(*self._sums.shape)
        self.channels = padded_channels(design, self.n, self.col_folds)

    def inputs(self, row: int, col: int, length: int) -> dict[str, np.ndarray]:
        """Return the codes and sums on the ports during a fold, in the cycles in which they are read; else 0."""
        rows, cols = self.design.rows, self.design.cols
        reads = slice(rows, rows + self.depth)
        made = {"rows_used": np.full(length, min(rows, self.k - row * rows))}
        if self.design.cuts_pairs:
            made["odd"] = np.full(length, row * rows & 1)
        made |= channel_inputs(self.design, self.channels, col, length)
        for i in range(rows):
            made[f"a{i}"] = np.zeros(length, np.int64)
            made[f"a{i}"][reads] = self.a[row * rows + i]
        for j in range(cols):
            made[f"b{j}"], made[f"sum_in{j}"] = np.zeros((2, length), np.int64)
            made[f"b{j}"][:rows] = self.b[row * rows : (row + 1) * rows, col * cols + j][::-1]
            made[f"sum_in{j}"][reads] = self._sums[:, col * cols + j]
        if self.totals is not None:
            made |= self.totals.inputs(np.arange(self.depth), self._columns(col), length - self.depth, length)
        return made

    def _columns(self, col: int) -> np.ndarray:
        return col * self.design.cols + np.arange(self.design.cols)

    def collect(self, row: int, col: int, out: Values) -> None:
        """Keep the sums of a fold."""
        steps = np.flatnonzero(out["sum_valid"])
        for j in range(self.design.cols):
            self._sums[:, col * self.design.cols + j] = out[f"sum{j}"][steps]
            if self.channels:  # the last fold along K has the codes of whole sums
                self._codes[:, col * self.design.cols + j] = out[f"code{j}"][steps]
        if self.totals is not None and row == self.row_folds - 1:
            self.totals.collect(np.arange(self.depth), self._columns(col), steps, out)

    @property
    def sums(self) -> np.ndarray:
        return self._sums[:, : self.n]

    @property
    def encoded(self) -> np.ndarray:
        return self._codes[:, : self.n]
