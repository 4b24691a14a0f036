"""Traces of transformers' own models against the formulas, and what a trace keeps of a model.

The two share nothing but the records they make: a formula reads the configuration, a trace records what the code of
transformers does with it on the meta device.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("torch")

from macloom.errors import MacloomError
from macloom.sim import simulate
from macloom.workloads import Gemm, Role, Vector, VectorKind, Workload, load_workload
from macloom.workloads.config import config_paths, read_json
from macloom.workloads.models import prefill_chunks, workload_of
from macloom.workloads.request import Request
from macloom.workloads.trace import load_trace, save_trace, trace_workload

SMALL = {"num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 96}
GROUPED = {
    **SMALL,
    "hidden_size": 64,
    "intermediate_size": 112,
    "max_position_embeddings": 64,
    "num_key_value_heads": 2,
}
# One small model of each family that has a formula: fields that differ from the zoo's first model of the family.
REDUCED: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "llama-biased": {**GROUPED, "model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 32},
    "opt": {"hidden_size": 64, **SMALL, "ffn_dim": 80, "max_position_embeddings": 64, "word_embed_proj_dim": 64},
    "opt-350m": {
        "model_type": "opt", "hidden_size": 64, **SMALL, "ffn_dim": 80, "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
    },
    "mistral": {**GROUPED, "sliding_window": 8},
    "mixtral": {**GROUPED, "sliding_window": None, "num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 32},
    "gemma": {**GROUPED, "head_dim": 32},
    "gemma2": {**GROUPED, "head_dim": 32, "sliding_window": 8},
    "phi": {**GROUPED, "num_key_value_heads": 4},
    "phi3": {**GROUPED, "sliding_window": 8, "pad_token_id": 0},
    "falcon": {"hidden_size": 64, **SMALL},
    "falcon-serial": {
        "model_type": "falcon", "hidden_size": 64, **SMALL, "parallel_attn": False, "multi_query": False, "bias": True,
    },
    "bloom": {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 96},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 96},
    "bert": {"hidden_size": 64, **SMALL, "intermediate_size": 112, "max_position_embeddings": 64},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 96},
    "bart": {
        "d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "vocab_size": 96,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 112, "decoder_ffn_dim": 80, "max_position_embeddings": 64,
    },
    "t5": {"d_model": 64, "d_kv": 8, "d_ff": 112, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4},
    "t5-gated": {
        "model_type": "t5", "d_model": 64, "d_kv": 8, "d_ff": 112, "num_layers": 2, "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    },
    "vit": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 112},
    "deit": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 112},
    "deit-distilled": {
        "model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"], "hidden_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 112,
    },
    "swin": {"embed_dim": 24, "depths": [2, 2, 3, 1], "num_heads": [2, 3, 4, 6]},
    "convnext": {"depths": [1, 2, 3, 1], "hidden_sizes": [24, 48, 64, 96]},
}  # fmt: skip
IMAGES = ("vit", "deit", "swin", "convnext")
ENCODER_DECODERS = ("bart", "t5")
TEXTS = [kind for kind in REDUCED if not kind.startswith((*IMAGES, "bert"))]


def document(kind: str) -> dict[str, Any]:
    return {"model_type": kind, **REDUCED[kind]}


@cache
def prefill(kind: str) -> Workload:
    """Return the trace of two short prompts, or of two images."""
    return trace_workload(document(kind), **PREFILL[kind.startswith(IMAGES)])


PREFILL: tuple[dict[str, Any], ...] = ({"sequence": 20, "batch": 2}, {"batch": 2})


def products(workload: Workload) -> Counter[tuple[Any, ...]]:
    """Return all products with their operands' roles, and how often they occur."""
    found: Counter[tuple[Any, ...]] = Counter()
    for g in workload.gemms:
        found[(g.m, g.n, g.k, g.batch, g.b_sharing, g.a, g.b, g.out, g.causal)] += g.repeat
    return found


def agree(traced: Workload, computed: Workload) -> None:
    assert products(traced) == products(computed)
    assert (traced.macs, traced.useful_macs) == (computed.macs, computed.useful_macs)
    assert (traced.parameters, traced.kv_elements, traced.tokens) == (
        computed.parameters,
        computed.kv_elements,
        computed.tokens,
    )


