"""Transition Attention Maps: attention as a Markov chain, weighted by integrated gradients (Yuan et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, AttentionRecord, LazyMap, propagate, start_row
from captum_vit.adapters.capture import stream_blocks, trace, trace_readout
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import target_gradients
from captum_vit.attr.options import checked_integer
from captum_vit.attr.rows import checked_start_block, pad_prefix

__all__ = ["TransitionAttentionMaps", "transition_attention_maps"]


def transition_attention_maps(
    attentions: Sequence[AttentionLike],
    gradient: AttentionLike,
    *,
    start: Tensor | None = None,
    pooler: AttentionLike | None = None,
) -> Tensor:
    """Follows the state of a Markov chain from the last block's attention to the first, and weights where it arrives.

    With heads averaged, ``v = p A_L``, then ``v ← v A_l + v`` for the blocks before the last, from late to early. The
    map is ``v ∘ p mean_h(W⁺)``: W is the gradient at the last attention.

    Args:
        attentions: post-softmax attention A of each block that takes part, first to last, each (B, h, N, N).
        gradient: W (B, h, Q, N), the mean over a path of images of the gradient of the target's logit with respect to
            the attention of the last block, or of the pooler.
        start: share p of each token in the pooled vector, (N,); the class token by default. With ``pooler`` the tokens
            are the pooler's queries.
        pooler: attention of an attention pooler, (B, h, Q, N). It is then the last attention, and every block comes
            before it.

    Returns:
        Relevance of each token, (B, N).

    Example:
        >>> first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
        >>> last = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
        >>> gradient = torch.tensor([[[[3.0, 2.0], [-1.0, 4.0]]]])
        >>> transition_attention_maps([first, last], gradient)  # v = (0, 1), then (0, 1) + (0, 1)
        tensor([[0., 4.]])

    References:
        Explaining Information Flow Inside Vision Transformers Using Markov Chain (NeurIPS 2021 workshop).
    """

    def mean(_: Tensor, rows: Tensor) -> Tensor:
        return rows.mean(1)

    *earlier, last = [*attentions] if pooler is None else [*attentions, pooler]
    row = start_row(last, start)
    num_tokens = attentions[-1].shape[3]
    state = pad_prefix(propagate(row, [last], mean), num_tokens)
    weight = propagate(row, [gradient], lambda _, rows: rows.clamp(min=0).mean(1))
    for attention in reversed(earlier):
        state = propagate(state, [attention], mean) + state
    return state * pad_prefix(weight, num_tokens)


class TransitionAttentionMaps(ViTAttribution):
    """Attention as a Markov chain from the pooled token to the patches, weighted by the target's integrated gradient.

    Args:
        model: see `ViTAttribution`.
        start_block: first block that takes part; negative counts from the last. The last one always does; -1 takes no
            other.
        steps: images of the integral, from black to the image itself, both included; 1 takes the image's own gradient
            (the authors' ``with_integral=False``). Black is zero in the units of preprocessed images.
        steps_per_batch: steps that run at a time, for each of the images; more need more memory and give the same map.

    Raises:
        TypeError: an option that is no integer.
        ValueError: no such block, or no step.
    """

    name = "Transition Attention Maps"
    class_specific = True
    signed = False
    passes = "1 forward + 20 of forward and backward to the last attention"
    memory = "the graph of one block's end, for 10 steps"
    reference = "openreview:TT-cf6QSDaQ"

    def __init__(self, model: nn.Module, *, start_block: int = 0, steps: int = 20, steps_per_batch: int = 10) -> None:
        super().__init__(model)
        self.steps = checked_integer("steps", steps, 1)
        self.steps_per_batch = checked_integer("steps_per_batch", steps_per_batch, 1)
        self.start_block = checked_start_block(start_block, len(self.forward_func.blocks))

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = trace(self.forward_func, images)
        last = traced.pooler or traced.blocks[-1]
        attentions = [block.attention for block in traced.blocks[self.start_block :]]
        relevance = [
            transition_attention_maps(
                attentions,
                gradient,
                start=self.forward_func.pool_weights(last.shape[2]),
                pooler=traced.pooler.attention if traced.pooler else None,
            )
            for gradient in self._integrated_gradients(images, targets, last)
        ]
        return torch.stack(relevance, 1)  # (B, T, N)

    def _integrated_gradients(self, images: Tensor, targets: Tensor, last: AttentionRecord) -> list[LazyMap]:
        """For each target the mean over the path of the gradient ∂s/∂A = G Vᵀ of the last attention.

        A sum of products over steps is one product whose inner dimension runs over the steps as well.
        """
        fractions = torch.linspace(0, 1, self.steps, dtype=torch.float64) if self.steps > 1 else torch.ones(1)
        gradients: list[list[Tensor]] = [[] for _ in targets.T]
        values: list[Tensor] = []
        for part in fractions.to(images.dtype).to(images.device).split(self.steps_per_batch):
            path = (part[:, None, None, None, None] * images).flatten(0, 1)
            parts, value = self._path_gradients(path, targets.repeat(len(part), 1))
            values.append(_beside(value, len(part)))
            for found, gradient in zip(gradients, parts, strict=True):
                found.append(_beside(gradient, len(part)))
        integrated = replace(last, value=torch.cat(values, -1))
        return [integrated.gradient(torch.cat(found, -1) / self.steps) for found in gradients]

    def _path_gradients(self, images: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each target's gradient at the output of the last attention, and that attention's values."""
        adapter = self.forward_func
        found: list[tuple[list[Tensor], Tensor]] = []

        def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
            if adapter.pooling == "attention":
                logits, record = trace_readout(adapter, tokens)
            else:
                logits = adapter.readout(tokens)
            gradients = target_gradients(logits, targets, [record.output], "the last attention map")
            found.append(([gradient for (gradient,) in gradients], record.value))

        depth = len(adapter.blocks)
        stream_blocks(adapter, images, visit, [depth - 1], gradients=adapter.pooling != "attention")
        return found[0]

    def _why_blank(self) -> str:
        return (
            "no integrated gradient of the target is positive where the pooled token looks in the last attention. A "
            "head whose weights are zero does that, an output that no token changes, and a target that every patch "
            "speaks against"
        )


def _beside(steps: Tensor, count: int) -> Tensor:
    """Steps that lie one after another, (S·B, h, N, d), side by side: (B, h, N, S·d)."""
    beside: Tensor = steps.unflatten(0, (count, -1)).movedim(0, -2).flatten(-2)
    return beside
