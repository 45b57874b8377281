"""TokenTM: attention weighted by gradients and by how much tokens are transformed (Wu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from captum_vit.adapters.attention import AttentionLike, propagate, start_row
from captum_vit.adapters.capture import trace
from captum_vit.adapters.parts import BlockParts, block_parts
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_choice
from captum_vit.attr.rows import pad_prefix

__all__ = ["TokenTM", "token_tm", "transformation_weights"]

Transformed = Literal["added", "stream"]
_TRANSFORMED: tuple[Transformed, ...] = get_args(Transformed)


def transformation_weights(before: Tensor, after: Tensor) -> Tensor:
    """How much each token is transformed: the change of its length times the normalised agreement of its direction.

    ``w_i = ‖after_i‖ / ‖before_i‖ · softmax_i(cos(before_i, after_i))``; a token of length zero has weight zero.

    Args:
        before: tokens before the transformation, (B, N, D).
        after: the same tokens behind it, (B, N, D).

    Returns:
        (B, N), at least zero.

    Example:
        >>> before = torch.tensor([[[3.0, 4.0], [2.0, 0.0]]])
        >>> transformation_weights(before, 2 * before)  # lengths double, directions stay: softmax gives ½ each
        tensor([[1., 1.]])

    References:
        arXiv:2403.14552, transformation weights and NECC.
    """
    length = vector_norm(before, dim=-1)
    ratio = vector_norm(after, dim=-1) / length.where(length > 0, torch.inf)
    weights: Tensor = ratio * F.cosine_similarity(before, after, dim=-1).softmax(-1)
    return weights


def token_tm(
    attentions: Sequence[AttentionLike],
    gradients: Sequence[AttentionLike],
    attention_weights: Sequence[Tensor],
    mlp_weights: Sequence[Tensor],
    lengths: Tensor,
    *,
    start: Tensor | None = None,
    pooler: tuple[AttentionLike, AttentionLike] | None = None,
) -> Tensor:
    """One row of ``C_L = U_L ⋯ U_1 C_0``, the contributions of the first tokens to the pooled one.

    With ``U_l = (I + W_mlp) (I + (mean_h(A) W_attention) ∘ mean_h((∇A)⁺))``, where W are diagonal matrices of
    transformation weights, and ``C_0 = diag(lengths)``.

    Args:
        attentions: post-softmax attention A of each block, first to last, each (B, h, N, N).
        gradients: gradient ∇A of the target's logit with respect to each, of the same shapes.
        attention_weights: transformation weights of each block's attention, each (B, N).
        mlp_weights: transformation weights of each block's MLP, each (B, N).
        lengths: lengths of the tokens that enter the first block, (B, N).
        start: share of each token in the pooled vector, (N,); the class token by default. With ``pooler`` the tokens
            are the pooler's queries.
        pooler: attention and gradient of an attention pooler, each (B, h, Q, N). It has no skip connection and takes
            part with ``mean_h(A) ∘ mean_h((∇A)⁺)``.

    Returns:
        Relevance of each token, (B, N).

    Example:
        >>> attention = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]])
        >>> gradient = torch.tensor([[[[2.0, 4.0], [-4.0, 4.0]]]])
        >>> half, none = torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2)
        >>> token_tm([attention], [gradient], [half], [none], torch.tensor([[1.0, 3.0]]))  # (1 + ½·½·2, ½·½·4·3)
        tensor([[1.5000, 3.0000]])

    References:
        arXiv:2403.14552, initialisation and aggregation rules.
    """

    def weighted(_: Tensor, attention: Tensor, gradient: Tensor) -> Tensor:
        return attention.mean(1) * gradient.clamp(min=0).mean(1)  # (B, r, N)

    if pooler is None:
        row = start_row(attentions[-1], start)
    else:
        row = pad_prefix(propagate(start_row(pooler[0], start), pooler, weighted), attentions[-1].shape[3])
    blocks = list(zip(attentions, gradients, attention_weights, mlp_weights, strict=True))
    for attention, gradient, passed, added in reversed(blocks):
        row = row + row * added
        row = row + propagate(row, (attention, gradient), weighted) * passed
    return row * lengths


class TokenTM(ViTAttribution):
    """Attention weighted by gradients and by how each token's vector changes, followed from the pooled token back.

    Args:
        model: see `ViTAttribution`; its blocks must have a norm before the attention and one before the MLP.
        transformed: what a token has become: "added" for what the attention passes on of it (its values behind the
            output projection) and what the MLP adds; "stream" for the token behind each skip connection.

    Raises:
        TypeError: blocks without the two norms.
        ValueError: another choice.
    """

    name = "TokenTM"
    class_specific = True
    signed = False
    passes = "1 forward + 1 backward, and 3 forward for the transformation"
    needs = (Need.FUSED_ATTENTION, Need.SHARES, Need.BOTH_NORMS)
    reference = "arXiv:2403.14552, as reimplemented for arXiv:2411.16760"

    def __init__(self, model: nn.Module, *, transformed: Transformed = "added") -> None:
        super().__init__(model)
        self.transformed = checked_choice("transformed", transformed, _TRANSFORMED)
        for index in range(len(self.forward_func.blocks)):
            self.forward_func.block_norms(index)

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        adapter = self.forward_func
        traced = trace(adapter, images, gradients=True)
        parts = block_parts(adapter, images)
        poolers = [traced.pooler] if traced.pooler else []
        start = adapter.pool_weights((poolers or traced.blocks)[-1].shape[2])
        weights = [self._weights(each) for each in parts]
        relevance = []
        for gradients, reached in attention_gradients(traced.logits, targets, [*traced.blocks, *poolers]):
            pooler = (poolers[0].attention, gradients.pop()) if poolers else None
            row = token_tm(
                [block.attention for block in traced.blocks],
                gradients,
                [attention for attention, _ in weights],
                [mlp for _, mlp in weights],
                vector_norm(parts[0].entering, dim=-1),
                start=start,
                pooler=pooler,
            )
            relevance.append(row * reached[:, None])
        return torch.stack(relevance, 1)  # (B, T, N)

    def _weights(self, parts: BlockParts) -> tuple[Tensor, Tensor]:
        """Transformation weights of a block's attention and of its MLP, each (B, N)."""
        if self.transformed == "stream":
            passed, added = parts.between, parts.leaving
        else:
            passed, added = parts.passed, parts.leaving - parts.between
        return transformation_weights(parts.entering, passed), transformation_weights(parts.between, added)
