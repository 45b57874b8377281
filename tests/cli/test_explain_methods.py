"""Methods with options, and what goes around them, by the texts that ``captum-vit evaluate`` takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, Occlusion
from model_files import write_hf_classifier, write_hf_clip
from typer.testing import CliRunner

from captum_vit import (
    GradCAM,
    LeGrad,
    LibraGrad,
    MaskedSinks,
    RawAttention,
    TestTimeRegisters,
    TextSpan,
    adapt,
)
from captum_vit.cli import app
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


def run(*arguments):
    return CliRunner().invoke(app, ["explain", "skimage:chelsea", *map(str, arguments)])


def written(folder):
    with np.load(folder / "chelsea.npz") as file:
        return dict(file)


SPECS = {
    "legrad(blocks=[-1])": lambda model: LeGrad(model, blocks=[-1]),
    "grad-cam(block=-2)": lambda model: GradCAM(model, block=-2),
    "grad-cam": GradCAM,
    "libragrad(method='legrad(blocks=[0])')": lambda model: LibraGrad(LeGrad(model, blocks=[0])),
    "masked-sinks(method='raw-attention', factor=1.05)": lambda model: MaskedSinks(RawAttention(model), factor=1.05),
    "test-time-registers(method='text-span', neurons=[(0, 3)], registers=2)": lambda model: TestTimeRegisters(
        TextSpan(model), [(0, 3)], registers=2
    ),
}


def test_maps_are_those_of_the_python_api(classifier, tmp_path, monkeypatch):
    columns = []
    monkeypatch.setattr("captum_vit.cli.job.figure", _keep_columns(columns))
    result = run("--model", classifier, "--target", 1, "--method", ", ".join(SPECS), "-o", tmp_path)
    assert result.exit_code == 0, result.output
    loaded = load_model(classifier)
    pixels = loaded.preprocess(load_image("skimage:chelsea"))[None]
    file = written(tmp_path)
    assert file["methods"].tolist() == list(SPECS)
    for build, maps in zip(SPECS.values(), file["maps"], strict=True):
        expected = build(loaded.model).attribute_targets(pixels, [1])[0, :, 0]
        np.testing.assert_array_equal(maps, expected.numpy())
    assert len({maps.tobytes() for maps in file["maps"]}) == len(SPECS)
    assert columns == [
        "LeGrad(blocks=[-1])",
        "Grad-CAM(block=-2)",
        "Grad-CAM",
        "LibraGrad(method='legrad(blocks=[0])')",
        "Masked Sinks(method='raw-attention', factor=1.05)",
        "Test-time Registers(method='text-span', neurons=[(0, 3)], registers=2)",
    ]


def _keep_columns(columns):
    from captum_vit.viz import figure

    def draw(image, maps, **kwargs):
        columns.extend(maps)
        return figure(image, maps, **kwargs)

    return draw


def test_two_methods_of_one_name_are_two_columns(classifier, tmp_path, monkeypatch):
    columns = []
    monkeypatch.setattr("captum_vit.cli.job.figure", _keep_columns(columns))
    result = run("--model", classifier, "--method", "legrad,captum_vit:LeGrad,legrad", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert columns == written(tmp_path)["methods"].tolist() == ["legrad", "captum_vit:LeGrad"]


def test_a_patch_of_captums_methods_is_the_sum_over_its_pixels(classifier, tmp_path):
    specs = [
        "captum:input-x-gradient",
        "captum:occlusion(strides=(3, 8, 8), sliding_window_shapes=(3, 8, 8))",
        "random",
    ]
    targets = ["--target", 2, "--target", 0]
    result = run("--model", classifier, *targets, "--method", ",".join(specs), "-o", tmp_path)
    assert result.exit_code == 0, result.output
    loaded = load_model(classifier)
    model, pixels = adapt(loaded.model), loaded.preprocess(load_image("skimage:chelsea"))[None].requires_grad_()
    file = written(tmp_path)
    assert file["maps"].shape == (3, 2, 4, 4)
    for index, target in enumerate((2, 0)):
        gradient = InputXGradient(model).attribute(pixels, target=target)
        windows = (3, 8, 8)
        occluded = Occlusion(model).attribute(
            pixels.detach(), strides=windows, sliding_window_shapes=windows, target=target
        )
        size = pixels.shape[-1] // 4
        for row, each in enumerate((gradient, occluded)):
            expected = F.avg_pool2d(each.sum(1, keepdim=True).detach(), size, divisor_override=1)[0, 0]
            np.testing.assert_allclose(file["maps"][row, index], expected, rtol=0, atol=1e-5 * expected.abs().max())
    assert not np.array_equal(file["maps"][2, 0], file["maps"][2, 1])


def test_background_is_suppressed_in_prompts(clip, tmp_path):
    prompts = ["--prompt", "cat", "--prompt", "dog"]
    method = "background-suppression(method='legrad', prompt='photo', threshold=0.5),legrad"
    result = run("--model", clip, *prompts, "--method", method, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    suppressed, plain = written(tmp_path)["maps"]
    assert (suppressed == 0).any()
    np.testing.assert_array_equal(suppressed[suppressed != 0], plain[suppressed != 0])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("grad_cam", "no method is called 'grad_cam'. Did you mean grad-cam or"),
        ("libragad(method='gmar')", "no method is called 'libragad'. Did you mean libragrad"),
        ("libragrad(method='gmarr')", "no method is called 'gmarr'. Did you mean gmar"),
        ("captum:salience", "no method of Captum is called 'salience'. Did you mean saliency"),
        (
            "legrad(layers=3)",
            "options of legrad must be among blocks, relu, per_block_readout, final_norm, targets_per_batch, got",
        ),
        ("grad-cam(block=7)", "got 7"),
        ("grad-cam(-2)", "options must be named, such as steps=28 or method='legrad', got 'grad-cam(-2)'"),
        ("grad-cam(block=-2", "brackets and quotation marks must be closed, got 'grad-cam(block=-2'"),
        ("libragrad(method='gem')", "method must take gradients for LibraGrad to change it, got GEM"),
        ("test-time-registers", "neurons must be given, as in test-time-registers(neurons=[(block, neuron)])"),
        ("test-time-registers(neurons=[(9, 0)])", "neurons must be of blocks in [0, "),
        ("background-suppression", "can't be explained by background-suppression: method must explain a PromptClassif"),
        ("masked-sinks(method='captum:saliency')", "method must be a ViTAttribution of captum_vit, got Saliency"),
        ("captum:layer-grad-cam(layer='vit.layernorm')", "can't be explained by captum:layer-grad-cam: "),
        ("nowhere.module:Method", "method must be importable as module:Class, got 'nowhere.module:Method'"),
    ],
)
def test_methods_that_make_no_sense_end_with_2(classifier, tmp_path, method, message):
    result = run("--model", classifier, "-o", tmp_path / "out", "--method", method)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_blank_map_of_captums_is_reported(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(InputXGradient, "attribute", lambda self, inputs, target: torch.zeros_like(inputs))
    result = run("--model", classifier, "-o", tmp_path, "--method", "captum:input-x-gradient,legrad")
    assert result.exit_code == 1
    assert "captum:input-x-gradient gives a map that is zero everywhere for image 0: nothing that" in result.stderr
    assert written(tmp_path)["methods"].tolist() == ["legrad"]


def test_the_help_shows_how_options_are_written():
    shown = " ".join(CliRunner().invoke(app, ["explain", "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "grad-cam(block=-2)" in shown
