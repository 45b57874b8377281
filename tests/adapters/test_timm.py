from __future__ import annotations

from copy import deepcopy

import pytest
import timm
import torch
from adapter_checks import (
    Facts,
    SoftmaxWatch,
    assert_same,
    check_attention_maps,
    check_grid_order,
    check_model,
    check_pool_weights,
    check_streaming,
    check_wrong_size,
    timm_eager_maps,
)
from models import SIZE, random_images, randomise, tiny_models, wide_models

from captum_vit import adapt
from captum_vit.adapters import trace

FACTS = {
    "timm_vit": Facts(1, "class", 10),
    "timm_vit_dynamic": Facts(1, "class", 10),
    "timm_vit_gap": Facts(0, "mean", 10),
    "timm_vit_gap_all_tokens": Facts(3, "mean", 10),
    "timm_vit_reg_gap": Facts(1, "mean", 10),
    "timm_vit_reg": Facts(5, "class", 10),
    "timm_vit_max": Facts(1, "mean", 10),
    "timm_deit_distilled": Facts(2, "class", 10),
    "timm_deit3": Facts(1, "class", 10),
    "timm_siglip": Facts(0, "attention", 10, queries=1),
    "timm_reg_map": Facts(4, "attention", 10, queries=1, pooled_prefix=False),
    "timm_eva02": Facts(1, "mean", 10),
    "timm_dinov3": Facts(5, "mean", 10),
    "timm_rope": Facts(1, "class", 10),
    "timm_rope_mixed": Facts(1, "class", 10),
    "timm_pe": Facts(1, "attention", 10, queries=1),
    "timm_beit": Facts(1, "mean", 10),
    "timm_beit_shared": Facts(1, "class", 10),
    "timm_naflexvit_gap": Facts(4, "mean", 10),
    "timm_naflexvit_map": Facts(1, "attention", 10, queries=1, pooled_prefix=False),
}
SHAPES = {"square": (tiny_models(), (4, 4)), "wide": (wide_models(), (3, 5))}
ANY_SIZE = ["timm_vit_dynamic", "timm_dinov3", "timm_naflexvit_gap", "timm_naflexvit_map"]


def test_every_tiny_model_has_its_facts():
    assert set(FACTS) == {name for name in tiny_models() if name.startswith("timm_")}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FACTS)
def test_adapter_is_the_model(name, shape, batch):
    builders, grid = SHAPES[shape]
    model, size = builders[name]()
    adapter, images = adapt(model), random_images(batch, size)
    with torch.no_grad():
        expected = model(images)
        assert_same(adapter(images), expected)
    traced = check_model(adapter, images, expected, FACTS[name], grid)
    eager = deepcopy(model)
    with torch.no_grad():
        maps = timm_eager_maps(eager, lambda: eager(images))
    check_attention_maps(traced, maps)


@pytest.mark.parametrize("name", FACTS)
def test_streaming_and_order_of_patches(name):
    model, size = wide_models()[name]()
    check_streaming(adapt(model), random_images(2, size))
    check_grid_order(adapt(model), random_images(1, size))


@pytest.mark.parametrize("name", FACTS)
def test_attention_gradients_are_those_of_the_eager_maps(name):
    """∂s/∂A = G Vᵀ, against autograd through timm's own maps."""
    model, size = tiny_models()[name]()
    images = random_images(2, size)
    eager = deepcopy(model).requires_grad_(True)
    with SoftmaxWatch() as watch:
        for module in eager.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        score = eager(images)[:, 3].sum()
    expected = torch.autograd.grad(score, watch.maps)
    traced = trace(adapt(model), images, gradients=True)
    records = [*traced.blocks, traced.pooler] if traced.pooler else traced.blocks
    outputs = torch.autograd.grad(traced.logits[:, 3].sum(), [record.output for record in records])
    for record, output, gradient in zip(records, outputs, expected, strict=True):
        assert gradient.abs().max() > 1e-6
        assert_same(record.gradient(output).full(), gradient)


@pytest.mark.parametrize("name", [name for name in FACTS if name != "timm_vit_max"])
def test_pool_weights(name):
    model, size = tiny_models()[name]()
    if name == "timm_deit_distilled":  # two heads, read in equal parts: with equal weights the parts can be seen
        model.head_dist.load_state_dict(model.head.state_dict())
    check_pool_weights(adapt(model), random_images(1, size))


@pytest.mark.parametrize("name", ANY_SIZE)
def test_dynamic_grid_follows_each_image(name):
    model, _ = tiny_models()[name]()
    adapter = adapt(model)
    for size, grid in (((32, 96), (2, 6)), ((80, 64), (5, 4))):
        images = random_images(1, size)
        with torch.no_grad():
            expected = model(images)
        check_model(adapter, images, expected, FACTS[name], grid)


@pytest.mark.parametrize("name", ["timm_vit", "timm_eva02"])
def test_set_input_size_is_followed(name):
    model, _ = tiny_models()[name]()
    adapter = adapt(model)
    model.set_input_size((80, 48))
    images = random_images(1, (80, 48))
    with torch.no_grad():
        expected = model(images)
    check_model(adapter, images, expected, FACTS[name], (5, 3))


