"""Hugging Face transformers: image classifiers, and the image towers of CLIP and SigLIP.

A class here says in a few lines what its model does after the last block; everything else is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from captum_vit.adapters.base import Adapter, Pooling
from captum_vit.adapters.branch import AttentionBranch
from captum_vit.adapters.prompts import TextImageTower
from captum_vit.adapters.words import PromptWord, marks, prompt_words

__all__ = [
    "BeitAdapter",
    "CLIPClassifierAdapter",
    "CLIPTower",
    "DeiTAdapter",
    "Dinov2Adapter",
    "Dinov2WithRegistersAdapter",
    "DistilledDeiTAdapter",
    "SiglipClassifierAdapter",
    "SiglipTower",
    "ViTAdapter",
]


class HuggingFaceAdapter(Adapter):
    """Common part: sizes, patch grid and logits.

    Args:
        model: the model, with ``attn_implementation="sdpa"`` (the default of transformers).
        interpolate_pos_encoding: whether images of another size than the configuration's are taken, with interpolated
            position embeddings. False by default, as in transformers.
    """

    fused_attention_switch = "model.set_attn_implementation('sdpa')"
    pooling: Pooling = "class"
    num_prefix_tokens = 1
    casts_images = True
    first_norm, second_norm = "layernorm_before", "layernorm_after"
    takes_extra_tokens = True

    def __init__(self, model: nn.Module, *, interpolate_pos_encoding: bool = False) -> None:
        super().__init__(model)
        self._interpolate = interpolate_pos_encoding
        self.family = f"Hugging Face {type(model).__name__}"
        self._config: Any = getattr(self.model.config, "vision_config", self.model.config)
        self.in_channels = self._config.num_channels
        self.num_outputs = self.model.config.num_labels

    @property
    def _backbone(self) -> Any:
        """The module with embeddings, layers and final norm."""
        return self.model.base_model

    @property
    def blocks(self) -> Sequence[nn.Module]:
        backbone = self._backbone
        blocks: Sequence[nn.Module] = backbone.encoder.layers if hasattr(backbone, "encoder") else backbone.layers
        return blocks

    @property
    def native_size(self) -> tuple[int, int]:
        return _pair(self._config.image_size)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        patch, size = _pair(self._config.patch_size), _pair(self._config.image_size)
        if self._interpolate:
            return self._divided_grid(patch, height, width)
        remedy = f"Resize the image, or allow it: {type(self).__name__}(model, interpolate_pos_encoding=True)."
        return self._fixed_grid(size, height, width, (size[0] // patch[0], size[1] // patch[1]), remedy)

    def covered(self, height: int, width: int) -> tuple[int, int]:
        (gh, gw), (ph, pw) = self.grid(height, width), _pair(self._config.patch_size)
        return gh * ph, gw * pw

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=images, **self._size_arguments()).logits
        return logits

    def _size_arguments(self) -> dict[str, bool]:
        return {"interpolate_pos_encoding": True} if self._interpolate else {}

    def attention_branch(self, index: int) -> AttentionBranch:
        block: Any = self.blocks[index]
        layer_scale = getattr(block, "layer_scale1", None)
        scale = getattr(block, "lambda_1", None) if layer_scale is None else layer_scale.lambda1  # of BEiT: may be 1.0
        attention = _first(block, "attention", "self_attn")
        return AttentionBranch.of(
            _first(block, "layernorm_before", "norm1", "layer_norm1"),
            _first(attention, "o_proj", "out_proj"),
            scale=scale if isinstance(scale, Tensor) else None,
        )

    @property
    def final_norm(self) -> nn.Module:
        norm: nn.Module = _first(self._backbone, "layernorm", "post_layernorm")
        return norm

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._token_weights(num_tokens, slice(0, 1))


class ViTAdapter(HuggingFaceAdapter):
    """`ViTForImageClassification`: the class token's logits."""

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        normed = self._backbone.layernorm(tokens) if final_norm else tokens
        logits: Tensor = self.model.classifier(normed[:, 0])
        return logits


class DeiTAdapter(ViTAdapter):
    """`DeiTForImageClassification`: class and distillation token, of which the class token is read."""

    num_prefix_tokens = 2


class DistilledDeiTAdapter(HuggingFaceAdapter):
    """`DeiTForImageClassificationWithTeacher`: the mean of the two tokens' logits."""

    num_prefix_tokens = 2

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        normed = self._backbone.layernorm(tokens) if final_norm else tokens
        logits: Tensor = (
            self.model.cls_classifier(normed[:, 0]) + self.model.distillation_classifier(normed[:, 1])
        ) / 2
        return logits

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._token_weights(num_tokens, slice(0, 2))


class _AnySizeAdapter(HuggingFaceAdapter):
    """Models that interpolate their position embeddings without being asked."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self._divided_grid(_pair(self._config.patch_size), height, width)

    def _size_arguments(self) -> dict[str, bool]:
        return {}


class Dinov2Adapter(_AnySizeAdapter):
    """`Dinov2ForImageClassification`: the class token beside the mean of the patch tokens.

    Both halves of the head's input count the same, so `pool_weights` gives one half to the class token and shares the
    other among the patch tokens.
    """

    first_norm, second_norm = "norm1", "norm2"

    @property
    def blocks(self) -> Sequence[nn.Module]:
        blocks: Sequence[nn.Module] = self._backbone.encoder.layer
        return blocks

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        normed = self._backbone.layernorm(tokens) if final_norm else tokens
        pooled = torch.cat([normed[:, 0], normed[:, self.num_prefix_tokens :].mean(1)], -1)  # (B, 2D)
        logits: Tensor = self.model.classifier(pooled)
        return logits

    def pool_weights(self, num_tokens: int) -> Tensor:
        patches = self._token_weights(num_tokens, slice(self.num_prefix_tokens, None))
        return (super().pool_weights(num_tokens) + patches) / 2


class Dinov2WithRegistersAdapter(Dinov2Adapter):
    """`Dinov2WithRegistersForImageClassification`: the registers are read by nobody."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.num_prefix_tokens = 1 + self._config.num_register_tokens


