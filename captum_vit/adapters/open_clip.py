"""OpenCLIP: the image towers of CLIP, CoCa, SigLIP, SigLIP2, EVA02, MobileCLIP-B and PE.

OpenCLIP builds its image tower itself (`open_clip.transformer.VisionTransformer`) or takes it from timm
(`open_clip.timm_model.TimmModel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from captum_vit.adapters.branch import AttentionBranch
from captum_vit.adapters.prompts import TextImageTower
from captum_vit.adapters.registry import find_adapter
from captum_vit.adapters.words import PromptWord, marks, prompt_words

__all__ = ["OpenCLIPTimmTower", "OpenCLIPTower", "open_clip_tower"]


def open_clip_tower(model: nn.Module) -> TextImageTower:
    """The adapter of an OpenCLIP model, by the kind of its image tower.

    Raises:
        TypeError: an image tower that is no vision transformer.
    """
    visual: Any = model.visual
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return OpenCLIPTower(model)
    if isinstance(visual, open_clip.timm_model.TimmModel):
        return OpenCLIPTimmTower(model)
    raise TypeError(
        f"no adapter knows the image tower {type(visual).__name__} of {type(model).__name__}: it is no vision "
        "transformer. Choose an architecture whose name begins with ViT, EVA02, coca_ViT, MobileCLIP-B or PE."
    )


class _OpenCLIP(TextImageTower):
    """Common part: texts and the embedding's size."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.family = f"OpenCLIP {type(model).__name__}"

    def forward(self, images: Tensor) -> Tensor:
        embedding: Tensor = self.model.encode_image(images, normalize=False)
        return embedding

    def encode_prompts(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        text: Any = getattr(self.model, "text", self.model)
        texts = [*prompts, ""]
        tokens = tokenizer(texts)  # (K + 1, n)
        if not isinstance(tokens, Tensor):
            raise TypeError(
                f"tokenizer must be open_clip.get_tokenizer(...) for {self.family}, got {type(tokenizer).__name__}."
            )
        length = tokens.shape[1]
        if length > text.context_length or (length < text.context_length and not isinstance(text, HFTextEncoder)):
            raise ValueError(
                f"tokenizer must give the {text.context_length} tokens a text that {self.family} reads, got {length}. "
                f"Take the model's own: open_clip.get_tokenizer(name, context_length={text.context_length})."
            )
        # OpenCLIP's tokenizers cut without a word. Given one place more, a text that was cut gains a token of its own,
        # any other gains padding, as the empty text does.
        gained = tokenizer(texts, context_length=length + 1).sum(1) - tokens.sum(1)  # (K + 1,)
        self._check_tokens(prompts, (gained[:-1] != gained[-1]).tolist(), length, tokens, text.vocab_size)
        device = next(self.model.parameters()).device
        embeddings: Tensor = self.model.encode_text(tokens[:-1].to(device), normalize=False)
        return embeddings

    def prompt_words(self, tokenizer: Any, prompt: str) -> list[PromptWord]:
        ids = tokenizer([prompt])[0].tolist()
        if isinstance(tokenizer, open_clip.SimpleTokenizer):
            return prompt_words(ids, tokenizer, {tokenizer.sot_token_id}, {tokenizer.eot_token_id})
        inner = getattr(tokenizer, "tokenizer", None)
        if not isinstance(inner, PreTrainedTokenizerBase):
            raise TypeError(
                f"tokenizer must be open_clip.get_tokenizer(...) for {self.family}, got {type(tokenizer).__name__}."
            )
        return prompt_words(ids, inner, *marks(inner))


class OpenCLIPTower(_OpenCLIP):
    """OpenCLIP's own ViT: class token, mean of the patch tokens, or CoCa's attention pooler."""

    num_prefix_tokens = 1
    first_norm, second_norm = "ln_1", "ln_2"
    takes_extra_tokens = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        visual = self._visual
        if visual.pool_type not in ("tok", "avg"):
            raise TypeError(
                f"pool_type must be 'tok' or 'avg', got {visual.pool_type!r} (two attention poolers, or none)."
            )
        if any(getattr(each, "scaled_cosine", False) for each in visual.modules()):
            raise TypeError(
                "scaled_cosine_attn must be False, got True: such attention is not PyTorch's fused attention and can't "
                "be captured."
            )
        self.in_channels = visual.conv1.in_channels
        self.num_outputs = visual.output_dim
        if visual.attn_pool is not None:
            self.pooling = "attention"
        else:
            self.pooling = "class" if visual.pool_type == "tok" else "mean"

    @property
    def _visual(self) -> Any:
        return self.model.visual

    @property
    def blocks(self) -> Sequence[nn.Module]:
        blocks: Sequence[nn.Module] = self._visual.transformer.resblocks
        return blocks

    def block_tokens(self, output: Any) -> Tensor:
        tokens = super().block_tokens(output)
        return tokens if self._visual.transformer.batch_first else tokens.transpose(0, 1)

    @property
    def native_size(self) -> tuple[int, int]:
        height, width = self._visual.image_size
        return height, width

    def grid(self, height: int, width: int) -> tuple[int, int]:
        remedy = (
            "Resize the image, or create the model with open_clip.create_model(..., force_image_size=(height, width))."
        )
        return self._fixed_grid(tuple(self._visual.image_size), height, width, self._visual.grid_size, remedy)

    def covered(self, height: int, width: int) -> tuple[int, int]:
        (gh, gw), (ph, pw) = self.grid(height, width), self._visual.patch_size
        return gh * ph, gw * pw

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        visual = self._visual
        norm = visual.ln_post if final_norm else nn.Identity()
        if visual.attn_pool is not None:
            pooled = self._pooled(norm(visual.attn_pool(tokens)))
        elif visual.final_ln_after_pool:
            pooled = norm(self._pooled(tokens))
        else:
            pooled = self._pooled(norm(tokens))
        return pooled if visual.proj is None else pooled @ visual.proj

    def attention_branch(self, index: int) -> AttentionBranch:
        block: Any = self.blocks[index]
        if not isinstance(getattr(block, "ln_attn", None), nn.Identity | None):
            raise TypeError(f"block {index} of {self.family} must not norm its projected attention (scale_attn).")
        return AttentionBranch.of(
            block.ln_1,
            block.attn.out_proj,
            scale=getattr(block.ls_1, "gamma", None),
            inner_norm=getattr(block.attn, "ln_inner", None),
            head_scale=getattr(block.attn, "head_scale", None),
        )

    @property
    def final_norm(self) -> nn.Module:
        norm: nn.Module = self._visual.ln_post
        return norm

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._token_weights(num_tokens, slice(0, 1) if self._visual.pool_type == "tok" else slice(1, None))

    def _pooled(self, tokens: Tensor) -> Tensor:
        """The class token (or the pooler's first query), or the mean of the others, (B, D)."""
        return tokens[:, 0] if self._visual.pool_type == "tok" else tokens[:, 1:].mean(1)


class OpenCLIPTimmTower(_OpenCLIP):
    """A timm trunk followed by OpenCLIP's projection."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._trunk = find_adapter(self.model.visual.trunk)
        self.in_channels = self._trunk.in_channels
        self.num_prefix_tokens = self._trunk.num_prefix_tokens
        self.pooling = self._trunk.pooling
        self.fused_attention_switch = self._trunk.fused_attention_switch
        self.first_norm, self.second_norm = self._trunk.first_norm, self._trunk.second_norm
        self.takes_extra_tokens = self._trunk.takes_extra_tokens
        projections = [each for each in self.model.visual.head.modules() if isinstance(each, nn.Linear)]
        self.num_outputs = projections[-1].out_features if projections else self._trunk.num_outputs

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self._trunk.blocks

    @property
    def native_size(self) -> tuple[int, int] | None:
        return self._trunk.native_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self._trunk.grid(height, width)

    def covered(self, height: int, width: int) -> tuple[int, int]:
        return self._trunk.covered(height, width)

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        embedding: Tensor = self.model.visual.head(self._trunk.readout(tokens, final_norm=final_norm))
        return embedding

    def attention_branch(self, index: int) -> AttentionBranch:
        return self._trunk.attention_branch(index)

    @property
    def final_norm(self) -> nn.Module:
        return self._trunk.final_norm

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._trunk.pool_weights(num_tokens)
