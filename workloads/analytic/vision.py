"""Transformers of images: ViT, DeiT and Swin. An image counts as one token of the workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from macloom.errors import MacloomError
from macloom.workloads.analytic.fields import activation, divided, flag, integer, only, sizes, square
from macloom.workloads.analytic.listing import Heads, Listing, Read
from macloom.workloads.ops import Role, VectorKind, Workload
from macloom.workloads.request import Request


def image_workload(
    name: str, family: str, request: Request, out: Listing, parameters: int, image: tuple[int, int, int], **facts: Any
) -> Workload:
    """Return the workload of one pass over `batch` images of (channels, height, width)."""
    details = {"family": family, **facts, "batch": request.batch, "image": list(image), "phases": ["prefill"]}
    return Workload(
        name=name,
        phase="prefill",
        ops=tuple(out.ops),
        parameters=parameters,
        kv_elements=0,
        tokens=request.batch,
        details=details,
    )


def _mlp(out: Listing, read: str, start: Read, rows: int, hidden: int, wide: int, active: VectorKind) -> str:
    risen = out.gemm("mlp.fc1", read, m=rows, n=wide, k=hidden)
    last = out.vector("mlp.activation_fn", active, rows, wide, risen)
    last = out.gemm("mlp.fc2", last, m=rows, n=hidden, k=wide)
    return out.vector("mlp.residual", VectorKind.ADD, rows, hidden, last, start)


def _block(out: Listing, start: Read, shape: Heads, rows: int, wide: int, active: VectorKind) -> str:
    """Append one layer with norms before both blocks; `rows` tokens attend in groups, as `shape` says."""
    hidden = shape.heads * shape.width
    read = out.vector("layernorm_before", VectorKind.LAYER_NORM, rows, hidden, start)
    q = out.gemm("attention.q_proj", read, m=rows, n=hidden, k=hidden, out=Role.ACTIVATION)
    out.gemm("attention.k_proj", read, m=rows, n=hidden, k=hidden, out=Role.KV)
    out.gemm("attention.v_proj", read, m=rows, n=hidden, k=hidden, out=Role.KV)
    last = out.gemm("attention.o_proj", out.attention("attention", q, shape), m=rows, n=hidden, k=hidden)
    attended = out.vector("attention.residual", VectorKind.ADD, rows, hidden, last, start)
    read = out.vector("layernorm_after", VectorKind.LAYER_NORM, rows, hidden, attended)
    return _mlp(out, read, attended, rows, hidden, wide, active)


def _vit(name: str, family: str, config: Mapping[str, Any], request: Request, extra: int, heads_out: int) -> Workload:
    request.of_an_image(name)
    hidden, layers = integer(config, "hidden_size", 768), integer(config, "num_hidden_layers", 12)
    heads, wide = integer(config, "num_attention_heads", 12), integer(config, "intermediate_size", 3072)
    side, patch = square(config, "image_size", 224), square(config, "patch_size", 16)
    channels, labels = integer(config, "num_channels", 3), integer(config, "num_labels", 2)
    bias, batch = flag(config, "qkv_bias", True), request.batch
    width = divided("num_attention_heads", hidden, heads, "hidden_size")
    active = activation(config, "hidden_act", "gelu", "gelu_pytorch_tanh")
    patches = (side // patch) ** 2
    tokens, out = patches + extra, Listing()
    extent = (side // patch, side // patch)
    first = out.convolution(
        "embeddings.patch_embeddings.projection",
        None,
        out_shape=(batch, hidden, *extent),
        inputs=channels,
        kernel=patch,
    )
    rows = batch * tokens
    embedded = out.vector("embeddings.add_positions", VectorKind.ADD, rows, hidden, first, (), inputs=2)
    shape = Heads(batch=batch, queries=tokens, keys=tokens, heads=heads, width=width)
    with out.layers("", layers):
        last = _block(out, (embedded, "mlp.residual"), shape, rows, wide, active)
    last = out.vector("layernorm", VectorKind.LAYER_NORM, rows, hidden, last)
    for classifier in ("classifier",) if heads_out == 1 else ("cls_classifier", "distillation_classifier"):
        out.gemm(classifier, last, m=batch, n=labels, k=hidden)
    attention = 4 * hidden * hidden + (3 * bias + 1) * hidden
    layer = attention + 2 * hidden * wide + wide + hidden + 4 * hidden
    embedding = hidden * (channels * patch * patch + 1) + (tokens + extra) * hidden
    parameters = embedding + layers * layer + 2 * hidden + heads_out * labels * (hidden + 1)
    return image_workload(
        name, family, request, out, parameters, (channels, side, side),
        layers=layers, hidden=hidden, heads=heads, patches=patches,
    )  # fmt: skip


def vit_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a ViT with a classifier on its class token, as DeiT without distillation is."""
    return _vit(name, "vit", config, request, 1, 1)