class BeitAdapter(_AnySizeAdapter):
    """`BeitForImageClassification`: the mean of the patch tokens, or the class token."""

    takes_extra_tokens = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.pooling = "mean" if self._config.use_mean_pooling else "class"

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        normed = self._backbone.layernorm(tokens) if final_norm else tokens
        logits: Tensor = self.model.classifier(self._backbone.pooler(normed))
        return logits

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._token_weights(num_tokens, slice(1, None) if self.pooling == "mean" else slice(0, 1))


class CLIPClassifierAdapter(HuggingFaceAdapter):
    """`CLIPForImageClassification`: the mean of the patch tokens, without a norm."""

    pooling = "mean"
    first_norm, second_norm = "layer_norm1", "layer_norm2"

    @property
    def _backbone(self) -> Any:
        return self.model.vision_model

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        logits: Tensor = self.model.classifier(tokens[:, 1:].mean(1))
        return logits

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._token_weights(num_tokens, slice(1, None))


class SiglipClassifierAdapter(HuggingFaceAdapter):
    """`SiglipForImageClassification`: the mean of all tokens; the attention pooler runs, but takes no part."""

    pooling = "mean"
    num_prefix_tokens = 0
    first_norm, second_norm = "layer_norm1", "layer_norm2"

    def __init__(self, model: nn.Module, *, interpolate_pos_encoding: bool = False) -> None:
        super().__init__(model, interpolate_pos_encoding=interpolate_pos_encoding)
        self.has_unread_pooler = self._backbone.use_head

    @property
    def _backbone(self) -> Any:
        return self.model.vision_model

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        normed = self._backbone.post_layernorm(tokens) if final_norm else tokens
        logits: Tensor = self.model.classifier(normed.mean(1))
        return logits

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._token_weights(num_tokens, slice(None))


class _HuggingFaceTower(TextImageTower, HuggingFaceAdapter):
    """The image tower of a two-tower model: its outputs are the image embedding."""

    text_padding: str | bool = True
    first_norm, second_norm = "layer_norm1", "layer_norm2"

    @property
    def _backbone(self) -> Any:
        return self.model.vision_model

    def forward(self, images: Tensor) -> Tensor:
        return _embedding(self.model.get_image_features(pixel_values=images, **self._size_arguments()))

    def prompt_words(self, tokenizer: Any, prompt: str) -> list[PromptWord]:
        tokenizer = self._checked_tokenizer(tokenizer)
        return prompt_words(tokenizer(prompt)["input_ids"], tokenizer, *marks(tokenizer))

    def _checked_tokenizer(self, tokenizer: Any) -> PreTrainedTokenizerBase:
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TypeError(
                f"tokenizer must be a Hugging Face tokenizer or processor for {self.family}, got "
                f"{type(tokenizer).__name__}."
            )
        return tokenizer

    def encode_prompts(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        tokenizer = self._checked_tokenizer(tokenizer)
        texts, config = list(prompts), self.model.config.text_config
        length = config.max_position_embeddings
        too_long = [len(ids) > length for ids in tokenizer(texts)["input_ids"]]
        tokens = tokenizer(texts, padding=self.text_padding, truncation=True, max_length=length, return_tensors="pt")
        self._check_tokens(prompts, too_long, length, tokens["input_ids"], config.vocab_size)
        device = next(self.model.parameters()).device
        taken = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask") if name in tokens}
        return _embedding(self.model.get_text_features(**taken))


class CLIPTower(_HuggingFaceTower):
    """`CLIPModel`: the class token, normed and projected."""

    def __init__(self, model: nn.Module, *, interpolate_pos_encoding: bool = False) -> None:
        super().__init__(model, interpolate_pos_encoding=interpolate_pos_encoding)
        self.num_outputs = self.model.visual_projection.out_features

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        pooled = self._backbone.post_layernorm(tokens[:, 0]) if final_norm else tokens[:, 0]
        embedding: Tensor = self.model.visual_projection(pooled)
        return embedding


class SiglipTower(_HuggingFaceTower):
    """`SiglipModel`: an attention pooler over all tokens."""

    pooling = "attention"
    num_prefix_tokens = 0
    text_padding = "max_length"

    def __init__(self, model: nn.Module, *, interpolate_pos_encoding: bool = False) -> None:
        super().__init__(model, interpolate_pos_encoding=interpolate_pos_encoding)
        self.num_outputs = self._config.hidden_size

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        embedding: Tensor = self._backbone.head(self._backbone.post_layernorm(tokens) if final_norm else tokens)
        return embedding


def _first(module: Any, *names: str) -> Any:
    """The part of a module that has one of these names."""
    return next(getattr(module, name) for name in names if hasattr(module, name))


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _embedding(features: Any) -> Tensor:
    """The pooled embedding of ``get_image_features`` and ``get_text_features``."""
    embedding: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return embedding
