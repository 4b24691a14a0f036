"""Where formats put values, against hand-made quantizers and the element's own values."""

from __future__ import annotations

import numpy as np
import pytest

from macloom.explore.pictures import Quantizer, value_picture
from macloom.formats import get_format


def _picture(x: np.ndarray, *quantizers: Quantizer):
    return value_picture(x, quantizers, model="m", tensor="x", role="activation")


def _heavy(n: int = 4096) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n // 64, 64)).astype(np.float32)
    x[:, 5] *= 40
    return x


def test_histogram_counts_every_magnitude_within_five_decades() -> None:
    x = _heavy()
    picture = _picture(x, Quantizer(label="int8", format=get_format("int8")))
    magnitude = np.abs(x.astype(np.float64))
    assert picture.elements == x.size
    assert sum(picture.counts) == np.count_nonzero(magnitude >= picture.edges[0])
    assert picture.edges[-1] >= magnitude.max()
    assert picture.edges[-1] / picture.edges[0] == pytest.approx(1e5, rel=1e-4)


def test_ticks_are_the_values_of_the_element_times_the_scale() -> None:
    x = _heavy()
    fmt = get_format("int4")
    strip = _picture(x, Quantizer(label="int4", format=fmt)).strips[0]
    used = np.unique(np.abs(fmt.quantize(x)))
    assert strip.distinct == np.count_nonzero(used)
    assert np.allclose(strip.magnitudes, used[used > 0], rtol=1e-5)


def test_zeroed_counts_what_the_format_lost() -> None:
    x = np.array([[0.0, 0.01, 0.02, 7.0]], np.float32)
    strip = _picture(x, Quantizer(label="int4", format=get_format("int4"))).strips[0]
    # The step is 1, so that both small values become zero; the zero itself was no loss.
    assert strip.zeroed == pytest.approx(2 / 3)


def test_the_calibrated_scale_and_the_clip_are_used() -> None:
    x = _heavy()
    fmt = get_format("int4")
    narrow = Quantizer(label="narrow", format=fmt, clip=0.1)
    fixed = Quantizer(label="fixed", format=fmt, scale=fmt.calibrate(x, 0.1))
    strips = _picture(x, narrow, fixed).strips
    assert strips[0].magnitudes == strips[1].magnitudes
    assert strips[0].magnitudes[-1] == pytest.approx(0.1 * np.abs(x).max(), rel=1e-5)


def test_ticks_that_no_plot_can_separate_are_thinned_but_counted() -> None:
    x = np.random.default_rng(1).standard_normal((64, 1024)).astype(np.float32)
    strip = _picture(x, Quantizer(label="fp16", format=get_format("fp16"))).strips[0]
    assert strip.distinct > 5000
    assert len(strip.magnitudes) <= 451
    assert list(strip.magnitudes) == sorted(strip.magnitudes)


def test_an_exact_format_has_no_noise() -> None:
    x = np.array([[1.0, -2.0, 3.0, 7.0]], np.float32)
    assert _picture(x, Quantizer(label="int4", format=get_format("int4"))).strips[0].sqnr_db is None


def test_a_tensor_of_zeros_has_an_empty_strip() -> None:
    picture = _picture(np.zeros((2, 8), np.float32), Quantizer(label="int4", format=get_format("int4")))
    strip = picture.strips[0]
    assert (strip.magnitudes, strip.distinct, strip.zeroed, strip.sqnr_db) == ((), 0, 0.0, None)
    assert sum(picture.counts) == 0
