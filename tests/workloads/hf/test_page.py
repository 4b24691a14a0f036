"""The example of the page on language models runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")


def test_the_example_of_your_own_model_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "language-models.md").read_text(encoding="utf-8")
    section = page.split("## Your own model", 1)[1].split("\n## ", 1)[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "language-models.md", "exec"), {})
    perplexities, sqnr = capsys.readouterr().out.splitlines()[-2:]
    assert 200 < float(perplexities.split()[0]) < 500  # random weights: about as good as guessing one of 300
    assert 0 < float(sqnr) < 60
