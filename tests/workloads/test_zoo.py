"""Every model of the zoo against formulas written out here from its configuration, and against transformers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import macloom.workloads
from macloom.errors import MacloomError
from macloom.workloads import Gemm, Role, Vector, VectorKind, Workload, list_workloads, load_workload
from macloom.workloads.analytic import ARCHITECTURES
from macloom.workloads.config import Unsupported
from macloom.workloads.models import workload_of
from macloom.workloads.request import Request
from macloom.workloads.routing import expert_rows

ZOO = Path(macloom.workloads.__file__).parent / "zoo"
EVERY: dict[str, dict[str, Any]] = {
    p.stem: json.loads(p.read_text()) for p in sorted(ZOO.glob("*.json"), key=lambda p: p.stem)
}
# The models of tests/workloads/test_architectures.py have formulas of their own there.
CONFIGS = {name: config for name, config in EVERY.items() if config["model_type"] not in ARCHITECTURES}
ENCODERS = ["bert-base", "bert-large"]
DECODERS = [name for name in CONFIGS if name not in ENCODERS]


class Formula:
    """Weights, multiply-accumulates and cache of a model, from nothing but the fields of its configuration.

    `layers` are pairs of (matrix weights that one token meets in a layer, all weights of a layer).
    `width` is that of all query heads, `kv` that of all key heads; `once` are the weights outside the layers,
    `head` the multiply-accumulates of a token outside them.
    """

    def __init__(self, c: dict[str, Any]) -> None:
        kind = c["model_type"]
        h = c.get("hidden_size") or c["n_embd"]
        v = c["vocab_size"]
        self.layers = c.get("num_hidden_layers") or c["n_layer"]
        self.width = self.kv = h
        self.windowed, self.window = 0, c.get("sliding_window")
        matrices, self.once, self.head = 12 * h * h, v * h, v * h
        weights = matrices + 13 * h  # nine biases' and two layer norms' worth of vectors
        if kind == "gpt2":
            self.once += c["n_positions"] * h + 2 * h
        elif kind == "bloom":
            self.once += 2 * h + 2 * h
        elif kind == "bert":
            self.once += (c["max_position_embeddings"] + 2) * h + 2 * h + h * h + 3 * h + v
            self.head += h * h
        elif kind == "opt":
            e = c["word_embed_proj_dim"]
            resize = 0 if e == h else 2 * h * e
            self.once = v * e + resize + (c["max_position_embeddings"] + 2) * h + 2 * h * c["do_layer_norm_before"]
            self.head = v * e + resize
        elif kind == "phi":
            wide = c["intermediate_size"]
            matrices = 4 * h * h + 2 * h * wide
            weights = matrices + 4 * h + wide + h + 2 * h
            self.once = 2 * v * h + v + 2 * h
        elif kind == "falcon":
            self.kv = h // c["num_attention_heads"]
            matrices = 10 * h * h + 2 * h * self.kv
            weights = matrices + 2 * h
            self.once += 2 * h
        else:  # the family of Llama
            d = c.get("head_dim") or h // c["num_attention_heads"]
            self.width, self.kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
            attention = 2 * h * self.width + 2 * h * self.kv
            mlp, experts = 3 * h * c["intermediate_size"], c.get("num_local_experts", 0)
            router = h * experts
            matrices = attention + router + mlp * (c["num_experts_per_tok"] if experts else 1)
            weights = attention + router + mlp * (experts or 1) + (4 if kind == "gemma2" else 2) * h
            weights += {"qwen2": self.width + 2 * self.kv, "qwen3": 2 * d}.get(kind, 0)
            self.once = h + v * h * (1 if kind in ("gemma", "gemma2") else 2)
            if self.window:
                self.windowed = (self.layers + 1) // 2 if kind == "gemma2" else self.layers
        self.matrices, self.weights = matrices, weights

    @property
    def parameters(self) -> int:
        return self.layers * self.weights + self.once

    def keys(self, context: int) -> int:
        """Keys of all layers together that a new token attends to."""
        return (self.layers - self.windowed) * context + self.windowed * min(context, self.window or context)

    def prefill(self, tokens: int) -> int:
        return tokens * (self.layers * self.matrices + self.head) + self.layers * 2 * tokens**2 * self.width

    def decode(self, context: int) -> int:
        return self.layers * self.matrices + self.head + 2 * self.keys(context) * self.width

    def cache(self, context: int) -> int:
        return 2 * self.keys(context) * self.kv


@pytest.mark.parametrize("name", list(CONFIGS))
def test_parameters_equal_the_formula(name: str) -> None:
    assert load_workload(name).parameters == Formula(CONFIGS[name]).parameters


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize(("sequence", "batch"), [(1, 1), (77, 3), (512, 1), (None, 2)])
def test_prefill_equals_the_formula(name: str, sequence: int | None, batch: int) -> None:
    workload = load_workload(name, sequence=sequence, batch=batch)
    tokens = workload.tokens // batch
    formula = Formula(CONFIGS[name])
    assert workload.macs == batch * formula.prefill(tokens)
    assert workload.kv_elements == (0 if name in ENCODERS else batch * formula.cache(tokens))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("batch", [1, 5])
def test_decode_equals_the_formula(name: str, batch: int) -> None:
    formula = Formula(CONFIGS[name])
    longest = load_workload(name, phase="decode").details["context"]
    longer = (2047, 2048, 4096, 4097, 8192)
    limit = CONFIGS[name].get("max_position_embeddings", longest)
    for context in (1, 300, longest, *(n for n in longer if n <= limit)):
        workload = load_workload(name, phase="decode", context=context, batch=batch)
        assert workload.macs == batch * formula.decode(context)
        assert workload.kv_elements == batch * formula.cache(context)
        assert workload.tokens == batch


# Oracle: traces of the transformers models, 10^9 parameters and 10^12 MACs to three decimals; MACs of the weights.
TRACED = {
    "opt-6.7b": (2048, 6.658, 14.715, 13.616),
    "gpt2-xl": (1024, 1.558, 1.753, 1.592),
    "bloom-7b1": (2048, 7.069, 15.505, 14.474),
    "llama-2-7b": (2048, 6.738, 14.631, 13.531),
    "llama-3-8b": (2048, 8.030, 16.469, 15.370),
    "mistral-7b": (2048, 7.242, 15.662, 14.562),
    "mixtral-8x7b": (2048, 46.703, 27.209, 26.109),
    "bert-large": (512, 0.335, 0.184, 0.171),
}


@pytest.mark.parametrize("name", TRACED)
def test_prefill_equals_a_trace(name: str) -> None:
    sequence, parameters, macs, of_weights = TRACED[name]
    workload = load_workload(name, sequence=sequence)
    assert round(workload.parameters / 1e9, 3) == parameters
    assert round(workload.macs / 1e12, 3) == macs
    assert round(sum(g.macs for g in workload.gemms if g.b is Role.WEIGHT) / 1e12, 3) == of_weights


@pytest.mark.parametrize(
    ("name", "billions"),
    [("opt-6.7b", 7.185), ("llama-3-8b", 8.042), ("mistral-7b", 7.647), ("mixtral-8x7b", 13.285)],
)
def test_decode_equals_a_trace(name: str, billions: float) -> None:
    assert round(load_workload(name, phase="decode", context=2048).macs / 1e9, 3) == billions


# Published: weights without the embedding, arXiv:2403.08295, Table 2.
@pytest.mark.parametrize(("name", "weights"), [("gemma-2b", 1_981_884_416), ("gemma-7b", 7_751_248_896)])
def test_weights_of_gemma_are_the_published_ones(name: str, weights: int) -> None:
    config = CONFIGS[name]
    assert load_workload(name).parameters - config["vocab_size"] * config["hidden_size"] == weights


def test_a_wrong_formula_is_noticed() -> None:
    """The mutant of this proof: K and V heads as many as query heads."""
    formula = Formula({**CONFIGS["llama-3-8b"], "num_key_value_heads": 32})
    workload = load_workload("llama-3-8b", phase="decode", context=99)
    assert workload.parameters != formula.parameters
    assert workload.macs != formula.decode(99)
    assert workload.kv_elements != formula.cache(99)


SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 96}
SHORT = {"max_position_embeddings": 64, "intermediate_size": 112}
GROUPED = {**SMALL, **SHORT, "num_key_value_heads": 2}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", GROUPED),
    "opt": ("OPTForCausalLM", {**SMALL, "ffn_dim": 80, "max_position_embeddings": 64, "word_embed_proj_dim": 64}),
    "opt-350m": (
        "OPTForCausalLM",
        {**SMALL, "ffn_dim": 80, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": 8}),
    "mixtral": (
        "MixtralForCausalLM",
        {**GROUPED, "sliding_window": None, "num_local_experts": 5, "num_experts_per_tok": 2},
    ),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 32}),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPED, "head_dim": 32, "sliding_window": 8}),
    "gemma": ("GemmaForCausalLM", {**GROUPED, "head_dim": 32}),
    "phi": ("PhiForCausalLM", {**SMALL, **SHORT}),
    "phi3": ("Phi3ForCausalLM", {**GROUPED, "sliding_window": 8, "pad_token_id": 0}),
    "falcon": ("FalconForCausalLM", SMALL),
    "falcon-serial": ("FalconForCausalLM", {**SMALL, "parallel_attn": False, "multi_query": False, "bias": True}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 96}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 96}),
    "bert": ("BertForMaskedLM", {**SMALL, **SHORT}),
}


def built(kind: str, directory: Path, device: str) -> Any:
    """Return the tiny model of transformers, and leave its configuration in a directory."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model, fields = TINY[kind]
    config_class = getattr(transformers, model).config_class
    (directory / "config.json").write_text(json.dumps({"model_type": config_class.model_type, **fields}))
    config = config_class(**fields, attn_implementation="eager", experts_implementation="eager")
    with torch.device(device):
        return getattr(transformers, model)(config).eval()


