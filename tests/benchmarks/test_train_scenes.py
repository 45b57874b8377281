"""The script that trains the shipped models: it can be stopped anywhere, and one model begins where another ended."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captum_vit.data import CLASSES, Scenes
from captum_vit.zoo.scene_models import SCENE_MODELS, compress, expand

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from scene_batches import GRID, SceneFile
from scene_losses import PromptLoss, caption, warm_start
from train_scenes import RECIPES, batches, train

SMALL = {"scenes": 24, "batch": 4, "start": None}


class InterruptedHereError(Exception):
    """Stands for a machine that goes down."""


@pytest.fixture
def scenes(tmp_path):
    return SceneFile(tmp_path / "file", 24, seed=5)


@pytest.mark.parametrize("name", SCENE_MODELS)
def test_a_run_that_was_stopped_ends_with_the_same_weights(name, tmp_path, monkeypatch):
    recipe = replace(RECIPES[name], steps=5, **SMALL)
    whole, _ = train(name, recipe, tmp_path / "whole", "cpu", save_every=2)

    def stops_at_three(*arguments):
        for step, batch in batches(*arguments):
            if step == 3:
                raise InterruptedHereError
            yield step, batch

    with monkeypatch.context() as patch:
        patch.setattr("train_scenes.batches", stops_at_three)
        with pytest.raises(InterruptedHereError):
            train(name, recipe, tmp_path / "stopped", "cpu", save_every=2)
    resumed, _ = train(name, recipe, tmp_path / "stopped", "cpu", save_every=2)
    for key, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[key]), key


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    train("vit", replace(RECIPES["vit"], steps=1, **SMALL), tmp_path, "cpu")
    with pytest.raises(SystemExit, match=r'another recipe: .*"rate": 0\.0007'):
        train("vit", replace(RECIPES["vit"], steps=1, rate=0.5, **SMALL), tmp_path, "cpu")


def test_whole_scenes_keep_their_pixels_and_labels(scenes):
    """Turned and mirrored back, every image of a batch is one of the scenes, with that scene's classes."""
    batch = scenes.batch(6, GRID, torch.Generator().manual_seed(0))
    originals = [Scenes(24, seed=5)[k] for k in range(24)]
    for image, labels in zip(batch.images, batch.labels, strict=True):
        views = [torch.rot90(image.flip(-1) if m else image, k, (1, 2)) for k in range(4) for m in (0, 1)]
        found = [
            scene
            for scene in originals
            if any(torch.equal(((view + 1) * 127.5).round().byte(), scene.image) for view in views)
        ]
        assert len(found) == 1
        assert torch.equal(labels, found[0].labels)


def test_windows_are_cut_where_their_positions_say(scenes):
    whole = scenes.batch(5, GRID, torch.Generator().manual_seed(1))
    windows = scenes.batch(5, 6, torch.Generator().manual_seed(1))  # the same scenes, turned the same way
    for number in range(5):
        for place, position in enumerate(windows.positions[number].tolist()):
            row, column = divmod(place, 6)
            top, left = (8 * each for each in divmod(position, GRID))
            patch = windows.images[number, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert torch.equal(patch, whole.images[number, :, top : top + 8, left : left + 8])
            assert windows.patches[number, place] == whole.patches[number, position]


def test_a_window_knows_what_it_holds(scenes):
    for seed in range(5):
        windows = scenes.batch(8, 6, torch.Generator().manual_seed(seed))
        for labels, patches in zip(windows.labels, windows.patches, strict=True):
            seen = set(patches[(patches >= 0) & (patches < len(CLASSES))].tolist())
            absent = (labels == 0).nonzero()[:, 0].tolist()
            assert set((labels == 1).nonzero()[:, 0].tolist()) <= seen
            assert (
                sum(int((patches == each).sum()) for each in seen & set(absent)) <= 2
            )  # an edge, a tenth of an object


def test_clip_begins_with_the_classifiers_tower():
    classifier, clip = SCENE_MODELS["vit"]().eval(), SCENE_MODELS["clip"]().eval()
    warm_start(clip, classifier.state_dict())
    clip.visual.proj = None
    for norm in (each for each in classifier.modules() if isinstance(each, torch.nn.LayerNorm)):
        norm.eps = 1e-5  # OpenCLIP's; timm's is 1e-6
    images = torch.rand(2, 3, 96, 96)
    expected = classifier.forward_features(images)[:, 0]
    torch.testing.assert_close(clip.visual(images), expected, atol=1e-5, rtol=0)


def test_siglip_begins_with_the_classifiers_blocks():
    classifier, siglip = SCENE_MODELS["vit"]().eval(), SCENE_MODELS["siglip"]().eval()
    warm_start(siglip, classifier.state_dict())
    images = torch.rand(2, 3, 96, 96)
    patches = classifier.patch_embed(images) + classifier.pos_embed[:, 1:]
    expected = classifier.norm(classifier.blocks(patches))
    torch.testing.assert_close(siglip.visual.trunk.forward_features(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_only_the_words_of_training_are_stored(name):
    loss = PromptLoss(SCENE_MODELS[name]())
    state = loss.model.state_dict()
    small = compress(state)
    (rows,) = (weight for key, weight in small.items() if key.endswith(".rows"))
    assert 20 < len(rows) < 50
    for key, weight in expand(small).items():
        torch.testing.assert_close(weight, state[key], atol=1e-3, rtol=1e-3)  # half precision


def test_a_caption_names_all_that_is_there():
    torch.manual_seed(0)
    labels = torch.zeros(64)
    labels[[CLASSES.index("orange star"), CLASSES.index("red ring")]] = 1
    said = {caption(labels) for _ in range(60)}
    assert {"an orange star and a red ring", "a photo of a red ring and an orange star."} <= said
