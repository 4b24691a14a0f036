"""GEMM on encoded operands against Python integers and fractions, one output at a time."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import (
    Block,
    Encoded,
    ExactAccumulator,
    FloatAccumulator,
    GemmReport,
    IntegerAccumulator,
    IntegerOverflow,
    Operand,
    Ovp,
    Scaled,
    default_accumulator,
    gemm,
    get_accumulator,
    get_format,
    set_threads,
)
from macloom.formats.gemm import gemm_operands
from macloom.formats.kernels.accumulate_segments import segmented_float32
from macloom.formats.kernels.dot import sequential_float32
from macloom.formats.scales import E4M3, E8M0


def f32(values: object) -> np.ndarray:
    return np.array(values, np.float32)


def float32(value: Fraction) -> np.float32:
    """Round a rational to float32 once, to nearest even."""
    if not value:
        return np.float32(0)
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > magnitude
    step = Fraction(2) ** (max(exponent, -126) - 23)
    rounded = round(magnitude / step) * step
    assert rounded < Fraction(2) ** 128
    return np.float32(float(-rounded if value < 0 else rounded))


class Matrix:
    """Element values, the scale of each segment and the tensor's scale, read off the stored form."""

    def __init__(self, encoded: Encoded) -> None:
        fmt = encoded.format
        rows, length = encoded.shape
        self.outer = np.float32(encoded.outer)
        if isinstance(fmt, Ovp):
            slots = encoded.elements.astype(int)
            pairs = fmt.decode_pairs((slots[:, 0::2] << fmt.normal.bits) | slots[:, 1::2])
            self.values = np.stack(pairs, axis=-1).reshape(rows, -1)[:, :length].astype(np.float64)
            self.scales, self.block = self.spread(encoded.scales, rows), fmt.block or length
            self.unit = 0
        elif isinstance(fmt, Block):
            self.values = fmt.element.values[encoded.elements]
            self.scales = (E4M3 if fmt.two_level else E8M0).values[encoded.scales].astype(np.float32)
            self.block, self.unit = fmt.size, fmt.element.unit_exponent
        else:
            assert isinstance(fmt, Scaled)
            wide = fmt.element.bits > 16
            self.values = encoded.decode().astype(np.float64) if wide else fmt.element.values[encoded.elements]
            self.scales, self.block = self.spread(encoded.scales, rows), fmt.block or length
            self.unit = fmt.element.unit_exponent

    @staticmethod
    def spread(scales: np.ndarray, rows: int) -> np.ndarray:
        """Return scales as rows x segments: one for all, one per row, or one per segment."""
        scales = np.asarray(scales, np.float32)
        columns = scales if scales.ndim == 2 else scales.reshape(-1, 1)
        return np.broadcast_to(columns, (rows, columns.shape[1]))


Inner = Callable[[list[float], list[float], int], np.float32]


def exact_inner(a: list[float], b: list[float], unit: int) -> np.float32:
    return float32(sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0)))


def float_inner(a: list[float], b: list[float], unit: int) -> np.float32:
    total = np.float32(0)
    for x, y in zip(a, b, strict=True):
        total = np.float32(total + np.float32(x) * np.float32(y))
    return total


def integer_inner(bits: int, overflow: str) -> Inner:
    half = 1 << (bits - 1)

    def inner(a: list[float], b: list[float], unit: int) -> np.float32:
        exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0)) / Fraction(2) ** unit
        assert exact.denominator == 1
        total = int(exact)
        if overflow == "wrap":
            total = (total + half) % (2 * half) - half
        elif overflow == "saturate":
            total = min(max(total, -half), half - 1)
        elif not -half <= total < half:
            raise OverflowError
        return float32(Fraction(total) * Fraction(2) ** unit)

    return inner


