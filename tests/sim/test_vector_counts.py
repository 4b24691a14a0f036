"""Operations of the vector unit against the algorithms that they are counts of, run one number at a time."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from macloom.formats import get_format
from macloom.sim import vector as module
from macloom.sim.vector import KIND_COSTS, Operations, encode_operations, kind_operations, scale_operations
from macloom.sim.vector_cost import vector_result
from macloom.workloads.ops import Vector, VectorKind
from macloom.workloads.recipe import load_recipe

FP16 = get_format("fp16")


@dataclass
class Lane:
    """A lane that counts: a multiply, or anything as cheap as an add."""

    multiplies: int = 0
    adds: int = 0

    def mul(self, a: float, b: float) -> float:
        self.multiplies += 1
        return a * b

    def simple(self, value: float) -> float:
        """An add, subtraction, comparison, rounding, selection or move, whose result is given."""
        self.adds += 1
        return value

    def cubic(self, x: float, c: tuple[float, float, float, float]) -> float:
        y = c[0]
        for coefficient in c[1:]:
            y = self.simple(self.mul(y, x) + coefficient)
        return y

    @property
    def operations(self) -> Operations:
        return Operations(multiplies=self.multiplies, adds=self.adds)


def fitted(f: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> tuple[float, float, float, float]:
    """Return a cubic through the Chebyshev nodes of an interval."""
    nodes = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(4) + 0.5) / 4)
    a, b, c, d = np.polyfit(nodes, f(nodes), 3)
    return float(a), float(b), float(c), float(d)


EXP2, LOG2 = fitted(np.exp2, 0, 1), fitted(np.log2, 1, 2)


def bits_of(x: float) -> int:
    return struct.unpack("<i", struct.pack("<f", x))[0]


def from_bits(i: int) -> float:
    return struct.unpack("<f", struct.pack("<i", i))[0]


def exponential(lane: Lane, x: float) -> float:
    t = lane.mul(x, 1 / math.log(2))
    n = lane.simple(math.floor(t))
    return lane.simple(math.ldexp(lane.cubic(lane.simple(t - n), EXP2), int(n)))


def reciprocal(lane: Lane, x: float) -> float:
    y = lane.simple(from_bits(0x7EF311C7 - bits_of(x)))
    for _ in range(2):
        y = lane.mul(y, lane.simple(2 - lane.mul(x, y)))
    return y


def reciprocal_root(lane: Lane, x: float) -> float:
    half, y = lane.mul(x, 0.5), lane.simple(from_bits(0x5F3759DF - (bits_of(x) >> 1)))
    for _ in range(2):
        y = lane.mul(y, lane.simple(1.5 - lane.mul(lane.mul(half, y), y)))
    return y


def logarithm(lane: Lane, x: float) -> float:
    f, n = math.frexp(x)
    n = lane.simple(n - 1)  # the bias
    return lane.mul(lane.simple(lane.cubic(2 * f, LOG2) + n), math.log(2))


def sine(lane: Lane, x: float) -> float:
    t = lane.mul(x, 1 / math.pi)
    n = lane.simple(round(t))
    r = lane.simple(t - n)
    square = lane.mul(r, r)
    c = tuple((-1) ** i * math.pi ** (2 * i + 1) / math.factorial(2 * i + 1) for i in (3, 2, 1, 0))
    y = lane.mul(lane.cubic(square, c), r)  # type: ignore[arg-type]
    return lane.simple(-y if n % 2 else y)


@pytest.mark.parametrize(
    ("run", "exact", "count", "inputs", "error"),
    [
        (exponential, math.exp, module.EXPONENTIAL, (-9.0, -1.5, 0.0, 0.3, 4.0), 1e-3),
        (reciprocal, lambda x: 1 / x, module.RECIPROCAL, (0.01, 0.7, 1.0, 3.0, 900.0), 1e-3),
        (reciprocal_root, lambda x: x**-0.5, module.RECIPROCAL_ROOT, (0.01, 0.7, 1.0, 3.0, 900.0), 1e-3),
        (logarithm, math.log, module.LOGARITHM, (0.01, 0.7, 3.0, 900.0), 2e-3),
        (sine, math.sin, module.SINE, (-9.0, -1.5, 0.3, 2.0, 8.0), 2e-3),
    ],
)
def test_functions_cost_what_they_take_and_come_out_right(run, exact, count, inputs, error) -> None:
    for x in inputs:
        lane = Lane()
        assert run(lane, x) == pytest.approx(exact(x), rel=error, abs=error / 10)
        assert lane.operations == count


# -- rows ------------------------------------------------------------------------------------------


def two_pass_softmax(lane: Lane, row: list[float]) -> list[float]:
    scaled, top = [lane.mul(x, 0.125) for x in row], -math.inf
    for x in scaled:
        top = lane.simple(max(top, x))
    powers, total = [], 0.0
    for x in scaled:
        powers.append(exponential(lane, lane.simple(x - top)))
        total = lane.simple(total + powers[-1])
    inverse = reciprocal(lane, total)
    return [lane.mul(power, inverse) for power in powers]


def online_softmax(lane: Lane, row: list[float]) -> list[float]:
    scaled, top, total = [], -1e3, 0.0
    for x in row:
        scaled.append(lane.mul(x, 0.125))
        before, top = top, lane.simple(max(top, scaled[-1]))
        old = lane.mul(total, exponential(lane, lane.simple(before - top)))
        total = lane.simple(old + exponential(lane, lane.simple(scaled[-1] - top)))
    inverse = reciprocal(lane, total)
    return [lane.mul(exponential(lane, lane.simple(x - top)), inverse) for x in scaled]


def hadamard(lane: Lane, row: list[float]) -> list[float]:
    """Return the transform of a row whose length is a power of two, by butterflies."""
    x, half = list(row), 1
    while half < len(x):
        for start in range(0, len(x), 2 * half):
            for i in range(start, start + half):
                x[i], x[i + half] = lane.simple(x[i] + x[i + half]), lane.simple(x[i] - x[i + half])
        half *= 2
    return [lane.mul(value, len(x) ** -0.5) for value in x]


def rms_norm(lane: Lane, row: list[float]) -> list[float]:
    total = 0.0
    for x in row:
        total = lane.simple(total + lane.mul(x, x))
    scale = reciprocal_root(lane, lane.simple(lane.mul(total, 1 / len(row)) + 1e-6))
    return [lane.mul(lane.mul(x, scale), 1.0) for x in row]


def layer_norm(lane: Lane, row: list[float]) -> list[float]:
    total = squares = 0.0
    for x in row:
        total, squares = lane.simple(total + x), lane.simple(squares + lane.mul(x, x))
    mean = lane.mul(total, 1 / len(row))
    variance = lane.simple(lane.mul(squares, 1 / len(row)) - lane.mul(mean, mean))
    scale = reciprocal_root(lane, lane.simple(variance + 1e-5))
    return [lane.simple(lane.mul(lane.mul(lane.simple(x - mean), scale), 1.0) + 0.0) for x in row]


def gelu(lane: Lane, row: list[float]) -> list[float]:
    found = []
    for x in row:
        inner = lane.simple(lane.mul(-0.0713548, lane.mul(x, x)) - 1.5957691)
        found.append(lane.mul(x, reciprocal(lane, lane.simple(1 + exponential(lane, lane.mul(x, inner))))))
    return found


def sigmoids(lane: Lane, row: list[float]) -> list[float]:
    return [reciprocal(lane, lane.simple(1 + exponential(lane, -x))) for x in row]


def exact_softmax(row: list[float]) -> np.ndarray:
    powers = np.exp(np.array(row) * 0.125)
    return powers / powers.sum()


def exact_hadamard(row: list[float]) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < len(row):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix @ np.array(row) / len(row) ** 0.5


def exact_norm(row: list[float]) -> np.ndarray:
    return (np.array(row) - np.mean(row)) / np.std(row)


ROWS: dict[VectorKind, tuple[Callable[[Lane, list[float]], list[float]], Callable[[list[float]], np.ndarray]]] = {
    VectorKind.SOFTMAX: (two_pass_softmax, exact_softmax),
    VectorKind.ONLINE_SOFTMAX: (online_softmax, exact_softmax),
    VectorKind.HADAMARD: (hadamard, exact_hadamard),
    VectorKind.RMS_NORM: (rms_norm, lambda row: np.array(row) / np.sqrt(np.mean(np.square(row)))),
    VectorKind.LAYER_NORM: (layer_norm, exact_norm),
    VectorKind.GELU: (gelu, lambda row: np.array([x * 0.5 * (1 + math.erf(x / 2**0.5)) for x in row])),
    VectorKind.SIGMOID: (sigmoids, lambda row: 1 / (1 + np.exp(-np.array(row)))),
    VectorKind.GATHER: (lambda lane, row: [lane.simple(x) for x in row[::-1]], lambda row: np.array(row)[::-1]),
}


@pytest.mark.parametrize("kind", list(ROWS))
@pytest.mark.parametrize("width", [2, 8, 64])
def test_rows_cost_what_the_algorithm_takes_and_come_out_right(kind: VectorKind, width: int) -> None:
    run, exact = ROWS[kind]
    lane, row = Lane(), np.random.default_rng(width).standard_normal(width).tolist()
    found = run(lane, row)
    assert found == pytest.approx(exact(row), rel=5e-3, abs=5e-3)
    for value in found:
        lane.simple(value)  # rounded to fp16
    assert kind_operations(kind, 1, width, FP16) == lane.operations


def test_a_hadamard_transform_takes_n_log_n_adds() -> None:
    for width in (1, 2, 16, 128, 4096):
        cost = kind_operations(VectorKind.HADAMARD, 3, width, FP16)
        assert cost == Operations(multiplies=3 * width, adds=3 * width * (int(math.log2(width)) + 1))


# -- codes -----------------------------------------------------------------------------------------


def mx_encoder(lane: Lane, block: list[float]) -> None:
    """OCP MX: the largest magnitude gives the exponent of the scale, elements are divided by it."""
    top = 0.0
    for x in block:
        top = lane.simple(max(top, abs(x)))
    exponent = lane.simple(math.frexp(top)[1] - 1 - 2)
    inverse = lane.simple(-exponent)
    for x in block:
        lane.simple(min(lane.simple(round(lane.mul(x, 2.0**inverse))), 6))


def scaled_encoder(lane: Lane, block: list[float]) -> None:
    """A float scale for each block: largest magnitude over the largest code, stored, inverted."""
    top = 0.0
    for x in block:
        top = lane.simple(max(top, abs(x)))
    scale = lane.simple(lane.mul(top, 1 / 7))
    inverse = reciprocal(lane, scale)
    for x in block:
        lane.simple(min(lane.simple(round(lane.mul(x, inverse))), 7))


def pair_encoder(lane: Lane, pair: list[float]) -> None:
    """OliVe (ISCA 2023): calibrated scale; each element is compared with the threshold of outliers."""
    for x in pair:
        lane.simple(lane.mul(x, 0.5) > 7)
        lane.simple(min(lane.simple(round(x)), 7))


def integer_encoder(lane: Lane, row: list[float]) -> None:
    for x in row:
        lane.simple(min(lane.simple(round(lane.mul(x, 0.5))), 127))


@pytest.mark.parametrize(
    ("name", "encoder", "block"),
    [("mxfp4", mx_encoder, 32), ("mxfp8_e4m3", mx_encoder, 32), ("nvfp4", scaled_encoder, 16),
     ("int4:group=128", scaled_encoder, 128), ("int8:token", scaled_encoder, 256), ("ovp4", pair_encoder, 2),
     ("int8", integer_encoder, 256)],
)  # fmt: skip
def test_encoders_cost_what_they_take(name, encoder, block) -> None:
    width, fmt = 256, get_format(name)
    row = np.random.default_rng(0).standard_normal(width).tolist()
    lane = Lane()
    for start in range(0, width, block):
        encoder(lane, row[start : start + block])
    assert kind_operations(VectorKind.EMBEDDING, 1, width, fmt) == lane.operations
    assert kind_operations(VectorKind.EMBEDDING, 7, width, fmt) == 7 * lane.operations


def test_scales_that_are_calibrated_cost_nothing() -> None:
    for name in ("fp16", "int8", "ovp4"):
        assert scale_operations(get_format(name)) == Operations()
    assert encode_operations(get_format("nvfp4")) == Operations(multiplies=1, adds=3)  # its blocks follow the data


def test_a_gather_takes_a_move_per_element_and_lane(machine) -> None:
    op = Vector(name="permute", kind=VectorKind.GATHER, rows=64, width=64)
    for lanes in (1, 8, 64):
        row = vector_result(op, machine(lanes=lanes, dram_bits_per_cycle=1 << 30), load_recipe("fp16"))
        assert row.vector_cycles == 2 * 64 * 64 // lanes  # one move and one rounding each


def test_every_kind_of_operation_is_costed(machine) -> None:
    for kind in VectorKind:
        row = vector_result(Vector(name="op", kind=kind, rows=4, width=32, terms=2), machine(), load_recipe("int8"))
        assert row.cycles > 0
        assert row.energy.total_j > 0
        assert row.vector_operations == kind_operations(kind, 4, 32, get_format(row.formats["out"]), 2).total


def test_a_transform_without_its_stages_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = replace(KIND_COSTS[VectorKind.HADAMARD], per_stage=Operations())
    monkeypatch.setitem(KIND_COSTS, VectorKind.HADAMARD, flat)
    with pytest.raises(AssertionError):
        test_a_hadamard_transform_takes_n_log_n_adds()
