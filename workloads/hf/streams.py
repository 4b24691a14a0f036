"""The streams of one evaluation: part after part of the model, every window through each before the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from macloom.errors import MacloomError
from macloom.formats import Encoded
from macloom.workloads.hf.calibration import Calibration, Scales, plan_part
from macloom.workloads.hf.interfaces import Rope, Route
from macloom.workloads.hf.keys import plan_stored
from macloom.workloads.hf.lean import FloatProducts, LeanArithmetic
from macloom.workloads.hf.passes import Call, Inputs, Passes
from macloom.workloads.hf.products import ProductLinear, Watch
from macloom.workloads.hf.scores import Scorer
from macloom.workloads.hf.skeleton import Skeleton
from macloom.workloads.hf.spare import give_back
from macloom.workloads.hf.state import Progress, StateDirectory
from macloom.workloads.hf.text import Windows
from macloom.workloads.quantized import Observer
from macloom.workloads.recipe import Recipe
from macloom.workloads.scoring import NoiseMeter
from macloom.workloads.search import check_accumulators
from macloom.workloads.steps import Progress as Report
from macloom.workloads.steps import TimeLeft

PROBE_TOKENS = 4
EachWindow = Callable[[int, Tensor, Tensor], None]
CALIBRATION, REFERENCE, QUANTIZED, SKIPPED = "calibration", "reference", "quantized", "skipped"


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What all runs of an evaluator have in common; see its arguments.

    Attributes:
        held: the inputs of the calibration windows.
    """

    skeleton: Skeleton
    passes: Passes
    text: Windows
    held: Inputs
    batch: int
    seed: int
    scales: Scales
    rope: Rope
    activations: torch.dtype
    progress: Report | None


