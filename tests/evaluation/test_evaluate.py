from __future__ import annotations

import numpy as np
import pytest
import torch
from metric_cases import CHEAP
from torch.utils.data import Dataset

from captum_vit import AttentionRollout, BlankMapError, LeGrad, metrics
from captum_vit.data import DamagedSampleError, Geometry, Region, Sample, with_article
from captum_vit.evaluation import (
    MEASURES,
    ChangedConfigurationError,
    MissingAnnotationError,
    Store,
    evaluate,
    subject_of,
)
from captum_vit.evaluation.explainers import Explainer
from captum_vit.evaluation.specs import Spec
from captum_vit.evaluation.units import Asked, Batcher
from captum_vit.metrics.functional.probe import Probe
from captum_vit.zoo import load_model

METHODS = ["legrad", "attention-rollout", "random"]
NAMES = ["pointing-game(tolerance=4)", "energy-inside", "segmentation(preset='legrad')"]


class Listed(Dataset[Sample]):
    """Samples that are given, or errors in their place."""

    def __init__(self, samples, classes=()):
        self.samples, self.classes = samples, classes

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if isinstance(self.samples[index], Exception):
            raise self.samples[index]
        return self.samples[index]


def scores_of(result):
    """Every record without what it cost."""
    costs = ("seconds", "bytes")
    return [{name: value for name, value in record.items() if name not in costs} for record in result.records]


@pytest.fixture(scope="module")
def result(vit, scenes):
    return evaluate(vit, scenes, methods=METHODS, metrics=NAMES, progress=False)


def test_a_map_per_method_and_region_in_the_order_of_the_dataset(result, scenes):
    expected = [
        (f"scene-31-{k}", number, region.label, method)
        for k in range(12)
        for number, region in enumerate(scenes[k].regions)
        for method in METHODS
    ]
    keys = ("sample", "region", "label", "method")
    assert [tuple(record[key] for key in keys) for record in result.records] == expected


def test_the_numbers_are_those_of_the_metrics_in_one_pass(result, vit, scenes):
    """Maps by the method's class, masks and labels from the scenes themselves."""
    objects = [(scene, each) for scene in (scenes.scenes[k] for k in range(12)) for each in scene.objects]
    images = torch.stack([scene.image.float() / 127.5 - 1 for scene, _ in objects])
    masks = torch.stack([each.mask for _, each in objects])
    targets = torch.tensor([each.label for _, each in objects])
    table = result.table(resamples=2).set_index(["method", "metric"])
    for name, method in (("legrad", LeGrad), ("attention-rollout", AttentionRollout)):
        maps = method(vit.model).attribute(images, target=targets).sum(1)
        for metric, title in (
            (metrics.PointingGame(tolerance=4), "pointing-game(tolerance=4)"),
            (metrics.EnergyInside(), "energy-inside"),
        ):
            metric.update(maps, masks)
            assert table.loc[(name, title), "value"] == pytest.approx(float(metric.compute()), abs=1e-5)
            assert table.loc[(name, title), "maps"] == len(objects)
        segmentation = metrics.Segmentation.preset("legrad")
        segmentation.update(maps, masks)
        for key, value in segmentation.compute().items():
            found = table.loc[(name, f"segmentation(preset='legrad') {key}"), "value"]
            assert found == pytest.approx(float(value), abs=1e-4)


def test_every_metric_takes_part(vit, scenes):
    asked = [f"{name}({CHEAP[name]})" if name in CHEAP else name for name in MEASURES if name != "point-miou"]
    found = evaluate(vit, scenes, methods=["attention-rollout"], metrics=asked, limit=2, progress=False)
    (record, *_) = found.records
    assert set(record["scores"]) | {"prompt-pair-localisation"} == set(map(str, found.metrics))
    table = found.table(resamples=3)
    assert table["value"].notna().all()
    public = {each for each in metrics.__all__ if each[0].isupper()}
    taken = {kind.__name__ for kind, _ in MEASURES.values()}
    torchmetrics_classes = {each for each in public if hasattr(getattr(metrics, each), "higher_is_better")}
    assert taken == torchmetrics_classes


def test_probabilities_are_those_of_the_models_activation(vit, scenes):
    asked = ["deletion(steps=2, patch='grid')"]
    found = evaluate(vit, scenes, methods=["legrad"], metrics=asked, limit=1, progress=False)
    (state,) = found.records[0]["scores"].values()
    with torch.no_grad():
        expected = vit.model(vit.pixels(scenes[0])[None]).sigmoid()[0, scenes[0].regions[0].label]
    assert state["levels"][0] == pytest.approx(float(expected), abs=1e-5)


