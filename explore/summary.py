"""The one table that a demo prints, the same costs on every accelerator, and the findings in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from macloom.explore.records import AccuracyCell, ModelInfo, Run
from macloom.explore.result import DemoResult
from macloom.explore.text_table import Cell, Column, Mark, Table, significant

# Formats below this many bits per weight compete for the bold cells; they are held against the 16-bit one.
RANKED_BELOW_BITS = 16.0
NEAR, USABLE = 0.01, 0.1

R = TypeVar("R")
Pillar = tuple[Column, tuple[Cell, ...]]
Notes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column of numbers: how to read a record, how to write the number, and which end is better."""

    title: str
    unit: str
    read: Callable[..., float | None]
    write: Callable[[float | None], str] = significant
    best: Callable[[Iterable[float]], float] = min


def _nats(value: float | None) -> str:
    return "inf" if value is None else f"{value:.4f}" if value < 10 else significant(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


ACCURACY: tuple[Measure, ...] = (
    Measure(title="ppl", unit="", read=lambda c: c.perplexity),
    Measure(title="KL", unit="nats", read=lambda c: c.kl_nats, write=_nats),
    Measure(title="top-1", unit="%", read=lambda c: c.top1, write=_percent, best=max),
)
COST: dict[str, tuple[Measure, ...]] = {
    "prefill": (
        Measure(title="prefill", unit="s", read=lambda r: r.seconds),
        Measure(title="prefill", unit="J", read=lambda r: r.energy_j),
    ),
    "decode": (
        Measure(title="decode", unit="ms/tok", read=lambda r: r.seconds * 1e3 / r.tokens),
        Measure(title="decode", unit="mJ/tok", read=lambda r: r.energy_j * 1e3 / r.tokens),
    ),
}
MISSING = Cell(text="-", mark=Mark.MISSING)


def _pillar(
    measure: Measure,
    records: Sequence[R | None],
    eligible: Sequence[bool],
    *,
    group: str,
    gap: int = 2,
    mark: Callable[[R], Mark] = lambda _: Mark.PLAIN,
) -> Pillar:
    """Build a column of one measure, its best eligible cell marked, together with those that read the same."""
    values = [None if r is None else measure.read(r) for r in records]
    pairs = list(zip(records, values, strict=True))
    cells = [MISSING if r is None else Cell(text=measure.write(v), mark=mark(r)) for r, v in pairs]
    ranked = [v for v, e in zip(values, eligible, strict=True) if e and v is not None]
    if len(ranked) > 1:
        best = measure.write(measure.best(ranked))
        cells = [
            replace(c, mark=Mark.BEST) if e and c.text == best and c.mark is Mark.PLAIN else c
            for c, e in zip(cells, eligible, strict=True)
        ]
    return Column(title=measure.title, unit=measure.unit, group=group, gap=gap), tuple(cells)


def _low_bits(result: DemoResult) -> list[bool]:
    return [f.weight_bits < RANKED_BELOW_BITS for f in result.formats]


def _accuracy(result: DemoResult, model: ModelInfo) -> list[Pillar]:
    cells = [result.cell(f.name, model.name) for f in result.formats]
    eligible = [low and c is not None and not c.collapsed for low, c in zip(_low_bits(result), cells, strict=True)]

    def mark(cell: AccuracyCell) -> Mark:
        return Mark.COLLAPSED if cell.collapsed else Mark.PLAIN

    return [_pillar(m, cells, eligible, group=model.name, mark=mark) for m in ACCURACY]


def chosen_run(result: DemoResult, format: str, phase: str) -> Run | None:
    """Return the cost workload's run of a format where it runs best: lowest energy-delay product in prefill."""
    best = result.best(format, result.cost_workload())
    return best and result.run(format, best.accelerator, best.workload, phase)


def showcase(result: DemoResult, accelerator: str) -> list[Run]:
    """Return the cost workload's phases, on one accelerator, in the format that shows it best.

    That is the lowest energy-delay product in prefill among formats that run best on this accelerator,
    or among all that it runs where there are none.
    """
    workload = result.cost_workload()
    here = [r for r in result.runs_of(workload, "prefill") if r.accelerator == accelerator]
    own = [r for r in here if chosen_run(result, r.format, "prefill") == r and not result.collapsed(r.format)]
    best = min(own or here, key=lambda r: r.edp, default=None)
    decode = best and result.run(best.format, accelerator, workload, "decode")
    return [r for r in (best, decode) if r is not None]


def unsupported_notes(result: DemoResult) -> tuple[dict[tuple[str, str], str], Notes]:
    """Give each distinct (accelerator, reason) a letter.

    Returns:
        the letter of every unsupported (format, accelerator), and the (letter, text) footnotes.
    """
    letters: dict[tuple[str, str], str] = {}
    of_pair: dict[tuple[str, str], str] = {}
    for u in result.unsupported:
        of_pair[u.format, u.accelerator] = letters.setdefault((u.accelerator, u.reason), chr(ord("a") + len(letters)))
    return of_pair, tuple((letter, f"not on {name}: {reason}") for (name, reason), letter in letters.items())


def _places(result: DemoResult) -> Pillar:
    """Name the accelerator of each row, with the footnotes of those that cannot run the format."""
    letters, _ = unsupported_notes(result)
    cells = []
    for f in result.formats:
        run = chosen_run(result, f.name, "prefill")
        notes = "".join(sorted(letter for (name, _), letter in letters.items() if name == f.name))
        cells.append(Cell(text=run.accelerator, notes=notes) if run else replace(MISSING, text="none", notes=notes))
    return Column(title="on", group=result.cost_workload(), left=True), tuple(cells)


def _usable(result: DemoResult) -> list[bool]:
    """Say of each format whether it is below the baseline's width and stays accurate on every model."""
    return [
        low and all(_loss(result, f.name, m) <= USABLE for m in result.models)
        for low, f in zip(_low_bits(result), result.formats, strict=True)
    ]


def _costs(result: DemoResult) -> list[Pillar]:
    eligible = _usable(result)
    pillars = [_places(result)]
    for phase, measures in COST.items():
        runs = [chosen_run(result, f.name, phase) for f in result.formats]
        pillars += [_pillar(m, runs, eligible, group=result.cost_workload(), gap=1) for m in measures]
    return pillars


def _table(title: str, pillars: Sequence[Pillar], caption: tuple[str, ...], notes: Notes) -> Table:
    columns, cells = zip(*pillars, strict=True)
    return Table(title=title, columns=columns, rows=tuple(zip(*cells, strict=True)), caption=caption, notes=notes)


def _names(result: DemoResult) -> Pillar:
    return Column(title="format", left=True), tuple(Cell(text=f.name) for f in result.formats)


def summary_table(result: DemoResult) -> Table:
    """Build the table: one row per format with its accuracy on each model and its cost where it runs best."""
    bits = tuple(Cell(text=f"{f.weight_bits:.3f}") for f in result.formats)
    pillars: list[Pillar] = [_names(result), (Column(title="bits/", unit="weight"), bits)]
    for model in result.models:
        pillars += _accuracy(result, model)
    pillars += _costs(result)
    title = "What each number format does to accuracy (measured), latency and energy (modelled)"
    return _table(title, pillars, _caption(result), unsupported_notes(result)[1])


def pairs_table(result: DemoResult) -> Table:
    """Build the table of every format on every accelerator, for the cost workload."""
    workload = result.cost_workload()
    letters, notes = unsupported_notes(result)
    pillars = [_names(result)]
    for accelerator in (a.name for a in result.accelerators):
        for phase, measures in COST.items():
            runs = [result.run(f.name, accelerator, workload, phase) for f in result.formats]
            notes_of = [letters.get((f.name, accelerator), "") for f in result.formats]
            for measure in measures:
                column, cells = _pillar(measure, runs, [False] * len(runs), group=accelerator)
                pillars.append((column, tuple(replace(c, notes=n) for c, n in zip(cells, notes_of, strict=True))))
    peaks = ", ".join(
        f"{a.name} {a.configuration['peak_macs_per_s'] / 1e9:.4g}"
        for a in result.accelerators
        if "peak_macs_per_s" in a.configuration
    )
    caption = (
        f"{_setting(result)}. A dash: the accelerator cannot run the format.",
        *([f"Peak of each array on operands of its elements' own width, 10⁹ MAC/s: {peaks}."] if peaks else []),
    )
    return _table(f"{workload} on every accelerator", pillars, caption, notes)


def _setting(result: DemoResult) -> str:
    """Say what the cost workload is: `opt-6.7b: prefill of 2048 tokens, decode at context 2048, batch 1`."""
    workload = result.cost_workload()
    parts, batch = [], 1
    for w in result.workloads:
        if w.name == workload:
            decode = w.phase == "decode"
            length, batch = w.details.get("context" if decode else "sequence", "?"), w.details.get("batch", batch)
            parts.append(f"decode at context {length}" if decode else f"prefill of {length} tokens")
            if w.details.get("head_tokens") == "last" and not decode:
                parts[-1] += " (logits of the last)"
    return f"{workload}: {', '.join(parts)}, batch {batch}"


def _caption(result: DemoResult) -> tuple[str, ...]:
    text = result.text
    anchors = "; ".join(
        f"{m.name} {significant(m.perplexity)} unquantized, {significant(m.zeroed_perplexity)} with its blocks zeroed"
        for m in result.models
    )
    marks = [
        f"Bold: best of the column below {RANKED_BELOW_BITS:g} bits per weight; for cost, among the formats within "
        f"{USABLE:.0%} of the unquantized perplexity on every model."
    ]
    if any(c.collapsed for c in result.accuracy):
        marks.append("†: collapsed, no better than the model with its blocks zeroed or than guessing; never ranked.")
    return (
        f"ppl: perplexity per byte of {text.name}, {text.windows} windows of {text.context} bytes; lower is better. "
        f"{anchors}.",
        "KL: divergence from the unquantized model per byte. top-1: bytes on which both models agree.",
        *_search_note(result),
        f"{_setting(result)}, on the accelerator with the lowest energy-delay product in prefill.",
        " ".join(marks),
    )


def _search_note(result: DemoResult) -> list[str]:
    """Say how scales were chosen, if all recipes chose them alike."""
    searches = [recipe.get("search", {}) for recipe in result.recipes.values()]
    if not searches or any(search != searches[0] for search in searches) or "objective" not in searches[0]:
        return []
    objective, steps = searches[0]["objective"], searches[0]["steps"]
    named = {"absmax": "the absolute maximum", "tensor_mse": "least squared error", "output_mse": "least output error"}
    return [
        f"Scales of every format: {named.get(objective, objective)}, the same {steps} candidates, calibration text."
    ]


def headline(result: DemoResult) -> tuple[str, ...]:
    """Return the findings in sentences, computed from the result alone."""
    return (*(_accuracy_finding(result, m) for m in result.models), *_energy_finding(result))


def _accuracy_finding(result: DemoResult, model: ModelInfo) -> str:
    cells = [c for c in result.accuracy if c.model == model.name]
    losses = {c.format: c.perplexity / model.perplexity - 1 for c in cells if c.perplexity and not c.collapsed}
    near = [f for f, loss in losses.items() if loss <= NEAR]
    lost = [c.format for c in cells if c.collapsed]
    text = f"{model.name}: {len(near)} of {len(cells)} formats stay within {NEAR:.0%} of the unquantized perplexity"
    if len(near) < len(losses):
        worst = max(losses, key=lambda f: losses[f])
        times = f"{significant(1 + losses[worst], 3)} times" if losses[worst] > 1 else f"by {losses[worst]:.1%}"
        text += f"; {worst} raises it most, {times}"
    return text + (f"; {', '.join(lost)}: collapsed." if lost else ".")


def _energy_finding(result: DemoResult) -> list[str]:
    """Name the cheapest format among those that stay usable on every model."""
    workload = result.cost_workload()
    baseline = max(result.formats, key=lambda f: f.weight_bits)
    base = chosen_run(result, baseline.name, "prefill")
    usable = [f.name for f, is_usable in zip(result.formats, _usable(result), strict=True) if is_usable]
    runs = [run for name in usable if (run := chosen_run(result, name, "prefill")) is not None]
    if base is None or not runs:
        return []
    low = min(runs, key=lambda r: r.energy_j)
    models = " and ".join(m.name for m in result.models)
    return [
        f"{workload} prefill: of the formats within {USABLE:.0%} of the unquantized perplexity on {models}, "
        f"{low.format} on {low.accelerator} takes the least energy, {significant(low.energy_j)} J: "
        f"{significant(base.energy_j / low.energy_j, 2)} times less than {baseline.name} on {base.accelerator}."
    ]


def _loss(result: DemoResult, format: str, model: ModelInfo) -> float:
    """Return the relative increase of perplexity, infinite where it was not measured or collapsed."""
    cell = result.cell(format, model.name)
    if cell is None or cell.collapsed or cell.perplexity is None:
        return float("inf")
    return cell.perplexity / model.perplexity - 1
