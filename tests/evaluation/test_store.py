from __future__ import annotations

import json
import re

import pytest

from captum_vit.evaluation.store import ChangedConfigurationError, DamagedResultsError, Store


def record(sample, value):
    return {"sample": sample, "scores": {"m": {"total": value}}}


def test_units_come_back_in_the_order_of_the_dataset_whoever_wrote_them(tmp_path):
    store = Store(tmp_path / "new" / "folder")
    store.append(1, 1, [record("c", 3.0)])
    store.append(0, 0, [record("a", 1.0), record("b", 2.0)])
    store.append(0, 2, [])
    assert Store(tmp_path / "new" / "folder").records() == [record("a", 1.0), record("b", 2.0), record("c", 3.0)]
    assert set(store.units()) == {0, 1, 2}


def test_what_json_cannot_say_is_none(tmp_path):
    store = Store(tmp_path)
    values = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": float("-inf")}, "sample": "ü", "f": 2}
    store.append(0, 0, [values])
    assert store.records() == [{"a": None, "b": [None, 1.5], "c": {"d": None}, "sample": "ü", "f": 2}]


@pytest.mark.parametrize("length", range(1, 200, 7))
def test_a_run_that_was_killed_while_it_wrote_counts_nothing_half_and_nothing_twice(tmp_path, length):
    store = Store(tmp_path)
    store.append(0, 0, [record("a", 1.0), record("b", 2.0)])
    whole = (tmp_path / "results-00000.jsonl").read_bytes()
    store.append(0, 1, [record("c", 3.0), record("d", 4.0)])
    second = (tmp_path / "results-00000.jsonl").read_bytes()[len(whole) :]
    (tmp_path / "results-00000.jsonl").write_bytes(whole + second[:length])
    found = Store(tmp_path).units()
    complete = [record("c", 3.0), record("d", 4.0)]
    assert found == ({0: found[0], 1: complete} if length >= len(second) - 1 else {0: found[0]})
    store.append(0, 1, complete)  # the next run does the unit again
    assert Store(tmp_path).records() == [record("a", 1.0), record("b", 2.0), *complete]


@pytest.mark.parametrize(
    "line",
    [
        '{"sample": "b", "scores": {}}',
        '{"unit": "1", "sample": "b"}',
        '{"unit": 1}',
        '{"unit": 1, "whole": null}',
        "[1, 2]",
        "<html>",
    ],
)
def test_a_line_of_something_else_is_named(tmp_path, line):
    store = Store(tmp_path)
    store.append(3, 0, [record("a", 1.0)])
    with (tmp_path / "results-00003.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    store.append(3, 1, [record("b", 1.0)])
    where, what = (
        r"results-00003\.jsonl, line 3, must be a record of captum-vit evaluate, ",
        re.escape(f"got {line!r}. "),
    )
    with pytest.raises(DamagedResultsError, match=f"{where}.*{what}Take the line away"):
        store.units()


def test_a_long_line_is_shown_by_its_beginning(tmp_path):
    (tmp_path / "results-00000.jsonl").write_text("x" * 61)
    with pytest.raises(DamagedResultsError, match=rf"line 1, .*, got '{'x' * 60}\.\.\.'"):
        Store(tmp_path).units()


@pytest.mark.parametrize("text", ["", "[]", '{"config": {}}', "{"])
def test_a_configuration_of_something_else_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DamagedResultsError, match=r"config\.json must be the JSON object with config and about"):
        Store(tmp_path).configure({}, {})


def test_a_folder_keeps_one_configuration(tmp_path):
    store = Store(tmp_path)
    store.configure({"metrics": ["a", "b"], "samples": 4}, {"device": "cpu"})
    store.configure({"samples": 4, "metrics": ("a", "b")}, {"device": "cuda"})
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["about"] == {"device": "cpu"}
    with pytest.raises(ChangedConfigurationError, match=r"holds results with samples 4, got 5\. Choose another folder"):
        store.configure({"metrics": ["a", "b"], "samples": 5}, {})
    with pytest.raises(ChangedConfigurationError, match=r"holds results with seed None, got 1\."):
        store.configure({"metrics": ["a", "b"], "samples": 4, "seed": 1}, {})
    assert store.config == {"metrics": ["a", "b"], "samples": 4}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file")
