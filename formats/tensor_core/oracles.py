"""mmasim and mmaemu as oracles of the presets: which instruction each stands for, and calls on numpy codes.

Both packages and torch are imported when an oracle is made.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from macloom.formats import get_format
from macloom.formats.operand import Operand
from macloom.formats.tensor_core.record import TensorCoreAccumulator
from macloom.formats.tensors.block import Block

PTX = {
    "fp16": "f16", "bf16": "bf16", "fp32": "tf32", "fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2",
    "fp6_e3m2": "e3m2", "fp6_e2m3": "e2m3", "fp4_e2m1": "e2m1",
}  # fmt: skip
# Element formats that torch has, too.
TORCH = {
    "fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2",
}  # fmt: skip

MMA, WGMMA, TCGEN = "MMA", "WGMMA", "TCGen05MMA"
# Preset: the instructions that it stands for, as class, architecture and name with the operands left open.
INSTRUCTIONS = {
    "volta-fp16": [(MMA, "Volta", "m8n8k4.f32.{a}.{b}.f32")],
    "volta-fp16-fp16": [(MMA, "Volta", "m8n8k4.f16.{a}.{b}.f16")],
    "turing-fp16": [(MMA, "Turing", "m16n8k8.f32.{a}.{b}.f32")],
    "turing-fp16-fp16": [(MMA, "Turing", "m16n8k8.f16.{a}.{b}.f16")],
    **{
        f"{device}-{name}": [(MMA, arch, text)]
        for device, arch in (("ampere", "Ampere"), ("ada", "Ada Lovelace"), ("rtx-blackwell", "RTX Blackwell"))
        for name, text in {
            "fp16": "m16n8k16.f32.{a}.{b}.f32", "fp16-fp16": "m16n8k16.f16.{a}.{b}.f16",
            "bf16": "m16n8k16.f32.{a}.{b}.f32", "tf32": "m16n8k8.f32.{a}.{b}.f32",
        }.items()
    },
    "ada-fp8": [(MMA, "Ada Lovelace", "m16n8k32.f32.{a}.{b}.f32"), (MMA, "Ada Lovelace", "m16n8k16.f32.{a}.{b}.f32")],
    "ada-fp8-fp16": [(MMA, "Ada Lovelace", "m16n8k32.f16.{a}.{b}.f16")],
    "hopper-fp16": [(MMA, "Hopper", "m16n8k16.f32.{a}.{b}.f32"), (WGMMA, "Hopper", "m64n8k16.f32.{a}.{b}")],
    "hopper-fp16-fp16": [(MMA, "Hopper", "m16n8k16.f16.{a}.{b}.f16"), (WGMMA, "Hopper", "m64n8k16.f16.{a}.{b}")],
    "hopper-bf16": [(MMA, "Hopper", "m16n8k16.f32.{a}.{b}.f32"), (WGMMA, "Hopper", "m64n8k16.f32.{a}.{b}")],
    "hopper-tf32": [(MMA, "Hopper", "m16n8k8.f32.{a}.{b}.f32"), (WGMMA, "Hopper", "m64n8k8.f32.{a}.{b}")],
    "hopper-fp8": [(WGMMA, "Hopper", "m64n8k32.f32.{a}.{b}")],
    "hopper-fp8-fp16": [(WGMMA, "Hopper", "m64n8k32.f16.{a}.{b}")],
    "blackwell-fp16": [
        (MMA, "Blackwell", "m16n8k16.f32.{a}.{b}.f32"), (TCGEN, "Blackwell", "m64n8k16.kind::f16.f32.{a}.{b}")
    ],
    "blackwell-fp16-fp16": [
        (MMA, "Blackwell", "m16n8k16.f16.{a}.{b}.f16"), (TCGEN, "Blackwell", "m64n8k16.kind::f16.f16.{a}.{b}")
    ],
    "blackwell-bf16": [
        (MMA, "Blackwell", "m16n8k16.f32.{a}.{b}.f32"), (TCGEN, "Blackwell", "m64n8k16.kind::f16.f32.{a}.{b}")
    ],
    "blackwell-tf32": [
        (MMA, "Blackwell", "m16n8k8.f32.{a}.{b}.f32"), (TCGEN, "Blackwell", "m64n8k8.kind::tf32.f32.{a}.{b}")
    ],
    "blackwell-fp8": [(TCGEN, "Blackwell", "m64n8k32.kind::f8f6f4.f32.{a}.{b}")],
    "blackwell-fp8-fp16": [(TCGEN, "Blackwell", "m64n8k32.kind::f8f6f4.f16.{a}.{b}")],
    "blackwell-mxfp8": [(f"{TCGEN}BlockScale", "Blackwell", "m128n8k32.kind::mxf8f6f4.block32.f32.{a}.{b}.{s}")],
    "blackwell-mxfp4": [
        (f"{TCGEN}BlockScale", "Blackwell", "m128n8k64.kind::mxf4.block32.f32.{a}.{b}.{s}"),
        (f"{TCGEN}BlockScale", "Blackwell", "m128n8k64.kind::mxf4nvf4.block32.f32.{a}.{b}.{s}"),
    ],
    "blackwell-nvfp4": [(f"{TCGEN}BlockScale", "Blackwell", "m128n8k64.kind::mxf4nvf4.block16.f32.{a}.{b}.{s}")],
    "rtx-blackwell-fp8": [
        (MMA, "RTX Blackwell", "m16n8k32.kind::f8f6f4.f32.{a}.{b}.f32"),
    ],
    "rtx-blackwell-fp8-fp16": [(MMA, "RTX Blackwell", "m16n8k32.kind::f8f6f4.f16.{a}.{b}.f16")],
    "rtx-blackwell-mxfp8": [
        (f"{MMA}BlockScale", "RTX Blackwell", "m16n8k32.kind::mxf8f6f4.block32.f32.{a}.{b}.f32.{s}")
    ],
    "rtx-blackwell-mxfp4": [(f"{MMA}BlockScale", "RTX Blackwell", "m16n8k64.kind::mxf4.block32.f32.{a}.{b}.f32.{s}")],
    "rtx-blackwell-nvfp4": [
        (f"{MMA}BlockScale", "RTX Blackwell", "m16n8k64.kind::mxf4nvf4.block16.f32.{a}.{b}.f32.{s}")
    ],
}  # fmt: skip
# Products of FP8 matrices: accumulator, mmaemu's profile, fast accumulation, split K.
PRODUCTS: list[tuple[str, str, bool, Any]] = [
    ("tc:hopper-fp8", "hopper", True, 1),
    ("tc:hopper-fp8,promote=128", "hopper", False, 1),
    ("tc:ada-fp8", "ada", True, 1),
    ("tc:ada-fp8,promote=128", "ada", False, 1),
    ("tc:blackwell-fp8-sync", "b200-mma-sync-experimental", True, 1),
]
SPLITS: list[tuple[str, str, bool, Any]] = [
    ("tc:hopper-fp8,split=2", "hopper", True, (2, "contiguous")),
    ("tc:hopper-fp8,promote=128,split=3", "hopper", False, (3, "contiguous")),
    ("tc:ada-fp8,split=2,tile=64,order=interleaved", "ada", True, (2, "serial")),
    ("tc:ada-fp8,split=4,tile=64,order=interleaved,sum=pairwise", "ada", True, (4, "pairwise")),
    ("tc:ada-fp8,split=7,tile=64,order=interleaved,sum=pairwise", "ada", True, (7, "pairwise")),
    ("tc:ada-fp8,promote=128,split=3,tile=64,order=interleaved", "ada", False, (3, "serial")),
]
# Element formats of scales: name in PTX, codes.
SCALES = {"e8m0": ("ue8m0", 256), "fp8_e4m3": ("ue4m3", 128)}


def torch_tensor(name: str, codes: np.ndarray, packed: bool = False) -> Any:
    """Return codes as the torch tensor (rows, K) that the oracles take."""
    import torch

    if name in TORCH:
        signed = codes.view(f"i{codes.itemsize}") if codes.itemsize > 1 else codes
        return torch.from_numpy(np.ascontiguousarray(signed)).view(getattr(torch, TORCH[name]))
    if packed:
        return torch.from_numpy(np.ascontiguousarray(codes[:, 0::2] | codes[:, 1::2] << 4))
    # Codes of four bits sit in the middle of a byte.
    return torch.from_numpy(np.ascontiguousarray(codes << 2 if name == "fp4_e2m1" else codes))


def pairs(tc: TensorCoreAccumulator, text: str) -> list[tuple[str, str]]:
    names = [fmt.name for fmt in tc.takes]
    if "kind" not in text:
        names = [name for name in names if name in TORCH]
    return list(product(names, names))


class Instruction:
    """One instruction of the oracle on numpy codes."""

    def __init__(self, kind: str, arch: str, text: str, a: str, b: str, scale: str = "") -> None:
        import torch
        from mmasim import nv_ptx as nv

        self.name = text.format(a=PTX[a], b=PTX[b], s=SCALES[scale][0] if scale else "")
        self.mma = getattr(nv, kind)(arch, self.name)
        self.a, self.b, self.half = a, b, self.mma.d_type == torch.float16
        self.m, self.n, self.k, self.packed = self.mma.m, self.mma.n, self.mma.k, getattr(self.mma, "packing", 1) > 1

    def __call__(self, a: np.ndarray, b: np.ndarray, c: np.ndarray, *scales: np.ndarray) -> np.ndarray:
        """Return A (m, k) times B (n, k) plus C (m, n); scales (m, groups) and (n, groups) are codes."""
        import torch

        left, right = torch_tensor(self.a, a, self.packed), torch_tensor(self.b, b, self.packed).T.contiguous()
        start = torch.from_numpy(c.astype(np.float16) if self.half else c.copy())
        codes = [torch.from_numpy(np.ascontiguousarray(s)).view(self.mma.s_type) for s in scales]
        if codes:
            codes[1] = codes[1].T.contiguous()
        return self.mma(left, right, start, *codes).float().numpy()


def scaled_operand(name: str, codes: np.ndarray, scales: np.ndarray, scale: str, tc: TensorCoreAccumulator) -> Operand:
    """Return the operand of codes with these codes of scales."""
    fmt = get_format(
        f"nvfp4:block={tc.scale_block},levels=1" if scale == "fp8_e4m3" else f"mxfp4:block={tc.scale_block}"
    )
    assert isinstance(fmt, Block)
    encoded = replace(fmt, name=f"{name} with {scale}", element=get_format(name).element).from_packed
    row_bytes = -(-codes.shape[1] * get_format(name).element.bits // 8)
    operand = encoded(np.zeros((len(codes), row_bytes), np.uint8), scales, codes.shape).operand()
    units, unit_exponent, _ = get_format(name).element.units
    return replace(operand, units=units[codes].astype(np.float32), unit_exponent=unit_exponent)


def mmaemu_product(
    a: tuple[str, np.ndarray], b: tuple[str, np.ndarray], profile: str, fast: bool, split: Any
) -> np.ndarray:
    """Return what mmaemu's model of cuBLASLt gives for FP8 codes (M, K) and (N, K), before the scales."""
    import warnings

    import mmaemu

    left, right = (torch_tensor(name, codes) for name, codes in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its experimental presets warn
        accumulate: Any = mmaemu.accumulate
        return accumulate(left, right, use_fast_accum=fast, profile=profile, splitk=split).numpy()
