"""What evaluating models of billions of parameters takes: `python benchmarks/hf.py [--size 7b] [--out FILE.md]`.

A Llama with random weights is written in bfloat16, one shard per block, and evaluated in a process of its own,
whose peak resident memory the kernel reports (VmHWM of /proc/self/status; pages of mapped files count). Memory
before the evaluation is that of the imports and of one run of a tiny model, which compiles the kernels. With `--out`
the rows of other sizes and recipes that the file has stay in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from macloom._files import write_atomically

RESULTS = Path(__file__).parent / "results" / "hf.md"
SIZES = {
    "1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
             "num_key_value_heads": 4, "vocab_size": 32000},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "vocab_size": 32000},
    "tiny": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 256 + 256},
}  # fmt: skip
MIB = 2**20


def write_model(directory: Path, size: str) -> None:
    """Write a Llama with random weights, one block per safetensors file, as large checkpoints come."""
    import transformers
    from safetensors.torch import save_file

    from macloom.workloads.hf.skeleton import parameters_on_meta

    config = transformers.LlamaConfig(
        **dict[str, Any](SIZES[size]), max_position_embeddings=4096, tie_word_embeddings=False
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(directory)
    with parameters_on_meta():
        model = transformers.LlamaForCausalLM(config)
    shards: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        shards.setdefault(parts[2] if parts[1] == "layers" else parts[-2], []).append(name)
    generator = torch.Generator().manual_seed(0)
    index, shapes = {}, {name: p.shape for name, p in model.named_parameters()}
    for number, names in enumerate(shards.values()):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        tensors = {
            name: torch.empty(shapes[name], dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            if len(shapes[name]) > 1
            else torch.ones(shapes[name], dtype=torch.bfloat16)
            for name in names
        }
        save_file(tensors, directory / file, {"format": "pt"})
        index |= dict.fromkeys(names, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def memory(field: str) -> int:
    """Return a field of this process's status in bytes, such as VmHWM."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def evaluate(directory: Path, tiny: Path, recipe: str, windows: int, context: int) -> dict[str, Any]:
    """Evaluate in this process and return what it took."""
    from macloom.formats import set_threads
    from macloom.workloads.hf.evaluator import ModelEvaluator

    torch.set_num_threads(1)
    set_threads(1)
    rng = np.random.default_rng(0)

    def evaluator(path: Path, windows: int, context: int) -> ModelEvaluator:
        text = rng.integers(0, 512, (windows + 4) * (context + 1))
        return ModelEvaluator(path, text, calibration=text, windows=windows, context=context, calibration_windows=2)

    evaluator(tiny, 1, 32).run(recipe)
    before, begun = memory("VmRSS"), time.process_time()
    wall = time.monotonic()
    e = evaluator(directory, windows, context)
    result = e.run(recipe)
    config = e.skeleton.model.config
    parts = [sum(p.numel() for p in e.skeleton.module(name).parameters()) for name in e.skeleton.layers]
    parts.append(config.vocab_size * config.hidden_size)
    hidden = 4 * (3 * windows + 2) * context * config.hidden_size
    logits = 4 * 2 * context * config.vocab_size
    return {
        "recipe": recipe, "parameters": result.parameters, "windows": windows, "context": context,
        "cpu_s": time.process_time() - begun, "wall_s": time.monotonic() - wall, "before": before,
        "peak": memory("VmHWM"), "largest_part": 4 * max(parts), "weights": 4 * result.parameters, "hidden": hidden,
        "logits": logits, "kl_nats": result.kl_nats,
    }  # fmt: skip


def markdown(rows: list[dict[str, Any]], kept: dict[str, str]) -> str:
    """Return the table of some rows, and of those of an earlier one that are not among them."""
    lines = [
        "# Models of billions of parameters, block by block",
        "",
        "Made by `python benchmarks/hf.py --out` and by `python benchmarks/hf.py --size 7b --recipes int4 --windows 1",
        f"--out` with PyTorch {torch.__version__}, numpy {np.__version__}: Llamas with random weights (1.1b: hidden",
        "2048, 22 blocks; 7b: hidden 4096, 32 blocks; vocabulary 32,000; bfloat16 on disk, one shard per block), two",
        "calibration windows, one thread.",
        "",
        "Memory in MiB. *before* is the process with its imports after a tiny run, *peak* its largest resident set,",
        "mapped files included. *largest part* is what a block, or the embedding, has in float32, whichever is more,",
        "*hidden* the hidden states that are kept of all windows, *logits* those of one window in both models, *whole*",
        "all weights in float32. Ratio: (peak - before - hidden - logits) / largest part. All else counts: codes of",
        "the encoded weights, tiles that are decoded, samples for the scale search, other activations, what the",
        "allocator holds. The system's cache of the files does not: it gives way to anything else.",
        "",
        "| model | recipe | parameters | windows x context | CPU s | before | peak | largest part | hidden | logits "
        "| ratio | whole |",
        "| --- | --- | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    found = dict(kept)
    for r in rows:
        ratio = (r["peak"] - r["before"] - r["hidden"] - r["logits"]) / r["largest_part"]
        cells = [f"{r[key] / MIB:,.0f}" for key in ("before", "peak", "largest_part", "hidden", "logits")]
        key = f"| {r['size']} | `{r['recipe']}` |"
        found[key] = (
            f"{key} {r['parameters']:,} | {r['windows']} x {r['context']} | {r['cpu_s']:.0f} | "
            f"{' | '.join(cells)} | {ratio:.2f} | {r['weights'] / MIB:,.0f} |"
        )
    return "\n".join([*lines, *(found[key] for key in sorted(found))]) + "\n"


def table_rows(file: Path) -> dict[str, str]:
    """Return the rows of a table by their first two cells; none where there is no file."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return {"|".join(s.split("|", 3)[:3]) + "|": s for s in lines if s.split("|")[1:2] in [[f" {z} "] for z in SIZES]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="1.1b")
    parser.add_argument("--recipes", default="int4,mxfp4")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--inside", nargs=3, metavar=("DIR", "TINY", "RECIPE"), help="evaluate in this process")
    parser.add_argument("--out", type=Path, nargs="?", const=RESULTS, help=f"write the table ({RESULTS.name})")
    options = parser.parse_args()
    if options.inside:
        directory, tiny, recipe = options.inside
        print(json.dumps(evaluate(Path(directory), Path(tiny), recipe, options.windows, options.context)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for size in {options.size, "tiny"}:
            (Path(root) / size).mkdir()
            write_model(Path(root) / size, size)
        for recipe in options.recipes.split(","):
            command = [sys.executable, __file__, "--inside", f"{root}/{options.size}", f"{root}/tiny", recipe]
            command += ["--windows", str(options.windows), "--context", str(options.context)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append({"size": options.size, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    if options.out:
        print("wrote", write_atomically(options.out, markdown(rows, table_rows(options.out))))


if __name__ == "__main__":
    main()
