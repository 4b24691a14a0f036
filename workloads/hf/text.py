"""What a model is evaluated and calibrated on: tokens of a text, cut into windows, or images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macloom.errors import MacloomError, require_positive_integer
from macloom.workloads.bootstrap import document_ends
from macloom.workloads.hf.skeleton import Kind, Skeleton, require_transformers
from macloom.workloads.lm.data import SEPARATOR, Text, stdlib_text, text_from_file

MASKED_SHARE = 0.15  # of the tokens that a masked language model predicts, as in its training (Devlin et al. 2019)
BYTES_PER_TOKEN = 16  # of text read for each token of a calibration window, so that it surely fills it
DEFAULT_CONTEXT = 2048

Source = Text | str | Path | np.ndarray | None
"""A text, a file, an array of token ids or of images; None: the standard library of the running Python."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Inputs of a model and what is scored of its output, first axis the windows.

    Attributes:
        inputs: what the model's forward pass takes, by name.
        targets: int64 (windows, T), the token that each position is to predict; None for images.
        scored: (windows, T), the positions that count.
        bytes: UTF-8 bytes of the scored tokens of each window; None where unknown.
        stride: tokens from one window to the next.
        documents: the number of the document in which each window begins; None where unknown.
    """

    name: str
    sha256: str
    inputs: Mapping[str, Tensor]
    targets: Tensor | None
    scored: Tensor
    bytes: np.ndarray | None
    stride: int
    documents: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scored)

    @property
    def length(self) -> int:
        """Tokens, or images, in a window."""
        return self.scored.shape[1]

    def batch(self, start: int, size: int) -> Mapping[str, Tensor]:
        """Return the inputs of `size` windows from number `start` on; fewer at the end."""
        return {name: t[start : start + size] for name, t in self.inputs.items()}


class Reader:
    """Turns texts into tokens of one model.

    Args:
        directory: holds the tokenizer's files; they are read when a text first needs them.
    """

    def __init__(self, directory: Path, skeleton: Skeleton) -> None:
        self._directory, self._skeleton = directory, skeleton
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the directory.

        Raises:
            MacloomError: none, one that cannot be read, or one with more tokens than the model has embeddings for.
        """
        if self._tokenizer is None:
            transformers = require_transformers(f"model {str(self._directory)!r}")
            names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
            if not any((self._directory / name).is_file() for name in names):
                raise MacloomError(
                    f"{self._directory}: has no tokenizer ({', '.join(names[:-1])} or {names[-1]}); "
                    "copy the tokenizer's files there, or give token ids as the text"
                )
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    self._directory, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:
                raise MacloomError(f"{self._directory}: transformers cannot read its tokenizer: {error}") from None
            if len(tokenizer) > self._skeleton.vocabulary:
                raise MacloomError(
                    f"{self._directory}: its tokenizer must have at most {self._skeleton.vocabulary} tokens, as the "
                    f"embedding has, not {len(tokenizer)}; copy the tokenizer that belongs to the weights"
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    def encode(self, text: str, special: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the token ids of a text and, where the tokenizer says so, the UTF-8 bytes that each stands for.

        Args:
            special: put the tokenizer's special tokens around the text of a causal model.
        """
        causal = special and self._skeleton.kind is Kind.CAUSAL
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        found = self.tokenizer(text, add_special_tokens=causal, return_offsets_mapping=fast, verbose=False)
        ids = np.asarray(found["input_ids"], np.int64)
        if not fast:
            return ids, None
        lengths = np.zeros(len(text) + 1, np.int64)
        lengths[1:] = np.cumsum([len(c.encode()) for c in text])
        ends = np.maximum.accumulate(lengths[[end for _, end in found["offset_mapping"]]]) if len(ids) else ids
        return ids, np.diff(ends, prepend=0)

    def evaluation(
        self, source: Source, *, windows: int, context: int, stride: int, rng: np.random.Generator
    ) -> Windows:
        """Return windows of a text, spread evenly over it.

        A causal model is given `context` tokens and predicts the following one of each; the last `stride` count,
        so that with stride = context every token counts once. A masked model is given `context` tokens of which
        a share is masked, and those count.

        Raises:
            MacloomError: a text shorter than one window, or a token that the model does not have.
        """
        name, digest, tokens, lengths, ends = self._tokens(source)
        causal = self._skeleton.kind is Kind.CAUSAL
        length = context + 1 if causal else context
        available = (len(tokens) - length) // stride + 1 if len(tokens) >= length else 0
        if available < 1:
            raise MacloomError(
                f"text {name!r}: must hold at least one window of {length} tokens, not {len(tokens)}; "
                "give a longer text or a shorter context"
            )
        take = min(windows, available)
        starts = np.arange(take) * available // take * stride
        cut = np.stack([tokens[s : s + length] for s in starts])
        sizes = None if lengths is None else np.stack([lengths[s : s + length] for s in starts])
        make = self._causal if causal else self._masked
        made = make(name, digest, cut, sizes, stride, rng)
        if lengths is None:
            return made
        first = (np.cumsum(lengths) - lengths)[starts]  # of the bytes of each window
        return replace(made, documents=np.searchsorted(ends, first, side="right"))

    def calibration(
        self, source: Source, *, windows: int, context: int, rng: np.random.Generator
    ) -> tuple[str, str, Mapping[str, Tensor]]:
        """Return name, hash and inputs of windows drawn at random from a text."""
        if isinstance(source, np.ndarray):
            name, digest, tokens, *_ = self._tokens(source)
            if len(tokens) < context:
                raise _short(name, context, len(tokens), "tokens")
            starts = rng.integers(0, len(tokens) - context + 1, windows)
            cut = np.stack([tokens[s : s + context] for s in starts])
        else:
            text = _text(source, "train")
            name, digest, size = text.name, text.sha256, BYTES_PER_TOKEN * context
            starts = rng.integers(0, max(1, len(text.data) - size), windows)
            parts = [self.encode(text.data[s : s + size].decode(errors="ignore"))[0][:context] for s in starts]
            if min(map(len, parts)) < context:
                raise _short(name, context, min(map(len, parts)), "tokens")
            cut = np.stack(parts)
        made = self._causal if self._skeleton.kind is Kind.CAUSAL else self._masked
        extra = cut[:, :1] if self._skeleton.kind is Kind.CAUSAL else cut[:, :0]
        return name, digest, made(name, digest, np.concatenate([cut, extra], 1), None, context, rng).inputs

    def _tokens(self, source: Source) -> tuple[str, str, np.ndarray, np.ndarray | None, np.ndarray]:
        """Return name, hash, tokens, the bytes of each where they are known, and where documents end, in bytes."""
        ends = np.zeros(0, np.int64)
        if isinstance(source, np.ndarray):
            if source.ndim != 1 or not np.issubdtype(source.dtype, np.integer):
                raise MacloomError(
                    f"text: token ids must be integers along one axis, not {source.dtype} {source.shape}"
                )
            name, tokens, lengths = "token ids", source.astype(np.int64), None
            digest = hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()
        else:
            text = _text(source, "held-out")
            name, digest = text.name, text.sha256
            characters = text.data.decode(errors="replace") if source is None else _characters(text)
            tokens, lengths = self.encode(characters)
            ends = document_ends(text.data, SEPARATOR)
        limit = self._skeleton.vocabulary
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < limit:
            bad = int(tokens[(tokens < 0) | (tokens >= limit)][0])
            raise MacloomError(f"text {name!r}: every token must be in [0, {limit}), as the embedding has, not {bad}")
        return name, digest, tokens, lengths, ends

    def _causal(
        self, name: str, digest: str, cut: np.ndarray, sizes: np.ndarray | None, stride: int, rng: Any
    ) -> Windows:
        tokens = torch.from_numpy(cut)
        scored = torch.zeros(tokens[:, 1:].shape, dtype=torch.bool)
        scored[:, -stride:] = True
        return Windows(
            name=name, sha256=digest, inputs={"input_ids": tokens[:, :-1].contiguous()}, targets=tokens[:, 1:],
            scored=scored, bytes=None if sizes is None else sizes[:, 1:][:, -stride:].sum(-1), stride=stride,
        )  # fmt: skip

    def _masked(
        self, name: str, digest: str, cut: np.ndarray, sizes: np.ndarray | None, stride: int, rng: np.random.Generator
    ) -> Windows:
        mask = self.tokenizer.mask_token_id
        if mask is None:
            raise MacloomError(f"{self._directory}: its tokenizer must have a mask token to score a {Kind.MASKED}")
        targets = torch.from_numpy(cut.copy())
        begin, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        inner = slice(1 if begin is not None else 0, -1 if end is not None else None)
        if begin is not None:
            targets[:, 0] = begin
        if end is not None:
            targets[:, -1] = end
        width = targets[:, inner].shape[1]
        count = max(1, round(MASKED_SHARE * width))
        scored = torch.zeros(targets.shape, dtype=torch.bool)
        for row in scored[:, inner]:
            row[torch.from_numpy(rng.choice(width, count, replace=False))] = True
        counted = None if sizes is None else np.where(scored.numpy(), sizes, 0).sum(-1)
        return Windows(
            name=name, sha256=digest, inputs={"input_ids": targets.masked_fill(scored, mask)}, targets=targets,
            scored=scored, bytes=counted, stride=stride,
        )  # fmt: skip


def image_windows(images: np.ndarray) -> Windows:
    """Return images as windows: float (N, channels, height, width), as the model's own preprocessing gives them.

    Raises:
        MacloomError: another shape, or values that are not finite numbers.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else repr(images)
        raise MacloomError(f"images: must be a float array (N, channels, height, width), not {got}")
    values = np.ascontiguousarray(images, np.float32)
    if not len(values) or not np.isfinite(values).all():
        raise MacloomError("images: must be at least one image of finite numbers")
    return Windows(
        name="images", sha256=hashlib.sha256(values.tobytes()).hexdigest(),
        inputs={"pixel_values": torch.from_numpy(values)}, targets=None,
        scored=torch.ones((len(values), 1), dtype=torch.bool), bytes=None, stride=1,
    )  # fmt: skip


def context_for(skeleton: Skeleton, context: int | None, default: int = DEFAULT_CONTEXT) -> int:
    """Return the context to use: the given one, or `default` tokens, or the model's limit if that is less.

    Raises:
        MacloomError: not a positive integer, or more than the model has positions for.
    """
    limit = skeleton.positions
    if context is None:
        return min(default, limit or default)
    require_positive_integer("context", context)
    if limit is not None and context > limit:
        raise MacloomError(f"context: must be at most {limit}, the model's limit, not {context}")
    return context


def _text(source: Text | str | Path | None, split: str) -> Text:
    if isinstance(source, Text):
        return source
    return stdlib_text(split) if source is None else text_from_file(source)


def _characters(text: Text) -> str:
    try:
        return text.data.decode()
    except UnicodeDecodeError as error:
        raise MacloomError(
            f"text {text.name!r}: must be UTF-8 for a tokenizer, but byte {error.start} is not; convert the file"
        ) from None


def _short(name: str, wanted: int, got: int, what: str) -> MacloomError:
    return MacloomError(
        f"calibration text {name!r}: must hold at least one window of {wanted} {what}, not {got}; "
        "give a longer text or a shorter context"
    )
