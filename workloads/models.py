"""Models by name or from their Hugging Face configuration, as workloads of one phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.config import config_paths, decoder_config, find_config, located, read_json
from macloom.workloads.ops import Workload
from macloom.workloads.routing import Routing
from macloom.workloads.shape import DecoderConfig
from macloom.workloads.transformer import Pass, cache_elements, transformer_ops

DEFAULT_LENGTH = 2048


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
    routing: Routing = "uniform",
) -> Workload:
    """Return the operations of a model in one phase; the arguments are those of `load_workload`."""
    if phase == "decode" and not config.causal:
        raise MacloomError(
            f"phase: must be 'prefill', not 'decode'; {name} is an encoder and makes no tokens one by one"
        )
    keys = _length(phase, sequence, context, config.max_positions)
    require_positive_integer("batch", batch)
    if head_tokens not in ("all", "last"):
        raise MacloomError(f"head_tokens: must be 'all' or 'last', not {head_tokens!r}")
    if not config.experts and routing != "uniform":
        raise MacloomError(f"routing: must be left out for {name}, which has no experts, not {routing!r}")
    prefill = phase == "prefill"
    run = Pass(
        queries=keys if prefill else 1, keys=keys, batch=batch, causal=prefill and config.causal, routing=routing
    )
    return Workload(
        name=name,
        phase=phase,
        ops=transformer_ops(config, run, run.rows if head_tokens == "all" else batch),
        parameters=config.parameters,
        kv_elements=cache_elements(config, run),
        tokens=run.rows,
        details={
            "family": config.family,
            "layers": config.layers,
            "hidden": config.hidden,
            "heads": config.heads,
            "kv_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "vocab": config.vocab,
            "batch": batch,
            "sequence" if prefill else "context": keys,
            "head_tokens": head_tokens,
            **_further_details(config, routing),
        },
    )


def _further_details(config: DecoderConfig, routing: Routing) -> dict[str, Any]:
    found: dict[str, Any] = {} if config.causal else {"phases": ["prefill"]}
    if config.window is not None:
        found |= {"window": config.window, "windowed_layers": config.windowed_layers}
    if config.experts:
        shown = routing if isinstance(routing, str) else list(routing)
        found |= {"experts": config.experts, "experts_per_token": config.experts_per_token, "routing": shown}
    return found


def load_workload(
    name_or_path: str | Path,
    *,
    phase: str = "prefill",
    sequence: int | None = None,
    batch: int = 1,
    context: int | None = None,
    head_tokens: str = "all",
    routing: Routing = "uniform",
) -> Workload:
    """Return the operations of a known model, or of a local Hugging Face model, in one phase.

    Args:
        name_or_path: a name of `list_workloads`, a model directory, or a `config.json` of a known
            `model_type` (`macloom.workloads.families`).
        phase: `prefill` runs all tokens of a prompt; `decode` runs one new token of each request.
            Encoders have prefill only.
        sequence: tokens of the prompt (prefill only); 2048 or the model's longest, if shorter.
        batch: requests. In decode they share the projections (M = batch); attention stays per request.
        context: keys that the new token attends to, itself included (decode only); default as above.
        head_tokens: `all` computes logits of every token, as published operation counts do; `last`
            only those of each request's last token, as a server does. Decode has one token: no difference.
        routing: how tokens spread over the experts of a model that has them: `uniform` (balanced), `zipf`,
            `zipf:S` with the exponent S, or a recorded share for each expert. The same in every layer.

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
        routing=routing,
    )


def list_workloads() -> list[str]:
    """Return the names that `load_workload` knows.

    >>> "opt-6.7b" in list_workloads()
    True
    """
    return list(config_paths())
