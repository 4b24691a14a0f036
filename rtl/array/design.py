"""A systolic array as a record, and the lanes that bring codes to its border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.arch import Dataflow
from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.accumulator import IntegerAccumulator
from macloom.formats.outliers.ovp import Ovp
from macloom.formats.requantize import Requantize
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.block import Block
from macloom.rtl import wires as w
from macloom.rtl.array.block_scales import BlockScales
from macloom.rtl.epilogue import WORD as SUM_BITS
from macloom.rtl.epilogue import column, column_ports, column_values, encoded_sum, encoded_sums
from macloom.rtl.floats import FloatRegister
from macloom.rtl.formats.decoder import decoder, identifier
from macloom.rtl.formats.operands import require_plain_codes
from macloom.rtl.formats.pair_decoder import pair_decoder
from macloom.rtl.pe.mac import Mac, operand_ports
from macloom.rtl.unit import Port, Unit, Values, Wires

# Counters of the controller: streamed vectors, folds along rows and columns.
COUNT_BITS = 16
# Larger circuits take minutes and gigabytes to make.
MOST_ELEMENTS = 64 * 64


@dataclass(frozen=True, kw_only=True)
class ArrayDesign:
    """R x C elements for two formats, with decoders on the borders and an integer register in every element.

    Attributes:
        accumulator: applied at every product, in ascending order of the reduction axis.
        epilogue: encoders of the sums at the border; multiplier, shift and bias come through ports.
        outer: of formats with block scales, the float register of units at the border that scale the sums of a block
            and add them up, as `block:...` does; scales and totals come through ports.
    """

    a: TensorFormat
    b: TensorFormat
    rows: int
    cols: int
    dataflow: Dataflow = Dataflow.OS
    accumulator: IntegerAccumulator = IntegerAccumulator()
    epilogue: Requantize | None = None
    outer: FloatRegister | None = None

    def __post_init__(self) -> None:
        require_positive_integer("rtl.rows", self.rows)
        require_positive_integer("rtl.cols", self.cols)
        if self.dataflow not in (Dataflow.OS, Dataflow.WS):
            raise MacloomError(
                f"rtl.dataflow: must be 'os' or 'ws', not {self.dataflow.value!r}; "
                "input-stationary is 'ws' with A and B swapped"
            )
        if self.rows * self.cols > MOST_ELEMENTS:
            raise MacloomError(
                f"rtl.rows: must give at most {MOST_ELEMENTS} elements, not {self.rows} x {self.cols}; cut the product"
            )
        if self.epilogue is not None and self.accumulator.bits > SUM_BITS:
            raise MacloomError(
                f"rtl.accumulator: output encoders take sums of up to {SUM_BITS} bits, not {self.accumulator.bits}"
            )
        for fmt in (self.a, self.b):
            require_plain_codes(fmt, "array")
            if self.outer is not None and not isinstance(fmt, Block):
                raise MacloomError(f"rtl.accumulator: 'block:...' is for formats with block scales, not {fmt.name!r}")
        if self.outer is not None and self.epilogue is not None:
            raise MacloomError("rtl array: has output encoders for integers or a float register for blocks, not both")
        _ = self.mac

    @cached_property
    def mac(self) -> Mac:
        return Mac(a=operand_ports(self.a), b=operand_ports(self.b), accumulator=self.accumulator)

    @property
    def module(self) -> str:
        names = identifier(self.a.name) if self.a == self.b else f"{identifier(self.a.name)}_{identifier(self.b.name)}"
        encodes = "" if self.epilogue is None else f"_to_{self.epilogue.output.name}"
        encodes += "" if self.outer is None else f"_{self.outer.name}"
        return f"{names}_{self.dataflow.value}_array_{self.rows}x{self.cols}{encodes}"

    @property
    def scale_block(self) -> int | None:
        """The elements along K after which the scale of an operand may change; None where it does not."""
        blocks = [fmt.block for fmt in (self.a, self.b) if fmt.block is not None]
        return min(blocks, default=None)

    @property
    def cuts_pairs(self) -> bool:
        """Whether a fold may begin within a pair of the reduction axis, so that it must say so."""
        paired = any(self.lane(fmt).paired for fmt in (self.a, self.b))
        return self.dataflow is Dataflow.WS and self.rows % 2 == 1 and paired

    @property
    def facts(self) -> dict[str, object]:
        """What `unit.json` says of the array."""
        block = self.scale_block
        if self.outer is not None:
            scales = f"applied at the border, a run of at most {block} elements of K at a time"
        elif block is not None:
            scales = f"not applied; K goes through in runs of at most {block}, whose sums are scaled and added outside"
        else:
            scales = "not applied; the scales of a row of A and a row of B multiply their whole sum"
        return {
            "dataflow": self.dataflow.value,
            "rows": self.rows,
            "cols": self.cols,
            "code_bits": self.lane(self.a).code_bits,
            "code_bits_b": self.lane(self.b).code_bits,
            "accumulator": self.accumulator.name,
            "unit_exponent": self.mac.unit_exponent,
            "exponent_offset": self.mac.unit_exponent,
            "scales": scales,
            "scale_block": block,
        }

    @cached_property
    def block_scales(self) -> BlockScales | None:
        """The border units that scale sums of blocks, if there are any."""
        if self.outer is None or not isinstance(self.a, Block) or not isinstance(self.b, Block):
            return None
        return BlockScales(
            a=self.a.scale_format,
            b=self.b.scale_format,
            register=self.outer,
            unit_exponent=self.mac.unit_exponent,
            cols=self.cols,
        )

    @property
    def border_inputs(self) -> tuple[Port, ...]:
        """Ports of the output encoders or of the units that scale sums of blocks."""
        if self.block_scales is not None:
            return self.block_scales.inputs
        return () if self.epilogue is None else column_ports(self.cols)

    @property
    def border_outputs(self) -> tuple[Port, ...]:
        if self.block_scales is not None:
            return self.block_scales.outputs
        if self.epilogue is None:
            return ()
        output = self.epilogue.output
        return tuple(Port(name=f"code{j}", width=output.bits, signed=output.signed) for j in range(self.cols))

    def encoded(self, sums: Wires, inputs: Wires) -> dict[str, WireVector]:
        """Return what border units make of the sums on `sum0`, ...: codes, or totals of blocks."""
        if self.block_scales is not None:
            return self.block_scales.wires(sums, inputs)
        if self.epilogue is None:
            return {}
        return {f"code{j}": encoded_sum(self.epilogue, sums[f"sum{j}"], column(inputs, j)) for j in range(self.cols)}

    def encoded_values(self, sums: Values, inputs: Values, valid: np.ndarray) -> dict[str, np.ndarray]:
        """Return the same in software, in the cycles that count."""
        if self.block_scales is not None:
            return self.block_scales.values(sums, inputs, valid)
        if self.epilogue is None:
            return {}
        made, at = {}, np.flatnonzero(valid)
        for j in range(self.cols):
            channel = {name: values[at] for name, values in column_values(inputs, j).items()}
            made[f"code{j}"] = np.zeros(len(valid), np.int64)
            made[f"code{j}"][at] = encoded_sums(self.epilogue, np.asarray(sums[f"sum{j}"])[at], channel)
        return made

    def lane(self, fmt: TensorFormat) -> Lane:
        """Return what one border lane of this format is."""
        return Lane(fmt)


@dataclass(frozen=True)
class Lane:
    """The code port and the decoder of one border lane.

    Where two elements of the reduction axis share a stored pair, the lane gets the whole pair twice, and
    `slot` chooses the element.
    """

    fmt: TensorFormat

    @cached_property
    def unit(self) -> Unit:
        if isinstance(self.fmt, Ovp):
            return pair_decoder(self.fmt)
        assert self.fmt.element is not None
        return decoder(self.fmt.element)

    @property
    def code_bits(self) -> int:
        return self.unit.input_bits

    @property
    def paired(self) -> bool:
        return isinstance(self.fmt, Ovp)

    def decoded(self, code: WireVector, slot: WireVector, valid: WireVector) -> tuple[WireVector, WireVector]:
        """Return the pair that the elements get: exponent and significand, 0 without `valid`."""
        made = self.unit.circuit({self.unit.inputs[0].name: code})
        if self.paired:
            exponent = pyrtl.select(slot, made["exponent1"], made["exponent0"])
            significand = pyrtl.select(slot, made["significand1"], made["significand0"])
        else:
            exponent, significand = made["exponent"], made["significand"]
        return exponent, w.gated(significand, valid)

    def values(self, codes: np.ndarray, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same in software."""
        shape = np.broadcast_shapes(np.shape(codes), np.shape(slot))
        flat = np.broadcast_to(codes, shape).ravel()
        made = self.unit.model({self.unit.inputs[0].name: flat})
        if self.paired:
            second = np.broadcast_to(slot, shape).ravel() == 1
            exponent = np.where(second, made["exponent1"], made["exponent0"])
            significand = np.where(second, made["significand1"], made["significand0"])
        else:
            exponent, significand = made["exponent"], made["significand"]
        exponent = np.where(significand != 0, exponent, 0)
        return exponent.reshape(shape), significand.reshape(shape)

    def random_codes(self, lines: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """Return codes for so many elements of some lines: any that the element format may store."""
        bits = self.code_bits // 2 if self.paired else self.code_bits
        elements = rng.integers(0, 1 << bits, (lines, length + length % 2))
        return self.codes_of(elements)[:, :length]

    def codes_of(self, elements: np.ndarray) -> np.ndarray:
        """Return the lane's code for every stored element code (..., K): itself, or its pair, twice."""
        codes = np.asarray(elements, np.int64)
        if not self.paired:
            return codes
        bits = self.code_bits // 2
        pairs = codes[..., 0::2] << bits | codes[..., 1::2]
        return np.repeat(pairs, 2, axis=-1)


def delayed(wires: Sequence[WireVector], cycles: int, name: str) -> list[WireVector]:
    """Return the wires some cycles later."""
    held = list(wires)
    for stage in range(cycles):
        following = []
        for index, wire in enumerate(held):
            following.append(w.held(wire, f"{name}_{index}_{stage}"))
        held = following
    return held