@pytest.mark.parametrize("kind", TINY)
def test_parameters_and_projections_equal_transformers(kind: str, tmp_path: Path) -> None:
    model = built(kind, tmp_path, "meta")
    workload = load_workload(tmp_path)
    assert workload.parameters == sum(p.numel() for p in model.parameters())
    linears: dict[str, list[tuple[int, int]]] = {}
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D", "FalconLinear"):
            k, n = module.weight.shape[::-1] if type(module).__name__ != "Conv1D" else module.weight.shape
            part = name.split(".layers.")[-1].split(".layer.")[-1].split(".h.")[-1]
            short = part.partition(".")[2] if part != name else name
            linears.setdefault(short, []).append((n, k))
    found = {g.name: [(g.n, g.k)] * g.repeat for g in workload.gemms if g.b is Role.WEIGHT and "expert" not in g.name}
    found = {name: shapes for name, shapes in found.items() if name != "mlp.gate"}  # the router is no Linear
    names = {"cls.predictions.decoder": "lm_head"}  # every head has the name by which recipes exempt it
    assert {names.get(name, name.removeprefix("model.decoder.")): s for name, s in linears.items()} == found


@pytest.mark.parametrize("kind", TINY)
def test_macs_equal_torch_flop_counter_on_transformers(kind: str, tmp_path: Path) -> None:
    model = built(kind, tmp_path, "cpu")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens = torch.arange(3 * 20).view(3, 20) % 90 + 1
    with torch.no_grad():
        if kind == "bert":
            with FlopCounterMode(display=False) as whole:
                model(tokens)
            assert load_workload(tmp_path, sequence=20, batch=3).macs == whole.get_total_flops() // 2
            return
        with FlopCounterMode(display=False) as prefill:
            cache = model(tokens[:, :-1], use_cache=True).past_key_values
        with FlopCounterMode(display=False) as decode:
            model(tokens[:, -1:], past_key_values=cache, use_cache=True)
    assert load_workload(tmp_path, sequence=19, batch=3).macs == prefill.get_total_flops() // 2
    assert load_workload(tmp_path, phase="decode", context=20, batch=3).macs == decode.get_total_flops() // 2


