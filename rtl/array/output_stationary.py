"""The output-stationary array: operands stream through, sums stay and shift down and out at the end of a fold.

A fold of R x C outputs and K = T products each takes T + 2 R + C - 2 cycles: T vectors enter, the skew
of rows and columns passes, and R rows of sums leave by the bottom.
"""

from __future__ import annotations

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.rtl import wires as w
from macloom.rtl.array.block_scales import BlockTotals
from macloom.rtl.array.controller import CONTROL_INPUTS, CONTROL_OUTPUTS, folds_of, sequencer
from macloom.rtl.array.design import ArrayDesign, delayed
from macloom.rtl.epilogue import channel_values
from macloom.rtl.pe.mac import product_wires
from macloom.rtl.pe.register import accumulate, accumulate_wires
from macloom.rtl.unit import Port, Unit, Values, Wires

Pair = tuple[WireVector, WireVector]


def overhead(design: ArrayDesign) -> int:
    """Return the cycles of a fold besides the streamed vectors."""
    return 2 * design.rows + design.cols - 2


def array(design: ArrayDesign) -> Unit:
    """Return the array with its decoders and controller.

    After `start` (with `depth`, `row_folds`, `col_folds`) the unit is `busy` for whole folds. At `cycle` t of a
    fold, with `read`, it takes the codes of element t of every row of A (`a0`, ...) and of B (`b0`, ...) of
    this fold. With `sum_valid` the ports `sum0`, ... hold row `sum_row` of the fold's outputs.
    """
    rows, cols, bits = design.rows, design.cols, design.accumulator.bits
    lanes = {"a": (design.lane(design.a), rows), "b": (design.lane(design.b), cols)}
    data = tuple(Port(name=f"{n}{i}", width=lane.code_bits) for n, (lane, count) in lanes.items() for i in range(count))
    row_bits = max((rows - 1).bit_length(), 1)

    def circuit(inputs: Wires) -> Wires:
        control = sequencer(inputs, overhead(design))
        reading = control.within(0, control.after(0))
        drain = control.after(rows + cols - 2)
        shifting = control.within(drain, control.after(overhead(design)))
        slot = control.cycle[0]
        border: dict[str, list[Pair]] = {}
        for name, (lane, count) in lanes.items():
            border[name] = []
            for i in range(count):
                code, at, valid = delayed([inputs[f"{name}{i}"], slot, reading], i, f"skew_{name}{i}")
                border[name].append(lane.decoded(code, at, valid))
        sums = [[pyrtl.Register(bits, f"sum_{i}_{j}") for j in range(cols)] for i in range(rows)]
        from_above = border["b"]
        for i in range(rows):
            from_left, below = border["a"][i], []
            for j in range(cols):
                product = product_wires(design.mac, from_left, from_above[j])
                shifted = sums[i - 1][j] if i else w.constant(0, bits)
                kept = accumulate_wires(design.accumulator, sums[i][j], product)
                w.clock(sums[i][j], pyrtl.select(shifting, shifted, kept))
                from_left, moved = passed(from_left, f"a_{i}_{j}"), passed(from_above[j], f"b_{i}_{j}")
                below.append(moved)
            from_above = below
        row = w.low(w.constant(rows - 1, row_bits) - w.low(control.cycle - drain, row_bits), row_bits)
        made = {**control.outputs, "read": reading, "sum_valid": shifting, "sum_row": row}
        out = {f"sum{j}": _plain(sums[rows - 1][j]) for j in range(cols)}
        return {**made, **out, **design.encoded(out, inputs)}

    def model(inputs: Values) -> Values:
        folds, made = folds_of(inputs, overhead(design))
        steps = len(inputs["start"])
        read, valid, at = (np.zeros(steps, np.int64) for _ in range(3))
        out = np.zeros((steps, cols), np.int64)
        for fold in folds:
            taken = slice(fold.begin, fold.begin + fold.depth)
            first = fold.begin + fold.depth + rows + cols - 2
            read[taken], valid[first : first + rows] = 1, 1
            at[first : first + rows] = np.arange(rows)[::-1]
            parity = np.arange(fold.depth) & 1
            (ea, ia), (eb, ib) = (
                lane.values(np.stack([np.asarray(inputs[f"{n}{i}"])[taken] for i in range(count)]), parity)
                for n, (lane, count) in lanes.items()
            )
            total = np.zeros((rows, cols), np.int64)
            for k in range(fold.depth):
                product = (ia[:, None, k] * ib[None, :, k]) << (ea[:, None, k] + eb[None, :, k])
                total = accumulate(design.accumulator, total, product)
            out[first : first + rows] = total[::-1]
        sums = {f"sum{j}": out[:, j] for j in range(cols)}
        codes = design.encoded_values(sums, inputs, valid)
        return {**made, "read": read, "sum_valid": valid, "sum_row": at, **sums, **codes}

    def cares(inputs: Values) -> Values:
        valid = model(inputs)["sum_valid"] == 1
        borders = (port.name for port in design.border_outputs)
        return {name: valid for name in ("sum_row", *(f"sum{j}" for j in range(cols)), *borders)}  # noqa: C420

    return Unit(
        module=design.module,
        inputs=(*CONTROL_INPUTS, *data, *design.border_inputs),
        outputs=(
            *CONTROL_OUTPUTS,
            Port(name="read", width=1),
            Port(name="sum_valid", width=1),
            Port(name="sum_row", width=row_bits),
            *(Port(name=f"sum{j}", width=bits, signed=True) for j in range(cols)),
            *design.border_outputs,
        ),
        circuit=circuit,
        model=model,
        cares=cares,
        clocked=True,
        facts=design.facts,
    )


