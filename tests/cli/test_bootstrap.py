"""`macloom evaluate --bootstrap`: the intervals of the library, printed and in JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main
from macloom.workloads.bootstrap import bootstrap, documents_of_windows
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.lm.data import SEPARATOR, Text

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


def arguments(model: str, text: str, *more: str) -> tuple[str, ...]:
    return ("evaluate", model, "--recipe", "int4", "--text", text, "--windows", "6", "--context", "24", *more)


def test_intervals_are_those_of_the_library(model: str, text: str, run_json: RunJson, capsys: Capture) -> None:
    given = arguments(model, text, "--bootstrap", "200", "--confidence", "0.8", "--seed", "3")
    result = run_json(*given)
    accuracy = Evaluator(model, text, windows=6, context=24, seed=3).run("int4")
    assert accuracy.by_window is not None
    expected = bootstrap(accuracy.by_window, 200, confidence=0.8, seed=3).to_dict()
    assert result["bootstrap"] == expected
    assert result["bootstrap"]["intervals"]["kl_nats"]["value"] == pytest.approx(result["kl_nats"], rel=1e-5)
    assert main(given) == 0
    low, high = (expected["intervals"]["perplexity_ratio"][end] for end in ("low", "high"))
    shown = capsys.readouterr().out
    assert "intervals at 80 %   200 resamples of 6 windows, bca" in shown
    assert f"  ratio of both     {low:.4f} to {high:.4f}\n" in shown
    assert "bootstrap" not in run_json(*arguments(model, text))


def test_documents_are_drawn_whole(model: str, run_json: RunJson, tmp_path: Path) -> None:
    parts = [b"pack my box with five dozen jugs of it. " * n for n in (3, 5, 2)]
    path = tmp_path / "three.txt"
    path.write_bytes(SEPARATOR.join(parts))
    result = run_json(*arguments(model, str(path), "--bootstrap", "50", "--bootstrap-over", "document"))
    assert (result["bootstrap"]["over"], result["bootstrap"]["units"], result["windows"]) == ("document", 3, 6)


def test_windows_belong_to_the_document_in_which_they_begin() -> None:
    data = SEPARATOR.join(bytes([65 + i]) * n for i, n in enumerate((100, 7, 300, 55)))
    for length, count in ((10, 9), (33, 100), (40, 3)):
        windows = Text(name="t", data=data).windows(length, count)
        found = documents_of_windows(data, length, count, SEPARATOR)
        begun = [chr(65 + n) for n in found]
        assert len(found) == len(windows)
        first = [next(chr(b) for b in window if b not in SEPARATOR) for window in windows]
        assert [a for a, w in zip(begun, windows, strict=True) if w[0] not in SEPARATOR] == [
            b for b, w in zip(first, windows, strict=True) if w[0] not in SEPARATOR
        ]


def test_bad_input(model: str, text: str, fail: Fail) -> None:
    assert "argument --bootstrap: must be a positive integer, not '0'" in fail(
        *arguments(model, text, "--bootstrap", "0")
    )
    message = fail(*arguments(model, text, "--confidence", "0.9"))
    assert message == ("error: --confidence, --bootstrap-over: belong to --bootstrap; give the number of resamples")
    message = fail(*arguments(model, text, "--bootstrap", "9", "--bootstrap-over", "windows"))
    assert "--bootstrap-over: unknown name 'windows'; did you mean 'window'?" in message
    message = fail(*arguments(model, text, "--bootstrap", "9", "--confidence", "95"))
    assert "confidence: must be a number between 0 and 1, not 95.0" in message
