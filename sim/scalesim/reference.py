"""SCALE-Sim's memory model one address at a time: slow, and meant to be read next to SCALE-Sim.

`simulate_reference` gives the report of `simulate_layer` by following every address through the
buffers. The tests hold the fast model to it, and both to SCALE-Sim 3.0.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from macloom.arch.array import Dataflow
from macloom.sim.scalesim.geometry import Geometry, Stream, geometry, kept
from macloom.sim.scalesim.records import Config, Conv, Layer, Mode, Report, Version
from macloom.sim.scalesim.report import Track, report_of

Matrix = list[list[int]]
NOTHING = -1


def simulate_reference(layer: Layer, config: Config, version: Version | str = Version.V3) -> Report:
    """Return what SCALE-Sim reports, address by address; see `simulate_layer`.

    >>> from macloom.sim.scalesim import Config, Gemm
    >>> array = Config(rows=4, cols=4, dataflow="ws", ifmap_kb=64, filter_kb=64, ofmap_kb=64)
    >>> simulate_reference(Gemm(m=1, n=1, k=1), array).total_cycles_incl_prefetch
    76
    """
    shape = geometry(layer, config)
    ifmap, weights = oriented_operands(layer, shape)
    v2 = Version(version) is Version.V2
    if config.mode is Mode.CALC:
        reads = (CalcBuffer(config.ifmap_kb), CalcBuffer(config.filter_kb))
    else:
        reads = (
            UserBuffer(config.ifmap_kb, config.bw_ifmap, prefetch_order(shape, shape.ifmap, ifmap), v2),
            UserBuffer(config.filter_kb, config.bw_filter, prefetch_order(shape, shape.filter, weights), v2),
        )
    writes = WriteBuffer(config.ofmap_kb, config.cols if config.mode is Mode.CALC else config.bw_ofmap)
    spans: list[list[int]] = [[], [], []]
    stalls = finished = 0
    for row, (wanted_a, wanted_b, written) in enumerate(demand(shape, ifmap, weights)):
        cycle = row + stalls
        waits = []
        for span, buffer, addresses in zip(spans, reads, (wanted_a, wanted_b), strict=False):
            latency = buffer.service(addresses, cycle)
            waits.append(latency - 1)
            if addresses:
                span.append(cycle + latency)
        finished = writes.service(written, cycle)
        if written:
            spans[2].append(finished)
        stalls += max(*waits, finished - cycle)
    writes.finish(finished)
    tracks = [Track(span[0], span[-1], *buffer.totals()) for span, buffer in zip(spans, reads, strict=False)]
    tracks.append(Track(spans[2][0], spans[2][-1], writes.first, writes.end if v2 else writes.last, writes.count))
    return report_of(layer, shape, finished, stalls, *tracks)


def input_addresses(layer: Layer) -> Matrix:
    """Return the address of each value of the unrolled input, M x K; outside the input it is -1."""
    columns = kept(layer)
    if not isinstance(layer, Conv):
        return [[m * layer.k + k for k in columns] for m in range(layer.m)]
    conv = layer

    def address(window: int, position: int) -> int:
        top, left = divmod(window, conv.output[1])
        down, rest = divmod(position, conv.fw * conv.channels)
        across, channel = divmod(rest, conv.channels)
        y, x = top * conv.strides[0] + down, left * conv.strides[1] + across
        return (y * conv.w + x) * conv.channels + channel if y < conv.h and x < conv.w else NOTHING

    return [[address(m, k) for k in columns] for m in range(layer.m)]


def oriented_operands(layer: Layer, shape: Geometry) -> tuple[Matrix, Matrix]:
    """Return input and weights with the streamed (or loaded) dimension first and the lanes second."""
    ifmap = input_addresses(layer)
    weights = [[column * layer.k + row for column in range(layer.n)] for row in kept(layer)]
    if shape.dataflow is not Dataflow.WS:
        ifmap = _transposed(ifmap)
    if shape.dataflow is Dataflow.IS:
        weights = _transposed(weights)
    return ifmap, weights


def _transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def demand(shape: Geometry, ifmap: Matrix, weights: Matrix) -> Iterator[tuple[list[int], list[int], int]]:
    """Yield, row by row, the addresses that the array asks of input and weights, and how many results it writes."""
    for column in range(shape.col_folds):
        for row in range(shape.row_folds):
            a = list(_operand_rows(shape, shape.ifmap, ifmap, row, column))
            b = list(_operand_rows(shape, shape.filter, weights, row, column))
            rows_used = shape.last_rows if row == shape.row_folds - 1 else shape.rows
            cols_used = shape.last_cols if column == shape.col_folds - 1 else shape.cols
            start, values = shape.first_write(rows_used)
            for t in range(shape.fold_cycles):
                lanes = sum(0 <= t - start - x < values for x in range(cols_used))
                yield a[t], b[t], lanes


def _operand_rows(shape: Geometry, operand: object, matrix: Matrix, row: int, column: int) -> Iterator[list[int]]:
    """Yield the addresses that one fold asks of one operand, lanes ascending."""
    for t in range(shape.fold_cycles):
        if isinstance(operand, Stream):
            first = (row if operand.across == "rows" else column) * operand.lanes
            lanes = range(first, min(first + operand.lanes, len(matrix[0])))
            at = t - operand.start
            asked = [matrix[at - x][lane] for x, lane in enumerate(lanes) if 0 <= at - x < operand.stream]
        else:
            depth = row * shape.rows + shape.rows - 1 - t
            lanes = range(column * shape.cols, min((column + 1) * shape.cols, len(matrix[0])))
            asked = [matrix[depth][x] for x in lanes] if t < shape.rows and depth < len(matrix) else []
        yield [address for address in asked if address != NOTHING]


def prefetch_order(shape: Geometry, operand: object, matrix: Matrix) -> list[int]:
    """Return the addresses of an operand in the order in which USER mode fetches them, holes as -1.

    The pieces of the operand stand below each other, padded to the array. A streamed operand is
    fetched along its diagonals, from the lowest row up; a stationary one row by row.
    """
    width = operand.lanes if isinstance(operand, Stream) else shape.cols
    stacked = [
        [line[x] if x < len(line) else NOTHING for x in range(first, first + width)]
        for first in range(0, len(matrix[0]), width)
        for line in matrix
    ]
    if not isinstance(operand, Stream):
        return [address for line in stacked for address in line]
    return [
        stacked[diagonal - x][x]
        for diagonal in range(len(stacked) + width - 1)
        for x in range(width)
        if 0 <= diagonal - x < len(stacked)
    ]


class CalcBuffer:
    """CALC mode's read buffer: a first-in first-out store of sets that never stalls and only counts."""

    def __init__(self, kib: int) -> None:
        self.items = kib * 1024 // 100
        self.set_of: dict[int, int] = {}
        self.current, self.filled, self.oldest, self.reads = 0, 0, 0, 0
        self.first_request: int | None = None
        self.start: int | None = None
        self.moved = 0

    def service(self, addresses: Iterable[int], cycle: int) -> int:
        """Count the misses of one row of demand and return the latency, always 1."""
        for address in addresses:
            if self.first_request is None:
                self.first_request = cycle
            if self.set_of.get(address, -1) >= self.oldest:
                continue
            self.reads += 1
            self.set_of[address] = self.current
            self.filled += 1
            if self.filled == self.items:
                self.current, self.filled = self.current + 1, 0
                if self.current == self.oldest + 50:
                    if self.start is None:
                        self.start = self.first_request - -(-50 * self.items // 10)
                    self.oldest, self.moved = self.oldest + 50, cycle
        return 1

    def totals(self) -> tuple[int, int, int]:
        """Return the first and last cycle of DRAM traffic, and the values read."""
        if self.start is not None:
            return self.start, self.moved + 1, self.reads
        sets = self.current + (self.filled > 0)
        return sets * self.items // -10, -1, self.reads


class UserBuffer:
    """USER mode's read buffer: lines in a fixed order, under a window that only moves forward and round."""

    def __init__(self, kib: int, bandwidth: int, order: list[int], once: bool) -> None:
        size = kib * 1024
        active = -(-size // 2)
        half = size - active
        line = -(-size // 100)
        present = [address for address in order if address != NOTHING]
        self.lines_of: dict[int, set[int]] = {}
        for rank, address in enumerate(present):
            self.lines_of.setdefault(address, set()).add(rank // line)
        self.lines = len(present) // line + 1
        self.window = min(self.lines, -(-active // line))
        self.step = min(self.lines - self.window, -(-half // line))
        self.fetch = -(-half // bandwidth)
        self.bandwidth, self.once = bandwidth, once
        whole = -(-len(order) // bandwidth)
        self.begun = min(-(-active // bandwidth), whole)
        self.reads, self.start, self.last = self.begun * bandwidth, 0, -1

    def service(self, addresses: Iterable[int], cycle: int) -> int:
        """Return the latency of one row of demand; v3 may even give time back."""
        latency = 1
        for address in addresses:
            while all((line - self.start) % self.lines >= self.window for line in self.lines_of[address]):
                self.start = (self.start + self.step) % self.lines
                self.reads += self.fetch * self.bandwidth
                self.last += self.fetch + 1
                wait = self.last - (cycle + latency)
                if not self.once:
                    latency += wait
                latency += max(wait, 0)
        return latency

    def totals(self) -> tuple[int, int, int]:
        """Return the first and last cycle of DRAM traffic, and the values read."""
        return -self.begun, self.last, self.reads


class WriteBuffer:
    """The output buffer: results gather in DRAM-wide rows, and half a buffer drains when half is full."""

    def __init__(self, kib: int, bandwidth: int) -> None:
        self.free = kib * 1024
        self.half = self.free // 2
        self.threshold = self.free - self.half
        self.bandwidth = bandwidth
        self.rows: list[int] = []
        self.partial = 0
        self.end = 0
        self.count, self.last = 0, 0
        self.first: int = -1

    def service(self, results: int, cycle: int) -> int:
        """Take the results of one row of demand and return when the last of them is in."""
        for _ in range(results):
            self.partial += 1
            self.free -= 1
            if self.partial == self.bandwidth:
                self._close()
            if cycle < self.end:
                cycle = cycle if self.free > 0 else self.end
            elif self.free < self.threshold:
                self._close()
                self._drain(cycle)
        return cycle

    def _close(self) -> None:
        if self.partial:
            self.rows.append(self.partial)
        self.partial = 0

    def _drain(self, cycle: int) -> None:
        """Write half a buffer of rows; only the gaps of the very last row are not counted."""
        rows = min(-(-self.half // self.bandwidth), len(self.rows))
        values = rows * self.bandwidth - (self.bandwidth - self.rows[rows - 1])
        del self.rows[:rows]
        self.count += values
        self.free += values
        self.end = cycle + rows - 1
        self.first = cycle if self.first < 0 else self.first
        self.last = max(self.last, self.end)

    def finish(self, cycle: int) -> None:
        """Drain what is left after the last row of demand."""
        self._close()
        while self.rows:
            self._drain(cycle)
            cycle = self.end + 1
