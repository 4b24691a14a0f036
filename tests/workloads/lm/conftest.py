"""A small random Llama and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from macloom.workloads.lm.checkpoint import save_checkpoint
from macloom.workloads.lm.model import LlamaConfig

SMALL = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)


def random_parameters(config: LlamaConfig, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.normal(0.0, 0.3, s, generator=generator) for n, s in config.parameter_shapes().items()}


@pytest.fixture
def small() -> LlamaConfig:
    return SMALL


@pytest.fixture
def untied() -> LlamaConfig:
    return replace(SMALL, tie_word_embeddings=False, rope_theta=500.0, vocab_size=100)


@pytest.fixture
def draw() -> Callable[..., dict[str, Tensor]]:
    return random_parameters


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A complete checkpoint directory with random weights."""
    directory = tmp_path / "model"
    save_checkpoint(directory, SMALL, random_parameters(SMALL), {"seed": 0})
    return directory
