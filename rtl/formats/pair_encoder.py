"""The encoder of outlier-victim pairs (Guo et al., OliVe, ISCA 2023, section 4.2; its circuit is not in the paper).

Each operand gets its code of the normal type, its code of the outlier type, and a comparison with the boundary
between both. Of two outliers the larger magnitude stays, the left one at a tie; the victim's slot takes the identifier.
"""

from __future__ import annotations

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FP16
from macloom.formats.outliers.ovp import Assign, Ovp
from macloom.formats.policy import Rounding
from macloom.rtl import wires as w
from macloom.rtl.formats.decoder import identifier
from macloom.rtl.formats.encoder import encoded, searched
from macloom.rtl.formats.operands import operand_ports
from macloom.rtl.formats.source import WIDEST_LISTED, Conversion, Source, values_of
from macloom.rtl.unit import Port, Unit, Values, Wires


def pair_encoder(fmt: Ovp, source: Source = FP16, module: str | None = None) -> Unit:
    """Return the encoder of a pair: operands `x0` (left) and `x1`, in units of the scale, to `pair`, `x0` highest.

    An infinity is larger than any number and saturates. A pair with a NaN has no code.

    Raises:
        MacloomError: outliers are assigned by the error of both elements, or an operand has more than 16 bits.

    >>> from macloom.formats import get_format
    >>> unit = pair_encoder(get_format("ovp4"))
    >>> unit.module, unit.outputs[0].width
    ('ovp4_from_fp16_encoder', 8)
    """
    if fmt.assign is Assign.JOINT:
        raise MacloomError(
            f"rtl: format {fmt.name!r} has no pair encoder: assign=joint weighs the errors of both elements; "
            "take assign=nearest or assign=threshold"
        )
    bits = fmt.normal.bits
    normal = Conversion(element=fmt.normal, source=source, rounding=Rounding.NEAREST_EVEN)
    outlier = Conversion(element=fmt.outlier, source=source, rounding=Rounding.NEAREST_EVEN)
    beyond = np.abs(source.values) > fmt.boundary if normal.listed else None
    last = _largest_inlier(fmt, source)

    def circuit(inputs: Wires) -> Wires:
        xs = inputs["x0"], inputs["x1"]
        magnitudes = [_magnitude(source, x) for x in xs]
        large = [w.constant(last, len(m)) < m for m in magnitudes]
        first = large[0] & w.inverted((magnitudes[0] < magnitudes[1]) & large[1])
        second = large[1] & w.inverted(first)
        slots = []
        for x, stays, victim in zip(xs, (first, second), (second, first), strict=True):
            code = pyrtl.select(stays, searched(outlier, x, beyond), encoded(normal, x))
            slots.append(pyrtl.select(victim, w.constant(fmt.identifier, bits), code))
        return {"pair": pyrtl.concat(*slots)}

    def values(inputs: Values) -> np.ndarray:
        codes = np.stack([np.asarray(inputs[n]) & ((1 << source.bits) - 1) for n in ("x0", "x1")], axis=-1)
        return values_of(source, codes)

    def model(inputs: Values) -> Values:
        largest = float(np.finfo(np.float32).max)
        x = np.clip(np.nan_to_num(values(inputs), nan=0.0, posinf=largest, neginf=-largest), -largest, largest)
        slots = fmt.encode(x.astype(np.float32), scale=np.float32(1)).elements.astype(np.int64)
        return {"pair": slots[:, 0] << bits | slots[:, 1]}

    return Unit(
        module=module or f"{identifier(fmt.name)}_from_{identifier(source.name)}_encoder",
        inputs=tuple(
            Port(name=n, width=source.bits, signed=isinstance(source, IntFormat) and source.signed)
            for n in ("x0", "x1")
        ),
        outputs=(Port(name="pair", width=2 * bits),),
        circuit=circuit,
        model=model,
        cares=lambda inputs: {"pair": np.asarray(~np.isnan(values(inputs)).any(axis=-1))},
        stimuli=lambda count, seed: (_pairs if normal.listed else _wide_pairs)(fmt, source, count, seed),
        facts={
            "format": fmt.name,
            "code_bits": 2 * bits,
            "exponent_offset": operand_ports(fmt).offset,
            "source": source.name,
            "assign": fmt.assign.value,
            "boundary": fmt.boundary,
        },
    )


