"""Attention Rollout (Abnar & Zuidema 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, propagate, query_chunks, rows_of, start_row
from captum_vit.adapters.capture import trace
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.rows import checked_start_block, pad_prefix

__all__ = ["AttentionRollout", "HeadFusion", "attention_rollout"]

HeadFusion = Literal["mean", "max", "min"]


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
        >>> first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
        >>> last = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
        >>> attention_rollout([first, last])  # (½, ½) of the last block's row times the first block's Ã
        tensor([[0.3750, 0.6250]])

    References:
        arXiv:2005.00928, section 3; residual as its eq. 1. vit-explain (the code that brought ``discard_ratio`` and max
        and min fusion) divides column j by the sum of row j; here each row is divided by its own sum.
    """
    _check_options(head_fusion, residual, discard_ratio)
    fuse_heads = _FUSIONS[head_fusion]

    def normalised(index: Tensor, rows: Tensor) -> Tensor:
        fused = fuse_heads(rows) * (1 - residual)  # (B, r, N)
        fused[:, torch.arange(len(index), device=index.device), index] += residual
        total = fused.sum(-1, keepdim=True)
        return fused / total.where(total > 0, 1.0)  # a row that was discarded whole leads nowhere

    if pooler is None:
        row = start_row(attentions[-1], start)
    else:
        fused = propagate(start_row(pooler, start), [pooler], lambda _, rows: fuse_heads(rows))
        row = pad_prefix(fused / fused.sum(-1, keepdim=True), attentions[-1].shape[3])
    for attention in reversed(attentions):
        if discard_ratio:
            attention = _discarded(attention, head_fusion, discard_ratio)
        row = propagate(row, [attention], normalised)
    return row


_FUSIONS: dict[HeadFusion, Callable[[Tensor], Tensor]] = {
    "mean": lambda rows: rows.mean(1),
    "max": lambda rows: rows.amax(1),
    "min": lambda rows: rows.amin(1),
}


def _check_options(head_fusion: HeadFusion, residual: float, discard_ratio: float) -> None:
    if head_fusion not in _FUSIONS:
        raise ValueError(f"head_fusion must be one of {', '.join(_FUSIONS)}, got {head_fusion!r}.")
    if not 0 <= residual <= 1:
        raise ValueError(f"residual must be in [0, 1], got {residual}.")
    if not 0 <= discard_ratio < 1:
        raise ValueError(f"discard_ratio must be in [0, 1), got {discard_ratio}.")


def _discarded(attention: AttentionLike, head_fusion: HeadFusion, ratio: float) -> Tensor:
    """The fused map (B, 1, N, N) with its smallest entries at zero."""
    chunks = [_FUSIONS[head_fusion](rows_of(attention, index)) for index in query_chunks(attention)]
    fused = torch.cat(chunks, 1)  # (B, N, N)
    flat = fused.flatten(1)
    first = flat[:, 0].clone()
    smallest = flat.topk(int(flat.shape[1] * ratio), largest=False).indices
    flat = flat.scatter(1, smallest, 0.0)
    flat[:, 0] = first
    return flat.view_as(fused)[:, None]


class AttentionRollout(ViTAttribution):
    """Attention followed from the pooled token back to the patches through every block.

    Args:
        model: see `ViTAttribution`.
        head_fusion: how the heads of a block become one map: "mean", "max" or "min".
        residual: weight of the identity in each block, in [0, 1].
        discard_ratio: share of the smallest entries of each fused map that is dropped, in [0, 1).
        start_block: first block that takes part; negative counts from the last.

    Raises:
        ValueError: an option outside its range.
    """

    name = "Attention Rollout"
    class_specific = False
    signed = False
    passes = "1 forward"
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
        _check_options(head_fusion, residual, discard_ratio)
        self.head_fusion, self.residual, self.discard_ratio = head_fusion, residual, discard_ratio
        self.start_block = checked_start_block(start_block, len(self.forward_func.blocks))

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = trace(self.forward_func, images)
        last = traced.pooler or traced.blocks[-1]
        return attention_rollout(
            [record.attention for record in traced.blocks[self.start_block :]],
            start=self.forward_func.pool_weights(last.shape[2]),
            pooler=traced.pooler.attention if traced.pooler else None,
            head_fusion=self.head_fusion,
            residual=self.residual,
            discard_ratio=self.discard_ratio,
        )[:, None]

    def _why_blank(self) -> str:
        return "no attention reaches the patch tokens; a residual of 1 keeps all relevance on the pooled token"
