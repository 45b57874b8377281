"""Options that are about what a metric is fed with, and regions that ask by an embedding of their own."""

import re

import pytest
import torch
from torch.utils.data import Dataset

from captum_vit import AttentionRollout, BackgroundSuppression, CheferCAM, LeGrad, PromptClassifier, metrics
from captum_vit.data import Region, Sample, Scenes, SceneSamples
from captum_vit.evaluation import MissingAnnotationError, evaluate, explainer_of, measure_of, subject_of
from captum_vit.metrics.functional import foreground_attention_focus, negative_perturbation
from captum_vit.zoo import load_model


class Listed(Dataset[Sample]):
    def __init__(self, samples, classes=()):
        self.samples, self.classes = samples, classes

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.fixture(scope="module")
def clip():
    return load_model("scenes:clip")


def value(result):
    (row,) = result.table(resamples=2).to_dict("records")
    return row["value"]


def test_the_label_may_be_asked_about_whichever_class_the_map_was_made_for(vit):
    """An image whose label is wrong on purpose: of the predicted class the model is sure, of the label it never is."""
    sample = SceneSamples(Scenes(1, seed=3, objects=(1, 1)))[0]
    wrong = Listed([Sample("x", sample.image, None, (Region((sample.label + 1) % 64),))])
    found = {
        against: value(
            evaluate(
                vit,
                wrong,
                methods=["legrad"],
                metrics=[f"negative-perturbation(against='{against}', fractions=(0, 0.2))"],
                target="predicted",
                progress=False,
            )
        )
        for against in ("target", "label")
    }
    assert found == {"target": 20, "label": 0}


def test_a_patch_may_be_the_side_of_a_square(vit):
    assert "patch=(8, 8)" in repr(measure_of("insertion(patch=8)", vit).empty)


def test_black_is_black_in_the_units_of_the_model(vit):
    images = torch.stack([vit.pixels(SceneSamples(Scenes(3, seed=3))[k]) for k in range(3)])
    targets = vit.model(images).argmax(1)
    maps = LeGrad(vit.model).attribute(images, target=targets).sum(1)
    metric = measure_of("negative-perturbation(fill='black', measure='value')", vit).empty
    metric.update(images, maps, targets)
    black = images.amin((0, 2, 3)) * 0 - 1  # mean and standard deviation are 0.5
    expected = negative_perturbation(vit.score, images, maps, targets, fill=black, measure="value").score.mean()
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-4)
    assert vit.black == (-1, -1, -1)


def test_focus_on_the_patch_grid_takes_the_map_as_it_is_there(vit, scenes):
    asked = [f"foreground-attention-focus(grid='{grid}')" for grid in ("patch", "pixel")]
    found = evaluate(vit, scenes, methods=["attention-rollout"], metrics=asked, limit=2, progress=False)
    pairs = [(vit.pixels(scenes[k]), region.mask) for k in range(2) for region in scenes[k].regions]
    images, masks = (torch.stack(each) for each in zip(*pairs, strict=True))
    maps = AttentionRollout(vit.model).attribute(images, resolution="patch")[:, 0]
    expected = foreground_attention_focus(maps, masks)
    patch, pixel = found.table(resamples=2)["value"]
    assert patch == pytest.approx(float(expected.mean()), abs=1e-6)
    assert pixel != pytest.approx(patch, abs=1e-3)


def test_suppression_goes_around_a_method_by_name(clip):
    subject = subject_of(clip, prompts=("a red star", "a blue cross"))
    images = subject.pixels(SceneSamples(Scenes(1, seed=0))[0])[None]
    explainer = explainer_of("background-suppression(method='chefer-cam', prompt='a photo of', threshold=0.3)", subject)
    method = BackgroundSuppression(CheferCAM(subject.model), prompt="a photo of", threshold=0.3)
    torch.testing.assert_close(explainer(images, torch.tensor([1])), method.attribute(images, target=1).sum(1))
    with pytest.raises(ValueError, match=r"options of background-suppression must be among .*, got 'treshold'"):
        explainer_of("background-suppression(method='legrad', treshold=1)", subject)
    with pytest.raises(ValueError, match="method must explain a PromptClassifier, got LeGrad on timm"):
        explainer_of("background-suppression", subject_of(load_model("scenes:vit")))


