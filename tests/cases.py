"""Tiny models ready to be explained, with what a test must know of each to check it from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import models
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit import PromptClassifier, TransitionAttentionMaps, ViTAttribution, ViTCX

CONTRACT_FAMILIES = ["timm_vit_reg_gap", "hf_dinov2", "open_clip_vit_quickgelu", "open_clip_siglip"]
"""Mean pooling with a register, class token beside mean, prompts through nn.MultiheadAttention, an attention pooler."""

ALL_FAMILIES = list(models.tiny_models())

ONLY = {
    "text-span": {
        *("timm_vit", "timm_vit_dynamic", "timm_vit_reg", "timm_deit3", "timm_rope", "timm_rope_mixed"),
        *("timm_beit_shared", "hf_vit", "hf_deit", "hf_beit_shared", "hf_clip", "torchvision_vit"),
        *("open_clip_vit", "open_clip_vit_quickgelu", "open_clip_vit_qk_norm"),
        *("open_clip_eva02", "open_clip_mobileclip"),
    }
}
"""The families that a method explains, for methods that do not explain all."""


QUICK: dict[type[ViTAttribution], dict[str, Any]] = {
    TransitionAttentionMaps: {"steps": 3},
    ViTCX: {"distance": 0.2},
}
"""Options that make a costly method quick where its values do not matter."""


def built(method_class: type[ViTAttribution], model: nn.Module) -> ViTAttribution:
    """A method with options that make it quick."""
    return method_class(model, **QUICK.get(method_class, {}))


def explains(method: str, family: str) -> bool:
    """Whether a method can explain a family; if not, its constructor raises TypeError."""
    return method not in ONLY or family in ONLY[method]


@dataclass(frozen=True)
class Case:
    """A model in float64 and facts found without the package.

    Attributes:
        model: what a method is given.
        images: (3, 3, H, W), not square where the model can.
        grid: (gh, gw).
        logits: from images to logits, by the model's own library.
        blind: changes a model so that its logits do not depend on the image; returns it.
    """

    model: nn.Module
    images: Tensor
    grid: tuple[int, int]
    logits: Callable[[Tensor], Tensor]
    blind: Callable[[nn.Module], nn.Module]


@cache
def case(name: str) -> Case:
    """The case of a family of `models`; made once, for no test may change it."""
    model, size = (models.tiny_models() | models.wide_models())[name]()
    grid = (size[0] // 16, size[1] // 16)
    images = models.random_images(3, size)
    if name.startswith("open_clip") or name in ("hf_clip", "hf_siglip"):
        return _prompted(model, images, grid)
    if name.startswith("hf"):
        return Case(model, images, grid, lambda x: model(x).logits, _without_classifier)
    return Case(model, images, grid, model, _without_classifier)


def _prompted(model: nn.Module, images: Tensor, grid: tuple[int, int]) -> Case:
    with torch.no_grad():
        embed = model.encode_image if hasattr(model, "encode_image") else _hugging_face_embedding(model)
        dimension = embed(images[:1]).shape[1]
    texts = torch.randn(3, dimension, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    classifier = PromptClassifier(model, prompts=["a star", "a ring", "a cat"], embeddings=texts)

    def logits(batch: Tensor) -> Tensor:
        similarity = F.normalize(embed(batch), dim=-1) @ F.normalize(texts, dim=-1).T
        bias = getattr(model, "logit_bias", None)
        return model.logit_scale.exp() * similarity + (0.0 if bias is None else bias)

    return Case(classifier, images, grid, logits, _without_prompts)


def _hugging_face_embedding(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: model.get_image_features(pixel_values=images).pooler_output


def _without_classifier(model: nn.Module) -> nn.Module:
    """Every linear layer with one output a class is set to zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features == models.CLASSES:
            nn.init.zeros_(module.weight)
    return model


def _without_prompts(classifier: nn.Module) -> nn.Module:
    nn.init.zeros_(classifier.embeddings)
    return classifier
