"""Attention Rollout (Abnar & Zuidema 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, propagate, source_of, start_row
from captum_vit.adapters.capture import trace
from captum_vit.adapters.fused import softmax_sums
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.rows import (
    JOINS,
    HeadFusion,
    check_rollout_options,
    checked_start_block,
    discard_smallest,
    fuse_heads,
    normalise_rows,
    pad_prefix,
    with_identity,
)

__all__ = ["AttentionRollout", "attention_rollout"]


def attention_rollout(
    attentions: Sequence[AttentionLike],
    *,
    head_fusion: HeadFusion = "mean",
    residual: float = 0.5,
    discard_ratio: float = 0.0,
    start: Tensor | None = None,
    pooler: AttentionLike | None = None,
) -> Tensor:
    """Follows attention through all blocks: one row of the product Ã_L ⋯ Ã_1.

    With A_l fused over heads, ``Ã_l = normalise_rows((1 - residual) A_l + residual I)``. The product has the last
    block on its left, so the wanted row is a chain of vector-matrix products from the last block to the first, and no
    N×N product is ever formed.

    Args:
        attentions: post-softmax attention of each block, first to last, each (B, h, N, N).
        head_fusion: how the heads of a block become one map.
        residual: weight of the identity, in [0, 1]. 0.5 is Abnar's and Chefer's A + I.
        discard_ratio: share of the smallest entries of each fused map that is set to zero first, in [0, 1), as
            ``int(N² · ratio)`` entries. The first token's attention to itself is never discarded.
        start: share of each token in the pooled vector, (N,); the class token by default. With ``pooler`` the tokens
            are the pooler's queries.
        pooler: attention of an attention pooler (B, h, Q, N), fused like a block but without a residual.

    Returns:
        Relevance of each token, (B, N).

    Raises:
        ValueError: an option outside its range.

    Example:
        >>> import torch
        >>> first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
        >>> last = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
        >>> attention_rollout([first, last])  # (½, ½) of the last block's row times the first block's Ã
        tensor([[0.3750, 0.6250]])

    References:
        arXiv:2005.00928, section 3; residual as its eq. 1. vit-explain (the code that brought ``discard_ratio`` and max
        and min fusion) divides column j by the sum of row j; here each row is divided by its own sum.
    """
    check_rollout_options(head_fusion, residual, discard_ratio)

    def fuse(_: Tensor, rows: Tensor) -> Tensor:
        return fuse_heads(rows, head_fusion)

    def normalised(num_heads: int, index: Tensor, joined: Tensor) -> Tensor:
        fused = joined / num_heads if head_fusion == "mean" else joined
        return normalise_rows(with_identity(fused, index, residual))

    if pooler is None:
        row = start_row(attentions[-1], start)
    else:
        row = pad_prefix(normalise_rows(propagate(start_row(pooler, start), [pooler], fuse)), attentions[-1].shape[3])
    for attention in reversed(attentions):
        is_mean = head_fusion == "mean" and not discard_ratio
        sums = softmax_sums(row, source_of(attention)) if is_mean else None
        if sums is not None:  # rows of a softmax are normalised already
            row = (1 - residual) * sums.mean(1) + residual * row
            continue
        if discard_ratio:
            attention = discard_smallest([attention], fuse, discard_ratio, keep_first=True)
        finish = partial(normalised, attention.shape[1])
        row = propagate(row, [attention], lambda _, rows: rows, join=JOINS[head_fusion], finish=finish)
    return row


class AttentionRollout(ViTAttribution):
    """Attention followed from the pooled token back to the patches through every block.

    Args:
        model: see `ViTAttribution`.
        head_fusion: how the heads of a block become one map: "mean", "max" or "min".
        residual: weight of the identity in each block, in [0, 1].
        discard_ratio: share of the smallest entries of each fused map that is dropped, in [0, 1).
        start_block: first block that takes part; negative counts from the last.

    Raises:
        TypeError: an option of another type.
        ValueError: an option outside its range.
    """

    name = "Attention Rollout"
    class_specific = False
    signed = False
    passes = "1 forward"
    memory = "query and key of all blocks, no graph"
    reference = "arXiv:2005.00928, section 3"

    def __init__(
        self,
        model: nn.Module,
        *,
        head_fusion: HeadFusion = "mean",
        residual: float = 0.5,
        discard_ratio: float = 0.0,
        start_block: int = 0,
    ) -> None:
        super().__init__(model)
        check_rollout_options(head_fusion, residual, discard_ratio)
        self.head_fusion, self.residual, self.discard_ratio = head_fusion, residual, discard_ratio
        self.start_block = checked_start_block(start_block, len(self.forward_func.blocks))

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = trace(self.forward_func, images, first=self.start_block, values=False)
        last = traced.pooler or traced.blocks[-1]
        return attention_rollout(
            [record.attention for record in traced.blocks],
            start=self.forward_func.pool_weights(last.shape[2]),
            pooler=traced.pooler.attention if traced.pooler else None,
            head_fusion=self.head_fusion,
            residual=self.residual,
            discard_ratio=self.discard_ratio,
        )[:, None]

    def _why_blank(self) -> str:
        return "no attention reaches the patch tokens; a residual of 1 keeps all relevance on the pooled token"
