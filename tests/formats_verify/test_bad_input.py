"""What issue 3 calls bad input: each with the message that says what to do, and never a silent wrap."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import AbFloat, Encoded, IntFormat, Ovp, Scaled, get_format, list_formats

ONES = np.ones((2, 32), np.float32)
NAN, INF = np.nan, np.inf


def holding(value: float, row: int = 1) -> np.ndarray:
    x = np.linspace(-3, 3, 4 * 64, dtype=np.float32).reshape(4, 64)
    x[row, 33] = value
    return x


@pytest.mark.parametrize(
    "text, length, message",
    [
        (
            "int4:group=24",
            100,
            r"format 'int4:group=24': group size 24 does not divide the last axis of 100 elements; "
            r"group sizes that do: 2, 4, 5, 10, 20, 25, 50, 100",
        ),
        ("ovp4:group=48", 100, r"group size 48 does not divide the last axis of 100 elements; group sizes that do: "),
        ("nf4", 100, r"group size 64 does not divide the last axis of 100 elements; group sizes that do: .*50, 100"),
    ],
)
def test_wrong_group_size_says_what_divides(text: str, length: int, message: str) -> None:
    for call in (get_format(text).encode, get_format(text).quantize, get_format(text).calibrate):
        with pytest.raises(MacloomError, match=message):
            call(np.ones((2, length), np.float32))


@pytest.mark.parametrize("text", ["ovp4", "ovp8", "ovp4:normal=flint4", "ovp4:assign=joint"])
def test_odd_rows_of_pairs_are_padded_with_a_zero_that_is_not_stored_as_a_value(text: str) -> None:
    # ../shared/spec/olive.md 0.1: pairs never straddle rows; the missing element counts as zero.
    fmt, x = get_format(text), np.array([[1, 50, 1], [60, 1, 1]], np.float32)
    padded = np.concatenate((x, np.zeros((2, 1), np.float32)), axis=1)
    scale = fmt.calibrate(padded)
    values = fmt.quantize(x, scale=scale)
    np.testing.assert_array_equal(values, fmt.quantize(padded, scale=scale)[:, :3])
    np.testing.assert_array_equal(values, fmt.encode(x, scale=scale).decode())


def test_pairs_need_a_signed_normal_type() -> None:
    far = AbFloat(exponent_bits=2, mantissa_bits=1, bias=4)
    with pytest.raises(MacloomError, match=r"ovp.normal: uint4 uses every code, so that none is left to mark a victim"):
        Ovp(name="x", normal=IntFormat(width=4, signed=False), outlier=far)
    with pytest.raises(MacloomError, match=r"unknown name 'uint4'; did you mean 'int4', 'flint4'\?"):
        get_format("ovp4:normal=uint4")
    with pytest.raises(MacloomError, match=r"has no encode, .*unsigned grids leave no identifier"):
        get_format("ovp4:mode=upstream").encode(np.abs(holding(1.0)))


def test_data_without_negative_values_are_ordinary_data_for_pairs() -> None:
    x = np.abs(holding(40.0))
    fmt = get_format("ovp4")
    assert float(fmt.quantize(x).min()) >= 0
    np.testing.assert_array_equal(fmt.quantize(-x), -fmt.quantize(x))


@pytest.mark.parametrize("value, what", [(NAN, "NaN"), (INF, "infinity"), (-INF, "infinity")])
@pytest.mark.parametrize("text", ["int8", "int4:group=32", "fp8_e4m3", "mxfp4", "nvfp4", "ovp4", "nf4", "fp32"])
def test_nan_and_infinities_are_refused(text: str, value: float, what: str) -> None:
    fmt = get_format(text)
    for call in (fmt.encode, fmt.quantize):
        with pytest.raises(MacloomError, match=f"the tensor holds {what}; clean it or choose a format that stores it"):
            call(holding(value))


def test_nan_and_infinities_are_stored_where_the_policies_say_so() -> None:
    fmt = get_format("fp8_e5m2:overflow=to_inf")
    x = np.array([1.0, NAN, INF, -INF, 1e9], np.float32)
    np.testing.assert_array_equal(fmt.quantize(x, scale=1.0), [1.0, NAN, INF, -INF, INF])
    with pytest.raises(MacloomError, match=r"the tensor holds NaN; clean it"):
        get_format("fp8_e5m2:overflow=to_inf,nan=error").quantize(x, scale=1.0)


@pytest.mark.parametrize("text", ["fp8_e5m2:none,overflow=to_inf,nan=error", "hif8:none,overflow=to_inf,nan=error"])
def test_infinities_pass_where_nan_alone_is_refused(text: str) -> None:
    fmt, x = get_format(text), np.array([1.0, INF, -INF, 1e9], np.float32)
    once = fmt.quantize(x)
    np.testing.assert_array_equal(once, [1.0, INF, -INF, INF])
    np.testing.assert_array_equal(fmt.quantize(once), once)
    np.testing.assert_array_equal(fmt.encode(once).decode(), once)
    long = np.ones((70000, 2), np.float32)  # more than is converted at a time
    long[-1, -1] = NAN
    before = long.copy()
    with pytest.raises(MacloomError, match=r"the tensor holds NaN; clean it, or choose a policy"):
        fmt.quantize(long, out=long)
    np.testing.assert_array_equal(long, before)


@pytest.mark.parametrize("text", list_formats())
def test_decoding_to_a_given_array_equals_decoding(text: str) -> None:
    encoded = encodable(text)
    assert encoded is not None
    want, out = encoded.decode(), np.full(encoded.shape, 7, np.float32)
    assert encoded.decode(out=out) is out
    np.testing.assert_array_equal(out.view(np.uint32), want.view(np.uint32))


def test_decoding_to_a_given_array_checks_it() -> None:
    encoded = get_format("mxfp4").encode(ONES)
    for out, message in (
        (np.empty((2, 31), np.float32), r"out: must be float32 of shape \(2, 32\), not float32 of shape \(2, 31\)"),
        (np.empty((2, 32)), r"out: must be float32 of shape \(2, 32\), not float64"),
        (np.empty((2, 64), np.float32)[:, ::2], r"out: must be contiguous and writable"),
        ([0.0], r"out: must be float32 of shape \(2, 32\), not list"),
    ):
        with pytest.raises(MacloomError, match=message):
            encoded.decode(out=out)
    memory = np.zeros((2, 32), np.float32)
    own = dataclasses.replace(encoded, elements=memory.view(np.uint8)[:, :32])
    with pytest.raises(MacloomError, match=r"out: must not be the memory of the codes or scales"):
        own.decode(out=memory)
    out, bad = np.zeros((2, 32), np.float32), encoded.elements.copy()
    bad[1, 31] = 16
    with pytest.raises(MacloomError, match=r"code 16 is not in \[0, 16\)"):
        dataclasses.replace(encoded, elements=bad).decode(out=out)
    assert np.isnan(out).all()


class Doubling(Scaled):
    """Changes `decode` alone, and inherits `decode_to`."""

    def decode(self, encoded: Encoded) -> np.ndarray:
        return 2 * super().decode(encoded)


def test_a_format_with_a_decoder_of_its_own_decodes_by_it_to_a_given_array() -> None:
    encoded = Doubling(name="doubling", element=IntFormat(width=8)).encode(ONES)
    out = np.empty_like(ONES)
    encoded.decode(out=out)
    np.testing.assert_array_equal(out, encoded.decode())


@pytest.mark.parametrize(
    "text",
    [
        "int8", "int4:group=32", "fp8_e4m3:rounding=to_odd", "int4:rounding=stochastic", "mxfp4", "nvfp4", "ovp4",
        "nf4", "posit16_2", "fp32", "affine8", "twinlog4", "gobo4",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [NAN, INF])
def test_out_is_never_half_written(text: str, value: float) -> None:
    """Where the input is refused, `out` is NaN throughout or as it was, and an input that is `out` is as it was."""
    fmt, x = get_format(text), holding(value, row=3)
    rng: dict[str, Any] = {"rng": np.random.default_rng(0)} if "stochastic" in text else {}
    before = np.full_like(x, 5)
    for scale in (None, fmt.calibrate(holding(1.0))):
        out = before.copy()
        with pytest.raises(MacloomError, match="the tensor holds"):
            fmt.quantize(x, scale=scale, out=out, **rng)
        assert np.isnan(out).all() or np.array_equal(out, before)
        same = x.copy()
        with pytest.raises(MacloomError, match="the tensor holds"):
            fmt.quantize(same, scale=scale, out=same, **rng)
        np.testing.assert_array_equal(same, x)


def test_out_of_a_policy_that_stores_nan_is_written_in_place() -> None:
    fmt = get_format("fp8_e5m2:overflow=to_inf")
    x = np.array([1.1, NAN, INF], np.float32)
    assert fmt.quantize(x, scale=1.0, out=x) is x
    np.testing.assert_array_equal(x, [1.0, NAN, INF])


@pytest.mark.parametrize(
    "text, message",
    [
        ("int4:grup=128", r"format 'int4', option: unknown name 'grup'; did you mean 'group'\? \(macloom show int4\)"),
        ("mxfp4:blok=16", r"format 'mxfp4', option: unknown name 'blok'; did you mean 'block'\?"),
        ("nf4:modus=upstream", r"format 'nf4', option: unknown name 'modus'; did you mean 'mode'\?"),
        ("int8:roundng=to_odd", r"option: unknown name 'roundng'; "),
    ],
)
def test_unknown_keys_name_the_nearest(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_format(text)


def encodable(text: str) -> Any:
    """Return what a format makes of a tensor, None where it has no codes."""
    fmt = get_format(text)
    for x in (holding(1.0), np.abs(holding(1.0)) + np.float32(0.1)):
        try:
            return fmt.encode(x)
        except MacloomError:
            continue
    return None


@pytest.mark.parametrize("text", list_formats())
def test_codes_out_of_range_are_refused(text: str) -> None:
    encoded = encodable(text)
    assert encoded is not None
    width = 8 * encoded.elements.itemsize
    if encoded.format.code_bits == width:
        return
    bad = encoded.elements.copy()
    bad.flat[-1] = np.iinfo(bad.dtype).max
    wrong = dataclasses.replace(encoded, elements=bad)
    for call in (wrong.decode, wrong.operand, lambda: wrong.codes):
        with pytest.raises(MacloomError, match=r"code \d+ is not in \[0, \d+\)"):
            call()


@pytest.mark.parametrize(
    "text, scale, message",
    [
        ("int8", [1.0, 2.0], r"scale: must have shape \(\) for a tensor of \(2, 32\), not \(2,\)"),
        ("int8:token", 1.0, r"scale: must have shape \(2,\) for a tensor of \(2, 32\), not \(\)"),
        ("mxfp4", 1.0, r"scale: must have shape \(2, 1\) for a tensor of \(2, 32\), not \(\)"),
        ("ovp4", [1.0, 2.0], r"scale: must have shape \(\)"),
    ],
)
def test_scales_of_the_wrong_shape(text: str, scale: Any, message: str) -> None:
    fmt = get_format(text)
    for call in (fmt.encode, fmt.quantize):
        with pytest.raises(MacloomError, match=message):
            call(ONES, scale=np.array(scale, np.float32))


@pytest.mark.parametrize(
    "text, scale, message",
    [
        (
            "int4:group=32",
            [[0.1], [0.5]],
            r"scale: format 'int4:group=32' stores scales as fp16, which does not hold 0.1\d*; the nearest is 0.0999",
        ),
        ("fp8_e4m3:token,scale=e8m0", [0.75, 1.0], r"stores scales as e8m0, which does not hold 0.75; the nearest is "),
        ("int8:scale=bf16", 1.01, r"stores scales as bf16, which does not hold 1.00999999; the nearest is 1.007\d+"),
        ("int8:scale=pow2", 0.75, r"stores scales as pow2, which does not hold 0.75; the nearest is 1"),
        ("mxfp4", [[3.0], [1.0]], r"scale: format 'mxfp4' stores powers of two from 2\*\*-127 to 2\*\*127 only"),
        ("nvfp4:levels=1", [[1.03, 1.0]] * 2, r"scale: format 'nvfp4:levels=1' stores normal E4M3 values only"),
        ("ovp4:scale=fp16", 0.1, r"stores scales as fp16, which does not hold 0.1\d*; the nearest is 0.0999\d+"),
    ],
)
def test_scales_that_the_storage_cannot_hold_are_refused(text: str, scale: Any, message: str) -> None:
    fmt = get_format(text)
    for call in (fmt.encode, fmt.quantize):
        with pytest.raises(MacloomError, match=message):
            call(ONES, scale=np.array(scale, np.float32))


@pytest.mark.parametrize("text", list_formats())
def test_calibrated_scales_are_what_the_storage_holds(text: str) -> None:
    fmt = get_format(text)
    x = np.abs(holding(1.0)) + np.float32(0.1)
    for clip in (None, 0.7):
        fmt.quantize(x, scale=fmt.calibrate(x, clip))


PLAIN = np.linspace(-3, 3, 4 * 64, dtype=np.float32).reshape(4, 64)


def changed(text: str, **parts: Any) -> Any:
    """Return how a stored tensor with other parts decodes."""
    encoded = get_format(text).encode(PLAIN)
    return dataclasses.replace(encoded, **parts).decode()


@pytest.mark.parametrize("text", ["int4", "mxfp4", "nvfp4", "ovp4", "bf16", "affine4", "twinlog4", "kvquant3", "fp32"])
@pytest.mark.parametrize("size", [(2, 64), (8, 64), (4, 62), (4, 128)])
def test_codes_of_another_shape_are_refused(text: str, size: tuple[int, int]) -> None:
    dtype = get_format(text).encode(PLAIN).elements.dtype
    with pytest.raises(MacloomError, match=r"codes must have shape \(4, 64\) for a tensor of \(4, 64\), not \("):
        changed(text, elements=np.zeros(size, dtype))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: changed("int4", elements=np.full((4, 64), -1)), r"format 'int4': code -1 is not in \[0, 16\)"),
        (
            lambda: changed("int4", elements=np.ones((4, 64))),
            "codes must be an array of unsigned integers, not float64",
        ),
        (lambda: changed("int4", elements=[[1]]), "codes must be an array of unsigned integers, not list"),
        (lambda: changed("nvfp4", outer=np.float32(NAN)), r"scale: must be finite and at least 2\*\*-120, not nan"),
        (lambda: changed("mxfp4", scales=np.full((4, 2), 256, np.uint16)), "scales: must be codes below 256, not 256"),
        (
            lambda: get_format("int4").from_packed(np.full((4, 32), 256), np.float32(1), (4, 64)),  # pyright: ignore[reportArgumentType]
            "codes: must be bytes, integers from 0 to 255, not int64 beyond that",
        ),
        (
            lambda: get_format("int4").from_packed(np.zeros((4, 32)), np.float32(1), (4, 64)),  # pyright: ignore[reportArgumentType]
            "codes: must be bytes, integers from 0 to 255, not float64",
        ),
        (lambda: get_format("int4").storage_bits((-1, 4)), r"shape: must be integers of 0 or more, not \(-1, 4\)"),
        (
            lambda: get_format("int4").quantize([[1, 2], [3]]),
            "tensor: must be an array of real numbers with equally long",
        ),
        (lambda: get_format("int4").quantize(PLAIN, clip="1"), "clip: must be positive and finite, not '1'"),  # pyright: ignore[reportArgumentType]
        (
            lambda: get_format("int4:rounding=stochastic").quantize(PLAIN, rng=3),  # pyright: ignore[reportArgumentType]
            r"rng: must be a numpy.random.Generator, not int; use default_rng\(seed\)",
        ),
        (lambda: IntFormat(width=4).decode(np.array([1.5])), "format 'int4': codes must be integers, not float64"),
        (lambda: IntFormat(width=4).encode(np.array(["a"])), "tensor: must hold real numbers, not <U1"),
        (lambda: IntFormat(width=4).encode([1.0], "up"), "rounding: unknown name 'up'; known are nearest_away"),  # pyright: ignore[reportArgumentType]
        (lambda: get_format("fp4_e2m1:overflow=to_inf"), "has no infinity; use 'saturate'$"),
        (lambda: get_format("fp8_e4m3:overflow=to_inf"), "has no infinity; use 'saturate' or 'to_nan'$"),
        (lambda: get_format("float:exponent=4,mantissa=3,bias=999"), "float.bias: must keep the values of E4M3 from"),
        (lambda: get_format("float:exponent=4,mantissa=3,bias=-115"), "float.bias: must keep the values of E4M3 from"),
    ],
)
def test_what_else_is_refused(call: Any, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        call()


def test_an_output_that_overlaps_the_input_is_refused() -> None:
    memory = np.linspace(-3, 3, 300, dtype=np.float32)
    before = memory.copy()
    with pytest.raises(MacloomError, match="out: must be the input itself or memory apart from it"):
        get_format("int4").quantize(memory[:256], out=memory[7:263])
    np.testing.assert_array_equal(memory, before)
