"""Models that are no plain transformers, against formulas written out here and against published sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from macloom.errors import MacloomError
from macloom.workloads import Gemm, Role, Vector, VectorKind, load_workload
from macloom.workloads.analytic import ARCHITECTURES
from macloom.workloads.config import Unsupported, config_paths, read_json
from macloom.workloads.models import workload_of
from macloom.workloads.request import Request

NAMES = [n for n, p in config_paths().items() if read_json(p)["model_type"] in ARCHITECTURES]


def config_of(name: str) -> dict[str, Any]:
    return read_json(config_paths()[name])


# Published: 10^6 parameters and 10^9 multiply-accumulates of one image of 224 x 224 (DiT: one step at 256 x 256).
PUBLISHED = {
    "deit-tiny": (5, None),  # arXiv:2012.12877, Table 1
    "deit-small": (22, None),
    "deit-base": (86, None),
    "vit-base": (86, None),  # arXiv:2010.11929, Table 1
    "vit-huge": (632, None),
    "swin-tiny": (29, 4.5),  # arXiv:2103.14030, Table 1
    "swin-small": (50, 8.7),
    "swin-base": (88, 15.4),
    "convnext-tiny": (29, 4.5),  # arXiv:2201.03545, Table 1
    "convnext-small": (50, 8.7),
    "convnext-base": (89, 15.4),
    "convnext-large": (198, 34.4),
    "replknet-31b": (79, 15.3),  # arXiv:2203.06717, Table 5
    "dit-s-2": (33, 6.06),  # arXiv:2212.09748, Table 4
    "dit-b-2": (130, 23.01),
    "dit-l-2": (458, 80.71),
    "dit-xl-2": (675, 118.64),
    "t5-small": (60, None),  # arXiv:1910.10683, section 3.7
    "t5-base": (220, None),
    "pixart-alpha": (600, None),  # arXiv:2310.00426: 0.6 B
    "mamba-2.8b": (2800, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_equal_the_published_ones(name: str) -> None:
    millions, billions = PUBLISHED[name]
    workload = load_workload(name)
    assert workload.parameters / 1e6 == pytest.approx(millions, rel=0.03, abs=0.75)
    if billions:
        assert workload.macs / 1e9 == pytest.approx(billions, rel=0.01)


def test_sizes_of_a_trace() -> None:
    """Oracle: traces of transformers: BART-large, 1024 + 1024 tokens, and ViT-base, to three decimals."""
    bart, vit = load_workload("bart-large", sequence=1024), load_workload("deit-base")
    assert (round(bart.parameters / 1e9, 3), round(bart.macs / 1e12, 3)) == (0.406, 0.491)
    assert round(sum(g.macs for g in bart.gemms if g.b is Role.WEIGHT) / 1e12, 3) == 0.413
    assert (round(vit.parameters / 1e9, 3), round(vit.macs / 1e12, 3)) == (0.087, 0.018)


def seq2seq(c: dict[str, Any], source: int, target: int) -> tuple[int, int, int, int]:
    """Return parameters, MACs of a prefill, MACs of one token at `target` keys, and elements of the cache."""
    h, v = c["d_model"], c["vocab_size"]
    if c["model_type"] == "bart":
        w = i = h
        f, layers = c["encoder_ffn_dim"], c["encoder_layers"]
        norms, biases = 2, 1
        w = v * h + 2 * (c["max_position_embeddings"] + 2) * h + 4 * h
    else:
        i, f, layers = c["num_heads"] * c["d_kv"], c["d_ff"], c["num_layers"]
        norms, biases = 1, 0
        w = v * h + 2 * c["relative_attention_num_buckets"] * c["num_heads"] + 2 * h
    attention, mlp = 4 * h * i, 2 * h * f
    small = biases * (3 * i + h) + norms * h
    w += layers * (3 * (attention + small) + 2 * (mlp + biases * (f + h) + norms * h))
    encoder = source * (attention + mlp) + 2 * source**2 * i
    decoder = target * (attention + mlp) + 2 * target**2 * i
    cross = 2 * (source + target) * h * i + 2 * source * target * i
    token = attention + mlp + 2 * target * i + 2 * h * i + 2 * source * i
    prefill = layers * (encoder + decoder + cross) + target * h * v
    return w, prefill, layers * token + h * v, 2 * layers * i * (source + target)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("bart", "t5"))])
@pytest.mark.parametrize(("source", "target", "batch"), [(100, 100, 1), (300, 7, 2), (64, 1, 3)])
def test_encoder_decoders_equal_the_formula(name: str, source: int, target: int, batch: int) -> None:
    parameters, prefill, decode, cache = seq2seq(config_of(name), source, target)
    first = load_workload(name, sequence=target, source=source, batch=batch)
    token = load_workload(name, phase="decode", context=target, source=source, batch=batch)
    assert first.parameters == token.parameters == parameters
    assert (first.macs, token.macs) == (batch * prefill, batch * decode)
    assert first.kv_elements == token.kv_elements == batch * cache
    assert (first.tokens, token.tokens) == (batch * target, batch)


def vit(c: dict[str, Any], extra: int) -> tuple[int, int]:
    h, f, layers, p = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], c["patch_size"]
    patches = (c["image_size"] // p) ** 2
    tokens, pixels, labels = patches + extra, 3 * p * p, c["num_labels"] * extra
    weights = pixels * h + h + (tokens + extra) * h + layers * (4 * h * h + 2 * h * f + f + 9 * h) + 2 * h
    macs = patches * pixels * h + layers * (tokens * (4 * h * h + 2 * h * f) + 2 * tokens**2 * h) + labels * h
    return weights + labels * (h + 1), macs


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("vit", "deit"))])
def test_vits_equal_the_formula(name: str) -> None:
    parameters, macs = vit(config_of(name), 2 if "distilled" in name else 1)
    workload = load_workload(name, batch=3)
    assert (workload.parameters, workload.macs, workload.tokens) == (parameters, 3 * macs, 3)


def test_swin_tiny_by_hand() -> None:
    """Four stages of 56, 28, 14 and 7 patches a side; each merges four patches into one of twice the channels."""
    macs, weights = 56**2 * 48 * 96, 48 * 96 + 96 + 2 * 96
    for side, c, depth, heads in ((56, 96, 2, 3), (28, 192, 2, 6), (14, 384, 6, 12), (7, 768, 2, 24)):
        macs += depth * side**2 * (12 * c * c + 2 * 49 * c)
        weights += depth * (12 * c * c + 13 * c + 169 * heads)
        if side > 7:
            macs += side**2 // 4 * 4 * c * 2 * c
            weights += 8 * c * c + 8 * c
    workload = load_workload("swin-tiny")
    assert workload.macs == macs + 768 * 1000
    assert workload.parameters == weights + 2 * 768 + 769 * 1000


def test_convnext_tiny_by_hand() -> None:
    macs, weights, before = 56**2 * 48 * 96, 48 * 96 + 96 + 2 * 96, 96
    for side, c, depth in ((56, 96, 3), (28, 192, 3), (14, 384, 9), (7, 768, 3)):
        if c > 96:
            macs += side**2 * 4 * before * c
            weights += 2 * before + 4 * before * c + c
        macs += depth * side**2 * (49 * c + 8 * c * c)
        weights += depth * (49 * c + c + 2 * c + 8 * c * c + 4 * c + c + c)
        before = c
    workload = load_workload("convnext-tiny")
    assert workload.macs == macs + 768 * 1000
    assert workload.parameters == weights + 2 * 768 + 769 * 1000


def test_replknet_by_hand() -> None:
    c = 128
    macs = 112**2 * (27 * c + 9 * c + c * c) + 56**2 * 9 * c
    weights = 28 * c + 10 * c + (c + 1) * c + 10 * c
    for side, c, depth, kernel in ((56, 128, 2, 31), (28, 256, 2, 29), (14, 512, 18, 27), (7, 1024, 2, 13)):
        macs += depth * side**2 * (2 * c * c + kernel**2 * c + 8 * c * c)
        weights += depth * (2 * c * (c + 1) + c * (kernel**2 + 1) + 4 * c * (c + 1) + c * (4 * c + 1))
        if side > 7:
            macs += side**2 * c * 2 * c + side**2 // 4 * 9 * 2 * c
            weights += 2 * c * (c + 1) + 10 * 2 * c
    workload = load_workload("replknet-31b")
    assert workload.macs == macs + 1024 * 1000
    assert workload.parameters == weights + 1025 * 1000
    large = next(g for g in workload.gemms if g.name == "stages.0.large_kernel")
    assert (large.m, large.n, large.k, large.batch, large.repeat) == (56 * 56, 1, 31 * 31, 128, 2)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("dit")])
def test_dits_equal_the_formula(name: str) -> None:
    c = config_of(name)
    h, depth, tokens = c["hidden_size"], c["depth"], 256
    macs = tokens * 16 * h + 256 * h + h * h + depth * (tokens * 12 * h * h + 2 * tokens**2 * h + 6 * h * h)
    macs += 2 * h * h + tokens * h * 32
    weights = 17 * h + 257 * h + (h + 1) * h + 1001 * h + tokens * h
    weights += depth * (12 * h * h + 9 * h + 6 * h * (h + 1)) + 2 * h * (h + 1) + 32 * (h + 1)
    workload = load_workload(name, batch=2)
    assert (workload.macs, workload.parameters) == (2 * macs, weights)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"_class_name": "DiTTransformer2DModel", "out_channels": 8}, 749_826_464),
        ({"_class_name": "DiTTransformer2DModel", "num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 16,
          "num_embeds_ada_norm": 10, "sample_size": 16}, 202_448),
        ({"_class_name": "PixArtTransformer2DModel", "in_channels": 4, "sample_size": 32, "patch_size": 2,
          "caption_channels": 4096}, 610_856_096),
    ],
)  # fmt: skip
def test_configurations_of_diffusers_have_the_parameters_that_diffusers_0_42_1_counts(
    config: dict[str, Any], parameters: int
) -> None:
    assert workload_of("local", config, Request()).parameters == parameters


def test_a_dit_of_diffusers_embeds_timestep_and_class_in_every_block() -> None:
    ours = workload_of("local", config_of("dit-xl-2"), Request())
    theirs = workload_of("local", {"_class_name": "DiTTransformer2DModel", "out_channels": 8}, Request())
    assert theirs.macs - ours.macs == 28 * (256 * 1152 + 1152 * 1152)
    assert theirs.parameters - ours.parameters == 27 * (257 * 1152 + 1153 * 1152 + 1001 * 1152) - 256 * 1152


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"},
         "config._class_name: unknown name 'UNet2DConditionModel'; known are DiTTransformer2DModel, "
         "PixArtTransformer2DModel (models of diffusers that have a formula)"),
        ({"_class_name": "DiTTransformer2DModel", "activation_fn": "geglu"},
         'config.activation_fn: must be "gelu-approximate", which alone has a formula, not "geglu"'),
        ({"_class_name": "PixArtTransformer2DModel", "sample_size": 32, "patch_size": 2},
         "config.caption_channels: is missing; it must be a positive integer"),
        ({"_class_name": "PixArtTransformer2DModel", "sample_size": 128, "patch_size": 2},
         "config.use_additional_conditions: must be false, which alone has a formula; it is true unless given where "
         "sample_size is 128"),
    ],
)  # fmt: skip
def test_options_of_diffusers_without_a_formula(config: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError) as caught:
        workload_of("local", config, Request())
    assert str(caught.value) == message


def test_pixart_by_hand() -> None:
    h, depth, tokens, caption = 1152, 28, 256, 120
    macs = tokens * 16 * h + 256 * h + h * h + 6 * h * h + caption * (4096 * h + h * h) + tokens * h * 32
    block = tokens * (12 * h * h + 2 * h * h) + 2 * tokens**2 * h + caption * 2 * h * h + 2 * tokens * caption * h
    weights = 17 * h + 257 * h + (h + 1) * h + 6 * h * (h + 1) + 4097 * h + h * (h + 1)
    weights += depth * (16 * h * h + 13 * h + 6 * h) + 2 * h + 32 * (h + 1)
    workload = load_workload("pixart-alpha")
    assert (workload.macs, workload.parameters) == (macs + depth * block, weights)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("mamba")])
def test_mambas_equal_the_formula(name: str) -> None:
    c = config_of(name)
    h, layers, n, v = c["hidden_size"], c["num_hidden_layers"], 16, 50280
    i, r = 2 * h, -(-h // 16)
    token = layers * (3 * h * i + 4 * i + i * (r + 2 * n) + r * i) + h * v
    weights = layers * (3 * h * i + 5 * i + i * (r + 2 * n) + (r + 1) * i + i * n + i + h) + h * v + h
    first = load_workload(name, sequence=77, batch=2)
    decode = load_workload(name, phase="decode", context=5000, batch=3)
    assert (first.parameters, first.macs, decode.macs) == (weights, 2 * 77 * token, 3 * token)
    assert decode.kv_elements == 3 * layers * i * (n + 4)
    scan = next(op for op in first.ops if isinstance(op, Vector) and op.kind is VectorKind.SCAN)
    assert (scan.rows, scan.width, scan.terms, scan.repeat) == (2 * 77, i, n, layers)


def test_a_wrong_formula_is_noticed() -> None:
    """The mutant of these proofs: one head more, one layer less, a kernel of another size."""
    assert seq2seq({**config_of("t5-small"), "num_heads": 9}, 10, 10)[1] != load_workload("t5-small", sequence=10).macs
    assert vit({**config_of("vit-base"), "num_hidden_layers": 11}, 1)[0] != load_workload("vit-base").parameters
    assert vit({**config_of("vit-base"), "patch_size": 14}, 1)[1] != load_workload("vit-base").macs


def test_decode_of_an_encoder_decoder_reads_what_the_encoder_left() -> None:
    names = [op.name for op in load_workload("bart-base", phase="decode", context=8, source=30).ops]
    assert not any(name.startswith("encoder.") for name in names)
    assert "decoder.encoder_attn.q_proj" in names
    assert "decoder.encoder_attn.k_proj" not in names
    ops = {op.name: op for op in load_workload("bart-base", phase="decode", context=8, source=30).ops}
    own, cross = ops["decoder.self_attn.scores"], ops["decoder.encoder_attn.scores"]
    assert isinstance(own, Gemm)
    assert isinstance(cross, Gemm)
    assert (own.n, cross.n, own.causal, cross.causal) == (8, 30, False, False)


def test_prefill_of_a_decoder_is_causal_and_of_an_encoder_is_not() -> None:
    ops = {g.name: g for g in load_workload("t5-small", sequence=20, source=30).gemms}
    causal = {name for name, op in ops.items() if op.causal}
    assert causal == {"decoder.SelfAttention.scores", "decoder.SelfAttention.values"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5", "feed_forward_proj": "gated-silu"},
         "config.feed_forward_proj: must be 'relu', 'gelu' or 'gated-gelu', not 'gated-silu'"),
        ({"model_type": "bart", "activation_function": "tanh"},
         "config.activation_function: must be 'gelu' or 'relu' or 'gelu_new', not 'tanh'"),
        ({"model_type": "bart", "tie_word_embeddings": False},
         "config.tie_word_embeddings: must be True, not False"),
        ({"model_type": "swin", "use_absolute_embeddings": True},
         "config.use_absolute_embeddings: must be False, not True"),
        ({"model_type": "vit", "image_size": [224, 192]},
         "config.image_size: must be one size, or two equal ones, not [224, 192]"),
    ],
)  # fmt: skip
def test_options_without_a_formula(config: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        workload_of("local", config, Request())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "vit", "num_attention_heads": 7},
         "config.num_attention_heads: must divide hidden_size 768, not 7"),
        ({"model_type": "bart", "encoder_attention_heads": 7},
         "config.encoder_attention_heads: must divide d_model 1024, not 7"),
        ({"model_type": "convnext", "depths": [3, 3]}, "config.depths: must be 4 positive integers, not [3, 3]"),
        ({"model_type": "swin", "window_size": 5},
         "config.window_size: must divide the 56 patches of a side in stage 0, not 5"),
        ({"model_type": "dit", "patch_size": 3}, "config.patch_size: must divide input_size 32, not 3"),
        ({"model_type": "mamba", "time_step_rank": 0}, "config.time_step_rank: must be a positive integer, not 0"),
        ({"model_type": "phi", "partial_rotary_factor": 2, "hidden_size": 64, "num_attention_heads": 4,
          "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9},
         "config.partial_rotary_factor: must be above 0 and at most 1, not 2"),
    ],
)  # fmt: skip
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError) as caught:
        workload_of("local", config, Request())
    assert str(caught.value) == message
    assert not isinstance(caught.value, Unsupported)


def test_table_of_the_page_is_the_zoo() -> None:
    page = Path(__file__).parents[2] / "docs" / "workloads.md"
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in page.read_text().splitlines() if line[:3] == "| `"]
    found = {row[0].strip("`"): row[1:] for row in rows if len(row) == 5}
    assert list(found) == NAMES
    for name, (family, parameters, macs, _) in found.items():
        workload = load_workload(name)
        assert family == config_of(name)["model_type"]
        assert parameters == f"{workload.parameters / 1e6:.1f}"
        assert macs.partition(" ")[0] == f"{workload.macs / 1e9:.2f}"


def test_every_entry_states_its_source() -> None:
    for name in NAMES:
        assert "arXiv:" in config_of(name)["source"], name
        assert name == name.lower()
