"""AttentionCAM: Grad-CAM on the attention maps of the last block or of the attention pooler."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, query_chunks, rows_of, start_row
from captum_vit.adapters.capture import trace_last
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.options import checked_choice
from captum_vit.attr.rows import head_sums

__all__ = ["AttentionCAM", "GradientMean", "attention_cam"]

GradientMean = Literal["map", "row"]
_GRADIENT_MEANS: tuple[GradientMean, ...] = get_args(GradientMean)


def attention_cam(
    attention: AttentionLike,
    gradient: AttentionLike,
    *,
    gradient_mean: GradientMean = "map",
    start: Tensor | None = None,
    num_prefix_tokens: int = 1,
) -> Tensor:
    """Weights each head's map by the mean of its gradient: ``Σ_h w_h A_h``, read at the pooled token's row.

    Args:
        attention: post-softmax attention A of one block or pooler, (B, h, Q, N).
        gradient: gradient of the target's logit with respect to it, (B, h, Q, N).
        gradient_mean: what w_h is the mean of: "map", all Q × N entries (LeGrad's eq. 11); "row", the pooled token's
            row without the prefix columns (``generate_cam_attn`` of Transformer-Explainability, which then averages
            over heads and drops negative values; here the sum stays signed).
        start: share of each query token in the pooled vector, (Q,); the first token (class token) by default.
        num_prefix_tokens: first columns of the map that belong to no patch, which "row" leaves out; 0 for a pooler that
            reads patch tokens only.

    Returns:
        Signed relevance of each key token, (B, N).

    Raises:
        ValueError: another value of ``gradient_mean``.

    Example:
        >>> attention = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [0.0, 1.0]]]])
        >>> gradient = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]], [[0.0, -4.0], [0.0, 2.0]]]])
        >>> attention_cam(attention, gradient)  # 1 · (½, ½) - ½ · (1, 0)
        tensor([[0.0000, 0.5000]])

    References:
        LeGrad, arXiv:2404.03214, appendix B.2, eq. 11, where the mean divides by n² without the class token; here by
        the number of entries, which rescales the map only.
    """
    checked_choice("gradient_mean", gradient_mean, _GRADIENT_MEANS)
    if gradient_mean == "map":
        weights = head_sums(gradient, "plain") / (gradient.shape[2] * gradient.shape[3])
    else:
        weights = _pooled_row(gradient, start)[..., num_prefix_tokens:].mean(-1)
    return (weights[..., None] * _pooled_row(attention, start)).sum(1)


def _pooled_row(attention: AttentionLike, start: Tensor | None) -> Tensor:
    """The pooled token's row of each head's map, (B, h, N)."""
    row = start_row(attention, start)
    active = row.ne(0).any(0).nonzero().squeeze(1)
    chunks = [
        (row[:, None, index, None] * rows_of(attention, index)).sum(2) for index in query_chunks(attention, active)
    ]
    return torch.stack(chunks).sum(0)


class AttentionCAM(ViTAttribution):
    """The last block's attention, each head weighted by the mean gradient of the target; with a pooler, the pooler's.

    Not AG-CAM (Leem & Seo 2024), which takes all blocks and sigmoid-normalised attention.

    Args:
        model: see `ViTAttribution`.
        gradient_mean: what a head's weight is the mean of; see `attention_cam`.

    Raises:
        ValueError: another value of ``gradient_mean``.
    """

    name = "AttentionCAM"
    class_specific = True
    signed = True
    passes = "1 forward + 1 backward"
    memory = "the graph behind the last attention"
    reference = "arXiv:2404.03214, eq. 11"

    def __init__(self, model: nn.Module, *, gradient_mean: GradientMean = "map") -> None:
        super().__init__(model)
        self.gradient_mean = checked_choice("gradient_mean", gradient_mean, _GRADIENT_MEANS)

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        adapter = self.forward_func
        logits, record = trace_last(adapter, images, gradients=True)
        gh, gw = adapter.grid(*images.shape[-2:])
        relevance = [
            attention_cam(
                record.attention,
                gradient,
                gradient_mean=self.gradient_mean,
                start=adapter.pool_weights(record.shape[2]),
                num_prefix_tokens=record.shape[3] - gh * gw,
            )
            for (gradient,), _ in attention_gradients(logits, targets, [record])
        ]
        return torch.stack(relevance, 1)  # (B, T, N)
