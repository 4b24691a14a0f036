"""How many accumulator bits a recipe needs on a model: perplexity and overflows against register width."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from macloom import __version__
from macloom.errors import MacloomError, unknown
from macloom.formats import Encoded
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.journal import Journal
from macloom.workloads.lm.checkpoint import LanguageModel
from macloom.workloads.lm.data import Text
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.scoring import divergence, perplexity_of
from macloom.workloads.search import GemmSample
from macloom.workloads.steps import Progress

OVERFLOWS = ("wrap", "saturate")
END = "end"
MOST_BITS = 48


@dataclass(frozen=True, kw_only=True)
class WidthCell:
    """One register: its width, what it does on overflow and when, and what that did to the model.

    `overflows` counts registers that did not hold a sum, by operation, of `sums` in all; operations with an
    override in the recipe keep their own accumulator and are not counted. `skipped` says why there is no
    result: the register is narrower than one product.
    """

    bits: int
    overflow: str
    every: str
    perplexity: float | None
    kl_nats: float | None
    top1_agreement: float | None
    sums: int
    overflows: Mapping[str, int]
    skipped: str | None = None

    @property
    def overflow_count(self) -> int:
        return sum(self.overflows.values())

    def overflows_by_layer(self) -> dict[str, int]:
        """Return overflow counts by `model.layers.N`, or by operation outside of layers."""
        counts: dict[str, int] = {}
        for op, count in self.overflows.items():
            parts = op.split(".")
            layer = ".".join(parts[:3]) if parts[:2] == ["model", "layers"] else op
            counts[layer] = counts.get(layer, 0) + count
        return counts


@dataclass(frozen=True, kw_only=True)
class AccumulatorWidths:
    """Perplexity per byte against accumulator width.

    `unlimited_perplexity` is the recipe's with registers that hold every sum, `reference_perplexity` that of
    the unquantized model. `product_bits` hold any one product of the recipe's formats and `safe_bits` any
    sum, whatever the data, in the operation that needs most.
    """

    model: str
    model_sha256: str
    recipe: Recipe
    vector: str
    text: str
    text_sha256: str
    windows: int
    context: int
    seed: int
    reference_perplexity: float
    unlimited_perplexity: float
    product_bits: int
    safe_bits: int
    cells: tuple[WidthCell, ...]
    tolerance: float = 0.01
    version: str = __version__

    def curves(self) -> dict[tuple[str, str], list[WidthCell]]:
        """Return the cells of every (overflow, every), by width."""
        found: dict[tuple[str, str], list[WidthCell]] = {}
        for cell in sorted(self.cells, key=lambda c: c.bits):
            found.setdefault((cell.overflow, cell.every), []).append(cell)
        return found

    def lossless_bits(self, overflow: str, every: str = END) -> int | None:
        """Return the smallest width of the sweep at which, as at every larger one, no register overflowed."""
        return self._smallest(overflow, every, lambda cell: cell.skipped is None and cell.overflow_count == 0)

    def sufficient_bits(self, overflow: str, every: str = END) -> int | None:
        """Return the smallest width from which on perplexity is within `tolerance` of unlimited registers."""
        limit = self.unlimited_perplexity * (1 + self.tolerance)
        return self._smallest(overflow, every, lambda cell: cell.perplexity is not None and cell.perplexity <= limit)

    def _smallest(self, overflow: str, every: str, good: Any) -> int | None:
        smallest = None
        for cell in reversed(self.curves().get((overflow, every), [])):
            if not good(cell):
                break
            smallest = cell.bits
        return smallest

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "model": {"name": self.model, "sha256": self.model_sha256},
            "recipe": self.recipe.to_dict(),
            "vector": self.vector,
            "text": {"name": self.text, "sha256": self.text_sha256},
            "windows": self.windows,
            "context": self.context,
            "seed": self.seed,
            "reference_perplexity": _finite(self.reference_perplexity),
            "unlimited_perplexity": _finite(self.unlimited_perplexity),
            "product_bits": self.product_bits,
            "safe_bits": self.safe_bits,
            "tolerance": self.tolerance,
            "smallest": [
                {
                    "overflow": overflow,
                    "every": every,
                    "lossless_bits": self.lossless_bits(overflow, every),
                    "sufficient_bits": self.sufficient_bits(overflow, every),
                }
                for overflow, every in self.curves()
            ],
            "cells": [
                {**asdict(cell), "perplexity": _finite(cell.perplexity), "kl_nats": _finite(cell.kl_nats)}
                for cell in self.cells
            ],
            "version": self.version,
        }

    def to_csv(self) -> str:
        """Return a table, a line per cell, with a column of overflows for every layer."""
        layers = sorted({layer for cell in self.cells for layer in cell.overflows_by_layer()})
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        head = ["overflow", "every", "bits", "perplexity", "kl_nats", "top1_agreement", "sums", "overflows", "skipped"]
        writer.writerow([*head, *layers])
        for cell in self.cells:
            counts = cell.overflows_by_layer()
            writer.writerow(
                [
                    cell.overflow, cell.every, cell.bits, cell.perplexity, cell.kl_nats, cell.top1_agreement, cell.sums,
                    cell.overflow_count, cell.skipped or "", *(counts.get(layer, 0) for layer in layers),
                ]
            )  # fmt: skip
        return out.getvalue()


def accumulator_width(
    model: LanguageModel | str | Path | Evaluator,
    recipe: Recipe | str | Path,
    bits: Iterable[int] = range(14, 25),
    overflow: str | Sequence[str] = OVERFLOWS,
    every: str | Sequence[str] = END,
    *,
    text: Text | str | Path | None = None,
    windows: int = 16,
    context: int = 256,
    batch: int = 4,
    seed: int = 0,
    vector: str = "float",
    tolerance: float = 0.01,
    store: Path | None = None,
    progress: Progress | None = None,
) -> AccumulatorWidths:
    """Run `model` in the recipe's formats with integer registers of every width, and count what overflows.

    A register that overflowed nowhere is not run again wider: a wider one holds all that it held.

    Args:
        model: what `Evaluator` takes, or an `Evaluator`, whose text and windows are used.
        bits: the widths.
        overflow: `wrap` or `saturate`, or both.
        every: when the width applies: `end` (of the sum), `mac`, or a number of products; or several of
            them. Wrapping gives the same result whenever it happens and runs once.
        tolerance: relative loss of perplexity that counts as none for `sufficient_bits`.
        store: a file that keeps finished cells, so that an interrupted sweep continues.
        progress: called as progress(what, steps done, steps in all).

    Raises:
        MacloomError: bad arguments, formats without integer products, or a store of another sweep.
    """
    widths = sorted(set(bits))
    overflows = [overflow] if isinstance(overflow, str) else list(overflow)
    moments = [every] if isinstance(every, str) else list(every)
    _check(widths, overflows, moments, tolerance)
    resolved = load_recipe(recipe)
    if isinstance(model, Evaluator):
        evaluator = model
    else:
        evaluator = Evaluator(model, text, windows=windows, context=context, batch=batch, seed=seed)
    curves = [(o, e) for o in overflows for e in (moments if o != "wrap" else [END])]
    report = progress or (lambda text, done, total: None)
    total = len(curves) * len(widths) + 1
    report("scale search", 0, total)
    sweep = _Sweep(evaluator, resolved, vector)
    product_bits, safe_bits = sweep.bounds()
    kept = _Store(store, sweep.identity())
    unlimited = kept.cell((safe_bits, "wrap", END), sweep.run)
    cells = []
    for o, e in curves:
        roomy: WidthCell | None = None
        for n in widths:
            report(f"int{n}:{o}" + ("" if e == END else f",every={e}"), len(cells) + 1, total)
            if n < product_bits:
                cells.append(_skipped(n, o, e, product_bits))
                continue
            if roomy is None:
                cell = kept.cell((n, o, e), sweep.run)
                roomy = cell if cell.overflow_count == 0 else None
            else:
                cell = WidthCell(**{**asdict(roomy), "bits": n})
            cells.append(cell)
    assert unlimited.perplexity is not None
    return AccumulatorWidths(
        model=evaluator.model.name,
        model_sha256=evaluator.model.sha256,
        recipe=resolved,
        vector=vector,
        text=evaluator.text.name,
        text_sha256=evaluator.text.sha256,
        windows=evaluator.windows,
        context=evaluator.context,
        seed=evaluator.seed,
        reference_perplexity=evaluator.reference_perplexity,
        unlimited_perplexity=unlimited.perplexity,
        product_bits=product_bits,
        safe_bits=safe_bits,
        cells=tuple(cells),
        tolerance=tolerance,
    )


def _check(widths: Sequence[int], overflows: Sequence[str], moments: Sequence[str], tolerance: float) -> None:
    if not widths or not all(isinstance(n, int) and 2 <= n <= MOST_BITS for n in widths):
        raise MacloomError(f"bits: must be integers from 2 to {MOST_BITS}, at least one, not {widths!r}")
    for name in overflows:
        if name not in OVERFLOWS:
            raise unknown("overflow", name, OVERFLOWS)
    for moment in moments:
        if moment not in (END, "mac") and not (str(moment).isdecimal() and int(moment) > 0):
            raise MacloomError(f"every: must be 'end', 'mac' or a positive number of products, not {moment!r}")
    if not 0 <= tolerance < 1:
        raise MacloomError(f"tolerance: must be a number from 0 to 1, not {tolerance!r}")


def _skipped(bits: int, overflow: str, every: str, needed: int) -> WidthCell:
    return WidthCell(
        bits=bits, overflow=overflow, every=every, perplexity=None, kl_nats=None, top1_agreement=None, sums=0,
        overflows={}, skipped=f"narrower than one product, which needs {needed} bits",
    )  # fmt: skip


class _Sweep:
    """One model, recipe and plan; runs it with any register."""

    def __init__(self, evaluator: Evaluator, recipe: Recipe, vector: str) -> None:
        self.evaluator, self.recipe, self.vector = evaluator, recipe, vector
        self.ops = evaluator.operations(vector)
        self.plan = evaluator.plan(recipe, exact=vector != "float")
        self._weights: dict[str, Encoded] = {}

    def identity(self) -> dict[str, Any]:
        e = self.evaluator
        return {
            "model": e.model.sha256, "recipe": self.recipe.to_dict(), "vector": self.vector, "text": e.text.sha256,
            "windows": e.windows, "context": e.context, "batch": e.batch, "seed": e.seed, "version": __version__,
        }  # fmt: skip

    def bounds(self) -> tuple[int, int]:
        """Return the bits of any product and of any sum, in the operation that needs most."""
        reach = [self._reach(s) for s in self.evaluator.samples(self.vector) if self._counted(s.op)]
        if not reach:
            raise MacloomError(f"recipe {self.recipe.name!r}: must leave an operation without override to sweep")
        product, most = max(p for p, _ in reach), max(s for _, s in reach)
        if most.bit_length() + 1 > MOST_BITS:
            raise MacloomError(
                f"recipe {self.recipe.name!r}: sums of its products may need {most.bit_length() + 1} bits, more than "
                f"{MOST_BITS}; an integer register does not suit these formats, use 'exact' or a float register"
            )
        return product.bit_length() + 1, most.bit_length() + 1

    def _reach(self, sample: GemmSample) -> tuple[int, int]:
        formats = [self.recipe.format_for(s.role, sample.op) for s in (sample.a, sample.b)]
        operands = [f.encode(s.rows[..., :1, :]).operand() for f, s in zip(formats, (sample.a, sample.b), strict=True)]
        product = math.prod(o.max_unit + (0 if o.zeros is None else int(abs(o.zeros).max())) for o in operands)
        depth = min(sample.a.rows.shape[-1], *(o.block for o in operands))
        return product, product * depth

    def _counted(self, op: str) -> bool:
        return self.recipe.with_accumulator("exact").accumulator_for(op) is not None

    def run(self, key: tuple[int, str, str]) -> WidthCell:
        bits, overflow, every = key
        name = f"int{bits}:{overflow}" + ("" if every == END else f",every={every}")
        recipe = self.recipe.with_accumulator(name)
        arithmetic, logits = self.evaluator.quantized_logits(recipe, self.plan, vector=self.ops, weights=self._weights)
        reports = {op: r for op, r in arithmetic.reports.items() if self._counted(op)}
        if bool(torch.isfinite(logits).all()):
            scores = F.log_softmax(logits, -1)
            kl, top1 = divergence(self.evaluator.reference, scores)
            perplexity = perplexity_of(self.evaluator.nats(scores))
        else:
            perplexity, kl, top1 = math.inf, math.inf, math.nan
        return WidthCell(
            bits=bits, overflow=overflow, every=every, perplexity=perplexity, kl_nats=kl, top1_agreement=top1,
            sums=sum(r.outputs for r in reports.values()),
            overflows={op: r.overflows for op, r in reports.items() if r.overflows},
        )  # fmt: skip


class _Store:
    """Finished cells, in a journal; None keeps nothing."""

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self._journal = Journal(path, identity, "sweep")
        cells = [WidthCell(**record) for record in self._journal.records]
        self._cells = {(cell.bits, cell.overflow, cell.every): cell for cell in cells}

    def cell(self, key: tuple[int, str, str], run: Any) -> WidthCell:
        """Return a kept cell, or run and keep it."""
        if key not in self._cells:
            self._cells[key] = run(key)
            self._journal.append(asdict(self._cells[key]))
        return self._cells[key]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
