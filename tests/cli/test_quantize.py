"""`macloom quantize`: the error it measures, the file it writes, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import macloom
from macloom.cli import main

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


def save(path: Path, array: object) -> str:
    np.save(path, np.asarray(array))
    return str(path)


def test_quantize_measures_the_error(capsys: Capture, tmp_path: Path, run_json: RunJson) -> None:
    x = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32)
    file = save(tmp_path / "x.npy", x)
    shown = run_json("quantize", file, "--format", "int4:group=128", "--seed", "3")
    fmt = macloom.get_format("int4:group=128")
    noise = np.float64(fmt.quantize(x)) - np.float64(x)
    assert shown["mse"] == pytest.approx(np.mean(noise**2), rel=1e-12)
    assert shown["sqnr_db"] == pytest.approx(10 * np.log10(np.mean(np.float64(x) ** 2) / np.mean(noise**2)), rel=1e-12)
    assert shown["max_error"] == np.abs(noise).max()
    assert shown["bits_per_element"] == fmt.storage_bits(x.shape) / x.size
    assert shown["seed"] == 3
    assert main(["quantize", file, "--format", "int4:group=128"]) == 0
    assert f"SQNR              {shown['sqnr_db']:.2f} dB\n" in capsys.readouterr().out


def test_quantize_writes_the_values(capsys: Capture, tmp_path: Path) -> None:
    x = np.arange(-64, 64, dtype=np.float64).reshape(2, 64) / 7
    out = tmp_path / "new" / "q.npy"
    assert main(["quantize", save(tmp_path / "x.npy", x), "--format", "ovp4", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"wrote {out}\n"
    written = np.load(out)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, macloom.get_format("ovp4").quantize(x.astype(np.float32)))


def test_quiet_writes_no_notes(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "q.npy"
    assert main(["-q", "quantize", save(tmp_path / "x.npy", [1.0]), "--format", "int8", "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    assert out.is_file()


@pytest.mark.parametrize("array", [np.zeros((4, 8)), np.float32(3), [0.0], np.arange(6)])
def test_quantize_zeros_scalars_and_integers(capsys: Capture, tmp_path: Path, array: object) -> None:
    assert main(["quantize", save(tmp_path / "x.npy", array), "--format", "fp32"]) == 0
    assert "SQNR              exact\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1, np.nan], np.float32), "nan"),
        (np.array([1, np.inf], np.float32), "inf"),
        (np.zeros((0, 4), np.float32), "must hold at least one element, not shape (0, 4)"),
        (np.array(["a"]), "must hold real numbers, not <U1"),
        (np.array([1j]), "must hold real numbers, not complex128"),
        (np.array([1e39]), "must fit in float32, whose largest value is 3.40282e+38"),
    ],
)
def test_quantize_refuses_tensor(tmp_path: Path, array: np.ndarray, message: str, fail: Fail) -> None:
    out = tmp_path / "q.npy"
    file = save(tmp_path / "x.npy", array)
    assert message in fail("quantize", file, "--format", "int4", "--out", str(out)).lower().replace("<u1", "<U1")
    assert not out.exists()


def test_quantize_refuses_files(tmp_path: Path, fail: Fail) -> None:
    whole = tmp_path / "x.npy"
    save(whole, np.arange(100.0))
    (tmp_path / "half.npy").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_text("1 2 3")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.zeros(3))
    for name in ("half.npy", "empty.npy", "text.npy", "object.npy"):
        message = fail("quantize", str(tmp_path / name), "--format", "int4")
        assert f"{name}: must be a whole .npy file of numbers; " in message
    assert "must hold one array" in fail("quantize", str(tmp_path / "many.npz"), "--format", "int4")
    assert "No such file or directory" in fail("quantize", str(tmp_path / "none.npy"), "--format", "int4")
    assert "did you mean 'int4'" in fail("quantize", str(whole), "--format", "int44")
