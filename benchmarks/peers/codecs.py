"""Conversions by other libraries: each names the conversion of ours that it is set against."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

ROW = 4096
SMALL = 1 << 16  # elements for peers that take microseconds for each


@dataclass(frozen=True)
class Peer:
    """One conversion: its label, what is called on how many elements, and the line of ours it compares with."""

    name: str
    call: Callable[[], Any]
    elements: int
    ours: str | None = None


def part(x: np.ndarray, elements: int) -> np.ndarray:
    """Return a copy of the first rows, `elements` at most."""
    rows = max(1, min(x.size, elements) // x.shape[1])
    return x[:rows].copy()


def ml_dtypes_peers(module: Any, x: np.ndarray) -> Iterator[Peer]:
    pairs = (
        *(("float8_e4m3fn", "fp8_e4m3:none"), ("float8_e5m2", "fp8_e5m2:none"), ("float6_e3m2fn", "fp6_e3m2:none")),
        ("float4_e2m1fn", "fp4_e2m1:none"),
    )
    for name, ours in pairs:
        kind = getattr(module, name)
        coded = f"{ours} -> codes" if ours == "fp8_e4m3:none" else None
        yield Peer(f"ml_dtypes {name} -> codes", lambda k=kind: x.astype(k), x.size, coded)
        yield Peer(
            f"ml_dtypes {name} -> values", lambda k=kind: x.astype(k).astype(np.float32), x.size, f"{ours} -> values"
        )


def torch_peers(torch: Any, x: np.ndarray) -> Iterator[Peer]:
    torch.set_num_threads(1)
    tensor, target = torch.from_numpy(x), torch.empty(x.shape, dtype=torch.float32)
    for name, ours in (("float8_e4m3fn", "fp8_e4m3:none"), ("float8_e5m2", "fp8_e5m2:none"), ("bfloat16", "bf16")):
        kind = getattr(torch, name)
        coded = f"{ours} -> codes" if ours == "fp8_e4m3:none" else None
        yield Peer(f"torch {name} -> codes", lambda k=kind: tensor.to(k), x.size, coded)
        yield Peer(f"torch {name} -> values", lambda k=kind: target.copy_(tensor.to(k)), x.size, f"{ours} -> values")

    def dynamic() -> Any:
        scale = float(tensor.abs().max()) / 127
        return torch.fake_quantize_per_tensor_affine(tensor, scale, 0, -127, 127)

    yield Peer("torch fake_quantize int8 -> values, dynamic", dynamic, x.size, "int8 -> values, dynamic")
    grouped = tensor.reshape(-1, 128)
    scales, zeros = grouped.abs().amax(1) / 7, torch.zeros(len(grouped), dtype=torch.int32)
    yield Peer(
        "torch fake_quantize int4, 128 -> values",
        lambda: torch.fake_quantize_per_channel_affine(grouped, scales, zeros, 0, -7, 7),
        x.size,
        "int4:group=128 -> values",
    )


def gfloat_peers(gfloat: Any, x: np.ndarray) -> Iterator[Peer]:
    small = part(x, SMALL)
    catalog = importlib.import_module("gfloat.formats")
    for name, ours in (("ocp_e4m3", "fp8_e4m3:none"), ("ocp_e2m1", "fp4_e2m1:none")):
        info = getattr(catalog, f"format_info_{name}")
        yield Peer(
            f"gfloat {name} -> values", lambda i=info: gfloat.round_ndarray(i, small, sat=True), small.size,
            f"{ours} -> values",
        )  # fmt: skip


def torchao_peers(torchao: Any, x: np.ndarray) -> Iterator[Peer]:
    torch = importlib.import_module("torch")
    mx = importlib.import_module("torchao.prototype.mx_formats.mx_tensor").MXTensor
    nv = importlib.import_module("torchao.prototype.mx_formats.nvfp4_tensor")
    tensor = torch.from_numpy(x)
    for name, kind in (("mxfp8", torch.float8_e4m3fn), ("mxfp4", torch.float4_e2m1fn_x2)):
        yield Peer(
            f"torchao {name} -> packed codes and scales",
            lambda k=kind: mx.to_mx(tensor, k, 32),
            tensor.numel(),
            f"{name} -> packed codes and scales, dynamic",
        )
        yield Peer(
            f"torchao {name} -> values",
            lambda k=kind: mx.to_mx(tensor, k, 32).dequantize(torch.float32),
            tensor.numel(),
            f"{name} -> values, dynamic",
        )

    def two_level() -> Any:
        scale = nv.per_tensor_amax_to_scale(tensor.abs().max())
        return nv.NVFP4Tensor.to_nvfp4(tensor, per_tensor_scale=scale)

    ours = "nvfp4 -> packed codes and scales, dynamic"
    yield Peer("torchao nvfp4 -> packed codes and scales", two_level, tensor.numel(), ours)
    yield Peer(
        "torchao nvfp4 -> values",
        lambda: two_level().dequantize(torch.float32),
        tensor.numel(),
        "nvfp4 -> values, dynamic",
    )


def brevitas_peers(brevitas: Any, x: np.ndarray) -> Iterator[Peer]:
    torch = importlib.import_module("torch")
    layers = importlib.import_module("brevitas.nn")
    ocp = importlib.import_module("brevitas.quant.experimental.float_quant_ocp")
    mx = importlib.import_module("brevitas.quant.experimental.mx_quant_ocp")
    plain = importlib.import_module("brevitas.quant")
    e2m1 = {"weight_bit_width": 4, "weight_exponent_bit_width": 2, "weight_mantissa_bit_width": 1}
    tensor = torch.from_numpy(x)
    for name, quantizer, options, ours in (
        ("e4m3", ocp.Fp8e4m3OCPWeightPerTensorFloat, {}, "fp8_e4m3:none -> values"),
        ("int8", plain.Int8WeightPerTensorFloat, {}, "int8 -> values, dynamic"),
        ("mxfp8", mx.MXFloat8e4m3Weight, {}, "mxfp8 -> values, dynamic"),
        ("mxfp4", mx.MXFloat8e4m3Weight, e2m1, "mxfp4 -> values, dynamic"),
    ):
        layer = layers.QuantLinear(tensor.shape[1], len(tensor), bias=False, weight_quant=quantizer, **options)
        layer.eval()
        with torch.no_grad():
            layer.weight.copy_(tensor)

        def call(layer: Any = layer) -> Any:
            with torch.no_grad():
                return layer.quant_weight()

        yield Peer(f"brevitas {name} -> values", call, tensor.numel(), ours)


def softposit_peers(softposit: Any, x: np.ndarray) -> Iterator[Peer]:
    numbers = x.reshape(-1)[: SMALL // 8].tolist()
    convert, back = softposit.convertDoubleToP8, softposit.convertP8ToDouble
    yield Peer(
        "softposit posit8 (es 0) -> values",
        lambda: [back(convert(v)) for v in numbers],
        len(numbers),
        "posit8_0 -> values",
    )


PEERS: dict[str, Callable[[Any, np.ndarray], Iterator[Peer]]] = {
    "ml_dtypes": ml_dtypes_peers,
    "torch": torch_peers,
    "gfloat": gfloat_peers,
    "torchao": torchao_peers,
    "brevitas": brevitas_peers,
    "softposit": softposit_peers,
}


def peers_of(x: np.ndarray) -> tuple[list[Peer], list[str]]:
    """Return the conversions of every installed peer, and of each peer its version, or why it is missing."""
    cases, notes = [], []
    for name, build in PEERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(name)
                cases += build(module, x)
        except ImportError as error:
            notes.append(f"{name}: not installed, skipped ({error})")
        except (AttributeError, RuntimeError, TypeError) as error:
            notes.append(f"{name}: skipped, {type(error).__name__}: {error}")
        else:
            notes.append(f"{name} {getattr(module, '__version__', '')}".strip())
    return cases, notes
