"""Models by name or from their Hugging Face configuration, as workloads of one phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.analytic import ARCHITECTURES
from macloom.workloads.analytic.diffusers import from_diffusers
from macloom.workloads.config import (
    TRACE,
    Unsupported,
    config_paths,
    decoder_config,
    find_config,
    located,
    read_json,
)
from macloom.workloads.ops import Gemm, Op, Workload
from macloom.workloads.request import Request
from macloom.workloads.routing import Routing
from macloom.workloads.shape import DecoderConfig
from macloom.workloads.transformer import Pass, cache_elements, transformer_ops


def decoder_workload(name: str, config: DecoderConfig, request: Request) -> Workload:
    """Return the operations of a decoder, or an encoder of tokens, in one phase."""
    if not config.causal:
        request.without_decode(name, "is an encoder and makes no tokens one by one")
        request.without_past(name)
    request.without_source(name)
    length = request.tokens(config.max_positions)
    if not config.experts:
        request.without_experts(name)
    decode = request.decode
    run = Pass(
        queries=1 if decode else length,
        past=length - 1 if decode else request.past,
        batch=request.batch,
        causal=not decode and config.causal,
        routing=request.routing,
    )
    return Workload(
        name=name,
        phase=request.phase,
        ops=transformer_ops(config, run, {"all": run.rows, "last": run.batch, "none": 0}[request.head_tokens]),
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
            "batch": run.batch,
            "context" if decode else "sequence": length,
            **({"past": request.past} if request.past else {}),
            "head_tokens": request.head_tokens,
            **_further_details(config, request.routing),
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


def workload_of(name: str, document: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of the model that a `config.json` describes, from its formula.

    Raises:
        Unsupported: a model that has no formula; it can be traced.
        MacloomError: a malformed field, or a request that the model cannot have.
    """
    document = from_diffusers(document)
    kind = document.get("model_type")
    if isinstance(kind, str) and kind in ARCHITECTURES:
        return ARCHITECTURES[kind](name, document, request)
    return decoder_workload(name, decoder_config(document, ARCHITECTURES), request)


def load_workload(
    name_or_path: str | Path,
    *,
    phase: str = "prefill",
    sequence: int | None = None,
    batch: int = 1,
    context: int | None = None,
    head_tokens: str = "all",
    routing: Routing = "uniform",
    source: int | None = None,
    past: int = 0,
    chunk: int | None = None,
) -> Workload:
    """Return the operations of a known model, or of a local Hugging Face model, in one phase.

    A configuration whose `model_type` has no formula here is traced (`macloom.workloads.trace`), which needs
    `pip install 'macloom[llm]'` and no weights.

    Args:
        name_or_path: a name of `list_workloads`, a model directory, a `config.json`, or a trace that
            `macloom trace --out` wrote.
        phase: `prefill` runs all tokens of a prompt; `decode` runs one new token of each request.
            Encoders and models of images have prefill only.
        sequence: tokens of the prompt (prefill only); 2048 or the model's longest, if shorter.
        batch: requests, or images. In decode they share the projections (M = batch); attention stays per request.
        context: keys that the new token attends to, itself included (decode only); default as above.
        head_tokens: `all` computes logits of every token, as published operation counts do; `last`
            only those of each request's last token, as a server does; `none` ends with the last layer. Decode has
            one token: no difference between the first two.
        routing: how tokens spread over the experts of a model that has them: `uniform` (balanced), `zipf`,
            `zipf:S` with the exponent S, or a recorded share for each expert. The same in every layer.
        source: tokens that an encoder before the decoder reads; as many as `sequence` or `context` if left out.
        past: tokens of the prompt that are in the cache already (prefill only).
        chunk: run the prompt in parts of so many tokens, one after the other; see `prefill_chunks`.

    Raises:
        MacloomError: unknown name, foreign or malformed configuration, a length beyond the model's
            positions, or an argument that does not belong to the phase or model.

    >>> load_workload("opt-6.7b", sequence=2048).macs / 1e12
    14.715363262464
    >>> load_workload("llama-3-8b", phase="decode", context=2048).gemms[3].b_sharing
    4
    """
    name, path = find_config(name_or_path)
    document = read_json(path)
    request = Request(
        phase=phase, sequence=sequence, context=context, batch=batch, head_tokens=head_tokens, routing=routing,
        source=source, past=past,
    )  # fmt: skip
    if TRACE in document:
        return _traced_before(path, document, request, chunk)
    if chunk is not None:
        return joined(name, _chunks(name, path, document, request, chunk))
    return _workload(name, path, document, request)


