from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from captum_vit import AttentionRollout, LeGrad
from captum_vit.adapters import adapt
from captum_vit.data import Geometry, Region
from captum_vit.evaluation import Store, evaluate
from captum_vit.evaluation.kept import GRID, kept_records
from captum_vit.evaluation.subject import Subject
from captum_vit.evaluation.units import Asked, Made

METHODS = ["legrad", "attention-rollout", "captum:input-x-gradient"]


def asked_for(image, mask=None, number=0):
    return Asked("a", number, Region(mask=mask), image, 0, [], 1, lambda: None)


def records_of(values, subject, mask=None):
    asked = asked_for(torch.zeros(3, *subject.geometry.size), mask)
    return kept_records([asked], [Made(asked, "m", values, 0.0)], subject)


def values_of(record):
    levels = np.frombuffer(base64.b64decode(record["values"]), np.uint8).reshape(record["grid"])
    return record["low"] + (record["high"] - record["low"]) * levels / 255


def plain(size):
    """A model without patches, on images of one size."""
    return Subject("plain", nn.Identity(), Geometry(size), (0.5,) * 3, (0.5,) * 3, "softmax", torch.device("cpu"))


def alike(first, second):
    """Whether two folders hold the same, maps to rounding: they depend on the batch to that extent."""
    for one, other in zip(Store(first).records("maps"), Store(second).records("maps"), strict=True):
        assert one.keys() == other.keys()
        if "values" in one:
            size = max(abs(one["low"]), abs(one["high"]))
            assert np.abs(values_of(one) - values_of(other)).max() < 0.01 * size
        assert all(one[key] == other[key] for key in one.keys() - {"values", "low", "high"})
    return True


@pytest.fixture(scope="module")
def folder(vit, scenes, tmp_path_factory):
    made = tmp_path_factory.mktemp("kept")
    evaluate(vit, scenes, methods=METHODS, metrics=["sparseness"], limit=3, folder=made, keep_maps=True, progress=False)
    return made


def test_maps_are_those_of_the_methods_on_the_patch_grid(folder, vit, scenes):
    maps = {
        (each["sample"], each["region"], each["method"]): each
        for each in Store(folder).records("maps")
        if "values" in each
    }
    assert len(maps) == len(METHODS) * sum(len(scenes[k].regions) for k in range(3))
    for name, method in (("legrad", LeGrad(vit.model)), ("attention-rollout", AttentionRollout(vit.model))):
        for k in range(3):
            image = vit.pixels(scenes[k])[None]
            for number, region in enumerate(scenes[k].regions):
                kept = values_of(maps[scenes[k].id, number, name])
                own = method.attribute(image, target=region.label, resolution="patch")[0, 0].double().numpy()
                assert np.abs(kept - own).max() <= 0.51 / 255 * (own.max() - own.min())  # of eight bits


def test_images_and_masks_are_what_the_model_sees(folder, vit, scenes):
    records = Store(folder).records("maps")
    images = {each["sample"]: each for each in records if "image" in each}
    assert list(images) == [scenes[k].id for k in range(3)]
    kept = np.asarray(Image.open(BytesIO(base64.b64decode(images[scenes[0].id]["image"])))).astype(float)
    apart = [np.abs(kept - np.asarray(scenes[k].image)).mean() for k in range(2)]
    assert apart[0] < 6 < 30 < apart[1]  # a JPEG of the first
    masks = {(each["sample"], each["region"]): each for each in records if "mask" in each}
    for number, region in enumerate(scenes[0].regions):
        runs = masks[scenes[0].id, number]["mask"]
        drawn = np.repeat(np.arange(len(runs)) % 2, runs).reshape(96, 96)
        assert (drawn == region.mask.eq(1).numpy()).all()


def test_scores_are_the_same_with_and_without(folder, vit, scenes):
    kept = Store(folder).records()
    alone = evaluate(vit, scenes, methods=METHODS, metrics=["sparseness"], limit=3, progress=False).records
    assert [each["scores"] for each in kept] == [each["scores"] for each in alone]