def operations(workload: Workload) -> dict[str, Gemm | Vector]:
    found = {op.name: op for op in workload.ops}
    assert len(found) == len(workload.ops), "operation names are unique"
    return found


def made_for(name: str) -> Workload:
    """Return a model at work on two images or two short prompts."""
    image = "image" in load_workload(name).details
    return load_workload(name, batch=2) if image else load_workload(name, sequence=24, batch=2)


def readings(workload: Workload) -> Iterator[tuple[Gemm | Vector, tuple[str, ...]]]:
    for op in workload.ops:
        for makers in (op.reads,) if isinstance(op, Gemm) else op.reads:
            yield op, makers


@pytest.mark.parametrize("name", list_workloads())
def test_every_read_is_of_an_operation(name: str) -> None:
    """What an operation reads exists, and what nobody reads is an output, part of the cache, or a conditioning."""
    workload = made_for(name)
    ops = operations(workload)
    read = {maker for _, makers in readings(workload) for maker in makers}
    assert read <= set(ops)
    unread = [op for op in workload.ops if op.name not in read]
    cached = [op for op in unread if (op.out is Role.KV if isinstance(op, Gemm) else op.kind is VectorKind.CACHE)]
    free = ("lm_head", "classifier", "head", "linear", "rope_k", "softmax", "adaLN_modulation.1", "scale_shift_table")
    assert [op.name for op in unread if op not in cached and not op.name.endswith(free)] == []


