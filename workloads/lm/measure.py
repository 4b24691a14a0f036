"""What the embedded models are like inside: the size of their activations and what depends on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from macloom.workloads.lm.model import FLOAT, Arithmetic, FloatArithmetic, LlamaConfig, Parameters, forward

LINE_CHARACTERS = 40
NGRAM_WORDS = 13  # Brown et al. 2020, appendix C: the n-gram of their test-set contamination study
# Linears that read the same tensor as an earlier one.
_SHARED = ("self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj")


@dataclass(frozen=True, kw_only=True)
class InputStatistics:
    """How heavy-tailed the input of one linear is.

    `kurtosis` is Pearson's (normal: 3). `channel_ratio` divides the largest channel's absolute
    maximum by the median channel's; `absmax_ratio` the tensor's absolute maximum by its median
    magnitude. `channel_max` holds the absolute maximum of each channel.
    """

    name: str
    kurtosis: float
    channel_ratio: float
    absmax_ratio: float
    channel_max: tuple[float, ...]


def input_statistics(name: str, x: Tensor) -> InputStatistics:
    """Summarise a tensor (rows, channels)."""
    x = x.double()
    centred = x - x.mean()
    channels = x.abs().amax(0)
    return InputStatistics(
        name=name,
        kurtosis=float(centred.pow(4).mean() / centred.square().mean().square()),
        channel_ratio=float(channels.max() / channels.median()),
        absmax_ratio=float(channels.max() / x.abs().median()),
        channel_max=tuple(channels.tolist()),
    )


class _InputRecorder(FloatArithmetic):
    def __init__(self) -> None:
        self.statistics: list[InputStatistics] = []

    def linear(self, name: str, x: Tensor, weight: Tensor) -> Tensor:
        if not name.endswith(_SHARED):
            self.statistics.append(input_statistics(name, x.flatten(0, -2)))
        return super().linear(name, x, weight)


@torch.no_grad()
def linear_inputs(parameters: Parameters, config: LlamaConfig, tokens: Tensor) -> list[InputStatistics]:
    """Return the statistics of every distinct linear input of a forward pass over tokens (B, T)."""
    recorder = _InputRecorder()
    forward(parameters, config, tokens, recorder)
    return recorder.statistics


@dataclass(frozen=True, kw_only=True)
class Score:
    """Perplexity per byte, and distance from a reference model on the same text.

    `nats` is the mean negative log likelihood, `nats_error` its standard error over windows.
    """

    nats: float
    nats_error: float
    kl_nats: float
    top1_agreement: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats)


@torch.no_grad()
def log_probabilities(
    parameters: Parameters, config: LlamaConfig, windows: Tensor, batch: int = 8, arithmetic: Arithmetic = FLOAT
) -> Tensor:
    """Return log probabilities (B, T, V) of the next token for windows (B, T + 1)."""
    parts = [F.log_softmax(forward(parameters, config, w[:, :-1], arithmetic), -1) for w in windows.split(batch)]
    return torch.cat(parts)


def score(log_p: Tensor, windows: Tensor, reference: Tensor) -> Score:
    """Compare log probabilities (B, T, V) with the windows (B, T + 1) and with a reference's."""
    nats = -log_p.gather(-1, windows[:, 1:, None]).double().mean((1, 2))
    spread = float(nats.std()) / math.sqrt(len(nats)) if len(nats) > 1 else 0.0
    kl = F.kl_div(log_p, reference, reduction="none", log_target=True).sum(-1).double().mean()
    agree = (log_p.argmax(-1) == reference.argmax(-1)).double().mean()
    return Score(nats=float(nats.mean()), nats_error=spread, kl_nats=float(kl), top1_agreement=float(agree))


def without_channels(parameters: Parameters, channels: Sequence[int]) -> dict[str, Tensor]:
    """Zero these channels after every input and post-attention norm, and change nothing else."""
    changed = dict(parameters)
    for name, tensor in parameters.items():
        if name.endswith("layernorm.weight"):
            changed[name] = tensor.clone()
            changed[name][list(channels)] = 0.0
    return changed


def without_blocks(parameters: Parameters) -> dict[str, Tensor]:
    """Zero what every layer adds to the residual stream."""
    ends = ("o_proj.weight", "down_proj.weight")
    return {n: torch.zeros_like(t) if n.endswith(ends) else t for n, t in parameters.items()}


def strongest_channels(statistics: Iterable[InputStatistics], count: int) -> tuple[int, ...]:
    """Return the channels with the largest absolute maximum after the norms, in units of the median channel."""
    relative = [np.array(s.channel_max) / np.median(s.channel_max) for s in statistics if after_norm(s.name)]
    return tuple(sorted(np.argsort(-np.mean(relative, 0), kind="stable")[:count].tolist()))


def after_norm(name: str) -> bool:
    """Return whether this linear reads the result of a layer's norm."""
    return name.endswith(("self_attn.q_proj", "mlp.gate_proj"))


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """The score of a model whose `channels` are zeroed after the norms."""

    channels: tuple[int, ...]
    score: Score


def random_channels(width: int, exclude: Sequence[int], draws: int, seed: int) -> list[tuple[int, ...]]:
    """Draw, `draws` times, as many channels as `exclude` holds, none of them in it."""
    rng = np.random.default_rng(seed)
    others = [c for c in range(width) if c not in exclude]
    return [tuple(sorted(rng.choice(others, len(exclude), replace=False).tolist())) for _ in range(draws)]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How much of a text occurs in another: long lines, and runs of words."""

    lines: int
    lines_repeated: int
    ngrams: int
    ngrams_repeated: int

    @property
    def line_share(self) -> float:
        return self.lines_repeated / max(1, self.lines)

    @property
    def ngram_share(self) -> float:
        return self.ngrams_repeated / max(1, self.ngrams)


def _lines(data: bytes) -> list[str]:
    stripped = (line.strip() for line in data.decode("utf-8", "replace").splitlines())
    return [line for line in stripped if len(line) >= LINE_CHARACTERS]


def _ngrams(data: bytes) -> Iterator[tuple[str, ...]]:
    words = data.decode("utf-8", "replace").split()
    return zip(*(words[i:] for i in range(NGRAM_WORDS)), strict=False)


def overlap(parts: Mapping[str, bytes], train: bytes) -> tuple[dict[str, Overlap], Counter[str]]:
    """Count what of each part occurs in `train`.

    Lines are compared without their indentation and count from 40 characters on; n-grams are runs
    of 13 words. Repetitions within a part count each time.

    Returns:
        The counts of each part, and how often each repeated line occurs in all parts.
    """
    lines = {name: _lines(data) for name, data in parts.items()}
    ngrams = {name: list(_ngrams(data)) for name, data in parts.items()}
    seen_lines = set(_lines(train))
    wanted = {g for grams in ngrams.values() for g in grams}
    seen_ngrams = {g for g in _ngrams(train) if g in wanted}
    repeated = Counter(line for found in lines.values() for line in found if line in seen_lines)
    counts = {
        name: Overlap(
            lines=len(lines[name]),
            lines_repeated=sum(line in seen_lines for line in lines[name]),
            ngrams=len(ngrams[name]),
            ngrams_repeated=sum(g in seen_ngrams for g in ngrams[name]),
        )
        for name in parts
    }
    return counts, repeated
