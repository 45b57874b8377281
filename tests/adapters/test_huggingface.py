from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import transformers
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
from models import EMBEDDING, SIZE, random_images, randomise, tiny_models, wide_models
from torch import Tensor, nn

from captum_vit.adapters import Adapter, find_adapter, trace
from captum_vit.adapters.huggingface import CLIPTower, SiglipClassifierAdapter, SiglipTower, ViTAdapter

FACTS = {
    "hf_vit": Facts(1, "class", 10),
    "hf_deit": Facts(2, "class", 10),
    "hf_deit_distilled": Facts(2, "class", 10),
    "hf_dinov2": Facts(1, "class", 10),
    "hf_dinov2_registers": Facts(5, "class", 10),
    "hf_beit": Facts(1, "mean", 10),
    "hf_beit_shared": Facts(1, "class", 10),
    "hf_clip_classifier": Facts(1, "mean", 10),
    "hf_siglip_classifier": Facts(0, "mean", 10),
    "hf_clip": Facts(1, "class", EMBEDDING),
    "hf_siglip": Facts(0, "attention", 32, queries=1),
}
TWO_TOWERS = ["hf_clip", "hf_siglip"]
ANY_SIZE = ["hf_dinov2", "hf_dinov2_registers", "hf_beit", "hf_beit_shared"]
ONE_SIZE = [name for name in FACTS if name not in ANY_SIZE]
CASES = [
    *((name, "square", (4, 4)) for name in FACTS),
    *((name, "wide", (3, 5)) for name in FACTS if name in wide_models()),
]


def own_outputs(model: nn.Module, images: Tensor, **options: bool) -> Tensor:
    """What the library's documented call gives: logits, or the image embedding before normalisation."""
    with torch.no_grad():
        if hasattr(model, "get_image_features"):
            return model.get_image_features(pixel_values=images, **options).pooler_output
        return model(pixel_values=images, **options).logits


def eager_maps(model: nn.Module, images: Tensor, **options: bool) -> list[Tensor]:
    """``output_attentions`` of a copy with eager attention; the pooler's are nn.MultiheadAttention's own."""
    eager = deepcopy(model)
    eager.set_attn_implementation("eager")
    body = eager.vision_model if hasattr(eager, "vision_model") else eager
    with torch.no_grad():
        maps = list(body(pixel_values=images, output_attentions=True, **options).attentions)
    if isinstance(eager, transformers.SiglipModel):
        maps += multihead_maps(eager, lambda: body(images, **options))
    return [each.double() for each in maps]


def built(name: str, shape: str) -> tuple[nn.Module, tuple[int, int]]:
    return (tiny_models() if shape == "square" else wide_models())[name]()


def test_every_tiny_model_has_its_facts():
    assert set(FACTS) == {name for name in tiny_models() if name.startswith("hf_")}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("name", "shape", "grid"), CASES)
def test_adapter_is_the_model(name, shape, grid, batch):
    model, size = built(name, shape)
    adapter, images = find_adapter(model), random_images(batch, size)
    expected = own_outputs(model, images)
    with torch.no_grad():
        assert_same(adapter(images), expected)
    traced = check_model(adapter, images, expected, FACTS[name], grid)
    # float32: transformers' eager attention takes its softmax in float32 whatever the model's dtype.
    check_attention_maps(traced, eager_maps(model, images), atol=1e-6)


@pytest.mark.parametrize(("name", "shape", "grid"), CASES)
def test_streaming_and_order_of_patches(name, shape, grid):
    model, size = built(name, shape)
    check_streaming(find_adapter(model), random_images(2, size))
    check_grid_order(find_adapter(model), random_images(1, size))


@pytest.mark.parametrize("name", FACTS)
def test_pool_weights(name):
    model, size = tiny_models()[name]()
    with torch.no_grad():  # two parts of equal weight: with equal heads the parts can be seen
        if name == "hf_deit_distilled":
            model.distillation_classifier.load_state_dict(model.cls_classifier.state_dict())
        elif "dinov2" in name:
            classes, patches = model.classifier.weight.chunk(2, 1)
            classes.copy_(patches)
    check_pool_weights(find_adapter(model), random_images(1, size))


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_image_embedding_is_the_one_that_meets_the_text(name):
    model, size = tiny_models()[name]()
    images, token_ids = random_images(3, size), torch.tensor([[97, 5, 6, 98]])
    with torch.no_grad():
        both = model(input_ids=token_ids, pixel_values=images)
        embedding = find_adapter(model)(images)
    assert_same(nn.functional.normalize(embedding, dim=-1), both.image_embeds)


