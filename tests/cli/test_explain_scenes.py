"""``captum-vit explain`` on scenes and with the shipped models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from captum_vit import METHODS, PromptClassifier, adapt
from captum_vit.cli import app
from captum_vit.data import Scenes
from captum_vit.zoo import load_image, load_model

SCENE = Scenes(10)[7]
PHRASES = [each.phrase for each in SCENE.objects]
LABELS = [each.label for each in SCENE.objects]


def run(*arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def saved(path):
    with np.load(path) as file:
        return dict(file)


def test_the_objects_of_a_scene_are_explained_with_their_masks(tmp_path):
    result = run("--scene", 7, "--method", "legrad,chefer-cam", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "No --model: scenes:vit, trained on synthetic scenes of coloured shapes." in result.stderr
    written = saved(tmp_path / "scene-7.npz")
    assert written["targets"].tolist() == LABELS
    assert written["labels"].tolist() == [f"{each.label} {each.name}" for each in SCENE.objects]
    np.testing.assert_array_equal(written["masks"], torch.stack([each.mask for each in SCENE.objects]).numpy())
    np.testing.assert_array_equal(written["image"], SCENE.image.permute(1, 2, 0).numpy())
    model = adapt(load_model("scenes:vit").model)
    expected = METHODS["legrad"](model).attribute_targets(SCENE.image[None] / 127.5 - 1, LABELS)[0, :, 0]
    np.testing.assert_allclose(written["maps"][0], expected, atol=1e-5, rtol=0)
    assert (tmp_path / "scene-7.png").stat().st_size > 10_000
    assert "predicted" not in result.stdout


def test_a_text_model_is_asked_for_the_objects_of_all_scenes(tmp_path):
    result = run("--scene", 7, "--scene", 8, "--model", "scenes:siglip", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "No --model" not in result.stderr
    assert saved(tmp_path / "scene-7.npz")["labels"].tolist() == PHRASES
    assert saved(tmp_path / "scene-8.npz")["labels"].tolist() == [each.phrase for each in Scenes(10)[8].objects]


def test_with_a_prompt_the_text_model_is_the_default(tmp_path):
    result = run("scene:7", "--prompt", PHRASES[0], "--prompt", "a purple cross", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "No --model: scenes:clip, trained" in result.stderr
    written = saved(tmp_path / "scene-7.npz")
    np.testing.assert_array_equal(written["masks"][0], SCENE.objects[0].mask.numpy())
    assert not written["masks"][1].any()  # no such object
    loaded = load_model("scenes:clip")
    model = PromptClassifier(loaded.model, loaded.load_tokenizer(), [PHRASES[0], "a purple cross"])
    logits = model(SCENE.image[None] / 127.5 - 1)[0].detach()
    np.testing.assert_allclose(written["logits"], logits, atol=1e-4, rtol=0)  # float32


def test_with_a_template_the_text_model_is_the_default(tmp_path):
    result = run("--scene", 7, "--template", "a photo of {}", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "No --model: scenes:clip, trained" in result.stderr
    assert saved(tmp_path / "scene-7.npz")["labels"].tolist() == PHRASES


@pytest.mark.parametrize("model", ["timm:test_vit", "scenes:vit"])
def test_a_model_that_has_no_class_for_the_objects_says_what_it_explains(model, tmp_path):
    untrained = ["--model", model, "--untrained", "-o", tmp_path]
    notice = f"{model} has no classes that name the objects of a scene: its predicted class is explained."
    result = run("--scene", 7, *untrained)
    assert result.exit_code == 0, result.output
    assert notice in result.stderr
    assert "predicted" in result.stdout
    assert notice not in run("--scene", 7, "--target", 1, *untrained).stderr
    assert notice not in run("skimage:chelsea", *untrained).stderr


def test_a_model_that_knows_the_objects_needs_no_notice(tmp_path):
    for model in ("scenes:vit", "scenes:clip"):
        assert "predicted class" not in run("--scene", 7, "--model", model, "-o", tmp_path).stderr


def test_words_that_mean_nothing_to_the_model_are_named(tmp_path):
    result = run("--scene", 7, "--prompt", "a cat", "--prompt", "a red star", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "scenes:clip never saw the words 'cat': they mean nothing to it." in result.stderr
    assert "never saw" not in run("--scene", 7, "--prompt", "a photo of a red star.", "-o", tmp_path).stderr


def test_a_scene_goes_through_another_models_preprocessing_with_its_masks(tmp_path):
    """At twice the size a mask covers four times the pixels, in the same places."""
    result = run("--scene", 7, "--image-size", 192, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    masks = torch.from_numpy(saved(tmp_path / "scene-7.npz")["masks"])
    whole = torch.stack([each.mask for each in SCENE.objects]).float()
    expected = torch.nn.functional.interpolate(whole[None], scale_factor=2)[0] > 0.5
    assert (masks != expected).float().mean() < 0.01


def test_scenes_and_photographs_together(tmp_path):
    load_image("skimage:chelsea").save(tmp_path / "cat.png")
    result = run(tmp_path / "cat.png", "--scene", 7, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "predicted" in result.stdout
    assert not saved(tmp_path / "out" / "cat.npz")["masks"].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one image file, or a scene with --scene 7."),
        (
            ["--scene", "-1"],
            "Invalid value for --scene: scene must be scene:NUMBER with a whole number in [0, 10^18), got ",
        ),
        (["--scene", "-1"], "got 'scene:-1'."),
        (["--scene", "7", "--scene", "abc"], "got 'scene:abc'."),
        (["--scene", "1.5"], "got 'scene:1.5'."),
        (["--scene", "99999999999999999999"], "in [0, 10^18), got 'scene:99999999999999999999'."),
        (["--scene", "7", "--template", "photo"], "for --template: template must contain {} for the prompt, got 'ph"),
        (["--scene", "7", "--model", "scenes:vit", "--template", "a {}"], "for --template: scenes:vit reads no texts"),
        (
            ["--scene", "7", "--model", "scenes:"],
            "must be one of scenes:vit, scenes:clip, scenes:siglip, got 'scenes:'",
        ),
        (["--scene", "7", "--model", "scenes:vitt"], "must be one of scenes:vit, scenes:clip, scenes:siglip, got"),
        (
            ["--scene", "7", "--image-size", "100"],
            "for --image-size: image_size must be a multiple of 8×8 for scenes:vit, got 100",
        ),
        (["--scene", "7", "skimage:chelsea", "--model", "scenes:clip"], "needs at least one: --prompt 'a cat'"),
        (["--scene", "7", "-o", "{file}"], "can't be written: "),
    ],
)
def test_what_makes_no_sense_ends_with_2(arguments, message, tmp_path):
    (tmp_path / "file").touch()
    result = run(*(str(tmp_path / "file") if each == "{file}" else each for each in arguments))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