def oracle(a: Encoded, b: Encoded, inner: Inner, descending: bool = False, scales_first: bool = False) -> np.ndarray:
    """Return the product by its definition; the two flags make wrong ones."""
    left, right = Matrix(a), Matrix(b)
    depth = a.shape[1]
    segment = min(left.block, right.block, depth)
    out = np.empty((a.shape[0], b.shape[0]), np.float32)
    starts = list(range(0, depth, segment))
    for m in range(a.shape[0]):
        for n in range(b.shape[0]):
            total: np.float32 | None = None
            for start in reversed(starts) if descending else starts:
                part = slice(start, start + segment)
                scale_a, scale_b = left.scales[m, start // left.block], right.scales[n, start // right.block]
                x, y = left.values[m, part].tolist(), right.values[n, part].tolist()
                term = inner(x, y, left.unit + right.unit)
                term = term * (scale_a * scale_b) if scales_first else term * scale_a * scale_b
                total = term if total is None else np.float32(total + term)
            assert total is not None
            out[m, n] = total
    return out * np.float32(left.outer * right.outer) if left.outer != 1 or right.outer != 1 else out


def operands(name_a: str, name_b: str, k: int = 80, seed: int = 0, m: int = 4, n: int = 5) -> tuple[Encoded, Encoded]:
    rng = np.random.default_rng([seed, k])
    a, b = (rng.normal(size=(rows, k)) * np.exp2(rng.integers(-3, 4, (rows, k))) for rows in (m, n))
    a[0, :3], b[1] = 0, 0
    fmt_a, fmt_b = get_format(name_a), get_format(name_b)
    unsigned = [getattr(f, "element", None) is not None and f.element.min_value >= 0 for f in (fmt_a, fmt_b)]
    return (
        fmt_a.encode((np.abs(a) if unsigned[0] else a).astype(np.float32)),
        fmt_b.encode((np.abs(b) if unsigned[1] else b).astype(np.float32)),
    )


def full_scale(name_a: str, name_b: str, k: int = 80, seed: int = 0, m: int = 4, n: int = 5) -> tuple[Encoded, Encoded]:
    """Return operands whose elements are mostly large and mostly positive, so that sums overflow narrow registers."""
    rng = np.random.default_rng([seed, k])
    x, y = (rng.uniform(0.3, 1, (r, k)) * rng.choice([-1, 1, 1, 1], (r, k)) for r in (m, n))
    x[0] *= 0.01
    return get_format(name_a).encode(x.astype(np.float32)), get_format(name_b).encode(y.astype(np.float32))


PAIRS = [
    ("int8:token", "int8:channel"),
    ("int4", "int4"),
    ("int4:group=8", "int8:group=40"),
    ("int4:group=16", "int4:group=80"),
    ("int8:group=16,scale=fp32", "int4:group=8"),
    ("uint8", "int8:axis=0"),
    ("int4", "mxfp4"),
    ("mxfp4", "mxfp8_e4m3"),
    ("mxfp4", "mxfp4:block=16"),
    ("mxfp8_e4m3", "mxfp8_e4m3"),
    ("mxfp6_e3m2", "mxfp6_e2m3"),
    ("mxfp8_e5m2", "mxfp8_e5m2"),
    ("mxint8", "bfp4:block=16"),
    ("nvfp4", "nvfp4"),
    ("nvfp4", "int8:token"),
    ("ovp4", "ovp4"),
    ("ovp4:normal=flint4", "int4"),
    ("ovp8", "ovp8"),
    ("ovp4:group=16", "mxfp4"),
    ("bfp8", "bfp8:block=64"),
    ("fp8_e4m3", "fp8_e4m3:token"),
    ("flint4", "fp4_e2m1"),
]
SEVERAL_BLOCKS = [
    ("mxfp4", "mxfp8_e4m3"),
    ("int4:group=8", "int8:group=40"),
    ("nvfp4", "nvfp4"),
    ("bfp8", "mxfp8_e4m3"),
]


def check(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


# -- against the oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("names", PAIRS, ids="*".join)
@pytest.mark.parametrize("k", [80, 72, 3])
def test_exact_accumulator_equals_fractions(names: tuple[str, str], k: int) -> None:
    if k % 16 and any("group" in name for name in names):
        k = 160 if k == 72 else 8
    a, b = operands(*names, k=k)
    check(gemm(a, b, "exact"), oracle(a, b, exact_inner))


@pytest.mark.parametrize("names", PAIRS, ids="*".join)
def test_float_accumulator_equals_a_loop_of_numpy_float32(names: tuple[str, str]) -> None:
    a, b = operands(*names)
    check(gemm(a, b, "fp32"), oracle(a, b, float_inner))


@pytest.mark.parametrize("names", PAIRS, ids="*".join)
def test_default_accumulator_equals_its_definition(names: tuple[str, str]) -> None:
    a, b = operands(*names)
    match default_accumulator(a.format, b.format):
        case IntegerAccumulator(bits=32):
            inner = integer_inner(32, "wrap")
        case ExactAccumulator():
            inner = exact_inner
        case _:
            inner = float_inner
    check(gemm(a, b), oracle(a, b, inner))


@pytest.mark.parametrize(
    "names", [("fp16", "fp16"), ("fp16", "mxfp8_e5m2"), ("mxfp8_e5m2", "mxfp8_e5m2")], ids="*".join
)
@pytest.mark.parametrize("k", [3, 64, 200])
def test_sums_beyond_53_bits_are_exact(names: tuple[str, str], k: int) -> None:
    rng = np.random.default_rng(k)
    spread = (np.exp2(rng.uniform(-14, 14, (4, k))) * rng.choice([-1, 1], (4, k))).astype(np.float32)
    spread[2, k // 2 :] = -spread[2, : k - k // 2]  # cancellation
    a, b = get_format(names[0]).encode(spread), get_format(names[1]).encode(np.roll(spread, 1, axis=1))
    want = oracle(a, b, exact_inner)
    check(gemm(a, b, "exact"), want)
    if k == 200 and names == ("fp16", "fp16"):
        left, right = a.decode()[0].tolist(), b.decode()[0].tolist()
        assert max(Fraction(x) * Fraction(y) for x, y in zip(left, right, strict=True)) > 0
        bits = [Fraction(x * y).denominator.bit_length() for x, y in zip(left, right, strict=True)]
        assert max(abs(want).max(), 1).item() * 2.0 ** max(bits) > 2.0**54  # no float64 sum would hold it


@pytest.mark.parametrize(
    "names", [("bf16", "bf16"), ("fp32", "fp32"), ("bf16", "mxfp4"), ("fp32", "int8")], ids="*".join
)
def test_wide_floats_are_exact_when_asked_and_sequential_by_default(names: tuple[str, str]) -> None:
    rng = np.random.default_rng(4)
    a = get_format(names[0]).encode(rng.normal(size=(3, 40)).astype(np.float16).astype(np.float32))
    b = get_format(names[1]).encode(rng.normal(size=(4, 40)).astype(np.float16).astype(np.float32))
    check(gemm(a, b, "exact"), oracle(a, b, exact_inner))
    check(gemm(a, b, "fp32"), oracle(a, b, float_inner))
    if a.format.block is None and b.format.block is None:
        assert isinstance(default_accumulator(a.format, b.format), FloatAccumulator)


def test_bfloat16_products_that_float32_cannot_sum_exactly_are_exact() -> None:
    row = f32([2.0**20, 2.0**-10, -(2.0**20), 2.0**-12])
    a = get_format("bf16").encode(row[None])
    b = get_format("bf16").encode(np.ones((1, 4), np.float32))
    assert gemm(a, b, "exact")[0, 0] == 2.0**-10 + 2.0**-12
    assert gemm(a, b, "fp32")[0, 0] == 2.0**-12
    assert gemm(a, get_format("bf16").encode(np.zeros((1, 4), np.float32)), "exact")[0, 0] == 0


@pytest.mark.parametrize("spare", [0, 1, 3, 12])
@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize(
    "names",
    [("int4", "int4"), ("int8:group=16", "int8"), ("ovp4", "int4"), ("mxfp4", "mxfp4"), ("ovp8", "ovp8")],
    ids="*".join,
)
def test_integer_accumulator_equals_python_integers(spare: int, overflow: str, names: tuple[str, str]) -> None:
    a, b = operands(*names)
    bits = (a.format.max_unit * b.format.max_unit).bit_length() + 1 + spare
    check(gemm(a, b, f"int{bits}:{overflow}"), oracle(a, b, integer_inner(bits, overflow)))


@pytest.mark.parametrize("names", [("int8", "int8"), ("int8:group=16", "int8:group=16")], ids="*".join)
def test_overflows_are_counted_and_refused_when_asked(names: tuple[str, str]) -> None:
    a, b = full_scale(*names, seed=2)
    left, right = Matrix(a), Matrix(b)
    count = total = 0
    segment = min(left.block, right.block)
    for start in range(0, 80, segment):
        part = slice(start, start + segment)
        sums = left.values[:, part] @ right.values[:, part].T
        count += int(((sums < -(1 << 14)) | (sums > (1 << 14) - 1)).sum())
        total += sums.size
    assert 0 < count < total
    for overflow in ("wrap", "saturate"):
        report = GemmReport()
        gemm(a, b, f"int15:{overflow}", report=report)
        assert (report.overflows, report.outputs, report.accumulator) == (count, total, f"int15:{overflow}")
    with pytest.raises(
        MacloomError, match=r"gemm: \d+ of \d+ sums overflow the 15-bit accumulator; widen it or choose"
    ):
        gemm(a, b, "int15:error")
    report = GemmReport()
    check(gemm(a, b, "int32:error", report=report), oracle(a, b, integer_inner(32, "error")))
    assert report.overflows == 0


def test_wrap_and_saturate_at_the_register_edges() -> None:
    fmt = get_format("int8")
    one = np.float32(1)
    for k, sum_ in ((1, 127 * 127), (2, 2 * 127 * 127)):
        a = fmt.encode(np.full((1, k), 127, np.float32), scale=one)
        for bits in (15, 16):
            half = 1 << (bits - 1)
            wrapped = (sum_ + half) % (2 * half) - half
            assert gemm(a, a, f"int{bits}:wrap")[0, 0] == wrapped
            assert gemm(a, a, f"int{bits}:saturate")[0, 0] == min(sum_, half - 1)
    low = fmt.encode(f32([[-127, -127, -2, -1]]), scale=one)
    high = fmt.encode(f32([[64, 64, 64, 0]]), scale=one)
    assert gemm(low, high, "int15:error")[0, 0] == -16384  # the most negative value fits
    with pytest.raises(MacloomError, match="1 of 1 sums overflow the 15-bit"):
        gemm(low, fmt.encode(f32([[-64, -64, -64, 0]]), scale=one), "int15:error")


# -- wrong ones must differ ------------------------------------------------------------------------


@pytest.mark.parametrize("names", SEVERAL_BLOCKS, ids="*".join)
def test_segments_in_descending_order_would_be_seen(names: tuple[str, str]) -> None:
    rng = np.random.default_rng(6)
    sizes = np.exp2(rng.integers(-12, 12, (2, 1, 240 // 8))).repeat(8, axis=-1)
    x, y = (rng.normal(size=(2, 8, 240)) * sizes).astype(np.float32)
    a, b = get_format(names[0]).encode(x), get_format(names[1]).encode(y)
    right, wrong = oracle(a, b, exact_inner), oracle(a, b, exact_inner, descending=True)
    assert (right != wrong).any()
    check(gemm(a, b, "exact"), right)


def test_scales_multiplied_before_rounding_would_be_seen() -> None:
    a, b = operands("int8:group=16,scale=fp32", "int8:group=16,scale=fp32", m=8, n=8)
    right, wrong = oracle(a, b, exact_inner), oracle(a, b, exact_inner, scales_first=True)
    assert (right != wrong).any()
    check(gemm(a, b, "exact"), right)


def test_another_order_of_additions_would_be_seen() -> None:
    a, b = operands("fp16", "fp16", m=8, n=8)
    right = oracle(a, b, float_inner)
    wrong = oracle(a, b, lambda x, y, u: float_inner(x[::-1], y[::-1], u))
    assert (right != wrong).any()
    assert (right != oracle(a, b, exact_inner)).any()
    check(gemm(a, b, "fp32"), right)


def test_wrap_at_another_width_would_be_seen() -> None:
    a, b = full_scale("int8", "int8")
    assert (gemm(a, b, "int15:wrap") != oracle(a, b, integer_inner(16, "wrap"))).any()


# -- paths -----------------------------------------------------------------------------------------


def by_one_segment_each(a: Operand, b: Operand, segment: int) -> np.ndarray:
    """Return the product as float32 sum of one-segment products, each by the matrix product path."""
    total: np.ndarray | None = None
    for start in range(0, a.units.shape[-1], segment):
        part = slice(start, start + segment)

        def cut(o: Operand, part: slice = part, start: int = start) -> Operand:
            scales = o.scales[..., start // o.block, None]
            length = o.units[..., part].shape[-1]
            return Operand(o.units[..., part], o.unit_exponent, scales, length, np.float32(1), o.max_unit)

        term = gemm_operands(cut(a), cut(b), ExactAccumulator(), GemmReport())
        total = term if total is None else total + term
    assert total is not None
    return total


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 96), (70, 300, 64), (1, 1, 33)])
def test_segmented_kernel_equals_the_products_of_segments_bit_for_bit(
    double: bool, shape: tuple[int, int, int]
) -> None:
    m, n, k = shape
    name = "mxfp8_e4m3" if double else "mxfp4"
    a, b = (e.operand() for e in operands(name, "mxfp4", k=k, m=m, n=max(n, 2)))
    unit = float(np.ldexp(1.0, a.unit_exponent + b.unit_exponent))
    got = segmented_float32(a, b, 32, unit, double)
    want = by_one_segment_each(a, b, 32)
    assert np.array_equal((got + np.float32(0)).view(np.uint32), (want + np.float32(0)).view(np.uint32))


@pytest.mark.parametrize(
    "names", [("mxfp4", "mxfp4"), ("int8", "int8"), ("fp16", "fp16"), ("mxfp8_e5m2", "nvfp4")], ids="*".join
)
def test_batches_and_threads_do_not_change_a_bit(names: tuple[str, str]) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 3, 24, 96)).astype(np.float32), rng.normal(size=(2, 3, 40, 96)).astype(np.float32)
    # One scale for all, so that batched and single encodings agree.
    fmt_a, fmt_b = (get_format(n) for n in names)
    scale_a = fmt_a.calibrate(x) if fmt_a.static_scale else None
    scale_b = fmt_b.calibrate(y) if fmt_b.static_scale else None
    try:
        set_threads(1)
        one = gemm(fmt_a.encode(x, scale=scale_a), fmt_b.encode(y, scale=scale_b))
        set_threads(2)
        two = gemm(fmt_a.encode(x, scale=scale_a), fmt_b.encode(y, scale=scale_b))
    finally:
        set_threads(None)
    assert one.shape == (2, 3, 24, 40)
    assert np.array_equal(one.view(np.uint32), two.view(np.uint32))
    for i in np.ndindex(2, 3):
        single = gemm(fmt_a.encode(x[i], scale=scale_a), fmt_b.encode(y[i], scale=scale_b))
        np.testing.assert_array_equal(one[i], single)


def test_many_threads_share_a_large_product() -> None:
    a, b = operands("mxfp4", "mxfp4", k=512, m=200, n=130)
    try:
        results = []
        for count in (1, 2, 3):
            set_threads(count)
            results.append(gemm(a, b))
    finally:
        set_threads(None)
    assert all(np.array_equal(results[0].view(np.uint32), r.view(np.uint32)) for r in results[1:])


def test_zero_rows_give_zeros() -> None:
    for name in ("int4", "mxfp8_e5m2", "nvfp4", "ovp4", "fp16", "bf16"):
        fmt = get_format(name)
        x = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
        zero = fmt.encode(np.zeros((2, 32), np.float32))
        for accumulator in ("exact", "fp32"):
            assert not np.any(gemm(zero, fmt.encode(x), accumulator))
            assert not np.any(gemm(fmt.encode(x), zero, accumulator))


def test_a_product_of_one_element() -> None:
    fmt = get_format("mxfp8_e4m3")
    assert gemm(fmt.encode(f32([[3]])), fmt.encode(f32([[-2]]))).tolist() == [[-6]]


# -- parts -----------------------------------------------------------------------------------------


def test_sequential_sum_equals_numpy_for_every_remainder_of_four() -> None:
    rng = np.random.default_rng(0)
    for k in range(1, 10):
        a, b = rng.normal(size=(2, 3, k)).astype(np.float32), rng.normal(size=(2, 4, k)).astype(np.float32)
        want = np.zeros((2, 3, 4), np.float32)
        for i in range(k):
            want = want + a[..., :, None, i] * b[..., None, :, i]
        assert np.array_equal(sequential_float32(a, b).view(np.uint32), want.view(np.uint32))


# -- names, defaults, errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, accumulator",
    [
        (("int8", "int8"), "int32:wrap"),
        (("mxfp4", "mxfp4"), "int32:wrap"),
        (("ovp8", "ovp8"), "int32:wrap"),
        (("mxfp8_e4m3", "mxfp8_e4m3"), "exact"),
        (("mxfp8_e5m2", "mxfp4"), "exact"),
        (("fp8_e4m3", "fp8_e4m3"), "fp32"),
        (("fp16", "fp16"), "fp32"),
        (("bf16", "mxfp4"), "fp32"),
    ],
)
def test_default_accumulators(names: tuple[str, str], accumulator: str) -> None:
    assert default_accumulator(*(get_format(n) for n in names)).name == accumulator


def test_accumulator_names() -> None:
    assert get_accumulator("int24:saturate") == IntegerAccumulator(bits=24, overflow=IntegerOverflow.SATURATE)
    assert get_accumulator("int8") == IntegerAccumulator(bits=8, overflow=IntegerOverflow.WRAP)
    assert get_accumulator("exact") == ExactAccumulator()
    assert get_accumulator("fp32") == FloatAccumulator()
    for text in ("int32:wrap", "int7:error", "exact", "fp32"):
        assert get_accumulator(text).name == text


@pytest.mark.parametrize(
    "text, message",
    [
        ("int24:satur", "accumulator overflow: unknown name 'satur'; did you mean 'saturate'"),
        ("int1", "accumulator.bits: must be an integer from 2 to 512, not 1"),
        ("int513", "accumulator.bits: must be an integer from 2 to 512, not 513"),
        ("float", "accumulator: must be one of 'exact', "),
        ("exact:wrap", "accumulator: must be 'exact', not 'exact:wrap'"),
        ("intx", "not 'intx'"),
    ],
)
def test_bad_accumulators_are_refused(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_accumulator(text)


def test_shapes_that_do_not_fit_are_refused() -> None:
    fmt = get_format("int8")

    def encode(*shape: int) -> Encoded:
        return fmt.encode(np.ones(shape, np.float32))

    for a, b in (((2, 3), (2, 4)), ((3,), (2, 3)), ((2, 2, 3), (3, 2, 3))):
        with pytest.raises(MacloomError, match=r"gemm: needs shapes \(..., M, K\) and \(..., N, K\), not \("):
            gemm(encode(*a), encode(*b))


def test_blocks_that_do_not_nest_are_refused() -> None:
    a, b = get_format("mxfp4:block=24"), get_format("mxfp4")
    message = "gemm: scale blocks of 24 and 32 elements along K do not nest \\('mxfp4:block=24' and 'mxfp4'\\); choose"
    with pytest.raises(MacloomError, match=message):
        gemm(a.encode(np.ones((1, 96), np.float32)), b.encode(np.ones((1, 96), np.float32)))


def test_scales_along_the_reduction_axis_are_refused() -> None:
    encoded = get_format("int4:axis=1").encode(np.ones((2, 4), np.float32))
    with pytest.raises(MacloomError, match="its scale changes along the reduction axis, which no integer product can"):
        gemm(encoded, encoded)


def test_integer_registers_refuse_what_they_cannot_hold() -> None:
    spread = f32([[60000, 2.0**-24]])
    fp16 = get_format("fp16").encode(spread)
    with pytest.raises(
        MacloomError,
        match=r"accumulator 'int32:wrap' is narrower than products of 'fp16' and 'fp16': 'int81' holds one, "
        "'int82' any sum of 2",
    ):
        gemm(fp16, fp16, "int32")
    bf16 = get_format("bf16").encode(spread)
    with pytest.raises(
        MacloomError, match="gemm: accumulator 'int32:wrap' needs integers, and products of 'bf16' and 'bf16' have no"
    ):
        gemm(bf16, bf16, "int32")