def _largest_inlier(fmt: Ovp, source: Source) -> int:
    """Return the largest magnitude, a pattern or an integer, that is no outlier."""
    if source.bits <= WIDEST_LISTED:
        magnitudes = source.values[: 1 << (source.bits - int(source.signed))]
        return int(np.flatnonzero(magnitudes <= fmt.boundary).max())
    nearest = np.float32(fmt.boundary)
    return int(nearest.view(np.uint32)) - int(float(nearest) > fmt.boundary)


def _signed(source: Source) -> bool:
    """Return whether inputs are two's complement."""
    return isinstance(source, IntFormat) and source.signed


def _magnitude(source: Source, x: WireVector) -> WireVector:
    """Return what orders magnitudes: the bits below the sign, or the absolute integer."""
    if isinstance(source, IntFormat):
        return w.magnitude_of(x)[1] if source.signed else x
    return x[:-1]


def _points(fmt: Ovp) -> np.ndarray:
    """Return the format's values, what lies halfway between neighbours, and its boundary."""
    grid = np.concatenate([e.encodable[0] for e in (fmt.normal, fmt.outlier)])
    return np.concatenate([grid, (np.sort(grid)[1:] + np.sort(grid)[:-1]) / 2, [fmt.boundary, -fmt.boundary]])


def _wide_pairs(fmt: Ovp, source: Source, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return pairs of float32 near the format's points, of all magnitudes, and twins that decide by position."""
    rng = np.random.default_rng(seed)
    points = _points(fmt).astype(np.float32).view(np.uint32).astype(np.int64)

    def operand() -> np.ndarray:
        near = rng.choice(points, count) + rng.integers(-2, 3, count)
        spread = (rng.standard_normal(count) * rng.choice([1, 10, 60, 450], count)).astype(np.float32)
        anything = rng.integers(0, 1 << 32, count)
        return np.choose(rng.integers(0, 3, count), [near, spread.view(np.uint32).astype(np.int64), anything])

    left, right = operand(), operand()
    twin = (left ^ (rng.integers(0, 2, count) << 31)) + rng.integers(-1, 2, count)
    right = np.where(rng.random(count) < 0.3, twin, right)
    return {"x0": left & 0xFFFFFFFF, "x1": right & 0xFFFFFFFF}


def _pairs(fmt: Ovp, source: Source, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return pairs over the whole range of the format, near its boundary and decision points, and of all patterns."""
    rng = np.random.default_rng(seed)
    known = np.where(np.isfinite(source.values), source.values, 0.0)
    order = np.argsort(known, kind="stable")
    ascending = known[order]
    points = _points(fmt)

    def operand() -> np.ndarray:
        near = np.searchsorted(ascending, rng.choice(points, count)) + rng.integers(-2, 3, count)
        spread = np.searchsorted(ascending, rng.standard_normal(count) * rng.choice([1, 1.5, 8, 64], count) * 7)
        anything = rng.integers(0, len(order), count)
        chosen = np.choose(rng.integers(0, 4, count), [near, near, spread, anything])
        return order[np.clip(chosen, 0, len(order) - 1)]

    left, right = operand(), operand()
    # Outliers of the same magnitude, and neighbours, decide by position.
    half = 1 << (source.bits - 1)
    twin = (left ^ (rng.integers(0, 2, count) * half)) if not isinstance(source, IntFormat) else (2 * half - left)
    right = np.where(rng.random(count) < 0.2, (twin + rng.integers(-1, 2, count)) & (2 * half - 1), right)
    ports = [Port(name=n, width=source.bits, signed=_signed(source)) for n in ("x0", "x1")]
    codes = left, right & (2 * half - 1)
    return {port.name: port.values_of(code.astype(np.uint64)) for port, code in zip(ports, codes, strict=True)}
