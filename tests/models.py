"""Tiny vision transformers of every supported family, built from their libraries' own classes.

Float64, evaluation mode, three blocks of two heads on a 4×4 grid of 16-pixel patches. No weight is left where its
library starts it when that would hide something: heads, LayerScale, position biases and norms are drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import open_clip
import timm
import torch
import torchvision
import transformers
from timm.layers import HybridEmbed
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[int, int]]
"""A model and the size (H, W) of its images."""

SIZE = (64, 64)
CLASSES = 10
EMBEDDING = 24
"""Dimension of the shared space of the two-tower models whose tower ends in a projection."""

_DEPTH, _WIDTH, _HEADS, _PATCH = 3, 32, 2, 16


def tiny_models() -> dict[str, Callable[[], Built]]:
    """Name → builder for square images; the name begins with the library's."""
    return {name: partial(build, SIZE) for name, build in _BUILDERS.items()}


def wide_models() -> dict[str, Callable[[], Built]]:
    """Name → builder for images of 48×80 pixels, for the models that can be created for one or take any size."""
    return {name: partial(build, (48, 80)) for name, build in _BUILDERS.items() if name not in _SQUARE_ONLY}


def random_images(batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """(B, 3, H, W), float64."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomise(model: nn.Module, *, constants_only: bool = False) -> nn.Module:
    """Draws every parameter so that each one matters; temperatures and logit biases stay.

    Args:
        model: changed in place.
        constants_only: leaves the weights that the library has drawn and draws only those that it starts at (nearly)
            one value.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.numel() == 1 or (constants_only and parameter.std() > 1e-3):
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                is_scale = name.rpartition(".")[2].startswith(("weight", "gamma", "lambda"))
                parameter.copy_(1 + 0.2 * noise if is_scale else 0.2 * noise)
            elif parameter.shape[0] == 1:  # tokens, position embeddings and queries
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.2 * noise * parameter[0].numel() ** -0.5)
    return model


def _finished(model: nn.Module, size: tuple[int, int]) -> Built:
    return randomise(model).double().eval(), size


def _timm_trunk(name: str, size: tuple[int, int], **options: Any) -> nn.Module:
    small = {"embed_dim": _WIDTH, "depth": _DEPTH, "num_heads": _HEADS, "num_classes": CLASSES, "img_size": size}
    return timm.create_model(name, pretrained=False, **(small | options))


def _timm(name: str, size: tuple[int, int], **options: Any) -> Built:
    return _finished(_timm_trunk(name, size, **options), size)


def _naflex(name: str, size: tuple[int, int], **options: Any) -> Built:
    small = {"embed_dim": _WIDTH, "depth": _DEPTH, "num_heads": _HEADS, "pos_embed_grid_size": (4, 4)}
    return _finished(timm.create_model(name, pretrained=False, num_classes=CLASSES, **(small | options)), size)


def _timm_dynamic(name: str, size: tuple[int, int], **options: Any) -> Built:
    """Created for square images; the model itself adapts to ``size``."""
    model, _ = _timm(name, SIZE, dynamic_img_size=True, **options)
    return model, size


_HF_BLOCKS = {"hidden_size": _WIDTH, "num_hidden_layers": _DEPTH, "num_attention_heads": _HEADS}
_HF_VISION = {**_HF_BLOCKS, "intermediate_size": 64, "patch_size": _PATCH}


def _hf(model_class: type, config_class: type, size: tuple[int, int], **options: Any) -> Built:
    """Image size in the configuration: an int where square, since not every configuration takes a pair."""
    config = config_class(
        **(_HF_VISION | {"image_size": size[0] if size[0] == size[1] else size, "num_labels": CLASSES} | options)
    )
    return _finished(model_class(config), size)


def _hf_any_size(model_class: type, config_class: type, size: tuple[int, int], **options: Any) -> Built:
    """Configured for square images; the model itself adapts to ``size``."""
    model, _ = _hf(model_class, config_class, SIZE, **options)
    return model, size


