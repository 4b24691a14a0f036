"""Regenerate the evidence about the embedded models: `python -m macloom.workloads.lm.evidence`.

Measures both models on held-out text and rewrites the generated part of docs/language-models.md and
its figures. The same models, Python and thread count give the same files.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from macloom.errors import MacloomError
from macloom.workloads.lm.checkpoint import EMBEDDED, LanguageModel, load_model
from macloom.workloads.lm.data import HELD_OUT, Text, stdlib_files, stdlib_text
from macloom.workloads.lm.measure import (
    LINE_CHARACTERS,
    NGRAM_WORDS,
    Deletion,
    InputStatistics,
    Overlap,
    Score,
    linear_inputs,
    log_probabilities,
    overlap,
    random_channels,
    score,
    strongest_channels,
    without_blocks,
    without_channels,
)

BEGIN, END = "<!-- begin generated -->", "<!-- end generated -->"
PAGE = "language-models.md"
DRAWS = 5
CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything measured about one model."""

    model: LanguageModel
    inputs: tuple[InputStatistics, ...]
    whole: Score
    zeroed: Score
    strongest: Deletion
    random: tuple[Deletion, ...]

    @property
    def by_construction(self) -> bool:
        """Whether the strongest channels are the ones whose gain was held."""
        return bool(outlier_channels(self.model))


def outlier_channels(model: LanguageModel) -> tuple[int, ...]:
    """Return the channels whose gain was held during training, from the checkpoint's own record."""
    return tuple(model.training.get("variant", {}).get("outlier_channels", ()))


