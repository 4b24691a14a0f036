"""The server, iteration by iteration."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from macloom.errors import MacloomError
from macloom.explore.serving.memory import size_text
from macloom.explore.serving.policy import Policy
from macloom.explore.serving.request import Request

Progress = Callable[[str, int, int], None]


class Costs(Protocol):
    """Seconds and joules of the parts of an iteration; `StepCosts` takes them from the simulator."""

    def tokens(self, count: int, /) -> NDArray[np.float64]: ...

    def head(self, requests: int, /) -> NDArray[np.float64]: ...

    def prefill_attention(self, tokens: int, history: int, /) -> NDArray[np.float64]: ...

    def decode_attention(self, contexts: NDArray[np.int64], /) -> NDArray[np.float64]: ...


@dataclass
class Job:
    """A request on its way. `cached` tokens have keys and values; `wanted` of them before the next token."""

    request: Request
    number: int
    wanted: int
    cached: int = 0
    made: int = 0
    held_bits: int = 0
    preemptions: int = 0
    first_s: float = 0.0
    finished_s: float = 0.0

    @property
    def decoding(self) -> bool:
        return self.cached >= self.wanted


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """One iteration: when it began, how long it took, and what it did."""

    start_s: float
    seconds: float
    prefill_tokens: int
    decode_tokens: int
    prefill_j: float
    decode_j: float
    waiting: int
    cache_bits: int


@dataclass
class Server:
    """The state of a server under a policy; `run` serves requests until none is left."""

    policy: Policy
    costs: Costs
    bits: Callable[[int], int]
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    used_bits: int = 0

    def run(self, requests: Sequence[Request], progress: Progress | None = None) -> tuple[list[Job], list[Iteration]]:
        """Serve all requests; return what happened to each, and every iteration.

        Raises:
            MacloomError: a request that does not fit into the cache by itself.
        """
        jobs = [Job(request=request, number=i, wanted=request.prompt) for i, request in enumerate(requests)]
        for job in jobs:
            self._check(job)
        coming, done, now, iterations = deque(jobs), 0, 0.0, []
        while done < len(jobs):
            if not self.running and not self.waiting:
                now = max(now, coming[0].request.arrived_s)
            while coming and coming[0].request.arrived_s <= now:
                self.waiting.append(coming.popleft())
            parts = self._parts()
            iteration = self._iteration(parts, now)
            iterations.append(iteration)
            now += iteration.seconds
            done += self._advance(parts, now)
            if progress:
                progress("serving", done, len(jobs))
        return jobs, iterations

    def _check(self, job: Job) -> None:
        needed, given = self.bits(job.request.tokens), self.policy.cache_bits
        if given is not None and needed > given:
            raise MacloomError(
                f"requests[{job.number}]: must fit into the cache of {size_text(given)}, but {job.request.prompt} "
                f"prompt and {job.request.output} output tokens need {size_text(needed)}; give more memory "
                "(--memory) or a smaller cache format"
            )

    def _parts(self) -> list[tuple[Job, int]]:
        """Return the jobs of the next iteration and how many tokens each brings."""
        policy = self.policy
        if not policy.chunked and (whole := self._whole_prompts()):
            return whole
        parts: list[tuple[Job, int]] = []
        for job in list(self.running):
            if job in self.running and job.decoding and self._grow(job, job.cached + 1):
                parts.append((job, 1))
        parts = [part for part in parts if part[0] in self.running]  # those that others drove out are not
        if not policy.chunked:
            return parts
        left = policy.tokens - len(parts)
        for job in self.running:
            if left and not job.decoding:
                parts.append((job, min(left, job.wanted - job.cached)))
                left -= parts[-1][1]
        while left and (job := self._admit()):
            parts.append((job, min(left, job.wanted)))
            left -= parts[-1][1]
        return parts

    def _whole_prompts(self) -> list[tuple[Job, int]]:
        parts: list[tuple[Job, int]] = []
        left = self.policy.tokens
        while self.waiting and (not parts or self.waiting[0].wanted <= left) and (job := self._admit()):
            parts.append((job, job.wanted))
            left -= job.wanted
        return parts

    def _admit(self) -> Job | None:
        """Move the first waiting job to the running ones if there is room for all that it has to compute."""
        if not self.waiting or len(self.running) == self.policy.requests:
            return None
        job = self.waiting[0]
        needed, given = self.bits(job.wanted), self.policy.cache_bits
        if given is not None and self.used_bits + needed > given:
            return None
        self.running.append(self.waiting.popleft())
        self._hold(job, needed)
        return job

    def _grow(self, job: Job, tokens: int) -> bool:
        """Make room for `tokens` tokens of a job, if need be in place of the last one; say if it still runs."""
        needed, given = self.bits(tokens), self.policy.cache_bits
        while given is not None and self.used_bits - job.held_bits + needed > given:
            last = self.running.pop()
            self._hold(last, 0)
            last.preemptions += 1
            last.wanted, last.cached = last.request.prompt + last.made, 0
            self.waiting.appendleft(last)
            if last is job:
                return False
        self._hold(job, needed)
        return True

    def _hold(self, job: Job, bits: int) -> None:
        self.used_bits += bits - job.held_bits
        job.held_bits = bits

    def _iteration(self, parts: Sequence[tuple[Job, int]], now: float) -> Iteration:
        decoding = [job for job, _ in parts if job.decoding]
        prompts = [(job, count) for job, count in parts if not job.decoding]
        fed = sum(count for _, count in prompts)
        finished = sum(job.cached + count == job.wanted for job, count in prompts)
        shared = self.costs.tokens(fed + len(decoding))
        head = self.costs.head(len(decoding) + finished)
        prefill = shared * (fed / (fed + len(decoding)))
        prefill = sum((self.costs.prefill_attention(count, job.cached) for job, count in prompts), prefill)
        decode = shared * (len(decoding) / (fed + len(decoding)))
        if decoding:
            decode = decode + self.costs.decode_attention(np.array([job.cached + 1 for job in decoding]))
        if finished + len(decoding):
            prefill = prefill + head * (finished / (finished + len(decoding)))
            decode = decode + head * (len(decoding) / (finished + len(decoding)))
        return Iteration(
            start_s=now,
            seconds=float(prefill[0] + decode[0]),
            prefill_tokens=fed,
            decode_tokens=len(decoding),
            prefill_j=float(prefill[1]),
            decode_j=float(decode[1]),
            waiting=len(self.waiting),
            cache_bits=self.used_bits,
        )

    def _advance(self, parts: Sequence[tuple[Job, int]], now: float) -> int:
        """Count the tokens of an iteration that ended at `now`; return how many jobs it finished."""
        done = 0
        for job, count in parts:
            job.cached += count
            if not job.decoding:
                continue
            job.made += 1
            if job.made == 1:
                job.first_s = now
            if job.made == job.request.output:
                job.finished_s = now
                self.running.remove(job)
                self._hold(job, 0)
                done += 1
        return done
