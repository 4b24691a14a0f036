"""What must hold for every element format of at most 16 bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.decoded import DecodedFormat
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.reference import encode_reference
from macloom.testing.inputs import (
    MAX_GRID_POINTS,
    boundary_values,
    first_difference,
    float32_probes,
    grid_sample,
    probes,
    same_bits,
    say,
)

ROUNDINGS = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO, Rounding.TO_ODD)


def overflow_policies(element: ElementFormat) -> list[Overflow]:
    """Return the overflow policies for which the format has a code."""
    return [
        Overflow.SATURATE,
        *([Overflow.TO_INF] if element.infinity else []),
        *([Overflow.TO_NAN] if element.nan_code is not None else []),
    ]


def is_odd_symmetric(element: ElementFormat) -> bool:
    """Say whether the encoder's values come in pairs of v and -v."""
    values = element.encodable[0]
    return bool(np.array_equal(values, -values[::-1]))


def operand_values(element: ElementFormat) -> np.ndarray:
    """Return what the multipliers get for each code: the value, or the entry of a format's decode table."""
    return element.operand_values if isinstance(element, DecodedFormat) else element.values


def check_table(element: ElementFormat) -> None:
    """The value table has an entry for every code, and the largest, smallest and unit values agree with it."""
    size = 1 << element.bits
    values, codes = element.encodable
    say(element.values.shape == (size,), f"{element.name}: values has shape {element.values.shape}, not ({size},)")
    say(len(values) >= 2, f"{element.name}: encodes {len(values)} values; a format needs two")
    say(bool(np.all(values[1:] > values[:-1])), f"{element.name}: encodable values do not ascend strictly")
    say(element.max_value == values[-1], f"{element.name}: max_value {element.max_value} is not {values[-1]}")
    say(element.min_value == values[0], f"{element.name}: min_value {element.min_value} is not {values[0]}")
    for code in range(size) if size <= 256 else codes[grid_sample(element)].tolist():
        value, listed = element.value(code), float(element.values[code])
        same = listed == value or (math.isnan(value) and math.isnan(listed))
        say(same, f"{element.name}: values[{code}] is {listed}, value({code}) is {value}")
    for special in (element.nan_code, element.negative_zero_code):
        say(special is None or 0 <= special < size, f"{element.name}: code {special} is not in [0, {size})")
    if element.nan_code is not None:
        say(math.isnan(element.value(element.nan_code)), f"{element.name}: nan_code {element.nan_code} is not NaN")
    say(len(set(codes.tolist())) == len(codes), f"{element.name}: one code stands for two values")


def check_round_trip(element: ElementFormat) -> None:
    """decode(encode(v)) is v, and encode gives v's own code, for every value that the encoder may produce."""
    values, codes = element.encodable
    encoded = element.encode(values)
    wrong = np.flatnonzero(encoded != codes)
    say(
        not len(wrong),
        f"{element.name}: encode({values[wrong[:1]]}) gives {encoded[wrong[:1]]}, not {codes[wrong[:1]]}",
    )
    decoded, want = element.decode(codes), values.astype(np.float32)
    say(bool(np.all(same_bits(decoded, want))), f"{element.name}: decode differs, {first_difference(decoded, want)}")
    if element.negative_zero_code is not None:
        code = int(element.encode(np.array([-0.0]))[0])
        say(
            code == element.negative_zero_code,
            f"{element.name}: -0.0 gets code {code}, not {element.negative_zero_code}",
        )


def check_reference(element: ElementFormat) -> None:
    """The vectorised encoder equals the scalar reference for every rounding and overflow policy."""
    x = probes(element, MAX_GRID_POINTS if element.bits <= 8 else 100)
    for rounding in ROUNDINGS:
        for overflow in overflow_policies(element):
            got = element.encode(x, rounding, overflow).tolist()
            for value, code in zip(x.tolist(), got, strict=True):
                want = encode_reference(element, value, rounding, overflow)
                say(
                    code == want,
                    f"{element.name}: encode({value.hex()}, {rounding}, {overflow}) is code {code}; "
                    f"the reference gives {want}",
                )


def check_monotone(element: ElementFormat) -> None:
    """A larger input never gets a smaller value."""
    x = probes(element)
    for rounding in ROUNDINGS:
        for overflow in (o for o in overflow_policies(element) if o is not Overflow.TO_NAN):
            q = element.quantize(x, rounding, overflow)
            wrong = np.flatnonzero(q[1:] < q[:-1])
            i = int(wrong[0]) if len(wrong) else 0
            say(not len(wrong), f"{element.name}: {rounding} takes {x[i]} to {q[i]} but {x[i + 1]} to {q[i + 1]}")


