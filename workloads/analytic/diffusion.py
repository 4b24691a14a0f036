"""Diffusion transformers: DiT and PixArt. A pass is one denoising step of a batch of images, with its conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from macloom.workloads.analytic.fields import divided, flag, integer, only
from macloom.workloads.analytic.listing import Heads, Listing, Read
from macloom.workloads.ops import Role, VectorKind, Workload
from macloom.workloads.request import Request

_FREQUENCIES = 256
"""Sines and cosines that describe a timestep, in both models."""


class _Denoiser:
    """What both models share: patches, the timestep, blocks whose norms are modulated by it, the last layer."""

    def __init__(self, name: str, config: Mapping[str, Any], request: Request) -> None:
        request.of_an_image(name)
        only(config, "mlp_ratio", 4.0)
        self.hidden, self.depth = integer(config, "hidden_size", 1152), integer(config, "depth", 28)
        self.heads, self.patch = integer(config, "num_heads", 16), integer(config, "patch_size", 2)
        self.side, self.channels = integer(config, "input_size", 32), integer(config, "in_channels", 4)
        self.made = integer(config, "out_channels", self.channels * (2 if flag(config, "learn_sigma", True) else 1))
        self.width = divided("num_heads", self.hidden, self.heads, "hidden_size")
        self.batch, self.out = request.batch, Listing()
        grid = divided("patch_size", self.side, self.patch, "input_size")
        self.tokens, self.rows = grid * grid, grid * grid * self.batch
        first = self.out.convolution(
            "x_embedder.proj", None, out_shape=(self.batch, self.hidden, grid, grid), inputs=self.channels,
            kernel=self.patch,
        )  # fmt: skip
        self.first = self.add("add_positions", first, ())
        self.parameters = self.hidden * (self.channels * self.patch**2 + 1)

    def add(self, label: str, *reads: Read) -> str:
        return self.out.vector(label, VectorKind.ADD, self.rows, self.hidden, *reads)

    def linear(self, label: str, read: Read | None, rows: int, k: int, n: int, **fields: Any) -> str:
        """Append a product with a bias, and count its weights."""
        self.parameters += self.out.repeat * n * (k + 1)
        return self.out.gemm(label, read, m=rows, n=n, k=k, **fields)

    def timestep(self, prefix: str = "") -> str:
        hidden, batch, name = self.hidden, self.batch, f"{prefix}t_embedder"
        last = self.out.vector(f"{name}.sines", VectorKind.SINE, batch, _FREQUENCIES)
        last = self.linear(f"{name}.mlp.0", last, batch, _FREQUENCIES, hidden)
        last = self.out.vector(f"{name}.mlp.1", VectorKind.SILU, batch, hidden, last)
        return self.linear(f"{name}.mlp.2", last, batch, hidden, hidden)

    def condition(self, classes: int, prefix: str = "") -> str:
        """Append the embedders of timestep and class; one more class stands for none (guidance without one)."""
        hidden, batch = self.hidden, self.batch
        timestep = self.timestep(prefix)
        label = self.out.vector(f"{prefix}y_embedder", VectorKind.EMBEDDING, batch, hidden)
        self.parameters += self.out.repeat * (classes + 1) * hidden
        made = self.out.vector(f"{prefix}condition", VectorKind.ADD, batch, hidden, timestep, label)
        return self.out.vector(f"{prefix}condition.silu", VectorKind.SILU, batch, hidden, made)

    def modulated(self, label: str, read: Read) -> str:
        """Append a norm without gain, then times one vector of the image and plus another, both of the conditioning."""
        last = self.out.vector(label, VectorKind.LAYER_NORM, self.rows, self.hidden, read)
        last = self.out.vector(f"{label}.scale", VectorKind.MULTIPLY, self.rows, self.hidden, last)
        return self.add(f"{label}.shift", last)

    def gated(self, label: str, block: str, start: Read) -> str:
        scaled = self.out.vector(f"{label}.gate", VectorKind.MULTIPLY, self.rows, self.hidden, block)
        return self.add(f"{label}.residual", scaled, start)

    def attention(self, read: str) -> str:
        hidden, rows = self.hidden, self.rows
        qkv = self.linear("attn.qkv", read, rows, hidden, 3 * hidden)
        self.out.vector("attn.cache", VectorKind.CACHE, rows, 2 * hidden, qkv)
        shape = Heads(batch=self.batch, queries=self.tokens, keys=self.tokens, heads=self.heads, width=self.width)
        return self.linear("attn.proj", self.out.attention("attn", qkv, shape), rows, hidden, hidden)

    def mlp(self, read: str) -> str:
        wide = 4 * self.hidden
        last = self.linear("mlp.fc1", read, self.rows, self.hidden, wide)
        last = self.out.vector("mlp.act", VectorKind.GELU, self.rows, wide, last)
        return self.linear("mlp.fc2", last, self.rows, wide, self.hidden)

    def finished(self, name: str, family: str, last: str) -> Workload:
        last = self.modulated("final_layer.norm_final", last)
        self.linear("final_layer.linear", last, self.rows, self.hidden, self.patch**2 * self.made)
        return Workload(
            name=name,
            phase="prefill",
            ops=tuple(self.out.ops),
            parameters=self.parameters,
            kv_elements=0,
            tokens=self.batch,
            details={
                "family": family,
                "layers": self.depth,
                "hidden": self.hidden,
                "heads": self.heads,
                "patches": self.tokens,
                "batch": self.batch,
                "image": [self.channels, self.side, self.side],
                "phases": ["prefill"],
            },
        )


def dit_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a DiT with adaLN-Zero: every block makes its modulation from timestep and class.

    With `embedders` = `blocks` (diffusers) every block embeds both anew, and the last layer once more with the first
    block's weights.
    """
    model = _Denoiser(name, config, request)
    out, hidden, batch = model.out, model.hidden, model.batch
    classes, own = integer(config, "num_classes", 1000), config.get("embedders", "model") == "blocks"
    if flag(config, "learned_positions", True):
        model.parameters += model.tokens * hidden
    condition = "" if own else model.condition(classes)
    with out.layers("", model.depth):
        start: Read = (model.first, "mlp.residual")
        read = model.condition(classes, "norm1.") if own else condition
        model.linear("adaLN_modulation.1", read, batch, hidden, 6 * hidden)
        attended = model.gated("attn", model.attention(model.modulated("norm1", start)), start)
        last = model.gated("mlp", model.mlp(model.modulated("norm2", attended)), attended)
    if own:
        weights = model.parameters
        condition = model.condition(classes)
        model.parameters = weights
    model.linear("final_layer.adaLN_modulation.1", condition, batch, hidden, 2 * hidden)
    return model.finished(name, "dit", last)


