"""Float adders and rounders as units of their own, and the software that they and larger units must equal."""

from __future__ import annotations

import numpy as np

from macloom.rtl.floats import FP32_REGISTER, FloatRegister, from_integer, plus
from macloom.rtl.unit import WORD, Port, Unit, Values


def to_float32(sums: np.ndarray, unit_exponent: int) -> np.ndarray:
    """Return integers (int64 or Python's) times 2**unit_exponent as float32, rounded once to nearest even."""
    if sums.dtype != object:
        if sums.size and max(int(sums.max()), -int(sums.min())) < 1 << 53:
            with np.errstate(over="ignore", under="ignore"):
                return np.ldexp(sums.astype(np.float64), unit_exponent).astype(np.float32)
        sums = sums.astype(object)

    def one(total: int) -> float:
        # 50 bits of which the last is sticky round to float32 as the whole number does.
        extra = max(abs(total).bit_length() - 50, 0)
        short = abs(total) >> extra | int(bool(abs(total) & ((1 << extra) - 1)))
        exponent = min(extra + unit_exponent, 900)
        return float(np.ldexp(np.float64(-short if total < 0 else short), exponent))

    with np.errstate(over="ignore", under="ignore"):
        return np.array([one(int(total)) for total in sums.ravel()], np.float64).reshape(sums.shape).astype(np.float32)


def added(register: FloatRegister, total: np.ndarray, term: np.ndarray) -> np.ndarray:
    """Return float32 values of the register plus float32 terms, rounded to the register before and after the addition.

    It is the arithmetic room's own outer register of block accumulators.
    """
    total, term = np.array(total, np.float32).reshape(-1, 1), np.asarray(term, np.float32).reshape(-1, 1)
    if register == FP32_REGISTER:
        with np.errstate(over="ignore", invalid="ignore"):
            return (total + term)[:, 0]
    from macloom.formats.kernels.accumulate_float import drain_to_register

    one = np.ones(max(len(total), 1), np.float32)
    drain_to_register(term, 1.0, one, one[:1], *register.accumulator.kernel_arguments(), total)
    return total[:, 0]


def adder(register: FloatRegister, module: str | None = None) -> Unit:
    """Return the adder of a float register: codes `a` and `b` to `y`.

    It is defined for what registers hold when they start at +0: no two -0, and no infinity where sums saturate.

    >>> adder(FloatRegister(exponent_bits=5, mantissa_bits=10)).module
    'add_e5m10'
    """

    def model(inputs: Values) -> Values:
        return {"y": register.codes_of(added(register, *(register.values_of(inputs[n]) for n in "ab")))}

    def cares(inputs: Values) -> Values:
        a, b = (register.values_of(inputs[n]) for n in "ab")
        negative = (a == 0) & (b == 0) & np.signbit(a) & np.signbit(b)
        return {"y": ~negative & ~(register.saturate & ~(np.isfinite(a) & np.isfinite(b)))}

    def stimuli(count: int, seed: int) -> Values:
        return {n: float_codes(register, count, seed, n) for n in "ab"}

    return Unit(
        module=module or f"add_{register.name}",
        inputs=tuple(Port(name=n, width=register.bits) for n in "ab"),
        outputs=(Port(name="y", width=register.bits),),
        circuit=lambda inputs: {"y": plus(register, inputs["a"], inputs["b"])},
        model=model,
        cares=cares,
        stimuli=stimuli if register.bits > 8 else None,
        facts={"register": register.name, "rounding": register.rounding.value},
    )


def float_codes(register: FloatRegister, count: int, seed: int, salt: str) -> np.ndarray:
    """Return codes of a register: near each other for the same seed, with zeros, subnormals, powers and infinities."""
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, *salt.encode()])
    t, top = register.mantissa_bits, (1 << register.exponent_bits) - 1
    base = shared.integers(0, top + 1, count)
    far = own.integers(-t - 4, t + 5, count) * (shared.random(count) < 0.5)
    anywhere = own.integers(0, top + 1, count)
    field = np.where(shared.random(count) < 0.85, np.clip(base + far, 0, top), anywhere)
    common = shared.integers(0, 1 << t, count)
    fraction = np.choose(
        own.integers(0, 5, count),
        [common, own.integers(0, 1 << t, count), np.zeros(count, np.int64), np.full(count, (1 << t) - 1),
         1 << own.integers(0, t, count)],
    )  # fmt: skip
    fraction = np.where((field == top) & (own.random(count) < 0.7), 0, fraction)
    zero = own.random(count) < 0.03
    sign = own.integers(0, 2, count) << (register.bits - 1)
    return sign | np.where(zero, 0, field << t | fraction)


def rounder(bits: int, unit_exponent: int, module: str | None = None) -> Unit:
    """Return what an exact register leaves through: `sum` times 2**unit_exponent, rounded once, to the float32 `y`.

    >>> rounder(78, -32).module
    'round_78_to_e8m23'
    """
    register = FP32_REGISTER
    return Unit(
        module=module or f"round_{bits}_to_{register.name}",
        inputs=(Port(name="sum", width=bits, signed=True),),
        outputs=(Port(name="y", width=register.bits),),
        circuit=lambda inputs: {"y": from_integer(register, inputs["sum"], unit_exponent)},
        model=lambda inputs: {"y": register.codes_of(to_float32(np.asarray(inputs["sum"]), unit_exponent))},
        stimuli=lambda count, seed: {"sum": sums_of_all_lengths(bits, count, seed)},
        facts={"register": register.name, "unit_exponent": unit_exponent},
    )


def sums_of_all_lengths(bits: int, count: int, seed: int) -> np.ndarray:
    """Return two's complement integers of all lengths, many of them halfway between floats or next to that."""
    rng = np.random.default_rng(seed)
    lengths, kinds, signs = rng.integers(0, bits, count), rng.integers(0, 4, count), rng.integers(0, 2, count)
    made = []
    for length, kind, sign, digits in zip(
        lengths.tolist(), kinds.tolist(), signs.tolist(), rng.integers(0, 1 << 24, count).tolist(), strict=True
    ):
        half = (1 << 24 | digits) << 2 | 2  # a float32 significand and the digit of half a step
        shift = length - 27
        value = half << shift if shift > 0 else half >> -shift
        value += (0, 1, -1, digits >> 8)[kind] if shift > 0 else 0
        value &= (1 << (bits - 1)) - 1
        made.append(-value if sign else value)
    return np.array(made, object if bits > WORD else np.int64)
