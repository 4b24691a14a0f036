"""torch tensors in and out without copies, and gradients by straight-through estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from macloom.errors import MacloomError
from macloom.formats import get_format, list_formats

FORMATS = ("int4:group=16", "fp8_e4m3", "mxfp4", "nvfp4", "ovp4", "nf4", "bf16", "fp32", "posit8_2")


def tensor(*shape: int, seed: int = 0, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * 3).to(**options).requires_grad_(options.get("dtype") is None)


@pytest.mark.parametrize("name", FORMATS)
def test_out_is_written_where_it_lies_and_the_input_is_read_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, x = get_format(name), tensor(4, 64).detach()
    out = torch.empty_like(x)
    seen: list[np.ndarray] = []
    kernels = type(fmt)._quantize

    def spy(self: Any, array: np.ndarray, *rest: Any) -> np.ndarray:
        seen.append(array)
        return kernels(self, array, *rest)

    monkeypatch.setattr(type(fmt), "_quantize_at_once", lambda *_: None)
    monkeypatch.setattr(type(fmt), "_quantize", spy)
    assert fmt.quantize(x, out=out) is out
    assert seen[0].__array_interface__["data"][0] == x.data_ptr()
    np.testing.assert_array_equal(out.numpy(), fmt.quantize(x.numpy()))
    assert fmt.quantize(x, out=x) is x
    assert torch.equal(x, out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_other_types_are_converted_to_float32(dtype: torch.dtype) -> None:
    x = tensor(3, 32).detach().to(dtype)
    q = get_format("int8").quantize(x)
    assert q.dtype == torch.float32
    np.testing.assert_array_equal(q.numpy(), get_format("int8").quantize(x.float().numpy()))


def test_strided_views_are_copied_and_right() -> None:
    x = tensor(32, 6).detach().T
    assert torch.equal(get_format("mxfp4").quantize(x), get_format("mxfp4").quantize(x.contiguous()))


@pytest.mark.parametrize("name", list_formats())
def test_identity_passes_every_gradient(name: str) -> None:
    fmt, x = get_format(name), tensor(4, 64).detach().abs().add(0.01).requires_grad_()
    weights = torch.arange(256.0).reshape(4, 64)
    values = fmt.quantize(x)
    assert values.requires_grad
    np.testing.assert_array_equal(values.detach().numpy(), fmt.quantize(x.detach().numpy()))
    (values * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights)


@pytest.mark.parametrize(
    "name, scale, low, high",
    [
        ("int4", 0.25, -1.75, 1.75),
        ("uint4", 0.5, 0.0, 7.5),
        ("fp8_e4m3", 0.01, -4.48, 4.48),
        ("posit8_2", 2.0**-24, -1.0, 1.0),
    ],
)
def test_clipped_is_zero_where_values_saturate(name: str, scale: float, low: float, high: float) -> None:
    edges = [low, high, np.nextafter(np.float32(low), np.float32(-9)), np.nextafter(np.float32(high), np.float32(9))]
    x = torch.tensor([*edges, -9.0, -1.0, 0.5, 9.0], requires_grad=True)
    get_format(name).quantize(x, scale=scale, ste="clipped").sum().backward()
    held = np.float32(scale) * np.float32(get_format(name).element.max_value)
    want = [float(np.float32(low) >= (-held if low else 0)), float(np.float32(high) <= held), 0.0, 0.0]
    assert x.grad is not None
    assert x.grad.tolist()[:4] == want
    assert x.grad.tolist()[4:] == [0.0, float(low <= -1), float(high >= 0.5), 0.0]


def test_clipped_knows_the_scale_of_each_block() -> None:
    x = torch.ones(1, 64)
    x[0, 0], x[0, 32] = 7.9, 6.0  # the floor rule gives both blocks the scale 1, whose largest value is 6
    x.requires_grad_()
    get_format("mxfp4").quantize(x, ste="clipped").sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0] == 0
    assert x.grad.sum() == 63


def test_clipped_inside_is_identity_and_needs_one_range() -> None:
    x = tensor(4, 64)
    for name in ("int8", "nvfp4", "fp32", "bf16"):
        (gradient,) = torch.autograd.grad(get_format(name).quantize(x, ste="clipped").sum(), x)
        assert gradient.mean() > 0.9
    with pytest.raises(
        MacloomError, match=r"ste: format 'ovp4' has no single range for each scale; use ste='identity'"
    ):
        get_format("ovp4").quantize(x, ste="clipped")


def test_the_gradient_has_the_type_of_the_tensor() -> None:
    x = tensor(4, 64).detach().to(torch.bfloat16).requires_grad_()
    get_format("int8").quantize(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert torch.all(x.grad == 1)


def test_a_layer_learns_through_quantized_weights() -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(8, 16, generator=generator)
    weight = torch.zeros(8, 16).add_(0.01).requires_grad_()
    losses = []
    for _ in range(60):
        loss = (get_format("int8:channel").quantize(weight) - target).square().mean()
        losses.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= 8 * gradient
    assert losses[-1] < 0.01 * losses[0]


def test_without_gradients_no_graph_is_built() -> None:
    x = tensor(2, 32)
    with torch.no_grad():
        assert not get_format("int8").quantize(x, ste="clipped").requires_grad
        weight = x.clone()
        assert get_format("int8").quantize(weight, out=weight) is weight
    assert get_format("int8").encode(x).decode().requires_grad is False
    assert get_format("int8").quantize(x, rng=None).grad_fn is not None


def test_stochastic_rounding_takes_its_generator() -> None:
    fmt, x = get_format("int4:rounding=stochastic"), tensor(2, 32)
    values = fmt.quantize(x, rng=np.random.default_rng(3))
    want = fmt.quantize(x.detach().numpy(), rng=np.random.default_rng(3))
    np.testing.assert_array_equal(values.detach().numpy(), want)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f, x: f.quantize(x, out=x.detach()), r"out: must be None for a tensor that requires a gradient"),
        (lambda f, x: f.quantize(x, ste="clip"), r"ste: unknown name 'clip'; did you mean 'clipped'\?"),
        (
            lambda f, x: f.quantize(torch.empty(2, 3, device="meta")),
            r"tensor: must be a dense tensor of real numbers with data, not meta",
        ),
        (
            lambda f, x: f.quantize(x.detach().to_sparse()),
            r"tensor: must be a dense tensor of real numbers with data, not sparse_coo float32",
        ),
        (lambda f, x: f.encode(torch.ones(3, dtype=torch.complex64)), r"not strided complex64"),
        (
            lambda f, x: f.quantize(x.detach(), out=torch.empty(4, 64, device="meta")),
            r"out: must be on the CPU, where kernels run, not on meta",
        ),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        call(get_format("int8"), tensor(4, 64))


def test_mutant_a_scaled_gradient_would_be_seen() -> None:
    x = tensor(4, 64)
    (gradient,) = torch.autograd.grad(get_format("int8").quantize(x).sum() * 2, x)
    assert not torch.equal(gradient, torch.ones(4, 64))
