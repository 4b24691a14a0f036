"""A tour of macloom in one page: store a tensor, multiply, cost a model, measure its accuracy."""

import numpy as np

import macloom

# 1. A number format, bit for bit.
weights = np.random.default_rng(0).standard_normal((256, 512), np.float32)
weights[3, 7] = 40.0  # an outlier
for name in ("int4", "ovp4", "mxfp4"):
    fmt = macloom.get_format(name)
    stored = fmt.encode(weights, clip=0.1)
    error = float(np.square(stored.decode() - weights).mean() / np.square(weights).mean())
    print(f"{name:6} {stored.bits / weights.size:.3f} bits/element, {-10 * np.log10(error):5.2f} dB")

# 2. A matrix product as the hardware computes it: integers, one 32-bit accumulator, then the scales.
activations = np.random.default_rng(1).standard_normal((8, 512), np.float32)
fmt = macloom.get_format("ovp4")
product = macloom.gemm(fmt.encode(activations), fmt.encode(weights), accumulator="int32")
print(f"product {product.shape}, {product.dtype}")

# 3. What a model costs on a machine.
workload = macloom.load_workload("opt-6.7b", phase="decode", context=2048)
result = macloom.simulate(workload, "olive-sa", recipe="ovp4")
print(
    f"OPT-6.7B, one token: {result.seconds * 1e3:.1f} ms, {result.energy_j * 1e3:.1f} mJ on {result.accelerator.name}"
)

# 4. What the format does to a model's accuracy.
accuracy = macloom.evaluate("tiny-outlier", recipe="ovp4", windows=4)
print(f"perplexity {accuracy.perplexity:.2f}, unquantized {accuracy.reference_perplexity:.2f}")