def test_maps_of_scores_that_are_there_are_made_without_measuring_again(folder, vit, scenes, tmp_path, monkeypatch):
    options = {"methods": METHODS, "metrics": ["sparseness"], "limit": 3, "folder": tmp_path, "progress": False}
    evaluate(vit, scenes, **options, batch_size=2)
    results = (tmp_path / "results-00000.jsonl").read_bytes()
    assert not list(tmp_path.glob("maps-*"))
    monkeypatch.setattr("captum_vit.metrics.Sparseness.update", lambda *given: pytest.fail("measured again"))
    found = evaluate(vit, scenes, **options, keep_maps=True)
    assert (tmp_path / "results-00000.jsonl").read_bytes() == results
    assert alike(tmp_path, folder)
    assert all(each["scores"] for each in found.records)
    written = (tmp_path / "maps-00000.jsonl").read_bytes()
    evaluate(vit, scenes, **options, keep_maps=True)
    assert (tmp_path / "maps-00000.jsonl").read_bytes() == written


def test_a_run_that_was_killed_between_maps_and_scores_goes_on(folder, vit, scenes, tmp_path):
    options = {"methods": METHODS, "metrics": ["sparseness"], "limit": 3, "folder": tmp_path, "progress": False}
    evaluate(vit, scenes, **options, keep_maps=True, batch_size=1)
    for name, lines in (("maps", 12), ("results", 4)):
        path = tmp_path / f"{name}-00000.jsonl"
        path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:lines]), "utf-8")
    evaluate(vit, scenes, **options, keep_maps=True)
    assert alike(tmp_path, folder)
    assert len({each["sample"] for each in Store(tmp_path).records()}) == 3


def test_maps_need_a_folder(vit, scenes):
    with pytest.raises(ValueError, match="folder must be given to keep maps there, got None"):
        evaluate(vit, scenes, methods=METHODS, metrics=["sparseness"], keep_maps=True, progress=False)


def test_a_map_of_pixels_is_the_nearest_that_a_grid_makes():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(28, 42, generator=generator, dtype=torch.float64)
    (_, record) = records_of(values, plain((28, 42)))
    assert record["grid"] == list(GRID)

    def distance(grid):
        full = nn.functional.interpolate(grid[None, None], size=(28, 42), mode="bilinear", align_corners=False)
        return float((full[0, 0] - values).square().sum())

    kept = torch.from_numpy(values_of(record))
    best = distance(kept)
    for _ in range(20):
        step = torch.randn(GRID, generator=generator, dtype=torch.float64)
        assert distance(kept + 0.5 * step / step.norm()) > best


def test_a_map_without_negative_values_gets_none():
    values = torch.zeros(28, 28, dtype=torch.float64)
    values[13, 13] = 1.0
    assert records_of(values, plain((28, 28)))[1]["low"] == 0
    assert records_of(-values, plain((28, 28)))[1]["high"] > 0  # a signed one may overshoot


def test_a_constant_map_and_an_extreme_one():
    record = records_of(torch.full((28, 28), 3.0), plain((28, 28)))[1]
    assert values_of(record) == pytest.approx(np.full(GRID, 3.0))
    tiny = records_of(torch.full((28, 28), 1e-30) * torch.arange(28), plain((28, 28)))[1]
    assert tiny["high"] == pytest.approx(2.7e-29, rel=0.1)


def test_large_images_become_small():
    mask = torch.zeros(320, 480, dtype=torch.long)
    mask[100:200, 240:] = 1
    mask[0] = -1
    image, region, _ = records_of(torch.rand(320, 480), plain((320, 480)), mask)
    assert image["size"] == region["size"] == [107, 160]
    assert Image.open(BytesIO(base64.b64decode(image["image"]))).size == (160, 107)
    share = sum(region["mask"][1::2]) / sum(region["mask"])
    assert share == pytest.approx(100 / 320 / 2, abs=0.01)
    begins = torch.ones(4, 4, dtype=torch.long)
    assert records_of(torch.rand(4, 4), plain((4, 4)), begins)[1]["mask"] == [0, 16]


def test_pixels_beyond_the_patches_are_left_out():
    model = adapt(timm.create_model("vit_tiny_patch16_224", depth=1, img_size=166, num_classes=2).eval())
    subject = replace(plain((166, 166)), model=model)
    image, record = records_of(torch.rand(166, 166), subject)
    assert record["grid"] == [10, 10]
    assert image["size"] == [160, 160]
