"""The runner and the checkpoints against transformers (extra `[llm]`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from macloom.workloads.lm.checkpoint import EMBEDDED, hugging_face_config, load_model, save_checkpoint
from macloom.workloads.lm.data import stdlib_text
from macloom.workloads.lm.model import LlamaConfig, forward

transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")

TEXTS = ("def f(x):\n\treturn x ** 2\n", " leading, trailing ", "naïve 漢字 👩‍🔬 \u200b end\0", "")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Deprecations inside transformers are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def logits_of(reference: torch.nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return reference.eval()(tokens).logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_transformers(
    small: LlamaConfig, draw: Callable[..., dict[str, Tensor]], attention: str, kv_heads: int, tied: bool
) -> None:
    config = replace(small, num_key_value_heads=kv_heads, tie_word_embeddings=tied, rope_theta=700.0, vocab_size=99)
    parameters = draw(config, seed=3)
    fields = {k: v for k, v in hugging_face_config(config).items() if k not in ("architectures", "model_type")}
    reference = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{**fields, "torch_dtype": "float32"}, attn_implementation=attention)
    )
    state = dict(parameters)
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    reference.load_state_dict(state, strict=True)
    tokens = torch.randint(99, (3, 40), generator=torch.Generator().manual_seed(0))
    ours = forward(parameters, config, tokens)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, logits_of(reference, tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_a_saved_checkpoint(
    tmp_path: Path, small: LlamaConfig, draw: Callable[..., dict[str, Tensor]], tied: bool
) -> None:
    config = replace(small, tie_word_embeddings=tied, rope_theta=300.0)
    save_checkpoint(tmp_path, config, draw(config), {})
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = load_model(tmp_path)
    tokens = torch.arange(64)[None]
    torch.testing.assert_close(
        forward(model.parameters, model.config, tokens), logits_of(reference, tokens), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_we_read_a_checkpoint_that_transformers_saved(tmp_path: Path, small: LlamaConfig, shard_size: str) -> None:
    fields = {k: v for k, v in hugging_face_config(small).items() if k not in ("architectures", "model_type")}
    fields |= {"torch_dtype": "float32", "rope_theta": 300.0, "initializer_range": 0.3}
    torch.manual_seed(0)
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    reference.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "20KB")
    model = load_model(tmp_path)
    assert model.config == replace(small, rope_theta=300.0)
    tokens = torch.arange(40)[None]
    torch.testing.assert_close(
        forward(model.parameters, model.config, tokens), logits_of(reference, tokens), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_embedded_model_runs_in_transformers(name: str) -> None:
    reference = transformers.AutoModelForCausalLM.from_pretrained(EMBEDDED[name], dtype=torch.float32)
    model = load_model(name)
    tokens = torch.from_numpy(stdlib_text("held-out").windows(256, 2).astype("int64"))
    torch.testing.assert_close(
        forward(model.parameters, model.config, tokens), logits_of(reference, tokens), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_is_the_bytes(checkpoint: Path, text: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_embedded_tokenizer_is_the_bytes(name: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(EMBEDDED[name])
    assert tokenizer(TEXTS[2]).input_ids == list(TEXTS[2].encode())
    assert tokenizer.vocab_size == 256
