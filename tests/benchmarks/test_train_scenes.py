"""The script that trains the shipped models: it can be stopped anywhere, and one model begins where another ended."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from captum_vit.data import CLASSES, Scenes
from captum_vit.zoo.scene_models import SCENE_MODELS, compress, expand

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from muon import Muon, orthogonal
from scene_batches import GRID, SceneFile
from scene_losses import PromptLoss, caption, warm_start
from train_scenes import RECIPES, batches, main, ship, train

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
    with pytest.raises(SystemExit, match=r"vit\.pt was made with rate 0\.0025, not 0\.5: go on as it began, or choose"):
        train("vit", replace(RECIPES["vit"], steps=1, rate=0.5, **SMALL), tmp_path, "cpu")


def test_a_checkpoint_that_began_with_other_weights_is_refused(tmp_path):
    small = {name: value for name, value in SMALL.items() if name != "start"}
    recipe = replace(RECIPES["clip"], steps=1, **small)
    with pytest.raises(SystemExit, match=r"clip begins with .*vit\.safetensors, which is not there: train vit first"):
        train("clip", recipe, tmp_path, "cpu")
    train("vit", replace(RECIPES["vit"], steps=1, **small), tmp_path, "cpu")
    train("clip", recipe, tmp_path, "cpu")
    save_file(SCENE_MODELS["vit"]().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(SystemExit, match=r"clip\.pt was made with start_sha256 [0-9a-f]{64}, not [0-9a-f]{64}"):
        train("clip", recipe, tmp_path, "cpu")


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    with pytest.raises(SystemExit, match=r"the loss is nan at step [12]; the last checkpoint is .*vit\.pt"):
        train("vit", replace(RECIPES["vit"], steps=4, rate=1e30, warm_up=0, **SMALL), tmp_path, "cpu")
    assert not (tmp_path / "vit.safetensors").exists()


@pytest.mark.parametrize("name", ["batch", "steps", "scenes", "threads"])
def test_numbers_below_one_are_refused(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_scenes.py", "vit", f"--{name}", "0"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"argument --{name}: must be at least 1, got 0" in capsys.readouterr().err


def test_weights_and_card_say_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("train_scenes.scores", lambda classifier: {"mean average precision": 0.5})
    torch.manual_seed(0)
    ship("vit", SCENE_MODELS["vit"]().eval(), RECIPES["vit"], 120.0, tmp_path / "new")
    card = json.loads((tmp_path / "new" / "scenes-vit.json").read_text("utf-8"))
    stored = (tmp_path / "new" / "scenes-vit.safetensors").read_bytes()
    assert sorted(each.name for each in (tmp_path / "new").iterdir()) == ["scenes-vit.json", "scenes-vit.safetensors"]
    assert (card["bytes"], card["sha256"]) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert (card["minutes"], card["recipe"]["steps"], card["scores"]) == (2.0, 2300, {"mean average precision": 0.5})
    assert "seed=1000000" in card["data"]
    assert card["retrain"] == "torchrun --nproc-per-node 1 benchmarks/train_scenes.py vit"


def test_whole_scenes_keep_their_pixels_and_labels(scenes):
    """Turned and mirrored back, every image of a batch is one of the scenes, with that scene's classes."""
    batch = scenes.batch(6, GRID**2, torch.Generator().manual_seed(0))
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


def test_what_is_seen_of_a_scene_holds_its_objects(scenes):
    whole = scenes.batch(20, GRID**2, torch.Generator().manual_seed(1))
    part = scenes.batch(20, 60, torch.Generator().manual_seed(1))  # the same scenes, turned the same way
    assert torch.equal(part.images, whole.images)
    for number in range(20):
        in_whole = dict(zip(whole.positions[number].tolist(), whole.patches[number].tolist(), strict=True))
        seen = dict(zip(part.positions[number].tolist(), part.patches[number].tolist(), strict=True))
        assert len(seen) == 60
        assert seen.items() <= in_whole.items()
        left_out = [kind for position, kind in in_whole.items() if position not in seen]
        assert set(left_out) <= {len(CLASSES)} or set(seen.values()) & {len(CLASSES)} == set()


def test_labels_are_of_what_is_seen(scenes):
    for seed in range(5):
        batch = scenes.batch(8, 20, torch.Generator().manual_seed(seed))  # too few patches for all objects
        whole = scenes.batch(8, GRID**2, torch.Generator().manual_seed(seed))
        for labels, patches, all_labels, all_patches in zip(
            batch.labels, batch.patches, whole.labels, whole.patches, strict=True
        ):
            assert torch.equal(labels == 0, (all_labels == 0) | (labels == 0))  # none appears
            for each in (labels == 1).nonzero()[:, 0].tolist():
                assert (patches == each).sum() >= 0.6 * (all_patches == each).sum()


def test_two_processes_learn_from_the_mean_of_their_gradients(tmp_path):
    """Both end with the same weights, which differ from those of one process alone."""
    script = """
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
import torch
from train_scenes import RECIPES, dist, train
dist.init_process_group("gloo")
model, _ = train("vit", replace(RECIPES["vit"], steps=2, scenes=24, batch=4, warm_up=1), Path(sys.argv[1]), "cpu")
torch.save(model.state_dict(), f"{sys.argv[1]}/{dist.get_rank()}.pt")
dist.destroy_process_group()
"""
    (tmp_path / "run.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    subprocess.run(
        [*command, str(tmp_path / "run.py"), str(tmp_path)],
        check=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "benchmarks"), "OMP_NUM_THREADS": "1"},
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone, _ = train("vit", replace(RECIPES["vit"], steps=2, scenes=24, batch=4, warm_up=1), tmp_path / "alone", "cpu")
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    assert not torch.equal(first["head.weight"], alone.state_dict()["head.weight"])


def test_muon_steps_along_orthogonal_matrices():
    torch.manual_seed(0)
    for shape in ((8, 24), (24, 8), (16, 16)):
        gradient = torch.randn(shape)
        left, singular, right = torch.linalg.svd(gradient, full_matrices=False)
        values = left.mT @ orthogonal(gradient) @ right.mT
        kept = singular > 0.05 * singular.max()
        assert ((values.diagonal()[kept] > 0.3) & (values.diagonal()[kept] < 1.3)).all()
        torch.testing.assert_close(values - values.diagonal().diag(), torch.zeros_like(values), atol=1e-4, rtol=0)
    parameter = torch.nn.Parameter(torch.zeros(8, 24))
    parameter.grad = gradient = torch.randn(8, 24)
    Muon([parameter], lr=0.1).step()
    torch.testing.assert_close(parameter.data, -0.2 * 0.1 * 24**0.5 * orthogonal(gradient), atol=1e-6, rtol=1e-4)


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
