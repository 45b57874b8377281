from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from captum_vit.evaluation import Result
from captum_vit.metrics import EnergyInside, PointMIoU, Segmentation

VALUES = {"a": [0.2, 0.4], "b": [0.9], "c": [None], "d": [0.1, 0.3, 0.5]}
"""Sample → the value of each of its maps."""


def records(method, shift=0.0):
    made = []
    for sample, values in VALUES.items():
        for number, value in enumerate(values):
            counts = {"total": 0.0 if value is None else value + shift, "images": int(value is not None)}
            state = counts | {"excluded": int(value is None)}
            scores = {"scores": {"energy": state}}
            record = {"sample": sample, "region": number, "label": 3, "target": 4, "method": method}
            record |= {"seconds": 0.001 * (number + 1), "bytes": 2_500_000 if method == "first" else None}
            made.append(record | ({"blank": "no"} if sample == "b" and method == "second" else scores))
    return made


@pytest.fixture
def result():
    skipped = [{"sample": "e", "skipped": "e.png is no whole image"}]
    return Result([*records("first"), *records("second", 0.1), *skipped], {"energy": EnergyInside()}, {"third": "why"})


def test_means_counts_and_times(result):
    first, second = result.table(resamples=10).to_dict("records")
    assert (first["method"], first["metric"]) == ("first", "energy")
    assert first["value"] == pytest.approx((0.2 + 0.4 + 0.9 + 0.1 + 0.3 + 0.5) / 6)
    assert (first["maps"], first["excluded"], first["blank"]) == (6, 1, 0)
    assert second["value"] == pytest.approx((0.3 + 0.5 + 0.2 + 0.4 + 0.6) / 5)
    assert (second["maps"], second["excluded"], second["blank"]) == (5, 1, 1)
    costs = result.costs().to_dict("records")
    assert (costs[0]["method"], costs[0]["maps"], costs[0]["milliseconds"]) == ("first", 7, pytest.approx(1.0))
    assert costs[0]["peak_mb"] == pytest.approx(2.5)
    assert np.isnan(costs[1]["peak_mb"])
    assert result.skipped == {"e": "e.png is no whole image"}


def test_the_interval_resamples_whole_samples(result):
    """A bootstrap in plain NumPy: samples are drawn, and bring all their maps."""
    row = result.table(resamples=4000, seed=1).to_dict("records")[0]
    generator, means = np.random.default_rng(5), []
    for _ in range(4000):
        drawn = [value for k in generator.integers(0, 4, 4) for value in VALUES["abcd"[k]] if value is not None]
        if drawn:
            means.append(np.mean(drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    assert result.table(seed=1).equals(result.table(seed=1))


def test_a_metric_with_several_numbers_has_a_row_for_each():
    metric = Segmentation.preset("legrad")
    states = []
    for k in range(3):
        metric.reset()
        maps = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(k))
        metric.update(maps, (torch.arange(36).view(1, 6, 6) % 3 == 0).long())
        states.append({name: value.tolist() for name, value in metric.metric_state.items()})
    made = [
        {"sample": f"{k}", "region": 0, "method": "m", "seconds": 0.0, "scores": {"s": state}}
        for k, state in enumerate(states)
    ]
    table = Result(made, {"s": Segmentation.preset("legrad")}, {}).table(resamples=50)
    metric.reset()
    for k in range(3):
        maps = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(k))
        metric.update(maps, (torch.arange(36).view(1, 6, 6) % 3 == 0).long())
    expected = {f"s {name}": float(value) for name, value in metric.compute().items()}
    assert dict(zip(table["metric"], table["value"], strict=True)) == pytest.approx(expected)
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_markdown_and_latex(result):
    lines = result.markdown(resamples=200).splitlines()
    assert lines[:2] == ["| method | energy | blank | without a value |", "| --- | --- | --- | --- |"]
    row = result.table(resamples=200).to_dict("records")[0]
    assert lines[2] == f"| first | 0.400 ± {(row['high'] - row['low']) / 2:.3f} | 0 | 1 |"
    assert lines[3].startswith("| second | 0.400 ± 0.")
    assert lines[3].endswith(" | 1 | 1 |")
    latex = result.latex(digits=2, resamples=10)
    assert r"\toprule" in latex
    assert "first & 0.40" in latex


def test_every_map_by_itself(result):
    maps = result.per_map()
    assert list(maps.columns) == ["sample", "region", "label", "target", "method", "blank", "energy"]
    first = maps[maps["method"] == "first"]
    np.testing.assert_array_equal(first["energy"], [0.2, 0.4, 0.9, np.nan, 0.1, 0.3, 0.5])
    assert maps[maps["blank"].notna()][["sample", "method", "blank"]].to_numpy().tolist() == [["b", "second", "no"]]


def test_a_metric_that_asked_about_no_map_has_no_number():
    made = [{"sample": "a", "region": 0, "method": "m", "seconds": 0.0, "scores": {}}]
    (row,) = Result(made, {"energy": EnergyInside()}, {}).table(resamples=5).to_dict("records")
    assert np.isnan([row["value"], row["low"], row["high"]]).all()
    assert row["maps"] == 0


def test_the_text_of_a_terminal_has_numbered_columns_and_where_good_is(result):
    row = result.table(resamples=200).to_dict("records")[0]
    half = (row["high"] - row["low"]) / 2
    lines = result.text(resamples=200).splitlines()
    assert lines[0].split() == ["method", "[1]"]
    assert lines[1].split() == ["first", "0.40", "±", f"{half:.2f}"]
    assert lines[-1] == "[1] energy ↑"


def test_one_sample_has_no_interval():
    made = [each for each in records("first") if each["sample"] == "d"]
    one = Result(made, {"energy": EnergyInside()}, {})
    (row,) = one.table(resamples=10).to_dict("records")
    assert row["value"] == pytest.approx(0.3)
    assert np.isnan([row["low"], row["high"]]).all()
    assert one.markdown(resamples=10).splitlines()[2] == "| first | 0.300 | 0 | 0 |"


def test_maps_of_the_predicted_class_are_counted(result):
    made = [{**each, "predicted": True} if each["sample"] == "a" else each for each in result.records]
    assert Result(made, {}, {}).predicted == 4
    assert result.predicted == 0


def test_states_of_many_classes_take_the_room_of_what_is_not_0():
    classes, images = 50_000, 400  # 160 MB a state, if it were held as it is
    made = []
    for number in range(images):
        state = {"shape": [classes], "at": [number * 100], "values": [3]}
        none = state | {"at": [], "values": []}
        states = {"hits": state, "false_alarms": state, "misses": none, "total": 0.5, "images": 1, "excluded": 0}
        record = {"sample": str(number), "region": 0, "label": 0, "target": 0, "method": "a", "seconds": 1.0}
        made.append(record | {"scores": {"points": states}})
    tracemalloc.start()
    table = Result(made, {"points": PointMIoU(classes)}, {}).table(resamples=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table["value"].tolist() == [0.5]  # 3 / (3 + 3) in each class that was asked about
    assert peak < 40e6
