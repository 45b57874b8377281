from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from model_files import write_hf_classifier, write_hf_clip, write_timm_checkpoint
from PIL import Image
from typer.testing import CliRunner

from captum_vit import METHODS, CheferCAM, LeGrad, PromptClassifier
from captum_vit.cli import app
from captum_vit.cli.job import result_stems
from captum_vit.zoo import load_image, load_model


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    write_hf_classifier(folder)
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_hf_clip(folder)
    return f"hf:{folder}"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    load_image("skimage:chelsea").resize((90, 60)).save(path)
    return path


def saved(path):
    with np.load(path) as file:
        return dict(file)


def said(result):
    """What stands on stderr, without the line breaks."""
    return " ".join(result.stderr.split())


def run(*arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_maps_are_those_of_the_python_api(classifier, photo, tmp_path):
    targets, methods = ["--target", 2, "--target", 0], ["--method", "legrad,chefer-cam"]
    result = run(photo, "--model", classifier, *targets, *methods, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    loaded = load_model(classifier)
    pixels = loaded.preprocess(load_image(photo))[None]
    expected = [method(loaded.model).attribute_targets(pixels, [2, 0])[0, :, 0] for method in (LeGrad, CheferCAM)]
    written = saved(tmp_path / "photo-2.npz")  # photo.png is the image itself
    np.testing.assert_array_equal(written["maps"], torch.stack(expected).numpy())
    assert written["maps"].shape == (2, 2, 4, 4)
    assert written["methods"].tolist() == ["legrad", "chefer-cam"]
    assert written["targets"].tolist() == [2, 0]
    assert written["labels"].tolist() == ["2 tree, oak", "0 cat"]
    logits = loaded.model(pixels).logits[0, [2, 0]].detach()
    np.testing.assert_allclose(written["logits"], logits, atol=1e-6, rtol=0)  # float32
    assert written["grid"].tolist() == [4, 4]
    assert [written[name].item() for name in ("model", "pretrained", "source")] == [classifier, True, str(photo)]
    assert set(json.loads(written["versions"].item())) == {
        *("captum-vit", "torch", "torchvision", "timm", "transformers", "open_clip_torch")
    }
    shown = loaded.denormalise(pixels[0]).permute(1, 2, 0) * 255
    np.testing.assert_array_equal(written["image"], shown.round().byte().numpy())


def test_the_figure_is_an_image_with_a_column_per_method_and_a_row_per_target(classifier, photo, tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    assert run(photo, "--model", classifier, "-o", small).exit_code == 0
    targets = [part for target in (0, 1, 2) for part in ("--target", target)]
    assert run(photo, "--model", classifier, *targets, "--method", ",".join(METHODS), "-o", large).exit_code == 0
    with Image.open(small / "photo.png") as one, Image.open(large / "photo.png") as many:
        assert many.width > 3 * one.width
        assert many.height > 2 * one.height
        assert len(one.convert("RGB").getcolors(10**6)) > 1000


def test_the_predicted_class_is_the_default_and_is_printed(classifier, photo, tmp_path):
    result = run(photo, "--model", classifier, "-o", tmp_path / "out")
    loaded = load_model(classifier)
    logits = loaded.model(loaded.preprocess(load_image(photo))[None]).logits[0]
    best = int(logits.argmax())
    assert f"predicted {best} {loaded.class_names[best]} (logit {logits[best]:.2f})" in result.stdout
    assert saved(tmp_path / "out" / "photo.npz")["targets"].tolist() == [best]


def test_classes_have_names(classifier, photo, tmp_path):
    result = run(photo, "--model", classifier, "--target", "Oak", "--target", "dog", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert saved(tmp_path / "out" / "photo.npz")["targets"].tolist() == [2, 1]


def test_prompts_are_compared_with_the_image(clip, photo, tmp_path):
    prompts = ["--prompt", "cat", "--prompt", "dog"]
    templates = ["--template", "a {}", "--template", "photo of {}"]
    result = run(photo, "--model", clip, *prompts, *templates, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    loaded = load_model(clip)
    model = PromptClassifier(loaded.model, loaded.load_tokenizer(), ["cat", "dog"], template=["a {}", "photo of {}"])
    pixels = loaded.preprocess(load_image(photo))[None]
    written = saved(tmp_path / "out" / "photo.npz")
    expected = LeGrad(model).attribute_targets(pixels, ["cat", "dog"])[0, :, 0]
    np.testing.assert_array_equal(written["maps"][0], expected.numpy())
    assert written["labels"].tolist() == ["cat", "dog"]


def test_a_checkpoint_and_another_image_size(photo, tmp_path):
    write_timm_checkpoint(tmp_path / "a.pth")
    model = ["--model", "timm:test_vit", "--checkpoint", tmp_path / "a.pth"]
    result = run(photo, *model, "--image-size", "64x96", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    written = saved(tmp_path / "out" / "photo.npz")
    assert (written["grid"].tolist(), written["image"].shape) == ([4, 6], (64, 96, 3))
    assert written["pretrained"].item()


def test_untrained_weights_are_announced(photo, tmp_path, monkeypatch):
    notices = []
    monkeypatch.setattr("captum_vit.cli.job.figure", _keep_notice(notices))
    result = run(photo, "--model", "timm:test_vit", "--untrained", "-o", tmp_path / "out", "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "UNTRAINED WEIGHTS for timm:test_vit: the maps show nothing" in result.stderr
    written = saved(tmp_path / "out" / "photo.npz")
    assert (written["pretrained"].item(), written["seed"].item()) == (False, 3)
    assert notices == ["UNTRAINED WEIGHTS: these maps mean nothing"]


def test_untrained_weights_are_drawn_from_the_seed(photo, tmp_path):
    maps = []
    for seed in (0, 0, 1):
        result = run(photo, "--model", "timm:test_vit", "--untrained", "--seed", seed, "-o", tmp_path / "o")
        assert result.exit_code == 0, result.output
        maps.append(saved(tmp_path / "o" / "photo.npz")["maps"])
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])


def _keep_notice(notices):
    from captum_vit.viz import figure

    def draw(*args, **kwargs):
        notices.append(kwargs["notice"])
        return figure(*args, **kwargs)

    return draw


def test_a_broken_image_does_not_stop_the_others(classifier, photo, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:300])
    images = [photo, broken, tmp_path / "missing.jpg", "skimage:coffee"]
    result = run(*images, "--model", classifier, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "coffee.npz",
        "coffee.png",
        "photo.npz",
        "photo.png",
    ]
    summary = result.stderr.partition("2 of 4 images had problems:\n")[2].splitlines()
    assert len(summary) == 2
    assert f"broken.png: image {broken} can't be read: " in summary[0]
    assert "missing.jpg: image must be a file" in summary[1]


def test_many_images_have_a_progress_bar_and_one_has_none(classifier, photo, tmp_path):
    out = ["--model", classifier, "-o", tmp_path / "out"]
    shown = run(photo, "skimage:coffee", *out).stderr
    assert "2/2" in shown
    assert "image" in shown
    assert "image" not in run(photo, *out).stderr


def test_a_blank_map_is_reported_and_the_other_methods_go_on(classifier, photo, tmp_path, monkeypatch):
    class Blank(LeGrad):
        def _relevance(self, images, targets):
            return super()._relevance(images, targets) * 0

    monkeypatch.setitem(METHODS, "legrad", Blank)
    out = ["--model", classifier, "-o", tmp_path / "out"]
    result = run(photo, *out, "--method", "legrad,chefer-cam")
    assert result.exit_code == 1
    assert f"{photo}: LeGrad gives a map that is zero everywhere for image 0: " in result.stderr
    assert saved(tmp_path / "out" / "photo.npz")["methods"].tolist() == ["chefer-cam"]
    assert run("skimage:coffee", *out, "--method", "legrad").exit_code == 1
    assert not (tmp_path / "out" / "coffee.npz").exists()


def test_results_never_share_a_name_nor_overwrite_an_image(tmp_path):
    def stems(*images):
        return result_stems([str(image) for image in images], tmp_path)

    assert stems("a/cat.png", "b/cat.jpg", "c/cat-2.png", "d/CAT.png") == ["cat", "cat-2", "cat-2-2", "CAT-3"]
    assert stems("skimage:chelsea", "chelsea.png") == ["chelsea", "chelsea-2"]
    assert stems(tmp_path / "cat.png") == ["cat-2"]
    assert stems("b/cat.jpg", tmp_path / "cat.png") == ["cat-2", "cat-3"]
    assert stems(tmp_path / "cat.jpg") == ["cat"]


@pytest.mark.parametrize("ending", ["npz", "png"])
def test_a_folder_in_a_results_place_ends_with_2(ending, classifier, photo, tmp_path):
    taken = tmp_path / "out" / f"photo.{ending}"
    taken.mkdir(parents=True)
    result = run(photo, "--model", classifier, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert f"Invalid value for --output: {taken} can't be written: Is a directory." in said(result)


def test_a_disk_that_is_full_ends_with_2(classifier, photo, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")  # names no file

    monkeypatch.setattr("captum_vit.cli.job.np.savez_compressed", full)
    result = run(photo, "--model", classifier, "-o", tmp_path)
    assert result.exit_code == 2, result.output
    assert f"{tmp_path / 'photo-2.npz'} can't be written: No space left on device." in said(result)


def test_an_interruption_ends_with_130(classifier, photo, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("captum_vit.cli.job.explain_image", interrupted)
    result = run(photo, "--model", classifier, "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert f"Interrupted. What was finished is in {tmp_path / 'out'}." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "le-grad"], "no method is called 'le-grad'. Did you mean legrad"),
        (["--method", ","], "must name at least one method, got ','"),
        (["--target", "3"], "must be in [0, 2], got 3"),
        (["--target", "-1"], "must be in [0, 2], got -1"),
        (["--target", "catt"], "is called 'catt'. The nearest: cat."),
        (["--prompt", "a cat"], "reads no texts; choose classes with --target"),
        (["--target", "1", "--prompt", "a cat"], "can't go together with --prompt"),
        (["--untrained", "--checkpoint", "a.pth"], "can't go together with --checkpoint"),
        (["--image-size", "32by32"], "for example 224 or 224x448, got '32by32'"),
        (["--image-size", "0"], "got '0'"),
        (["--image-size", "36x32"], "got 36×32"),
        (["--device", "toaster"], "'toaster' can't be used here: "),
        (["--checkpoint", "nowhere.pth"], "checkpoint must be a file, got 'nowhere.pth'"),
        (["--output", "{photo}"], "can't be written: "),
    ],
)
def test_options_that_make_no_sense_end_with_2(classifier, photo, tmp_path, arguments, message):
    arguments = [str(photo) if each == "{photo}" else each for each in arguments]
    result = run(photo, "--model", classifier, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs at least one: --prompt 'a cat'"),
        (["--target", "1"], "has no classes; compare the image with texts"),
        (["--prompt", "a cat", "--prompt", "a cat"], "must differ from each other, got 'a cat' more than once"),
        (["--prompt", " "], "prompts must not be empty texts, got ' '"),
        (["--prompt", "cat", "--template", "photo"], "template must contain {} for the prompt, got 'photo'"),
    ],
)
def test_prompts_that_make_no_sense_end_with_2(clip, photo, tmp_path, arguments, message):
    result = run(photo, "--model", clip, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:test_vit", "the pretrained weights of timm:test_vit can't be had: the model hub does not answer"),
        ("timm:test_vitt", "timm knows no model 'test_vitt'. The nearest names: test_vit"),
        ("vit_base_patch16_224", "model must be one of timm:NAME"),
    ],
)
def test_a_named_model_without_weights_ends_with_2(photo, tmp_path, model, message):
    result = run(photo, "--model", model, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_models_that_cant_be_explained_end_with_2(photo, tmp_path):
    result = run(photo, "--model", "timm:test_resnet", "--untrained", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "no adapter knows timm.models.resnet.ResNet: it is a convolutional network" in " ".join(
        result.stderr.split()
    )
    result = run(photo, "--model", "timm:vit_small_patch16_dinov3", "--untrained", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "has no classifier; name one of its 384 features" in " ".join(result.stderr.split())


def test_attention_that_cant_be_captured_ends_with_2(photo, tmp_path, monkeypatch):
    monkeypatch.setattr("timm.layers.attention.use_fused_attn", lambda: False)
    result = run(photo, "--model", "timm:test_vit", "--untrained", "-o", tmp_path / "out")
    assert result.exit_code == 2
    message = " ".join(result.stderr.split())
    assert "timm:test_vit can't be explained: block 0 (blocks.0)" in message
    assert "timm.layers.set_fused_attn(True)" in message
