from __future__ import annotations

import pytest
import torch
from adapter_checks import assert_same
from models import random_images, tiny_models
from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.adapters import find_adapter, trace


@pytest.fixture(scope="module")
def adapter():
    return adapt(tiny_models()["timm_vit"]()[0])


@pytest.mark.parametrize("name", ["timm_vit", "timm_deit_distilled", "hf_dinov2_registers", "timm_vit_gap"])
def test_readout_of_mean_is_the_tail_of_a_sequence_of_means(name):
    """LeGrad, arXiv:2404.03214, eq. 3: whatever token the tail reads, it reads the mean of all."""
    model, size = tiny_models()[name]()
    adapter = adapt(model)
    tokens = trace(adapter, random_images(2, size)).tokens
    everywhere = tokens.mean(1, keepdim=True).expand_as(tokens)
    with torch.no_grad():
        assert_same(adapter.readout_of_mean(tokens), adapter.readout(everywhere))


@pytest.mark.parametrize("name", [name for name in tiny_models() if "gap" not in name])
def test_final_norm_is_left_out_on_request(name):
    """Where the norm stands before the pooling (or between pooler and head); ``fc_norm`` after a mean stays."""
    model, size = tiny_models()[name]()
    adapter = find_adapter(model)
    norms = {
        "timm": "norm", "hf_clip": "vision_model.post_layernorm", "hf_siglip": "vision_model.post_layernorm",
        "hf": "base_model.layernorm", "open_clip": "visual.ln_post", "torchvision": "encoder.ln",
    }  # fmt: skip
    path = next(path for prefix, path in norms.items() if name.startswith(prefix))
    if hasattr(getattr(model, "visual", None), "trunk"):
        path = "visual.trunk.norm"
    parent, _, child = path.rpartition(".")
    owner = model.base_model if parent == "base_model" else model.get_submodule(parent)
    tokens = trace(adapter, random_images(1, size)).tokens
    with torch.no_grad():
        without = adapter.readout(tokens, final_norm=False)
        setattr(owner, child, nn.Identity())
        assert_same(without, adapter.readout(tokens))


def test_tokens_of_a_block_that_returns_a_tuple(adapter):
    tokens = torch.zeros(1, 2, 3)
    assert adapter.block_tokens(tokens) is tokens
    assert adapter.block_tokens((tokens, "attention")) is tokens


def test_names_of_outputs_and_blocks(adapter):
    assert adapter.block_name(2) == "blocks.2"
    with pytest.raises(ValueError, match=r"target 'a cat' is a text, but timm VisionTransformer has numbered classes"):
        adapter.target_index("a cat")


def test_good_images_pass(adapter):
    adapter.check_images(torch.zeros(2, 3, 64, 64, dtype=torch.float64))
    with torch.autocast("cpu"):  # it chooses dtypes by itself
        adapter.check_images(torch.zeros(2, 3, 64, 64))


def broken(value: float, *where: int) -> Tensor:
    images = torch.zeros(4, 3, 64, 64, dtype=torch.float64)
    for index in where:
        images[index, 1, 5, 6] = value
    return images


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([[0.0]], TypeError, r"inputs must be a tensor of images \(B, C, H, W\), got list"),
        (torch.zeros(3, 64, 64), ValueError, r"got shape \(3, 64, 64\)\. For one image add .*image\[None\]"),
        (torch.zeros(1, 1, 3, 64, 64), ValueError, r"got shape \(1, 1, 3, 64, 64\)\.$"),
        (torch.zeros(0, 3, 64, 64), ValueError, r"at least one image, got shape \(0, 3, 64, 64\)"),
        (
            torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
            TypeError,
            r"point, got torch\.uint8\. Apply the model",
        ),
        (torch.zeros(1, 4, 64, 64), ValueError, r"inputs must have 3 channels, got 4"),
        (broken(float("nan"), 1, 3), ValueError, r"inputs must be finite, got NaN or infinity in image 1, 3\."),
        (broken(float("-inf"), 2), ValueError, r"got NaN or infinity in image 2\."),
        (torch.zeros(1, 3, 48, 64, dtype=torch.float64), ValueError, r"takes images of 64×64 pixels, got 48×64"),
    ],
)
def test_bad_images_are_refused(adapter, images, error, message):
    with pytest.raises(error, match=message):
        adapter.check_images(images)