def _workload(name: str, path: Path, document: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a configuration by its formula, or of its trace if it has none."""
    try:
        return workload_of(name, document, request)
    except Unsupported as error:
        from macloom.workloads.trace.available import tracer

        trace = tracer(f"{path}: {error}")
    except MacloomError as error:
        # A mistake in the file, unlike one in the arguments, needs the name of the file.
        if str(error).startswith("config."):
            raise MacloomError(f"{path}: {error}") from None
        raise
    return trace(name, path, document, request)


def _traced_before(path: Path, document: Mapping[str, Any], request: Request, chunk: int | None) -> Workload:
    """Return a saved trace; its phase, lengths and routing are those with which it was made."""
    from macloom.workloads.trace.files import trace_from_dict

    with located(path):
        workload = trace_from_dict(document)
    if workload.phase != request.phase:
        raise MacloomError(f"phase: must be {workload.phase!r}, which {path} is a trace of, not {request.phase!r}")
    details = workload.details
    asked = {
        "sequence": request.sequence, "context": request.context, "source": request.source,
        "past": request.past or None, "batch": None if request.batch == 1 else request.batch, "chunk": chunk,
        "routing": None if request.routing == "uniform" else request.routing,
    }  # fmt: skip
    for key, value in asked.items():
        if value is not None and details.get(key) != value:
            raise MacloomError(
                f"{key}: must be {details.get(key)!r}, as in the trace {path}, or left out, not {value!r}"
            )
    return workload


def _chunks(name: str, path: Path, document: Mapping[str, Any], request: Request, chunk: int) -> tuple[Workload, ...]:
    require_positive_integer("chunk", chunk)
    if request.decode:
        raise MacloomError(f"chunk: must be left out for decode, which runs one token at a time, not {chunk}")
    whole = _workload(name, path, document, request)
    if (
        "sequence" not in whole.details
        or "source" in whole.details
        or "decode" not in whole.details.get("phases", ("prefill", "decode"))
    ):
        raise MacloomError(f"chunk: must be left out for {name}, which reads its whole input at once, not {chunk}")
    total = int(whole.details["sequence"])
    found = []
    for start in range(0, total, chunk):
        tokens = min(chunk, total - start)
        ends = start + tokens == total
        head = request.head_tokens if ends or request.head_tokens == "all" else "none"
        part = replace(request, sequence=tokens, past=request.past + start, head_tokens=head)
        found.append(_workload(name, path, document, part))
    return tuple(found)


def prefill_chunks(name_or_path: str | Path, chunk: int, **arguments: Any) -> tuple[Workload, ...]:
    """Return the parts of a prompt that is run `chunk` tokens at a time, as servers do beside decoding.

    Each part attends to the keys of those before it. Together they do the same useful work as the whole prompt
    (`Workload.useful_macs`) and less than its full square of attention. With `head_tokens="last"` only the last part
    has a head.

    Args:
        name_or_path: what `load_workload` takes.
        chunk: tokens of a part; the last one may have fewer.
        arguments: `sequence`, `batch`, `head_tokens`, `routing` and `past`, as for `load_workload`.

    >>> whole, parts = load_workload("llama-3-8b", sequence=2048), prefill_chunks("llama-3-8b", 512, sequence=2048)
    >>> [p.details.get("past", 0) for p in parts], sum(p.useful_macs for p in parts) == whole.useful_macs
    ([0, 512, 1024, 1536], True)
    """
    name, path = find_config(name_or_path)
    return _chunks(name, path, read_json(path), Request(**arguments), chunk)


def joined(name: str, parts: Sequence[Workload]) -> Workload:
    """Return workloads that run one after the other as one; operations get `chunk<i>.` in front of their names."""

    def of_part(i: int, op: Op) -> Op:
        def named(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(f"chunk{i}.{n}" for n in names)

        if isinstance(op, Gemm):
            return replace(op, name=f"chunk{i}.{op.name}", reads=named(op.reads))
        return replace(op, name=f"chunk{i}.{op.name}", reads=tuple(map(named, op.reads)))

    last = parts[-1]
    tokens = sum(p.tokens for p in parts)
    details = {k: v for k, v in last.details.items() if k != "past"}
    if "past" in parts[0].details:
        details["past"] = parts[0].details["past"]
    return Workload(
        name=name,
        phase=last.phase,
        ops=tuple(of_part(i, op) for i, part in enumerate(parts) for op in part.ops),
        parameters=last.parameters,
        kv_elements=last.kv_elements,
        tokens=tokens,
        details=details | {"sequence": tokens // int(details["batch"]), "chunk": parts[0].details["sequence"]},
    )


def list_workloads() -> list[str]:
    """Return the names that `load_workload` knows.

    >>> "opt-6.7b" in list_workloads()
    True
    """
    return list(config_paths())