def test_batches_change_nothing_but_rounding(result, vit, scenes):
    other = evaluate(vit, scenes, methods=METHODS, metrics=NAMES, batch_size=3, workers=1, progress=False)
    both = [each.table(resamples=5).set_index(["method", "metric"])["value"] for each in (result, other)]
    np.testing.assert_allclose(both[1], both[0], atol=1e-4)
    random = [[record for record in scores_of(each) if record["method"] == "random"] for each in (result, other)]
    assert random[0] == random[1]


def test_a_run_goes_on_where_it_stopped(result, vit, scenes, tmp_path):
    options = {"methods": METHODS, "metrics": NAMES, "folder": tmp_path, "progress": False}
    first = Store(tmp_path)
    evaluate(vit, scenes, **options)
    (tmp_path / "results-00000.jsonl").write_text(
        "".join((tmp_path / "results-00000.jsonl").read_text("utf-8").splitlines(keepends=True)[:-5]), "utf-8"
    )
    assert list(first.units()) == [0]
    again = evaluate(vit, scenes, **options)
    assert scores_of(again) == scores_of(result)
    with pytest.raises(ChangedConfigurationError, match="holds results with seed 0, got 3"):
        evaluate(vit, scenes, seed=3, **options)


def test_what_maps_of_one_image_have_in_common_is_asked_once(vit, scenes, monkeypatch):
    asked, ask = [], Probe._ask
    monkeypatch.setattr(Probe, "_ask", lambda probe, *rest: asked.append(len(rest[2])) or ask(probe, *rest))
    objects = [len(scenes[k].regions) for k in range(3)]
    assert sum(objects) > 3
    for method, orders in (("raw-attention", 3), ("legrad", sum(objects))):  # one for all objects, and one for each
        asked.clear()
        options = {"metrics": ["deletion(steps=4, patch='grid')"], "limit": 3, "progress": False}
        evaluate(vit, scenes, methods=[method], **options)
        assert sum(asked) == 3 * 2 + 3 * orders  # the ends, and three steps of each order


def test_a_damaged_sample_is_listed_and_the_rest_goes_on(vit, scenes, tmp_path):
    samples = [scenes[0], DamagedSampleError("b", "b.png is no whole image"), scenes[1]]
    found = evaluate(
        vit, Listed(samples), methods=["random"], metrics=["energy-inside"], folder=tmp_path, progress=False
    )
    assert found.skipped == {"b": "b.png is no whole image"}
    assert {record["sample"] for record in found.records} == {"b", "scene-31-0", "scene-31-1"}
    assert Store(tmp_path).records() == list(found.records)


def test_blank_maps_are_counted(vit, scenes, monkeypatch):
    whole = AttentionRollout._relevance

    def sometimes_blank(self, images, targets):
        if (images[:, 0, 0, 0] == dark).any():
            raise BlankMapError("it is zero everywhere for image 0: no reason", [0])
        return whole(self, images, targets)

    dark = vit.pixels(scenes[1])[0, 0, 0]
    monkeypatch.setattr(AttentionRollout, "_relevance", sometimes_blank)
    found = evaluate(vit, scenes, methods=["attention-rollout"], metrics=["energy-inside"], limit=4, progress=False)
    blank = [record for record in found.records if "blank" in record]
    assert {record["sample"] for record in blank} == {"scene-31-1"}
    assert blank[0]["blank"] == "it is zero everywhere for image 0: no reason"
    (row,) = found.table(resamples=2).to_dict("records")
    assert (row["blank"], row["maps"]) == (len(blank), len(found.records) - len(blank))


def test_memory_that_does_not_suffice_halves_the_batch():
    sizes = []

    def maps(images, targets):
        sizes.append(len(images))
        if len(images) > 2 or len(sizes) > 7:
            raise torch.OutOfMemoryError("too many")
        return images.sum(1)

    asked = [Asked(f"{k}", 0, Region(), torch.full((3, 4, 4), float(k)), 0, [], 5, lambda: None) for k in range(9)]
    batcher = Batcher(8)
    hungry = {"hungry": Explainer(Spec("hungry"), maps)}
    found = list(batcher.maps(hungry, asked))
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    assert [(each.asked.sample, float(each.map.mean())) for each in found] == [(f"{k}", 3.0 * k) for k in range(9)]
    with pytest.raises(torch.OutOfMemoryError, match="too many"):
        list(batcher.maps(hungry, asked))
    assert batcher.batch_size == 1


def test_the_predicted_class_where_there_is_no_label(vit, scenes):
    bare = Sample("x", scenes[0].image, None, (Region(mask=scenes[0].regions[0].mask),))
    found = evaluate(vit, Listed([bare]), methods=["legrad"], metrics=["energy-inside"], progress=False)
    with torch.no_grad():
        predicted = int(vit.model(vit.pixels(scenes[0])[None]).argmax())
    assert [record["target"] for record in found.records] == [predicted]
    found = evaluate(
        vit, scenes, methods=["random"], metrics=["sparseness"], target="predicted", limit=1, progress=False
    )
    assert {record["target"] for record in found.records} == {predicted}