class StreamedRun:
    """One run of an evaluator; calling it gives what was measured on the way, and the scores."""

    def __init__(
        self, setting: Setting, recipe: Recipe, state: StateDirectory | None = None, each: EachWindow | None = None
    ) -> None:
        self._e, self._recipe, self._state, self._passes, self._each = setting, recipe, state, setting.passes, each
        self._done, self._scorer = Progress(), Scorer(setting.text)
        self._route = Route(FloatProducts(), setting.rope)
        size = setting.batch
        self._inputs = [setting.text.batch(i, size) for i in range(0, len(setting.text), size)]
        count = len(next(iter(setting.held.values())))
        self._held = [{name: t[i : i + size] for name, t in setting.held.items()} for i in range(0, count, size)]
        self._calls: list[tuple[Call, ...]] = []
        self._held_calls: list[tuple[Call, ...]] = []

    def __call__(self) -> tuple[Progress, Scorer]:
        state, blocks = self._state, self._passes.layers
        resumed = state.load() if state is not None else None
        # A step is one part of the model; what comes after the blocks counts as one of them.
        steps = TimeLeft(self._e.progress, blocks + 2, 0 if resumed is None else resumed.blocks)
        watch = Watch(self._e.skeleton.model)
        with watch.running(self._route):
            steps.step("before the blocks")
            self._passes.probe(self._short(self._inputs[0]))
            self._before(resumed)
            for index in range(self._done.blocks, blocks):
                steps.step(f"block {index + 1} of {blocks}")
                self._block(index)
                self._done.floating = sorted({*self._done.floating, *watch.floating})
                if state is not None:
                    state.save(self._done)
            steps.step("after the blocks")
            self._after()
            self._done.floating = sorted({*self._done.floating, *watch.floating})
        if state is not None:
            state.clear()
        return self._done, self._scorer

    def _short(self, inputs: Inputs) -> Inputs:
        """Return one short input; images keep their size."""
        return {name: t[:1, :PROBE_TOKENS] if t.ndim == 2 else t[:1] for name, t in inputs.items()}

    def _before(self, resumed: Progress | None) -> None:
        """Take every stream to the first block, or to where an earlier run stopped."""
        hidden: dict[str, list[Tensor]] = {name: [] for name in (CALIBRATION, REFERENCE, QUANTIZED, SKIPPED)}

        def calibrate(batch: int) -> None:
            start = self._passes.begin(self._held[batch])
            self._held_calls.append(start.calls)
            hidden[CALIBRATION].append(self._kept(start.hidden))

        def execute(stream: str, batch: int) -> None:
            start = self._passes.begin(self._inputs[batch])
            if stream == REFERENCE:
                self._calls.append(start.calls)
                hidden[SKIPPED].append(self._kept(start.hidden))
            hidden[stream].append(self._kept(start.hidden))

        if resumed is None:
            self._part(0, calibrate, execute)
            self._done.hidden = hidden
        else:
            for batch in range(len(self._held)):
                calibrate(batch)
            for batch in range(len(self._inputs)):
                execute(REFERENCE, batch)
            self._done = resumed
        self._passes.release()

    def _block(self, index: int) -> None:
        hidden = self._done.hidden

        def calibrate(batch: int) -> None:
            x = hidden[CALIBRATION][batch].float()
            hidden[CALIBRATION][batch] = self._kept(self._passes.run(index, x, self._held_calls[batch][index]))

        def execute(stream: str, batch: int) -> None:
            x = hidden[stream][batch].float()
            hidden[stream][batch] = self._kept(self._passes.run(index, x, self._calls[batch][index]))

        with self._passes.layer(index):
            self._part(1 + index, calibrate, execute)
        self._done.blocks = index + 1

    def _after(self) -> None:
        hidden, batch = self._done.hidden, self._e.batch
        found: dict[int, Tensor] = {}

        def calibrate(number: int) -> None:
            give_back()
            self._passes.finish(self._held[number], hidden[CALIBRATION][number].float())

        def execute(stream: str, number: int) -> None:
            give_back()
            logits = self._passes.finish(self._inputs[number], hidden[stream][number].float())
            if stream == REFERENCE:
                found[number] = logits
                bad = int((~torch.isfinite(logits)).sum())
                if bad:
                    raise MacloomError(
                        f"model {self._e.skeleton.name!r}: must give finite logits, not {bad} that are NaN or "
                        "infinite; the checkpoint may be damaged"
                    )
                self._route.arithmetic, self._route.compares = FloatProducts(), False
                give_back()
                skipped = self._passes.finish(self._inputs[number], hidden[SKIPPED][number].float())
                for i, each in enumerate(skipped):
                    self._scorer.add_skipped(number * batch + i, each)
                return
            give_back()
            for i, (reference, quantized) in enumerate(zip(found.pop(number), logits, strict=True)):
                self._scorer.add(number * batch + i, reference, quantized)
                if self._each is not None:
                    self._each(number * batch + i, reference, quantized)

        self._part(1 + self._passes.layers, calibrate, execute, together=True)
        self._passes.release()

    def _part(
        self, part: int, calibrate: Callable[[int], None], execute: Callable[[str, int], None], together: bool = False
    ) -> None:
        """Calibrate one part of the model, then run both streams through it.

        Args:
            together: one batch of both streams after the other, not one stream after the other, so that no more than
                a batch of results is in memory. Weights that are not read from the checkpoint whenever they are
                used then stay beside the encoded ones.
        """
        calibration = Calibration(len(self._held), np.random.default_rng([self._e.seed, part]))
        for batch in range(len(self._held)):
            self._route.arithmetic = calibration.recorder()
            calibrate(batch)
        samples = calibration.samples
        check_accumulators(self._recipe, samples)
        plan = plan_part(self._recipe, samples, self._e.scales)
        plan |= plan_stored(self._recipe, self._route.stored, self._e.scales is Scales.DYNAMIC)
        del calibration, samples
        self._route.stored.clear()
        products: dict[str, Tensor] = {}
        noise = NoiseMeter(products)
        weights: dict[str, Encoded] = {}
        first = True
        self._route.reached.clear()
        self._route.rerouted.clear()

        def measure(op: str, out: Tensor) -> None:
            expert = op.rpartition(".")[0]
            if first and op in products and expert not in self._route.rerouted:
                noise(op, out)

        quantized = LeanArithmetic(self._recipe, plan, measure, weights=weights)

        def run(stream: str, batch: int) -> None:
            nonlocal first
            first = self._route.compares = batch == 0
            keep: Observer | None = (lambda op, out: products.update({op: out.clone()})) if first else None
            self._route.arithmetic = FloatProducts(keep) if stream == REFERENCE else quantized
            if stream == QUANTIZED and first and not together:
                for module in self._e.skeleton.model.modules():
                    if isinstance(module, ProductLinear):
                        module.spend(quantized)
            execute(stream, batch)
            if stream == QUANTIZED and first:
                products.clear()

        numbers = range(len(self._inputs))
        pairs = [(s, b) for s in (REFERENCE, QUANTIZED) for b in numbers]
        for stream, batch in sorted(pairs, key=lambda p: p[1]) if together else pairs:
            run(stream, batch)
        self._done.searches += [p.to_dict() for (_, operand), p in plan.items() if operand != "output"]
        self._done.overflows |= {op: r.overflows for op, r in quantized.reports.items() if r.overflows}
        self._done.sqnr_db |= noise.sqnr_db()
        self._done.cosine |= noise.cosine()
        weights.clear()
        self._route.arithmetic = FloatProducts()
        give_back()

    def _kept(self, hidden: Tensor) -> Tensor:
        return hidden.to(self._e.activations)