def test_images_that_the_model_would_pad_are_refused():
    """A padded grid covers more than the image, and its map could not be laid over it."""
    for name in ("vit_tiny_patch16_224", "naflexvit_base_patch16_gap"):
        options = {} if name.startswith("naflex") else {"dynamic_img_size": True}
        small = {"embed_dim": 32, "depth": 1, "num_heads": 2}
        adapter = adapt(timm.create_model(name, dynamic_img_pad=True, **small, **options))
        with pytest.raises(ValueError, match="multiples of the patch size 16×16, got 50×70"):
            adapter.grid(50, 70)
        assert adapter.grid(64, 80) == (4, 5)


def test_channels_and_features_without_a_head():
    model = timm.create_model("test_vit", in_chans=5, num_classes=0, img_size=32)
    adapter = adapt(model)
    assert (adapter.in_channels, adapter.num_outputs) == (5, model.num_features)
    assert adapter(torch.zeros(1, 5, 32, 32)).shape == (1, model.num_features)


REAL = {
    "vit_tiny_patch16_224": (Facts(1, "class", 1000, depth=12), (14, 14)),
    "vit_tiny_r_s16_p8_224": (Facts(1, "class", 1000, depth=12), (7, 7)),
    "vit_wee_patch16_reg1_gap_256": (Facts(1, "mean", 1000, depth=14), (16, 16)),
    "deit_tiny_distilled_patch16_224": (Facts(2, "class", 1000, depth=12), (14, 14)),
    "deit3_small_patch16_224": (Facts(1, "class", 1000, depth=12), (14, 14)),
    "vit_small_patch14_reg4_dinov2": (Facts(5, "class", 384, depth=12), (16, 16)),
    "vit_base_patch32_siglip_256": (Facts(0, "attention", 768, queries=1, depth=12), (8, 8)),
    "eva02_tiny_patch14_224": (Facts(1, "mean", 192, depth=12), (16, 16)),
    "vit_small_patch16_dinov3": (Facts(5, "mean", 384, depth=12), (16, 16)),
    "vit_small_patch16_rope_mixed_224": (Facts(1, "class", 1000, depth=12), (14, 14)),
    "vit_pe_core_tiny_patch16_384": (Facts(1, "attention", 512, queries=1, depth=12), (24, 24)),
    "beit_base_patch16_224": (Facts(1, "mean", 1000, depth=12), (14, 14)),
    "naflexvit_base_patch16_gap": (Facts(4, "mean", 1000, depth=12), (14, 14)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_architecture(name):
    facts, grid = REAL[name]
    any_size = {"dynamic_img_size": True} if "dinov2" in name else {}
    model = randomise(timm.create_model(name, pretrained=False, **any_size), constants_only=True).eval()
    size = (224, 224) if any_size or "naflex" in name else timm.get_pretrained_cfg(name).input_size[1:]
    images = random_images(1, size).float()
    with torch.no_grad():
        expected = model(images)
    check_model(adapt(model), images, expected, facts, grid, tolerance=1e-5)  # float32


def test_maximum_over_tokens_has_no_pool_weights():
    model, _ = tiny_models()["timm_vit_max"]()
    with pytest.raises(ValueError, match="global_pool='max' gives no token a fixed share"):
        adapt(model).pool_weights(17)


@pytest.mark.parametrize("name", [name for name in FACTS if name not in ANY_SIZE])
def test_wrong_size_is_refused(name):
    model, _ = tiny_models()[name]()
    check_wrong_size(adapt(model), (48, 64), r"takes images of 64×64 pixels, got 48×64\. .*set_input_size\(\(height, w")


@pytest.mark.parametrize("name", ANY_SIZE)
def test_size_that_patches_do_not_divide_is_refused(name):
    model, _ = tiny_models()[name]()
    check_wrong_size(adapt(model), (64, 70), r"multiples of the patch size 16×16, got 64×70\. Resize or crop")


@pytest.mark.parametrize("name", FACTS)
def test_eager_attention_is_refused(name):
    model, size = tiny_models()[name]()
    for block in model.blocks:
        block.attn.fused_attn = False
    with pytest.raises(RuntimeError, match=r"block 0 \(blocks\.0\) of timm .*made no call.*fused_attn = True"):
        trace(adapt(model), random_images(1, size))


@pytest.mark.parametrize("name", ["timm_siglip", "timm_pe", "timm_naflexvit_map"])
def test_eager_pooler_is_refused(name):
    model, size = tiny_models()[name]()
    model.attn_pool.fused_attn = False
    with pytest.raises(RuntimeError, match=r"pools by attention, but made 0 calls .* instead of 1.*set_fused_attn"):
        trace(adapt(model), random_images(1, size))


def test_two_attentions_in_a_block_are_refused():
    model = timm.create_model("vit_small_patch16_18x2_224", depth=2, embed_dim=32, num_heads=2, img_size=SIZE).eval()
    with pytest.raises(RuntimeError, match=r"block 0 \(blocks\.0\) made 2 attention calls"):
        trace(adapt(model), torch.zeros(1, 3, *SIZE))


def test_pooling_that_no_adapter_reads_is_refused():
    with pytest.raises(TypeError, match=r"'attn_pool' \(AttentionPoolPrr\) is not a pooler with learned queries"):
        adapt(timm.create_model("vit_tiny_patch16_224", depth=1, global_pool="prr"))
    with pytest.raises(TypeError, match="must pool its tokens into one vector, got global_pool=''"):
        adapt(timm.create_model("vit_tiny_patch16_224", depth=1, global_pool=""))
