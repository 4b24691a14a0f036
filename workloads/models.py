"""Decoder language models as exact lists of operations, from their configuration alone.

Biases start the accumulators of their product and the scaling of scores is part of softmax, so
neither is an operation of its own. The counts agree with traces of the real models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.config import DecoderConfig, config_paths, decoder_config, find_config, located, read_json
from macloom.workloads.ops import Gemm, Op, Role, Vector, VectorKind, Workload

DEFAULT_LENGTH = 2048


def _projection(config: DecoderConfig, name: str, rows: int, out: Role = Role.OUTPUT) -> Gemm:
    p = config.projections[name]
    return Gemm(name=p.name, m=rows, n=p.outputs, k=p.inputs, out=out, repeat=config.layers)


def _attention(config: DecoderConfig, *, queries: int, keys: int, batch: int, causal: bool) -> list[Op]:
    rows, width, repeat = queries * batch, config.head_dim, config.layers
    shared: dict[str, Any] = {
        "m": queries,
        "batch": batch * config.heads,
        "b": Role.KV,
        "b_sharing": config.heads // config.kv_heads,
        "causal": causal,
        "repeat": repeat,
    }
    # The results of k_proj and v_proj are what the cache keeps (rope turns K on its way there). Queries
    # that no rope turns, and the attention's results, are encoded as the next product reads them.
    ops: list[Op] = [
        _projection(config, "q_proj", rows, Role.ACTIVATION if config.position_rows else Role.OUTPUT),
        _projection(config, "k_proj", rows, Role.KV),
        _projection(config, "v_proj", rows, Role.KV),
    ]
    if not config.position_rows:
        ops += [
            Vector(name=f"self_attn.rope_{t}", kind=VectorKind.ROPE, rows=rows * heads, width=width, repeat=repeat)
            for t, heads in (("q", config.heads), ("k", config.kv_heads))
        ]
    softmax_rows = rows * config.heads
    return [
        *ops,
        Gemm(name="self_attn.scores", n=keys, k=width, a=Role.ACTIVATION, out=Role.OUTPUT, **shared),
        Vector(name="self_attn.softmax", kind=VectorKind.SOFTMAX, rows=softmax_rows, width=keys, repeat=repeat),
        Gemm(name="self_attn.values", n=width, k=keys, a=Role.PROBABILITY, out=Role.ACTIVATION, **shared),
        _projection(config, "o_proj" if config.family == "llama" else "out_proj", rows),
    ]


def _layer(config: DecoderConfig, *, queries: int, keys: int, batch: int, causal: bool) -> list[Op]:
    """Operations of one layer, each repeated for all layers.

    A norm before or after its block is the same operation, so one order serves both OPT variants.
    """
    rows, hidden, repeat = queries * batch, config.hidden, config.layers
    llama = config.family == "llama"
    kind = VectorKind.RMS_NORM if llama else VectorKind.LAYER_NORM
    names = ("input_layernorm", "post_attention_layernorm") if llama else ("self_attn_layer_norm", "final_layer_norm")
    first, second = (Vector(name=n, kind=kind, rows=rows, width=hidden, repeat=repeat) for n in names)

    def residual(name: str) -> Vector:
        return Vector(name=name, kind=VectorKind.ADD, rows=rows, width=hidden, inputs=2, repeat=repeat)

    def wide(name: str, kind: VectorKind, inputs: int = 1) -> Vector:
        return Vector(name=name, kind=kind, rows=rows, width=config.intermediate, inputs=inputs, repeat=repeat)

    if llama:
        mlp: list[Op] = [
            _projection(config, "gate_proj", rows),
            _projection(config, "up_proj", rows),
            wide("mlp.silu", VectorKind.SILU),
            wide("mlp.multiply", VectorKind.MULTIPLY, 2),
            _projection(config, "down_proj", rows),
        ]
    else:
        mlp = [_projection(config, "fc1", rows), wide("relu", VectorKind.RELU), _projection(config, "fc2", rows)]
    attention = _attention(config, queries=queries, keys=keys, batch=batch, causal=causal)
    return [first, *attention, residual("self_attn.residual"), second, *mlp, residual("mlp.residual")]


def _embedding(config: DecoderConfig, rows: int) -> list[Op]:
    ops: list[Op] = [Vector(name="embed_tokens", kind=VectorKind.EMBEDDING, rows=rows, width=config.embedding)]
    if config.embedding != config.hidden:
        ops.append(Gemm(name="project_in", m=rows, n=config.hidden, k=config.embedding))
    if config.position_rows:
        ops += [
            Vector(name="embed_positions", kind=VectorKind.EMBEDDING, rows=rows, width=config.hidden),
            Vector(name="add_positions", kind=VectorKind.ADD, rows=rows, width=config.hidden, inputs=2),
        ]
    return ops


def _head(config: DecoderConfig, rows: int, head_rows: int) -> list[Op]:
    ops: list[Op] = []
    if config.final_norm:
        llama = config.family == "llama"
        name, kind = ("norm", VectorKind.RMS_NORM) if llama else ("final_norm", VectorKind.LAYER_NORM)
        ops.append(Vector(name=name, kind=kind, rows=rows, width=config.hidden))
    if config.embedding != config.hidden:
        ops.append(Gemm(name="project_out", m=rows, n=config.embedding, k=config.hidden))
    return [*ops, Gemm(name="lm_head", m=head_rows, n=config.vocab, k=config.embedding)]


def _length(phase: str, sequence: int | None, context: int | None, longest: int) -> int:
    """Return the number of keys that a token attends to, from the argument that belongs to the phase."""
    if phase not in ("prefill", "decode"):
        raise MacloomError(f"phase: must be 'prefill' or 'decode', not {phase!r}")
    wanted, given, other, stray = ("sequence", sequence, "context", context)
    if phase == "decode":
        wanted, given, other, stray = ("context", context, "sequence", sequence)
    if stray is not None:
        raise MacloomError(f"{other}: must not be given for {phase}, not {stray!r}; set {wanted} instead")
    if given is None:
        return min(DEFAULT_LENGTH, longest)
    require_positive_integer(wanted, given)
    if given > longest:
        raise MacloomError(f"{wanted}: must be at most {longest}, the model's max_position_embeddings, not {given}")
    return given


def decoder_workload(
    name: str,
    config: DecoderConfig,
    *,
    phase: str = "prefill",
    sequence: int | None = None,
    batch: int = 1,
    context: int | None = None,
    head_tokens: str = "all",
) -> Workload:
    """Return the operations of a decoder in one phase; the arguments are those of `load_workload`."""
    keys = _length(phase, sequence, context, config.max_positions)
    require_positive_integer("batch", batch)
    if head_tokens not in ("all", "last"):
        raise MacloomError(f"head_tokens: must be 'all' or 'last', not {head_tokens!r}")
    queries = keys if phase == "prefill" else 1
    rows = queries * batch
    layer = _layer(config, queries=queries, keys=keys, batch=batch, causal=phase == "prefill")
    return Workload(
        name=name,
        phase=phase,
        ops=(
            *_embedding(config, rows),
            *layer,
            *_head(config, rows, rows if head_tokens == "all" else batch),
        ),
        parameters=config.parameters,
        kv_elements=2 * config.layers * config.kv_heads * config.head_dim * keys * batch,
        tokens=rows,
        details={
            "family": config.family,
            "layers": config.layers,
            "hidden": config.hidden,
            "heads": config.heads,
            "kv_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "vocab": config.vocab,
            "batch": batch,
            "sequence" if phase == "prefill" else "context": keys,
            "head_tokens": head_tokens,
        },
    )


def load_workload(
    name_or_path: str | Path,
    *,
    phase: str = "prefill",
    sequence: int | None = None,
    batch: int = 1,
    context: int | None = None,
    head_tokens: str = "all",
) -> Workload:
    """Return the operations of a known model, or of a local Hugging Face model, in one phase.

    Args:
        name_or_path: a name of `list_workloads`, a model directory, or a `config.json` whose
            `model_type` is `llama` or `opt`.
        phase: `prefill` runs all tokens of a prompt; `decode` runs one new token of each request.
        sequence: tokens of the prompt (prefill only); 2048 or the model's longest, if shorter.
        batch: requests. In decode they share the projections (M = batch); attention stays per request.
        context: keys that the new token attends to, itself included (decode only); default as above.
        head_tokens: `all` computes logits of every token, as published operation counts do; `last`
            only those of each request's last token, as a server does. Decode has one token: no difference.

    Raises:
        MacloomError: unknown name, foreign or malformed configuration, a length beyond the model's
            positions, or an argument that does not belong to the phase.

    >>> load_workload("opt-6.7b", sequence=2048).macs / 1e12
    14.715363262464
    >>> load_workload("llama-3-8b", phase="decode", context=2048).gemms[3].b_sharing
    4
    """
    name, path = find_config(name_or_path)
    document = read_json(path)
    with located(path):
        config = decoder_config(document)
    return decoder_workload(
        name,
        config,
        phase=phase,
        sequence=sequence,
        batch=batch,
        context=context,
        head_tokens=head_tokens,
    )


def list_workloads() -> list[str]:
    """Return the names that `load_workload` knows.

    >>> "opt-6.7b" in list_workloads()
    True
    """
    return list(config_paths())