def pixart_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a PixArt-alpha: one modulation for all blocks, and attention over a caption's tokens.

    The caption comes from a text encoder, which is not part of it.
    """
    model = _Denoiser(name, config, request)
    out, hidden, batch, rows = model.out, model.hidden, model.batch, model.rows
    caption, tokens = integer(config, "caption_channels", 4096), integer(config, "model_max_length", 120)
    timestep = out.vector("t_block.0", VectorKind.SILU, batch, hidden, model.timestep())
    modulation = model.linear("t_block.1", timestep, batch, hidden, 6 * hidden)
    y_rows = batch * tokens
    y = model.linear("y_embedder.y_proj.fc1", None, y_rows, caption, hidden)
    y = out.vector("y_embedder.y_proj.act", VectorKind.GELU, y_rows, hidden, y)
    y = model.linear("y_embedder.y_proj.fc2", y, y_rows, hidden, hidden)
    shape = Heads(batch=batch, queries=model.tokens, keys=tokens, heads=model.heads, width=model.width)
    with out.layers("", model.depth):
        start: Read = (model.first, "mlp.residual")
        # Each block adds six vectors of its own to the modulation.
        out.vector("scale_shift_table", VectorKind.ADD, batch, 6 * hidden, modulation)
        model.parameters += out.repeat * 6 * hidden
        attended = model.gated("attn", model.attention(model.modulated("norm1", start)), start)
        q = model.linear("cross_attn.q_linear", attended, rows, hidden, hidden, out=Role.ACTIVATION)
        model.linear("cross_attn.kv_linear", y, y_rows, hidden, 2 * hidden, out=Role.KV)
        crossed = model.linear("cross_attn.proj", out.attention("cross_attn", q, shape), rows, hidden, hidden)
        crossed = model.add("cross_attn.residual", crossed, attended)
        last = model.gated("mlp", model.mlp(model.modulated("norm2", crossed)), crossed)
    model.parameters += 2 * hidden
    return model.finished(name, "pixart", last)
