"""benchmarks/tensorcore_bits.py where there is no GPU, and on a small folder of recorded outputs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from macloom.formats.tensor_core import get_preset
from macloom.formats.tensor_core.reference import block, chain

FILE = Path(__file__).parents[2] / "benchmarks" / "tensorcore_bits.py"


@pytest.fixture(scope="module")
def bits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorcore_bits", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so(bits: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert bits.main([]) == 0
    assert "no CUDA GPU here" in capsys.readouterr().out


def test_every_device_has_presets(bits: ModuleType) -> None:
    for device in (*bits.DEVICES.values(), *bits.RECORDED.values()):
        assert get_preset(f"{device}-fp16").takes[0].name == "fp16"


def test_recorded_outputs_are_compared(bits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    tc = get_preset("volta-fp16")
    a, b = (rng.standard_normal((6, 4)).astype(np.float16).astype(np.float32) for _ in range(2))
    c = rng.standard_normal(6).astype(np.float32)
    d = [block(tc, x.tolist(), y.tolist(), float(z), (-14, -14)) for x, y, z in zip(a, b, c, strict=True)]
    d[5] = 0.0  # one that must not be equal
    folder = tmp_path / "model_validation" / "V100" / "fp16"
    folder.mkdir(parents=True)
    for name, x in (("a_V100_fp16", a), ("b_V100_fp16", b)):
        (folder / f"{name}.txt").write_text(
            "".join(" ".join(f"{w:08x}" for w in row.view(np.uint32)) + "\n" for row in x)
        )
    for name, sums in (("c_V100_fp32", c), ("d_V100_fp32", np.array(d, np.float32))):
        (folder / f"{name}.txt").write_text("".join(f"{w:032b}\n" for w in sums.view(np.uint32)))
    assert bits.main(["--vectors", str(tmp_path)]) == 0
    assert "| tc:volta-fp16 | V100 fp16 to fp32 | 6 | 5 |" in capsys.readouterr().out


def test_late_sums_are_added_in_float32(bits: ModuleType) -> None:
    rng = np.random.default_rng(1)
    tc = get_preset("blackwell-fp8-sync")
    a, b = (np.float32(2) ** rng.integers(-6, 6, (4, 32)).astype(np.float32) for _ in range(2))
    c = rng.standard_normal(4).astype(np.float32)
    inner = np.array([chain(tc, x.tolist(), y.tolist(), (-6, -6)) for x, y in zip(a, b, strict=True)], np.float32)
    assert np.array_equal(bits._chains(tc, "fp8_e4m3", a, b, c), inner + c)
