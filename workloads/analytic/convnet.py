"""Convolutional networks with large kernels: ConvNeXt and RepLKNet. Convolutions are products of unfolded images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from macloom.workloads.analytic.fields import activation, integer, sizes, square
from macloom.workloads.analytic.listing import Listing, Read
from macloom.workloads.analytic.vision import image_workload
from macloom.workloads.ops import VectorKind, Workload
from macloom.workloads.request import Request


def convnext_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a ConvNeXt: a 7 x 7 convolution of each channel, then an MLP of each pixel."""
    request.of_an_image(name)
    depths = sizes(config, "depths", (3, 3, 9, 3))
    widths = sizes(config, "hidden_sizes", (96, 192, 384, 768))
    side, patch = square(config, "image_size", 224), square(config, "patch_size", 4)
    channels, labels = integer(config, "num_channels", 3), integer(config, "num_labels", 2)
    active, batch, out = activation(config, "hidden_act", "gelu"), request.batch, Listing()
    kernel, grid, before = 7, side // patch, widths[0]
    last = out.convolution(
        "embeddings.patch_embeddings", None, out_shape=(batch, before, grid, grid), inputs=channels, kernel=patch
    )
    last = out.vector("embeddings.layernorm", VectorKind.LAYER_NORM, batch * grid * grid, before, last)
    parameters = before * (channels * patch * patch + 1) + 2 * before
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            with out.layers(f"stages.{stage}.downsampling_layer.", 1):
                last = out.vector("0", VectorKind.LAYER_NORM, batch * grid * grid, before, last)
                grid //= 2
                last = out.convolution("1", last, out_shape=(batch, width, grid, grid), inputs=before, kernel=2)
            parameters += 2 * before + width * (4 * before + 1)
        rows, wide = batch * grid * grid, 4 * width
        with out.layers(f"stages.{stage}.", depth):
            start: Read = (last, f"stages.{stage}.residual")
            last = out.convolution(
                "dwconv", start, out_shape=(batch, width, grid, grid), inputs=width, kernel=kernel, groups=width
            )
            last = out.vector("layernorm", VectorKind.LAYER_NORM, rows, width, last)
            last = out.gemm("pwconv1", last, m=rows, n=wide, k=width)
            last = out.gemm("pwconv2", out.vector("act", active, rows, wide, last), m=rows, n=width, k=wide)
            last = out.vector("layer_scale", VectorKind.MULTIPLY, rows, width, last)
            last = out.vector("residual", VectorKind.ADD, rows, width, last, start)
        # Kernel, norm, two matrices, all with biases, and the scale of each channel.
        parameters += depth * (width * (kernel**2 + 1) + 2 * width + 2 * width * wide + wide + width + width)
        before = width
    last = out.vector("pool", VectorKind.POOL, batch, before, last, terms=grid * grid)
    last = out.vector("layernorm", VectorKind.LAYER_NORM, batch, before, last)
    out.gemm("classifier", last, m=batch, n=labels, k=before)
    parameters += 2 * before + labels * (before + 1)
    return image_workload(
        name, "convnext", request, out, parameters, (channels, side, side), layers=sum(depths), hidden=before
    )


def replknet_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a RepLKNet as it is deployed: small kernels are part of the large ones.

    Each stage alternates a block with a large kernel between two 1 x 1 convolutions, and an MLP of each pixel. Batch
    norms are merged into the convolutions before or after them, which have a bias each (`deep_fuse_BN` of the source).
    """
    request.of_an_image(name)
    depths, widths = sizes(config, "layers", (2, 2, 18, 2)), sizes(config, "channels", (128, 256, 512, 1024))
    kernels = sizes(config, "large_kernel_sizes", (31, 29, 27, 13))
    side, channels = square(config, "image_size", 224), integer(config, "num_channels", 3)
    labels, ratio = integer(config, "num_labels", 1000), integer(config, "ffn_ratio", 4)
    dw_ratio, batch, out = integer(config, "dw_ratio", 1), request.batch, Listing()
    parameters = 0

    def convolution(
        label: str, read: Read | None, inputs: int, outputs: int, kernel: int, grid: int, groups: int = 1
    ) -> str:
        nonlocal parameters
        parameters += out.repeat * outputs * (inputs // groups * kernel * kernel + 1)
        return out.convolution(
            label, read, out_shape=(batch, outputs, grid, grid), inputs=inputs, kernel=kernel, groups=groups
        )

    def relu(label: str, read: str, width: int, grid: int) -> str:
        return out.vector(label, VectorKind.RELU, batch * grid * grid, width, read)

    # The stem: 3 x 3 with stride 2, 3 x 3 by channel, 1 x 1, 3 x 3 by channel with stride 2.
    width, grid = widths[0], side // 2
    last = relu("stem.relu0", convolution("stem.0", None, channels, width, 3, grid), width, grid)
    last = relu("stem.relu1", convolution("stem.1", last, width, width, 3, grid, width), width, grid)
    last = relu("stem.relu2", convolution("stem.2", last, width, width, 1, grid), width, grid)
    grid //= 2
    last = relu("stem.relu3", convolution("stem.3", last, width, width, 3, grid, width), width, grid)
    for stage, (depth, width, kernel) in enumerate(zip(depths, widths, kernels, strict=True)):
        rows, inner, wide = batch * grid * grid, dw_ratio * width, ratio * width
        with out.layers(f"stages.{stage}.", depth):
            start: Read = (last, f"stages.{stage}.ffn.residual")
            last = relu("pw1.relu", convolution("pw1", start, width, inner, 1, grid), inner, grid)
            last = relu("lk.relu", convolution("large_kernel", last, inner, inner, kernel, grid, inner), inner, grid)
            last = convolution("pw2", last, inner, width, 1, grid)
            start = out.vector("lk.residual", VectorKind.ADD, rows, width, last, start)
            last = convolution("ffn.pw1", start, width, wide, 1, grid)
            last = out.vector("ffn.gelu", VectorKind.GELU, rows, wide, last)
            last = convolution("ffn.pw2", last, wide, width, 1, grid)
            last = out.vector("ffn.residual", VectorKind.ADD, rows, width, last, start)
        if stage < len(depths) - 1:
            after = widths[stage + 1]
            with out.layers(f"transitions.{stage}.", 1):
                last = relu("relu0", convolution("0", last, width, after, 1, grid), after, grid)
                grid //= 2
                last = relu("relu1", convolution("1", last, after, after, 3, grid, after), after, grid)
    last = out.vector("avgpool", VectorKind.POOL, batch, width, last, terms=grid * grid)
    out.gemm("head", last, m=batch, n=labels, k=width)
    parameters += labels * (width + 1)
    return image_workload(
        name, "replknet", request, out, parameters, (channels, side, side),
        layers=2 * sum(depths), hidden=width, kernels=list(kernels),
    )  # fmt: skip