@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name]["model_type"] != "phi"])
def test_every_result_has_the_size_of_what_reads_it(name: str) -> None:
    """Results hold at least the elements that are taken from them; a fused projection holds more."""
    workload = made_for(name)
    ops = operations(workload)
    for op, makers in readings(workload):
        sizes = [m.out_elements if isinstance(m, Gemm) else m.elements for m in (ops[n] for n in makers)]
        taken = op.a_elements if isinstance(op, Gemm) else op.elements
        if op.name.startswith("mlp.experts.gate_up"):
            taken //= workload.details["experts_per_token"]  # every row goes to so many experts
        assert sum(sizes) >= taken or op.name.endswith(".cache"), op.name


def test_gpt2_layer_holds_every_operation_in_order() -> None:
    assert [op.name for op in load_workload("gpt2", sequence=16).ops] == [
        "wte", "wpe", "add_positions", "ln_1", "attn.c_attn", "attn.cache", "attn.scores", "attn.softmax",
        "attn.values", "attn.c_proj", "attn.residual", "ln_2", "mlp.c_fc", "mlp.act", "mlp.c_proj", "mlp.residual",
        "ln_f", "lm_head",
    ]  # fmt: skip


def test_falcon_runs_attention_and_mlp_from_one_norm() -> None:
    ops = operations(load_workload("falcon-7b", sequence=16))
    assert ops["self_attention.query_key_value"].reads == ops["mlp.dense_h_to_4h"].reads == ("input_layernorm",)
    last = ops["mlp.residual"]
    assert last.reads == (("self_attention.dense",), ("mlp.dense_4h_to_h",), ("word_embeddings", "mlp.residual"))
    scores = ops["self_attention.scores"]
    assert isinstance(scores, Gemm)
    assert (scores.batch, scores.b_sharing, scores.k) == (71, 71, 64)


def test_opt_350m_normalizes_after_each_block() -> None:
    names = [op.name for op in load_workload("opt-350m", sequence=16).ops]
    assert names[:4] == ["embed_tokens", "project_in", "embed_positions", "add_positions"]
    assert names.index("self_attn_layer_norm") == names.index("self_attn.residual") + 1
    assert names[-4:] == ["mlp.residual", "final_layer_norm", "project_out", "lm_head"]


