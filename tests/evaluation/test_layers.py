"""Layer distributions: against the paper's text in plain equations, and on the models of every pooling."""

from __future__ import annotations

import csv
import dataclasses

import models
import numpy as np
import pytest
import torch
from oracle import gradients, plain_pass
from torch.utils.data import Dataset

from captum_vit import LeGrad, adapt
from captum_vit.data import DamagedSampleError, Geometry, Region, Sample, Scenes, SceneSamples, with_article
from captum_vit.evaluation import (
    ChangedConfigurationError,
    LayerDistribution,
    MissingAnnotationError,
    Subject,
    evaluate,
    layer_distribution,
    layers,
    subject_of,
)
from captum_vit.evaluation import write_layers as write
from captum_vit.zoo import load_model

found = layers._found


class Listed(Dataset[Sample]):
    """Samples that are given, or errors in their place; classes without names."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if isinstance(self.samples[index], Exception):
            raise self.samples[index]
        return self.samples[index]


def upsampled(values, size):
    """Bilinear with half-pixel centres, as two sums over neighbours, (H, W)."""

    def weights(length, resized):
        made = np.zeros((resized, length))
        for pixel in range(resized):
            place = min(max((pixel + 0.5) * length / resized - 0.5, 0), length - 1)
            first = int(place)
            made[pixel, first] += 1 - (place - first)
            made[pixel, min(first + 1, length - 1)] += place - first
        return made

    return weights(values.shape[0], size) @ values @ weights(values.shape[1], size).T


def blocks_of_one_map(vit, image, label, mask):
    """Equation 7 for every block, upsampled, and its mean over the pixels of a mask: one value per block."""
    plain, means = plain_pass(vit, image[None]), []
    for tokens, attention in zip(plain.tokens, plain.attentions, strict=True):
        (gradient,) = gradients(vit.head(vit.norm(tokens[0].mean(0)))[label], [attention])
        relevance = gradient[0].clamp(min=0).mean((0, 1))[1:].view(12, 12).double().numpy()
        full, inside = upsampled(relevance, 96), []
        for row, column in mask.nonzero().tolist():
            inside.append(full[row, column])
        means.append(sum(inside) / len(inside))
    return means


@pytest.fixture(scope="module")
def oracle(vit, scenes):
    """Ids, labels and blocks of all maps of the first four scenes."""
    rows = []
    for k in range(4):
        scene = scenes.scenes[k]
        image = scene.image.float() / 127.5 - 1
        for each in scene.objects:
            rows.append((scene.index, each.label, blocks_of_one_map(vit.model.model, image, each.label, each.mask)))
    return rows


@pytest.fixture(scope="module")
def four(vit, scenes):
    return layer_distribution(vit, scenes, limit=4, batch_size=3, progress=False)


def scaled(values):
    return [(value - min(values)) / (max(values) - min(values)) for value in values]


def averaged(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def test_every_map_is_the_papers(four, oracle):
    assert [int(name.removeprefix("scene-31-")) for name in four.samples] == [index for index, _, _ in oracle]
    assert four.labels == [label for _, label, _ in oracle]
    expected = torch.tensor([values for _, _, values in oracle], dtype=torch.float64)
    assert four.relevance.shape == expected.shape == (len(oracle), 6)
    # the model runs in float32
    torch.testing.assert_close(four.relevance / expected.max(), expected / expected.max(), rtol=0, atol=1e-5)


def test_min_max_of_every_map_then_the_average(four, oracle, scenes):
    curves = four.curves(resamples=2)
    assert curves["all"][0] == pytest.approx(averaged([scaled(values) for _, _, values in oracle]), abs=1e-4)
    for label in {label for _, label, _ in oracle}:
        of_class = [scaled(values) for _, each, values in oracle if each == label]
        assert curves[scenes.classes[label]][0] == pytest.approx(averaged(of_class), abs=1e-4)
    assert list(curves) == ["all", *(scenes.classes[label] for label in sorted({label for _, label, _ in oracle}))]


def test_the_average_then_its_min_max(four, vit, scenes, oracle):
    other = layer_distribution(vit, scenes, limit=4, normalise="mean", progress=False)
    value = other.curves(resamples=2)["all"][0]
    assert value == pytest.approx(scaled(averaged([values for _, _, values in oracle])), abs=1e-4)
    assert (value.min(), value.max()) == (0, 1)
    assert np.abs(value - four.curves(resamples=2)["all"][0]).max() > 0.01  # the two are different numbers
    again = dataclasses.replace(four, normalise="mean").curves(resamples=9)["all"]
    np.testing.assert_allclose(again, other.curves(resamples=9)["all"], atol=1e-4)


@pytest.mark.parametrize("fault", ["the mask's complement", "the next target", "the block before"])
def test_a_planted_fault_is_caught(fault, four, vit, scenes, oracle):
    expected = torch.tensor([values for _, _, values in oracle], dtype=torch.float64)
    sample = vit.geometry(scenes[0])
    (region, *_) = sample.regions
    label, mask = region.label, region.mask
    if fault == "the mask's complement":
        mask = 1 - mask
    if fault == "the next target":
        label = (label + 1) % 64
    faulty = layer_distribution(
        vit, Listed([Sample("x", sample.image, None, (Region(label, mask=mask),))]), progress=False
    )
    found = faulty.relevance.roll(1, 1) if fault == "the block before" else faulty.relevance
    assert ((found[0] - expected[0]).abs() > 1e-3 * expected.max()).any()


def made(values, samples, labels=None, **options):
    """A distribution of given numbers."""
    labels = [None] * len(samples) if labels is None else labels
    given = {"classes": ("cat", "dog"), "normalise": "image", "missing": {}, "skipped": {}} | options
    return LayerDistribution("m", torch.tensor(values, dtype=torch.float64), samples, labels, **given)


@pytest.mark.parametrize("normalise", ["image", "mean"])
def test_maps_that_live_in_one_block(normalise):
    found = made([[0, 3, 0], [0, 5, 0]], ["a", "b"], normalise=normalise).curves()["all"]
    assert found.tolist() == [[0, 1, 0]] * 3


def test_what_min_max_before_and_after_means():
    values = [[0, 10, 20], [0, 2, 1]]
    assert made(values, ["a", "b"]).curves()["all"][0].tolist() == [0, 0.75, 0.75]
    after = made(values, ["a", "b"], normalise="mean").curves()["all"][0]
    assert after.tolist() == pytest.approx([0, 12 / 21, 1])


@pytest.mark.parametrize("normalise", ["image", "mean"])
def test_the_interval_resamples_whole_images(normalise):
    """A bootstrap in plain NumPy: images are drawn, and bring all their maps."""
    generator = np.random.default_rng(3)
    values, samples = generator.uniform(size=(9, 3)), list("aaabbcddd")
    curve = made(values, samples, normalise=normalise).curves(resamples=4000)["all"]
    draws = []
    for _ in range(4000):
        rows = [values[k] for each in generator.integers(0, 4, 4) for k in range(9) if samples[k] == "abcd"[each]]
        draws.append(averaged([scaled(row) for row in rows]) if normalise == "image" else scaled(averaged(rows)))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(curve[1:], [low, high], atol=0.03)
    assert (curve[1] <= curve[0]).all()
    assert (curve[0] <= curve[2]).all()
    np.testing.assert_array_equal(
        made(values, samples).curves(seed=1)["all"], made(values, samples).curves(seed=1)["all"]
    )


def test_maps_alike_in_all_blocks_have_no_min_max():
    found = made([[0, 1], [2, 2], [3, 3]], ["a", "b", "c"], [0, 0, 1], missing={"blank": 4, "empty mask": 0})
    assert found.maps == {"all": 1, "cat": 1}
    assert found.left_out == {"blank": 4, "empty mask": 0, "alike in all blocks": 2}
    after = dataclasses.replace(found, normalise="mean")
    assert after.maps == {"all": 3, "cat": 2, "dog": 1}
    assert after.left_out["alike in all blocks"] == 0
    assert np.isnan(after.curves()["dog"]).all()


def test_classes_of_one_name_are_kept_apart():
    found = made([[0, 1], [1, 0], [0, 2], [5, 1]], list("abcd"), [2, 0, 1, None], classes=("crane", "all", "crane"))
    assert found.maps == {"all": 4, "crane": 1, "all (1)": 1, "crane (2)": 1}
    assert [curve[0].tolist() for curve in found.curves().values()] == [[0.5, 0.5], [1, 0], [0, 1], [0, 1]]


def test_an_image_alone_has_no_interval():
    curve = made([[0, 1], [1, 4]], ["a", "a"]).curves()["all"]
    assert curve[0].tolist() == [0, 1]
    assert np.isnan(curve[1:]).all()


def test_the_table_and_markdown():
    found = made([[0, 1], [1, 0], [0, 4]], ["a", "b", "c"], [1, 1, 2], skipped={"d": "no whole image"})
    table = found.table(resamples=200, seed=2)
    assert list(table) == ["class", "block", "value", "low", "high", "maps"]
    rows = table[["class", "block", "value", "maps"]].values.tolist()
    assert rows[:4] == [["all", 0, 1 / 3, 3], ["all", 1, 2 / 3, 3], ["dog", 0, 0.5, 2], ["dog", 1, 0.5, 2]]
    assert rows[4:] == [["2", 0, 0.0, 1], ["2", 1, 1.0, 1]]
    lines = found.markdown(resamples=200, seed=2).splitlines()
    half = (table["high"] - table["low"])[0] / 2
    assert lines[0] == "| class | block 0 | block 1 | maps |"
    assert lines[2:5] == [
        f"| all | 0.33 ± {half:.2f} | 0.67 ± {half:.2f} | 3 |",
        "| dog | 0.50 | 0.50 | 2 |",
        "| 2 | 0.00 | 1.00 | 1 |",
    ]
    assert lines[-1].endswith("of every map, then averaged. Regions left out: none. Samples skipped: 1.")


def test_files_for_the_command(four, tmp_path):
    write(tmp_path / "new", four)
    with (tmp_path / "new" / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = four.table()
    assert [row["class"] for row in rows] == list(table["class"])
    assert [float(row["value"]) for row in rows] == pytest.approx(list(table["value"]))
    assert (tmp_path / "new" / "layers.md").read_text("utf-8") == four.markdown() + "\n"
    assert (tmp_path / "new" / "layers.png").read_bytes().startswith(b"\x89PNG")
    write(tmp_path, made([[0, 1]], ["a"]))  # no class, no interval
    assert {each.name for each in tmp_path.glob("layers.*")} == {"layers.csv", "layers.md", "layers.png"}


def test_what_has_no_map_is_counted_and_the_rest_goes_on(vit, scenes, monkeypatch):
    whole, dark = LeGrad._per_block, vit.pixels(scenes[1])[0, 0, 0]

    def one_block_blank(self, images, targets):
        maps = whole(self, images, targets)
        maps[images[:, 0, 0, 0] == dark, :, 2] = 0
        return maps

    monkeypatch.setattr(LeGrad, "_per_block", one_block_blank)
    nothing = torch.zeros(96, 96, dtype=torch.long)
    empty = Sample("e", scenes[0].image, None, (Region(3, mask=nothing), Region(4, mask=nothing - 1)))
    samples = [scenes[0], DamagedSampleError("b", "b.png is no whole image"), scenes[1], empty]
    found = layer_distribution(vit, Listed(samples), progress=False)
    assert found.skipped == {"b": "b.png is no whole image"}
    assert found.left_out == {"blank": len(scenes[1].regions), "empty mask": 2, "alike in all blocks": 0}
    assert set(found.samples) == {scenes[0].id}
    assert list(found.maps) == ["all", *(str(each) for each in sorted(region.label for region in scenes[0].regions))]
    with pytest.raises(
        ValueError, match=r"map that counts, got none: \d blank\. LeGrad gives a map that is zero every"
    ):
        layer_distribution(vit, Listed([scenes[1]]), progress=False)
    with pytest.raises(ValueError, match=r"dataset must have a map that counts, got none: 2 empty mask\.$"):
        layer_distribution(vit, Listed([empty]), progress=False)


def test_blocks_that_never_differ_are_an_error(vit, scenes, monkeypatch):
    whole = LeGrad._per_block
    monkeypatch.setattr(LeGrad, "_per_block", lambda *given: whole(*given)[:, :, :1].repeat(1, 1, 6, 1))
    with pytest.raises(ValueError, match=r"got none: \d+ alike in all blocks\.$"):
        layer_distribution(vit, scenes, limit=2, progress=False)


def test_the_predicted_class(vit, scenes):
    sample = vit.geometry(scenes[0])
    mask = sample.regions[0].mask
    with torch.no_grad():
        predicted = int(vit.model(vit.pixels(sample)[None]).argmax())
    wanted = layer_distribution(
        vit, Listed([Sample("x", sample.image, None, (Region(predicted, mask=mask),))]), progress=False
    )
    for region, target in ((Region(mask=mask), "label"), (Region(99, mask=mask), "predicted")):
        found = layer_distribution(
            vit, Listed([Sample("x", sample.image, None, (region,))]), target=target, progress=False
        )
        torch.testing.assert_close(found.relevance, wanted.relevance, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["scenes:clip", "scenes:siglip"])
def test_prompts_and_a_pooler(name, scenes):
    prompts = tuple(with_article(each) for each in scenes.classes)
    subject = subject_of(load_model(name), prompts=prompts)
    found = layer_distribution(subject, scenes, limit=2, progress=False)
    sample = subject.geometry(scenes[1])
    maps = LeGrad(subject.model).attribute_blocks(
        subject.pixels(sample)[None], with_article(scenes.classes[sample.regions[-1].label])
    )
    expected = [upsampled(each, 96)[sample.regions[-1].mask == 1].mean() for each in maps[0, :, 0].double().numpy()]
    assert found.relevance[-1].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "name", ["timm_vit_gap", "timm_vit_max", "timm_reg_map", "hf_dinov2_registers", "torchvision_vit"]
)
def test_every_pooling_and_library(name):
    model, size = models.tiny_models()[name]()
    subject = Subject(
        "tiny", adapt(model.float()), Geometry(size), (0.5,) * 3, (0.5,) * 3, "softmax", torch.device("cpu")
    )
    data = SceneSamples(Scenes(2, size=64, seed=5, objects=(1, 1)))
    found = layer_distribution(subject, data, target="predicted", progress=False)
    assert found.relevance.shape == (2, 3)
    assert (found.relevance > 0).all()
    assert found.left_out == {"blank": 0, "empty mask": 0, "alike in all blocks": 0}


def alike(one, other):
    assert one.relevance.tolist() == other.relevance.tolist()
    assert (one.samples, one.labels, one.missing, one.skipped) == (
        other.samples,
        other.labels,
        other.missing,
        other.skipped,
    )


@pytest.fixture(scope="module")
def mixed(scenes):
    """Samples with maps, without a mask's pixel, and one that can't be read, in units of two."""
    nothing = torch.zeros(96, 96, dtype=torch.long)
    empty = Sample("e", scenes[0].image, None, (Region(3, mask=nothing),))
    return Listed([scenes[0], DamagedSampleError("b", "cut off"), empty, scenes[1], scenes[2]])


@pytest.fixture(scope="module")
def whole(vit, mixed):
    return layer_distribution(vit, mixed, batch_size=2, progress=False)


def test_a_run_goes_on_where_it_stopped_and_a_finished_one_is_read(vit, mixed, whole, tmp_path, monkeypatch):
    options = {"folder": tmp_path, "batch_size": 2, "progress": False}
    alike(layer_distribution(vit, mixed, **options), whole)
    path = tmp_path / "results-00000.jsonl"
    text = path.read_text("utf-8")
    path.write_text(text[: text.index('{"unit": 2') + 40], "utf-8")  # killed within the first line of the third unit
    asked = []
    monkeypatch.setattr(layers, "_found", lambda regions, *more: asked.extend(regions) or found(regions, *more))
    alike(layer_distribution(vit, mixed, **options), whole)
    assert {each.sample for each in asked} == {mixed[4].id}
    asked.clear()
    again = layer_distribution(vit, mixed, normalise="mean", **options)  # decided when the numbers are read
    assert again.normalise == "mean"
    alike(again, whole)
    assert asked == []


def test_several_processes_find_what_one_finds(vit, mixed, whole, tmp_path, monkeypatch):
    for rank in (1, 0, 0):  # one after the other: the second leaves a third unit, which was to be the first one's next
        monkeypatch.setattr("captum_vit.evaluation.work.joined", lambda rank=rank: (rank, 2))
        found = layer_distribution(vit, mixed, folder=tmp_path, batch_size=2, progress=False)
    alike(found, whole)
    assert sorted(each.name for each in tmp_path.glob("*.jsonl")) == ["results-00000.jsonl", "results-00001.jsonl"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": "predicted"}, "target 'label', got 'predicted'"),
        ({"limit": 3}, "samples 5, got 3"),
        ({"description": {"data": "voc:/data"}}, "data None, got 'voc:/data'"),
        ({"precision": "bfloat16"}, "precision 'float32', got 'bfloat16'"),
    ],
)
def test_another_configuration_does_not_go_on_there(changed, message, vit, mixed, tmp_path):
    layer_distribution(vit, mixed, folder=tmp_path, progress=False)
    with pytest.raises(ChangedConfigurationError, match=f"holds results with {message}"):
        layer_distribution(vit, mixed, folder=tmp_path, progress=False, **changed)


def test_results_of_another_evaluation_are_not_layers(vit, mixed, tmp_path):
    evaluate(vit, mixed, methods=["random"], metrics=["sparseness"], folder=tmp_path, limit=1, progress=False)
    with pytest.raises(ChangedConfigurationError, match="holds results with evaluation None, got 'layers'"):
        layer_distribution(vit, mixed, folder=tmp_path, progress=False)


def test_workers_read_the_same(vit, mixed, whole):
    alike(layer_distribution(vit, mixed, batch_size=2, workers=1, progress=False), whole)


def test_a_bar_is_shown(vit, scenes, capsys):
    layer_distribution(vit, scenes, limit=1)
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"target": "best"}, "target must be 'label' or 'predicted', got 'best'"),
        ({"normalise": "max"}, "normalise must be 'image' or 'mean', got 'max'"),
    ],
)
def test_bad_arguments_are_refused(options, message, vit, scenes):
    with pytest.raises(ValueError, match=message):
        layer_distribution(vit, scenes, progress=False, **options)


def test_what_can_not_be_measured_is_an_error(vit, scenes):
    with pytest.raises(
        MissingAnnotationError, match="layers can't be measured: they need masks, which the dataset does"
    ):
        layer_distribution(vit, Listed([Sample("x", scenes[0].image, None, (Region(3),))]), progress=False)
    mask = torch.ones(96, 96, dtype=torch.long)
    with pytest.raises(ValueError, match=r"label must be one of the model's 64 outputs, got 99"):
        layer_distribution(vit, Listed([Sample("x", scenes[0].image, None, (Region(99, mask=mask),))]), progress=False)
    shallow = adapt(models._timm_trunk("vit_tiny_patch16_224", (96, 96), depth=1).eval())
    with pytest.raises(ValueError, match="model must have at least two blocks to be compared, got 1"):
        layer_distribution(dataclasses.replace(vit, model=shallow), scenes, progress=False)
    with pytest.raises(TypeError, match=r"no adapter knows .*Identity"):
        layer_distribution(dataclasses.replace(vit, model=torch.nn.Identity()), scenes, progress=False)
