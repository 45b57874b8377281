from __future__ import annotations

import sys
from dataclasses import replace

from model_files import write_hf_clip, write_open_clip, write_timm_checkpoint
from typer.testing import CliRunner

from captum_vit.adapters import trace
from captum_vit.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def facts(result):
    """The lines "name  fact" of the report."""
    lines = (line.split("  ", 1) for line in result.stdout.partition("\n\n")[0].splitlines())
    return {name: fact.strip() for name, fact in lines}


def test_a_timm_model(tmp_path):
    write_timm_checkpoint(tmp_path / "a.pth")
    result = run("timm:test_vit", "--checkpoint", tmp_path / "a.pth", "--image-size", "96x160")
    assert result.exit_code == 0, result.output
    assert facts(result) == {
        "model": "timm:test_vit (pretrained)",
        "family": "timm VisionTransformer (timm.models.vision_transformer.VisionTransformer)",
        "image": "96×160 pixels",
        "patch grid": "6×10",
        "prefix tokens": "1",
        "blocks": "6",
        "heads": "2",
        "head dimension": "32",
        "pooling": "class",
        "outputs": "5 classes",
        "attention route": "scaled_dot_product_attention",
        "bias in softmax": "no",
    }
    assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith("blocks.")] == [
        f"blocks.{index}" for index in range(6)
    ]
    assert result.stdout.endswith("all checks passed (at most 1e-05)\n")
    assert result.stderr == ""


def test_weights_that_cant_be_had_are_replaced_with_a_word():
    result = run("timm:test_vit")
    assert result.exit_code == 0
    assert facts(result)["model"] == "timm:test_vit (UNTRAINED WEIGHTS)"
    assert "Examined with random weights: the model hub does not answer" in result.stderr


def test_models_with_two_towers_need_no_prompts(tmp_path):
    (tmp_path / "hf").mkdir()
    write_hf_clip(tmp_path / "hf")
    (tmp_path / "open_clip").mkdir()
    write_open_clip(tmp_path / "open_clip")
    routes = {"hf": "scaled_dot_product_attention", "open_clip": "multi_head_attention_forward"}
    for library, route in routes.items():
        result = run(f"{library}:{tmp_path / library}")
        assert result.exit_code == 0, result.output
        assert facts(result)["outputs"] == "16 dimensions of the image embedding, to be compared with prompts"
        assert facts(result)["attention route"] == route


def test_models_that_are_not_supported_end_with_1():
    result = run("timm:test_resnet", "--untrained")
    assert result.exit_code == 1
    assert (
        "timm:test_resnet can't be explained: no adapter knows timm.models.resnet.ResNet: it is a convolutional"
        in result.stderr
    )


def test_names_and_options_that_make_no_sense_end_with_2():
    for arguments, message in [
        (["timm:nope"], "timm knows no model 'nope'"),
        (["timm:test_vit", "--image-size", "1x"], "got '1x'"),
        (["timm:test_vit", "--checkpoint", "nowhere.pth"], "got 'nowhere.pth', which is no file"),
        (
            ["timm:test_vit", "--checkpoint", "a.pth", "--untrained"],
            "must not be 'untrained' when there",
        ),
    ]:
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())


def test_a_failed_check_ends_with_1(monkeypatch):
    monkeypatch.setattr(sys.modules["captum_vit.adapters.examine"], "trace", _scaled_wrong)
    result = run("timm:test_vit", "--untrained")
    assert result.exit_code == 1
    assert "FAILED blocks.0: recomputed attention output differs by " in result.stderr
    assert result.stdout.endswith("\nFAILED\n")


def _scaled_wrong(adapter, images):
    traced = trace(adapter, images)
    return replace(traced, blocks=[replace(record, scale=record.scale * 1.5) for record in traced.blocks])