def _hf_two_tower(model_class: type, config_class: type, size: tuple[int, int]) -> Built:
    """CLIP and SigLIP, with classes or with a text tower."""
    text = {**_HF_BLOCKS, "intermediate_size": 64, "max_position_embeddings": 12}
    text |= {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 1}
    config = config_class(
        text_config=text | {"projection_size": _WIDTH, "projection_dim": EMBEDDING},
        vision_config=_HF_VISION | {"image_size": size[0], "projection_dim": EMBEDDING},
        projection_dim=EMBEDDING,
        num_labels=CLASSES,
    )
    return _finished(model_class(config), size)


_TEXT = {"context_length": 77, "vocab_size": 49408, "width": _WIDTH, "heads": _HEADS, "layers": 1}


def _open_clip_vision(size: tuple[int, int], **options: Any) -> dict[str, Any]:
    small = {
        "image_size": size,
        "patch_size": _PATCH,
        "width": _WIDTH,
        "layers": _DEPTH,
        "head_width": _WIDTH // _HEADS,
    }
    return small | options


def _open_clip(size: tuple[int, int], *, quick_gelu: bool = False, **vision: Any) -> Built:
    clip = open_clip.model.CLIP(EMBEDDING, _open_clip_vision(size, **vision), dict(_TEXT), quick_gelu=quick_gelu)
    return _finished(clip, size)


def _open_clip_coca(size: tuple[int, int]) -> Built:
    pooler = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5, "output_tokens": True}
    coca = open_clip.coca_model.CoCa(
        embed_dim=EMBEDDING,
        multimodal_cfg=_TEXT | {"context_length": 76, "attn_pooler_heads": 2},
        text_cfg=_TEXT | {"context_length": 76, "embed_cls": True, "output_tokens": True},
        vision_cfg=_open_clip_vision(size, **pooler),
    )
    return _finished(coca, size)


def _open_clip_timm(name: str, pool: str, size: tuple[int, int], *, proj: str | None, **trunk: Any) -> Built:
    """OpenCLIP takes its timm trunk by name, at full size; a small one of the same kind is put in its place."""
    dimension = _WIDTH if proj == "none" else EMBEDDING
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": proj, "image_size": size}
    model = open_clip.model.CustomTextCLIP(dimension, vision, dict(_TEXT), init_logit_bias=-10.0)
    classes = dimension if proj is None else 0
    model.visual.trunk = _timm_trunk(name, size, num_classes=classes, global_pool=pool, **trunk)
    if proj == "linear":
        model.visual.head.proj = nn.Linear(_WIDTH, dimension, bias=False)
    return _finished(model, size)


def _open_clip_mobileclip(size: tuple[int, int]) -> Built:
    """Its convolutional stem ends in the transformer's width, which timm fixes at 768: a narrow stem replaces it."""
    (model, _) = _open_clip_timm("vit_tiny_patch16_224", "token", size, proj=None, no_embed_class=True)
    quarter = _WIDTH // 4
    stem = ConvStem(
        channels=(quarter, quarter, _WIDTH), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU
    )
    model.visual.trunk.patch_embed = HybridEmbed(stem, img_size=size, embed_dim=_WIDTH, proj=False)
    return _finished(model, size)


def _torchvision(size: tuple[int, int]) -> Built:
    model = torchvision.models.VisionTransformer(size[0], _PATCH, _DEPTH, _HEADS, _WIDTH, 64, num_classes=CLASSES)
    return _finished(model, size)


