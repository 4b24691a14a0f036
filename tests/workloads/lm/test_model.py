"""The runner: causality, grouped heads, and the pieces against formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from macloom.workloads.lm.model import FLOAT, FloatArithmetic, LlamaConfig, forward, rms_norm, rope_tables, rotate

Draw = Callable[..., dict[str, Tensor]]


def test_logits_do_not_depend_on_later_tokens(small: LlamaConfig, draw: Draw) -> None:
    parameters = draw(small)
    tokens = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 11:] = (changed[:, 11:] + 1) % 256
    before, after = forward(parameters, small, tokens), forward(parameters, small, changed)
    torch.testing.assert_close(before[:, :11], after[:, :11], rtol=0, atol=1e-6)
    assert (before[:, 11] - after[:, 11]).abs().max() > 1e-2


def test_logits_depend_on_every_earlier_token(small: LlamaConfig, draw: Draw) -> None:
    parameters = draw(small)
    tokens = torch.arange(8)[None]
    last = forward(parameters, small, tokens)[0, -1]
    for position in range(8):
        changed = tokens.clone()
        changed[0, position] = 200
        assert (forward(parameters, small, changed)[0, -1] - last).abs().max() > 1e-3


def test_grouped_heads_equal_repeated_key_value_heads(small: LlamaConfig, draw: Draw) -> None:
    full = replace(small, num_key_value_heads=small.num_attention_heads)
    grouped = draw(small)
    repeated = dict(grouped)
    for name, weight in grouped.items():
        if "k_proj" in name or "v_proj" in name:
            repeated[name] = weight.view(2, 8, -1).repeat_interleave(2, 0).reshape(32, -1)
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(forward(grouped, small, tokens), forward(repeated, full, tokens), rtol=0, atol=1e-5)


def test_every_matrix_product_goes_through_the_arithmetic(small: LlamaConfig, draw: Draw) -> None:
    class Recorder(FloatArithmetic):
        def __init__(self) -> None:
            self.names: list[str] = []

        def linear(self, name: str, x: Tensor, weight: Tensor) -> Tensor:
            self.names.append(name)
            return super().linear(name, x, weight)

        def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.names.append(name)
            assert (q.shape, k.shape, v.shape) == ((1, 4, 5, 8), (1, 2, 5, 8), (1, 2, 5, 8))
            return super().attention(name, q, k, v)

    recorder = Recorder()
    forward(draw(small), small, torch.arange(5)[None], recorder)
    expected = [
        f"model.layers.{i}.{n}"
        for i in range(2)
        for n in (
            *(f"self_attn.{p}_proj" for p in "qkv"), "self_attn", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        )
    ]  # fmt: skip
    assert recorder.names == [*expected, "lm_head"]


def test_rms_norm_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    y = rms_norm(x, torch.tensor([2.0, 1.0]), 0.0)
    torch.testing.assert_close(y[0], torch.tensor([6.0, 4.0]) / 12.5**0.5)
    assert torch.equal(rms_norm(x, torch.ones(2), 1e-5)[1], torch.zeros(2))


def test_rotation_keeps_lengths_and_depends_on_distance_only() -> None:
    cos, sin = rope_tables(10, 8, 100.0)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=generator).expand(1, 1, 10, 8) for _ in range(2))
    rotated_q, rotated_k = rotate(q, cos, sin)[0, 0], rotate(k, cos, sin)[0, 0]
    torch.testing.assert_close(rotated_q.norm(dim=-1), q[0, 0].norm(dim=-1))
    scores = rotated_q @ rotated_k.T
    for distance in range(-9, 10):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotated_q[0], q[0, 0, 0])


def test_attention_by_hand() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(1, h, 6, 4, generator=generator) for h in (2, 1, 1))
    out = FLOAT.attention("", q, k, v)
    for head in range(2):
        for t in range(6):
            weights = torch.softmax(k[0, 0, : t + 1] @ q[0, head, t] / 2.0, 0)
            torch.testing.assert_close(out[0, head, t], weights @ v[0, 0, : t + 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "config.hidden_size: must be a positive integer, not 0"),
        ({"num_attention_heads": 5}, "config.num_attention_heads: must divide the hidden_size 32, not 5"),
        ({"num_key_value_heads": 3}, "config.num_key_value_heads: must divide num_attention_heads 4, not 3"),
    ],
)
def test_configuration_is_valid_at_birth(small: LlamaConfig, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(small, **change)
