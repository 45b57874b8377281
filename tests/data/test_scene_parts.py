"""Scenes whose parts can be taken away: what changes, and what must not."""

import itertools
import pickle

import numpy as np
import pytest
import torch

from captum_vit.data import CLASSES, SceneParts, Scenes
from captum_vit.data.shapes import SHAPES

SCENES = SceneParts(12, size=(64, 80), seed=5)


def pixels(image):
    return np.array(image).astype(int)


def test_a_background_is_the_scene_without_its_objects():
    scenes = Scenes(6, seed=2, objects=(1, 3))
    for index in range(len(scenes)):
        scene, background = scenes[index], scenes.background(index)
        objects = torch.stack([each.mask for each in scene.objects]).any(0)
        differs = (scene.image != background).any(0)
        assert (differs & objects).sum() > 0.95 * objects.sum()
        rim = torch.nn.functional.max_pool2d(objects[None].float(), 7, stride=1, padding=3)[0] > 0
        assert not (differs & ~rim).any()
    with pytest.raises(IndexError, match=r"scene must be in \[0, 6\), got 6"):
        scenes.background(6)


def test_only_the_shapes_that_are_asked_for():
    scenes = Scenes(40, shapes=("star", "ring"), objects=(1, 4))
    assert {each.shape for scene in scenes for each in scene.objects} == {"star", "ring"}
    every = Scenes(3, shapes=SHAPES)
    assert all(torch.equal(every[k].image, Scenes(3)[k].image) for k in range(3))
    with pytest.raises(ValueError, match=r"shapes must be among circle, .*, got \['blob'\]"):
        Scenes(1, shapes=("star", "blob"))
    with pytest.raises(ValueError, match=r"shapes must be among circle, .*, got \(\)"):
        Scenes(1, shapes=())


def test_nothing_removed_is_the_scene_and_nothing_kept_the_background():
    plain = Scenes(12, size=(64, 80), seed=5, objects=(1, 1), shapes=("star", "cross", "crescent"))
    for index in range(len(SCENES)):
        parts = SCENES.part_masks(index)
        assert np.array_equal(pixels(SCENES.keeping(index, parts)), pixels(plain[index].picture))
        assert np.array_equal(
            pixels(SCENES.keeping(index, ())), plain.background(index).permute(1, 2, 0).numpy().astype(int)
        )


def test_kept_parts_stay_and_removed_ones_show_the_background():
    for index in range(len(SCENES)):
        masks = {name: mask[0].bool().numpy() for name, mask in SCENES.part_masks(index).items()}
        whole, bare = pixels(SCENES.image(index)), pixels(SCENES.keeping(index, ()))
        for kept in itertools.combinations(masks, 2):
            image = pixels(SCENES.keeping(index, kept))
            for name, mask in masks.items():
                assert np.array_equal(image[mask], (whole if name in kept else bare)[mask])


def test_labels_and_parts_of_classes():
    assert {CLASSES[SCENES.label(index)].split()[1] for index in range(12)} == {"star", "cross", "crescent"}
    for index in range(len(SCENES)):
        assert list(SCENES.class_parts[SCENES.label(index)]) == list(SCENES.part_masks(index))
    assert SCENES.class_parts[CLASSES.index("red circle")] == {}
    assert SCENES.class_parts[CLASSES.index("orange crescent")] == {"belly": 1, "horn 1": 1, "horn 2": 1}
    mask = next(iter(SCENES.part_masks(0).values()))
    assert (mask.shape, mask.dtype) == ((1, 64, 80), torch.int64)


def test_it_can_be_pickled_and_asked_in_any_order():
    again = pickle.loads(pickle.dumps(SCENES))
    assert np.array_equal(pixels(again.image(7)), pixels(SceneParts(12, size=(64, 80), seed=5).image(7)))
    assert not np.array_equal(pixels(again.image(6)), pixels(again.image(7)))


def test_what_is_not_there():
    with pytest.raises(ValueError, match=r"parts must be among .*, got 'beak'"):
        SCENES.keeping(0, ("beak",))
    with pytest.raises(ValueError, match="scene 3 has no object in the background, got 'bg_000'"):
        SCENES.without_background(3, "bg_000")