_BUILDERS: dict[str, Callable[[tuple[int, int]], Built]] = {
    "timm_vit": partial(_timm, "vit_tiny_patch16_224"),
    "timm_vit_dynamic": partial(_timm_dynamic, "vit_tiny_patch16_224"),
    "timm_vit_gap": partial(_timm, "vit_base_patch16_gap_224"),
    "timm_vit_gap_all_tokens": partial(
        _timm, "vit_tiny_patch16_224", global_pool="avg", pool_include_prefix=True, reg_tokens=2
    ),
    "timm_vit_reg_gap": partial(_timm, "vit_wee_patch16_reg1_gap_256"),
    "timm_vit_reg": partial(_timm, "vit_small_patch14_reg4_dinov2", patch_size=_PATCH, init_values=1.0),
    "timm_vit_max": partial(_timm, "vit_tiny_patch16_224", global_pool="max"),
    "timm_deit_distilled": partial(_timm, "deit_tiny_distilled_patch16_224"),
    "timm_deit3": partial(_timm, "deit3_small_patch16_224"),
    "timm_siglip": partial(_timm, "vit_base_patch16_siglip_224"),
    "timm_reg_map": partial(_timm, "vit_so150m_patch16_reg4_map_256"),
    "timm_eva02": partial(_timm, "eva02_tiny_patch14_224", patch_size=_PATCH),
    "timm_dinov3": partial(_timm_dynamic, "vit_small_patch16_dinov3"),
    "timm_rope": partial(_timm, "vit_small_patch16_rope_224"),
    "timm_rope_mixed": partial(_timm, "vit_small_patch16_rope_mixed_224"),
    "timm_pe": partial(_timm, "vit_pe_core_tiny_patch16_384", attn_pool_num_heads=2),
    "timm_beit": partial(_timm, "beit_base_patch16_224"),
    "timm_beit_shared": partial(
        _timm, "beit_base_patch16_224", use_rel_pos_bias=False, use_shared_rel_pos_bias=True, global_pool="token"
    ),
    "timm_naflexvit_gap": partial(_naflex, "naflexvit_base_patch16_gap"),
    "timm_naflexvit_map": partial(_naflex, "naflexvit_base_patch16_map", attn_pool_num_heads=2),
    "hf_vit": partial(_hf, transformers.ViTForImageClassification, transformers.ViTConfig),
    "hf_deit": partial(_hf, transformers.DeiTForImageClassification, transformers.DeiTConfig),
    "hf_deit_distilled": partial(_hf, transformers.DeiTForImageClassificationWithTeacher, transformers.DeiTConfig),
    "hf_dinov2": partial(_hf_any_size, transformers.Dinov2ForImageClassification, transformers.Dinov2Config),
    "hf_dinov2_registers": partial(
        _hf_any_size, transformers.Dinov2WithRegistersForImageClassification, transformers.Dinov2WithRegistersConfig
    ),
    "hf_beit": partial(
        _hf_any_size, transformers.BeitForImageClassification, transformers.BeitConfig, use_relative_position_bias=True
    ),
    "hf_beit_shared": partial(
        _hf_any_size,
        transformers.BeitForImageClassification,
        transformers.BeitConfig,
        use_shared_relative_position_bias=True,
        use_absolute_position_embeddings=True,
        use_mean_pooling=False,
    ),
    "hf_clip_classifier": partial(_hf_two_tower, transformers.CLIPForImageClassification, transformers.CLIPConfig),
    "hf_siglip_classifier": partial(
        _hf_two_tower, transformers.SiglipForImageClassification, transformers.SiglipConfig
    ),
    "hf_clip": partial(_hf_two_tower, transformers.CLIPModel, transformers.CLIPConfig),
    "hf_siglip": partial(_hf_two_tower, transformers.SiglipModel, transformers.SiglipConfig),
    "open_clip_vit": _open_clip,
    "open_clip_vit_quickgelu": partial(_open_clip, quick_gelu=True),
    "open_clip_vit_avg": partial(_open_clip, pool_type="avg", final_ln_after_pool=True, no_ln_pre=True),
    "open_clip_vit_qk_norm": partial(_open_clip, block_type="custom", qk_norm=True, scale_heads=True),
    "open_clip_coca": _open_clip_coca,
    "open_clip_siglip": partial(_open_clip_timm, "vit_base_patch16_siglip_224", "map", proj="none"),
    "open_clip_siglip2": partial(_open_clip_timm, "vit_base_patch16_siglip_256", "map", proj="none"),
    "open_clip_eva02": partial(_open_clip_timm, "eva02_base_patch16_clip_224", "token", proj=None),
    "open_clip_mobileclip": _open_clip_mobileclip,
    "open_clip_pe": partial(_open_clip_timm, "vit_pe_core_tiny_patch16_384", "map", proj=None, attn_pool_num_heads=2),
    "open_clip_gap_linear": partial(_open_clip_timm, "vit_wee_patch16_reg1_gap_256", "avg", proj="linear"),
    "torchvision_vit": _torchvision,
}

_SQUARE_ONLY = {
    "hf_clip_classifier",
    "hf_siglip_classifier",
    "hf_clip",
    "hf_siglip",
    "torchvision_vit",
}
