"""Evaluation of a user's model under a recipe, one block in memory at a time.

Three streams of hidden states go through the model together: calibration windows in float, the evaluated
windows in float, and the same windows in the recipe's arithmetic. A part of the model (what comes before
the blocks, each block, what comes after) is loaded, calibrated, its scales searched, run on all windows of
both evaluated streams, and dropped, so that memory holds one part and the hidden states.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macloom.errors import MacloomError, require_positive_integer, unknown
from macloom.workloads.hf.calibration import Scales
from macloom.workloads.hf.checkpoint import open_checkpoint
from macloom.workloads.hf.interfaces import Rope
from macloom.workloads.hf.keys import store_unrotated_keys
from macloom.workloads.hf.passes import Passes
from macloom.workloads.hf.products import instrument
from macloom.workloads.hf.recipes import bound, with_edges
from macloom.workloads.hf.result import ModelAccuracy
from macloom.workloads.hf.skeleton import Kind, build_skeleton
from macloom.workloads.hf.state import StateDirectory
from macloom.workloads.hf.streamed_map import StreamedMap, list_operands
from macloom.workloads.hf.streams import EachWindow, Setting, StreamedRun
from macloom.workloads.hf.text import DEFAULT_CONTEXT, Reader, Source, Windows, context_for, image_windows
from macloom.workloads.hf.weights import WeightMap
from macloom.workloads.journal import Journal
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.sensitivity_map import MapSums
from macloom.workloads.steps import Progress
from macloom.workloads.studied import MapRequest, Subject, TextModel

ACTIVATIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class ModelEvaluator:
    """A local model directory and a text, ready to run any number of recipes; each run reads the weights again.

    Args:
        directory: a model in Hugging Face's layout, weights in safetensors, sharded or not.
        text: a text, a file, or an array of token ids; None: held-out packages of the running Python's
            standard library. Not for image classifiers.
        images: for an image classifier, float (N, channels, height, width), preprocessed.
        windows: how many windows of the text, spread evenly; fewer if it holds fewer.
        context: tokens per window; None: `default_context`, or the model's limit if that is less.
        stride: tokens from one window to the next, of which the last `stride` count; None: `context`.
        batch: windows per forward pass.
        seed: draws calibration windows and rows, and the tokens that are masked.
        calibration: what scales are calibrated on, as `text`; None: the training half of the standard library,
            for images the first of them.
        calibration_windows: how many windows of it, or images.
        scales: `static` or `dynamic`, for formats with one scale per activation tensor.
        rope: whether keys are rounded to the cache's format `after` rotation or `before` it.
        edge_layers: how many blocks at each end are in `edge_format`.
        activations: what hidden states are kept in between blocks: `fp32` or `bf16`.
        state: a directory that keeps what is done, so that an interrupted run goes on; one per recipe.
        progress: called as progress(what, steps done, steps in all).

    Raises:
        MacloomError: anything wrong with the directory, the tokenizer, the text or an argument.
    """

    def __init__(
        self,
        directory: str | Path,
        text: Source = None,
        *,
        images: np.ndarray | None = None,
        windows: int = 16,
        context: int | None = None,
        default_context: int = DEFAULT_CONTEXT,
        stride: int | None = None,
        batch: int = 1,
        seed: int = 0,
        calibration: Source = None,
        calibration_windows: int = 8,
        scales: str = "static",
        rope: str = "after",
        edge_layers: int = 0,
        edge_format: str = "fp16",
        activations: str = "fp32",
        state: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        for name, value in (("windows", windows), ("batch", batch), ("calibration_windows", calibration_windows)):
            require_positive_integer(name, value)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise MacloomError(f"seed: must be a non-negative integer, not {seed!r}")
        for name, value, allowed in (
            ("scales", scales, list(Scales)),
            ("rope", rope, list(Rope)),
            ("activations", activations, list(ACTIVATIONS)),
        ):
            if value not in allowed:
                raise unknown(name, value, map(str, allowed))
        self.checkpoint = open_checkpoint(directory)
        self.skeleton = build_skeleton(self.checkpoint)
        self.weights = WeightMap(self.checkpoint, self.skeleton)
        instrument(self.skeleton)
        if rope == Rope.BEFORE:
            store_unrotated_keys(self.skeleton)
        self.passes = Passes(self.skeleton, self.weights)
        self.seed, self.batch, self.scales, self.rope = seed, batch, Scales(scales), Rope(rope)
        self.activations, self._state, self._progress = ACTIVATIONS[activations], state, progress
        self._edges = edge_layers, edge_format
        with_edges(load_recipe("fp32"), self.skeleton, *self._edges)
        self._calibration_windows = calibration_windows
        self._read(text, images, windows, context, default_context, stride, calibration)

    def _read(
        self, text: Source, images: np.ndarray | None, windows: int, context: int | None, default_context: int,
        stride: int | None, calibration: Source,
    ) -> None:  # fmt: skip
        self.calibration_inputs: Mapping[str, Tensor]
        if self.skeleton.kind is Kind.IMAGE:
            if images is None or text is not None:
                raise MacloomError("images: must be given for an image classifier, and no text")
            self.text: Windows = image_windows(images)
            self._calibrate_on(self.text if calibration is None else calibration)
            return
        if images is not None:
            raise MacloomError(f"images: must not be given for a {self.skeleton.kind}")
        length = context_for(self.skeleton, context, default_context)
        if stride is not None:
            require_positive_integer("stride", stride)
            if stride > length:
                raise MacloomError(f"stride: must be at most the context {length}, not {stride}")
        self.reader = Reader(self.checkpoint.directory, self.skeleton)
        if isinstance(text, np.ndarray) and calibration is None:
            raise MacloomError("calibration: must be given, as token ids or a text, when the text is token ids")
        rng = self._calibrate_on(calibration, length)
        self.text = self.reader.evaluation(text, windows=windows, context=length, stride=stride or length, rng=rng)

    def _calibrate_on(self, source: Source | Windows, length: int = 0) -> np.random.Generator:
        """Take calibration windows of a text, or the first images; returns what drew them."""
        self._calibration_source, count = source, self._calibration_windows
        rng = np.random.default_rng(self.seed)
        if self.skeleton.kind is Kind.IMAGE:
            samples = source if isinstance(source, Windows) else image_windows(source)  # type: ignore[arg-type]
            self.calibration_text = samples.name, samples.sha256
            self.calibration_inputs = samples.batch(0, count)
        else:
            assert not isinstance(source, Windows)
            name, digest, self.calibration_inputs = self.reader.calibration(
                source, windows=count, context=length, rng=rng
            )
            self.calibration_text = name, digest
        return rng

    def recalibrated(
        self, calibration: Source = None, windows: int | None = None, seed: int | None = None
    ) -> ModelEvaluator:
        """Return an evaluator of the same model and text that calibrates on other data; see `Studied`."""
        other = copy.copy(self)
        other.seed = self.seed if seed is None else seed
        other._calibration_windows = self._calibration_windows if windows is None else windows
        require_positive_integer("calibration_windows", other._calibration_windows)
        other._calibrate_on(self._calibration_source if calibration is None else calibration, self.text.length)
        return other

    @property
    def subject(self) -> Subject:
        return Subject(
            model=self.skeleton.name, model_sha256=self.checkpoint.sha256, text=self.text.name,
            text_sha256=self.text.sha256, windows=len(self.text), context=self.text.length, seed=self.seed,
            calibration_text=self.calibration_text[0], calibration_sha256=self.calibration_text[1],
            unit="image" if self.skeleton.kind is Kind.IMAGE else "token",
        )  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "config": dict(self.checkpoint.config), "stride": self.text.stride, "batch": self.batch,
            "calibration_windows": len(next(iter(self.calibration_inputs.values()))), "scales": str(self.scales),
            "rope": str(self.rope), "activations": str(self.activations),
        }  # fmt: skip

    @property
    def operands(self) -> dict[str, frozenset[str]]:
        return {op: roles for part in self._listed for op, roles in part.items()}

    @cached_property
    def _listed(self) -> list[dict[str, frozenset[str]]]:
        return list_operands(self._setting())

    def resolved(self, recipe: Recipe | str | Path) -> Recipe:
        """Return a recipe as this model runs it: the head under its own name, and the blocks at both ends."""
        return with_edges(bound(load_recipe(recipe), self.skeleton.head), self.skeleton, *self._edges)

    def in_memory(self, recipe: Recipe | str | Path | None) -> TextModel:
        """Return the model wholly in memory; see `Studied`."""
        from macloom.workloads.hf.resident import ResidentModel

        return ResidentModel(self, recipe)

    def map_sums(self, request: MapRequest, journal: Journal, progress: Progress | None = None) -> MapSums:
        """Run the cells of a sensitivity map, see `Studied`."""
        parts = {op: number for number, part in enumerate(self._listed) for op in part}
        return StreamedMap(self._setting(), request, parts, journal, progress)()

    def run(
        self, recipe: Recipe | str | Path, *, accumulator: str | None = None, each: EachWindow | None = None
    ) -> ModelAccuracy:
        """Run the model in the recipe's arithmetic and compare it with the unquantized model.

        Args:
            accumulator: a name for `macloom.formats.get_accumulator` in place of the recipe's own.
            each: called with the number of every window and both models' logits, (T, vocabulary), unquantized first.

        Raises:
            MacloomError: an unknown recipe, formats that its accumulator cannot take, weights that are damaged, or
                an unquantized model whose logits are not finite.
        """
        resolved = self.resolved(load_recipe(recipe).with_accumulator(accumulator))
        state = StateDirectory(self._state, self._identity(resolved)) if self._state is not None else None
        done, scorer = StreamedRun(self._setting(), resolved, state, each)()
        return ModelAccuracy(
            model=self.skeleton.name,
            model_sha256=self.checkpoint.sha256,
            kind=str(self.skeleton.kind),
            parameters=self.weights.parameters,
            recipe=resolved,
            scales=str(self.scales),
            rope=str(self.rope),
            text=self.text.name,
            text_sha256=self.text.sha256,
            windows=len(self.text),
            context=self.text.length,
            stride=self.text.stride,
            seed=self.seed,
            calibration_text=self.calibration_text[0],
            calibration_sha256=self.calibration_text[1],
            calibration_windows=len(next(iter(self.calibration_inputs.values()))),
            vocabulary=self.skeleton.vocabulary,
            scored_bytes=None if self.text.bytes is None else int(self.text.bytes.sum()),
            by_window=scorer.by_window,
            blocks_skipped_nats=scorer.skipped_nats / float(self.text.scored.sum()),
            nonfinite_logits=scorer.nonfinite,
            overflows=done.overflows,
            sqnr_db=done.sqnr_db,
            cosine=done.cosine,
            sqnr_windows=min(self.batch, len(self.text)),
            floating=tuple(done.floating),
            searches=tuple(done.searches),
            documents=self.text.documents,
        )

    def _setting(self) -> Setting:
        return Setting(
            skeleton=self.skeleton, passes=self.passes, text=self.text, held=self.calibration_inputs,
            batch=self.batch, seed=self.seed, scales=self.scales, rope=self.rope, activations=self.activations,
            progress=self._progress,
        )  # fmt: skip

    def _identity(self, recipe: Recipe) -> dict[str, Any]:
        """Return everything that decides the result of a run, for its state directory."""
        return {
            "weights": self.checkpoint.sha256,
            "config": dict(self.checkpoint.config),
            "recipe": recipe.to_dict(),
            "text": [self.text.sha256, len(self.text), self.text.length, self.text.stride],
            "calibration": [self.calibration_text[1], len(next(iter(self.calibration_inputs.values())))],
            "settings": [self.seed, self.batch, str(self.scales), str(self.rope), str(self.activations)],
        }
