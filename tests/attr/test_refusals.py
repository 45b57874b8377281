"""Models that would be explained wrongly without a word, and targets in the forms that users have at hand."""

import numpy as np
import pytest
import torch
from oracle import exact
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit import METHODS, Adapter, AttentionCAM, CheferCAM, LeGrad
from captum_vit.adapters import adapt

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


class Halved(VisionTransformer):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :2] / 2


def small() -> VisionTransformer:
    return VisionTransformer(**SMALL).eval()


def test_a_subclass_with_a_forward_of_its_own_is_refused():
    with pytest.raises(TypeError, match=r"Halved replaces the forward of VisionTransformer.*@register_adapter"):
        LeGrad(Halved(**SMALL).eval())


@pytest.mark.parametrize("method", METHODS.values())
def test_outputs_that_are_not_the_adapters_are_refused(method):
    model = small()
    explained = method(model)
    model.head = nn.Linear(24, 7).eval()
    with pytest.raises(RuntimeError, match=r"must return logits \(B, 5\), got \(1, 7\)"):
        explained.attribute(torch.randn(1, 3, 32, 32), target=1)


def test_an_adapter_with_an_unknown_pooling_is_refused():
    adapter = adapt(small())
    adapter.pooling = "attn"
    with pytest.raises(ValueError, match=r"pooling of timm VisionTransformer must be one of .*, got 'attn'"):
        LeGrad(adapter)


def test_a_model_that_was_compiled_later_is_refused():
    model = small()
    method = CheferCAM(model)
    model.compile()
    with pytest.raises(TypeError, match="the model is compiled"):
        method.attribute(torch.randn(1, 3, 32, 32), target=1)


def test_a_model_that_was_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = small()
    with pytest.raises(RuntimeError, match=r"parameter 'cls_token' was made in inference mode"):
        LeGrad(model).attribute(torch.randn(1, 3, 32, 32), target=1)


def test_a_wrapped_model_is_pointed_at():
    with pytest.raises(TypeError, match=r"its module '1' \(VisionTransformer\) has one\. Explain that module"):
        LeGrad(nn.Sequential(nn.Identity(), small()).eval())


def without_gradients_in(block: int) -> VisionTransformer:
    model = small()
    attention = model.blocks[block].attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: torch.no_grad()(forward)(*args, **kwargs)
    return model


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("name", ["gmar", "chefer-cam", "legrad", "gradient-rollout", "attention-guided-cam"])
def test_gradients_turned_off_inside_a_block_are_noticed(block, name):
    with pytest.raises(RuntimeError, match=r"turns gradients off inside its forward|gradients do not reach"):
        METHODS[name](without_gradients_in(block)).attribute(torch.randn(1, 3, 32, 32), target=1)


def test_gradients_turned_off_inside_a_block_are_noticed_where_they_count():
    images = torch.randn(1, 3, 32, 32)
    for block in (0, 1):  # the last block's gradient passes neither
        AttentionCAM(without_gradients_in(block)).attribute(images, target=1)
        CheferCAM(without_gradients_in(block), start_block=2).attribute(images, target=1)
    for method in (AttentionCAM(without_gradients_in(2)), CheferCAM(without_gradients_in(2), start_block=2)):
        with pytest.raises(RuntimeError, match="gradients do not reach the attention maps"):
            method.attribute(images, target=1)


def test_images_of_another_dtype_are_refused_with_the_cast():
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"dtype torch\.float32, got torch\.float64\. Cast them: inputs\.to\(torch\.float32\)"
    ):
        LeGrad(small()).attribute(images, target=1)


def test_images_on_another_device_are_refused():
    with pytest.raises(ValueError, match="must be on the model's device cpu, got meta"):
        LeGrad(small()).attribute(torch.zeros(1, 3, 32, 32, device="meta"), target=1)


def test_numpy_targets_and_captums_tuples(vit, images):
    method = LeGrad(vit)
    one = method.attribute(images, target=3)
    exact(method.attribute(images, target=np.int64(3)), one)
    each = method.attribute(images, target=[3, 0, 1])
    exact(method.attribute(images, target=np.array([3, 0, 1])), each)
    exact(method.attribute(images, target=[(3,), (0,), (1,)]), each)
    with pytest.raises(TypeError, match=r"target must be an int or a prompt, got \(3, 1\)"):
        method.attribute(images, target=[(3, 1), (0, 1), (1, 1)])


def test_blocks_of_a_tuple_of_images(vit, images):
    exact(LeGrad(vit).attribute_blocks((images,), target=1), LeGrad(vit).attribute_blocks(images, target=1))
    with pytest.raises(TypeError, match=r"blocks must be a list of indices, got -1; write \[-1\]"):
        LeGrad(vit, blocks=-1)


def test_an_adapter_is_a_class_to_fill_in():
    with pytest.raises(TypeError, match="abstract"):
        Adapter(small())
