"""Running a verb in this process, and a small model and text to run it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from macloom.cli import main


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a verb with --json and return what it printed, which must be strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    def run(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out, parse_constant=refuse)

    return run


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a verb that must fail and return its one line on stderr, which is the last."""

    def run(*arguments: str, status: int = 2) -> str:
        assert main(arguments) == status
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert captured.err.splitlines()[-1:] == lines
        return lines[0]

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the directory of a Llama with random weights and positions for 64 bytes."""
    import torch

    from macloom.workloads.lm.checkpoint import save_checkpoint
    from macloom.workloads.lm.model import LlamaConfig

    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=256,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    )
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: torch.randn(shape, generator=generator) / 8 if len(shape) == 2 else torch.ones(shape)
        for name, shape in config.parameter_shapes().items()
    }
    directory = tmp_path_factory.mktemp("model") / "small"
    save_checkpoint(directory, config, parameters, {})
    return str(directory)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "pangrams.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    return str(path)
