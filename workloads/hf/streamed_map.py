"""The cells of a sensitivity map of a user's own model, streamed block by block, many of them side by side.

Up to its group a cell is the unquantized model, behind it the unquantized model on other hidden states. So a sweep
takes the unquantized hidden states from block to block; where a cell's group is, they go through the block once more
with the group quantized, and from there on the cell has hidden states of its own, which go through the remaining
blocks while these are in memory. A sweep has as many cells as there is room for; the next one starts at the block of
its first cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macloom.errors import MacloomError
from macloom.formats import Encoded
from macloom.workloads.hf.calibration import Calibration, Scales, plan_part
from macloom.workloads.hf.interfaces import Route
from macloom.workloads.hf.keys import plan_stored
from macloom.workloads.hf.lean import FloatProducts
from macloom.workloads.hf.passes import Call
from macloom.workloads.hf.products import Watch
from macloom.workloads.hf.scores import Scorer
from macloom.workloads.hf.stored import product, whole
from macloom.workloads.hf.streams import PROBE_TOKENS, Setting
from macloom.workloads.journal import Journal
from macloom.workloads.ops import Role
from macloom.workloads.partly import PartlyQuantized
from macloom.workloads.quantized import Operand, RecordingArithmetic
from macloom.workloads.scoring import perplexity_of
from macloom.workloads.search import Plan, check_accumulators
from macloom.workloads.sensitivity_map import ALL, CellSums, Key, MapSums
from macloom.workloads.steps import Progress, TimeLeft
from macloom.workloads.studied import MapRequest

ROOM_BYTES = 2 << 30
"""Hidden states of cells that are held at a time."""
CALIBRATION, REFERENCE, SKIPPED = "calibration", "reference", "skipped"
Compute = Callable[[bool, int, Tensor | None], Tensor]
"""Runs a part of the model, (on a calibration batch, its number, hidden states): hidden states or logits."""


class _Listing(RecordingArithmetic):
    """Float products that are only noted: the roles of the operands of each, experts that no token reaches included."""

    def __init__(self) -> None:
        super().__init__(rng=np.random.default_rng(0))
        self.roles: dict[str, set[str]] = {}

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        self.roles.setdefault(op, set()).update(str(x.role) for x in (a, b) if x.role is not Role.OUTPUT)
        out = product(a.values, b.values)
        return out if bias is None else out.add_(bias)

    def stored(self, op: str, keys: Tensor) -> Tensor:
        self.roles.setdefault(f"{op.rpartition('.')[0]}.scores", set()).add(str(Role.KV))
        return keys


class _Group(PartlyQuantized):
    """A group of a model whose experts may be reached by other tokens than in the unquantized model."""

    def __init__(self, route: Route, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._route = route

    def unchanged(self, op: str, a: Operand, b: Operand, bias: Tensor | None) -> Tensor:
        out = product(a.values, b.values)
        return out if bias is None else out.add_(bias)

    def changed(self, op: str, a: Operand, b: Operand, bias: Tensor | None) -> Tensor:
        weight = b.role is Role.WEIGHT
        return super().changed(op, a, Operand(name=b.name, role=b.role, values=whole(b.values)) if weight else b, bias)

    def note(self, op: str, out: Tensor) -> None:
        if op in self._reference and op.rpartition(".")[0] not in self._route.rerouted:
            super().note(op, out)


def list_operands(setting: Setting) -> list[dict[str, frozenset[str]]]:
    """Return, part by part of a model, the roles of the operands of every product, in the order of execution.

    The parts are what comes before the blocks, each block, and what comes after them.
    """
    passes, parts = setting.passes, []
    inputs = {name: t[:, :PROBE_TOKENS] if t.ndim == 2 else t for name, t in setting.text.batch(0, 1).items()}
    route = Route(FloatProducts(), setting.rope)
    with Watch(setting.skeleton.model).running(route):
        passes.probe(inputs)

        def listed(run: Callable[[], Tensor]) -> Tensor:
            route.arithmetic = listing = _Listing()
            out = run()
            parts.append({op: frozenset(roles) for op, roles in listing.roles.items()})
            return out

        calls: list[tuple[Call, ...]] = []

        def begin() -> Tensor:
            start = passes.begin(inputs)
            calls.append(start.calls)
            return start.hidden

        hidden = listed(begin)
        for index in range(passes.layers):
            with passes.layer(index):
                hidden = listed(lambda index=index, x=hidden: passes.run(index, x, calls[0][index]))
        listed(lambda: passes.finish(inputs, hidden))
        passes.release()
    return parts


@dataclass(frozen=True, kw_only=True)
class _Base:
    """The streams that all cells share, before a part of the model."""

    part: int
    hidden: Mapping[str, list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class _Sweep:
    """Cells that run side by side from `first` on, the part of the first of them; `next` is that of the sweep after."""

    keys: tuple[Key, ...]
    number: int
    first: int
    next: int | None


class StreamedMap:
    """Runs the cells of a map that the journal does not hold; call it once.

    Args:
        parts: the part of the model in which each operation is.
        room: bytes of hidden states that cells hold at a time.
    """

    def __init__(
        self, setting: Setting, request: MapRequest, parts: Mapping[str, int], journal: Journal,
        progress: Progress | None = None, room: int = ROOM_BYTES,
    ) -> None:  # fmt: skip
        self._e, self._request, self._journal, self._room, self._report = setting, request, journal, room, progress
        self._parts = {group: parts[ops[0]] for group, ops in request.groups.items()}
        self._passes, self._route = setting.passes, Route(FloatProducts(), setting.rope)
        self._last = 1 + setting.passes.layers
        size, count = setting.batch, len(next(iter(setting.held.values())))
        self._inputs = [setting.text.batch(i, size) for i in range(0, len(setting.text), size)]
        self._held = [{name: t[i : i + size] for name, t in setting.held.items()} for i in range(0, count, size)]
        self._calls: dict[tuple[bool, int], tuple[Call, ...]] = {}

    def __call__(self) -> MapSums:
        done = {tuple(r["cell"]): _sums(r) for r in self._journal.records if "cell" in r}
        levels = next((r for r in self._journal.records if "reference_perplexity" in r), None)
        keys = [key for key in self._request.keys if key not in done]
        keys.sort(key=lambda key: self._parts[key[0]])
        if keys or levels is None:
            with Watch(self._e.skeleton.model).running(self._route):
                found = self._sweeps(keys, levels is None)
            done |= found[0]
            levels = levels or found[1]
        return MapSums(
            reference_perplexity=_number(levels["reference_perplexity"]),
            collapse_perplexity=levels["collapse_perplexity"],
            cells={key: done[key] for key in self._request.keys},
        )

    def _sweeps(self, keys: Sequence[Key], levels_wanted: bool) -> tuple[dict[Key, CellSums], dict[str, Any]]:
        if self._report is not None:
            self._report("before the blocks", 0, 1)
        self._passes.probe({n: t[:1, :PROBE_TOKENS] if t.ndim == 2 else t[:1] for n, t in self._inputs[0].items()})
        base, size = _Base(part=0, hidden={}), self._hidden_bytes()
        fitting = max(1, self._room // size)
        cut = [tuple(keys[i : i + fitting]) for i in range(0, max(1, len(keys)), fitting)]
        firsts = [self._parts[part[0][0]] if part else self._last for part in cut]
        sweeps = [
            _Sweep(keys=part, number=i * fitting, first=first, next=firsts[i + 1] if i + 1 < len(cut) else None)
            for i, (part, first) in enumerate(zip(cut, firsts, strict=True))
        ]
        total = sum(units for sweep in sweeps for units in self._units(sweep, 0 if sweep is sweeps[0] else sweep.first))
        steps, found, levels = TimeLeft(self._report, total), dict[Key, CellSums](), dict[str, Any]()
        for sweep in sweeps:
            base, sums, levels = self._sweep(sweep, base, steps, len(keys))
            if levels_wanted and sweep is sweeps[0]:
                self._journal.append(levels)
            for key, cell in sums.items():
                self._journal.append({"cell": list(key), **asdict(cell)})
            found |= sums
        return found, levels

    def _hidden_bytes(self) -> int:
        """Return the bytes of one stream of hidden states."""
        width = self._passes.begin(self._inputs[0]).hidden
        self._passes.release()
        whole = width.numel() * len(self._e.text) // len(width)
        return whole * torch.empty(0, dtype=self._e.activations).element_size()

    def _units(self, sweep: _Sweep, first: int) -> list[int]:
        """Return how many streams go through each part from `first` on."""
        places = [self._parts[key[0]] for key in sweep.keys]
        return [1 + sum(place <= part for place in places) for part in range(first, self._last + 1)]

    def _sweep(
        self, sweep: _Sweep, base: _Base, steps: TimeLeft, cells: int
    ) -> tuple[_Base, dict[Key, CellSums], dict[str, Any]]:
        """Take the cells of a sweep to their scores; returns the base of the next sweep, too."""
        hidden: dict[Any, list[Tensor]] = {name: list(parts) for name, parts in base.hidden.items()}
        calibrated = max([self._parts[key[0]] for key in sweep.keys] + [(sweep.next or 0) - 1])
        following, scores = base, _Scores(self._e.text, sweep.keys)
        what = f"cells {sweep.number + 1} to {sweep.number + len(sweep.keys)} of {cells}: " if sweep.keys else ""
        for part, units in zip(range(base.part, self._last + 1), self._units(sweep, base.part), strict=True):
            steps.step(what + self._name(part), units)
            if part == sweep.next:
                following = _Base(part=part, hidden={k: list(v) for k, v in hidden.items() if isinstance(k, str)})
            here = [key for key in sweep.keys if self._parts[key[0]] == part]
            behind = [key for key in sweep.keys if self._parts[key[0]] < part]
            if part == 0:
                self._part(0, self._begin, here, behind, hidden, scores, True)
            elif part == self._last:
                self._part(part, self._finish, here, behind, hidden, scores, part <= calibrated)
            else:
                with self._passes.layer(part - 1, lend=False):
                    run = self._block(part - 1)
                    self._part(part, run, here, behind, hidden, scores, part <= calibrated)
            if part in (0, self._last):
                self._passes.release()
        return following, scores.sums(), scores.levels(self._e.skeleton.vocabulary)

    def _name(self, part: int) -> str:
        if 0 < part < self._last:
            return f"block {part} of {self._last - 1}"
        return "after the blocks" if part else "before the blocks"

    def _begin(self, held: bool, batch: int, hidden: Tensor | None) -> Tensor:
        start = self._passes.begin((self._held if held else self._inputs)[batch])
        self._calls.setdefault((held, batch), start.calls)
        return start.hidden

    def _block(self, index: int) -> Compute:
        def run(held: bool, batch: int, hidden: Tensor | None) -> Tensor:
            assert hidden is not None
            return self._passes.run(index, hidden.float(), self._calls[held, batch][index])

        return run

    def _finish(self, held: bool, batch: int, hidden: Tensor | None) -> Tensor:
        assert hidden is not None
        return self._passes.finish((self._held if held else self._inputs)[batch], hidden.float())

    def _part(
        self, part: int, run: Compute, here: Sequence[Key], behind: Sequence[Key], hidden: dict[Any, list[Tensor]],
        scores: _Scores, calibrate: bool,
    ) -> None:  # fmt: skip
        """Run every stream through a part: `here` are the cells whose group is in it, `behind` those before it."""
        plans = self._plans(part, run, here, hidden) if calibrate else {}
        weights: dict[str, dict[str, Encoded]] = {fmt: {} for fmt in plans}
        wanted = {op for key in here for op in self._request.groups[key[0]]}
        last = part == self._last
        known = hidden.setdefault(REFERENCE, [])

        def out(name: Any, batch: int, values: Tensor) -> None:
            if last:
                scores.add(name, batch * self._e.batch, values)
            else:
                _put(hidden.setdefault(name, []), batch, values.to(self._e.activations))

        for batch in range(len(self._inputs)):
            before = known[batch] if part else None
            products: dict[str, Tensor] = {}

            def keep(op: str, values: Tensor, products: dict[str, Tensor] = products) -> None:
                if op in wanted:
                    products[op] = values.clone()

            self._route.reached.clear()
            self._route.arithmetic, self._route.compares = FloatProducts(keep), bool(here)
            reference = run(False, batch, before)
            if last:
                self._finite(reference)
            out(REFERENCE, batch, reference)
            for key in here:
                self._route.rerouted.clear()
                group, role, fmt = key
                arithmetic = _Group(
                    self._route, self._request.recipes[fmt], plans[fmt],
                    ops=frozenset(self._request.groups[group]), role=None if role == ALL else Role(role),
                    weights=weights[fmt], reference=products,
                )  # fmt: skip
                self._route.arithmetic = arithmetic
                out(key, batch, run(False, batch, before))
                scores.noise(key, arithmetic.signal, arithmetic.noise)
            self._route.arithmetic, self._route.compares = FloatProducts(), False
            if last:
                out(SKIPPED, batch, run(False, batch, hidden[SKIPPED][batch]))
            elif part == 0:
                out(SKIPPED, batch, reference)
            for key in behind:
                out(key, batch, run(False, batch, hidden[key][batch]))
                if last:
                    hidden[key][batch] = torch.empty(0)

    def _finite(self, logits: Tensor) -> None:
        bad = int((~torch.isfinite(logits)).sum())
        if bad:
            raise MacloomError(
                f"model {self._e.skeleton.name!r}: must give finite logits, not {bad} that are NaN or infinite; "
                "the checkpoint may be damaged"
            )

    def _plans(self, part: int, run: Compute, here: Sequence[Key], hidden: dict[Any, list[Tensor]]) -> dict[str, Plan]:
        """Run the calibration windows through a part and plan each format that a cell of it needs."""
        held = hidden.setdefault(CALIBRATION, [])
        calibration = Calibration(len(self._held), np.random.default_rng([self._e.seed, part]))
        for batch in range(len(self._held)):
            self._route.arithmetic = calibration.recorder() if here else FloatProducts()
            result = run(True, batch, held[batch] if part else None)
            if part < self._last:
                _put(held, batch, result.to(self._e.activations))
        plans = {}
        for fmt in dict.fromkeys(key[2] for key in here):
            recipe, samples = self._request.recipes[fmt], calibration.samples
            check_accumulators(recipe, samples)
            plans[fmt] = plan_part(recipe, samples, self._e.scales)
            plans[fmt] |= plan_stored(recipe, self._route.stored, self._e.scales is Scales.DYNAMIC)
        self._route.stored.clear()
        return plans


class _Scores:
    """The scores of every cell of a sweep, and of the model without its blocks."""

    def __init__(self, windows: Any, keys: Sequence[Key]) -> None:
        self._windows = windows
        self._scorers = {key: Scorer(windows) for key in keys}
        self._skipped, self._noise = Scorer(windows), dict.fromkeys(keys, (0.0, 0.0))
        self._reference: Tensor | None = None

    def add(self, name: Any, first: int, logits: Tensor) -> None:
        """Count the logits of a batch, the unquantized model's first."""
        if name == REFERENCE:
            self._reference = logits
        assert self._reference is not None
        for i, (reference, found) in enumerate(zip(self._reference, logits, strict=True)):
            if name == REFERENCE:
                self._skipped.add(first + i, reference, reference)
            elif name == SKIPPED:
                self._skipped.add_skipped(first + i, found)
            else:
                self._scorers[name].add(first + i, reference, found)

    def noise(self, key: Key, signal: float, noise: float) -> None:
        before = self._noise[key]
        self._noise[key] = before[0] + signal, before[1] + noise

    def sums(self) -> dict[Key, CellSums]:
        return {
            key: CellSums(
                scores=tuple(float(x) for x in scorer.by_window.table().sum(0)),
                signal=self._noise[key][0],
                noise=self._noise[key][1],
            )
            for key, scorer in self._scorers.items()
        }

    def levels(self, vocabulary: int) -> dict[str, Any]:
        """Return the perplexities of the unquantized model (None for images) and of one that knows nothing."""
        table = self._skipped.by_window.table().sum(0)
        tokens, nats = float(table[0]), float(table[1])
        skipped = self._skipped.skipped_nats / tokens
        known = math.isfinite(skipped) and math.isfinite(perplexity_of(skipped))
        return {
            "reference_perplexity": None if math.isnan(nats) else perplexity_of(nats / tokens),
            "collapse_perplexity": min(perplexity_of(skipped), float(vocabulary)) if known else float(vocabulary),
        }


def _put(parts: list[Tensor], batch: int, values: Tensor) -> None:
    if batch < len(parts):
        parts[batch] = values
    else:
        parts.append(values)


def _sums(record: Mapping[str, Any]) -> CellSums:
    return CellSums(scores=tuple(record["scores"]), signal=record["signal"], noise=record["noise"])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
