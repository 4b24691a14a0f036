"""What operations of PyTorch are to a workload: every name that is known, by what it does.

A name in no table stops the trace, so that nothing that costs time goes unnoticed.
"""

from __future__ import annotations

from macloom.workloads.ops import VectorKind


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = _names("""
    view _unsafe_view reshape permute transpose t numpy_T expand slice select unsqueeze squeeze split split_with_sizes
    unsafe_split unsafe_split_with_sizes unbind chunk alias detach as_strided narrow unfold lift lift_fresh movedim
    diagonal _reshape_alias flatten unflatten view_as_real view_as_complex real imag swapaxes
""")
"""Another shape of the same storage."""

COPIES = _names("""
    clone copy contiguous cat concat _to_copy stack repeat index_put _index_put_impl index_copy index_add
    repeat_interleave constant_pad_nd pad roll index index_select gather take scatter select_scatter slice_scatter
    masked_scatter im2col col2im pixel_unshuffle pixel_shuffle channel_shuffle flip rot90 expand_copy
    reflection_pad1d reflection_pad2d replication_pad2d tril triu new_tensor upsample_nearest2d
""")
"""Data that moves; what makes or reads it pays for that."""

CREATED = _names("""
    arange zeros ones empty full scalar_tensor zeros_like ones_like empty_like full_like rand_like randn_like
    new_zeros new_ones new_full new_empty rand randn randint linspace eye empty_strided new_empty_strided
""")
"""Constants."""

_KINDS = {
    VectorKind.EMBEDDING: "embedding embedding_bag",
    VectorKind.ADD: """
        add sub rsub where masked_fill clamp clamp_min clamp_max maximum minimum abs sign floor ceil round hardtanh
        leaky_relu prelu _prelu_kernel threshold relu6 lerp addcmul fmod remainder trunc nan_to_num
    """,
    VectorKind.RELU: "relu",
    VectorKind.MULTIPLY: "mul square pow hardswish hardsigmoid addcdiv",
    VectorKind.DIVIDE: "div reciprocal",
    VectorKind.SILU: "silu",
    VectorKind.GELU: "gelu erf mish macloom.gelu",
    VectorKind.GELU_GATE: "macloom.gelu_gate",
    VectorKind.SIGMOID: "sigmoid",
    VectorKind.TANH: "tanh",
    VectorKind.EXPONENTIAL: "exp exp2 expm1 elu",
    VectorKind.LOGARITHM: "log log1p log2 logit",
    VectorKind.SOFTPLUS: "softplus log_sigmoid_forward",
    VectorKind.ROOT: "sqrt rsqrt",
    VectorKind.SINE: "sin cos",
    VectorKind.ROPE: "macloom.rope",
}
ELEMENTWISE = {name: kind for kind, names in _KINDS.items() for name in names.split()}
"""A result for each element, by the kind of operation that it costs."""

POOLS = _names("""
    mean sum amax amin max min var var_mean std prod linalg_vector_norm norm logsumexp cumsum avg_pool1d avg_pool2d
    avg_pool3d max_pool2d_with_indices max_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d
""")
"""A result for several elements."""

FREE = _names("""
    topk sort kthvalue scatter_add scatter_reduce histc bincount native_dropout dropout bernoulli neg
    _native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm batch_norm
    upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d
""")
"""Not counted: choices among a few numbers per token, which are part of the router's softmax; batch norms, which a
deployed model has in the convolution before them; tables of positions in another size; what does nothing at inference.
"""
