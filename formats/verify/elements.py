"""Element encoders against the scalar reference: every float32 pattern, or those where codes change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.grid import lookup_table
from macloom.formats.policy import DRAW_BITS, Overflow, Policy, Rounding, ZeroPolicy
from macloom.formats.reference import encode_reference
from macloom.formats.rounders import encode_rows, quantize_rows, steps_of
from macloom.formats.verify.steps import Steps, patterns_of, ranks_of, reference_steps
from macloom.formats.verify.subjects import label
from macloom.formats.verify.tally import Tally, value_table
from macloom.verification import Check

DETERMINISTIC = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO, Rounding.TO_ODD)
CHUNK = 1 << 17  # patterns at a time: what the second-level cache holds with their codes and values
SIGN, INFINITY = 0x80000000, 0x7F800000
ALL_CHUNKS = (*range(0, INFINITY, CHUNK), *range(SIGN, SIGN + INFINITY, CHUNK))
NEAR, RANDOM = 3, 1 << 16
NEAR_AND_RANDOM = f"every change of code within {NEAR} float32 steps, {RANDOM} random patterns"
DRAW_SAMPLE = (0, 128, 255)
EVERY_PATTERN_DRAWS = (128,)


@dataclass(frozen=True)
class Codec:
    """What is verified: functions of float32[n], the second of which writes values to its second argument."""

    encode: Callable[[np.ndarray], np.ndarray]
    quantize: Callable[[np.ndarray, np.ndarray], None]


def kernels_of(element: ElementFormat, policy: Policy) -> Codec:
    """Return the compiled encoder that tensors go through, at scale 1."""
    one = np.ones((1, 1), np.float32)

    def encode(x: np.ndarray) -> np.ndarray:
        return encode_rows(element, x[None], one, len(x), element.name, policy)[0]

    def quantize(x: np.ndarray, out: np.ndarray) -> None:
        quantize_rows(element, x[None], one, len(x), out[None], element.name, policy)

    return Codec(encode, quantize)


class FixedDraws(np.random.Generator):
    """A generator whose every draw is the same, so that stochastic rounding becomes a step function."""

    def __init__(self, draw: int, draw_bits: int) -> None:
        super().__init__(np.random.PCG64(0))
        half_word = draw << (DRAW_BITS - draw_bits)
        self.words = np.full(CHUNK // 4, sum(half_word << shift for shift in (0, 16, 32, 48)), np.uint64)

    def integers(self, low, high=None, size=None, dtype=np.int64, endpoint=False):  # type: ignore[override]
        return (
            self.words[:size]
            if isinstance(size, int) and size <= len(self.words)
            else np.full(size or (), self.words[0])
        )


def _all_are(array: np.ndarray, word: int) -> bool:
    """Say whether every element of a contiguous array is `word`; eight bytes are compared at a time."""
    want = np.full(8 // array.itemsize, word, array.dtype)
    if array.nbytes % 8:
        return bool(np.all(array == want[0]))
    return bool(np.all(array.view(np.uint64) == want.view(np.uint64)))


def every_pattern(tally: Tally, codec: Codec, steps: Steps, chunks: Iterable[int] = ALL_CHUNKS) -> None:
    """Compare codes and values of all finite float32 patterns, or of the chunks named, with a step function."""
    patterns, values = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.float32)
    x, value_bits = patterns.view(np.float32), values.view(np.uint32)
    table = value_table(tally.element).view(np.uint32).tolist()
    last = None
    for first in chunks:
        if last is not None and first == last + CHUNK:
            np.add(patterns, np.uint32(CHUNK), out=patterns)
        else:
            patterns[:] = np.arange(first, first + CHUNK, dtype=np.uint32)
        last = first
        codes = codec.encode(x)
        codec.quantize(x, values)
        same = True
        for begin, end, code in steps.runs(first, first + CHUNK):
            part = slice(begin - first, end - first)
            same &= _all_are(codes[part], code) and _all_are(value_bits[part], table[code])
        if same:
            tally.cases += 2 * CHUNK
        else:
            want = steps.at(patterns)
            tally.codes(x.copy(), codes, want)
            tally.values(x.copy(), values, want)


def near_patterns(steps: Steps, seed: int) -> np.ndarray:
    """Return finite float32 inputs around every change of code, and random patterns."""
    random = np.random.default_rng(seed).integers(0, 1 << 32, RANDOM, dtype=np.uint64).astype(np.uint32)
    patterns = np.concatenate((steps.neighbourhoods(NEAR), random))
    return patterns[(patterns & np.uint32(0x7FFFFFFF)) < INFINITY].view(np.float32)


def some_patterns(tally: Tally, codec: Codec, steps: Steps, seed: int) -> None:
    """Compare codes and values where codes change, and at random."""
    x = near_patterns(steps, seed)
    want = steps.at(x.view(np.uint32))
    values = np.empty_like(x)
    codec.quantize(x, values)
    tally.codes(x, codec.encode(x), want)
    tally.values(x, values, want)


def special_patterns(
    tally: Tally, steps: Steps, rounding: Rounding, overflow: Overflow, every: bool, seed: int
) -> None:
    """Compare the codes that plain encoding gives infinities and NaN (of every payload, or some)."""
    element = tally.element
    infinities = np.array([np.inf, -np.inf], np.float32)
    tally.codes(infinities, element.encode(infinities, rounding, overflow), steps.at(infinities.view(np.uint32)))
    payloads = np.arange(1, 1 << 23, dtype=np.uint32)
    if not every:
        payloads = np.unique(
            np.concatenate((payloads[:2], payloads[-2:], np.random.default_rng(seed).choice(payloads, 99)))
        )
    for sign in (0, SIGN):
        for chunk in np.array_split(payloads, -(-len(payloads) // CHUNK)):
            x = (chunk | np.uint32(INFINITY | sign)).view(np.float32)
            if element.nan_code is not None:
                tally.codes(x, element.encode(x, rounding, overflow), np.full(len(x), element.nan_code))
            else:
                tally.cases += 1
                refused = _refuses(lambda x=x: element.encode(x[:1], rounding, overflow))
                if not refused:
                    tally.mismatches += 1
                    tally.first = tally.first or "NaN is encoded although the format has none"


def _refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except MacloomError:
        return True
    return False


def has_kernel(element: ElementFormat, rounding: Rounding) -> bool:
    """Say whether a compiled loop rounds so, rather than the general encoder, which takes minutes for all patterns."""
    by_table = rounding is not Rounding.STOCHASTIC and lookup_table(element, rounding) is not None
    return steps_of(element) is not None or by_table


def check_rounding(element: ElementFormat, rounding: Rounding, exhaustive: bool, seed: int) -> Check:
    """Compare the kernels of one element format and rounding mode, saturating, with the reference."""
    tally, steps = Tally(element), reference_steps(element, rounding)
    codec = kernels_of(element, Policy(rounding=rounding))
    every = exhaustive and has_kernel(element, rounding)
    if every:
        every_pattern(tally, codec, steps)
    else:
        some_patterns(tally, codec, steps, seed)
    special_patterns(tally, steps, rounding, Overflow.SATURATE, exhaustive, seed)
    x = near_patterns(steps, seed)
    tally.codes(x, element.encode(x, rounding), steps.at(x.view(np.uint32)))
    scope = "every float32" if every else NEAR_AND_RANDOM
    return tally.check(f"{label(element)}, {rounding}: codes and values", f"{scope}; {len(steps.codes)} runs")


def overflow_policies(element: ElementFormat) -> list[Overflow]:
    """Return the overflow policies besides saturation for which the format has a code."""
    return [
        *([Overflow.TO_INF] if element.infinity else []),
        *([Overflow.TO_NAN] if element.nan_code is not None else []),
    ]


def check_policies(element: ElementFormat, seed: int) -> Check:
    """Compare every overflow policy, and dropping -0, under every rounding with the reference."""
    tally = Tally(element)
    for rounding in DETERMINISTIC:
        for overflow in overflow_policies(element):
            steps = reference_steps(element, rounding, overflow)
            some_patterns(tally, kernels_of(element, Policy(rounding=rounding, overflow=overflow)), steps, seed)
            special_patterns(tally, steps, rounding, overflow, False, seed)
        dropped = _without_negative_zero(element, reference_steps(element, rounding))
        some_patterns(tally, kernels_of(element, Policy(rounding=rounding, zero=ZeroPolicy.DROP)), dropped, seed)
    names = ", ".join((*overflow_policies(element), "zero=drop"))
    return tally.check(f"{label(element)}, {names}: codes and values", NEAR_AND_RANDOM)


def _without_negative_zero(element: ElementFormat, steps: Steps) -> Steps:
    if element.negative_zero_code is None:
        return steps
    zero = encode_reference(element, -0.0, zero=ZeroPolicy.DROP)
    return Steps(firsts=steps.firsts, codes=np.where(steps.codes == element.negative_zero_code, zero, steps.codes))


def check_stochastic(element: ElementFormat, every: bool, seed: int, draw_bits: int = 8) -> Check:
    """Compare stochastic rounding under fixed draws, each of which makes it a step function, and under real draws."""
    tally = Tally(element)
    all_patterns = every and has_kernel(element, Rounding.STOCHASTIC)
    draws: Sequence[int] = DRAW_SAMPLE
    if every:
        draws = range(1 << draw_bits) if element.bits <= 4 else (*DRAW_SAMPLE, *range(7, 250, 27))
    for draw in draws:
        steps = reference_steps(element, Rounding.STOCHASTIC, uniform=Fraction(draw, 1 << draw_bits))
        policy = Policy(rounding=Rounding.STOCHASTIC, draw_bits=draw_bits, rng=FixedDraws(draw, draw_bits))
        codec = kernels_of(element, policy)
        if all_patterns and draw in EVERY_PATTERN_DRAWS:
            every_pattern(tally, codec, steps)
        else:
            some_patterns(tally, codec, steps, seed)
    _real_draws(tally, seed, draw_bits)
    scope = f"draw {', '.join(map(str, EVERY_PATTERN_DRAWS))} on every float32, " if all_patterns else ""
    return tally.check(
        f"{label(element)}, {Rounding.STOCHASTIC}: codes and values",
        f"{scope}{len(draws)} fixed draws of {draw_bits} bits where codes change, and drawn ones",
    )


def _real_draws(tally: Tally, seed: int, draw_bits: int) -> None:
    """Compare 4096 random inputs, each with its own draw in row-major order."""
    element, rng = tally.element, np.random.default_rng(seed)
    low, high = (
        int(ranks_of(np.array([v], np.float32).view(np.uint32))[0]) for v in (element.min_value, element.max_value)
    )
    x = patterns_of(rng.integers(low, high + 1, 4096)).view(np.float32)
    policy = Policy(rounding=Rounding.STOCHASTIC, draw_bits=draw_bits, rng=np.random.default_rng(seed + 1))
    got = kernels_of(element, policy).encode(x)
    words = Policy(rounding=Rounding.STOCHASTIC, rng=np.random.default_rng(seed + 1)).draw(x.size)
    uniforms = [Fraction(int(word) >> (DRAW_BITS - draw_bits), 1 << draw_bits) for word in words]
    want = [
        encode_reference(element, value, Rounding.STOCHASTIC, uniform=uniform)
        for value, uniform in zip(x.tolist(), uniforms, strict=True)
    ]
    tally.codes(x, got, np.array(want))
