"""timm: `VisionTransformer` (DeiT, DeiT-3, DINOv2, SigLIP …), `Eva` (EVA-02, DINOv3, PE …), `Beit` and `NaFlexVit`."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import AttentionPoolLatent
from timm.models.beit import Block as BeitBlock
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from captum_vit.adapters.base import Adapter, Pooling
from captum_vit.adapters.branch import AttentionBranch

__all__ = ["NaFlexVitAdapter", "TimmAdapter"]


class TimmAdapter(Adapter):
    """A timm model with ``patch_embed``, ``blocks``, ``norm`` and ``forward_head``.

    Raises:
        TypeError: an attention pooler of a kind that does not read the tokens with learned queries, or no pooling.
    """

    fused_attention_switch = (
        "timm.layers.set_fused_attn(True) before the model is created, or block.attn.fused_attn = True"
    )

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.family = f"timm {type(model).__name__}"
        self.num_prefix_tokens = self.model.num_prefix_tokens
        self.num_outputs = self.model.num_classes or self.model.head_hidden_size
        self.in_channels = self.model.in_chans
        self.takes_extra_tokens = isinstance(model, VisionTransformer)  # the others know positions inside their blocks
        self._pooler = getattr(self.model, "attn_pool", None)
        if self._pooler is not None and not isinstance(self._pooler, AttentionPoolLatent):
            raise TypeError(f"module 'attn_pool' ({type(self._pooler).__name__}) is not a pooler with learned queries.")
        if not self.model.global_pool:
            raise TypeError(
                f"{self.family} must pool its tokens into one vector, got global_pool=''. Create it with "
                "global_pool='token' or 'avg'."
            )
        self.pooling: Pooling
        if self._pooler is not None:
            self.pooling = "attention"
        else:
            self.pooling = "class" if self.model.global_pool == "token" else "mean"

    @property
    def blocks(self) -> Sequence[nn.Module]:
        blocks: Sequence[nn.Module] = self.model.blocks
        return blocks

    @property
    def _patch_size(self) -> tuple[int, int]:
        height, width = self.model.patch_embed.feat_ratio(as_scalar=False)
        return height, width

    @property
    def native_size(self) -> tuple[int, int] | None:
        size: tuple[int, int] | None = self.model.patch_embed.img_size
        return size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        embed = self.model.patch_embed
        if not embed.strict_img_size or embed.img_size is None:
            return self._divided_grid(self._patch_size, height, width)
        return self._fixed_grid(
            embed.img_size,
            height,
            width,
            embed.grid_size,
            "Resize the image, call set_input_size((height, width)) on the timm model (it resamples the position "
            "embeddings), or create it with dynamic_img_size=True.",
        )

    def covered(self, height: int, width: int) -> tuple[int, int]:
        (gh, gw), (ph, pw) = self.grid(height, width), self._patch_size
        return gh * ph, gw * pw

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        logits: Tensor = self.model.forward_head(self.model.norm(tokens) if final_norm else tokens)
        return logits

    def attention_branch(self, index: int) -> AttentionBranch:
        block = self.model.blocks[index]
        if type(block) not in (Block, EvaBlock, BeitBlock) or getattr(block.attn, "gate", None) is not None:
            raise TypeError(
                f"block {index} of {self.family} must add its projected attention to its tokens "
                f"(Block, EvaBlock, beit.Block, without a gate), got {type(block).__name__}."
            )
        layer_scale = getattr(block, "ls1", None)
        scale = getattr(block, "gamma_1", None) if layer_scale is None else getattr(layer_scale, "gamma", None)
        inner_norm = getattr(block.attn, "norm", None)
        return AttentionBranch.of(block.norm1, block.attn.proj, scale=scale, inner_norm=inner_norm)

    @property
    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.norm
        return norm

    def pool_weights(self, num_tokens: int) -> Tensor:
        if self._pooler is not None:
            return self._token_weights(num_tokens, slice(0, 1) if self._pooler.pool == "token" else slice(None))
        if isinstance(self.model, VisionTransformerDistilled):
            return self._token_weights(num_tokens, slice(0, 2))
        pool = self.model.global_pool
        if pool == "token":
            return self._token_weights(num_tokens, slice(0, 1))
        if pool == "avg":
            include_prefix = getattr(self.model, "pool_include_prefix", False)
            return self._token_weights(num_tokens, slice(0 if include_prefix else self.num_prefix_tokens, None))
        raise ValueError(
            f"global_pool={pool!r} gives no token a fixed share, so relevance can't be started at the pooled vector. "
            "Methods that need no such start (LeGrad) still work."
        )


class NaFlexVitAdapter(TimmAdapter):
    """`NaFlexVit` on batches of images (B, C, H, W); its grid follows the image."""

    @property
    def _patch_size(self) -> tuple[int, int]:
        height, width = self.model.embeds.patch_size
        return height, width

    @property
    def native_size(self) -> tuple[int, int] | None:
        return None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self._divided_grid(self._patch_size, height, width)
