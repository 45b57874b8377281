"""GMAR: gradient-driven multi-head attention rollout (Jo, Jang & Park 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, start_row
from captum_vit.adapters.capture import trace
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.options import checked_choice, checked_number
from captum_vit.attr.rows import head_sums, pad_prefix, weighted_row

__all__ = ["GMAR", "gmar", "gmar_head_norms", "gmar_rollout"]

Norm = Literal["l1", "l2"]
WeightScope = Literal["block", "model"]
Form = Literal["recursion", "product"]


def gmar_head_norms(gradient: AttentionLike, norm: Norm = "l1") -> Tensor:
    """The importance of each head: the L1 or L2 norm of its map's gradient.

    Args:
        gradient: gradient of the target's logit with respect to the attention of one block, (B, h, Q, N).
        norm: "l1" for Σ|G|, "l2" for √ΣG².

    Returns:
        Unnormalised importance, (B, h).

    Raises:
        ValueError: another norm.

    References:
        arXiv:2504.19414, eq. 2.
    """
    _check_options(norm=norm)
    return head_sums(gradient, "absolute") if norm == "l1" else head_sums(gradient, "square").sqrt()


def gmar_rollout(
    attentions: Sequence[AttentionLike],
    head_weights: Sequence[Tensor],
    *,
    residual: float = 1.0,
    form: Form = "recursion",
    start: Tensor | None = None,
) -> Tensor:
    """Rolls out head-weighted attention Â_l = Σ_h w_h A_h.

    Two forms that give different numbers: the recursion of the paper's algorithm 1, ``R ← R Â_l + αI`` from the first
    block to the last, starting at I (the first block ends up on the left); and the product ``∏(Â_l + αI)`` of later
    reports, here with the last block on the left as in attention rollout, so that equal weights 1/h and α = 1 give
    attention rollout times 2 to the number of blocks.

    Args:
        attentions: post-softmax attention of each block, first to last, each (B, h, N, N).
        head_weights: weights of the heads of each block, each (B, h).
        residual: α, at least 0.
        form: "recursion" or "product".
        start: share of each token in the pooled vector, (N,), or per image (B, N); the class token by default.

    Returns:
        Relevance of each token, (B, N).

    Raises:
        ValueError: an option outside its range.

    Example:
        >>> first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
        >>> last = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
        >>> one = torch.ones(1, 1)
        >>> gmar_rollout([first, last], [one, one])  # ((1, 0) Â₁ + (1, 0)) Â₂ + (1, 0)
        tensor([[1.2500, 1.7500]])
        >>> gmar_rollout([first, last], [one, one], form="product")
        tensor([[1.5000, 2.5000]])

    References:
        arXiv:2504.19414, algorithm 1 and eq. 3.
    """
    _check_options(residual=residual, form=form)
    origin = row = start_row(attentions[-1], start)
    blocks = list(zip(attentions, head_weights, strict=True))
    for attention, weights in blocks if form == "recursion" else reversed(blocks):
        row = weighted_row(row, attention, head_weights=weights) + residual * (origin if form == "recursion" else row)
    return row


def gmar(
    attentions: Sequence[AttentionLike],
    gradients: Sequence[AttentionLike],
    *,
    norm: Norm = "l1",
    weight_scope: WeightScope = "block",
    residual: float = 1.0,
    form: Form = "recursion",
    start: Tensor | None = None,
    pooler: tuple[AttentionLike, AttentionLike] | None = None,
) -> Tensor:
    """Attention rollout in which each head counts by the norm of its gradient.

    Args:
        attentions: post-softmax attention of each block, first to last, each (B, h, N, N).
        gradients: gradient of the target's logit with respect to each, of the same shapes.
        norm: see `gmar_head_norms`.
        weight_scope: "block" makes the weights of each block's heads sum to one, "model" those of all heads together.
        residual: α, at least 0; the paper names no value.
        form: see `gmar_rollout`.
        start: share of each token in the pooled vector, (N,); the class token by default. With ``pooler`` the tokens
            are the pooler's queries.
        pooler: attention and gradient of an attention pooler, each (B, h, Q, N). Its heads are weighted within the
            pooler, and its row is where the rollout starts.

    Returns:
        Relevance of each token, (B, N).

    Raises:
        ValueError: an option outside its range.

    Example:
        >>> attention = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]])
        >>> gradient = torch.tensor([[[[3.0, 0.0], [0.0, 0.0]], [[0.0, -1.0], [0.0, 0.0]]]])
        >>> gmar([attention], [gradient])  # weights ¾ and ¼: (1, 0) Â + (1, 0)
        tensor([[1.6250, 0.3750]])

    References:
        arXiv:2504.19414, algorithm 1. The authors' code takes the gradient of the last block's LayerNorm output for all
        blocks, keeps the heads apart and misaligns its final reshape; this follows the paper.
    """
    _check_options(weight_scope=weight_scope)
    norms = [gmar_head_norms(gradient, norm) for gradient in gradients]
    totals = [each.sum(-1, keepdim=True) for each in norms]
    if weight_scope == "model":
        totals = [torch.stack(totals).sum(0)] * len(norms)
    weights = [_share(each, total) for each, total in zip(norms, totals, strict=True)]
    if pooler is not None:
        attention, gradient = pooler
        pooler_norms = gmar_head_norms(gradient, norm)
        shares = _share(pooler_norms, pooler_norms.sum(-1, keepdim=True))
        pooled = weighted_row(start_row(attention, start), attention, head_weights=shares)
        start = pad_prefix(pooled, attentions[-1].shape[3])
    return gmar_rollout(attentions, weights, residual=residual, form=form, start=start)


def _check_options(
    *, norm: Norm = "l1", weight_scope: WeightScope = "block", residual: float = 0.0, form: Form = "recursion"
) -> None:
    checked_choice("norm", norm, get_args(Norm))
    checked_choice("weight_scope", weight_scope, get_args(WeightScope))
    checked_number("residual", residual, 0)
    checked_choice("form", form, get_args(Form))


def _share(norms: Tensor, total: Tensor) -> Tensor:
    """``norms / total``; zero where no gradient arrives at all."""
    return norms / total.where(total > 0, 1.0)


class GMAR(ViTAttribution):
    """Attention rollout in which each head counts by the norm of the target's gradient.

    Args:
        model: see `ViTAttribution`.
        norm: "l1" or "l2" (GMAR-L1, GMAR-L2).
        weight_scope: whether head weights sum to one over each "block" or over the whole "model".
        residual: α, at least 0.
        form: the paper's "recursion" or the later reports' "product"; see `gmar_rollout`.

    Raises:
        ValueError: an option outside its range.
    """

    name = "GMAR"
    class_specific = True
    signed = False
    passes = "1 forward + 1 backward"
    reference = "arXiv:2504.19414, algorithm 1"

    def __init__(
        self,
        model: nn.Module,
        *,
        norm: Norm = "l1",
        weight_scope: WeightScope = "block",
        residual: float = 1.0,
        form: Form = "recursion",
    ) -> None:
        super().__init__(model)
        _check_options(norm=norm, weight_scope=weight_scope, residual=residual, form=form)
        self.norm, self.weight_scope, self.residual, self.form = norm, weight_scope, residual, form

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = trace(self.forward_func, images, gradients=True)
        poolers = [traced.pooler] if traced.pooler else []
        start = self.forward_func.pool_weights((poolers or traced.blocks)[-1].shape[2])
        relevance = []
        for gradients, reached in attention_gradients(traced.logits, targets, [*traced.blocks, *poolers]):
            pooler = (poolers[0].attention, gradients.pop()) if poolers else None
            row = gmar(
                [block.attention for block in traced.blocks],
                gradients,
                norm=self.norm,
                weight_scope=self.weight_scope,
                residual=self.residual,
                form=self.form,
                start=start,
                pooler=pooler,
            )
            relevance.append(row * reached[:, None])
        return torch.stack(relevance, 1)  # (B, T, N)
