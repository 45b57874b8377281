from __future__ import annotations

from copy import deepcopy

import open_clip
import pytest
import torch
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
    timm_eager_maps,
)
from models import EMBEDDING, random_images, randomise, tiny_models, wide_models
from torch import Tensor, nn

from captum_vit.adapters import find_adapter, trace

FACTS = {
    "open_clip_vit": Facts(1, "class", EMBEDDING),
    "open_clip_vit_quickgelu": Facts(1, "class", EMBEDDING),
    "open_clip_vit_avg": Facts(1, "mean", EMBEDDING),
    "open_clip_vit_qk_norm": Facts(1, "class", EMBEDDING),
    "open_clip_coca": Facts(1, "attention", EMBEDDING, queries=5),
    "open_clip_siglip": Facts(0, "attention", 32, queries=1),
    "open_clip_siglip2": Facts(0, "attention", 32, queries=1),
    "open_clip_eva02": Facts(1, "class", EMBEDDING),
    "open_clip_mobileclip": Facts(1, "class", EMBEDDING),
    "open_clip_pe": Facts(1, "attention", EMBEDDING, queries=1),
    "open_clip_gap_linear": Facts(1, "mean", EMBEDDING),
}
OWN_TOWER = ["open_clip_vit", "open_clip_vit_quickgelu", "open_clip_vit_avg", "open_clip_vit_qk_norm", "open_clip_coca"]
TIMM_TOWER = [name for name in FACTS if name not in OWN_TOWER]
SHAPES = {"square": (tiny_models(), (4, 4)), "wide": (wide_models(), (3, 5))}


def own_outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.encode_image(images, normalize=False)


def eager_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """timm's eager attention, nn.MultiheadAttention's weights, or the formula of OpenCLIP's custom block."""
    if isinstance(model.visual, open_clip.timm_model.TimmModel):
        eager = deepcopy(model)
        with torch.no_grad():
            return timm_eager_maps(eager, lambda: eager.encode_image(images))
    if isinstance(model.visual.transformer.resblocks[0].attn, nn.MultiheadAttention):
        return multihead_maps(model.visual, lambda: model.encode_image(images))
    return _custom_block_maps(model, images)


def _custom_block_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """softmax(Q Kᵀ / √d) of the normed queries and keys: the block's own eager branch does not run (bmm of 4-D)."""
    kept: list[Tensor] = []
    handles = [
        norm.register_forward_hook(lambda module, args, output: kept.append(output))
        for block in model.visual.transformer.resblocks
        for norm in (block.attn.ln_q, block.attn.ln_k)
    ]
    with torch.no_grad():
        model.encode_image(images)
    for handle in handles:
        handle.remove()
    pairs = zip(kept[::2], kept[1::2], strict=True)
    return [torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, -1) for q, k in pairs]


def test_every_tiny_model_has_its_facts():
    assert set(FACTS) == {name for name in tiny_models() if name.startswith("open_clip_")}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FACTS)
def test_adapter_is_the_model(name, shape, batch):
    builders, grid = SHAPES[shape]
    model, size = builders[name]()
    adapter, images = find_adapter(model), random_images(batch, size)
    expected = own_outputs(model, images)
    with torch.no_grad():
        assert_same(adapter(images), expected)
    traced = check_model(adapter, images, expected, FACTS[name], grid)
    check_attention_maps(traced, eager_maps(model, images))


@pytest.mark.parametrize("name", FACTS)
def test_streaming_and_order_of_patches(name):
    model, size = wide_models()[name]()
    check_streaming(find_adapter(model), random_images(2, size))
    check_grid_order(find_adapter(model), random_images(1, size))


@pytest.mark.parametrize("name", FACTS)
def test_pool_weights(name):
    model, size = tiny_models()[name]()
    check_pool_weights(find_adapter(model), random_images(1, size))


@pytest.mark.parametrize("name", ["open_clip_vit", "open_clip_coca"])
def test_sequence_first_blocks(name):
    """Towers of other OpenCLIP versions run their blocks on (tokens, batch, D)."""
    model, size = tiny_models()[name]()
    images = random_images(3, size)
    expected = trace(find_adapter(model), images)
    model.visual.transformer.batch_first = False
    for block in model.visual.transformer.resblocks:
        block.attn.batch_first = False
    traced = check_model(find_adapter(model), images, expected.logits, FACTS[name], (4, 4))
    assert_same(traced.tokens, expected.tokens)
    check_streaming(find_adapter(model), images)


