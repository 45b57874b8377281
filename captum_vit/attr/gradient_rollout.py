"""Gradient Rollout: attention rollout over attention that is weighted with its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, propagate, start_row
from captum_vit.adapters.capture import trace
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.options import checked_switch
from captum_vit.attr.rows import (
    HeadFusion,
    check_rollout_options,
    checked_start_block,
    discard_smallest,
    fuse_heads,
    normalise_rows,
    pad_prefix,
    with_identity,
)

__all__ = ["GradientRollout", "gradient_rollout"]


def gradient_rollout(
    attentions: Sequence[AttentionLike],
    gradients: Sequence[AttentionLike],
    *,
    head_fusion: HeadFusion = "mean",
    residual: float = 0.5,
    discard_ratio: float = 0.0,
    normalize: bool = True,
    start: Tensor | None = None,
    pooler: tuple[AttentionLike, AttentionLike] | None = None,
) -> Tensor:
    """Follows gradient-weighted attention through all blocks: one row of the product Ã_L ⋯ Ã_1.

    With ``F_l = (fuse_h(∇A_l ∘ A_l))⁺``, ``Ã_l = normalise_rows((1 - residual) F_l + residual I)``. As in attention
    rollout the product has the last block on its left.

    Args:
        attentions: post-softmax attention A of each block, first to last, each (B, h, N, N).
        gradients: gradient ∇A of the target's logit with respect to each, of the same shapes.
        head_fusion: how the heads of ∇A ∘ A become one map, before negative values are dropped.
        residual: weight of the identity, in [0, 1]. 0.5 is F + I; 0 leaves the identity out.
        discard_ratio: share of the smallest entries of each F that is set to zero, in [0, 1), as ``int(N² · ratio)``
            entries.
        normalize: whether each row is divided by its sum; a row of zeros leads nowhere.
        start: share of each token in the pooled vector, (N,), or per image (B, N); the class token by default. With
            ``pooler`` the tokens are the pooler's queries.
        pooler: attention and gradient of an attention pooler, each (B, h, Q, N). It has no identity that could stand
            in for a row that is negative throughout, so that its negative values are dropped before the heads are
            fused, as in CheferCAM.

    Returns:
        Relevance of each token, (B, N).

    Raises:
        ValueError: an option outside its range.

    Example:
        >>> attention = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]])
        >>> gradient = torch.tensor([[[[2.0, 4.0], [-4.0, 4.0]]]])
        >>> gradient_rollout([attention], [gradient])  # F = ((1, 2), (0, 3)); (½ + ½, 1) over its sum
        tensor([[0.5000, 0.5000]])
        >>> gradient_rollout([attention], [gradient], residual=0.0, normalize=False)
        tensor([[1., 2.]])

    References:
        The code of vit-explain, on arXiv:2005.00928, section 3. That code pairs the gradients of block l with the
        attention of block L + 1 - l, takes them before the softmax, and divides column j by the sum of row j; here
        each block has its own gradient, of A itself, and each row is divided by its own sum.
    """
    check_rollout_options(head_fusion, residual, discard_ratio)

    def positive(_: Tensor, attention: Tensor, gradient: Tensor) -> Tensor:
        return fuse_heads(attention * gradient, head_fusion).clamp(min=0)  # (B, r, N)

    def positive_by_head(_: Tensor, attention: Tensor, gradient: Tensor) -> Tensor:
        return fuse_heads((attention * gradient).clamp(min=0), head_fusion)  # (B, r, N)

    def mixed(index: Tensor, *rows: Tensor) -> Tensor:
        fused = rows[0][:, 0] if discard_ratio else positive(index, *rows)
        fused = with_identity(fused, index, residual)
        return normalise_rows(fused) if normalize else fused

    if pooler is None:
        row = start_row(attentions[-1], start)
    else:
        pooled = propagate(start_row(pooler[0], start), pooler, positive_by_head)
        row = pad_prefix(normalise_rows(pooled) if normalize else pooled, attentions[-1].shape[3])
    for pair in reversed(list(zip(attentions, gradients, strict=True))):
        maps = [discard_smallest(pair, positive, discard_ratio, keep_first=False)] if discard_ratio else pair
        row = propagate(row, maps, mixed)
    return row


class GradientRollout(ViTAttribution):
    """Attention weighted by its gradient, followed from the pooled token back to the patches through every block.

    Args:
        model: see `ViTAttribution`.
        head_fusion: how the heads of a block become one map: "mean", "max" or "min".
        residual: weight of the identity in each block, in [0, 1]; 0 leaves it out.
        discard_ratio: share of the smallest entries of each fused map that is dropped, in [0, 1).
        normalize: whether each row of a block's map is divided by its sum.
        start_block: first block that takes part; negative counts from the last.

    Raises:
        TypeError: an option of another type.
        ValueError: an option outside its range.
    """

    name = "Gradient Rollout"
    class_specific = True
    signed = False
    passes = "1 forward + 1 backward"
    reference = "arXiv:2005.00928, section 3, with the gradient weights of vit-explain"

    def __init__(
        self,
        model: nn.Module,
        *,
        head_fusion: HeadFusion = "mean",
        residual: float = 0.5,
        discard_ratio: float = 0.0,
        normalize: bool = True,
        start_block: int = 0,
    ) -> None:
        super().__init__(model)
        check_rollout_options(head_fusion, residual, discard_ratio)
        self.head_fusion, self.residual, self.discard_ratio = head_fusion, residual, discard_ratio
        self.normalize = checked_switch("normalize", normalize)
        self.start_block = checked_start_block(start_block, len(self.forward_func.blocks))

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = trace(self.forward_func, images, gradients=True)
        blocks = traced.blocks[self.start_block :]
        poolers = [traced.pooler] if traced.pooler else []
        start = self.forward_func.pool_weights((poolers or blocks)[-1].shape[2])
        relevance = []
        for gradients, reached in attention_gradients(traced.logits, targets, [*blocks, *poolers]):
            pooler = (poolers[0].attention, gradients.pop()) if poolers else None
            row = gradient_rollout(
                [block.attention for block in blocks],
                gradients,
                head_fusion=self.head_fusion,
                residual=self.residual,
                discard_ratio=self.discard_ratio,
                normalize=self.normalize,
                start=start,
                pooler=pooler,
            )
            relevance.append(row * reached[:, None])
        return torch.stack(relevance, 1)  # (B, T, N)
