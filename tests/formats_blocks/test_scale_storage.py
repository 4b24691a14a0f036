"""How scales are stored: float formats, powers of two, integers per row, double quantization."""

from __future__ import annotations

import math

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import DoubleQuantizedScale, IntegerScale, PowerOfTwoScale, get_format
from macloom.formats.elements.minifloat import FP16
from macloom.formats.scale_storage import dynamic_map
from macloom.formats.scales import E4M3, E8M0


def scales(*shape: int, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("name, element", [("e8m0", E8M0), ("e4m3", E4M3)])
def test_float_scales_are_the_nearest_value(name: str, element: object) -> None:
    fmt = get_format(f"int8:token,scale={name}")
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32) * 40
    values = element.values[np.isfinite(element.values) & (element.values > 0)]  # type: ignore[attr-defined]
    for wanted, got in zip(np.abs(x).max(axis=1) / np.float32(127), fmt.calibrate(x), strict=True):
        assert abs(got - wanted) == np.abs(values - wanted).min()
    assert fmt.storage_bits(x.shape) == 50 * 64 + 50 * 8


def test_powers_of_two_round_up() -> None:
    x = scales(1000) * np.float32(1e-3)
    x[:3] = [0.25, np.nextafter(np.float32(0.25), np.float32(1)), 2.0**-126]
    got = PowerOfTwoScale().store(x)
    for wanted, stored in zip(x.tolist(), got.tolist(), strict=True):
        assert stored == 2.0 ** math.log2(stored)
        assert stored / 2 < wanted <= stored
    fmt = get_format("int4:group=8,scale=pow2")
    data = np.random.default_rng(1).normal(size=(20, 16)).astype(np.float32)
    assert np.abs(fmt.encode(data).operand().units).max() <= 7
    assert np.abs(fmt.quantize(data) - data).max() <= fmt.calibrate(data).max() / 2  # nothing saturates
    assert fmt.storage_bits((20, 16)) == 20 * (64 + 2 * 8)


def test_integer_scales_are_a_row_scale_times_an_integer() -> None:
    storage = IntegerScale(width=4, row=FP16)
    given = scales(30, 8)
    codes, row = storage.encode(given)
    assert codes.min() >= 1
    assert np.all(codes.max(axis=1) == 15)
    assert np.array_equal(row.astype(np.float16), row)
    assert np.array_equal(storage.store(given), codes * row)
    inside = given / row < 15
    assert np.all((np.abs(storage.store(given) - given) <= row / 2 * (1 + 1e-6)) | ~inside | (codes == 1))
    assert storage.total_bits((30, 8)) == 30 * (8 * 4 + 16)
    assert get_format("int4:group=16,scale=int8").storage_bits((3, 64)) == 3 * (256 + 4 * 8 + 32)
    assert np.array_equal(storage.store(storage.store(given)), storage.store(given))


def test_the_dynamic_map_is_that_of_bitsandbytes() -> None:
    torch = pytest.importorskip("torch")
    values = [0.0, 1.0]
    for i in range(7):  # the rule of create_dynamic_map(signed=True), with torch's own arithmetic
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        means = (edges[:-1] + edges[1:]) / 2.0
        values += ((10 ** (-6 + i)) * means).tolist() + (-(10 ** (-6 + i)) * means).tolist()
    assert len(values) == 256 == len(np.unique(dynamic_map()))
    assert np.allclose(dynamic_map(), np.sort(np.array(values, np.float32)), rtol=3e-7, atol=0)
    assert dynamic_map()[-1] == 1
    assert dynamic_map()[0] == pytest.approx(-0.9929688, abs=1e-6)


def test_double_quantization_by_its_definition() -> None:
    storage = DoubleQuantizedScale()
    given = scales(5, 130)
    got = storage.store(given).reshape(-1)
    flat = given.reshape(-1)
    mean = np.float32(flat.astype(np.float64).mean())
    table = dynamic_map()
    for start in range(0, flat.size, 256):
        deviation = flat[start : start + 256] - mean
        largest = np.abs(deviation).max()
        for d, value in zip(deviation, got[start : start + 256], strict=True):
            nearest = table[np.argmin(np.abs(table.astype(np.float64) - float(d / largest)))]
            assert value == nearest * largest + mean
    # 650 codes, three blocks of 256, one mean.
    assert storage.total_bits((5, 130)) == 650 * 8 + 3 * 32 + 32
    assert np.abs(got - flat).max() < 0.02 * np.abs(flat - mean).max()


def test_double_quantized_groups_take_4_127_bits() -> None:
    fmt = get_format("int4:group=64,scale=dq")
    assert fmt.bits_per_element(4096) == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-5)
    x = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    assert np.array_equal(fmt.quantize(x), fmt.encode(x).decode())
    plain = get_format("int4:group=64,scale=fp32")
    assert np.square(fmt.quantize(x) - x).mean() < 1.05 * np.square(plain.quantize(x) - x).mean()


def test_a_group_of_zeros_stays_zero_in_every_storage() -> None:
    x = np.zeros((2, 64), np.float32)
    x[0, :16] = 3
    for name in ("int4", "int8", "dq", "pow2", "e8m0", "e4m3"):
        fmt = get_format(f"int4:group=16,scale={name}")
        q = fmt.quantize(x)
        assert np.all(q[x == 0] == 0), name
        assert np.array_equal(q, fmt.encode(x).decode())


def test_bad_storages_are_refused() -> None:
    with pytest.raises(MacloomError, match="unknown name 'fp17'; did you mean 'fp16'"):
        get_format("int4:scale=fp17")
    with pytest.raises(MacloomError, match="'dq' stores the scales of groups; name 'group=N', too"):
        get_format("int4:token,scale=dq")
    with pytest.raises(MacloomError, match="must be an integer from 2 to 8, not 9"):
        IntegerScale(width=9)
    with pytest.raises(MacloomError, match="needs several scales in a row"):
        IntegerScale(width=4).store(np.float32(1.0))  # type: ignore[arg-type]


def test_double_quantized_nf4_is_that_of_qlora() -> None:
    fmt = get_format("nf4:scale=dq")
    assert fmt.bits_per_element(4096) == pytest.approx(4.127, abs=5e-4)
    x = np.random.default_rng(2).normal(size=(16, 256)).astype(np.float32)
    absmax = np.abs(x.reshape(16, 4, 64)).max(axis=2)
    scale = fmt.calibrate(x)
    assert np.array_equal(scale, DoubleQuantizedScale().store(absmax))
    levels = fmt.element.values  # type: ignore[union-attr]
    spread = np.repeat(scale, 64, axis=1)
    nearest = np.abs(levels[:, None, None] - (x / spread).astype(np.float64)).argmin(axis=0)
    assert np.array_equal(fmt.encode(x).elements, nearest)
    assert np.array_equal(fmt.quantize(x), levels[nearest].astype(np.float32) * spread)
