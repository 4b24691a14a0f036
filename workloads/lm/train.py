"""Train the embedded language models: `python -m macloom.workloads.lm.train tiny`.

Seeded and resumable: the state is saved every `--save-every` steps under a temporary name and then
renamed, and the batch of a step depends on the seed and the step number alone, so that an
interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from macloom.errors import MacloomError
from macloom.workloads.lm.checkpoint import save_checkpoint
from macloom.workloads.lm.data import Text, stdlib_text
from macloom.workloads.lm.model import LlamaConfig, forward

CONFIG = LlamaConfig(
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    vocab_size=256,
    max_position_embeddings=1024,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What distinguishes one embedded model from another.

    `outlier_channels` have their gain in every input and post-attention norm set to `outlier_gain`
    before training and held there, so that the model learns to rely on the large activations.
    """

    outlier_channels: tuple[int, ...] = ()
    outlier_gain: float = 30.0


VARIANTS = {"tiny": Variant(), "tiny-outlier": Variant(outlier_channels=(23, 71, 118, 200))}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Optimisation settings: AdamW, linear warm-up, cosine decay to 5 % of the peak rate."""

    steps: int = 1500
    batch: int = 16
    context: int = 256
    warmup: int = 60
    peak_rate: float = 4e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def initial_parameters(config: LlamaConfig, variant: Variant, seed: int) -> dict[str, Tensor]:
    """Draw float32 parameters: normal(0, 0.04) matrices, unit gains, outlier gains as the variant says."""
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, Tensor] = {}
    for name, shape in config.parameter_shapes().items():
        if len(shape) == 2:
            parameters[name] = torch.normal(0.0, 0.04, shape, generator=generator)
        else:
            parameters[name] = torch.ones(shape)
            if name.endswith("layernorm.weight") and variant.outlier_channels:
                parameters[name][list(variant.outlier_channels)] = variant.outlier_gain
    return parameters


def batch_at(text: Text, schedule: Schedule, step: int) -> Tensor:
    """Return the windows of one step, batch x (context + 1), drawn from (seed, step) alone."""
    rng = np.random.default_rng([schedule.seed, step])
    flat = np.frombuffer(text.data, np.uint8)
    starts = rng.integers(0, len(flat) - schedule.context - 1, schedule.batch)
    return torch.from_numpy(np.stack([flat[s : s + schedule.context + 1] for s in starts]).astype(np.int64))


def cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean nats per byte of `tokens` (B, T + 1) under `logits` (B, T, V)."""
    return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


class Trainer:
    """Parameters, optimizer and loss history of one run; `state` files make it resumable."""

    def __init__(self, variant: Variant, schedule: Schedule, config: LlamaConfig, text: Text, device: str) -> None:
        self.variant, self.schedule, self.config, self.text, self.device = variant, schedule, config, text, device
        self.parameters = {
            n: t.to(device).requires_grad_() for n, t in initial_parameters(config, variant, schedule.seed).items()
        }
        matrices = [t for t in self.parameters.values() if t.ndim == 2]
        gains = [t for t in self.parameters.values() if t.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": gains, "weight_decay": 0.0}],
            betas=(0.9, 0.95),
        )
        self.step = 0
        self.losses: list[float] = []
        self._run = json.dumps([asdict(variant), asdict(schedule), text.sha256])

    def loss(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            logits = forward(self.parameters, self.config, tokens[:, :-1])
        return cross_entropy(logits, tokens)

    def advance(self) -> float:
        """Run one optimisation step and return its loss in nats per byte."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        loss = self.loss(batch_at(self.text, self.schedule, self.step).to(self.device))
        loss.backward()
        for name, tensor in self.parameters.items():
            if name.endswith("layernorm.weight") and self.variant.outlier_channels and tensor.grad is not None:
                tensor.grad[list(self.variant.outlier_channels)] = 0.0
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def save_state(self, path: Path) -> None:
        tensors = {n: t.detach() for n, t in self.parameters.items()}
        for name, tensor in self.parameters.items():
            for key, value in self.optimizer.state[tensor].items():
                tensors[f"{key}/{name}"] = value
        metadata = {"step": str(self.step), "losses": json.dumps(self.losses), "run": self._run}
        temporary = path.with_suffix(".partial")
        save_file(tensors, temporary, metadata)
        temporary.replace(path)

    def load_state(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if metadata.get("run") != self._run:
                raise MacloomError(
                    f"{path}: is the state of another variant, seed or schedule; move it away to start afresh"
                )
            self.step, self.losses = int(metadata["step"]), json.loads(metadata["losses"])
            for name, tensor in self.parameters.items():
                tensor.data.copy_(file.get_tensor(name))
                self.optimizer.state[tensor] = {
                    key: file.get_tensor(f"{key}/{name}").to("cpu" if key == "step" else self.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }


@torch.no_grad()
def held_out_loss(trainer: Trainer, windows: int = 64) -> float:
    """Mean nats per byte on held-out packages."""
    text = stdlib_text("held-out").windows(trainer.schedule.context + 1, windows)
    losses = [float(trainer.loss(torch.from_numpy(w.astype(np.int64)).to(trainer.device))) for w in np.split(text, 4)]
    return sum(losses) / len(losses)


def main(arguments: list[str] | None = None) -> None:
    defaults = Schedule()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("variant", choices=sorted(VARIANTS))
    parser.add_argument("--out", type=Path, help="checkpoint directory (default: runs/train/VARIANT/checkpoint)")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=100)
    options = parser.parse_args(arguments)

    run = Path("runs/train") / options.variant
    run.mkdir(parents=True, exist_ok=True)
    state = run / "state.safetensors"
    schedule = Schedule(steps=options.steps, seed=options.seed)
    variant = VARIANTS[options.variant]
    text = stdlib_text("train")
    trainer = Trainer(variant, schedule, CONFIG, text, options.device)
    if state.exists():
        trainer.load_state(state)
        print(f"resumed {state} at step {trainer.step}", file=sys.stderr)

    begun, first = time.perf_counter(), trainer.step
    while trainer.step < schedule.steps:
        loss = trainer.advance()
        if trainer.step % options.save_every == 0 or trainer.step == schedule.steps:
            trainer.save_state(state)
            elapsed = time.perf_counter() - begun
            left = elapsed / (trainer.step - first) * (schedule.steps - trainer.step)
            print(f"step {trainer.step}/{schedule.steps}  loss {loss:.3f}  {left / 60:.1f} min left", file=sys.stderr)

    held_out = held_out_loss(trainer)
    record = {
        "variant": {"outlier_channels": list(variant.outlier_channels), "outlier_gain": variant.outlier_gain},
        "schedule": {k: getattr(schedule, k) for k in schedule.__dataclass_fields__},
        "train_text": {"name": text.name, "bytes": len(text.data), "sha256": text.sha256},
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "held_out_nats_per_byte": held_out,
        "loss_every_10_steps": [
            round(float(np.mean(trainer.losses[i : i + 10])), 4) for i in range(0, trainer.step, 10)
        ],
    }
    out = options.out or run / "checkpoint"
    save_checkpoint(out, CONFIG, {n: t.detach().cpu() for n, t in trainer.parameters.items()}, record)
    print(f"held-out {held_out:.4f} nats/byte, perplexity {math.exp(held_out):.3f}; wrote {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
