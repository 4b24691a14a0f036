"""MX in upstream mode is microxcaling, step by step."""

# Lists stand for arrays; numpy's stubs do not know float32 of a list.
# pyright: reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from macloom.errors import MacloomError
from macloom.formats import Block, Codebook, get_format
from macloom.formats.tensors.mx_upstream import LibraryRounding, MxUpstream, floor_log2

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mx_upstream.json").read_text())
NAMES = {
    "fp8_e4m3": "mxfp8_e4m3", "fp8_e5m2": "mxfp8_e5m2", "fp6_e3m2": "mxfp6_e3m2", "fp6_e2m3": "mxfp6_e2m3",
    "fp4_e2m1": "mxfp4", "int8": "mxint8",
}  # fmt: skip
# ebits, mbits with the sign, emax and max_norm of microxcaling's formats.py
PARAMETERS = {
    "fp8_e4m3": (4, 5, 8, 448.0), "fp8_e5m2": (5, 4, 15, 57344.0), "fp6_e3m2": (3, 4, 4, 28.0),
    "fp6_e2m3": (2, 5, 2, 7.5), "fp4_e2m1": (2, 3, 2, 6.0), "int8": (0, 8, 0, 127 / 64),
}  # fmt: skip


def floats(text: str) -> np.ndarray:
    return np.array([float(v) for v in text.split()], np.float32)


@pytest.mark.parametrize("rounding", ["nearest", "even"])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_equal_golden_microxcaling(name: str, rounding: str) -> None:
    fmt = get_format(f"{NAMES[name]}:mode=upstream,round={rounding}")
    for block in GOLDEN["blocks"]:
        x = np.array([int(word, 16) for word in block["in_u32"].split()], np.uint32).view(np.float32)
        encoded, expected = fmt.encode(x), block["out"][name]
        assert int(encoded.scales[0]) - 127 == expected["scale_exp"], block["tag"]
        np.testing.assert_array_equal(encoded.decode(), floats(expected[rounding]), err_msg=block["tag"])
        np.testing.assert_array_equal(fmt.quantize(x), encoded.decode())


def library(x: np.ndarray, name: str, rounding: str) -> np.ndarray:
    """The steps of `_quantize_mx`, `_quantize_elemwise_core` and `_round_mantissa`, with torch's own operations."""
    ebits, mbits, emax, max_norm = PARAMETERS[name]
    a = torch.from_numpy(x)
    shared, _ = torch.max(torch.abs(a), dim=-1, keepdim=True)
    shared = torch.floor(torch.log2(shared + torch.finfo(torch.float32).tiny * (shared == 0).float())) - emax
    shared[shared > 127] = float("nan")
    shared[shared < -127] = -127
    a = a / 2**shared
    private = torch.zeros_like(a)
    if ebits:
        private = torch.floor(torch.log2(torch.abs(a) + (a == 0).float())).clip(min=-(2 ** (ebits - 1)) + 2)
    out = a / 2**private * 2 ** (mbits - 2)
    size = torch.abs(out)
    if rounding == "nearest":
        out = torch.sign(out) * torch.floor(size + 0.5)
    elif rounding == "floor":
        out = torch.sign(out) * torch.floor(size)
    else:
        out = torch.sign(out) * (torch.floor(size + 0.5) - ((size - 0.5) % 2 == 0).float())
    out = torch.clamp(out / 2 ** (mbits - 2) * 2**private, min=-max_norm, max=max_norm)
    return (out * 2**shared).numpy()


@pytest.mark.parametrize("rounding", list(LibraryRounding))
@pytest.mark.parametrize("name", NAMES)
def test_random_blocks_equal_the_steps_in_torch(name: str, rounding: LibraryRounding) -> None:
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 1 << 32, (200, 32), dtype=np.uint32).view(np.float32)
    ties = rng.integers(-64, 65, (200, 32)).astype(np.float32) / 16
    below = np.nextafter(np.ldexp(np.float32(1), rng.integers(-120, 128, (100, 32))), np.float32(0)).astype(np.float32)
    x = np.concatenate((np.nan_to_num(bits, nan=1.0, posinf=2.0, neginf=-2.0), ties, below, 0 * ties[:1]))
    fmt = get_format(f"{NAMES[name]}:mode=upstream,round={rounding.value}")
    np.testing.assert_array_equal(fmt.quantize(x), library(x, name, rounding))


