"""Quantities as people write them: `"256 KiB"`, `"500 MHz"`, `"0.4 pJ"`, `"64 GB/s"`.

Inside the package a quantity is a plain number in the unit that its name states (`size_bits`,
`clock_hz`, `energy_j`). This module is the edge where text becomes such a number and back.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import cache

from macloom.errors import MacloomError, nearest, require_positive_integer

SI = {"a": -18, "f": -15, "p": -12, "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}

# Base symbol -> (dimension, size in the first symbol of that dimension).
_BASES = {
    "bit": ("data size", 1),
    "B": ("data size", 8),
    "Hz": ("frequency", 1),
    "J": ("energy", 1),
    "W": ("power", 1),
    "V": ("voltage", 1),
    "s": ("time", 1),
    "cycle": ("cycle count", 1),
    "m2": ("area", 1),
    "m": ("length", 1),
}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(\S*)\s*", re.ASCII)
_EXAMPLES = {
    "bit": "256 KiB", "B": "256 KiB", "Hz": "500 MHz", "J": "0.4 pJ", "s": "2 ms", "W": "1.5 W", "B/s": "64 GB/s",
    "bit/s": "64 GB/s", "J/bit": "3.9 pJ/bit", "V": "0.9 V", "nm": "22 nm", "um2": "79.57 um2",
    "bit/cycle": "512 bit/cycle",
}  # fmt: skip


def parse_quantity(text: str, unit: str, path: str = "quantity") -> int | float:
    """Return the number that `text` is worth in `unit`.

    SI prefixes (`k`, `M`, `p`, ...) are powers of 1000, `Ki`, `Mi`, ... powers of 1024; bytes and bits
    convert into each other. The arithmetic is exact, and bits and bytes come back as integers.
    Raises MacloomError, starting with `path`, when the text is not such a quantity.

    >>> parse_quantity("256 KiB", "bit"), parse_quantity("64 GB/s", "bit/s"), parse_quantity("0.4 pJ", "fJ")
    (2097152, 512000000000.0, 400.0)
    """
    dimension, size = _target(unit)
    wanted = f"{path}: must be {_one(dimension)} such as {_EXAMPLES.get(unit, '1 ' + unit)!r}, not {text!r}"
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise MacloomError(wanted)
    number, symbol = match.groups()
    if not symbol:
        raise MacloomError(f"{wanted} (no unit)")
    found = _resolve(symbol)
    if found is None:
        raise MacloomError(f"{wanted} (unknown unit {symbol!r}{_advice(symbol, unit)})")
    if found[0] != dimension:
        raise MacloomError(f"{wanted} ({_one(found[0])})")
    value = Fraction(number) * found[1] / size
    if unit in ("bit", "B"):
        if value.denominator != 1:
            raise MacloomError(f"{path}: must be a whole number of {unit}, not {text!r}")
        return int(value)
    try:
        return float(value)
    except OverflowError:
        raise MacloomError(f"{path}: must fit a 64-bit float, not {text!r}") from None


def format_quantity(value: float, unit: str, digits: int | None = 3, *, binary: bool | None = None) -> str:
    """Return `value` with the prefix that leaves one to three digits before the point.

    `digits` significant digits are shown; None shows as many as `parse_quantity` needs to read the
    same number back. Whole multiples of 1024 bytes or bits that are not round in powers of 1000 use
    binary prefixes; `binary` decides it for all bytes and bits, so that sizes side by side have one base. A unit
    that has a prefix already (`um2`) is left as it is.

    >>> format_quantity(5e8, "Hz"), format_quantity(262144, "B"), format_quantity(3.94e-12, "J/bit", 2)
    ('500 MHz', '256 KiB', '3.9 pJ/bit')
    >>> format_quantity(1413120 * 1024, "B"), format_quantity(9.75e9, "B", binary=True)
    ('1.35 GiB', '9.08 GiB')
    """
    _target(unit)
    if not math.isfinite(value):
        raise MacloomError(f"quantity: must be finite, not {value!r} {unit}")
    base = unit.partition("/")[0]
    sized = base in ("bit", "B") and base == unit
    powers_of_1024 = sized and (value % 1024 == 0 and value % 1000 != 0 if binary is None else binary)
    if digits is None:
        exact = [f"{_whole(value)}{unit}"] if powers_of_1024 else []
        exact += [format_quantity(value, unit, d, binary=binary) for d in range(1, 18)]
        return next((t for t in exact if _reads_back(t, value, unit)), f"{value!r} {unit}")
    require_positive_integer("digits", digits)
    if powers_of_1024:
        prefix, scaled = _binary(value, digits)
    elif base in _BASES:
        prefix, scaled = _si(value, 2 if base.endswith("2") else 1, digits)
    else:
        prefix, scaled = "", value
    return f"{_plain(scaled, digits)} {prefix}{unit}"


def _reads_back(text: str, value: float, unit: str) -> bool:
    try:
        return parse_quantity(text, unit) == value
    except MacloomError:  # half a bit, or above the largest float
        return False


def _whole(value: float) -> str:
    """Return the number before the largest binary prefix that leaves a whole one, and that prefix."""
    powers = [(prefix, 2**power) for prefix, power in BINARY.items() if value and value % 2**power == 0]
    prefix, power = powers[-1] if powers else ("", 1)
    return f"{value / power:.0f} {prefix}"


def _binary(value: float, digits: int) -> tuple[str, float]:
    """Return the smallest binary prefix with less than 1000 before it, after rounding, and that number."""
    found = [(prefix, float(Fraction(value) / 2**power)) for prefix, power in (("", 0), *BINARY.items())]
    return next((f for f in found if abs(float(f"{f[1]:.{digits - 1}e}")) < 1000), found[-1])


def _si(value: float, exponent: int, digits: int) -> tuple[str, float]:
    """Return the SI prefix and the number before it; `exponent` 2 for squared units."""
    rounded = abs(float(f"{value:.{digits - 1}e}"))
    if not rounded:
        return "", value
    for prefix, power in reversed(SI.items()):
        if rounded >= 10.0 ** (power * exponent):
            return prefix, float(Fraction(value) / Fraction(10) ** (power * exponent))
    return "", value


def _plain(value: float, digits: int) -> str:
    """Return `digits` significant digits, without an exponent where that stays readable."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text and 1 <= abs(value) < 1e6 else text


