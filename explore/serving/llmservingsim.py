"""Per-operation latencies as the profile that LLMServingSim reads in place of a GPU's.

LLMServingSim 2.0 (https://github.com/casys-kaist/LLMServingSim, commit 5daddb2) simulates serving on clusters from a
bundle of tables, `profiler/perf/<hardware>/<model>/<variant>/tp1/*.csv` beside a `meta.yaml`; its page "Output bundle"
defines them. Times are microseconds of one layer. The files here lie as in its checkout: copy them over it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import macloom
from macloom.arch import Accelerator, load_accelerator
from macloom.errors import MacloomError, unknown
from macloom.explore.files import write_together
from macloom.explore.serving.costs import StepCosts, nodes
from macloom.sim import Result, simulate
from macloom.workloads import Recipe, load_recipe, load_workload
from macloom.workloads.config import decoder_config, find_config, read_json
from macloom.workloads.ops import Vector, VectorKind, Workload
from macloom.workloads.shape import DecoderConfig

ARCHITECTURES = ("llama", "mixtral", "qwen3")
"""Model types of `profiler/models/*.yaml` whose layers macloom knows, too."""

VARIANTS = ("bf16", "bf16-kvfp8", "fp16", "fp16-kvfp8", "fp32", "fp8", "fp8-kvfp8", "int8", "int8-kvfp8")
"""What its options --dtype and --kv-cache-dtype can ask for."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The sizes of the tables: up to `tokens` in an iteration, `sequences` at a time and `context` keys."""

    tokens: int = 2048
    sequences: int = 256
    context: int = 16384
    per_octave: int = 4


def _doubling(low: int, high: int) -> list[int]:
    found = []
    while low <= high:
        found.append(low)
        low *= 2
    return found


def _layers(config: DecoderConfig) -> dict[str, tuple[str, ...]]:
    """Return our operations by the names of the catalog; residual additions are part of norms, as in vLLM."""
    names, attention = config.names, config.names.attention
    qkv = [p.name for place, p in config.projections.items() if place in ("q", "k", "v", "qkv")]
    found = {
        "embedding": (names.embedding,),
        "layernorm": (names.first_norm, names.second_norm, f"{attention}.residual", "mlp.residual"),
        "qkv_proj": (*qkv, f"{attention}.cache"),
        "rotary_emb": (f"{attention}.rope_q", f"{attention}.rope_k"),
        "o_proj": (names.out,),
        "final_layernorm": (names.final_norm,),
    }
    if config.qk_norm:
        found["qk_norm"] = (f"{attention}.q_norm", f"{attention}.k_norm")
    if not config.experts:
        found["gate_up_proj"] = (names.gate_up,) if names.gate_up else (names.gate, names.up)
        found["act_fn"] = (names.activation, "mlp.multiply")
        found["down_proj"] = (names.down,)
    return found


def _microseconds(result: Result, wanted: Iterable[str]) -> float:
    """Return the time of one occurrence of each operation whose name, without the number of a group, is wanted."""
    names = set(wanted)
    cycles = sum(op.cycles / op.repeat for op in result.ops if op.name in names or op.name.rpartition(".")[0] in names)
    return cycles / result.accelerator.clock_hz * 1e6


def _attention_rows(costs: StepCosts, layers: int, grid: Grid) -> list[tuple[Any, ...]]:
    """Return the rows of attention.csv: a chunk after its history, beside equal decoding requests."""
    histories = [h for h in _doubling(16, grid.context) if h < costs.longest]
    prefill: dict[tuple[int, int], float] = {(0, 0): 0.0}
    for chunk in (c for c in _doubling(16, grid.tokens) if c <= costs.longest):
        for history in (h for h in (0, *histories) if h + chunk <= costs.longest):
            prefill[chunk, history] = float(costs.prefill_attention(chunk, history)[0])
    decode = {(0, 0): 0.0}
    for history in histories:
        once = float(costs.decode_attention(np.array([history + 1]))[0])
        decode |= {(count, history): count * once for count in _doubling(1, grid.sequences)}
    return [
        (chunk, history, count, seen, _digits((first + second) / layers * 1e6))
        for (chunk, history), first in prefill.items()
        for (count, seen), second in decode.items()
        if chunk or count
    ]