def test_gemma_2_alternates_windowed_and_full_layers() -> None:
    short = operations(load_workload("gemma-2-9b", phase="decode", context=4096))
    assert short["self_attn.scores"].repeat == 42
    ops = operations(load_workload("gemma-2-9b", phase="decode", context=8192))
    windowed, full = ops["windowed.self_attn.scores"], ops["full.self_attn.scores"]
    assert isinstance(windowed, Gemm)
    assert isinstance(full, Gemm)
    assert (windowed.n, windowed.repeat, full.n, full.repeat) == (4096, 21, 8192, 21)
    assert ops["windowed.input_layernorm"].reads == (("embed_tokens.scale", "full.mlp.residual"),)
    assert ops["full.input_layernorm"].reads == (("windowed.mlp.residual",),)
    assert ops["norm"].reads == (("full.mlp.residual",),)


def test_mixtral_groups_experts_by_their_rows() -> None:
    ops = operations(load_workload("mixtral-8x7b", sequence=2048))
    assert ops["mlp.experts.gate_up_proj"] == Gemm(
        name="mlp.experts.gate_up_proj", m=512, n=2 * 14336, k=4096, batch=8, repeat=32,
        reads=("post_attention_layernorm",),
    )  # fmt: skip
    one = operations(load_workload("mixtral-8x7b", phase="decode", context=9))["mlp.experts.down_proj"]
    assert isinstance(one, Gemm)
    assert (one.m, one.batch) == (1, 2), "one token reads the weights of two experts"
    five = load_workload("mixtral-8x7b", phase="decode", context=9, batch=5)
    groups = [(g.m, g.batch) for g in five.gemms if g.name.startswith("mlp.experts.down_proj")]
    assert groups == [(2, 2), (1, 6)]


@pytest.mark.parametrize("routing", ["uniform", "zipf", "zipf:0.5", [1, 0, 0, 3.5, 0, 1, 0, 9]], ids=str)
def test_routing_moves_rows_but_not_macs(routing: Any) -> None:
    workload = load_workload("mixtral-8x7b", sequence=300, batch=2, routing=routing)
    assert workload.macs == 2 * Formula(CONFIGS["mixtral-8x7b"]).prefill(300)
    rows = expert_rows(600, 2, 8, routing)
    assert sum(rows) == 1200
    assert max(rows) <= 600
    down = [(g.m, g.batch) for g in workload.gemms if g.name.startswith("mlp.experts.down_proj")]
    assert sum(m * b for m, b in down) == 1200
    assert sum(b for _, b in down) == sum(r > 0 for r in rows)
    assert workload.details["routing"] == routing


def test_rows_of_zipf_by_hand() -> None:
    # Shares 12 : 6 : 4 : 3 of 50 rows are 24, 12, 8, 6.
    assert expert_rows(25, 2, 4, "zipf") == [24, 12, 8, 6]
    # With the exponent 2, 288/205 rows of 2 would be above the one token: one row, the other to the next expert.
    assert expert_rows(1, 2, 4, "zipf:2") == [1, 1, 0, 0]
    assert expert_rows(10, 2, 3, [1, 1, 1000]) == [5, 5, 10]


def fails(name: str, **options: Any) -> str:
    with pytest.raises(MacloomError) as caught:
        load_workload(name, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "bert-base",
            {"phase": "decode"},
            "phase: must be 'prefill', not 'decode'; bert-base is an encoder and makes no tokens one by one",
        ),
        (
            "bert-large",
            {"sequence": 513},
            "sequence: must be at most 512, the model's max_position_embeddings, not 513",
        ),
        ("gpt2", {"routing": "zipf"}, "routing: must be left out for gpt2, which has no experts, not 'zipf'"),
        (
            "mixtral-8x7b",
            {"routing": [1, 2]},
            "routing: must have one share for each of the 8 experts, not 2",
        ),
        ("mixtral-8x7b", {"routing": [1] * 7 + [-1]}, "routing: must be numbers of at least 0, not -1"),
        (
            "mixtral-8x7b",
            {"routing": [1] + [0] * 7},
            "routing: must give a share to at least 2 experts, not [1, 0, 0, 0, 0, 0, 0, 0]",
        ),
    ],
)  # fmt: skip
def test_bad_arguments(name: str, options: dict, message: str) -> None:
    assert fails(name, **options) == message


