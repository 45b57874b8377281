from __future__ import annotations

import pytest
import torch
import torchvision
from adapter_checks import (
    Facts,
    assert_same,
    check_attention_maps,
    check_grid_order,
    check_model,
    check_pool_weights,
    check_streaming,
    check_wrong_size,
    multihead_maps,
)
from models import random_images, randomise, tiny_models

from captum_vit import adapt
from captum_vit.adapters import trace

FACTS = Facts(1, "class", 10)


@pytest.fixture(scope="module")
def vit():
    return tiny_models()["torchvision_vit"]()[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_adapter_is_the_model(vit, batch):
    adapter, images = adapt(vit), random_images(batch, (64, 64))
    with torch.no_grad():
        expected = vit(images)
        assert_same(adapter(images), expected)
    traced = check_model(adapter, images, expected, FACTS, (4, 4))
    check_attention_maps(traced, multihead_maps(vit, lambda: vit(images)))
    assert {record.route for record in traced.blocks} == {"multi_head_attention_forward"}


def test_streaming_and_order_of_patches(vit):
    check_streaming(adapt(vit), random_images(2, (64, 64)))
    check_grid_order(adapt(vit), random_images(1, (64, 64)))


def test_pool_weights(vit):
    check_pool_weights(adapt(vit), random_images(1, (64, 64)))


def test_attention_gradients_are_those_of_perturbed_maps(vit):
    """∂s/∂A = G Vᵀ, against central differences: the last block's map is moved and its output put in its place."""
    adapter, images = adapt(vit), random_images(1, (64, 64))
    traced = trace(adapter, images, gradients=True)
    record = traced.blocks[-1]
    (output,) = torch.autograd.grad(traced.logits[0, 3], [record.output])
    gradient, attention = record.gradient(output).full(), record.attention.full()
    block = vit.encoder.layers[-1]
    received = []
    handle = block.register_forward_pre_hook(lambda module, args: received.append(args[0]))
    with torch.no_grad():
        vit(images)
    handle.remove()

    def score(maps):
        attended = (maps @ record.value).transpose(1, 2).flatten(2)  # (B, N, D)
        tokens = received[0] + block.self_attention.out_proj(attended)
        return adapter.readout(tokens + block.mlp(block.ln_2(tokens)))[0, 3].item()

    for head, query, key in ((0, 0, 5), (1, 0, 0), (1, 7, 3)):
        step = torch.zeros_like(attention)
        step[0, head, query, key] = 1e-4
        with torch.no_grad():
            slope = (score(attention + step) - score(attention - step)) / 2e-4
        # 1e-7: the differences' own error.
        torch.testing.assert_close(gradient[0, head, query, key].item(), slope, atol=1e-7, rtol=0)


def test_convolutional_stem():
    """``conv_stem_configs`` puts several convolutions before the patches."""
    stem = [torchvision.models.vision_transformer.ConvStemConfig(8, 4, 4)]
    model = torchvision.models.VisionTransformer(
        64, 16, 2, 2, 32, 64, num_classes=10, conv_stem_configs=[*stem, stem[0]._replace(out_channels=16)]
    )
    model, images = randomise(model).double().eval(), random_images(2, (64, 64))
    with torch.no_grad():
        expected = model(images)
    check_model(adapt(model), images, expected, Facts(1, "class", 10, depth=2), (4, 4))


def test_real_architecture():
    model = randomise(torchvision.models.vit_b_32(), constants_only=True).eval()
    images = random_images(1, (224, 224)).float()
    with torch.no_grad():
        expected = model(images)
    check_model(adapt(model), images, expected, Facts(1, "class", 1000, depth=12), (7, 7), tolerance=1e-5)  # float32


def test_wrong_size_is_refused(vit):
    check_wrong_size(adapt(vit), (48, 64), r"takes images of 64×64 pixels, got 48×64\. Resize .* another image_size")