def test_a_region_may_ask_by_an_embedding_of_its_own(clip, scenes):
    """Two sounds, the first of which is in no class of the dataset: maps are those of the vectors."""
    vectors = torch.nn.functional.normalize(torch.randn(2, 128, generator=torch.Generator().manual_seed(0)))
    picture, mask = scenes[0].image, scenes[0].regions[0].mask
    names = ("a.wav", "b.wav")
    regions = tuple(Region(7, name, mask, embedding=each) for name, each in zip(names, vectors, strict=True))
    subject = subject_of(clip, prompts=names[::-1], embeddings=vectors.flip(0))
    dataset = Listed([Sample("x", picture, None, regions)], classes=tuple("abcdefgh"))
    found = evaluate(
        subject, dataset, methods=["legrad"], metrics=["energy-inside", "pooled-segmentation"], progress=False
    )
    assert [record["target"] for record in found.records] == [1, 0]
    classifier = PromptClassifier(clip.model, embeddings=vectors)
    maps = LeGrad(classifier).attribute_targets(subject.pixels(scenes[0])[None], [0, 1])[0]  # (2, 1, gh, gw)
    maps = torch.nn.functional.interpolate(maps, (96, 96), mode="bilinear")[:, 0]
    energy, pooled = metrics.EnergyInside(), metrics.PooledSegmentation(8)
    energy.update(maps, mask.expand(2, 96, 96))
    pooled.update(maps, mask.expand(2, 96, 96), torch.tensor([7, 7]))
    table = found.table(resamples=2).set_index("metric")["value"]
    assert table["energy-inside"] == pytest.approx(float(energy.compute()), abs=1e-4)
    assert table["pooled-segmentation iou"] == pytest.approx(float(pooled.compute()["iou"]), abs=1e-4)
    strange = Listed([Sample("x", picture, None, (Region(0, "c.wav", mask, embedding=vectors[0]),))])
    with pytest.raises(ValueError, match=r"target must be one of the prompts \['b.wav', 'a.wav'\], got 'c.wav'"):
        evaluate(subject, strange, methods=["legrad"], metrics=["energy-inside"], progress=False)


def test_what_a_metric_cannot_be_fed_with_is_refused(vit, scenes):
    with pytest.raises(ValueError, match="against of negative-perturbation must be one of target, label, got 'truth'"):
        measure_of("negative-perturbation(against='truth')", vit)
    with pytest.raises(ValueError, match="grid of foreground-attention-focus must be one of pixel, patch, got 'image'"):
        measure_of("foreground-attention-focus(grid='image')", vit)
    for name, needed in (
        ("segmentation", "threshold or preset, of preset, threshold, normalise"),
        ("faithfulness-correlation(runs=3)", "patch and subset, of "),
    ):
        with pytest.raises(ValueError, match=f"options of .* must hold {needed}.*, got {re.escape(name)}"):
            measure_of(name, vit)
    bare = Listed([Sample("x", scenes[0].image, None, (Region(),))])
    asked = ["positive-perturbation(against='label')"]
    with pytest.raises(MissingAnnotationError, match="positive-perturbation can't be measured: it needs labels"):
        evaluate(vit, bare, methods=["legrad"], metrics=asked, progress=False)
    images, targets = vit.pixels(scenes[0])[None], torch.tensor([0])
    with pytest.raises(ValueError, match="method must give one number per patch, got 'captum:saliency'"):
        explainer_of("captum:saliency", vit).on_grid(images, targets)
