"""Trace a model of transformers on the meta device: from its configuration to a workload, without a weight."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from macloom.errors import MacloomError
from macloom.workloads.config import find_config, located, read_json
from macloom.workloads.ops import Workload
from macloom.workloads.request import Request
from macloom.workloads.routing import Routing
from macloom.workloads.trace.build import DECODER, ENCODER, IMAGE, SEQ2SEQ, Traced, build, image_shape, inputs, running
from macloom.workloads.trace.convert import Converter
from macloom.workloads.trace.layers import HEAD, collapsed
from macloom.workloads.trace.record import ACTIVATION, CACHE, Recorder
from macloom.workloads.trace.stand_ins import standing_in


def _cache_tensors(cache: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield every tensor of a cache, with the layer that holds it."""
    for part in (getattr(cache, "self_attention_cache", None), getattr(cache, "cross_attention_cache", None)):
        if part is not None:
            yield from _cache_tensors(part)
    for layer in getattr(cache, "layers", ()):
        held = [getattr(layer, "keys", None), getattr(layer, "values", None)]
        for name in ("conv_states", "recurrent_states"):
            held += list((getattr(layer, name, None) or {}).values())
        for tensor in held:
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                yield layer, tensor


def _cache_elements(cache: Any) -> int:
    """Return the elements that a cache holds for the tokens so far."""
    found = 0
    for layer, tensor in _cache_tensors(cache):
        window = getattr(layer, "sliding_window", None)
        if isinstance(window, int) and layer.cumulative_length >= window:
            # transformers drops the key that the next token pushes out before that token comes.
            found += tensor.numel() // tensor.shape[-2] * window
        else:
            found += tensor.numel()
    return found


CACHES = ("past_key_values", "cache_params")
"""What models call their cache, in their arguments and in their results."""


def _cache_of(result: Any) -> Any:
    return next((getattr(result, name) for name in CACHES if getattr(result, name, None) is not None), None)


def _call(traced: Traced, arguments: dict[str, Any]) -> Any:
    return traced.model(**arguments)


class DoesNotRun(MacloomError):
    """A model that needs values, which tensors on the meta device do not have."""


