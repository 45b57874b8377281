"""Scenes as samples: the same objects, and boxes that fit them."""

import numpy as np
import pytest
import torch
from loader_checks import check_loader

from captum_vit.data import CLASSES, Scenes, SceneSamples


@pytest.mark.parametrize("occlusion", [False, True])
def test_samples_say_what_the_scenes_say(occlusion):
    scenes = Scenes(12, size=(64, 90), seed=5, occlusion=occlusion)
    dataset = SceneSamples(scenes)
    assert dataset.classes == CLASSES
    parts = 0
    for index, sample in enumerate(check_loader(dataset)):
        scene = scenes[index]
        assert sample.id == f"scene-5-{index}"
        assert np.array_equal(np.array(sample.image), scene.image.permute(1, 2, 0).numpy())
        assert [each.label for each in sample.regions] == [each.label for each in scene.objects]
        assert [each.prompt for each in sample.regions] == [
            caption[11:] for caption in scene.captions[: len(scene.objects)]
        ]
        assert sample.label == (scene.objects[0].label if len(scene.objects) == 1 else None)
        for region, thing in zip(sample.regions, scene.objects, strict=True):
            assert torch.equal(region.mask, thing.mask.long())
            assert region.parts.keys() == thing.parts.keys()
            assert all(torch.equal(region.parts[name], thing.parts[name].long()) for name in thing.parts)
            parts += len(region.parts)
            rows, columns = np.nonzero(thing.mask.numpy())
            assert region.boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    assert parts > 0


def test_a_single_object_is_the_label_of_its_image():
    dataset = SceneSamples(Scenes(3, objects=(1, 1)))
    for sample in dataset:
        assert sample.label == sample.regions[0].label
    assert len(dataset) == 3
    with pytest.raises(IndexError, match=r"scene must be in \[0, 3\), got 3\."):
        dataset[3]