def test_floor_of_logarithm_equals_torch_next_to_powers_of_two() -> None:
    powers = np.ldexp(np.float32(1), np.arange(-126, 128)).view(np.uint32)
    x = (powers[:, None] - np.arange(64, dtype=np.uint32)).view(np.float32).reshape(-1)
    np.testing.assert_array_equal(floor_log2(x), torch.floor(torch.log2(torch.from_numpy(x))).numpy())


def test_differences_that_the_docstring_lists() -> None:
    upstream, default = get_format("mxfp4:mode=upstream"), get_format("mxfp4")
    x = np.float32([4.0, 0.25, -0.25, 5.0])
    np.testing.assert_array_equal(default.quantize(x), np.float32([4, 0, 0, 4]))
    np.testing.assert_array_equal(upstream.quantize(x), np.float32([4, 0.5, -0.5, 6]))
    largest_below_half = np.float32([4.0, np.nextafter(np.float32(0.25), np.float32(0))])
    assert upstream.quantize(largest_below_half)[1] == np.float32(0.5)
    below = np.nextafter(np.float32(64), np.float32(0))
    assert default.quantize(np.float32([below]))[0] == np.float32(48)
    assert upstream.quantize(np.float32([below]))[0] == np.float32(64)
    top = np.float32([np.finfo(np.float32).max, 1.0])
    assert np.isinf(upstream.quantize(top)[0])
    assert np.isnan(get_format("mxint8:mode=upstream").quantize(top)).all()
    assert np.isfinite(default.quantize(top)).all()


def test_mutant_without_the_float32_logarithm_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """With exact exponents the golden block just below a power of two comes out otherwise."""
    monkeypatch.setattr("macloom.formats.tensors.mx_upstream.floor_log2", lambda x: np.frexp(x)[1].astype(np.int32) - 1)
    fmt, differ = get_format("mxfp4:mode=upstream"), 0
    for block in GOLDEN["blocks"]:
        x = np.array([int(word, 16) for word in block["in_u32"].split()], np.uint32).view(np.float32)
        differ += int(np.any(fmt.quantize(x) != floats(block["out"]["fp4_e2m1"]["nearest"])))
    assert differ == 1


def test_storage_packing_and_given_scales() -> None:
    fmt = get_format("mxfp6_e3m2:mode=upstream,block=16")
    x = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    encoded = fmt.encode(x)
    assert encoded.bits == 3 * (40 * 6 + 3 * 8) == fmt.storage_bits(x.shape)
    back = fmt.from_packed(encoded.codes, encoded.scales, x.shape)
    np.testing.assert_array_equal(back.decode(), encoded.decode())
    scale = fmt.calibrate(x)
    np.testing.assert_array_equal(fmt.quantize(x, scale=scale), encoded.decode())
    out = np.empty_like(x)
    assert fmt.quantize(x, out=out) is out
    np.testing.assert_array_equal(out, encoded.decode())
    once = fmt.quantize(x, scale=scale)
    np.testing.assert_array_equal(fmt.quantize(once, scale=scale), once)


@pytest.mark.parametrize(
    "text, message",
    [
        ("mxfp4:round=even", "format option round: belongs to mode=upstream; use the policy rounding= otherwise"),
        ("mxfp4:mode=upstream,rule=ceil", "format option rule: does not apply to mode=upstream"),
        ("mxfp4:mode=upstream,round=odd", "format option round: unknown name 'odd'; known are even, floor, nearest"),
        ("mxfp4:mode=upstream,rounding=to_odd", "takes no policies"),
    ],
)
def test_options_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        get_format(text)


def test_errors() -> None:
    fmt, x = get_format("mxfp4:mode=upstream"), np.ones((2, 64), np.float32)
    with pytest.raises(MacloomError, match=r"scale: must have shape \(2, 2\) for a tensor of \(2, 64\), not \(3,\)"):
        fmt.encode(x, scale=np.ones(3, np.float32))
    with pytest.raises(MacloomError, match="stores powers of two and NaN only"):
        fmt.encode(x, scale=np.full((2, 2), 3, np.float32))
    with pytest.raises(MacloomError):
        fmt.encode(np.float32([np.nan, 1]))
    with pytest.raises(
        MacloomError, match="mx.mode: 'upstream' knows power-of-two scales and float or integer elements"
    ):
        MxUpstream(name="x", element=Codebook(label="c", levels=(0.0, 1.0)))
    assert isinstance(fmt, Block)
