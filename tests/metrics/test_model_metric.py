"""The classes over the functions that ask a model, all of them at once."""

import copy
import inspect
import pickle

import pytest
import torch
from perturbed import Linear, case, close

from captum_vit import metrics
from captum_vit.metrics import functional
from captum_vit.metrics.model_metric import CurveMetric

CASES = {
    "PositivePerturbation": (functional.positive_perturbation, {"fractions": (0, 0.2, 0.7), "measure": "probability"}),
    "NegativePerturbation": (functional.negative_perturbation, {"fractions": (0, 0.2, 0.7), "measure": "probability"}),
    "Insertion": (functional.insertion, {"steps": 3, "patch": (4, 2)}),
    "Deletion": (functional.deletion, {"steps": 3, "fill": "mean"}),
    "AverageDrop": (functional.average_drop, {"kind": "absolute"}),
    "AverageIncrease": (functional.average_increase, {"fill": 0.5}),
    "AOPC": (functional.aopc, {"steps": 4, "measure": "accuracy"}),
    "ABPC": (functional.abpc, {"steps": 4, "fill": 0.5}),
    "RoadMoRF": (functional.road, {"fractions": (0.3, 0.6), "seed": 2}),
    "RoadLeRF": (lambda *given, **options: functional.road(*given, order="lerf", **options), {"noise": 0.2}),
    "RoadCombined": (functional.road_combined, {"fractions": (0.3, 0.6), "patch": (2, 2)}),
    "SaCo": (functional.saco, {"groups": 4, "fill": 0.0}),
    "FaithfulnessCorrelation": (functional.faithfulness_correlation, {"patch": (4, 2), "subset": 3, "runs": 5}),
}
"""Class → its function, and options that are not the defaults."""


def test_every_class_of_these_files_is_tested_here():
    public = {name: getattr(metrics, name) for name in metrics.__all__}
    files = {f"captum_vit.metrics.{file}" for file in ("perturbation", "faithfulness", "road")}
    assert {name for name, value in public.items() if value.__module__ in files} == set(CASES)


def given():
    """Five images, two of whose maps rank nothing."""
    images, maps, targets = case(5)
    maps[1], maps[4, 0, 0] = 1, torch.nan
    return images, maps, targets


def values_of(name):
    function, options = CASES[name]
    result = function(Linear(probabilities=True), *given(), **options)
    return result if isinstance(result, torch.Tensor) else result.score


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_images_and_the_number_left_out(name):
    metric = getattr(metrics, name)(Linear(probabilities=True), **CASES[name][1])
    images, maps, targets = given()
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        metric.update(images[part], maps[part], targets[part])
    close(metric.compute(), values_of(name)[[0, 2, 3]].mean())
    assert (metric.images.item(), metric.excluded.item()) == (3, 2)
    metric.reset()
    metric.update(images[2:3], maps[2:3], targets[2:3])
    close(metric.compute(), values_of(name)[2])


@pytest.mark.parametrize("name", CASES)
def test_facts(name):
    kind = getattr(metrics, name)
    assert isinstance(kind.higher_is_better, bool)
    assert kind.needs == ("model",)
    low, high = kind.range
    values = values_of(name)
    assert ((values >= low) & (values <= high))[[0, 2, 3]].all()


@pytest.mark.parametrize("name", [name for name in CASES if issubclass(getattr(metrics, name), CurveMetric)])
def test_the_mean_curve(name):
    function, options = CASES[name]
    metric = getattr(metrics, name)(Linear(probabilities=True), **options)
    images, maps, targets = given()
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(images[part], maps[part], targets[part])
    expected = function(Linear(probabilities=True), images, maps, targets, **options).values[[0, 2, 3]].mean(0)
    close(metric.mean_curve(), expected)


@pytest.mark.parametrize("name", CASES)
def test_defaults_are_those_of_the_function(name):
    """Arguments of the class that its function has too, but for what the model sees at once."""
    function = functional.road if name == "RoadLeRF" else CASES[name][0]
    ours = inspect.signature(getattr(metrics, name)).parameters
    theirs = inspect.signature(function).parameters
    options = set(ours) - {"score", "kwargs"}
    assert options == set(theirs) - {"score", "images", "maps", "targets", "order"}
    assert {option: ours[option].default for option in options} == {
        option: theirs[option].default for option in options
    }


@pytest.mark.parametrize("name", ["Insertion", "Deletion", "AOPC", "ABPC", "SaCo", "RoadMoRF", "AverageDrop"])
def test_logits_are_refused_unless_they_are_asked_for(name):
    curve = name in ("Insertion", "Deletion", "AOPC", "ABPC")
    options = {"steps": 4} if curve else {}
    with pytest.raises(ValueError, match=r"score must return probabilities in \[0, 1\], got -?\d"):
        getattr(metrics, name)(Linear(), **options).update(*case(3))
    if curve:
        asked = getattr(metrics, name)(Linear(), measure="value", **options)
        asked.update(*case(3))
        assert asked.compute().isfinite()


@pytest.mark.parametrize("name", CASES)
def test_a_metric_goes_through_a_file_with_its_options_and_its_sums(name):
    metric = getattr(metrics, name)(functional.probabilities(Linear()), **CASES[name][1])
    metric.update(*given())
    again = pickle.loads(pickle.dumps(metric))
    for each in (metric, again):
        each.update(*given())
    close(again.compute(), metric.compute())
    assert repr(again) == repr(metric)
    for option, value in CASES[name][1].items():
        assert f"{option}={value!r}" in repr(metric)


def test_a_copy_shares_the_model():
    model = Linear()
    metric = metrics.Deletion(model, steps=2)
    assert copy.deepcopy(metric)._values.args[0] is model
    assert list(metric.modules()) == [metric]


def test_only_undefined_images_give_no_number():
    metric = metrics.Deletion(Linear(), measure="value", steps=2)
    images, maps, targets = case(2)
    metric.update(images, torch.ones_like(maps), targets)
    assert metric.compute().isnan()
    assert metric.mean_curve().isnan().all()