def _expert_rows(
    model: str | Path, config: DecoderConfig, grid: Grid, price: Callable[[Workload], Result]
) -> list[tuple[Any, ...]]:
    """Return the rows of moe.csv: router, experts and their sum, the tokens spread evenly over active experts."""
    places = (p.name for place, p in config.projections.items() if place in ("router", "gate", "up", "gate_up", "down"))
    own = (*places, config.names.activation, "mlp.router.softmax", "mlp.multiply", "mlp.experts.sum")
    rows = []
    for active in range(config.experts_per_token, config.experts + 1):
        shares = [1.0] * active + [0.0] * (config.experts - active)
        for tokens in nodes(grid.tokens, 2):
            if tokens * config.experts_per_token >= active:
                result = price(load_workload(model, phase="decode", context=1, batch=tokens, routing=shares))
                rows.append((tokens, active, _digits(_microseconds(result, own))))
    return rows


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def bundle(
    model: str | Path,
    accelerator: Accelerator | str | Path,
    recipe: Recipe | str | Path,
    *,
    variant: str = "bf16",
    model_name: str | None = None,
    memory_bits: int | None = None,
    grid: Grid | None = None,
    **options: Any,
) -> Mapping[str, str]:
    """Return the files of a profile, by path in a checkout of LLMServingSim.

    Its own account of memory knows 32, 16 and 8 bits an element, by the variant; a 4-bit format gets the room of 8.
    Greedy sampling stands in for its sampler. Several requests in a batch cost what they cost one by one.

    Args:
        model: a model of one of `ARCHITECTURES`.
        accelerator, recipe: as for `simulate`; together they name the hardware.
        variant: one of `VARIANTS`, which its options must ask for.
        model_name: what its cluster configuration calls the model; the name of ours.
        memory_bits: of the accelerator's DRAM, for the cluster configuration (16 GiB).
        grid: the sizes to price; longer ones are extrapolated there.
        options: of `simulate`.

    Raises:
        MacloomError: another architecture, an unknown variant, or what `simulate` refuses.
    """
    if variant not in VARIANTS:
        raise unknown("export.variant", variant, VARIANTS)
    grid, accelerator, recipe = grid or Grid(), load_accelerator(accelerator), load_recipe(recipe)
    source, path = find_config(model)
    document = read_json(path)
    config = decoder_config(document)
    if config.family not in ARCHITECTURES:
        raise MacloomError(
            f"export.model: must be of a type that LLMServingSim has layers of, {', '.join(ARCHITECTURES)}, "
            f"not {config.family}"
        )

    def price(workload: Workload) -> Result:
        return simulate(workload, accelerator, recipe, **options)

    layers = _layers(config)
    dense: list[tuple[str, int, float]] = []
    sequences: list[tuple[str, int, float]] = []
    for tokens in nodes(max(grid.tokens, grid.sequences), grid.per_octave):
        result = price(load_workload(model, phase="decode", context=1, batch=tokens))
        for name, ops in layers.items():
            halves = 2 if name == "layernorm" else 1  # the catalog runs it twice in a layer
            dense.append((name, tokens, _digits(_microseconds(result, ops) / halves)))
        sequences.append(("lm_head", tokens, _digits(_microseconds(result, (config.names.head,)))))
        greedy = Vector(name="sampler", kind=VectorKind.POOL, rows=tokens, width=1, terms=config.vocab)
        sampled = price(
            Workload(name="sampler", phase="decode", ops=(greedy,), parameters=0, kv_elements=0, tokens=tokens)
        )
        sequences.append(("sampler", tokens, _digits(_microseconds(sampled, ("sampler",)))))

    longest = min(config.max_positions, grid.context + grid.tokens)
    costs = StepCosts(
        model=model, accelerator=accelerator, recipe=recipe, longest=longest, per_octave=None, options=options
    )
    hardware, name = f"{accelerator.name}-{recipe.name}", model_name or source
    root = f"profiler/perf/{hardware}/{name}/{variant}"
    meta = {
        "profiler_version": f"macloom-{macloom.__version__}",
        "vllm_version": "n/a",
        "gpu": "n/a",
        "hardware": hardware,
        "architecture": config.family,
        "model": name,
        "variant": variant,
        "tp_degrees": [1],
        "engine_effective": {"max_num_batched_tokens": grid.tokens, "max_num_seqs": grid.sequences},
        "macloom": {"recipe": recipe.to_dict(), "accelerator": accelerator.to_dict(), "kind": "simulated"},
    }
    cluster = _cluster(name, hardware, accelerator, memory_bits or 16 * 2**33)
    files = {
        f"{root}/meta.yaml": json.dumps(meta, indent=1) + "\n",  # JSON is YAML
        f"{root}/tp1/dense.csv": _table(("layer", "tokens", "time_us"), sorted(dense)),
        f"{root}/tp1/per_sequence.csv": _table(("layer", "sequences", "time_us"), sorted(sequences)),
        f"{root}/tp1/attention.csv": _table(
            ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
            _attention_rows(costs, config.layers, grid),
        ),
        f"configs/model/{name}.json": json.dumps(document, indent=1) + "\n",
        f"configs/cluster/{hardware}.json": json.dumps(cluster, indent=1) + "\n",
    }
    if config.experts:
        rows = _expert_rows(model, config, grid, price)
        files[f"{root}/tp1/moe.csv"] = _table(("tokens", "activated_experts", "time_us"), rows)
    return files


def _cluster(name: str, hardware: str, accelerator: Accelerator, memory_bits: int) -> dict[str, Any]:
    """Return a cluster of this one accelerator; the host's memory and link are those of its first example.

    Its sizes are in GiB (`GB_TO_BYTE` of serving/core/memory_model.py), its bandwidths in 10^9 bytes a second, which
    it passes to ASTRA-sim as `local-mem-bw`.
    """
    memory = {
        "mem_size": memory_bits / 2**33,
        "mem_bw": accelerator.dram.bandwidth_bits_per_s / (8 * 10**9),
        "mem_latency": 0,
    }
    instance = {
        "model_name": name, "hardware": hardware, "npu_mem": memory, "num_npus": 1, "tp_size": 1, "pd_type": None,
    }  # fmt: skip
    host = {"mem_size": 512, "mem_bw": 256, "mem_latency": 0}
    node = {"num_instances": 1, "cpu_mem": host, "instances": [instance]}
    return {"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [node]}


def export_profile(directory: str | Path, files: Mapping[str, str]) -> tuple[Path, ...]:
    """Write what `bundle` returned below a directory, such as a checkout of LLMServingSim, all or none."""
    return write_together(Path(directory), files)
