"""Compare presets of tensor cores with the hardware: with the CUDA GPU at hand, or with recorded outputs.

    python benchmarks/tensorcore_bits.py                  # products on this machine's GPU, if it has one
    python benchmarks/tensorcore_bits.py --vectors DIR    # a checkout of north-numerical-computing/MATLAB-tensor-core

On a GPU, products come from the libraries that torch calls, which choose their kernels: up to one instruction along K
all orders are the same, beyond that the table shows whether the library adds in the order of one chain. Operands
are random, with a narrow and a wide spread of exponents. In recorded outputs one line is a sum of one instruction.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from macloom.formats import gemm, get_format
from macloom.formats.tensor import Encoded
from macloom.formats.tensor_core import TensorCoreAccumulator, get_preset, list_presets
from macloom.formats.tensor_core.product import late_sum, multiply_add

# CUDA compute capability: device in the names of presets.
DEVICES = {
    (7, 0): "volta", (7, 5): "turing", (8, 0): "ampere", (8, 6): "ampere", (8, 9): "ada", (9, 0): "hopper",
    (10, 0): "blackwell", (12, 0): "rtx-blackwell",
}  # fmt: skip
# Folders of recorded outputs: device in the names of presets.
RECORDED = {
    "V100": "volta", "A100": "ampere", "A2": "ampere", "Ada": "ada", "L40S": "ada", "H100": "hopper", "H200": "hopper",
    "B200": "blackwell",
}  # fmt: skip
# Devices whose mma.sync turns FP8 into FP16 instructions; the FP8 presets model wgmma and tcgen05.
REWRITING = ("hopper", "blackwell")
TYPES = {"fp16": "fp16", "bf16": "bf16", "tf32": "fp32", "E4M3": "fp8_e4m3", "E5M2": "fp8_e5m2"}
Row = tuple[str, str, int, int, str]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit status is 0 also where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, metavar="DIR", help="checkout of MATLAB-tensor-core")
    parser.add_argument("--size", type=int, default=256, help="rows and columns of the products on the GPU (256)")
    options = parser.parse_args(arguments)
    if options.vectors is not None:
        return _print(recorded(options.vectors))
    try:
        import torch
    except ImportError:
        print("torch is not installed: nothing to compare with; pip install torch")
        return 0
    if not torch.cuda.is_available():
        print("no CUDA GPU here: nothing to compare with; --vectors compares with recorded outputs")
        return 0
    capability = torch.cuda.get_device_capability()
    if capability not in DEVICES:
        print(f"{torch.cuda.get_device_name()} (sm_{capability[0]}{capability[1]}): there are no presets for it")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    return _print(native(torch, DEVICES[capability], options.size))


def _print(rows: Iterator[Row]) -> int:
    print("| preset | case | outputs | equal | note |\n|---|---|---:|---:|---|")
    for preset, case, outputs, equal, note in rows:
        print(f"| {preset} | {case} | {outputs} | {equal} | {note} |", flush=True)
    return 0


def native(torch: Any, device: str, size: int) -> Iterator[Row]:
    """Yield how many outputs of the GPU's products equal those of each preset of the device."""
    products: dict[str, Callable[..., Any]] = {
        "fp16": lambda a, b: torch.mm(a, b.T, out_dtype=torch.float32),
        "bf16": lambda a, b: torch.mm(a, b.T, out_dtype=torch.float32),
        "tf32": lambda a, b: torch.mm(a, b.T),
        "fp8": lambda a, b: _scaled(torch, a, b, True),
        "fp8,promote=128": lambda a, b: _scaled(torch, a, b, False),
        "int8": lambda a, b: torch._int_mm(a, b.T),
    }
    torch.backends.cuda.matmul.allow_tf32 = True
    rng = np.random.default_rng(0)
    for suffix, product in products.items():
        name, _, changes = f"{device}-{suffix}".partition(",")
        if name not in list_presets():
            continue
        tc = replace(get_preset(name), promote=128) if changes else get_preset(name)
        for depth in (tc.k, 512):
            for spread in (0, 6):
                left, right = (_random(rng, tc, (size, depth), spread) for _ in "ab")
                case = f"K = {depth}, exponents within {2 * spread}"
                try:
                    theirs = product(*(_on_gpu(torch, tc, x) for x in (left, right))).float().cpu().numpy()
                except (RuntimeError, TypeError, AttributeError, ValueError) as error:
                    yield tc.name, case, 0, 0, f"the library refuses: {str(error).splitlines()[0][:80]}"
                    continue
                ours = gemm(left, right, tc)
                yield tc.name, case, ours.size, int(np.count_nonzero(ours == theirs)), ""


