"""The server with costs that are easy to count: laws that hold whatever the machine."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.explore.serving import Policy, Request
from macloom.explore.serving.scheduler import Iteration, Job, Server


class Clock:
    """One second and two joules for each token; a key costs a 64th of a second, logits nothing."""

    def tokens(self, count: int) -> np.ndarray:
        return np.array([count, 2.0 * count])

    def head(self, requests: int) -> np.ndarray:
        return np.zeros(2)

    def prefill_attention(self, tokens: int, history: int) -> np.ndarray:
        seen = sum(history + i + 1 for i in range(tokens))
        return np.array([seen / 64, 0.0])

    def decode_attention(self, contexts: np.ndarray) -> np.ndarray:
        return np.array([contexts.sum() / 64, 0.0])


def run(requests: list[Request], **fields: object) -> tuple[list[Job], list[Iteration]]:
    policy = Policy(**{"tokens": 8, "requests": 4, "block": 1, **fields})  # type: ignore[arg-type]
    return Server(policy=policy, costs=Clock(), bits=lambda tokens: 10 * tokens).run(requests)


def ask(*sizes: tuple[float, int, int]) -> list[Request]:
    return [Request(arrived_s=at, prompt=prompt, output=output) for at, prompt, output in sizes]


def test_one_request_by_hand() -> None:
    (job,), iterations = run(ask((1.0, 10, 3)))
    assert [(i.prefill_tokens, i.decode_tokens) for i in iterations] == [(8, 0), (2, 0), (0, 1), (0, 1)]
    seen = [sum(range(1, 9)), 9 + 10, 11, 12]
    times = [n + s / 64 for n, s in zip((8, 2, 1, 1), seen, strict=True)]
    assert [i.seconds for i in iterations] == times
    assert job.first_s == 1.0 + times[0] + times[1]
    assert job.finished_s == 1.0 + sum(times)
    assert [i.cache_bits for i in iterations] == [100, 100, 110, 120]


def test_decoding_goes_on_beside_a_long_prompt_in_chunks_and_waits_for_a_whole_one() -> None:
    requests = ask((0.0, 4, 8), (4.0, 40, 1))
    _, chunks = run(requests)
    _, rows = run(requests, chunked=False)
    assert [i.prefill_tokens for i in chunks if i.decode_tokens and i.prefill_tokens] == [7] * 5 + [5]
    assert max(i.seconds for i in chunks) < 14 < 40 < max(i.seconds for i in rows)
    assert [(i.prefill_tokens, i.decode_tokens) for i in rows if i.prefill_tokens] == [(4, 0), (40, 0)]


def test_whole_prompts_that_fit_run_together() -> None:
    _, iterations = run(ask((0.0, 3, 1), (0.0, 5, 1), (0.0, 1, 1)), chunked=False)
    assert [i.prefill_tokens for i in iterations] == [8, 1]


def test_a_full_cache_drives_out_the_last_request_which_starts_again() -> None:
    requests = ask((0.0, 4, 6), (0.0, 4, 6))
    jobs, iterations = run(requests, cache_bits=120)
    assert [job.preemptions for job in jobs] == [0, 1]
    assert jobs[0].finished_s < jobs[1].first_s + 100
    assert max(i.cache_bits for i in iterations) <= 120
    # Its prompt and the two tokens it had made are computed again; each token comes out once.
    assert sum(i.prefill_tokens for i in iterations) > 8
    alone, _ = run(requests)
    assert jobs[0].finished_s <= alone[0].finished_s
    assert jobs[1].finished_s > alone[1].finished_s


def test_a_request_that_never_fits_is_refused_before_anything_runs() -> None:
    with pytest.raises(MacloomError, match=r"requests\[1\]: must fit into the cache of 6.25 B, but 4 prompt and 3"):
        run(ask((0.0, 2, 1), (0.0, 4, 3)), cache_bits=50)


sizes = st.lists(
    st.tuples(st.floats(0, 50), st.integers(1, 30), st.integers(1, 8)), min_size=1, max_size=12
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(sizes, st.booleans(), st.sampled_from([None, 380, 600]), st.integers(1, 5), st.integers(5, 16))
def test_laws_of_every_schedule(
    drawn: list[tuple[float, int, int]], chunked: bool, cache: int | None, batch: int, tokens: int
) -> None:
    requests = sorted(ask(*drawn), key=lambda r: r.arrived_s)
    policy = Policy(tokens=tokens, requests=batch, chunked=chunked, cache_bits=cache, block=1)
    server = Server(policy=policy, costs=Clock(), bits=lambda count: 10 * count)
    jobs, iterations = server.run(requests)

    assert server.used_bits == 0
    assert not server.running
    assert not server.waiting
    # Iterations follow one another, and the machine waits only for requests.
    for before, after in pairwise(iterations):
        end = before.start_s + before.seconds
        assert after.start_s == end or after.start_s in {r.arrived_s for r in requests}
        assert after.start_s >= end
    assert all(job.first_s > job.request.arrived_s and job.finished_s >= job.first_s for job in jobs)
    assert all(job.made == job.request.output for job in jobs)
    # Tokens in: every prompt, and what preempted requests compute again. Tokens out: each once.
    fed, stepped = (sum(getattr(i, name) for i in iterations) for name in ("prefill_tokens", "decode_tokens"))
    firsts = sum(1 + job.preemptions for job in jobs)
    if any(job.preemptions for job in jobs):
        assert fed > sum(r.prompt for r in requests)
        assert stepped <= sum(r.output - 1 for r in requests)
    else:
        assert fed == sum(r.prompt for r in requests)
        assert stepped == sum(r.output for r in requests) - firsts
    assert all(i.decode_tokens <= batch for i in iterations)
    if chunked:
        assert all(i.prefill_tokens + i.decode_tokens <= tokens for i in iterations)
    if cache is not None:
        assert max(i.cache_bits for i in iterations) <= cache
    # Energy is two joules a token, however it is split.
    assert math.fsum(i.prefill_j + i.decode_j for i in iterations) == pytest.approx(2 * (fed + stepped))


@settings(max_examples=30, deadline=None)
@given(sizes)
def test_first_tokens_come_in_order_of_arrival(drawn: list[tuple[float, int, int]]) -> None:
    jobs, _ = run(sorted(ask(*drawn), key=lambda r: r.arrived_s))
    firsts = [job.first_s for job in jobs]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": 0}, "serve.tokens: must be a positive integer, not 0"),
        ({"block": 0}, "serve.block: must be a positive integer, not 0"),
        ({"cache_bits": 0}, "serve.cache_bits: must be a positive integer, not 0"),
        ({"chunked": 1}, "serve.chunked: must be true or false, not 1"),
        ({"tokens": 4, "requests": 8}, "serve.tokens: must be at least the 8 requests of a batch"),
    ],
)
def test_what_is_no_policy_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        Policy(**fields)  # type: ignore[arg-type]
