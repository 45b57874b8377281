"""The division of an evaluation among processes, and what a folder remembers of it."""

from __future__ import annotations

import pytest

from captum_vit.evaluation import DamagedResultsError, Store, evaluate
from captum_vit.evaluation.work import configuration, work_in

OPTIONS = {"length": 7, "size": 2, "device": "cpu"}


def two_processes(monkeypatch, rank):
    monkeypatch.setattr("captum_vit.evaluation.work.joined", lambda: (rank, 2))


def test_processes_share_what_is_left(tmp_path, monkeypatch):
    Store(tmp_path).append(5, 1, [{"sample": "c"}, {"sample": "d"}])
    shares = []
    for rank in (0, 1):
        two_processes(monkeypatch, rank)
        with work_in(tmp_path, {}, **OPTIONS) as work:
            shares.append(work.mine)
            assert work.left == [0, 2, 3]
            assert work.units.indices(3) == range(6, 7)
    assert shares == [[0, 3], [2]]


def test_a_unit_is_left_where_it_lacks_one_kind_of_record(tmp_path):
    store = Store(tmp_path)
    for unit in (0, 1):
        store.append(0, unit, [{"sample": "a"}])
    store.append(0, 1, [], "maps")
    with work_in(tmp_path, {}, kinds=("results", "maps"), **OPTIONS) as work:
        assert work.left == [0, 2, 3]
        assert work.done == {"results": {0, 1}, "maps": {1}}


def test_the_units_of_the_first_run_are_kept(tmp_path):
    for size in (2, 5):
        with work_in(tmp_path, {"model": "m"}, **OPTIONS | {"size": size}, about={"outputs": None}) as work:
            assert work.units.size == 2
    assert work.store.about | {"commit": ""} == {
        "device": "cpu",
        "processes": 1,
        "commit": "",
        "unit": 2,
        "outputs": None,
    }


def test_without_a_folder_nothing_is_kept_and_several_processes_need_one(monkeypatch):
    with work_in(None, {}, **OPTIONS) as work:
        work.append(0, [{"sample": "a"}])
        assert work.records() == [{"sample": "a"}]
    assert not work.store.folder.exists()
    two_processes(monkeypatch, 0)
    with (
        pytest.raises(ValueError, match="folder must be given where several processes share the work, got None"),
        work_in(None, {}, **OPTIONS),
    ):
        pass


def test_the_bar_counts_the_work_of_all_processes_in_the_first(tmp_path, monkeypatch, capsys):
    Store(tmp_path).append(0, 0, [{"sample": "a"}, {"sample": "b"}])
    for rank, shown in ((0, "7/7"), (1, "")):
        two_processes(monkeypatch, rank)
        with work_in(tmp_path, {}, **OPTIONS) as work, work.bar(True) as unit_is_done:
            for _ in work.mine:
                unit_is_done()
        error = capsys.readouterr().err
        assert shown in error if shown else error == ""


def test_what_an_evaluation_says_of_itself_stands_in_the_place_of_what_is_found(vit, scenes):
    config = configuration(vit, scenes, 3, dataset="mine", seed=1)
    assert (config["dataset"], config["samples"], config["seed"]) == ("mine", 3, 1)
    assert config["versions"]["torch"]


def test_a_foreign_line_stops_an_evaluation_before_any_map_is_made(vit, scenes, tmp_path, monkeypatch):
    options = {"methods": ["random"], "metrics": ["sparseness"], "folder": tmp_path, "limit": 9, "progress": False}
    evaluate(vit, scenes, **options)
    with (tmp_path / "results-00000.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"sample": "x"}\n')
    monkeypatch.setattr("captum_vit.evaluation.runner.scored", lambda *arguments: pytest.fail("a map was made"))
    lines = len((tmp_path / "results-00000.jsonl").read_text("utf-8").splitlines())
    with pytest.raises(
        DamagedResultsError, match=rf"results-00000\.jsonl, line {lines}, must be a record of captum-vit"
    ):
        evaluate(vit, scenes, **options)