def gather(model: LanguageModel, text: Text, *, windows: int = 128, context: int = 256, seed: int = 0) -> Evidence:
    """Measure one model on `windows` windows of a text; activations on an eighth of them."""
    tokens = torch.from_numpy(text.windows(context + 1, windows).astype(np.int64))
    p, config = model.parameters, model.config
    inputs = linear_inputs(p, config, tokens[:: min(8, len(tokens)), :-1])
    reference = log_probabilities(p, config, tokens)

    def measured(parameters: dict[str, torch.Tensor]) -> Score:
        return score(log_probabilities(parameters, config, tokens), tokens, reference)

    def deleted(channels: tuple[int, ...]) -> Deletion:
        return Deletion(channels=channels, score=measured(without_channels(p, channels)))

    strongest = outlier_channels(model) or strongest_channels(inputs, CHANNELS)
    return Evidence(
        model=model,
        inputs=tuple(inputs),
        whole=score(reference, tokens, reference),
        zeroed=measured(without_blocks(p)),
        strongest=deleted(strongest),
        random=tuple(deleted(c) for c in random_channels(config.hidden_size, strongest, DRAWS, seed)),
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others numbers."""
    lines = [" | ".join(header), " | ".join(["---"] + ["--:"] * (len(header) - 1)), *(" | ".join(r) for r in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _models(found: Sequence[Evidence]) -> str:
    rows = []
    for e in found:
        schedule = e.model.training.get("schedule", {})
        seen = schedule.get("steps", 0) * schedule.get("batch", 0) * schedule.get("context", 0)
        rows.append(
            [
                f"`{e.model.name}`",
                f"{sum(t.numel() for t in e.model.parameters.values()):,}",
                f"{schedule.get('steps', 0):,}",
                f"{seen / 1e6:.2f}",
                f"{e.whole.nats:.3f} ± {e.whole.nats_error:.3f}",
                f"{e.whole.perplexity:.3f}",
                f"`{e.model.sha256[:12]}`",
            ]
        )
    header = ["model", "parameters", "steps", "bytes seen, M", "held-out nats per byte", "perplexity", "sha256"]
    return table(header, rows)


def _activations(found: Sequence[Evidence]) -> str:
    measures = ("kurtosis", "channel_ratio", "absmax_ratio")
    names = [s.name.removeprefix("model.layers.") for s in found[0].inputs]
    header = ["input of", *(f"{word}, `{e.model.name}`" for word in ("kurtosis", "channels", "tensor") for e in found)]
    rows = [
        [f"`{name}`", *(f"{getattr(e.inputs[i], m):.3g}" for m in measures for e in found)]
        for i, name in enumerate(names)
    ]
    return table(header, rows)


def _deletion(found: Sequence[Evidence]) -> str:
    def row(e: Evidence, what: str, s: Score) -> list[str]:
        p, ratio = (f"{x:.3f}" if x < 1000 else f"{x:,.0f}" for x in (s.perplexity, s.perplexity / e.whole.perplexity))
        return [f"`{e.model.name}`", what, p, ratio, f"{s.kl_nats:.4f}", f"{s.top1_agreement:.3f}"]

    rows = []
    for e in found:
        which = "outlier channels" if e.by_construction else "largest channels"
        rows.append(row(e, "nothing", e.whole))
        rows.append(row(e, f"{which} {', '.join(map(str, e.strongest.channels))}", e.strongest.score))
        rows += [row(e, f"random {', '.join(map(str, d.channels))}", d.score) for d in e.random]
        rows.append(row(e, "every block", e.zeroed))
    return table(["model", "deleted", "perplexity", "ratio", "KL, nats", "top-1 agreement"], rows)


def _overlap(counts: dict[str, Overlap]) -> str:
    whole = Overlap(
        **{f: sum(getattr(o, f) for o in counts.values()) for f in Overlap.__dataclass_fields__},
    )
    rows = [
        [name, f"{o.lines:,}", f"{o.line_share:.1%}", f"{o.ngrams:,}", f"{o.ngram_share:.1%}"]
        for name, o in [*((f"`{n}`", o) for n, o in sorted(counts.items())), ("all", whole)]
    ]
    return table(["package", "long lines", "in training text", f"{NGRAM_WORDS}-grams", "in training text"], rows)


def render(found: Sequence[Evidence], text: Text, train: Text, counts: dict[str, Overlap], lines: Counter[str]) -> str:
    """Return the generated part of the page."""
    trained = {e.model.training.get("train_text", {}).get("sha256") for e in found}
    same = "the text both models were trained on" if trained == {train.sha256} else "not the bytes they were trained on"
    common = "; ".join(f"`{line}` ({count})" for line, count in lines.most_common(3))
    return f"""
Made by `python -m macloom.workloads.lm.evidence` with Python {platform.python_version()} and PyTorch
{torch.__version__}. Held-out text: {len(text.data):,} bytes, sha256 `{text.sha256[:12]}`. Training text of this Python:
{len(train.data):,} bytes, sha256 `{train.sha256[:12]}`, {same}.

### The models

{_models(found)}

± is one standard error over the windows.

![Training loss of both models](figures/lm-loss.svg)

### Size of the activations

{_activations(found)}

*kurtosis*: Pearson's (a normal distribution has 3); *channels*: absolute maximum of the largest channel over that of
the median channel; *tensor*: absolute maximum over median magnitude. `q_proj` stands for q, k and v, `gate_proj` for
gate and up, which read the same tensor.

![Absolute maximum of every channel of the input of q, k and v, by model and layer](figures/lm-channels.svg)

### Deleting channels

{_deletion(found)}

Deleted channels are zero in the inputs of q, k, v, gate and up in every layer; nothing is quantized and nothing is
retrained. *ratio* is to the undamaged model; KL and top-1 agreement compare with it, byte by byte. *Every block* zeroes
what the layers add to the residual stream; guessing uniformly has perplexity 256. In the figure, the number beside
several draws is their largest.

![Perplexity after deleting channels](figures/lm-deletion.svg)

### Overlap of held-out and training text

{_overlap(counts)}

Long lines have at least {LINE_CHARACTERS} characters without indentation. The most frequent repeated ones: {common}.
"""


def insert(page: str, generated: str) -> str:
    """Replace what stands between the markers of a page."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MacloomError(f"{PAGE}: must hold the lines {BEGIN!r} and {END!r}, in this order")
    return f"{before}{BEGIN}\n{generated}\n{END}{after}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=list(EMBEDDED), help="names or checkpoint directories")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help=f"directory of {PAGE}")
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        _write(options)
    except MacloomError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _write(options: argparse.Namespace) -> None:
    from macloom.workloads.lm.figures import draw_figures

    page = options.docs / PAGE
    if not page.is_file():
        raise MacloomError(f"--docs: must be the directory of {PAGE}, not {str(options.docs)!r}")
    insert(page.read_text(encoding="utf-8"), "")
    text, train = stdlib_text("held-out"), stdlib_text("train")
    found = []
    for name in options.models:
        model = load_model(name)
        print(f"measuring {model.name}", file=sys.stderr)
        found.append(gather(model, text, windows=options.windows, context=options.context, seed=options.seed))
    parts: dict[str, bytes] = {}
    for path, data in stdlib_files():
        package = path.split("/")[0].removesuffix(".py")
        if package in HELD_OUT:
            parts[package] = parts.get(package, b"") + data + b"\n"
    print("comparing texts", file=sys.stderr)
    counts, lines = overlap(parts, train.data)
    files = {f"figures/{name}": data for name, data in draw_figures(found).items()}
    files[PAGE] = insert(page.read_text(encoding="utf-8"), render(found, text, train, counts, lines)).encode()
    for name, data in files.items():
        target = options.docs / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.partial")
        temporary.write_bytes(data)
        temporary.replace(target)
        print(f"wrote {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