def check_odd_symmetric(element: ElementFormat) -> None:
    """encode(-x) is -encode(x) wherever the values are symmetric about zero."""
    if not is_odd_symmetric(element):
        return
    x = probes(element)
    if not np.any(element.encodable[0] == 0):
        x = x[x != 0]  # a format without zero has to choose a sign for it
    for rounding in ROUNDINGS:
        for overflow in overflow_policies(element):
            q, mirrored = element.quantize(x, rounding, overflow), -element.quantize(-x, rounding, overflow)
            wrong = np.flatnonzero((q != mirrored) & ~(np.isnan(q) & np.isnan(mirrored)))
            i = int(wrong[0]) if len(wrong) else 0
            say(not len(wrong), f"{element.name}: {rounding} takes {x[i]} to {q[i]} but {-x[i]} to {-mirrored[i]}")


def check_faithful(element: ElementFormat) -> None:
    """A value takes one of its two neighbours: toward zero never the outer one."""
    values = element.encodable[0]
    x = probes(element)
    x = x[(x >= values[0]) & (x <= values[-1])]
    high = np.minimum(np.searchsorted(values, x), len(values) - 1)
    low = np.where(values[high] == x, high, high - 1)
    for rounding in ROUNDINGS:
        q = element.values[element.encode(x, rounding)]
        outside = np.flatnonzero((q != values[low]) & (q != values[high]))
        i = int(outside[0]) if len(outside) else 0
        say(
            not len(outside),
            f"{element.name}: {rounding} takes {x[i]} to {q[i]}, past its neighbours "
            f"{values[low[i]]} and {values[high[i]]}",
        )
        if rounding is Rounding.TOWARD_ZERO:
            crossing = (values[low] < 0) & (values[high] > 0)
            outwards = np.flatnonzero((np.abs(q) > np.abs(x)) & ~crossing)
            i = int(outwards[0]) if len(outwards) else 0
            say(not len(outwards), f"{element.name}: {rounding} takes {x[i]} to {q[i]}, away from zero")


def check_pairs(element: ElementFormat) -> None:
    """pair(code) is (e, i) with i * 2**e what is multiplied, and `operand` is wide enough for all of them."""
    codes = element.encodable[1]
    values = operand_values(element)[codes]
    pairs = np.array([element.pair(int(c)) for c in codes], np.int64)
    exponents, significands = pairs[:, 0], pairs[:, 1]
    exact = np.ldexp(significands.astype(np.float64), exponents)
    n = int(np.argmax(exact != values))
    say(
        bool(np.all(exact == values)),
        f"{element.name}: pair({codes[n]}) is {significands[n]} * 2**{exponents[n]} = {exact[n]}, not {values[n]}",
    )
    operand = element.operand
    half = 1 << (operand.significand_bits - 1)
    fits = bool(np.all((-half <= significands) & (significands < half)))
    say(fits, f"{element.name}: a significand does not fit {operand.significand_bits} signed bits")
    span = int(np.ptp(exponents[significands != 0]))
    say(span < 1 << operand.exponent_bits, f"{element.name}: exponents span {span}, past {operand.exponent_bits} bits")

    units = np.ldexp(values, -element.unit_exponent)
    n = int(np.argmax(units != np.rint(units)))
    whole = bool(np.all(units == np.rint(units)))
    say(whole, f"{element.name}: {values[n]} is no multiple of 2**{element.unit_exponent}")
    half = 2.0 ** (operand.integer_bits - 1)
    fits = bool(np.all((-half <= units) & (units < half)))
    say(fits, f"{element.name}: a value in units does not fit {operand.integer_bits} signed bits")
    table, exponent, largest = element.units
    say(float(np.abs(units).max()) <= largest, f"{element.name}: a value is above the largest unit {largest}")
    listed = np.ldexp(table[codes].astype(np.float64), exponent)
    n = int(np.argmax(listed != values))
    say(bool(np.all(listed == values)), f"{element.name}: units[{codes[n]}] is {table[codes[n]]}, not {values[n]}")


