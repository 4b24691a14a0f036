"""Every family: the streamed model against transformers, every recipe, decode against prefill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from macloom.formats import get_format
from macloom.workloads.hf.evaluator import ModelEvaluator
from macloom.workloads.hf.resident import ResidentModel
from macloom.workloads.lm.data import Text
from macloom.workloads.recipe import Recipe

CAUSAL = [
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma2", "phi3", "falcon", "opt", "gpt2", "bloom",
]  # fmt: skip
FAMILIES = [*CAUSAL, "bert", "vit"]
# Products of a family with two blocks: linear ones, two of attention, the head, what comes before the blocks.
PRODUCTS = {
    "llama": 19, "mistral": 19, "mixtral": 31, "qwen2": 19, "qwen3": 19, "gemma2": 19, "phi3": 13, "falcon": 13,
    "opt": 19, "gpt2": 13, "bloom": 13, "bert": 18, "vit": 18,
}  # fmt: skip
Directory = Callable[[str], Path]
Quick = Callable[..., Recipe]
IMAGES = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)


def evaluator(path: Path, text: Text, **options: Any) -> ModelEvaluator:
    if path.name == "vit":
        return ModelEvaluator(path, **{"images": IMAGES, "batch": 2, "calibration_windows": 2, **options})
    given = {"context": 20, "windows": 3, "batch": 2, "calibration": text, "calibration_windows": 2, **options}
    return ModelEvaluator(path, text, **given)


def both_logits(e: ModelEvaluator, recipe: Recipe | str) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Return the logits of the unquantized model and of the recipe, windows first, and the result."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    result = e.run(recipe, each=lambda i, reference, logits: found.append((reference.clone(), logits.clone())))
    return torch.stack([r for r, _ in found]), torch.stack([q for _, q in found]), result


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_recipe_gives_the_logits_of_transformers(
    family: str, directory: Directory, build: Callable[..., Any], sentences: Text, unquantized: Recipe
) -> None:
    e = evaluator(directory(family), sentences)
    reference, logits, result = both_logits(e, unquantized)
    with torch.inference_mode():
        expected = build(family)(**e.text.inputs).logits
    assert reference.shape == expected.shape
    torch.testing.assert_close(reference, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert result.floating == ()
    assert result.top1_agreement == 1.0
    assert min(result.sqnr_db.values()) > 100
    assert len(result.searches) == 2 * PRODUCTS[family]
    if e.text.targets is not None:
        nats = torch.nn.functional.cross_entropy(expected[e.text.scored], e.text.targets[e.text.scored])
        assert result.perplexity == pytest.approx(float(nats.exp()), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_recipes_run_every_product(family: str, directory: Directory, sentences: Text, quick: Quick) -> None:
    e = evaluator(directory(family), sentences, windows=1, calibration_windows=1)
    kl = {}
    for name in ("int8:token", "ovp4", "mxfp4"):
        result = e.run(quick(name))
        kl[name] = result.kl_nats
        assert result.nonfinite_logits == 0
        assert result.floating == ()
        assert {r["op"] for r in result.searches} >= result.sqnr_db.keys()
        assert {r["format"] for r in result.searches} <= {name, "fp16"}
        assert max(result.sqnr_db.values()) < 90
    assert 0 < kl["int8:token"] < min(kl["ovp4"], kl["mxfp4"])


def fake_quantized(model: Any, fmt: str, kept: str = "-") -> Any:
    """Return the model of transformers with the weights of its blocks rounded to a format, but one module's."""
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and (".h." in name or "layer" in name) and name != kept:
            transposed = isinstance(module, Conv1D)
            weight = module.weight.data.t().contiguous() if transposed else module.weight.data
            rounded = torch.from_numpy(get_format(fmt).quantize(weight.numpy()))
            module.weight.data = rounded.t() if transposed else rounded
    return model


KEPT = {"llama": "model.layers.0.self_attn.v_proj", "gpt2": "transformer.h.1.attn.c_proj",
        "bloom": "transformer.h.0.mlp.dense_h_to_4h", "bert": "bert.encoder.layer.1.output.dense"}  # fmt: skip


@pytest.mark.parametrize("family", sorted(KEPT))
def test_weights_have_the_values_of_their_format_like_fake_quantization_in_transformers(
    family: str, directory: Directory, build: Callable[..., Any], sentences: Text, quick: Quick
) -> None:
    e = evaluator(directory(family), sentences, windows=2)
    fp32 = get_format("fp32")
    others = dict.fromkeys(("activation", "kv", "probability", "output"), fp32)
    _, logits, _ = both_logits(e, quick("int4:channel", **others, overrides=(("lm_head", fp32), ("cls.*", fp32))))
    with torch.inference_mode():
        expected = fake_quantized(build(family), "int4:channel")(**e.text.inputs).logits
        mutant = fake_quantized(build(family), "int4:channel", KEPT[family])(**e.text.inputs).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    # One module that kept its weights is seen.
    assert not torch.allclose(logits, mutant, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", CAUSAL)
def test_decode_with_a_cache_gives_the_logits_of_prefill(
    family: str, directory: Directory, sentences: Text, quick: Quick
) -> None:
    path = directory(family)
    tokens = torch.from_numpy(np.frombuffer(sentences.data[:14], np.uint8).astype(np.int64))[None]
    for name in ("int8", "ovp4", "mxfp4"):
        e = evaluator(path, sentences, windows=1, calibration_windows=1)
        model = ResidentModel(e, quick(name, kv=get_format("fp32")))
        prefill = model.logits(tokens)
        cache = model.new_cache()
        parts = [model.logits(tokens[:, :9], cache)]
        parts += [model.logits(tokens[:, i : i + 1], cache) for i in range(9, 14)]
        torch.testing.assert_close(torch.cat(parts, 1), prefill, rtol=1e-4, atol=1e-4)
    # A cache that lost a token is seen.
    short = model.new_cache()
    model.logits(tokens[:, :8], short)
    assert not torch.allclose(model.logits(tokens[:, 9:10], short), prefill[:, 9:10], rtol=1e-4, atol=1e-4)