@pytest.mark.parametrize("kind", REDUCED)
def test_prefill_equals_the_formula(kind: str) -> None:
    agree(prefill(kind), workload_of("model", document(kind), Request(**PREFILL[kind.startswith(IMAGES)])))


@pytest.mark.parametrize("kind", TEXTS)
def test_decode_equals_the_formula(kind: str) -> None:
    given = {"phase": "decode", "context": 20, "batch": 3}
    if kind.startswith(ENCODER_DECODERS):
        given["source"] = 33
    agree(trace_workload(document(kind), **given), workload_of("model", document(kind), Request(**given)))


@pytest.mark.parametrize("kind", ["llama", "bloom", "gpt2", "mixtral", "gemma2"])
def test_a_chunk_of_a_prompt_equals_the_formula(kind: str) -> None:
    """Chunks longer than the window of Gemma 2, which is 8 here."""
    given: dict[str, Any] = {"sequence": 12, "past": 20, "batch": 2}
    agree(trace_workload(document(kind), **given), workload_of("model", document(kind), Request(**given)))


@pytest.mark.parametrize("routing", ["uniform", "zipf", [5, 0, 1, 1, 1]], ids=str)
def test_experts_share_rows_as_the_formula_says(routing: Any) -> None:
    given = {"sequence": 33, "routing": routing}
    traced = trace_workload(document("mixtral"), **given)
    agree(traced, workload_of("model", document("mixtral"), Request(**given)))
    assert traced.details["routing"] == routing


# Oracle: counts of the prototype, 10^12 MACs to three decimals, and of weights alone.
@pytest.mark.parametrize(
    ("name", "given", "macs", "of_weights"),
    [
        ("llama-2-7b", {"sequence": 2048}, 14.631, 13.531),
        ("mixtral-8x7b", {"phase": "decode", "context": 2048}, 0.013285, None),
        ("opt-6.7b", {"phase": "decode", "context": 2048}, 0.007185, None),
    ],
)
def test_full_models_equal_formula_and_count(
    name: str, given: dict[str, Any], macs: float, of_weights: float | None
) -> None:
    traced = trace_workload(name, **given)
    agree(traced, load_workload(name, **given))
    assert traced.macs / 1e12 == pytest.approx(macs, abs=0.0005 if macs > 1 else 5e-7)
    if of_weights:
        assert round(sum(g.macs for g in traced.gemms if g.b is Role.WEIGHT) / 1e12, 3) == of_weights


def test_a_wrong_model_is_noticed() -> None:
    """The mutant of these proofs: one key head more than the formula is told of."""
    traced = trace_workload({**document("llama"), "num_key_value_heads": 4}, **PREFILL[0])
    computed = workload_of("model", document("llama"), Request(**PREFILL[0]))
    assert products(traced) != products(computed)
    assert traced.kv_elements != computed.kv_elements


@pytest.mark.parametrize("kind", ["llama", "opt", "mistral", "mixtral", "qwen3", "gpt2", "bloom", "phi"])
def test_products_have_the_names_of_the_formula(kind: str) -> None:
    traced, computed = prefill(kind), workload_of("model", document(kind), Request(**PREFILL[0]))
    assert [(g.name, g.repeat) for g in traced.gemms] == [(g.name, g.repeat) for g in computed.gemms]


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_a_trace_costs_what_the_formula_costs(kind: str) -> None:
    """Vector operations, too: where a layer has the same ones, the simulator gives the same cycles and energy."""
    computed = workload_of("model", document(kind), Request(**PREFILL[0]))
    ours, theirs = (simulate(w, "olive-sa", "ovp4") for w in (prefill(kind), computed))
    assert ours.totals() == theirs.totals()


def named(workload: Workload) -> dict[str, Gemm | Vector]:
    found = {op.name: op for op in workload.ops}
    assert len(found) == len(workload.ops), "operation names are unique"
    return found


