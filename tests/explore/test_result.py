"""result.json: nothing lost on the way to disk and back, and no foreign document accepted."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from macloom.errors import MacloomError
from macloom.explore.result import DemoResult, dump_result, load_result, parse_result


@pytest.fixture
def document(result: DemoResult) -> dict[str, Any]:
    return copy.deepcopy(json.loads(dump_result(result)))


def test_round_trip_is_exact(result: DemoResult, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(dump_result(result))
    assert load_result(tmp_path / "result.json") == result
    assert load_result(tmp_path) == result
    assert dump_result(load_result(tmp_path)) == dump_result(result)


def test_the_text_is_the_same_document_as_to_dict(result: DemoResult) -> None:
    assert json.loads(dump_result(result)) == json.loads(json.dumps(result.to_dict()))


def test_each_record_stands_on_its_own_line(result: DemoResult) -> None:
    lines = dump_result(result).splitlines()
    assert sum(line.strip().startswith('{"format": "int4", "model"') for line in lines) == 2
    assert sum(line.strip().startswith('{"name": "qkv_proj", "kind"') for line in lines) == len(result.runs)


def test_a_number_that_json_cannot_hold_is_refused(result: DemoResult) -> None:
    cell = replace(result.accuracy[0], perplexity=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_result(replace(result, accuracy=(cell,)))


def test_records_pass_through(result: DemoResult) -> None:
    assert parse_result(result) is result


def test_another_schema_is_refused(document: dict[str, Any]) -> None:
    document["schema"] = "something-else"
    with pytest.raises(
        MacloomError, match=r"^result: schema must be 'macloom-demo-1', not 'something-else'; write it again"
    ):
        parse_result(document)


def test_a_missing_key_is_named(document: dict[str, Any]) -> None:
    del document["runs"][3]["cycles"]
    with pytest.raises(MacloomError, match=r"^result: runs\[3\]\.cycles: field required$"):
        parse_result(document)


def test_an_unknown_key_is_named(document: dict[str, Any]) -> None:
    document["text"]["colour"] = "blue"
    with pytest.raises(MacloomError, match=r"^result: text\.colour: "):
        parse_result(document)


def test_a_value_of_the_wrong_kind_is_named(document: dict[str, Any]) -> None:
    document["accuracy"][0]["perplexity"] = "high"
    document["accuracy"][1]["perplexity"] = "low"
    with pytest.raises(MacloomError, match=r"^result: accuracy\[0\]\.perplexity: .*number.* \(1 more\)$"):
        parse_result(document)


def test_a_name_that_is_not_in_the_result_is_refused(document: dict[str, Any]) -> None:
    document["accuracy"][2]["model"] = "huge"
    with pytest.raises(MacloomError, match=r"^result: accuracy\[2\]\.model: 'huge' is not one of the result's models$"):
        parse_result(document)


def test_an_empty_list_is_refused(document: dict[str, Any]) -> None:
    document |= {"formats": [], "accuracy": [], "runs": [], "unsupported": [], "values": []}
    with pytest.raises(MacloomError, match=r"^result: formats: must hold at least one entry$"):
        parse_result(document)


def test_something_else_than_an_object_is_refused() -> None:
    with pytest.raises(MacloomError, match=r"^result: must be an object written by macloom demo, not list$"):
        parse_result([])  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_not_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(MacloomError, match=r"^r\.json: must be JSON; "):
        load_result(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MacloomError, match=r"^result: no such file .*none\.json'; macloom demo writes"):
        load_result(tmp_path / "none.json")