def test_a_method_that_cannot_is_left_out_with_its_reason(vit, scenes):
    methods = ["captum:layer-grad-cam(layer='norm')", "random"]  # gradients of tokens (B, N, D)
    found = evaluate(vit, scenes, methods=methods, metrics=["sparseness"], limit=1, progress=False)
    assert {record["method"] for record in found.records} == {"random"}
    assert "must give maps (B, C, h, w)" in found.unsupported[methods[0]]
    with pytest.raises(ValueError, match=r"methods must hold one that can explain scenes:vit\. captum:layer-grad-cam"):
        evaluate(vit, scenes, methods=methods[:1], metrics=["sparseness"], progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["pointing"]}, r"no metric is called 'pointing'\. Did you mean pointing-game"),
        (
            {"metrics": ["insertion(step=3)"]},
            r"those of Insertion \(measure, steps, fill, patch, batch_size\), got insertion\(step=3\)",
        ),
        ({"metrics": []}, "metrics must name at least one, got none"),
        ({"methods": []}, "methods must hold one that can explain scenes:vit. none was named"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"target": "best"}, "target must be 'label' or 'predicted', got 'best'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"precision": "int8"}, "precision must be 'float32', 'bfloat16' or 'float16', got 'int8'"),
    ],
)
def test_bad_arguments_are_refused(options, message, vit, scenes):
    with pytest.raises(ValueError, match=message):
        evaluate(vit, scenes, **{"methods": ["random"], "metrics": ["sparseness"], "progress": False} | options)


def test_what_the_dataset_does_not_know_is_an_error(vit, scenes):
    bare = Listed([Sample("x", scenes[0].image, None, (Region(label=99),))])
    with pytest.raises(MissingAnnotationError, match="energy-inside can't be measured: it needs masks"):
        evaluate(vit, bare, methods=["random"], metrics=["energy-inside"], target="predicted", progress=False)
    with pytest.raises(MissingAnnotationError, match="point-miou can't be measured: it needs points"):
        evaluate(vit, bare, methods=["random"], metrics=["point-miou"], target="predicted", progress=False)
    with pytest.raises(ValueError, match=r"label must be one of the model's 64 outputs, got 99"):
        evaluate(vit, bare, methods=["random"], metrics=["sparseness"], progress=False)


@pytest.mark.parametrize("metric", ["energy-inside", "point-miou", "positive-perturbation(against='label')"])
def test_what_the_first_sample_does_not_know_is_said_before_any_map_is_made(metric, vit, scenes, monkeypatch, capsys):
    def refused(*arguments, **options):
        raise AssertionError("a method was asked")

    monkeypatch.setattr(Explainer, "__call__", refused)
    bare = Listed([Sample("x", scenes[0].image, None, (Region(),)), scenes[1]])
    with pytest.raises(MissingAnnotationError, match=r"can't be measured: it needs (masks|points|labels), which"):
        evaluate(vit, bare, methods=["random"], metrics=["sparseness", metric])
    assert capsys.readouterr().err == ""


def test_a_first_sample_that_cannot_be_read_or_is_empty_says_nothing_of_the_others(vit, scenes):
    for first in (DamagedSampleError("x", "cut off"), Sample("x", scenes[0].image, None, ())):
        found = evaluate(vit, Listed([first, scenes[1]]), methods=["random"], metrics=["energy-inside"], progress=False)
        assert found.table(resamples=2)["maps"].tolist() == [len(scenes[1].regions)]


def test_prompts_are_the_classes_of_a_model_that_reads_texts(scenes):
    loaded = load_model("scenes:clip")
    with pytest.raises(ValueError, match="prompts must be given: scenes:clip compares images with texts, and got none"):
        subject_of(loaded)
    with pytest.raises(ValueError, match=r"geometry must have the size \(96, 96\) that the model takes, got \(9, 9\)"):
        subject_of(loaded, prompts=("a",), geometry=Geometry((9, 9)))
    subject = subject_of(loaded, prompts=tuple(with_article(each) for each in scenes.classes))
    asked = ["pointing-game(tolerance=4)", "model-randomisation"]
    found = evaluate(subject, scenes, methods=["legrad"], metrics=asked, limit=3, progress=False)
    pointing, randomised = found.table(resamples=2)["value"]
    assert pointing > 0.7
    assert randomised < 0.9


def test_lower_precision_gives_nearly_the_same(vit, scenes):
    options = {"methods": ["legrad"], "metrics": ["energy-inside"], "limit": 4, "progress": False}
    exact, rough = (evaluate(vit, scenes, precision=each, **options) for each in ("float32", "bfloat16"))
    values = [each.table(resamples=2)["value"][0] for each in (exact, rough)]
    assert values[0] != values[1]
    assert values[1] == pytest.approx(values[0], rel=0.05)