@cache
def _resolve(symbol: str) -> tuple[str, Fraction] | None:
    """Return the dimension and the size of a unit symbol, or None for an unknown one."""
    above, slash, below = symbol.partition("/")
    if slash:
        parts = _resolve(above), _resolve(below)
        if parts[0] is None or parts[1] is None or "/" in below:
            return None
        return f"{parts[0][0]} per {parts[1][0]}", parts[0][1] / parts[1][1]
    for base, (dimension, size) in _BASES.items():
        prefix = above.removesuffix(base).replace("µ", "u")
        if not above.endswith(base):
            continue
        if prefix in SI:
            return dimension, size * Fraction(10) ** (SI[prefix] * (2 if base.endswith("2") else 1))
        if prefix in BINARY and dimension == "data size":
            return dimension, size * Fraction(2) ** BINARY[prefix]
    return None


def _target(unit: str) -> tuple[str, Fraction]:
    found = _resolve(unit)
    if found is None:
        raise MacloomError(f"unit: must be made of {', '.join(_BASES)}, not {unit!r}")
    return found


def _one(dimension: str) -> str:
    return ("an " if dimension[0] in "aeiou" else "a ") + dimension


def _advice(symbol: str, unit: str) -> str:
    """Return the hint after an unknown unit: the nearest correct spellings."""
    above, slash, below = unit.partition("/")
    dimension = _BASES[above][0] if above in _BASES else ""
    bases = [b for b, (d, _) in _BASES.items() if d == dimension] or [above]
    prefixes = [*SI, *BINARY] if dimension == "data size" else [*SI]
    spellings = [f"{p}{b}{slash}{below}" for b in bases for p in prefixes]
    typed = symbol.partition("/")[0]
    if typed == "KB":
        close = [f"kB{slash}{below}", f"KiB{slash}{below}"]
    elif typed[:-1] in prefixes and typed.endswith("b"):
        close = [f"{typed[:-1]}{b}{slash}{below}" for b in bases]
    else:
        close = [s for s in spellings if s.lower() == symbol.lower()] or nearest(symbol, spellings)
    return "; did you mean " + " or ".join(map(repr, close)) + "?" if close else ""
