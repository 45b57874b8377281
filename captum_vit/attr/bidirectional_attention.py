"""Bidirectional attention flow: attention perception times reasoning feedback (Chen et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from captum_vit.adapters.attention import (
    AttentionLike,
    AttentionRecord,
    propagate,
    query_chunks,
    rows_of,
    start_row,
)
from captum_vit.adapters.capture import stream_blocks, trace, trace_readout
from captum_vit.adapters.parts import block_parts
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.options import checked_choice, checked_integer
from captum_vit.attr.rows import checked_start_block, pad_prefix

__all__ = ["BidirectionalAttention", "bidirectional_attention", "head_importance"]

Approximation = Literal["head", "token"]
_APPROXIMATIONS: tuple[Approximation, ...] = get_args(Approximation)


def head_importance(attention: AttentionLike, gradient: AttentionLike) -> Tensor:
    """The share of each head in what a block does for the target: the mean of ``|Aᵀ ∇A|``, scaled to sum to one.

    Args:
        attention: post-softmax attention A of a block, (B, h, Q, N).
        gradient: gradient ∇A of the target's logit with respect to it, of the same shape.

    Returns:
        (B, h); all zero where the gradient is.

    Example:
        >>> attention = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]]]])
        >>> gradient = torch.tensor([[[[1.0, -1.0]], [[6.0, 0.0]]]])
        >>> head_importance(attention, gradient)  # means 2/4 and 6/4
        tensor([[0.2500, 0.7500]])

    References:
        Chen et al., "Beyond Intuition: Rethinking Token Attributions inside Transformers", TMLR 2023, head-wise map.
    """
    batch, heads, _, keys = attention.shape
    product = torch.zeros(batch, heads, keys, keys, dtype=attention.dtype, device=attention.device)
    with torch.autocast(attention.device.type, enabled=False):
        for index in query_chunks(attention):
            product += rows_of(attention, index).transpose(-2, -1) @ rows_of(gradient, index)
    importance = product.abs().mean((-2, -1))  # (B, h)
    total = importance.sum(1, keepdim=True)
    return importance / total.where(total > 0, 1.0)


def bidirectional_attention(
    attentions: Sequence[AttentionLike],
    feedback: Tensor,
    *,
    head_weights: Sequence[Tensor] | None = None,
    token_weights: Sequence[Tensor] | None = None,
    start: Tensor | None = None,
    pooler: AttentionLike | None = None,
    pooler_head_weights: Tensor | None = None,
) -> Tensor:
    """Multiplies how tokens came to form the pooled ones (perception) with what the last map means for the target.

    Perception is R = I first, then ``R ← R + (Σ_h I_h A_h) diag(θ) R`` from block to block. The map is
    ``Σ_i π_i F_ij R_ij`` with ``F = mean_h(feedback⁺)`` and the share π of each token in the pooled vector.

    Args:
        attentions: post-softmax attention A of each block that takes part, first to last, each (B, h, N, N).
        feedback: the target's gradient at the last attention map (the pooler's, with one), averaged over steps from
            zeros to the image, (B, h, r, N): the rows of the r tokens that have a share.
        head_weights: I of each block, each (B, h), summing to one; the mean over heads by default.
        token_weights: θ of each block, each (B, N); one by default.
        start: shares π, (Q,); the class token by default. With ``pooler`` the tokens are the pooler's queries.
        pooler: attention of an attention pooler, (B, h, Q, N). It has no skip term: R ← (Σ_h I_h A_h) R.
        pooler_head_weights: I of the pooler, (B, h).

    Returns:
        Relevance of each token, (B, N).

    Example:
        >>> attention = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]])
        >>> feedback = torch.tensor([[[[2.0, 4.0]]]])
        >>> bidirectional_attention([attention], feedback)  # (2, 4) ∘ (1½, ½)
        tensor([[3., 2.]])

    References:
        Chen et al., "Beyond Intuition: Rethinking Token Attributions inside Transformers", TMLR 2023.
    """
    shares = start_row(attentions[-1] if pooler is None else pooler, start)[0]  # (Q,)
    active = shares.nonzero().squeeze(1)
    num_tokens = attentions[-1].shape[3]
    if pooler is None:
        rows = torch.eye(num_tokens, dtype=shares.dtype, device=shares.device)[active].expand(len(feedback), -1, -1)
    else:
        rows = pad_prefix(_weighted(rows_of(pooler, active), pooler_head_weights), num_tokens)
    for position in reversed(range(len(attentions))):
        heads = None if head_weights is None else head_weights[position]
        step = propagate(rows, [attentions[position]], lambda _, each, heads=heads: _weighted(each, heads))
        rows = rows + (step if token_weights is None else step * token_weights[position][:, None])
    positive = pad_prefix(feedback.clamp(min=0).mean(1), num_tokens)  # (B, r, N)
    return (shares[active, None] * positive * rows).sum(1)


def _weighted(rows: Tensor, heads: Tensor | None) -> Tensor:
    """The rows of all heads (B, h, r, N) as those of one map, (B, r, N)."""
    return rows.mean(1) if heads is None else (rows * heads[:, :, None, None]).sum(1)


class BidirectionalAttention(ViTAttribution):
    """How tokens came to form the pooled one, times the integrated gradient of the target at the last attention map.

    Args:
        model: see `ViTAttribution`.
        approximation: how perception weighs a block: "head" by what each of its heads does for the target, "token" by
            how much longer or shorter the attention makes each token.
        steps: images from zeros to the image, both included, over which the last map's gradient is averaged.
        start_block: first block that takes part in perception; negative counts from the last. By default, as in the
            authors' code for 12 blocks, the fourth of them ("head") or the sixth ("token"), in proportion for others.
        steps_per_batch: steps that run at a time, for each of the images; more need more memory and give the same map.

    Raises:
        TypeError: an option of another type; with "token", blocks without a norm before the attention and one before
            the MLP.
        ValueError: no such approximation or block, fewer than two steps, or fewer than one at a time.
    """

    name = "Bidirectional Attention"
    class_specific = True
    signed = False
    passes = "1 forward + 1 backward, then for each step 1 forward + 1 backward through the last block"
    reference = "openreview:rm0zIzlhcX (TMLR 2023), and its authors' code"

    def __init__(
        self,
        model: nn.Module,
        *,
        approximation: Approximation = "head",
        steps: int = 20,
        start_block: int | None = None,
        steps_per_batch: int = 5,
    ) -> None:
        super().__init__(model)
        self.approximation = checked_choice("approximation", approximation, _APPROXIMATIONS)
        self.steps = checked_integer("steps", steps, 2)
        self.steps_per_batch = checked_integer("steps_per_batch", steps_per_batch, 1)
        depth = len(self.forward_func.blocks)
        if approximation == "token":
            for index in range(depth):
                self.forward_func.block_norms(index)
        self.start_block = self._first_block() if start_block is None else checked_start_block(start_block, depth)

    def _first_block(self) -> int:
        """The authors' choice."""
        return len(self.forward_func.blocks) * (3 if self.approximation == "head" else 5) // 12

    def _resolved_defaults(self) -> dict[str, Any]:
        return {"start_block": self._first_block()}

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        adapter, by_head = self.forward_func, self.approximation == "head"
        traced = trace(adapter, images, gradients=by_head)
        blocks, poolers = traced.blocks[self.start_block :], [traced.pooler] if traced.pooler else []
        start = adapter.pool_weights((poolers or blocks)[-1].shape[2])
        feedback = self._feedback(images, targets, start.nonzero().squeeze(1).to(images.device))
        if by_head:
            weights = self._head_weights(traced.logits, targets, [*blocks, *poolers])
        else:
            parts = block_parts(adapter, images)[self.start_block :]
            lengths = [(vector_norm(each.passed, dim=-1), vector_norm(each.entering, dim=-1)) for each in parts]
            weights = [[passed / entering.where(entering > 0, torch.inf) for passed, entering in lengths]] * len(
                feedback
            )
        relevance = []
        for gradient, each in zip(feedback, weights, strict=True):
            relevance.append(
                bidirectional_attention(
                    [block.attention for block in blocks],
                    gradient,
                    head_weights=each[: len(blocks)] if by_head else None,
                    token_weights=None if by_head else each,
                    start=start,
                    pooler=poolers[0].attention if poolers else None,
                    pooler_head_weights=each[-1] if by_head and poolers else None,
                )
            )
        return torch.stack(relevance, 1)  # (B, T, N)

    def _head_weights(self, logits: Tensor, targets: Tensor, records: Sequence[AttentionRecord]) -> list[list[Tensor]]:
        """For each target the importance of the heads of each record, each (B, h)."""
        return [
            [head_importance(record.attention, gradient) for record, gradient in zip(records, gradients, strict=True)]
            for gradients, _ in attention_gradients(logits, targets, records)
        ]

    def _feedback(self, images: Tensor, targets: Tensor, rows: Tensor) -> list[Tensor]:
        """For each target the rows of the gradient at the last attention map, averaged over all steps, (B, h, r, N)."""
        adapter = self.forward_func
        totals: dict[int, Tensor] = {}

        def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
            if adapter.pooling == "attention":
                logits, record = trace_readout(adapter, tokens)
            else:
                logits = adapter.readout(tokens)
            repeated = targets.repeat(len(tokens) // len(targets), 1)
            for target, (gradients, _) in enumerate(attention_gradients(logits, repeated, [record])):
                found = gradients[0].rows(rows).unflatten(0, (-1, len(targets))).sum(0) / self.steps
                totals[target] = totals[target] + found if target in totals else found

        alphas = torch.linspace(0, 1, self.steps, dtype=images.dtype, device=images.device)
        for some in alphas.split(self.steps_per_batch):
            scaled = (some[:, None, None, None, None] * images).flatten(0, 1)
            stream_blocks(adapter, scaled, visit, [len(adapter.blocks) - 1])
        return [totals[target] for target in range(targets.shape[1])]

    def _why_blank(self) -> str:
        return (
            f"{super()._why_blank()}. Or the gradient at the last map, averaged over steps, is negative for every "
            "patch in every head, which can happen with an attention pooler of one query"
        )