def _recorded(
    name: str, traced: Traced, tokens: int, past: int, batch: int, source: int, phase: str, last: bool
) -> tuple[Recorder, Any]:
    """Run one pass behind `past` tokens, and return what was recorded and the model's result."""
    recorder = Recorder(traced.model)
    with standing_in(traced.model), running():
        try:
            arguments = inputs(traced, tokens, batch, source, last)
            if "pixel_values" in arguments:
                recorder.mark(arguments["pixel_values"], ACTIVATION)
            if past:
                # What the cache holds for the tokens before has the shapes that the model itself gives it.
                before = _call(traced, inputs(traced, past, batch, source, True))
                cache = _cache_of(before)
                taken = inspect.signature(traced.model.forward).parameters
                accepted = next((key for key in CACHES if key in taken), None)
                if cache is None or accepted is None:
                    raise MacloomError(
                        f"phase: must be 'prefill', not {phase!r}; {name} keeps no cache from pass to pass"
                    )
                for _, tensor in _cache_tensors(cache):
                    recorder.mark(tensor, CACHE)
                arguments[accepted] = cache
                if traced.kind == SEQ2SEQ:
                    states = before.encoder_last_hidden_state
                    recorder.mark(states, ACTIVATION)
                    del arguments["input_ids"]
                    arguments["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
            with recorder:
                return recorder, _call(traced, arguments)
        except MacloomError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            where = recorder.failed or "the model"
            raise DoesNotRun(f"trace: {name} does not run without weights, in {where}: {text}") from None


def trace_model(
    name: str,
    traced: Traced,
    *,
    tokens: int,
    past: int = 0,
    batch: int = 1,
    source: int = 0,
    phase: str = "prefill",
    last: bool = False,
    routing: Routing = "uniform",
) -> Workload:
    """Return what one pass of a model computes.

    Args:
        traced: the model, from `macloom.workloads.trace.build.build`.
        tokens: tokens that each request brings; nothing to images.
        past: tokens that are in the cache before.
        batch: requests.
        source: tokens that the encoder of an encoder-decoder has read, or reads in this pass if `past` is 0.
        phase: how the workload calls the pass: prefill or decode.
        last: whether only last tokens get logits.
        routing: how tokens spread over experts; see `load_workload`.

    Raises:
        MacloomError: the model computes something that has no price, or does not run on the meta device.
    """
    recorder, result = _recorded(name, traced, tokens, past, batch, source, phase, last)
    rows = batch * tokens
    leaves = frozenset(n for n, m in traced.model.named_modules() if n and next(m.children(), None) is None)
    converter = Converter(
        recorder.nodes, causal=traced.kind == DECODER and phase == "prefill", decode=phase == "decode",
        requests=batch, past=past, tokens=rows, routing=routing, leaves=leaves,
    )  # fmt: skip
    ops = collapsed(converter.drafts(), traced.model)
    if not converter.experts and routing != "uniform":
        raise MacloomError(f"routing: must be left out for {name}, which has no experts, not {routing!r}")
    if not ops:
        raise MacloomError(f"trace: {name} computes nothing that was seen")
    cache = _cache_of(result)
    spread = {"experts": converter.experts, "experts_per_token": converter.experts_per_token}
    details = _details(traced, tokens, past, batch, source, phase, last, routing if converter.experts else None)
    return Workload(
        name=name,
        phase=phase,
        ops=ops,
        parameters=sum(p.numel() for p in traced.model.parameters()),
        kv_elements=_cache_elements(cache) if cache is not None else 0,
        tokens=batch if traced.kind == IMAGE else rows,
        details=details | (spread if converter.experts else {}),
    )


def _details(
    traced: Traced, tokens: int, past: int, batch: int, source: int, phase: str, last: bool, routing: Routing | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"family": traced.config.model_type, "batch": batch}
    if traced.kind == IMAGE:
        found["image"] = list(image_shape(traced.config))
    elif phase == "decode":
        found["context"] = past + tokens
    else:
        found |= {"sequence": tokens} | ({"past": past} if past else {})
    if traced.kind == SEQ2SEQ:
        found["source"] = source
    if traced.kind in (ENCODER, IMAGE):
        found["phases"] = ["prefill"]
    else:
        found["head_tokens"] = "last" if last else "all"
    if routing is not None:
        found["routing"] = routing if isinstance(routing, str) else list(routing)
    return found | {"traced": f"transformers {transformers.__version__}, torch {torch.__version__}"}


def trace_document(name: str, path: Path | None, document: Mapping[str, Any], request: Request) -> Workload:
    """Trace the model of a configuration.

    Args:
        name: what to call the workload.
        path: the file of the configuration, for messages.
        document: its content.
        request: what the model is to do.

    Raises:
        MacloomError: an unknown architecture, an argument that does not belong to the model, an operation without a
            price, or a model that does not run without weights.
    """
    with located(path) if path is not None else nullcontext():
        traced = build(document)
    _check(name, traced, request)
    try:
        return _traced(name, traced, request)
    except DoesNotRun:
        # Some models compute with the mask that attention of another name does not get.
        other = build(document, eager=True)
        try:
            return _traced(name, other, request)
        except MacloomError:
            pass
        raise


def _check(name: str, traced: Traced, request: Request) -> None:
    """Raise if a request does not belong to a model of this kind."""
    kind = traced.kind
    if kind == IMAGE:
        request.of_an_image(name)
    if kind == ENCODER:
        request.without_decode(name, "is an encoder and makes no tokens one by one")
    if kind != SEQ2SEQ:
        request.without_source(name)
    if kind in (ENCODER, SEQ2SEQ):
        request.without_past(name)


def _traced(name: str, traced: Traced, request: Request) -> Workload:
    decode = request.decode
    longest = getattr(traced.text, "max_position_embeddings", None)
    length = request.tokens(longest if isinstance(longest, int) and longest > 0 else None)
    workload = trace_model(
        name,
        traced,
        tokens=1 if decode else length,
        past=length - 1 if decode else request.past,
        batch=request.batch,
        source=(request.source or length) if traced.kind == SEQ2SEQ else 0,
        phase=request.phase,
        last=request.head_tokens != "all",
        routing=request.routing,
    )
    if request.head_tokens == "none":
        body = tuple(op for op in workload.ops if op.name != HEAD)
        return replace(workload, ops=body, details={**workload.details, "head_tokens": "none"})
    return workload


def trace_workload(model: str | Path | Mapping[str, Any], **arguments: Any) -> Workload:
    """Trace a model without weights, also one whose formula macloom knows.

    Args:
        model: a model directory, a `config.json`, its content, or a name of `list_workloads`.
        arguments: `phase`, `sequence`, `context`, `batch`, `head_tokens`, `routing`, `source` and `past`, as for
            `macloom.load_workload`.

    Raises:
        MacloomError: no such file, or what `trace_document` raises.
    """
    request = Request(**arguments)
    if isinstance(model, Mapping):
        return trace_document(str(model.get("model_type")), None, model, request)
    name, path = find_config(model)
    return trace_document(name, path, read_json(path), request)