@pytest.mark.parametrize("name", ONE_SIZE)
def test_interpolated_position_embeddings(name):
    """``interpolate_pos_encoding=True`` takes other sizes; without it they are refused."""
    model, _ = tiny_models()[name]()
    adapter = type(find_adapter(model))(model, interpolate_pos_encoding=True)
    for size, grid in (((48, 80), (3, 5)), ((96, 32), (6, 2)), (SIZE, (4, 4))):
        images = random_images(2, size)
        expected = own_outputs(model, images, interpolate_pos_encoding=True)
        with torch.no_grad():
            assert_same(adapter(images), expected)
        traced = check_model(adapter, images, expected, FACTS[name], grid)
        maps = eager_maps(model, images, interpolate_pos_encoding=True)
        check_attention_maps(traced, maps, atol=1e-6)  # float32, as above
    check_wrong_size(adapter, (64, 70), r"multiples of the patch size 16×16, got 64×70\. Resize or crop")


SHORT_TEXT = {"num_hidden_layers": 1, "vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98}
TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
REAL: dict[str, tuple[type, type, dict[str, object], Facts, tuple[int, int]]] = {
    "vit_tiny": (
        transformers.ViTForImageClassification, transformers.ViTConfig, TINY,
        Facts(1, "class", 1000, depth=12), (14, 14),
    ),
    "deit_tiny_distilled": (
        transformers.DeiTForImageClassificationWithTeacher, transformers.DeiTConfig, TINY,
        Facts(2, "class", 1000, depth=12), (14, 14),
    ),
    "dinov2_small": (
        transformers.Dinov2ForImageClassification, transformers.Dinov2Config, SMALL,
        Facts(1, "class", 1000, depth=12), (16, 16),
    ),
    "dinov2_small_registers": (
        transformers.Dinov2WithRegistersForImageClassification, transformers.Dinov2WithRegistersConfig, SMALL,
        Facts(5, "class", 1000, depth=12), (16, 16),
    ),
    "beit_base": (
        transformers.BeitForImageClassification, transformers.BeitConfig, {"use_relative_position_bias": True},
        Facts(1, "mean", 1000, depth=12), (14, 14),
    ),
    "clip_base_classifier": (
        transformers.CLIPForImageClassification, transformers.CLIPConfig, {"text_config": SHORT_TEXT},
        Facts(1, "mean", 1000, depth=12), (7, 7),
    ),
    "clip_base": (
        transformers.CLIPModel, transformers.CLIPConfig, {"text_config": SHORT_TEXT},
        Facts(1, "class", 512, depth=12), (7, 7),
    ),
    "siglip_base": (
        transformers.SiglipModel, transformers.SiglipConfig, {"text_config": SHORT_TEXT},
        Facts(0, "attention", 768, queries=1, depth=12), (14, 14),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_architecture(name):
    """Published configurations on images of 224×224 pixels."""
    model_class, config_class, options, facts, grid = REAL[name]
    model = randomise(model_class(config_class(num_labels=1000, **options)), constants_only=True).eval()
    images = random_images(1, (224, 224)).float()
    check_model(find_adapter(model), images, own_outputs(model, images), facts, grid, tolerance=1e-5)  # float32


def test_pooler_that_is_not_there_is_not_expected():
    """``vision_use_head=False`` leaves out the pooler that SigLIP's image classifier runs and never reads."""
    model, size = tiny_models()["hf_siglip_classifier"]()
    config = deepcopy(model.config)
    config.vision_config.vision_use_head = False
    without = transformers.SiglipForImageClassification(config).double().eval()
    for each, expected in ((model, True), (without, False)):
        adapter = find_adapter(each)
        assert isinstance(adapter, SiglipClassifierAdapter)
        assert adapter.has_unread_pooler is expected
        assert trace(adapter, random_images(1, size)).pooler is None


@pytest.mark.parametrize("name", ONE_SIZE)
def test_wrong_size_is_refused(name):
    model, _ = tiny_models()[name]()
    adapter: Adapter = find_adapter(model)
    remedy = rf"{type(adapter).__name__}\(model, interpolate_pos_encoding=True\)"
    check_wrong_size(adapter, (48, 64), rf"takes images of 64×64 pixels, got 48×64\. Resize the image, .*{remedy}")


@pytest.mark.parametrize("name", ANY_SIZE)
def test_size_that_patches_do_not_divide_is_refused(name):
    model, _ = tiny_models()[name]()
    check_wrong_size(find_adapter(model), (70, 64), r"multiples of the patch size 16×16, got 70×64\. Resize or crop")


@pytest.mark.parametrize("name", FACTS)
def test_eager_attention_is_refused(name):
    model, size = tiny_models()[name]()
    model.set_attn_implementation("eager")
    with pytest.raises(RuntimeError, match=r"block 0 .*made no call.*model\.set_attn_implementation\('sdpa'\)"):
        trace(find_adapter(model), random_images(1, size))


def test_adapters_of_one_family_can_be_named():
    for name, adapter_class in (("hf_vit", ViTAdapter), ("hf_clip", CLIPTower), ("hf_siglip", SiglipTower)):
        model, size = tiny_models()[name]()
        assert type(find_adapter(model)) is adapter_class
        assert adapter_class(model).grid(*size) == (4, 4)
