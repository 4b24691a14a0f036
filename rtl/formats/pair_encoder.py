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
from macloom.rtl.formats.encoder import Conversion, Source, encoded, searched
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
    patterns = np.arange(1 << source.bits)
    beyond = np.abs(source.values) > fmt.boundary
    # Magnitudes are patterns or integers of which this is the largest that is no outlier.
    last = int(np.flatnonzero(source.values[: 1 << (source.bits - 1)] <= fmt.boundary).max())

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
        codes = np.stack([np.asarray(inputs[n]) & (len(patterns) - 1) for n in ("x0", "x1")], axis=-1)
        return source.values[codes]

    def model(inputs: Values) -> Values:
        largest = float(np.finfo(np.float32).max)  # more than any number of 16 bits
        x = np.clip(np.nan_to_num(values(inputs), nan=0.0, posinf=largest, neginf=-largest), -largest, largest)
        slots = fmt.encode(x.astype(np.float32), scale=np.float32(1)).elements.astype(np.int64)
        return {"pair": slots[:, 0] << bits | slots[:, 1]}

    return Unit(
        module=module or f"{identifier(fmt.name)}_from_{identifier(source.name)}_encoder",
        inputs=tuple(Port(name=n, width=source.bits, signed=isinstance(source, IntFormat)) for n in ("x0", "x1")),
        outputs=(Port(name="pair", width=2 * bits),),
        circuit=circuit,
        model=model,
        cares=lambda inputs: {"pair": np.asarray(~np.isnan(values(inputs)).any(axis=-1))},
        stimuli=lambda count, seed: _pairs(fmt, source, count, seed),
        facts={
            "format": fmt.name,
            "code_bits": 2 * bits,
            "source": source.name,
            "assign": fmt.assign.value,
            "boundary": fmt.boundary,
        },
    )


def _magnitude(source: Source, x: WireVector) -> WireVector:
    """Return what orders magnitudes: the bits below the sign, or the absolute integer."""
    return w.magnitude_of(x)[1] if isinstance(source, IntFormat) else x[:-1]


def _pairs(fmt: Ovp, source: Source, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return pairs over the whole range of the format, near its boundary and decision points, and of all patterns."""
    rng = np.random.default_rng(seed)
    known = np.where(np.isfinite(source.values), source.values, 0.0)
    order = np.argsort(known, kind="stable")
    ascending = known[order]
    grid = np.concatenate([e.encodable[0] for e in (fmt.normal, fmt.outlier)])
    points = np.concatenate([grid, (np.sort(grid)[1:] + np.sort(grid)[:-1]) / 2, [fmt.boundary, -fmt.boundary]])

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
    ports = [Port(name=n, width=source.bits, signed=isinstance(source, IntFormat)) for n in ("x0", "x1")]
    codes = left, right & (2 * half - 1)
    return {port.name: port.values_of(code.astype(np.uint64)) for port, code in zip(ports, codes, strict=True)}