REAL = {
    "ViT-S-32": (Facts(1, "class", 384, depth=12), (7, 7)),
    "ViT-B-32-quickgelu": (Facts(1, "class", 512, depth=12), (7, 7)),
    "coca_ViT-B-32": (Facts(1, "attention", 512, queries=256, depth=12), (7, 7)),
    "ViT-B-16-SigLIP": (Facts(0, "attention", 768, queries=1, depth=12), (14, 14)),
    "ViT-B-32-SigLIP2-256": (Facts(0, "attention", 768, queries=1, depth=12), (8, 8)),
    "EVA02-B-16": (Facts(1, "class", 512, depth=12), (14, 14)),
    "MobileCLIP-B": (Facts(1, "class", 512, depth=12), (14, 14)),
    "PE-Core-T-16-384": (Facts(1, "attention", 512, queries=1, depth=12), (24, 24)),
    "vit_medium_patch16_gap_256": (Facts(0, "mean", 512, depth=12), (16, 16)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_architecture(name):
    """The configuration's own image tower; its text tower, which no image meets, is cut to one layer."""
    facts, grid = REAL[name]
    config = open_clip.get_model_config(name)
    texts = [part for part in ("text_cfg", "multimodal_cfg") if part in config]
    short = {part: config[part] | {"layers": 1, "vocab_size": 99} for part in texts}
    model = open_clip.create_model(name, pretrained=None, **short)
    model = randomise(model, constants_only=True).eval()
    side = config["vision_cfg"]["image_size"]
    images = random_images(1, (side, side)).float()
    check_model(find_adapter(model), images, own_outputs(model, images), facts, grid, tolerance=1e-5)  # float32


@pytest.mark.parametrize("name", OWN_TOWER)
def test_wrong_size_is_refused(name):
    model, _ = tiny_models()[name]()
    check_wrong_size(find_adapter(model), (48, 64), r"takes images of 64×64 pixels, got 48×64\. .*force_image_size=\(h")


@pytest.mark.parametrize("name", TIMM_TOWER)
def test_wrong_size_of_a_timm_tower_is_refused(name):
    model, _ = tiny_models()[name]()
    check_wrong_size(find_adapter(model), (48, 64), r"takes images of 64×64 pixels, got 48×64\. .*set_input_size\(\(h")


@pytest.mark.parametrize("name", TIMM_TOWER)
def test_eager_attention_of_a_timm_tower_is_refused(name):
    model, size = tiny_models()[name]()
    for block in model.visual.trunk.blocks:
        block.attn.fused_attn = False
    with pytest.raises(RuntimeError, match=r"block 0 \(visual\.trunk\.blocks\.0\) .*no call.*attn\.fused_attn = True"):
        trace(find_adapter(model), random_images(1, size))


def tiny_clip(**vision: object) -> nn.Module:
    vision = {"image_size": 64, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16} | vision
    return open_clip.CLIP(24, vision, {"width": 32, "heads": 2, "layers": 1, "vocab_size": 99})


def test_image_towers_without_an_adapter_are_refused():
    with pytest.raises(TypeError, match=r"scaled_cosine_attn must be False, got True"):
        find_adapter(tiny_clip(block_type="custom", scaled_cosine_attn=True))
    with pytest.raises(TypeError, match=r"pool_type must be 'tok' or 'avg', got 'none'"):
        find_adapter(tiny_clip(pool_type="none"))
    with pytest.raises(TypeError, match=r"the image tower ModifiedResNet of CLIP: it is no vision transformer"):
        find_adapter(tiny_clip(layers=[1, 1, 1, 1], width=32, patch_size=None))
    swin = {"timm_model_name": "swin_tiny_patch4_window7_224", "timm_model_pretrained": False, "image_size": 224}
    with pytest.raises(TypeError, match=r"no adapter knows \S+\.SwinTransformer: it attends inside windows"):
        find_adapter(open_clip.CLIP(24, swin, {"width": 32, "heads": 2, "layers": 1, "vocab_size": 99}))
