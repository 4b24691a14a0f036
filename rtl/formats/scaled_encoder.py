"""Encoders of blocks whose scale is a float: NVFP4, and blocks with an E4M3 scale of their own.

The software divides twice, the largest magnitude by the largest element and every operand by the scale. No circuit
here does: both quotients only choose a code, and the operands at which a code changes are constants for the scale,
and multiples of it for the elements. A scale of 1.m * 2**e changes the exponent of those points by e, so that eight
tables of points, one for every m, hold them all. They come from the software and are compared with it for every
scale and every operand when the circuit is made.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.elements.minifloat import BF16, FloatFormat
from macloom.formats.tensors.block import Block
from macloom.rtl import wires as w
from macloom.rtl.formats.block_stimuli import blocks
from macloom.rtl.formats.decoder import identifier, pair_ports
from macloom.rtl.formats.interval_search import interval_search, intervals
from macloom.rtl.formats.source import WIDEST_LISTED
from macloom.rtl.unit import Port, Unit, Values, Wires


def stored(fmt: Block, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return element and scale codes (int64) of rows of one block each, whose tensor scale is 1."""
    encoded = fmt.encode(x.astype(np.float32), scale=np.float32(1)) if fmt.two_level else fmt.encode(x)
    return encoded.elements.reshape(x.shape).astype(np.int64), encoded.scales.reshape(len(x)).astype(np.int64)


@lru_cache(maxsize=16)
def scale_codes(fmt: Block, source: FloatFormat) -> np.ndarray:
    """Return the scale's code for every finite magnitude (pattern without sign) that is the largest of a block."""
    values = source.values[: 1 << (source.bits - 1)]
    values = values[np.isfinite(values)]
    x = np.zeros((len(values), fmt.size), np.float32)
    x[:, 0] = values
    return stored(fmt, x)[1]


@lru_cache(maxsize=16)
def decision_points(fmt: Block, source: FloatFormat) -> np.ndarray:
    """Return the least pattern of each level of the element for a scale of 1.m * 2**0: int64 (8, levels).

    Raises:
        MacloomError: an element is not as far from its scale's points as another exponent says it is.
    """
    element = fmt.element
    assert isinstance(element, FloatFormat)
    values = source.values[: 1 << (source.bits - 1)]
    values = values[np.isfinite(values)].astype(np.float32)
    scale, t = fmt.scale_format, fmt.scale_format.mantissa_bits
    top = int(element.encode(np.array(element.max_value)))

    def codes(scale_code: int) -> np.ndarray:
        with np.errstate(over="ignore"):  # what is too large saturates
            quotient = values / np.float32(scale.values[scale_code])
        return element.encode(quotient, fmt.policy.rounding, fmt.policy.overflow).astype(np.int64)

    one = int(scale.encode(np.array(1.0)))
    points = np.array([np.searchsorted(codes(one + m), np.arange(1, top + 1)) for m in range(1 << t)])
    for code in np.unique(scale_codes(fmt, source)).tolist():
        moved = points[code & ((1 << t) - 1)] + ((code - one >> t) << source.mantissa_bits)
        if not np.array_equal(np.searchsorted(moved, np.arange(len(values)), side="right"), codes(code)):
            raise MacloomError(
                f"rtl: format {fmt.name!r} has no block encoder from {source.name}: the operands at which its codes "
                f"change are no multiples of the scale at {scale.values[code]:g}"
            )
    return points