def deit_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a DeiT with a distillation token; with its teacher's architecture, two classifiers."""
    architecture = (config.get("architectures") or ["DeiTForImageClassification"])[0]
    return _vit(name, "deit", config, request, 2, 2 if str(architecture).endswith("WithTeacher") else 1)


def swin_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a Swin transformer: attention in windows, stages that halve the image.

    A window that is shifted computes what one that is not does; the bias by relative position is part of softmax.
    """
    request.of_an_image(name)
    embed, batch = integer(config, "embed_dim", 96), request.batch
    stages = len(config.get("depths", (2, 2, 6, 2)))
    depths = sizes(config, "depths", (2, 2, 6, 2) if stages == 4 else (1,) * stages)
    heads = sizes(config, "num_heads", (3, 6, 12, 24) if stages == 4 else (1,) * stages)
    side, patch = square(config, "image_size", 224), square(config, "patch_size", 4)
    window, channels = integer(config, "window_size", 7), integer(config, "num_channels", 3)
    labels, bias = integer(config, "num_labels", 2), flag(config, "qkv_bias", True)
    ratio = config.get("mlp_ratio", 4.0)
    only(config, "use_absolute_embeddings", False)
    active, out = activation(config, "hidden_act", "gelu"), Listing()
    grid, hidden = side // patch, embed
    last = out.convolution(
        "embeddings.patch_embeddings.projection",
        None,
        out_shape=(batch, embed, grid, grid),
        inputs=channels,
        kernel=patch,
    )
    last = out.vector("embeddings.norm", VectorKind.LAYER_NORM, batch * grid * grid, embed, last)
    parameters = embed * (channels * patch * patch + 1) + 2 * embed
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        here = min(window, grid)
        if grid % here:
            raise MacloomError(
                f"config.window_size: must divide the {grid} patches of a side in stage {stage}, not {here}"
            )
        rows, wide = batch * grid * grid, int(ratio * hidden)
        width = divided("num_heads", hidden, count, f"the {hidden} channels of stage {stage}, hidden_size")
        shape = Heads(batch=batch * (grid // here) ** 2, queries=here**2, keys=here**2, heads=count, width=width)
        with out.layers(f"layers.{stage}.", depth):
            last = _block(out, (last, f"layers.{stage}.mlp.residual"), shape, rows, wide, active)
        attention = 4 * hidden * hidden + (3 * bias + 1) * hidden + (2 * here - 1) ** 2 * count
        parameters += depth * (attention + 2 * hidden * wide + wide + hidden + 4 * hidden)
        if stage < stages - 1:
            grid //= 2
            rows = batch * grid * grid
            with out.layers(f"layers.{stage}.downsample.", 1):
                last = out.vector("norm", VectorKind.LAYER_NORM, rows, 4 * hidden, last)
                last = out.gemm("reduction", last, m=rows, n=2 * hidden, k=4 * hidden)
            parameters += 8 * hidden * hidden + 8 * hidden
            hidden *= 2
    last = out.vector("layernorm", VectorKind.LAYER_NORM, batch * grid * grid, hidden, last)
    last = out.vector("pooler", VectorKind.POOL, batch, hidden, last, terms=grid * grid)
    out.gemm("classifier", last, m=batch, n=labels, k=hidden)
    parameters += 2 * hidden + labels * (hidden + 1)
    return image_workload(
        name, "swin", request, out, parameters, (channels, side, side), layers=sum(depths), hidden=hidden, window=window
    )
