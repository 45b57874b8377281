"""AG-CAM: attention guided CAM over the attention of all blocks (Leem & Seo 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, propagate, start_row
from captum_vit.adapters.capture import trace
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.options import checked_choice, checked_switch
from captum_vit.attr.rows import pad_prefix

__all__ = ["AttentionGuidedCAM", "attention_guided_cam"]

GuidedFusion = Literal["sum", "mean", "max"]
BlockFusion = Literal["sum", "mean"]

_HEAD_FUSIONS: dict[GuidedFusion, Callable[[Tensor], Tensor]] = {
    "sum": lambda rows: rows.sum(1),
    "mean": lambda rows: rows.mean(1),
    "max": lambda rows: rows.amax(1),
}


def attention_guided_cam(
    scores: Sequence[AttentionLike],
    gradients: Sequence[AttentionLike],
    *,
    head_fusion: GuidedFusion = "sum",
    block_fusion: BlockFusion = "sum",
    start: Tensor | None = None,
    pooler: tuple[AttentionLike, AttentionLike] | None = None,
) -> Tensor:
    """Adds ``σ(S) ∘ (∇A)⁺`` over heads and blocks, read at the pooled token's row.

    S is what the softmax is taken of, so that the sigmoid σ leaves room for more than one high value in a row. ∇A is
    the gradient of the target's logit with respect to the attention behind the softmax.

    Args:
        scores: scaled query-key products S of each block with their bias, each (B, h, N, N).
        gradients: gradient ∇A of the target's logit with respect to A = softmax(S), of the same shapes.
        head_fusion: "sum" (the paper), "mean" or "max" over the heads of a block.
        block_fusion: "sum" (the paper) or "mean" over blocks, the pooler included.
        start: share of each token in the pooled vector, (N,); the class token by default. Rows of other tokens count
            by their share. With ``pooler`` the tokens are the pooler's queries.
        pooler: scores and gradient of an attention pooler, each (B, h, Q, N). It counts as one more block, and the
            share of a token in the pooled vector is the pooler's attention to it, averaged over heads.

    Returns:
        Relevance of each key token, (B, N), at least zero.

    Raises:
        ValueError: another fusion.

    Example:
        >>> scores = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
        >>> gradient = torch.tensor([[[[-1.0, 4.0], [1.0, 1.0]]]])
        >>> attention_guided_cam([scores], [gradient])  # σ(0) = ½
        tensor([[0., 2.]])

    References:
        arXiv:2402.04563, the sum over blocks and heads of F ∘ ReLU(α). The authors' code keeps the class token's row
        and its fusions are those above.
    """
    _check_fusions(head_fusion, block_fusion)
    fuse_heads = _HEAD_FUSIONS[head_fusion]

    def guided(_: Tensor, score: Tensor, gradient: Tensor) -> Tensor:
        return fuse_heads(score.sigmoid() * gradient.clamp(min=0))  # (B, r, N)

    num_tokens = scores[-1].shape[3]
    maps = []
    if pooler is None:
        row = start_row(scores[-1], start)
    else:
        queries = start_row(pooler[0], start)
        maps.append(pad_prefix(propagate(queries, pooler, guided), num_tokens))
        shares = propagate(queries, pooler[:1], lambda _, rows: rows.softmax(-1).mean(1))
        row = pad_prefix(shares, num_tokens)
    maps += [propagate(row, pair, guided) for pair in zip(scores, gradients, strict=True)]
    fused = torch.stack(maps)
    return fused.sum(0) if block_fusion == "sum" else fused.mean(0)


def _check_fusions(head_fusion: GuidedFusion, block_fusion: BlockFusion) -> None:
    checked_choice("head_fusion", head_fusion, _HEAD_FUSIONS)
    checked_choice("block_fusion", block_fusion, get_args(BlockFusion))


class AttentionGuidedCAM(ViTAttribution):
    """Positive gradients of every block's attention, guided by that attention through a sigmoid.

    Args:
        model: see `ViTAttribution`.
        head_fusion: how the heads of a block become one map: "sum", "mean" or "max".
        block_fusion: how the blocks become one map: "sum" or "mean".
        through_attention: whether gradients come to a block through the attention of later blocks, too. False is the
            authors' code: it detaches what enters every attention module, so that gradients come through skip
            connections and MLPs only.

    Raises:
        ValueError: another fusion.
    """

    name = "AG-CAM"
    class_specific = True
    signed = False
    passes = "1 forward + 1 backward"
    reference = "arXiv:2402.04563, sum over blocks and heads"

    def __init__(
        self,
        model: nn.Module,
        *,
        head_fusion: GuidedFusion = "sum",
        block_fusion: BlockFusion = "sum",
        through_attention: bool = True,
    ) -> None:
        super().__init__(model)
        _check_fusions(head_fusion, block_fusion)
        self.head_fusion, self.block_fusion = head_fusion, block_fusion
        self.through_attention = checked_switch("through_attention", through_attention)

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        adapter = self.forward_func
        traced = trace(adapter, images, gradients=True, through_attention=self.through_attention)
        poolers = [traced.pooler] if traced.pooler else []
        start = adapter.pool_weights((poolers or traced.blocks)[-1].shape[2])
        relevance = []
        for gradients, _ in attention_gradients(traced.logits, targets, [*traced.blocks, *poolers]):
            pooler = (poolers[0].scores, gradients.pop()) if poolers else None
            relevance.append(
                attention_guided_cam(
                    [block.scores for block in traced.blocks],
                    gradients,
                    head_fusion=self.head_fusion,
                    block_fusion=self.block_fusion,
                    start=start,
                    pooler=pooler,
                )
            )
        return torch.stack(relevance, 1)  # (B, T, N)
