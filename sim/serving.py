"""What a served request sees: time to first token, time per output token, tokens per second and per joule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from macloom.arch import Accelerator, load_accelerator
from macloom.errors import MacloomError, require_positive_integer
from macloom.sim.mapping import RecipeLike
from macloom.sim.result import Result
from macloom.sim.simulate import simulate


@dataclass(frozen=True, kw_only=True)
class ServeSummary:
    """`batch` requests that start together: one prefill, then `steps` decoding steps.

    Attributes:
        ttft_s: time to first token: the prefill, whose last logits give it.
        tpot_s: time per output token: the mean of the decoding steps.
        last_step_s: the longest, which comes last.
        total_s, energy_j: of the prefill and all steps.
        tokens: that come out, over all requests: one from the prefill and one from each step.
        tokens_per_s: output tokens over the whole time.
        decode_tokens_per_s: the same while decoding.
        energy_per_token_j: all energy over the output tokens.
        tokens_per_s_per_w: tokens per second over the mean power, which is tokens per joule.
    """

    batch: int
    steps: int
    ttft_s: float
    tpot_s: float
    last_step_s: float
    total_s: float
    energy_j: float
    tokens: int
    tokens_per_s: float
    decode_tokens_per_s: float
    energy_per_token_j: float
    tokens_per_s_per_w: float

    def to_dict(self) -> dict[str, Any]:
        """Return all figures by name, ready for JSON."""
        return asdict(self)


def serve_summary(
    prefill: Result, decode: Result | Sequence[Result], *, batch: int = 1, steps: int | None = None
) -> ServeSummary:
    """Return what a request sees, from a prefill and its decoding steps.

    Args:
        prefill: the result of the prompts of all requests.
        decode: the result of each step, in order; or one result that stands for every step.
        batch: requests in both.
        steps: how often a single `decode` happens (1).

    Raises:
        MacloomError: phases that do not fit, no step, or `steps` beside a list.
    """
    require_positive_integer("serve.batch", batch)
    results = [decode] if isinstance(decode, Result) else list(decode)
    if prefill.phase != "prefill" or any(r.phase != "decode" for r in results):
        phases = ", ".join(dict.fromkeys(r.phase for r in results))
        raise MacloomError(f"serve: must have a result of prefill and results of decode, not {prefill.phase}, {phases}")
    if not results:
        raise MacloomError("serve.decode: must hold at least one result")
    if steps is not None:
        require_positive_integer("serve.steps", steps)
        if not isinstance(decode, Result):
            raise MacloomError("serve.steps: must not be given beside a list of results; its length counts")
    count = steps if steps is not None else len(results)
    each = count // len(results)
    return _summary(prefill, [(r.seconds, r.energy_j) for r in results], [each] * len(results), batch)


def _summary(prefill: Result, steps: Sequence[tuple[float, float]], weights: Sequence[int], batch: int) -> ServeSummary:
    count = sum(weights)
    decode_s = sum(s * w for (s, _), w in zip(steps, weights, strict=True))
    total_s = prefill.seconds + decode_s
    energy_j = prefill.energy_j + sum(e * w for (_, e), w in zip(steps, weights, strict=True))
    tokens = batch * (count + 1)
    return ServeSummary(
        batch=batch,
        steps=count,
        ttft_s=prefill.seconds,
        tpot_s=decode_s / count,
        last_step_s=max(s for s, _ in steps),
        total_s=total_s,
        energy_j=energy_j,
        tokens=tokens,
        tokens_per_s=tokens / total_s,
        decode_tokens_per_s=batch * count / decode_s,
        energy_per_token_j=energy_j / tokens,
        tokens_per_s_per_w=tokens / energy_j,
    )


def simulate_serving(
    workload: str | Path,
    accelerator: Accelerator | str | Path,
    recipe: RecipeLike | str | Path,
    *,
    prompt: int,
    tokens: int,
    batch: int = 1,
    stride: int = 1,
    **options: Any,
) -> ServeSummary:
    """Return what `batch` requests of `prompt` tokens see that want `tokens` tokens each.

    The first token comes from the prefill, each other from a decoding step that sees one key more. With a
    `stride` only every so many of these steps are simulated, the first and the last always; those between lie
    on straight lines. Operations that do not depend on the context are simulated once.

    Args:
        workload: what `load_workload` takes.
        options: of `simulate`, such as `dataflow`, `prefetch` or `fidelity`.

    >>> summary = simulate_serving("tiny", "olive-sa", "ovp4", prompt=64, tokens=16)
    >>> summary.steps, summary.tokens, summary.ttft_s > summary.tpot_s > 0
    (15, 16, True)
    """
    from macloom.workloads.models import load_workload

    for name, value in (("prompt", prompt), ("tokens", tokens), ("batch", batch), ("stride", stride)):
        require_positive_integer(f"serve.{name}", value)
    if tokens < 2:
        raise MacloomError("serve.tokens: must be at least 2, one from the prefill and one from a decoding step")
    accelerator = load_accelerator(accelerator)
    if isinstance(recipe, str | Path):
        from macloom.workloads.recipe import load_recipe

        recipe = load_recipe(recipe)
    first = load_workload(workload, sequence=prompt, batch=batch, head_tokens="last")
    prefill = simulate(first, accelerator, recipe, **options)
    contexts = [*range(prompt + 1, prompt + tokens - 1, stride), prompt + tokens - 1]
    simulated: dict[int, tuple[float, float]] = {}
    for context in contexts:
        step = load_workload(workload, phase="decode", context=context, batch=batch)
        result = simulate(step, accelerator, recipe, **options)
        simulated[context] = result.seconds, result.energy_j
    steps = [simulated[contexts[0]]]
    for left, right in pairwise(contexts):
        steps += [_between(simulated[left], simulated[right], i / (right - left)) for i in range(1, right - left + 1)]
    return _summary(prefill, steps, [1] * len(steps), batch)


def _between(left: tuple[float, float], right: tuple[float, float], share: float) -> tuple[float, float]:
    return tuple(a + (b - a) * share for a, b in zip(left, right, strict=True))  # type: ignore[return-value]
