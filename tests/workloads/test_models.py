"""Operation lists against published operation counts and against formulas written out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.workloads.config import Unsupported
from macloom.workloads.models import list_workloads, load_workload, prefill_chunks, workload_of
from macloom.workloads.ops import Gemm, Role, Vector, VectorKind, Workload
from macloom.workloads.request import Request

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 64,
}
OPT = {
    "model_type": "opt",
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 40,
    "max_position_embeddings": 64,
}


def local(directory: Path, config: dict, **changes: object) -> Path:
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    return directory


def weight_macs(workload: Workload) -> int:
    return sum(g.macs for g in workload.gemms if g.b is Role.WEIGHT)


def named(workload: Workload) -> dict[str, Gemm | Vector]:
    found = {op.name: op for op in workload.ops}
    assert len(found) == len(workload.ops), "operation names are unique"
    return found


# Oracle: traces of the transformers models, 10^12 MACs to three decimals (flop_counter / 2 agrees).
@pytest.mark.parametrize(("name", "total", "weight"), [("opt-6.7b", 14.715, 13.616), ("llama-3-8b", 16.469, 15.370)])
def test_prefill_macs_equal_a_trace(name: str, total: float, weight: float) -> None:
    workload = load_workload(name, sequence=2048)
    assert round(workload.macs / 1e12, 3) == total
    assert round(weight_macs(workload) / 1e12, 3) == weight


@pytest.mark.parametrize(("name", "billions"), [("opt-6.7b", 7.185), ("llama-3-8b", 8.042)])
def test_decode_macs_equal_a_trace(name: str, billions: float) -> None:
    assert round(load_workload(name, phase="decode", context=2048).macs / 1e9, 3) == billions


def test_opt_macs_by_hand() -> None:
    workload = load_workload("opt-6.7b", sequence=2048)
    assert weight_macs(workload) == 32 * (4 * 4096**2 + 2 * 4096 * 16384) * 2048 + 50272 * 4096 * 2048
    assert workload.macs - weight_macs(workload) == 32 * 2 * 2048**2 * 4096


def test_llama_3_macs_by_hand() -> None:
    workload = load_workload("llama-3-8b", sequence=1000, batch=3)
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert weight_macs(workload) == 3000 * (32 * layer + 4096 * 128256)
    assert workload.macs - weight_macs(workload) == 3 * 32 * 2 * 1000**2 * 4096


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (
            "opt-6.7b",
            50272 * 4096 + 2050 * 4096 + 2 * 4096
            + 32 * (4 * (4096 * 4096 + 4096) + 4096 * 16384 + 16384 + 16384 * 4096 + 4096 + 2 * 2 * 4096),
        ),
        (
            "llama-3-8b",
            2 * 128256 * 4096 + 4096
            + 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336 + 2 * 4096),
        ),
        ("tiny", 256 * 256 + 256 + 4 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512 + 2 * 256)),
    ],
)  # fmt: skip
def test_parameters_by_hand(name: str, parameters: int) -> None:
    assert load_workload(name).parameters == parameters


def test_parameters_equal_the_published_sizes() -> None:
    assert round(load_workload("opt-6.7b").parameters / 1e9, 3) == 6.658
    assert round(load_workload("llama-3-8b").parameters / 1e9, 3) == 8.030


@pytest.mark.parametrize(("name", "kib"), [("opt-6.7b", 512), ("llama-3-8b", 128)])
def test_fp16_cache_of_one_token(name: str, kib: int) -> None:
    long = load_workload(name, phase="decode", context=1001).kv_elements
    short = load_workload(name, phase="decode", context=1000).kv_elements
    assert (long - short) * 2 == kib * 1024


def test_names_of_embedded_models_share_one_shape() -> None:
    assert set(list_workloads()) >= {"tiny", "tiny-outlier", "opt-6.7b", "llama-3-8b"}
    plain, outlier = load_workload("tiny"), load_workload("tiny-outlier")
    assert outlier.renamed("tiny") == plain
    assert plain.tokens == 1024


def test_llama_block_holds_every_operation_in_order() -> None:
    workload = load_workload("llama-3-8b", sequence=16, batch=2)
    assert [op.name for op in workload.ops] == [
        "embed_tokens", "input_layernorm",
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.rope_q", "self_attn.rope_k",
        "self_attn.scores", "self_attn.softmax", "self_attn.values", "self_attn.o_proj", "self_attn.residual",
        "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.silu", "mlp.multiply", "mlp.down_proj",
        "mlp.residual", "norm", "lm_head",
    ]  # fmt: skip
    ops = named(workload)
    assert all(op.repeat == (1 if name in ("embed_tokens", "norm", "lm_head") else 32) for name, op in ops.items())
    assert ops["self_attn.scores"] == Gemm(
        name="self_attn.scores", m=16, n=16, k=128, batch=64, b=Role.KV, b_sharing=4, causal=True, repeat=32,
        reads=("self_attn.rope_q",),
    )  # fmt: skip
    assert ops["self_attn.values"] == Gemm(
        name="self_attn.values", m=16, n=128, k=16, batch=64, a=Role.PROBABILITY, b=Role.KV, out=Role.ACTIVATION,
        b_sharing=4, causal=True, repeat=32, reads=("self_attn.softmax",),
    )  # fmt: skip
    assert ops["self_attn.softmax"] == Vector(
        name="self_attn.softmax", kind=VectorKind.SOFTMAX, rows=2 * 32 * 16, width=16, repeat=32,
        reads=(("self_attn.scores",),),
    )  # fmt: skip
    rope = [ops[f"self_attn.rope_{t}"] for t in "qk"]
    assert [r.elements for r in rope if isinstance(r, Vector)] == [32 * 4096, 32 * 1024]
    assert ops["mlp.multiply"] == Vector(
        name="mlp.multiply", kind=VectorKind.MULTIPLY, rows=32, width=14336, inputs=2, repeat=32,
        reads=(("mlp.silu",), ("mlp.up_proj",)),
    )  # fmt: skip


def test_opt_block_holds_every_operation_in_order() -> None:
    workload = load_workload("opt-6.7b", sequence=16)
    assert [op.name for op in workload.ops] == [
        "embed_tokens", "embed_positions", "add_positions", "self_attn_layer_norm",
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
        "self_attn.scores", "self_attn.softmax", "self_attn.values", "self_attn.out_proj", "self_attn.residual",
        "final_layer_norm", "fc1", "relu", "fc2", "mlp.residual", "final_norm", "lm_head",
    ]  # fmt: skip
    ops = named(workload)
    assert ops["fc1"] == Gemm(name="fc1", m=16, n=16384, k=4096, repeat=32, reads=("final_layer_norm",))
    scores = ops["self_attn.scores"]
    assert isinstance(scores, Gemm)
    assert (scores.batch, scores.m, scores.k, scores.n, scores.b_sharing) == (32, 16, 128, 16, 1)


@pytest.mark.parametrize("name", ["opt-6.7b", "llama-3-8b", "tiny"])
def test_every_input_is_the_result_of_an_operation_of_that_size(name: str) -> None:
    workload = load_workload(name, sequence=16, batch=2)
    ops = named(workload)

    def made(op: object) -> int:
        return op.out_elements if isinstance(op, Gemm) else op.elements  # type: ignore[attr-defined]

    unread = []
    for op in workload.ops:
        if isinstance(op, Gemm):
            size = op.a_elements
            inputs = (op.reads,)
        else:
            size, inputs = op.elements, op.reads
        unread += [op.name] if not inputs else []
        for makers in inputs:
            assert {made(ops[maker]) for maker in makers} == {size}, op.name
    assert all("embed" in op for op in unread)


def test_results_of_key_and_value_projections_belong_to_the_cache() -> None:
    roles = {g.name: g.out for g in load_workload("opt-6.7b").gemms}
    assert {n for n, role in roles.items() if role is Role.KV} == {"self_attn.k_proj", "self_attn.v_proj"}


@pytest.mark.parametrize(
    ("name", "encoded"), [("opt-6.7b", {"self_attn.q_proj", "self_attn.values"}), ("llama-3-8b", {"self_attn.values"})]
)
def test_results_that_the_next_product_reads_are_activations(name: str, encoded: set[str]) -> None:
    assert {g.name for g in load_workload(name).gemms if g.out is Role.ACTIVATION} == encoded


def test_batched_decode_shares_projections_but_not_attention() -> None:
    ops = named(load_workload("llama-3-8b", phase="decode", context=512, batch=8))
    q, scores, head = ops["self_attn.q_proj"], ops["self_attn.scores"], ops["lm_head"]
    assert isinstance(q, Gemm)
    assert isinstance(scores, Gemm)
    assert isinstance(head, Gemm)
    assert (q.m, q.batch) == (8, 1)
    assert (scores.m, scores.n, scores.batch, scores.causal) == (1, 512, 8 * 32, False)
    assert scores.b_elements == 8 * 8 * 512 * 128
    assert head.m == 8


def test_head_of_last_tokens_only() -> None:
    every, last = (load_workload("opt-6.7b", sequence=128, batch=2, head_tokens=h) for h in ("all", "last"))
    assert every.macs - last.macs == (256 - 2) * 50272 * 4096
    decode = [load_workload("opt-6.7b", phase="decode", head_tokens=h).macs for h in ("all", "last")]
    assert decode[0] == decode[1]


@settings(max_examples=40)
@given(
    name=st.sampled_from(["tiny", "opt-6.7b", "llama-3-8b"]),
    phase=st.sampled_from(["prefill", "decode"]),
    length=st.integers(1, 1024),
    batch=st.integers(1, 9),
)
def test_macs_and_cache_are_linear_in_the_batch(name: str, phase: str, length: int, batch: int) -> None:
    keys: dict[str, Any] = {"sequence" if phase == "prefill" else "context": length}
    one = load_workload(name, phase=phase, **keys)
    many = load_workload(name, phase=phase, batch=batch, **keys)
    assert many.macs == batch * one.macs
    assert many.kv_elements == batch * one.kv_elements
    assert many.tokens == batch * one.tokens
    assert many.parameters == one.parameters


@settings(max_examples=40)
@given(name=st.sampled_from(["tiny", "opt-6.7b", "llama-3-8b"]), length=st.integers(1, 1024))
def test_prefill_costs_as_much_as_decoding_with_a_full_context(name: str, length: int) -> None:
    prefill = load_workload(name, sequence=length)
    decode = load_workload(name, phase="decode", context=length)
    assert prefill.macs == length * decode.macs
    assert prefill.kv_elements == decode.kv_elements


def test_defaults_stay_within_the_positions_of_the_model(tmp_path: Path) -> None:
    path = local(tmp_path, LLAMA)
    assert load_workload(path).tokens == 64
    assert load_workload(path, phase="decode").details["context"] == 64
    assert load_workload("llama-3-8b").tokens == 2048


def test_local_directory_and_configuration_file_give_the_same_model(tmp_path: Path) -> None:
    directory = local(tmp_path, OPT)
    assert load_workload(directory) == load_workload(str(directory / "config.json"))
    assert load_workload(directory).name == tmp_path.name


def test_projected_embedding_of_opt(tmp_path: Path) -> None:
    plain = load_workload(local(tmp_path, OPT))
    narrow = load_workload(local(tmp_path, OPT, word_embed_proj_dim=8, do_layer_norm_before=False))
    assert set(named(narrow)) - set(named(plain)) == {"project_in", "project_out"}
    assert set(named(plain)) - set(named(narrow)) == {"final_norm"}
    assert plain.parameters - narrow.parameters == 40 * (32 - 8) - 2 * 32 * 8 + 2 * 32


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (LLAMA, {}),
        (LLAMA, {"tie_word_embeddings": True, "num_key_value_heads": None}),
        (LLAMA, {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
        (OPT, {}),
        (OPT, {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
        (OPT, {"enable_bias": False, "layer_norm_elementwise_affine": False, "tie_word_embeddings": False}),
    ],
)
def test_parameters_and_projections_equal_transformers(tmp_path: Path, config: dict, changes: dict) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    workload = load_workload(local(tmp_path, config, **changes))
    fields = {k: v for k, v in {**config, **changes}.items() if k != "model_type"}
    fields.setdefault("word_embed_proj_dim", 32)
    prefix = "Llama" if config is LLAMA else "OPT"
    with torch.device("meta"):
        built = getattr(transformers, f"{prefix}ForCausalLM")(getattr(transformers, f"{prefix}Config")(**fields))
    assert workload.parameters == sum(p.numel() for p in built.parameters())
    linears: dict[str, tuple[int, int, int]] = {}
    for name, module in built.named_modules():
        if isinstance(module, torch.nn.Linear):
            short = name.rpartition("layers.")[2].partition(".")[2] if "layers." in name else name.split(".")[-1]
            n, k, repeat = linears.get(short, (module.out_features, module.in_features, 0))
            linears[short] = (n, k, repeat + 1)
    assert {g.name: (g.n, g.k, g.repeat) for g in workload.gemms if g.b is Role.WEIGHT} == linears


@pytest.mark.parametrize("config", [LLAMA, OPT, {**OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False}])
def test_macs_equal_torch_flop_counter_on_transformers(tmp_path: Path, config: dict) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    prefix = "Llama" if config["model_type"] == "llama" else "OPT"
    fields = {"word_embed_proj_dim": 32, **{k: v for k, v in config.items() if k != "model_type"}}
    built = getattr(transformers, f"{prefix}ForCausalLM")(
        getattr(transformers, f"{prefix}Config")(**fields, attn_implementation="eager")
    ).eval()
    tokens = torch.arange(3 * 20).view(3, 20) % 40
    path = local(tmp_path, config)
    with torch.no_grad():
        with FlopCounterMode(display=False) as prefill:
            cache = built(tokens[:, :-1], use_cache=True).past_key_values
        with FlopCounterMode(display=False) as decode:
            built(tokens[:, -1:], past_key_values=cache, use_cache=True)
    assert load_workload(path, sequence=19, batch=3).macs == prefill.get_total_flops() // 2
    assert load_workload(path, phase="decode", context=20, batch=3).macs == decode.get_total_flops() // 2


def fails(*arguments: Any, **options: Any) -> str:
    with pytest.raises(MacloomError) as caught:
        load_workload(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "train"}, "phase: must be 'prefill' or 'decode', not 'train'"),
        ({"sequence": 0}, "sequence: must be a positive integer, not 0"),
        ({"sequence": 2.0}, "sequence: must be a positive integer, not 2.0"),
        ({"sequence": 2049}, "sequence: must be at most 2048, the model's max_position_embeddings, not 2049"),
        (
            {"phase": "decode", "context": 4096},
            "context: must be at most 2048, the model's max_position_embeddings, not 4096",
        ),
        ({"context": 5}, "context: must not be given for prefill, not 5; set sequence instead"),
        ({"phase": "decode", "sequence": 5}, "sequence: must not be given for decode, not 5; set context instead"),
        ({"batch": 0}, "batch: must be a positive integer, not 0"),
        ({"head_tokens": "first"}, "head_tokens: must be 'all', 'last' or 'none', not 'first'"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    assert fails("opt-6.7b", **options) == message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config.model_type: is missing; it must be a name such as 'llama'"),
        ({**LLAMA, "hidden_size": None}, "config.hidden_size: is missing; it must be a positive integer"),
        ({**LLAMA, "vocab_size": -1}, "config.vocab_size: must be a positive integer, not -1"),
        ({**LLAMA, "num_attention_heads": 5}, "config.num_attention_heads: must divide hidden_size 32, not 5"),
        (
            {**LLAMA, "num_key_value_heads": 3},
            "config.num_key_value_heads: must divide num_attention_heads 4, not 3",
        ),
        ({**OPT, "enable_bias": "yes"}, "config.enable_bias: must be true or false, not 'yes'"),
    ],
)
def test_bad_configurations(tmp_path: Path, config: dict, message: str) -> None:
    assert fails(local(tmp_path, config)) == f"{tmp_path / 'config.json'}: {message}"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": ["llama"]}, "config.model_type: unknown name ['llama']; did you mean 'llama'?"),
        ({"model_type": "lama"}, "config.model_type: unknown name 'lama'; did you mean 'llama'?"),
        ({**LLAMA, "hidden_act": "gelu"}, "config.hidden_act: must be 'silu', not 'gelu'"),
        ({**OPT, "activation_function": "gelu"}, "config.activation_function: must be 'relu', not 'gelu'"),
    ],
)
def test_models_without_a_formula(config: dict, message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        workload_of("local", config, Request())
    assert str(caught.value) == message


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert fails(tmp_path) == f"{path}: no such file"
    path.write_text('{"model_type": ')
    assert fails(tmp_path).startswith(f"{path}: is not valid JSON: ")
    path.write_bytes(b"\xff\xfe")
    assert fails(tmp_path).startswith(f"{path}: is not valid JSON: ")
    path.write_text("[" * 100_000)
    assert fails(tmp_path).startswith(f"{path}: is not valid JSON: ")
    path.write_text("[1]")
    assert fails(tmp_path) == f"{path}: must hold a JSON object, not list"
    missing = str(tmp_path / "nowhere")
    assert fails(missing) == f"workload: no such model directory or configuration {missing!r}"


def test_unknown_name_suggests_the_nearest() -> None:
    assert "unknown name 'opt-6.7'; did you mean 'opt-6.7b', " in fails("opt-6.7")
    assert "unknown name ''; known are bart-base, " in fails("")


def test_import_does_not_load_torch() -> None:
    code = "import sys, macloom.workloads.models as m; m.load_workload('tiny'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(max_examples=30)
@given(
    name=st.sampled_from(["tiny", "opt-6.7b", "llama-3-8b", "mixtral-8x7b"]),
    length=st.integers(1, 900),
    chunk=st.integers(1, 300),
    batch=st.integers(1, 3),
    head=st.sampled_from(["all", "last"]),
)
def test_chunks_of_a_prompt_do_the_useful_work_of_the_whole(
    name: str, length: int, chunk: int, batch: int, head: str
) -> None:
    """The oracle is the count under the causal mask; it does not depend on where the prompt is cut."""
    given: dict[str, Any] = {"sequence": length, "batch": batch, "head_tokens": head}
    whole, parts = load_workload(name, **given), prefill_chunks(name, chunk, **given)
    assert len(parts) == -(-length // chunk)
    assert sum(p.useful_macs for p in parts) == whole.useful_macs
    assert sum(weight_macs(p) for p in parts) == weight_macs(whole)
    assert sum(p.macs for p in parts) <= whole.macs
    assert sum(p.tokens for p in parts) == whole.tokens
    assert parts[-1].kv_elements == whole.kv_elements


def test_useful_work_by_hand() -> None:
    workload = load_workload("opt-6.7b", sequence=2048)
    attention = 32 * 2 * 4096 * (2048 * 2049 // 2)  # token i sees i keys
    assert workload.useful_macs == weight_macs(workload) + attention
    full = load_workload("bert-base", sequence=100)
    assert full.useful_macs == full.macs, "an encoder has no mask"
    decode = load_workload("opt-6.7b", phase="decode", context=100)
    assert decode.useful_macs == decode.macs, "the last token sees every key"


def test_chunks_of_a_window_keep_the_keys_that_their_first_token_sees() -> None:
    parts = prefill_chunks("mistral-7b", 4096, sequence=12288)
    keys = [named(p)["self_attn.scores"] for p in parts]
    assert [(g.m, g.n) for g in keys if isinstance(g, Gemm)] == [(4096, 4096), (4096, 8191), (4096, 8191)]


def test_chunks_as_one_workload() -> None:
    workload = load_workload("llama-3-8b", sequence=1000, chunk=400, head_tokens="last")
    parts = prefill_chunks("llama-3-8b", 400, sequence=1000, head_tokens="last")
    assert [p.details["sequence"] for p in parts] == [400, 400, 200]
    assert workload.macs == sum(p.macs for p in parts)
    assert (workload.tokens, workload.details["sequence"], workload.details["chunk"]) == (1000, 1000, 400)
    ops = named(workload)
    assert [name for name in ops if name.endswith("lm_head")] == ["chunk2.lm_head"]
    assert ops["chunk1.self_attn.q_proj"].reads == ("chunk1.input_layernorm",)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("opt-6.7b", {"chunk": 0}, "chunk: must be a positive integer, not 0"),
        (
            "opt-6.7b",
            {"chunk": 9, "phase": "decode"},
            "chunk: must be left out for decode, which runs one token at a time, not 9",
        ),
        (
            "bert-base",
            {"chunk": 9},
            "chunk: must be left out for bert-base, which reads its whole input at once, not 9",
        ),
        ("t5-small", {"chunk": 9}, "chunk: must be left out for t5-small, which reads its whole input at once, not 9"),
        ("vit-base", {"chunk": 9}, "chunk: must be left out for vit-base, which reads its whole input at once, not 9"),
        ("opt-6.7b", {"past": -1}, "past: must be a positive integer, not -1"),
        ("opt-6.7b", {"past": 9, "phase": "decode"}, "past: must not be given for decode, not 9; set context instead"),
        (
            "opt-6.7b",
            {"past": 2000, "sequence": 49},
            "past + sequence: must be at most 2048, the model's max_position_embeddings, not 2049",
        ),
        (
            "bert-base",
            {"past": 9},
            "past: must be left out for bert-base, which keeps no keys from pass to pass, not 9",
        ),
        ("opt-6.7b", {"source": 0}, "source: must be a positive integer, not 0"),
        (
            "opt-6.7b",
            {"source": 9},
            "source: must be left out for opt-6.7b, which has no encoder before a decoder, not 9",
        ),
        ("vit-base", {"sequence": 9}, "sequence: must be left out for vit-base, whose input is an image, not 9"),
        (
            "vit-base",
            {"phase": "decode"},
            "phase: must be 'prefill', not 'decode'; vit-base looks at images and makes no tokens one by one",
        ),
        ("vit-base", {"routing": "zipf"}, "routing: must be left out for vit-base, which has no experts, not 'zipf'"),
    ],
)
def test_arguments_that_do_not_belong_to_a_model(name: str, options: dict, message: str) -> None:
    assert fails(name, **options) == message
