"""How a matrix product lands on an accelerator: formats, effective array, segments of K, tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from macloom.arch import Accelerator, Dataflow
from macloom.errors import MacloomError
from macloom.formats import TensorFormat
from macloom.sim.fit import ProductFit, UnsupportedFormat, fit_product
from macloom.sim.tile_search import Objective, best_tiling, check_tiling
from macloom.sim.tiling import TileProblem, Tiling
from macloom.workloads.ops import Gemm, Role

MOST_PRODUCTS = 1 << 56  # of one operation: times the bits of any of its values they are counted in 64 bits


class RecipeLike(Protocol):
    """What the simulator asks of a recipe: a format for each role in each operation."""

    def format_for(self, role: Role, op_name: str, /) -> TensorFormat: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class GemmMapping:
    """One product on one machine.

    `batch` independent products of the size in `problem` run one after another. Batches that share
    operand B are stacked along M, which leaves `batch` smaller and M larger than the op has them.
    `fit` is None where the vector unit computes the product, because the array cannot.
    """

    op: Gemm
    a: TensorFormat
    b: TensorFormat
    out: TensorFormat
    fit: ProductFit | None
    batch: int
    problem: TileProblem
    tiling: Tiling
    block_scales: int
    latency: int = 0

    @property
    def on_array(self) -> bool:
        return self.fit is not None

    @property
    def pes_per_mac(self) -> int:
        return self.fit.pes_per_mac if self.fit else 1

    @property
    def decoder_latency(self) -> int:
        """Cycles that codes take through the decoders on their way to the array; 0 where nothing is decoded."""
        decoded = self.fit is not None and (self.fit.a.decoded or self.fit.b.decoded)
        return self.latency if decoded else 0


def effective_size(fit: ProductFit, dataflow: Dataflow, rows: int, cols: int) -> tuple[int, int]:
    """Return the rows and columns of products that fit on the array at once.

    Slices of an operand sit side by side along the axis that it enters by. In OS and WS that is the rows
    for A and the columns for B; in IS the other way round.

    >>> from macloom.sim.fit import OperandFit
    >>> wide = OperandFit(slices=2, exponent=False, decoded=False)
    >>> effective_size(ProductFit(a=wide, b=wide), Dataflow.OS, 64, 64)
    (32, 32)
    """
    a, b = fit.a.slices, fit.b.slices
    return (rows // b, cols // a) if dataflow is Dataflow.IS else (rows // a, cols // b)


def segment_length(blocks: tuple[int | None, int | None], k: int) -> int | None:
    """Return the elements of K between two changes of a scale, or None where no scale changes along K.

    With blocks of two lengths every boundary of both cuts, which the greatest common divisor ensures.

    >>> segment_length((32, 48), 4096), segment_length((None, 128), 128), segment_length((None, None), 64)
    (16, None, None)
    """
    lengths = [block for block in blocks if block is not None and block < k]
    return math.gcd(*lengths) if lengths else None


def map_gemm(
    op: Gemm,
    accelerator: Accelerator,
    recipe: RecipeLike,
    dataflow: Dataflow | None = None,
    objective: Objective = Objective.TRAFFIC,
    *,
    on_vector_unit: bool = False,
    tiling: Tiling | None = None,
) -> GemmMapping:
    """Return the mapping of `op`, with the tiles of `tiling` or those that `best_tiling` chooses.

    Where the elements do not scale blocks and an operand's scale changes along K, the product is cut
    into segments; their sums leave the array and the vector unit scales and adds them. With
    `on_vector_unit` the lanes compute the product instead, as one row of multiply-accumulators.

    Raises:
        UnsupportedFormat: the array cannot multiply these formats, or the lanes are too narrow.
        MacloomError: a buffer is too small for one tile, or the tiling given cannot be walked.
    """
    array, buffers = accelerator.array, accelerator.buffers
    dataflow = array.dataflow if dataflow is None else Dataflow(dataflow)
    a, b, out = (recipe.format_for(role, op.name) for role in (op.a, op.b, op.out))
    fit = None
    block_scales, segment = 0, None
    if on_vector_unit:
        _require_lanes(op, a, b, accelerator)
        dataflow, rows, cols, shadow = Dataflow.OS, 1, accelerator.vector.lanes, True
    else:
        fit = fit_product(op.name, a, b, accelerator.name, array)
        rows, cols = effective_size(fit, dataflow, array.rows, array.cols)
        shadow = array.shadow_registers
        segment = segment_length((a.block, b.block), op.k)
        if segment is not None and array.pe.block_scaling:
            block_scales, segment = -(-op.k // segment), None
    batch, m = op.batch // op.b_sharing, op.m * op.b_sharing
    require_countable(f"gemm {op.name!r}", m * op.n * op.k, "products")
    problem = TileProblem(
        dataflow=dataflow,
        m=m,
        n=op.n,
        k=op.k,
        a_bits=a.storage_bits((m, op.k)),
        b_bits=b.storage_bits((op.n, op.k)),
        out_bits=out.storage_bits((m, op.n)),
        sum_bits=array.pe.accumulator_bits,
        rows=rows,
        cols=cols,
        shadow_registers=shadow,
        segment=segment,
        room_bits=(buffers.operand_a.usable_bits, buffers.operand_b.usable_bits, buffers.output.usable_bits),
        port_bits=(
            buffers.operand_a.array_bits_per_cycle,
            buffers.operand_b.array_bits_per_cycle,
            buffers.output.array_bits_per_cycle,
        ),
        transfer_bits=(
            buffers.operand_a.transfer_bits_per_cycle,
            buffers.operand_b.transfer_bits_per_cycle,
            buffers.output.transfer_bits_per_cycle,
        ),
        dram_bits_per_cycle=accelerator.dram.streaming_bits_per_s / accelerator.clock_hz,
        arrays=1 if on_vector_unit else array.count,
    )
    if tiling is None:
        tiling = best_tiling(problem, Objective(objective))
    else:
        check_tiling(problem, tiling, op.name)
    return GemmMapping(
        op=op,
        a=a,
        b=b,
        out=out,
        fit=fit,
        batch=batch,
        problem=problem,
        tiling=tiling,
        block_scales=block_scales,
        latency=array.decoder_latency,
    )


def require_countable(path: str, count: int, what: str) -> None:
    """Raise unless everything that is counted of an operation fits 64 bits.

    Raises:
        MacloomError: there are too many.
    """
    if count > MOST_PRODUCTS:
        raise MacloomError(f"{path}: must have at most {MOST_PRODUCTS} {what}, not {count}; cut it into several")


def _require_lanes(op: Gemm, a: TensorFormat, b: TensorFormat, accelerator: Accelerator) -> None:
    where = f"accelerator {accelerator.name!r}: its array cannot multiply {a.name!r} by {b.name!r} of {op.name!r}"
    widest = max(fmt.element.bits for fmt in (a, b))
    if widest > accelerator.vector.bits:
        raise UnsupportedFormat(
            f"{where}; to compute it instead, arch.vector.bits must be at least {widest}, not {accelerator.vector.bits}"
        )
    if segment_length((a.block, b.block), op.k) is not None:
        raise UnsupportedFormat(
            f"{where}, and the vector unit multiplies no format whose scale changes within a row; "
            "choose another format for this operation"
        )
