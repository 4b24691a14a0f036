"""A format of your own is one record: it stores tensors, runs in a model and has a cost at once."""

from dataclasses import replace

import macloom
from macloom.formats import FloatFormat, Scaled
from macloom.workloads import load_recipe

# Five bits: sign, three exponent bits, one mantissa bit, all codes finite.
e3m1 = FloatFormat(label="fp5_e3m1", exponent_bits=3, mantissa_bits=1)
fmt = Scaled(name="fp5_e3m1", element=e3m1)
print(f"{fmt.name}: largest value {e3m1.max_value:g}, smallest {e3m1.encodable[0][e3m1.encodable[0] > 0][0]:g}")

recipe = replace(load_recipe("fp6_e3m2"), name="fp5", weight=fmt, activation=fmt, kv=fmt, probability=fmt)
accuracy = macloom.evaluate("tiny", recipe=recipe, windows=4)
print(f"perplexity {accuracy.perplexity:.3f}, unquantized {accuracy.reference_perplexity:.3f}")

result = macloom.simulate("tiny", "fp16-sa", recipe=recipe)
print(f"{result.cycles} cycles, {result.energy_j * 1e6:.1f} uJ on {result.accelerator.name}")
