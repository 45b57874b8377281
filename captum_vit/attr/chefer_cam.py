"""CheferCAM: generic attention-model explainability (Chefer, Gur & Wolf 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, start_row
from captum_vit.adapters.capture import trace
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.rows import checked_start_block, pad_prefix, weighted_row

__all__ = ["CheferCAM", "chefer_cam"]


def chefer_cam(
    attentions: Sequence[AttentionLike],
    gradients: Sequence[AttentionLike],
    *,
    start: Tensor | None = None,
    pooler: tuple[AttentionLike, AttentionLike] | None = None,
) -> Tensor:
    """Follows gradient-weighted attention through all blocks: one row of R, with ``R ← R + mean_h((∇A ∘ A)⁺) R``.

    R starts as the identity, so the wanted row is a chain of vector-matrix products from the last block to the first:
    ``r ← r + r mean_h((∇A ∘ A)⁺)``. Rows are not normalised.

    Args:
        attentions: post-softmax attention A of each block, first to last, each (B, h, N, N).
        gradients: gradient ∇A of the target's logit with respect to each, of the same shapes.
        start: share of each token in the pooled vector, (N,); the class token by default. With ``pooler`` the tokens
            are the pooler's queries.
        pooler: attention and gradient of an attention pooler, each (B, h, Q, N): its map has no skip term.

    Returns:
        Relevance of each token, (B, N).

    Example:
        >>> attention = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]])
        >>> gradient = torch.tensor([[[[2.0, 1.0], [-4.0, 4.0]]]])
        >>> chefer_cam([attention], [gradient])  # (1, 0) + (½·2, ½·1)
        tensor([[2.0000, 0.5000]])

    References:
        arXiv:2103.15679, eq. 5 and 6; for the pooler eq. 10 without its skip term (LeGrad, arXiv:2404.03214, appendix
        B.4).
    """

    def step(row: Tensor, attention: AttentionLike, gradient: AttentionLike) -> Tensor:
        return weighted_row(row, attention, gradient=gradient) / attention.shape[1]

    if pooler is None:
        row = start_row(attentions[-1], start)
    else:
        row = pad_prefix(step(start_row(pooler[0], start), *pooler), attentions[-1].shape[3])
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        row = row + step(row, attention, gradient)
    return row


class CheferCAM(ViTAttribution):
    """Attention weighted by the target's gradient, followed from the pooled token back to the patches.

    The gradient is that of the raw logit. For prompts the logit carries the model's logit scale, which changes the
    ratio of the map to the identity and so the map itself (see ``logit_scale`` of `PromptClassifier`).

    Args:
        model: see `ViTAttribution`.
        start_block: first block that takes part; negative counts from the last. The paper takes all; the authors' CLIP
            notebook takes the last one only (-1).

    Raises:
        TypeError: no integer.
        ValueError: no such block.
    """

    name = "CheferCAM"
    class_specific = True
    signed = False
    passes = "1 forward + 1 backward"
    reference = "arXiv:2103.15679, eq. 5-6"

    def __init__(self, model: nn.Module, *, start_block: int = 0) -> None:
        super().__init__(model)
        self.start_block = checked_start_block(start_block, len(self.forward_func.blocks))

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = trace(self.forward_func, images, gradients=True, first=self.start_block)
        blocks = traced.blocks
        poolers = [traced.pooler] if traced.pooler else []
        start = self.forward_func.pool_weights((poolers or blocks)[-1].shape[2])
        relevance = []
        for gradients, reached in attention_gradients(traced.logits, targets, [*blocks, *poolers]):
            pooler = (poolers[0].attention, gradients.pop()) if poolers else None
            row = chefer_cam([block.attention for block in blocks], gradients, start=start, pooler=pooler)
            relevance.append(row * reached[:, None])
        return torch.stack(relevance, 1)  # (B, T, N)
