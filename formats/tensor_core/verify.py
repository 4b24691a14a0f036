"""`macloom verify tensor-cores`: presets against mmasim, FP8 products against mmaemu, kernels against fractions.

Integer presets are compared with Python's integers, which are what integer sums are: modulo 2**32, or clamped after
every instruction, as PTX says of `.satfinite`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulator import get_accumulator
from macloom.formats.gemm import gemm
from macloom.formats.tensor_core.cases import MODES, codes, encoded, equal, sums, values
from macloom.formats.tensor_core.oracles import (
    INSTRUCTIONS,
    PRODUCTS,
    SCALES,
    SPLITS,
    Instruction,
    mmaemu_product,
    pairs,
    scaled_operand,
)
from macloom.formats.tensor_core.presets import get_preset, list_presets
from macloom.formats.tensor_core.product import multiply_add
from macloom.formats.tensor_core.record import INT32
from macloom.formats.tensor_core.reference import dot
from macloom.verification import Check, Options, oracle

FP8 = ("fp8_e4m3", "fp8_e5m2")
Compared = Iterator[tuple[str, np.ndarray]]


def checks(options: Options) -> Iterator[Check]:
    """Yield one check for each instruction, each product of matrices and each preset."""
    for package in ("mmasim", "mmaemu"):
        if find_spec(package) is None:
            raise MacloomError(f"verify tensor-cores: needs {package}; pip install {package}")
    rounds = 5 if options.exhaustive else 2
    calls: list[Callable[[], Check]] = [
        partial(_check, preset, " ".join(row[1:]), "mmasim", _instruction, (preset, row, rounds), options.seed)
        for preset, rows in INSTRUCTIONS.items()
        for row in rows
    ]
    calls += [
        partial(_check, row[0], f"{row[1]}, {row[2]}", "mmaemu", _product, (row, rounds), options.seed)
        for row in (*PRODUCTS, *SPLITS)
    ]
    calls += [
        partial(_check, name, "kernel", "fractions.Fraction", _reference, (name, rounds), options.seed)
        for name in list_presets()
        if get_preset(name).register is not INT32 and not get_preset(name).scale_block
    ]
    calls += [
        partial(_check, name, what, "Python integers", compare, (name, rounds), options.seed)
        for name in list_presets()
        if get_preset(name).register is INT32
        for what, compare in (("wrapping", _wrapped), ("satfinite", _clamped))
    ]
    options.expect(len(calls))
    yield from options.spread(calls)


def _check(name: str, what: str, package: str, compare: Any, arguments: tuple[Any, ...], seed: int) -> Check:
    start, cases, wrong, note = time.process_time(), 0, 0, ""
    for label, same in compare(np.random.default_rng(seed), *arguments):
        cases += same.size
        wrong += int(np.count_nonzero(~same))
        note = note or ("" if same.all() else f"first in {label}")
    return Check(
        subject=f"{name} ({what})",
        against=oracle(package),
        cases=cases,
        mismatches=wrong,
        seconds=time.process_time() - start,
        note=note,
    )


def _instruction(rng: np.random.Generator, preset: str, row: tuple[str, str, str], rounds: int) -> Compared:
    tc = get_preset(preset)
    scales = [fmt.name for fmt in tc.scales] or [""]
    for (a, b), scale in product(pairs(tc, row[2]), scales):
        mma = Instruction(*row, a, b, scale)
        for mode in MODES * rounds:
            left, right = codes(rng, a, (mma.m, mma.k), mode), codes(rng, b, (mma.n, mma.k), mode)
            c = sums(rng, mma.half, (mma.m, mma.n), mode)
            if scale:
                top, groups = SCALES[scale][1], mma.k // tc.scale_block
                low, high = {"bits": (0, top), "tiny": (0, top // 3)}.get(mode, (top // 2 - 8, top // 2 + 8))
                s = [rng.integers(low, high, (rows, groups)).astype(np.uint8) for rows in (mma.m, mma.n)]
                operands = scaled_operand(a, left, s[0], scale, tc), scaled_operand(b, right, s[1], scale, tc)
                yield f"{mma.name}, {mode}", equal(multiply_add(tc, *operands, c), mma(left, right, c, *s))
            else:
                operands = encoded(a, left).operand(), encoded(b, right).operand()
                yield f"{mma.name}, {mode}", equal(multiply_add(tc, *operands, c), mma(left, right, c))


def _product(rng: np.random.Generator, row: tuple[str, str, bool, Any], rounds: int) -> Compared:
    name, profile, fast, split = row
    for (a, b), mode in product([(FP8[0], FP8[0]), FP8, FP8[::-1]], MODES * rounds):
        length = int(rng.integers(1, 1300)) if split == 1 else 640
        left, right = codes(rng, a, (16, length), mode), codes(rng, b, (16, length), mode)
        theirs = mmaemu_product((a, left), (b, right), profile, fast, split)
        yield f"{a} times {b}, {mode}, K = {length}", equal(gemm(encoded(a, left), encoded(b, right), name), theirs)


def _reference(rng: np.random.Generator, preset: str, rounds: int) -> Compared:
    tc: Any = get_accumulator(f"tc:{preset}")
    a, b = tc.takes[0], tc.takes[-1]
    for mode in MODES * rounds:
        length = int(rng.integers(1, 4 * tc.block + 2))
        left, right = codes(rng, a.name, (3, length), mode), codes(rng, b.name, (3, length), mode)
        x, y = values(a.name, left), values(b.name, right)
        if tc.operand_mantissa:
            x, y = ((v.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for v in (x, y))
        least = a.min_exponent, b.min_exponent
        expected = np.array([[dot(tc, p.tolist(), q.tolist(), least) for q in y] for p in x], np.float32)
        yield mode, equal(gemm(encoded(a.name, left), encoded(b.name, right), tc), expected)


def integer_codes(rng: np.random.Generator, tc: Any, depth: int, mode: str) -> np.ndarray:
    """Return codes (2, depth) of an integer format: any, the ends of the range, or the most negative one alone."""
    bits = tc.takes[0].bits
    low, high = 1 << (bits - 1), (1 << (bits - 1)) - 1
    match mode:
        case "ends":
            return rng.choice(np.array([low, low + 1, high, 0], np.uint8), (2, depth))
        case "most negative":
            return np.full((2, depth), low, np.uint8)
    return rng.integers(0, 1 << bits, (2, depth)).astype(np.uint8)


def _integers(rng: np.random.Generator, preset: str, rounds: int) -> Iterator[tuple[str, Any, Any, list[list[int]]]]:
    """Yield (case, operand, operand, lists of products); the longest sums leave 32 bits."""
    tc = get_preset(preset)
    name, most = tc.takes[0].name, 2 ** (31 - 2 * (tc.takes[0].bits - 1))
    for mode in ("any", "ends", "most negative"):
        depths = rng.integers(1, 5 * tc.k, 4 * rounds).tolist()
        for depth in [*depths, most] if mode == "most negative" and most < 1 << 20 else depths:
            a, b = (integer_codes(rng, tc, depth, mode) for _ in "ab")
            whole = [[[int(tc.takes[0].value(int(code))) for code in row] for row in x] for x in (a, b)]
            products = [[x * y for x, y in zip(p, q, strict=True)] for p in whole[0] for q in whole[1]]
            yield f"{mode}, K = {depth}", encoded(name, a), encoded(name, b), products


def _wrapped(rng: np.random.Generator, preset: str, rounds: int) -> Compared:
    for case, a, b, products in _integers(rng, preset, rounds):
        want = [(sum(p) + 2**31) % 2**32 - 2**31 for p in products]
        yield case, equal(gemm(a, b, f"tc:{preset}").ravel(), np.array(want, np.float64).astype(np.float32))


def _clamped(rng: np.random.Generator, preset: str, rounds: int) -> Compared:
    k = get_preset(preset).k
    for case, a, b, products in _integers(rng, preset, rounds):
        want = []
        for p in products:
            total = 0
            for start in range(0, len(p), k):
                total = min(max(total + sum(p[start : start + k]), -(2**31)), 2**31 - 1)
            want.append(total)
        got = gemm(a, b, f"int32:saturate,every={k}").ravel()
        yield case, equal(got, np.array(want, np.float64).astype(np.float32))
