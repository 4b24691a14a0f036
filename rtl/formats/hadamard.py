"""The fast Walsh-Hadamard transform as butterflies of adders."""

from __future__ import annotations

import numpy as np
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.rtl import wires as w
from macloom.rtl.unit import Port, Unit, Values, Wires


def hadamard(size: int, width: int, module: str | None = None) -> Unit:
    """Return the transform of `size` integers of `width` bits, in Sylvester's order, without normalisation.

    Ports `x0`, ... to `y0`, ..., which are log2(size) bits wider and therefore exact.

    Raises:
        MacloomError: the size is no power of two, or a port would have more than 64 bits.

    >>> [port.width for port in hadamard(4, 8).outputs]
    [10, 10, 10, 10]
    """
    stages = size.bit_length() - 1
    if size < 2 or size != 1 << stages:
        raise MacloomError(f"rtl.size: must be a power of two from 2 on, not {size}")
    if not 1 <= width <= 63 - stages:
        raise MacloomError(f"rtl.width: must be from 1 to {63 - stages} bits for {size} values, not {width}")

    def circuit(inputs: Wires) -> Wires:
        values: list[WireVector] = [inputs[f"x{i}"] for i in range(size)]
        for stage in range(stages):
            step, bits = 1 << stage, width + stage + 1
            following = list(values)
            for i in range(size):
                if not i & step:
                    a, b = (w.signed_widened(values[k], bits) for k in (i, i | step))
                    following[i], following[i | step] = w.low(a + b, bits), w.low(a - b, bits)
            values = following
        return {f"y{i}": value for i, value in enumerate(values)}

    def model(inputs: Values) -> Values:
        matrix = np.array([[1]], np.int64)
        for _ in range(stages):
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        x = np.stack([np.asarray(inputs[f"x{i}"]) for i in range(size)])
        return {f"y{i}": row for i, row in enumerate(matrix @ x)}

    return Unit(
        module=module or f"hadamard{size}_int{width}",
        inputs=tuple(Port(name=f"x{i}", width=width, signed=True) for i in range(size)),
        outputs=tuple(Port(name=f"y{i}", width=width + stages, signed=True) for i in range(size)),
        circuit=circuit,
        model=model,
        facts={"size": size, "width": width},
    )
