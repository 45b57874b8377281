"""Partial LRP: relevance at the last attention map (Voita et al. 2019, as Chefer et al. 2020 compare it)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, propagate, start_row
from captum_vit.adapters.capture import trace
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.options import checked_switch
from captum_vit.attr.relevance.base import RelevanceAttribution
from captum_vit.attr.relevance.propagation import RuleSet

__all__ = ["PartialLRP", "partial_lrp"]


def partial_lrp(
    relevance: AttentionLike, gradient: AttentionLike | None = None, *, start: Tensor | None = None
) -> Tensor:
    """The pooled token's row of the mean over heads of the positive relevance of an attention map.

    Args:
        relevance: R at the last attention map, (B, h, Q, N).
        gradient: its gradient ∇A, of the same shape: the authors' ablation takes (∇A ∘ R)⁺ for R⁺.
        start: share of each query token in the pooled vector, (Q,); the first token by default.

    Returns:
        Relevance of each key token, (B, N).

    Example:
        >>> relevance = torch.tensor([[[[0.5, -0.25], [0.0, 0.25]]]])
        >>> partial_lrp(relevance)
        tensor([[0.5000, 0.0000]])
        >>> partial_lrp(relevance, torch.tensor([[[[-1.0, -2.0], [3.0, 4.0]]]]))
        tensor([[0.0000, 0.5000]])

    References:
        arXiv:2012.09838, section 4.
    """

    def positive(_: Tensor, rows: Tensor, weights: Tensor | None = None) -> Tensor:
        return (rows if weights is None else weights * rows).clamp(min=0).mean(1)  # (B, r, N)

    maps = [relevance] if gradient is None else [relevance, gradient]
    return propagate(start_row(relevance, start), maps, positive)


class PartialLRP(RelevanceAttribution):
    """Relevance that arrives at the last attention map, in the pooled token's row.

    With an attention pooler the map is the pooler's.

    Args:
        model: see `ViTAttribution`.
        gradients: whether relevance is multiplied by the map's gradient (the authors' ablation).
        rules: see `RelevanceAttribution`.
        dtype: see `RelevanceAttribution`.

    Raises:
        ValueError: an option outside its range.
    """

    name = "Partial LRP"
    signed = False
    passes = "1 forward + 1 backward through the last block, with relevance rules, in float64"
    reference = "arXiv:2012.09838, section 4"

    def __init__(
        self,
        model: nn.Module,
        *,
        gradients: bool = False,
        rules: RuleSet = "original",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(model, rules, dtype)
        self.gradients = checked_switch("gradients", gradients)

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = self._trace_relevance(images)
        last = traced.blocks[-1] if traced.pooler is None else traced.pooler
        start = self.forward_func.pool_weights(last.shape[2])
        relevances = [relevance for (relevance,) in traced.relevance(targets, [last])]
        gradients: list[AttentionLike | None] = [None] * len(relevances)
        if self.gradients:
            plain = trace(self.forward_func, images, gradients=True)
            record = plain.pooler or plain.blocks[-1]
            gradients = [each for (each,), _ in attention_gradients(plain.logits, targets, [record])]
        rows = [partial_lrp(*pair, start=start) for pair in zip(relevances, gradients, strict=True)]
        return self._stacked(rows, images)