def _plain(register: WireVector) -> WireVector:
    """Return a register's value as a wire."""
    return register[:]


def passed(pair: Pair, name: str) -> Pair:
    """Return the pair one cycle later, for the next element."""
    exponent, significand = delayed(pair, 1, name)
    return exponent, significand


class Job:
    """One product on the array: its folds, the operands of each, and the sums as they leave."""

    def __init__(self, design: ArrayDesign, a: np.ndarray, b: np.ndarray, totals: BlockTotals | None = None) -> None:
        """Take the lanes' codes of both operands, (M, K) and (N, K)."""
        self.design = design
        (self.m, self.depth), self.n = a.shape, len(b)
        self.row_folds, self.col_folds = -(-self.m // design.rows), -(-self.n // design.cols)
        self.codes = {"a": padded(a, self.row_folds * design.rows), "b": padded(b, self.col_folds * design.cols)}
        self._sums = np.zeros((self.row_folds * design.rows, self.col_folds * design.cols), np.int64)
        self._codes = np.zeros_like(self._sums)
        self.totals = None if totals is None else totals.padded(*self._sums.shape)
        self.channels = padded_channels(design, self.n, self.col_folds)

    def inputs(self, row: int, col: int, length: int) -> dict[str, np.ndarray]:
        """Return the codes on the ports during a fold, in the cycles in which they are read; else 0."""
        made = channel_inputs(self.design, self.channels, col, length)
        for name, first, count in (
            ("a", row * self.design.rows, self.design.rows),
            ("b", col * self.design.cols, self.design.cols),
        ):
            for lane in range(count):
                made[f"{name}{lane}"] = np.zeros(length, np.int64)
                made[f"{name}{lane}"][: self.depth] = self.codes[name][first + lane]
        if self.totals is not None:
            lines = row * self.design.rows + np.arange(self.design.rows)[::-1]
            made |= self.totals.inputs(lines, self._columns(col), length - len(lines), length)
        return made

    def _columns(self, col: int) -> np.ndarray:
        return col * self.design.cols + np.arange(self.design.cols)

    def collect(self, row: int, col: int, out: Values) -> None:
        """Keep the sums of a fold."""
        rows, cols = self.design.rows, self.design.cols
        steps = np.flatnonzero(out["sum_valid"])
        for j in range(cols):
            lines = row * rows + np.asarray(out["sum_row"])[steps]
            self._sums[lines, col * cols + j] = out[f"sum{j}"][steps]
            if self.channels:
                self._codes[lines, col * cols + j] = out[f"code{j}"][steps]
        if self.totals is not None:
            self.totals.collect(row * rows + np.asarray(out["sum_row"])[steps], self._columns(col), steps, out)

    @property
    def sums(self) -> np.ndarray:
        return self._sums[: self.m, : self.n]

    @property
    def encoded(self) -> np.ndarray:
        return self._codes[: self.m, : self.n]


def padded(codes: np.ndarray, rows: int) -> np.ndarray:
    """Return codes with rows of code 0 below, whose sums nobody reads."""
    return np.pad(codes, ((0, rows - codes.shape[0]), (0, 0)))


def padded_channels(design: ArrayDesign, columns: int, folds: int) -> dict[str, np.ndarray]:
    """Return multiplier, shift and bias of every column of all folds, none without output encoders."""
    if design.epilogue is None:
        return {}
    values = channel_values(design.epilogue, columns)
    return {name: np.pad(value, (0, folds * design.cols - columns)) for name, value in values.items()}


def channel_inputs(
    design: ArrayDesign, channels: dict[str, np.ndarray], col: int, length: int
) -> dict[str, np.ndarray]:
    """Return what the output encoders of a fold read in every cycle."""
    return {
        f"{name}{j}": np.full(length, values[col * design.cols + j])
        for name, values in channels.items()
        for j in range(design.cols)
    }
