from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import timm
import torch
from torchvision.models import VisionTransformer

from captum_vit.adapters import adapt, trace
from captum_vit.adapters.examine import examine
from captum_vit.adapters.timm import TimmAdapter

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"img_size": (64, 96), "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return timm.models.VisionTransformer(**options, reg_tokens=3).eval()


def test_the_facts_of_a_model(model):
    examination = examine(model, IMAGES)
    assert examination.family == "timm VisionTransformer"
    assert examination.model_class == "timm.models.vision_transformer.VisionTransformer"
    assert (examination.num_outputs, examination.two_towers, examination.pooling) == (5, False, "class")
    assert (examination.num_prefix_tokens, examination.image_size, examination.grid) == (4, (64, 96), (4, 6))
    assert [block.name for block in examination.blocks] == ["blocks.0", "blocks.1"]
    assert {(block.heads, block.head_dimension, block.bias) for block in examination.blocks} == {(4, 8, False)}
    assert examination.pooler is None
    assert examination.problems == ()
    assert examination.tolerance == 1e-5


def test_errors_are_those_of_the_dtype(model):
    double = examine(model.double(), IMAGES.double())
    assert double.tolerance == 1e-9
    assert double.problems == ()
    assert max(check.attention_error for check in double.checks) < 1e-14
    half = examine(model.bfloat16(), IMAGES.bfloat16())
    assert (half.tolerance, half.problems) == (2e-2, ())
    assert half.blocks[0].attention_error > 1e-6


def test_an_attention_pooler_is_checked_too():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    pooled = timm.models.VisionTransformer(**options, class_token=False, global_pool="map").eval()
    examination = examine(pooled, torch.randn(1, 3, 32, 32))
    assert [check.name for check in examination.checks] == ["blocks.0", "attention pooler"]
    assert examination.problems == ()


def test_a_relative_position_bias_and_multi_head_attention_are_seen():
    beit = timm.create_model(
        "beit_base_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3
    ).eval()
    examination = examine(beit, torch.randn(1, 3, 32, 32))
    assert (examination.blocks[0].bias, examination.problems) == (True, ())
    vit = VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3).eval()  # its head is zero
    examination = examine(vit, torch.randn(1, 3, 32, 32))
    assert examination.blocks[0].route == "multi_head_attention_forward"
    assert (examination.readout_error, examination.problems) == (0.0, ())


def test_a_wrong_record_is_found(model, monkeypatch):
    def wrong(adapter, images):
        traced = trace(adapter, images)
        last = replace(traced.blocks[1], value=traced.blocks[1].value * 1.01)
        return replace(traced, blocks=[traced.blocks[0], last])

    monkeypatch.setattr(sys.modules["captum_vit.adapters.examine"], "trace", wrong)
    problems = examine(model, IMAGES).problems
    assert len(problems) == 1
    assert problems[0] == "blocks.1: recomputed attention output differs by 1.0e-02"


def test_a_capture_that_disturbs_the_model_is_found(model, monkeypatch):
    def disturbed(adapter, images):
        return trace(adapter, images * 1.1)

    monkeypatch.setattr(sys.modules["captum_vit.adapters.examine"], "trace", disturbed)
    problems = examine(model, IMAGES).problems
    assert problems[0].startswith("blocks.0: output with capture differs by ")


def test_a_wrong_readout_is_found(model):
    class Unnormed(TimmAdapter):
        def readout(self, tokens, *, final_norm=True):
            return super().readout(tokens, final_norm=False)

    (problem,) = examine(Unnormed(model), IMAGES).problems
    assert problem.startswith("readout of the last block's tokens differs from the outputs by ")


def test_the_model_is_left_as_it_came(model):
    adapter = adapt(model)
    examine(adapter, IMAGES)
    with pytest.raises(ValueError, match="64×96 pixels, got 64×64"):
        examine(adapter, IMAGES[..., :64])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_models_that_cant_be_examined(model):
    with pytest.raises(TypeError, match=r"no adapter knows torch\.nn\.modules\.linear\.Linear\."):
        examine(torch.nn.Linear(2, 2), IMAGES)
    with pytest.raises(RuntimeError, match="training mode"):
        examine(model.train(), IMAGES)
    for block in model.eval().blocks:
        block.attn.fused_attn = False
    with pytest.raises(RuntimeError, match=r"block 0 \(blocks\.0\) .* made no call of fused attention"):
        examine(model, IMAGES)