def test_a_llama_layer_is_one_operation_for_each_of_ours() -> None:
    ops = named(prefill("llama"))
    assert [(name, op.kind.value if isinstance(op, Vector) else "gemm") for name, op in ops.items()] == [
        ("embed_tokens", "embedding"), ("input_layernorm", "rms_norm"), ("self_attn.q_proj", "gemm"),
        ("self_attn.k_proj", "gemm"), ("self_attn.v_proj", "gemm"), ("self_attn.rope", "rope"),
        ("self_attn.rope_1", "rope"), ("self_attn.scores", "gemm"), ("self_attn.softmax", "softmax"),
        ("self_attn.values", "gemm"), ("self_attn.o_proj", "gemm"), ("add", "add"),
        ("post_attention_layernorm", "rms_norm"), ("mlp.gate_proj", "gemm"), ("mlp.act_fn", "silu"),
        ("mlp.up_proj", "gemm"), ("mlp.multiply", "multiply"), ("mlp.down_proj", "gemm"), ("add_1", "add"),
        ("norm", "rms_norm"), ("lm_head", "gemm"),
    ]  # fmt: skip
    # A result is known by who made it, over views, copies and layers.
    assert ops["input_layernorm"].reads == (("embed_tokens", "add_1"),)
    assert ops["add"].reads == (("embed_tokens", "add_1"), ("self_attn.o_proj",))
    assert ops["self_attn.o_proj"].reads == ("self_attn.values",)


@pytest.mark.parametrize("kind", REDUCED)
def test_every_read_is_of_an_operation(kind: str) -> None:
    traced = prefill(kind)
    ops = named(traced)
    for op in traced.ops:
        for makers in (op.reads,) if isinstance(op, Gemm) else op.reads:
            assert set(makers) <= set(ops), op.name
    assert not any(name.endswith(".multiply") and "act" in name for name in ops), "activations are one operation"


def test_bloom_keeps_its_own_attention() -> None:
    ops = named(prefill("bloom"))
    scores, cache = ops["self_attention.scores"], ops["self_attention.cache"]
    assert isinstance(scores, Gemm)
    assert isinstance(cache, Vector)
    assert (scores.batch, scores.m, scores.n, scores.k, scores.b, scores.causal) == (8, 20, 20, 16, Role.KV, True)
    assert (cache.rows, cache.width) == (40, 2 * 64)


def test_queries_of_falcon_share_one_key_head() -> None:
    ops = named(prefill("falcon"))
    scores = ops["self_attention.scores"]
    assert isinstance(scores, Gemm)
    assert (scores.batch, scores.b_sharing) == (8, 4)


def test_layers_of_two_kinds_are_one_of_each() -> None:
    traced = trace_workload(document("gemma2"), phase="decode", context=30)
    scores = [(g.n, g.repeat) for g in traced.gemms if g.name.endswith(".scores")]
    assert scores == [(8, 2), (30, 1)]


def test_the_scan_is_one_operation_at_any_length() -> None:
    short, long = (trace_workload(document("mamba"), sequence=n) for n in (16, 1024))
    assert len(short.ops) == len(long.ops)
    (scan,) = [op for op in long.ops if isinstance(op, Vector) and op.kind is VectorKind.SCAN]
    assert (scan.rows, scan.width, scan.terms, scan.repeat) == (1024, 128, 16, 3)


def test_head_of_last_tokens_only_and_of_none() -> None:
    every, last, none = (
        trace_workload(document("llama"), sequence=20, batch=2, head_tokens=h) for h in ("all", "last", "none")
    )
    assert every.macs - last.macs == (40 - 2) * 96 * 64
    assert last.macs - none.macs == 2 * 96 * 64


GPT_NEOX = {
    "model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 112, "vocab_size": 96, "max_position_embeddings": 64,
}  # fmt: skip