def check_kernels(element: ElementFormat) -> None:
    """The compiled kernels and the lookup table equal the table encoder, bit for bit."""
    from macloom.formats.grid import lookup_table
    from macloom.formats.rounders import encode_rows, quantize_rows

    x = float32_probes(element)
    rows, one = x.reshape(1, -1), np.ones((1, 1), np.float32)
    want = element.encode(x)
    codes = encode_rows(element, rows, one, len(x), element.name)[0]
    wrong = np.flatnonzero(codes != want)
    i = int(wrong[0]) if len(wrong) else 0
    say(not len(wrong), f"{element.name}: the kernel encodes {float(x[i]).hex()} as {codes[i]}, not {want[i]}")
    values, out = element.decode(want), np.empty_like(rows)
    quantize_rows(element, rows, one, len(x), out, element.name)
    same = bool(np.all(same_bits(out[0], values)))
    say(same, f"{element.name}: the kernel's values differ in {first_difference(out[0], values, x)}")
    for rounding in ROUNDINGS:
        table = lookup_table(element, rounding)
        if table is None:
            continue
        bits = x.view(np.uint32)
        cell = bits >> np.uint32(table.shift)
        below = (bits & np.uint32((1 << table.shift) - 1)) != 0
        later = below if table.limits is None else bits >= table.limits[cell]
        cell = (cell << np.uint32(1)) | later
        want = element.encode(x, rounding)
        wrong = np.flatnonzero(table.codes[cell] != want)
        i = int(wrong[0]) if len(wrong) else 0
        say(
            not len(wrong),
            f"{element.name}: lookup table, {rounding}: {float(x[i]).hex()} is {table.codes[cell][i]}, not {want[i]}",
        )


def check_stochastic(element: ElementFormat) -> None:
    """Stochastic rounding takes one of the two neighbours, never moves a value, and repeats with its generator."""
    values = element.encodable[0]
    x = probes(element)
    x = x[(x >= values[0]) & (x <= values[-1])]
    high = np.minimum(np.searchsorted(values, x), len(values) - 1)
    low = np.where(values[high] == x, high, high - 1)
    codes = [element.encode(x, Rounding.STOCHASTIC, rng=np.random.default_rng(s)) for s in (0, 0, 1)]
    say(np.array_equal(codes[0], codes[1]), f"{element.name}: the same generator rounds differently")
    for drawn in codes:
        q = element.values[drawn]
        wrong = np.flatnonzero((q != values[low]) & (q != values[high]))
        i = int(wrong[0]) if len(wrong) else 0
        say(not len(wrong), f"{element.name}: stochastic rounding takes {x[i]} to {q[i]}, past its neighbours")


def check_specials(element: ElementFormat) -> None:
    """NaN, infinities, policies that the format cannot serve and codes out of range are refused or stored as told."""
    nan = np.array([1.0, math.nan])
    if element.nan_code is None:
        _refuses(element, "NaN, which it has no code for", lambda: element.encode(nan))
    else:
        code = int(element.encode(nan)[1])
        say(code == element.nan_code, f"{element.name}: NaN gets code {code}, not {element.nan_code}")
    both = np.array([math.inf, -math.inf])
    saturated = element.values[element.encode(both)].tolist()
    ends = [element.max_value, element.min_value]
    say(saturated == ends, f"{element.name}: infinities saturate to {saturated}, not {ends}")
    for overflow in {Overflow.TO_INF, Overflow.TO_NAN} - set(overflow_policies(element)):
        _refuses(element, f"overflow {overflow}", lambda o=overflow: element.encode(both, overflow=o))
    if element.infinity:
        kept = element.values[element.encode(both, overflow=Overflow.TO_INF)]
        say(np.array_equal(kept[: 1 if element.min_value >= 0 else 2], both[: 1 if element.min_value >= 0 else 2]),
            f"{element.name}: infinities become {kept}")  # fmt: skip
    size = 1 << element.bits
    for bad in (-1, size):
        _refuses(element, f"decoding code {bad}", lambda c=bad: element.decode(np.array([0, c])))


def check_shapes(element: ElementFormat) -> None:
    """encode and decode keep the shape of their input, whatever it is."""
    x = boundary_values(element)[:6]
    for shape in ((), (1,), (2, 3), (1, 2, 3), (0,)):
        part = np.resize(x, shape) if math.prod(shape) else np.empty(shape)
        codes = np.asarray(element.encode(part))
        say(codes.shape == shape, f"{element.name}: encode gives shape {codes.shape} for {shape}")
        say(codes.dtype == element.code_dtype, f"{element.name}: codes are {codes.dtype}, not {element.code_dtype}")
        say(element.decode(codes).shape == shape, f"{element.name}: decode does not keep the shape {shape}")


def _refuses(element: ElementFormat, what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except MacloomError:
        return
    raise AssertionError(f"{element.name}: accepts {what}; it must raise MacloomError")


ELEMENT_CHECKS: dict[str, Callable[[ElementFormat], None]] = {
    "table": check_table,
    "round_trip": check_round_trip,
    "reference": check_reference,
    "monotone": check_monotone,
    "odd_symmetric": check_odd_symmetric,
    "faithful": check_faithful,
    "pairs": check_pairs,
    "kernels": check_kernels,
    "stochastic": check_stochastic,
    "specials": check_specials,
    "shapes": check_shapes,
}


def check_element_format(element: ElementFormat) -> None:
    """Raise AssertionError unless every property in `ELEMENT_CHECKS` holds for `element` (at most 16 bits)."""
    for check in ELEMENT_CHECKS.values():
        check(element)
