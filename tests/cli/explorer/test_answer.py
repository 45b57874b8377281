"""What the page of ``captum-vit app`` asks, without the page."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit import AttentionRollout, GradCAM, LeGrad, PromptClassifier, adapt
from captum_vit.adapters.capture import trace
from captum_vit.attr import upsample
from captum_vit.cli.explorer.answer import Explorer, RefusedError
from captum_vit.cli.explorer.blocks import maps_by_block
from captum_vit.viz import overlay
from captum_vit.zoo import load_image, load_model, load_scene

NAMES = ("scenes:vit", "scenes:clip", "scenes:siglip")


@pytest.fixture(scope="module")
def explorer():
    return Explorer({name: load_model(name) for name in NAMES}, "cpu", max_bytes=100_000, max_pixels=40_000)


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((120, 100), 60).convert("RGB").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def pictures(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_the_objects_of_a_scene_are_explained(explorer):
    answer = explorer.answer("scene:7", "scenes:vit", "legrad", [], opacity=0.5, by_block=True)
    loaded, objects = explorer.models["scenes:vit"], load_scene("scene:7").objects
    pixels = loaded.preprocess(load_image("scene:7"))[None]
    with torch.no_grad():
        logits = loaded.model(pixels)[0]
    labels = [each.label for each in objects]
    assert [name for name, _ in answer.scores] == [f"{label} {loaded.class_names[label]}" for label in labels]
    np.testing.assert_allclose([score for _, score in answer.scores], logits[labels], atol=1e-5)
    shown = loaded.denormalise(pixels[0]).permute(1, 2, 0).numpy()
    maps = LeGrad(loaded.model).attribute_targets(pixels, labels)[0]
    each_block = [LeGrad(loaded.model).attribute_blocks(pixels, label)[0] for label in labels]
    drawn, drawn_blocks = pictures(answer.picture), pictures(answer.blocks)
    assert len(drawn_blocks) == len(objects) * (1 + len(loaded.model.blocks))
    for row in range(len(objects)):
        expected = overlay(shown, upsample(maps, (96, 96))[row, 0].numpy(), opacity=0.5)
        np.testing.assert_allclose(drawn[len(objects) + row], expected, atol=1e-5)
        expected = overlay(shown, upsample(each_block[row], (96, 96))[3, 0].numpy(), opacity=0.5)
        np.testing.assert_allclose(drawn_blocks[4 * len(objects) + row], expected, atol=1e-5)
    assert answer.notes == [
        "By block: LeGrad's map of each block; their mean is its map. Each map is scaled by itself."
    ]


def test_an_uploaded_image_is_asked_for_its_predicted_class_or_for_named_ones(explorer, photo):
    predicted = explorer.answer(photo, "scenes:vit", "grad-cam", [], opacity=0.7, by_block=False)
    loaded = explorer.models["scenes:vit"]
    with torch.no_grad():
        best = int(loaded.model(loaded.preprocess(load_image(photo))[None]).argmax())
    assert predicted.scores[0][0] == f"{best} {loaded.class_names[best]}"
    assert predicted.notes == ["No class was asked for: this is the predicted one."]
    assert predicted.blocks is None
    named = explorer.answer(photo, "scenes:vit", "grad-cam", ["red star", "5"], opacity=0.7, by_block=False)
    assert [name for name, _ in named.scores] == ["3 red star", "5 red ring"]
    assert named.notes == []


def test_prompts_are_compared_and_unknown_words_are_named(explorer, photo):
    answer = explorer.answer(photo, "scenes:clip", "legrad", ["a red star", "a zeppelin"], opacity=0.7, by_block=False)
    loaded = explorer.models["scenes:clip"]
    classifier = PromptClassifier(loaded.model, loaded.load_tokenizer(), ["a red star", "a zeppelin"])
    with torch.no_grad():
        logits = classifier(loaded.preprocess(load_image(photo))[None])[0]
    assert [name for name, _ in answer.scores] == ["a red star", "a zeppelin"]
    np.testing.assert_allclose([score for _, score in answer.scores], logits, atol=1e-4)
    assert answer.notes == [
        "scenes:clip never saw the words 'zeppelin': they mean nothing to it. It knows prompts such as 'a photo of a "
        "red star'."
    ]


def test_the_methods_of_each_model(explorer):
    assert "text-span" not in explorer.methods_of("scenes:siglip")
    assert {"text-span", "vit-cx"} <= set(explorer.methods_of("scenes:clip"))


def test_the_grad_cam_family_has_a_map_at_each_block(explorer):
    model = explorer.models["scenes:vit"].model
    pixels = explorer.models["scenes:vit"].preprocess(load_image("scene:1"))[None]
    what, maps = maps_by_block(GradCAM(model), pixels, [3, 8])
    assert what == "Grad-CAM at each block."
    expected = GradCAM(model, block=2).attribute_targets(pixels, [3, 8])[0, :, 0]
    torch.testing.assert_close(maps[:, 2], expected)
    assert maps.shape == (2, len(model.blocks), 12, 12)


@pytest.mark.parametrize("name", ["scenes:clip", "scenes:siglip"])
def test_other_methods_show_the_attention_of_each_block(explorer, name):
    loaded = explorer.models[name]
    adapter = adapt(PromptClassifier(loaded.model, loaded.load_tokenizer(), ["a red star", "a blue ring"]))
    pixels = loaded.preprocess(load_image("scene:1"))[None]
    what, maps = maps_by_block(AttentionRollout(adapter), pixels, [0, 1])
    assert what.startswith("Attention Rollout has no map of a single block: this is where the attention of each goes")
    for index, record in enumerate(trace(adapter, pixels).blocks):
        attention = record.attention.full()[0].mean(0)  # (N, N)
        row = attention[0, 1:] if name == "scenes:clip" else attention.mean(0)
        for target in range(2):
            torch.testing.assert_close(maps[target, index].flatten(), row)


@pytest.mark.parametrize(
    ("model", "method", "asked", "message"),
    [
        ("scenes:vit", "legrad", ["64"], r"^Classes: must be in \[0, 63\], got 64\.$"),
        ("scenes:vit", "legrad", ["red sta"], "^Classes: no class of scenes:vit is called 'red sta'. The nearest: red"),
        ("scenes:vit", "legrad", ["1"] * 9, "^Classes or prompts: there is room for 8, got 9.$"),
        ("scenes:clip", "legrad", [], "^Prompts: scenes:clip compares images with texts and needs at least one.$"),
        ("scenes:clip", "legrad", ["a", "a"], "^Prompts: prompts must differ from each other, got 'a' more than once"),
        ("scenes:siglip", "text-span", ["a"], "^Method: scenes:siglip can't be explained by text-span: TextSpan"),
        ("scenes:vit", "le-grad", [], "^Method: must be one of raw-attention, .* got 'le-grad'.$"),
        ("timm:vit", "legrad", [], "^Model: must be one of scenes:vit, scenes:clip, scenes:siglip, got 'timm:vit'.$"),
    ],
)
def test_questions_that_make_no_sense_are_refused(explorer, photo, model, method, asked, message):
    with pytest.raises(RefusedError, match=message):
        explorer.answer(photo, model, method, asked, opacity=0.7, by_block=False)


def test_files_that_are_no_images_or_too_large_are_refused(explorer, tmp_path):
    (tmp_path / "notes.png").write_text("<b>not an image</b>")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "large.png").write_bytes(b"0" * 100_001)
    Image.new("RGB", (400, 101)).save(tmp_path / "many.png")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    for name, message in {
        "notes.png": "^The image must be in one of the formats PNG, JPEG, WEBP, GIF, BMP, TIFF, got notes.png.$",
        "page.eps": "^The image must be in one of the formats .* got page.eps.$",
        "large.png": r"^The file must have at most 0\.1 MB, got 0\.1 MB \(100001 bytes\)\.$",
        "many.png": r"^The image must have at most 0\.04 megapixels, got 400×101 = 0\.0404\.$",
        "bomb.png": r"^The image bomb\.png has too many pixels: Image size \(200000000 pixels\) exceeds limit",
        "none.png": "^The image must be a file, scene:NUMBER or skimage:NAME, got 'none.png', which is no file.$",
    }.items():
        with pytest.raises(RefusedError, match=message):
            explorer.image(str(tmp_path / name))
    with pytest.raises(RefusedError, match=r"^The scene must be scene:NUMBER with a whole .* got 'scene:x'.$"):
        explorer.image("scene:x")
    with pytest.raises(RefusedError, match=r"^There is no image: upload a file, or choose a scene\.$"):
        explorer.image("")
    Image.new("RGB", (400, 100)).save(tmp_path / "enough.png")
    assert explorer.image(str(tmp_path / "enough.png")).size == (400, 100)


def test_a_blank_map_is_refused_with_its_reason(explorer, photo):
    loaded = load_model("scenes:vit")
    torch.nn.init.zeros_(loaded.model.head.weight)
    blind = Explorer({"blind": loaded}, "cpu", max_bytes=100_000, max_pixels=40_000)
    with pytest.raises(RefusedError, match=r"^LeGrad gives a map that is zero everywhere for image 0: "):
        blind.answer(photo, "blind", "legrad", ["1"], opacity=0.7, by_block=False)
    answer = blind.answer(photo, "blind", "attention-rollout", ["1"], opacity=0.7, by_block=True)
    assert answer.blocks is not None