PLAIN = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 112}
GROUPS = {**PLAIN, "num_key_value_heads": 2, "vocab_size": 96}
# Architectures without a formula: attention of their own, partial rope, convolutions, latent keys, experts.
OTHERS: dict[str, dict[str, Any]] = {
    "gpt_neox": {**PLAIN, "vocab_size": 96},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "vocab_size": 96},
    "gpt_neo": {
        "hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 8, "vocab_size": 96,
    },
    "olmo2": GROUPS,
    "starcoder2": {**GROUPS, "sliding_window": None},
    "stablelm": GROUPS,
    "roberta": {**PLAIN, "vocab_size": 96},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 96},
    "dinov2": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28},
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2]},
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_equal_torch_flop_counter(kind: str) -> None:
    """Oracle: torch counts what the model does with values, on the CPU, in transformers' plain attention."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    from macloom.workloads.trace.build import IMAGE, build, configuration, image_shape

    config = {"model_type": kind, **OTHERS[kind]}
    traced = build(config)
    real = configuration(config)
    real._attn_implementation = "eager"
    model = getattr(transformers, type(traced.model).__name__)(real).eval()
    if traced.kind == IMAGE:
        given, argument = {}, torch.zeros((2, *image_shape(real)))
    else:
        given, argument = {"sequence": 20}, torch.arange(40).view(2, 20) % 90 + 3
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(argument)
    workload = trace_workload(config, batch=2, **given)
    assert workload.macs == counted.get_total_flops() // 2
    assert workload.parameters == sum(p.numel() for p in model.parameters())


def test_a_model_without_a_formula_is_traced_and_simulated(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT_NEOX))
    workload = load_workload(tmp_path, sequence=20)
    assert workload.macs == 20 * 3 * (4 * 64 * 64 + 2 * 64 * 112) + 3 * 2 * 20**2 * 64 + 20 * 96 * 64
    assert workload.details["traced"].startswith("transformers ")
    result = simulate(workload, "int8-sa", "int8")
    assert sum(op.cycles for op in result.ops) > 0
    parts = prefill_chunks(tmp_path, 8, sequence=20, head_tokens="last")
    whole = load_workload(tmp_path, sequence=20, head_tokens="last")
    assert sum(p.useful_macs for p in parts) == whole.useful_macs


def test_an_option_without_a_formula_is_traced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**document("falcon"), "alibi": True}))
    assert load_workload(tmp_path, sequence=20).details["traced"]


def test_a_saved_trace_is_the_workload(tmp_path: Path) -> None:
    for kind in ("mixtral", "mamba", "swin", "t5"):
        workload = prefill(kind)
        path = save_trace(workload, tmp_path / f"{kind}.json")
        assert load_trace(path) == load_workload(path) == workload


def test_a_saved_trace_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    path = save_trace(trace_workload(document("llama"), phase="decode", context=20), tmp_path / "trace.json")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        f"from macloom.workloads.models import load_workload; print(load_workload({str(path)!r}, phase='decode').macs)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == load_trace(path).macs


def fails(*arguments: Any, **options: Any) -> str:
    with pytest.raises(MacloomError) as caught:
        load_workload(*arguments, **options)
    return str(caught.value)


def test_arguments_that_contradict_a_saved_trace(tmp_path: Path) -> None:
    path = save_trace(trace_workload(document("llama"), sequence=20), tmp_path / "trace.json")
    assert load_workload(path, sequence=20).tokens == 20
    assert fails(path, sequence=21) == f"sequence: must be 20, as in the trace {path}, or left out, not 21"
    assert fails(path, phase="decode") == f"phase: must be 'prefill', which {path} is a trace of, not 'decode'"
    assert fails(path, batch=2) == f"batch: must be 1, as in the trace {path}, or left out, not 2"
    assert fails(path, chunk=4) == f"chunk: must be None, as in the trace {path}, or left out, not 4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"macloom_trace": 2}, "macloom_trace: must be 1, not 2; trace the model again"),
        ({"name": 3}, "name: must be of type str, not 3"),
        ({"tokens": "many"}, "tokens: must be of type int, not 'many'"),
        ({"ops": {}}, "ops: must be a list, not dict"),
        ({"ops": [{"op": "add"}]}, "ops[0].op: must be 'gemm' or 'vector', not {'op': 'add'}"),
        ({"ops": [{"op": "gemm", "name": "x", "m": 1, "n": 1}]}, "ops[0].k: is missing"),
        (
            {"ops": [{"op": "vector", "name": "x", "kind": "add", "rows": 1, "width": 1, "depth": 2}]},
            "ops[0].depth: must be a field of a vector: name, kind, rows, width, inputs, repeat, terms, reads",
        ),
        (
            {"ops": [{"op": "gemm", "name": "x", "m": 1, "n": 1, "k": 1, "b": "bias"}]},
            "ops[0].b: must be one of weight, activation, kv, probability, output, not 'bias'",
        ),
        (
            {"ops": [{"op": "gemm", "name": "x", "m": 2, "n": 2, "k": 2}]},
            "macs: must be the sum over ops, 8, not 7",
        ),
        (
            {"ops": [{"op": "gemm", "name": "x", "m": 0, "n": 2, "k": 2}]},
            "gemm 'x'.m: must be a positive integer, not 0",
        ),
    ],
)
def test_broken_traces(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    plain = {"macloom_trace": 1, "name": "x", "phase": "prefill", "parameters": 1, "kv_elements": 0, "tokens": 1}
    path.write_text(json.dumps({**plain, "macs": 7, "ops": [], **change}))
    assert fails(path) == f"{path}: {message}"


def test_without_transformers_the_message_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    from macloom.workloads.trace import available

    monkeypatch.setattr(available, "find_spec", lambda name: None if name == "transformers" else object())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GPT_NEOX))
    assert fails(tmp_path) == (
        f"{path}: config.model_type: unknown name 'gpt_neox'; did you mean 'gpt2'?; "
        "tracing needs transformers: pip install 'macloom[llm]', or use a saved trace"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "lama"}, "config.model_type: unknown name 'lama'; did you mean "),
        ({"model_type": "llama", "hidden_size": "wide"}, "config: transformers refuses it: "),
        (
            {"model_type": "gpt_neox", "hidden_act": "wild"},
            "config: transformers cannot build GPTNeoXForCausalLM: KeyError: ",
        ),
        (
            {"model_type": "wav2vec2"},
            "config.model_type: must be of a model that reads tokens or classifies images, ",
        ),
        ({"model_type": "pixart"}, "config.model_type: transformers has no 'pixart' to trace; it has a formula here: "),
    ],
)
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError) as caught:
        trace_workload(config)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("bert", {"phase": "decode"},
         "phase: must be 'prefill', not 'decode'; bert is an encoder and makes no tokens one by one"),
        ("vit", {"sequence": 9}, "sequence: must be left out for vit, whose input is an image, not 9"),
        ("llama", {"source": 9}, "source: must be left out for llama, which has no encoder before a decoder, not 9"),
        ("t5", {"past": 9}, "past: must be left out for t5, which keeps no keys from pass to pass, not 9"),
        ("llama", {"sequence": 65}, "sequence: must be at most 64, the model's max_position_embeddings, not 65"),
        ("llama", {"routing": "zipf"}, "routing: must be left out for llama, which has no experts, not 'zipf'"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_belong_to_a_model(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError) as caught:
        trace_workload(document(kind), **options)
    assert str(caught.value) == message


def test_an_operation_without_a_price_is_named_with_its_module(monkeypatch: Any) -> None:
    from macloom.workloads.trace import convert

    prices = {name: kind for name, kind in convert.ELEMENTWISE.items() if name != "silu"}
    monkeypatch.setattr(convert, "ELEMENTWISE", prices)
    with pytest.raises(MacloomError) as caught:
        trace_workload(document("llama"), sequence=20)
    assert str(caught.value) == ("trace: the operation 'silu' has no price; it is in model.layers.0.mlp.act_fn")


def test_a_model_that_needs_values_is_named_with_the_module(monkeypatch: Any) -> None:
    from transformers.models.llama import modeling_llama

    def needy(self: Any, x: Any) -> Any:
        return x * float(x.sum())

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", needy)
    with pytest.raises(MacloomError) as caught:
        trace_workload(document("llama"), sequence=20)
    message = str(caught.value)
    assert message.startswith("trace: llama does not run without weights, in model.layers.0.mlp: RuntimeError: ")
    assert "meta" in message


def test_a_trace_leaves_nothing_behind() -> None:
    """Neither the dtype nor a function of transformers is another one after a trace, or after one that failed."""
    import torch
    from transformers import PreTrainedModel
    from transformers.models.mamba import modeling_mamba

    before = (torch.get_default_dtype(), modeling_mamba.mamba_selective_scan)
    warning = PreTrainedModel.warn_if_padding_and_no_attention_mask
    trace_workload(document("mamba"), sequence=8)
    with pytest.raises(MacloomError):
        trace_workload({"model_type": "gpt_neox", "hidden_act": "wild"})
    assert before == (torch.get_default_dtype(), modeling_mamba.mamba_selective_scan)
    assert warning is PreTrainedModel.warn_if_padding_and_no_attention_mask


def test_every_family_with_a_formula_that_transformers_has_is_compared() -> None:
    from transformers.models.auto import configuration_auto

    zoo = {read_json(path)["model_type"] for path in config_paths().values()}
    compared = {document(kind)["model_type"] for kind in REDUCED}
    assert zoo & set(vars(configuration_auto)["CONFIG_MAPPING_NAMES"]) <= compared
    assert zoo - compared == {"dit", "pixart", "replknet"}
