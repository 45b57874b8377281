"""What is asked for before a protocol runs, what its notes say, and how its table is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pandas import DataFrame
from torch.utils.data import Dataset

from captum_vit import METHODS, LeGrad
from captum_vit.data import Region, Sample, Scenes, SceneSamples
from captum_vit.evaluation import Store, subject_of
from captum_vit.evaluation.protocols import PROTOCOLS, Choice, Column, Method, Model, Protocol, Run, run_protocol
from captum_vit.evaluation.protocols import run as run_module
from captum_vit.evaluation.protocols.prepare import _confident
from captum_vit.evaluation.protocols.result import ProtocolResult
from captum_vit.zoo import load_model

SCENES = {"datasets": "scenes(length=2, seed=1)", "resamples": 2, "progress": False}


class GradCAM(LeGrad):
    """Stands for a method that lands in the package."""

    def __init__(self, model, *, block=-1, tokens="norm", count_prefix=False, relu=False):
        super().__init__(model, blocks=[block])


@pytest.fixture
def reduced(monkeypatch):
    """Leaves only some methods in a protocol."""

    def reduce(name, *methods):
        kept = tuple(each for each in PROTOCOLS[name].methods if each.name in methods)
        monkeypatch.setattr(run_module, "PROTOCOLS", {name: replace(PROTOCOLS[name], methods=kept)})

    return reduce


def noted(result, text):
    return [note for note in result.notes if text in note]


def test_a_method_fills_its_row_when_it_lands(monkeypatch, reduced):
    reduced("legrad-table-1", "GradCAM", "LeGrad")
    with monkeypatch.context() as without:
        others = {name: method for name, method in METHODS.items() if name != "grad-cam"}
        without.setattr("captum_vit.evaluation.protocols.task.METHODS", others)
        before = run_protocol("legrad-table-1", **SCENES)
    assert noted(before, "GradCAM (grad-cam)") == ["GradCAM (grad-cam) is not in this package"]
    after = run_protocol("legrad-table-1", **SCENES)
    row = after.table["method"] == "GradCAM"
    assert before.table[row]["ours"].isna().all()
    assert after.table[row]["ours"].notna().all()
    assert noted(after, "grad-cam") == []
    assert after.table[~row].equals(before.table[~row])


def test_a_method_that_the_model_refuses_keeps_its_row(monkeypatch):
    class Deep(GradCAM):
        def __init__(self, model, *, block=-1, tokens="norm", count_prefix=False, relu=False):
            super().__init__(model, block=8)

    monkeypatch.setitem(METHODS, "grad-cam", Deep)
    found = run_protocol("legrad-table-4", **SCENES)
    (note,) = noted(found, "GradCAM")
    assert note.startswith("GradCAM is left out for scenes:clip: blocks must be in [-6, 5], got 8")
    assert found.table.set_index("method")["ours"].isna()["GradCAM"]


def test_nothing_is_left_to_measure(monkeypatch):
    found = run_protocol("cam-vs-lrp", **SCENES)
    if {"attention-guided-cam", "transformer-attribution"} & set(METHODS):
        assert found.table["ours"].notna().any()
    else:
        assert found.table["ours"].isna().all()
    assert noted(found, "of 2 images have a predicted class with a probability above 0.85")


def test_suppression_goes_around_the_methods(tmp_path, reduced):
    reduced("legrad-table-6", "LeGrad")
    run_protocol("legrad-table-6", **SCENES | {"datasets": "scenes(length=1)"}, folder=tmp_path)
    runs = {folder.name: {record["method"] for record in Store(folder).records()} for folder in tmp_path.iterdir()}
    suppressed = {"background-suppression(method='legrad', prompt='a photo of')"}
    assert runs == {f"SigLIP-B-16-{each}": suppressed for each in ("predicted", "target", "points")}


def test_every_scene_has_a_folder_of_its_own_configuration(tmp_path):
    options = {"folder": tmp_path, "resamples": 2, "progress": False}
    run_protocol("faf-baf", datasets="scenes(length=1, seed=1)", **options)
    with pytest.raises(
        ValueError, match=r"results with data 'scenes\(length=1, seed=1\)', got 'scenes\(length=1, seed=2"
    ):
        run_protocol("faf-baf", datasets="scenes(length=1, seed=2)", **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("legrad-table", {}, r"no protocol is called 'legrad-table'\. Did you mean legrad-table-"),
        ("gmar-table-1", {"limit": 0}, "limit must be at least 1, got 0"),
        ("gmar-table-1", {"choices": {"steps": 3}}, "choices of gmar-table-1 must be among none, got 'steps'"),
        (
            "faf-baf",
            {"choices": {"steps": 3}},
            "choices of faf-baf must be among head_fusion, residual, .*, got 'steps'",
        ),
        ("legrad-table-9", {"only": ["ViT-B/16"]}, "only of .* must be among ViT-L/14, ViT-H/14, got 'ViT-B/16'"),
        ("legrad-table-9", {"models": {"ViT": None}}, "models of .* must be among ViT-L/14, ViT-H/14, got 'ViT'"),
        (
            "legrad-table-6",
            {"datasets": {"imagenet": []}},
            r"datasets of legrad-table-6 must hold openimages \(OpenImagesPoints\(.*; got imagenet\. Give datasets=",
        ),
        (
            "faf-baf",
            {"datasets": {}},
            r"must hold imagenet \(ImageNet\(root\)\) or masks \(ImageMaskFolder\(.*; got none",
        ),
        ("voc-report", {"datasets": {"imagenet": []}}, r"must be among voc \(PascalVOC\(root\)\), got 'imagenet'"),
        ("gmar-table-1", {"datasets": {"tiny-imagenet": []}}, "models of gmar-table-1 must hold 'ViT-L/16', got none"),
    ],
)
def test_what_is_missing_or_unknown_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        run_protocol(name, **SCENES | options)


def test_a_model_without_a_text_tower_reads_no_classes():
    dataset = SceneSamples(Scenes(1))
    options = {"datasets": {"imagenet": dataset}, "models": load_model("scenes:vit"), "resamples": 2, "progress": False}
    found = run_protocol("legrad-table-9", only=["ViT-H/14"], **options)  # a classifier may stand in for CLIP
    assert found.table["ours"].notna().all()
    assert noted(found, "ViT-H/14 is replaced by scenes:vit at 96×96")


class Pictures(Dataset[Sample]):
    def __init__(self, embedding=None):
        self.embedding = embedding

    def __len__(self):
        return 2

    def __getitem__(self, index):
        sample = SceneSamples(Scenes(2))[index]
        return replace(sample, regions=(Region(0, f"{index}.wav", sample.regions[0].mask, embedding=self.embedding),))


def test_sounds_need_embeddings():
    options = {"models": load_model("scenes:clip"), "resamples": 2, "progress": False}
    sounds = {kind: Pictures() for kind in ("ade20k-sound", "ade20k-speech")}
    with pytest.raises(ValueError, match=r"must have an embedding, got none in sample scene-0-0\. Give them with"):
        run_protocol("legrad-table-3", datasets=sounds, **options)


def test_only_confident_images_take_part():
    subject = subject_of(load_model("scenes:vit"))
    dataset = SceneSamples(Scenes(12, seed=2))
    with torch.no_grad():
        pixels = torch.stack([subject.pixels(dataset[k]) for k in range(12)])
        highest = subject.model(pixels).sigmoid().amax(1)
    bound = float(highest.sort().values[5])
    assert _confident(dataset, subject, bound, 12) == [k for k in range(12) if highest[k] > bound + 1e-7]
    assert len(_confident(dataset, subject, bound, 12)) == 6
    assert _confident(dataset, subject, bound, 4) == [k for k in range(4) if highest[k] > bound + 1e-7]
    with pytest.raises(ValueError, match=r"has a probability above 1\.0, got 1\.000 at most with scenes:vit"):
        _confident(dataset, subject, 1.0, 12)


@pytest.fixture
def small(monkeypatch):
    """A protocol with a choice and an own model of one of its methods."""
    run = Run(
        "focus",
        ("masks",),
        Model("ViT", "scenes:vit", "scenes:vit"),
        (Column("inside", "energy-inside"), Column("sharp", "top-k-inside(k={k})", scale=1, digits=3)),
    )
    protocol = Protocol(
        "small",
        "A small table",
        "nowhere",
        (run,),
        (Method("LeGrad", "legrad"), Method("other", None, "Other")),
        {("LeGrad", "ViT", "inside"): 50.0, ("other", "Other", "sharp"): 0.25},
        ("it is small",),
        {"k": Choice(30, "the number is not stated")},
    )
    monkeypatch.setattr(run_module, "PROTOCOLS", {"small": protocol})
    return protocol


def test_notes_and_rows_of_a_table(small):
    dataset = SceneSamples(Scenes(3))
    result = run_protocol("small", datasets={"masks": dataset}, choices={"k": 5}, limit=2, resamples=2, progress=False)
    assert result.notes == (
        "it is small",
        "k = 5: the number is not stated",
        "the first 2 samples of each dataset only",
        "other: the paper's numbers only",
    )
    keys = result.table[["method", "model", "column"]].to_numpy().tolist()
    assert keys == [[m, n, c] for m, n in (("LeGrad", "ViT"), ("other", "Other")) for c in ("inside", "sharp")]
    assert 0 < result.table["ours"][0] <= 100
    assert 0 < result.table["ours"][1] <= 1
    np.testing.assert_array_equal(result.table["published"], [50, np.nan, np.nan, 0.25])
    assert isinstance(result.table, DataFrame)


def test_markdown(small):
    nan = float("nan")
    rows = [
        ("LeGrad", "ViT", "inside", 61.0, 58.5, 63.5, 50.0),
        ("LeGrad", "ViT", "sharp", 0.75, nan, nan, nan),
        ("other", "Other", "inside", nan, nan, nan, nan),
        ("other", "Other", "sharp", nan, nan, nan, 0.25),
    ]
    table = DataFrame(rows, columns=["method", "model", "column", "ours", "low", "high", "published"])
    assert ProtocolResult(small, table, ("it is small", "k = 5")).markdown() == (
        "## small: A small table\n\n"
        "| method | model | inside | sharp |\n| --- | --- | --- | --- |\n"
        "| LeGrad | ViT | 61.00 ± 2.50 (50.00) | 0.750 |\n| other | Other | – | – (0.250) |\n\n"
        "Ours ± half of the 95 % confidence interval (the paper's): nowhere.\n\n- it is small\n- k = 5\n"
    )


def test_choices_have_defaults():
    assert PROTOCOLS["cam-vs-lrp"].chosen({"threshold": "otsu"}) == {"threshold": "otsu", "steps": 28, "tolerance": 1}