@pytest.mark.parametrize("wrong", ["random", "zipf:x", "zipf:-1", "zipf:0", "zipf:nan", ""])
def test_unknown_routing(wrong: str) -> None:
    assert fails("mixtral-8x7b", routing=wrong) == (
        f"routing: must be 'uniform', 'zipf', 'zipf:S' with a number S > 0, or one share for each expert, not {wrong!r}"
    )


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {"n_head": 5}, "config.n_head: must divide hidden_size 64, not 5"),
        ("mixtral", {"num_experts_per_tok": 6}, "config.num_experts_per_tok: must be from 1 to the 5 experts, not 6"),
        ("mistral", {"sliding_window": 0}, "config.sliding_window: must be a positive integer, not 0"),
        ("opt", {"do_layer_norm_before": 1}, "config.do_layer_norm_before: must be true or false, not 1"),
        ("bloom", {"n_layer": None}, "config.n_layer: is missing; it must be a positive integer"),
    ],
)  # fmt: skip
def test_bad_configurations(kind: str, changes: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind, **TINY[kind][1], **changes}))
    assert fails(str(path)) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("falcon", {"alibi": True}, "config.alibi: must be false, not true"),
        ("falcon", {"new_decoder_architecture": True}, "config.new_decoder_architecture: must be false, not true"),
        ("qwen2", {"use_sliding_window": True}, "config.use_sliding_window: must be false, not true"),
        ("phi3", {"partial_rotary_factor": 0.5}, "config.partial_rotary_factor: must be 1.0, not 0.5"),
        (
            "gpt2",
            {"activation_function": "tanh"},
            "config.activation_function: must be 'gelu_new' or 'gelu' or 'relu', not 'tanh'",
        ),
    ],
)  # fmt: skip
def test_options_without_a_formula(kind: str, changes: dict, message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        workload_of("local", {"model_type": kind, **TINY[kind][1], **changes}, Request())
    assert str(caught.value) == message


def test_table_of_the_page_is_the_zoo() -> None:
    page = Path(__file__).parents[2] / "docs" / "workloads.md"
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in page.read_text().splitlines() if line[:3] == "| `"]
    found = {row[0].strip("`"): row[1:] for row in rows if len(row) == 6}
    assert list(found) == list(CONFIGS)
    for name, (family, parameters, prefill, decode, cache) in found.items():
        formula, config = Formula(CONFIGS[name]), CONFIGS[name]
        tokens = load_workload(name).tokens
        assert family == config["model_type"]
        assert parameters == f"{formula.parameters / 1e9:.3f}"
        assert prefill == f"{formula.prefill(tokens) / 1e12:.3f} ({tokens})"
        assert decode == ("-" if name in ENCODERS else f"{formula.decode(tokens) / 1e9:.3f}")
        assert cache == ("-" if name in ENCODERS else f"{formula.cache(1) * 2 / 1024:g}")


def test_list_shows_every_model_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    from macloom.cli import main

    assert main(["list", "workloads", "--json"]) == 0
    rows = {row["workload"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list_workloads()
    assert {name: rows[name]["parameters"] for name in CONFIGS} == {
        n: Formula(c).parameters for n, c in CONFIGS.items()
    }
    assert all((rows[name]["decode_macs"] is None) == (name in ENCODERS) for name in CONFIGS)


def test_every_entry_states_its_source() -> None:
    for name, config in CONFIGS.items():
        assert len(config["source"]) > 20, name
        assert name == name.lower()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_loading_takes_less_than_50_ms(name: str) -> None:
    load_workload(name)
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        load_workload(name)
        best = min(best, time.process_time() - start)
    assert best < 0.05
