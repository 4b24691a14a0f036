"""The HTML report: complete, offline, escaped, the same every time."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from macloom.errors import MacloomError
from macloom.explore.report import SECTIONS, operations_table, render_report, write_report
from macloom.explore.result import DemoResult, dump_result, load_result
from macloom.explore.summary import headline, showcase, summary_table

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def html(result: DemoResult) -> str:
    return render_report(result)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_it_loads_nothing_and_runs_nothing(html: str, page: Page) -> None:
    names = Counter(tag for tag, _ in page.tags)
    assert not names.keys() & {"script", "link", "img", "iframe", "object", "embed"}
    for _, attributes in page.tags:
        assert not [a for a in attributes if a.startswith("on") or a == "src"]
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", html)


def test_ids_are_unique_and_every_link_leads_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"] for tag, a in page.tags if tag == "a"}
    assert links == {f"#{name}" for name, _ in SECTIONS}
    assert links <= {f"#{i}" for i in ids}


def test_every_cell_of_the_summary_is_there(result: DemoResult, page: Page) -> None:
    text = "".join(page.text)
    for sentence in headline(result):
        assert sentence in text
    for row in summary_table(result).rows:
        for cell in row:
            assert cell.shown in text
    for _, note in summary_table(result).notes:
        assert note in text


def test_the_pictures_are_there_with_their_labels(result: DemoResult, page: Page) -> None:
    labels = [a["aria-label"] or "" for tag, a in page.tags if tag == "svg"]
    assert [label.split(". ")[0] for label in labels] == [
        "tiny: accuracy against energy",
        "tiny-outlier: accuracy against energy",
        "tiny-outlier: activation",
        "opt-6.7b prefill: latency",
        "opt-6.7b prefill: energy",
        "opt-6.7b decode: latency",
        "opt-6.7b decode: energy",
        *(f"{a.name} running {showcase(result, a.name)[0].format}" for a in result.accelerators),
        *(
            f"{r.workload} {r.phase}, {r.format} on {r.accelerator}"
            for a in result.accelerators
            for r in showcase(result, a.name)
        ),
    ]


def test_constants_checks_hashes_and_versions_are_stated(result: DemoResult, html: str) -> None:
    for text in ("dram_hbm2", "a table", "published", "MAC/s at most the peak", result.text.sha256, "python 3.11"):
        assert text in html


def test_dark_light_and_print_are_styled(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert "var(--plot-ink" in html


def test_names_are_escaped(small_result: DemoResult) -> None:
    evil = '<script>alert("x")</script>&'

    def rename(value):
        return replace(value, **{k: evil for k in ("name", "format") if getattr(value, k, None) == "int4"})

    changed = replace(
        small_result,
        formats=tuple(map(rename, small_result.formats)),
        accuracy=tuple(map(rename, small_result.accuracy)),
        runs=tuple(map(rename, small_result.runs)),
        values=tuple(replace(v, strips=tuple(map(rename, v.strips))) for v in small_result.values),
        text=replace(small_result.text, name=evil),
    )
    html = render_report(changed)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    Page(html)


def test_records_document_and_file_give_the_same_page(small_result: DemoResult, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(dump_result(small_result))
    html = render_report(small_result)
    assert render_report(json.loads(dump_result(small_result))) == html
    path = write_report(load_result(tmp_path), tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == html
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_malformed_document_writes_nothing(small_result: DemoResult, tmp_path: Path) -> None:
    document = copy.deepcopy(small_result.to_dict())
    document["models"] = [{"name": "tiny"}]
    with pytest.raises(MacloomError, match=r"^result: models\[0\]\.sha256: field required"):
        write_report(document, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_result_without_runs_still_makes_a_page(small_result: DemoResult) -> None:
    page = Page(render_report(replace(small_result, runs=(), values=())))
    assert not [tag for tag, _ in page.tags if tag == "svg"]
    assert "none" in "".join(page.text)


def test_shares_of_the_operations_add_up(small_result: DemoResult) -> None:
    run = small_result.run("int4", "olive-sa", "opt-6.7b", "decode")
    assert run is not None
    table = operations_table(run)
    assert len(table.rows) == len(run.ops)
    for group in ("cycles", "energy"):
        share = next(i for i, c in enumerate(table.columns) if (c.group, c.title) == (group, "share"))
        assert sum(float(row[share].text) for row in table.rows) == pytest.approx(100, abs=0.3)
