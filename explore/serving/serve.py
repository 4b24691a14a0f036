"""Requests served by a model on an accelerator, from the costs that the simulator finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import macloom
from macloom.arch import Accelerator, load_accelerator
from macloom.errors import MacloomError
from macloom.explore.serving.costs import StepCosts
from macloom.explore.serving.memory import CacheSize, size_text, weight_bits
from macloom.explore.serving.passes import Passes, passes_of
from macloom.explore.serving.policy import Policy
from macloom.explore.serving.request import Request
from macloom.explore.serving.result import Objective, Served, ServingResult
from macloom.explore.serving.scheduler import Progress, Server
from macloom.workloads import Recipe, load_recipe


def serve(
    model: str | Path | Passes,
    accelerator: Accelerator | str | Path,
    recipe: Recipe | str | Path,
    requests: Sequence[Request],
    *,
    policy: Policy | None = None,
    objective: Objective | None = None,
    memory_bits: int | None = None,
    per_octave: int | None = 4,
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ServingResult:
    """Return what each request sees when a model serves them all with continuous batching.

    Args:
        model: what `load_workload` takes, of which `passes_of` says what can be served.
        accelerator, recipe: as for `simulate`.
        requests: in any order.
        policy: how iterations are formed (chunks of 512 tokens).
        objective: what a request has to meet to count as goodput.
        memory_bits: of the accelerator's DRAM; what the weights leave is for keys and values. None asks
            for as much as it takes, unless the policy limits the cache.
        per_octave: how densely costs are simulated (`StepCosts`); None simulates every size.
        settings: what describes the requests, kept in the result.
        progress: called as progress(what, requests done, requests in all).
        options: `routing` of `load_workload`, the rest of `simulate`, such as `dataflow`.

    Raises:
        MacloomError: no request, one that does not fit, memory smaller than the weights, or what `simulate`
            refuses.

    >>> from macloom.explore.serving import fixed
    >>> result = serve("tiny", "olive-sa", "ovp4", fixed(64, 16).requests(8, rate=1000.0))
    >>> len(result.requests), result.output_tokens, result.percentiles("ttft_s")["p50"] > 0
    (8, 128, True)
    """
    if not requests:
        raise MacloomError("requests: must hold at least one request")
    policy = policy or Policy()
    accelerator, recipe = load_accelerator(accelerator), load_recipe(recipe)
    workload_options = {"routing": options.pop("routing")} if "routing" in options else {}
    ordered = sorted(requests, key=lambda request: request.arrived_s)
    longest, limit = max(request.tokens for request in ordered), passes_of(model).longest
    if limit is not None and longest > limit:
        raise MacloomError(
            f"requests: must need at most {limit} tokens, the longest context of the model, not {longest}; "
            "`fitted` cuts them"
        )
    passes = passes_of(model, longest + policy.block, **workload_options)
    stored = weight_bits(passes, recipe)
    if memory_bits is not None:
        policy = replace(policy, cache_bits=_cache_bits(memory_bits, stored, policy))
    cache = CacheSize.of(passes, recipe, policy.block)
    costs = StepCosts(
        model=passes,
        accelerator=accelerator,
        recipe=recipe,
        longest=longest,
        per_octave=per_octave,
        options=options,
    )
    jobs, iterations = Server(policy=policy, costs=costs, bits=cache.bits).run(ordered, progress)
    return ServingResult(
        requests=tuple(
            Served(request=j.request, first_s=j.first_s, finished_s=j.finished_s, preemptions=j.preemptions)
            for j in jobs
        ),
        iterations=tuple(iterations),
        weight_bits=stored,
        cache_bits=policy.cache_bits,
        objective=objective or Objective(),
        settings={
            "model": str(passes.model),
            **passes.facts,
            "recipe": recipe.to_dict(),
            "accelerator": accelerator.to_dict(),
            "policy": policy.to_dict(),
            "memory_bits": memory_bits,
            "per_octave": per_octave,
            "options": {name: str(value) for name, value in {**workload_options, **options}.items()},
            **(settings or {}),
            "version": macloom.__version__,
        },
    )


def _cache_bits(memory_bits: int, stored: int, policy: Policy) -> int:
    left = memory_bits - stored
    if left <= 0:
        raise MacloomError(
            f"serve.memory_bits (--memory): must be more than the {size_text(stored)} of the weights, "
            f"not {size_text(memory_bits)}"
        )
    return left if policy.cache_bits is None else min(left, policy.cache_bits)
