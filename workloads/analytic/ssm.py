"""State-space models: Mamba. The selective scan is one operation of the vector unit, whatever the length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from macloom.workloads.analytic.fields import activation, flag, integer
from macloom.workloads.analytic.listing import Listing, Read
from macloom.workloads.ops import Role, VectorKind, Workload
from macloom.workloads.request import Request


def mamba_workload(name: str, config: Mapping[str, Any], request: Request) -> Workload:
    """Return the operations of a Mamba.

    In decode a token meets the state of all tokens before it, so that the context changes nothing; `kv_elements` are
    those of the state, of the scan and of the convolution.
    """
    request.without_source(name)
    request.without_experts(name)
    hidden, layers = integer(config, "hidden_size", 768), integer(config, "num_hidden_layers", 32)
    states, kernel = integer(config, "state_size", 16), integer(config, "conv_kernel", 4)
    wide = integer(config, "intermediate_size", integer(config, "expand", 2) * hidden)
    rank = config.get("time_step_rank", "auto")
    rank = -(-hidden // 16) if rank == "auto" else integer(config, "time_step_rank")
    vocab, tied = integer(config, "vocab_size", 50280), flag(config, "tie_word_embeddings", True)
    bias, conv_bias = flag(config, "use_bias", False), flag(config, "use_conv_bias", True)
    active = activation(config, "hidden_act", "silu")
    length, batch, out = request.tokens(None), request.batch, Listing()
    rows = batch * (1 if request.decode else length)
    first = out.vector("embeddings", VectorKind.EMBEDDING, rows, hidden)
    with out.layers("", layers):
        start: Read = (first, "mixer.residual")
        read = out.vector("norm", VectorKind.RMS_NORM, rows, hidden, start)
        both = out.gemm("mixer.in_proj", read, m=rows, n=2 * wide, k=hidden)
        last = out.gemm("mixer.conv1d", both, m=rows, n=1, k=kernel, batch=wide)
        x = out.vector("mixer.act", active, rows, wide, last)
        selected = out.gemm("mixer.x_proj", x, m=rows, n=rank + 2 * states, k=wide, out=Role.ACTIVATION)
        step = out.gemm("mixer.dt_proj", selected, m=rows, n=wide, k=rank)
        step = out.vector("mixer.softplus", VectorKind.SOFTPLUS, rows, wide, step)
        scanned = out.vector("mixer.scan", VectorKind.SCAN, rows, wide, x, step, terms=states)
        gate = out.vector("mixer.gate", active, rows, wide, both)
        gated = out.vector("mixer.multiply", VectorKind.MULTIPLY, rows, wide, scanned, gate)
        last = out.gemm("mixer.out_proj", gated, m=rows, n=hidden, k=wide)
        last = out.vector("mixer.residual", VectorKind.ADD, rows, hidden, last, start)
    head_rows = {"all": rows, "last": batch, "none": 0}[request.head_tokens]
    if head_rows:
        last = out.vector("norm_f", VectorKind.RMS_NORM, rows, hidden, last)
        out.gemm("lm_head", last, m=head_rows, n=vocab, k=hidden)
    layer = 2 * wide * (hidden + bias) + wide * (kernel + conv_bias) + wide * (rank + 2 * states) + wide * (rank + 1)
    layer += wide * states + wide + hidden * (wide + bias) + hidden
    return Workload(
        name=name,
        phase=request.phase,
        ops=tuple(out.ops),
        parameters=layers * layer + vocab * hidden * (1 if tied else 2) + hidden,
        kv_elements=layers * wide * (states + kernel) * batch,
        tokens=rows,
        details={
            "family": "mamba",
            "layers": layers,
            "hidden": hidden,
            "states": states,
            "vocab": vocab,
            "batch": batch,
            "context" if request.decode else "sequence": length,
            "head_tokens": request.head_tokens,
        },
    )