def _scaled(torch: Any, a: Any, b: Any, fast: bool) -> Any:
    one = torch.ones((), device=a.device, dtype=torch.float32)
    return torch._scaled_mm(a, b.T, scale_a=one, scale_b=one, out_dtype=torch.float32, use_fast_accum=fast)


def _random(rng: np.random.Generator, tc: TensorCoreAccumulator, shape: tuple[int, int], spread: int) -> Encoded:
    """Return random operands without scales, whose values the GPU can be given exactly."""
    name = tc.takes[0].name
    if name.startswith("int"):
        codes = get_format(name).encode(rng.standard_normal(shape)).elements
    else:
        x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)).astype(np.float32)
        codes = x.view(np.uint32) & np.uint32(0xFFFFE000) if tc.operand_mantissa else tc.takes[0].encode(x)
    return Encoded(get_format(name), shape, codes, np.ones((), np.float32))


def _on_gpu(torch: Any, tc: TensorCoreAccumulator, encoded: Encoded) -> Any:
    operand = encoded.operand()
    values = torch.from_numpy(np.ldexp(operand.units, operand.unit_exponent).astype(np.float32)).cuda()
    dtypes = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "int8": "int8", "fp8_e4m3": "float8_e4m3fn"}
    return values.to(getattr(torch, dtypes[tc.takes[0].name]))


def recorded(folder: Path) -> Iterator[Row]:
    """Yield how many recorded outputs each preset gives: `model_validation/DEVICE/TYPE/{a,b,c,d}_*.txt`."""
    for device, ours in RECORDED.items():
        for kind, element in TYPES.items():
            for register in ("fp32", "fp16"):
                base = folder / "model_validation" / device / kind
                d = base / f"d_{device}_{register}.txt"
                if not d.exists():
                    continue
                case, rewritten = f"{device} {kind} to {register}", element.startswith("fp8") and ours in REWRITING
                emulated = rewritten and (ours == "blackwell" or register == "fp16")
                name = f"{ours}-fp8-sync" if emulated else f"{ours}-{_family(kind)}"
                tc = get_preset(name if register == "fp32" else f"{name}-fp16")
                a, b = (_values(base / f"{x}_{device}_{kind}.txt") for x in "ab")
                c_file = base / f"c_{device}_fp32.txt"
                c, note = _sums(c_file) if c_file.exists() else np.zeros(len(a), np.float32), ""
                if rewritten and not emulated:
                    c, note = np.zeros_like(c), "sums from zero; from the recorded c, next to none are equal"
                if register == "fp16":
                    c = c.astype(np.float16).astype(np.float32)
                found = _chains(tc, element, a, b, c)
                yield tc.name, case, len(a), int(np.count_nonzero(found == _sums(d))), note


def _family(kind: str) -> str:
    return "fp8" if kind in ("E4M3", "E5M2") else kind


def _chains(tc: TensorCoreAccumulator, element: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return c plus the dot product of each row of a and b; a late sum is added outside."""
    fmt, late = get_format(element), tc.promote == tc.k
    codes = [x.view(np.uint32) if element == "fp32" else fmt.element.encode(x) for x in (a, b)]
    left, right = (Encoded(fmt, (len(a), 1, a.shape[1]), x[:, None], np.ones((), np.float32)).operand() for x in codes)
    sums = multiply_add(tc, left, right, (np.zeros_like(c) if late else c)[:, None, None])[:, 0, 0]
    return late_sum(tc, sums, c) if late else sums


def _values(path: Path) -> np.ndarray:
    """Return rows of float32 values, written as hexadecimal words."""
    rows = [[int(word, 16) for word in line.split()] for line in path.read_text().splitlines() if line.strip()]
    return np.array(rows, np.uint32).view(np.float32)


def _sums(path: Path) -> np.ndarray:
    """Return float32 values, written as 32 or 16 binary digits."""
    words = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if len(words[0]) == 32:
        return np.array([int(word, 2) for word in words], np.uint32).view(np.float32)
    return np.array([int(word, 2) for word in words], np.uint16).view(np.float16).astype(np.float32)


if __name__ == "__main__":
    raise SystemExit(main())
