"""Transformer attribution: relevance at the attention maps, weighted by gradients (Chefer, Gur & Wolf 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike
from captum_vit.adapters.capture import trace
from captum_vit.attr.chefer_cam import chefer_cam
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.options import checked_switch
from captum_vit.attr.relevance.base import RelevanceAttribution
from captum_vit.attr.relevance.propagation import RuleSet
from captum_vit.attr.rows import checked_start_block

__all__ = ["TransformerAttribution", "transformer_attribution"]


def transformer_attribution(
    relevances: Sequence[AttentionLike],
    gradients: Sequence[AttentionLike],
    *,
    start: Tensor | None = None,
    pooler: tuple[AttentionLike, AttentionLike] | None = None,
) -> Tensor:
    """Follows gradient-weighted relevance through all blocks: one row of ``C = Ā_L ⋯ Ā_1``, Ā = I + mean_h((∇A ∘ R)⁺).

    It is `chefer_cam` with the relevance of the attention maps where that has the maps themselves. Rows are not
    normalised, as in the authors' code.

    Args:
        relevances: relevance R at the attention map of each block, first to last, each (B, h, N, N).
        gradients: gradient ∇A of the target's logit with respect to each, of the same shapes.
        start: share of each token in the pooled vector, (N,); the class token by default. With ``pooler`` the tokens
            are the pooler's queries.
        pooler: relevance and gradient of an attention pooler, each (B, h, Q, N): its map has no skip term.

    Returns:
        Relevance of each token, (B, N).

    Example:
        >>> relevance = torch.tensor([[[[0.5, 0.25], [0.0, 0.25]]]])
        >>> gradient = torch.tensor([[[[2.0, 1.0], [4.0, -4.0]]]])
        >>> transformer_attribution([relevance], [gradient])  # (1, 0) + (½·2, ¼·1)
        tensor([[2.0000, 0.2500]])

    References:
        arXiv:2012.09838, section 3.3.
    """
    return chefer_cam(relevances, gradients, start=start, pooler=pooler)


class TransformerAttribution(RelevanceAttribution):
    """Relevance and gradient of every attention map, followed from the pooled token back to the patches.

    Relevance starts at 1 at the target's logit and passes through every call by its rule; what arrives at a block's
    attention map is multiplied by the map's gradient.

    Args:
        model: see `ViTAttribution`.
        start_block: first block that takes part; negative counts from the last. The authors' figures start at 1.
        gradients: False leaves the gradients out, which the authors call rollout of relevance.
        rules: see `RelevanceAttribution`.
        dtype: see `RelevanceAttribution`.

    Raises:
        ValueError: no such block, or an option outside its range.
    """

    name = "Transformer Attribution"
    signed = False
    passes = "2 forward + 2 backward, one of each with relevance rules as for LRP"
    reference = "arXiv:2012.09838, section 3"

    def __init__(
        self,
        model: nn.Module,
        *,
        start_block: int = 0,
        gradients: bool = True,
        rules: RuleSet = "ours",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(model, rules, dtype)
        self.start_block = checked_start_block(start_block, len(self.forward_func.blocks))
        self.gradients = checked_switch("gradients", gradients)

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = self._trace_relevance(images)
        poolers = [] if traced.pooler is None else [traced.pooler]
        maps = [*traced.blocks[self.start_block :], *poolers]
        start = self.forward_func.pool_weights(maps[-1].shape[2])
        rows = []
        for relevances, weights in zip(traced.relevance(targets, maps), self._weights(images, targets), strict=True):
            blocks = list(relevances)
            reached = torch.stack([each.abs().amax((1, 2, 3)).ne(0) for each in blocks]).any(0)  # (B,)
            factors = weights or [torch.ones_like(each) for each in blocks]
            pooler = (blocks.pop(), factors.pop()) if poolers else None
            row = transformer_attribution(blocks, factors, start=start, pooler=pooler)
            rows.append(row * reached[:, None])  # else the identity's part would pass for an explanation
        return self._stacked(rows, images)

    def _weights(self, images: Tensor, targets: Tensor) -> Iterator[list[AttentionLike]]:
        """For each target what relevance is multiplied by, at every map; empty where that is 1."""
        if not self.gradients:
            yield from ([] for _ in targets.T)
            return
        plain = trace(self.forward_func, images, gradients=True)
        records = [*plain.blocks[self.start_block :], *([plain.pooler] if plain.pooler else [])]
        for gradients, _ in attention_gradients(plain.logits, targets, records):
            yield list(gradients)
