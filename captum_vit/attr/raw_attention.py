"""Raw attention: where the last block's pooled token looks."""

from __future__ import annotations

from torch import Tensor

from captum_vit.adapters.attention import AttentionLike, propagate, start_row
from captum_vit.adapters.capture import trace_last
from captum_vit.attr.base import ViTAttribution

__all__ = ["RawAttention", "raw_attention"]


def raw_attention(attention: AttentionLike, *, start: Tensor | None = None) -> Tensor:
    """The pooled token's attention to every token, averaged over heads.

    Args:
        attention: post-softmax attention of one block or pooler, (B, h, Q, N).
        start: share of each query token in the pooled vector, (Q,); the first token (class token) by default.

    Returns:
        Relevance of each key token, (B, N).

    Example:
        >>> import torch
        >>> attention = torch.tensor([[[[0.5, 0.25, 0.25], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8]],
        ...                            [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.3, 0.3, 0.4]]]])
        >>> raw_attention(attention)
        tensor([[0.5000, 0.3750, 0.1250]])

    References:
        LeGrad, arXiv:2404.03214, appendix B.2, eq. 12.
    """
    return propagate(start_row(attention, start), [attention], lambda _, rows: rows.mean(1))


class RawAttention(ViTAttribution):
    """The pooled token's attention in the last block, averaged over heads.

    For a class token that is its own row. A mean-pooled model gives the mean over its pooled tokens' rows; an attention
    pooler gives the pooler's own map.

    Args:
        model: see `ViTAttribution`.
    """

    name = "Raw Attention"
    class_specific = False
    signed = False
    passes = "1 forward"
    memory = "query and key of one attention, no graph"
    reference = "arXiv:2404.03214, eq. 12"

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        _, record = trace_last(self.forward_func, images, values=False)
        return raw_attention(record.attention, start=self.forward_func.pool_weights(record.shape[2]))[:, None]