def scaled_encoder(fmt: Block, source: FloatFormat = BF16, module: str | None = None) -> Unit:
    """Return the encoder of one block: `x0`, ... in units of the tensor's scale to `scale` (E4M3) and `code0`, ...

    Inputs must be finite, as those of the software.

    Raises:
        MacloomError: the scale is a power of two, elements are multiplied by its reciprocal, or are no floats.

    >>> from macloom.formats import get_format
    >>> scaled_encoder(get_format("nvfp4")).module
    'nvfp4_from_bf16_encoder'
    """
    element, scale = fmt.element, fmt.scale_format
    if not (fmt.two_level or fmt.float_scale) or fmt.reciprocal or not isinstance(element, FloatFormat):
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no block encoder of this kind: blocks of signed floats with an E4M3 scale "
            "that divides them have one (reciprocal=false)"
        )
    if source.bits > WIDEST_LISTED:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no block encoder from {source.name}: its points are tried for every "
            f"operand, which has at most {WIDEST_LISTED} bits; take bf16 or fp16"
        )
    points = decision_points(fmt, source)
    depth = points.shape[1].bit_length()
    t, one = source.mantissa_bits, int(scale.encode(np.array(1.0)))
    starts, found = intervals(scale_codes(fmt, source))
    names = ("scale", *(f"code{i}" for i in range(fmt.size)))

    def circuit(inputs: Wires) -> Wires:
        magnitudes = [inputs[f"x{i}"][:-1] for i in range(fmt.size)]
        body = interval_search([], w.largest(magnitudes), [starts], [found], scale.bits)
        levels = _levels(body)
        made = {"scale": body}
        for i, magnitude in enumerate(magnitudes):
            code = _above(magnitude, levels)
            negative = inputs[f"x{i}"][-1]
            if element.negative_zero_code is None:
                negative = negative & w.any_bit(code)
            made[f"code{i}"] = pyrtl.concat(negative, code)
        return made

    def _levels(code: WireVector) -> list[WireVector]:
        """Return the least pattern of every level under this scale; levels that do not exist are never reached."""
        fraction, field = code[: scale.mantissa_bits], code[scale.mantissa_bits : scale.bits - 1]
        width = source.bits - 1
        exponent = w.widened(pyrtl.concat(field, w.constant(0, t)), width)
        base = points - (one >> scale.mantissa_bits << t)
        reached = [
            w.low(exponent + w.table(fraction, base[:, k].tolist(), width), width) for k in range(points.shape[1])
        ]
        return reached + [w.constant(-1, width)] * ((1 << depth) - 1 - len(reached))

    def _above(magnitude: WireVector, levels: list[WireVector]) -> WireVector:
        """Return how many of the ascending levels the magnitude reaches, by binary search."""
        bits = []
        while levels:
            middle = len(levels) // 2
            bit = w.inverted(magnitude < levels[middle])
            bits.append(bit)
            lower, upper = levels[:middle], levels[middle + 1 :]
            levels = [pyrtl.select(bit, high, low) for low, high in zip(lower, upper, strict=True)]
        code = pyrtl.concat(*bits)
        body = element.bits - 1
        return w.low(code, body) if len(code) > body else w.widened(code, body)

    def values(inputs: Values) -> np.ndarray:
        return source.values[np.stack([np.asarray(inputs[f"x{i}"]) for i in range(fmt.size)], axis=-1)]

    def model(inputs: Values) -> Values:
        x = values(inputs)
        codes, scales = stored(fmt, np.where(np.isfinite(x).all(axis=-1, keepdims=True), x, 0).astype(np.float32))
        return {"scale": scales, **{f"code{i}": codes[:, i] for i in range(fmt.size)}}

    def cares(inputs: Values) -> Values:
        finite = np.asarray(np.isfinite(values(inputs)).all(axis=-1))
        return {name: finite for name in names}  # noqa: C420

    return Unit(
        module=module or f"{identifier(fmt.name)}_from_{identifier(source.name)}_encoder",
        inputs=tuple(Port(name=f"x{i}", width=source.bits) for i in range(fmt.size)),
        outputs=(
            Port(name="scale", width=scale.bits),
            *(Port(name=f"code{i}", width=element.bits) for i in range(fmt.size)),
        ),
        circuit=circuit,
        model=model,
        cares=cares,
        stimuli=lambda count, seed: blocks(fmt.size, source, count, seed, _range(fmt)),
        facts={
            "format": fmt.name,
            "code_bits": element.bits,
            "exponent_offset": pair_ports(element).offset,
            "block": fmt.size,
            "source": source.name,
        },
    )


def _range(fmt: Block) -> tuple[float, float]:
    """Return the magnitudes between which the scale follows the largest of a block."""
    assert isinstance(fmt.element, FloatFormat)
    scale = fmt.scale_format
    return 2.0**scale.min_exponent * fmt.element.max_value / 4, scale.max_value * fmt.element.max_value * 2
