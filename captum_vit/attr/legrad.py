"""LeGrad: the gradient of each block's own prediction with respect to its attention map (Bousselham et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, AttentionRecord, query_chunks, rows_of
from captum_vit.adapters.capture import stream_blocks, stream_tails, trace, trace_readout
from captum_vit.adapters.tail import BlockTail
from captum_vit.attr.base import ViTAttribution, only_tensor
from captum_vit.attr.gradients import attention_gradients, target_gradients
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_blocks, checked_integer, checked_switch
from captum_vit.attr.rules.mode import rules_apply
from captum_vit.attr.targets import Target, single_targets

__all__ = ["LeGrad", "legrad"]


def legrad(gradients: Sequence[AttentionLike], *, relu: bool = True, rows: Tensor | None = None) -> Tensor:
    """The mean over blocks, heads and query tokens of the positive part of ∇A.

    Args:
        gradients: for each block, the gradient of that block's score with respect to its attention map, (B, h, Q, N).
        relu: whether negative gradients are dropped first (eq. 5); False is the paper's ablation.
        rows: query tokens that count; all by default. For an attention pooler, the queries that the pooled vector
            reads.

    Returns:
        Relevance of each key token, (B, N).

    Raises:
        ValueError: no block.

    Example:
        >>> block = torch.tensor([[[[1.0, -1.0], [2.0, 3.0]], [[0.0, 4.0], [-5.0, 1.0]]]])
        >>> legrad([block])
        tensor([[0.7500, 2.0000]])
        >>> legrad([block], relu=False)
        tensor([[-0.5000,  1.7500]])

    References:
        arXiv:2404.03214, eq. 5, 7 and 8, without the min-max of eq. 6 and 9. The authors' package sums over blocks.
    """
    total = None
    for gradient in gradients:
        queries = gradient.shape[2] if rows is None else len(rows)
        for index in query_chunks(gradient, rows):
            chunk = rows_of(gradient, index)
            positive = chunk.clamp(min=0) if relu else chunk
            part = positive.sum((1, 2)) / (gradient.shape[1] * queries * len(gradients))
            total = part if total is None else total + part
    if total is None:
        raise ValueError("gradients must hold at least one block, got none.")
    return total


class LeGrad(ViTAttribution):
    """How much each patch could still change what every block already says about the target.

    The score of block l is the model's own tail (final norm, projection, head) applied to the mean of *all* tokens of
    block l; the map is the positive part of its gradient with respect to block l's attention. With an attention pooler
    (SigLIP, CoCa) the pooler is applied to block l's tokens and the gradient is taken with respect to the pooler's map.

    Blocks are streamed: the graph of one block exists at a time, so memory does not grow with depth.

    Args:
        model: see `ViTAttribution`.
        blocks: indices of the blocks to average, negative from the last; all by default, as in the paper. The authors'
            package takes the last two: ``range(-2, 0)``.
        relu: False keeps negative gradients (table 9).
        per_block_readout: False takes the last block's score for every block (table 9), at the memory of a full
            backward pass. With an attention pooler that leaves the pooler's map for the last block's tokens.
        final_norm: whether intermediate tokens pass the model's final norm. The authors' package skips it for attention
            poolers.
        targets_per_batch: how many targets go through a block together, which bounds the memory and changes no map; by
            default as many as keep their widest gradient under 24 MiB (on a GPU 64 MiB). With an attention pooler and
            with ``per_block_readout=False`` they go one by one.

    Raises:
        TypeError: blocks that are no list of integers, a switch that is neither True nor False, or a number of targets
            that is no integer.
        ValueError: no block, one that does not exist, or less than one target.
    """

    name = "LeGrad"
    class_specific = True
    signed = False
    passes = "1 forward + 1 backward, block by block"
    memory = "the graph of one block"
    needs = (Need.FUSED_ATTENTION,)
    reference = "arXiv:2404.03214, eq. 3-5, 7, 8"

    def __init__(
        self,
        model: nn.Module,
        *,
        blocks: Sequence[int] | None = None,
        relu: bool = True,
        per_block_readout: bool = True,
        final_norm: bool = True,
        targets_per_batch: int | None = None,
    ) -> None:
        super().__init__(model)
        depth = len(self.forward_func.blocks)
        self.blocks = checked_blocks("blocks", range(depth) if blocks is None else blocks, depth)
        self.relu = checked_switch("relu", relu)
        self.signed = not relu
        self.per_block_readout = checked_switch("per_block_readout", per_block_readout)
        self.final_norm = checked_switch("final_norm", final_norm)
        limit = targets_per_batch
        self.targets_per_batch = None if limit is None else checked_integer("targets_per_batch", limit, 1)

    def _resolved_defaults(self) -> dict[str, Any]:
        return {"blocks": list(range(len(self.forward_func.blocks)))}

    def attribute_blocks(
        self, inputs: Tensor | tuple[Tensor, ...], target: Target = None, *, internal_batch_size: int | None = None
    ) -> Tensor:
        """The map of each block by itself (the paper's figure 5); their mean over blocks is `attribute`'s map.

        Args:
            inputs: see `attribute`.
            target: see `attribute`.
            internal_batch_size: see `attribute`.

        Returns:
            Raw maps of the chosen blocks, first to last, (B, L, 1, gh, gw).
        """
        images = only_tensor(inputs)

        def one_target(images: Tensor, targets: Tensor) -> Tensor:
            return self._per_block(images, targets)[:, 0]  # (B, L, N)

        return self._maps(
            images,
            lambda: single_targets(target, self.forward_func, len(images), optional=False),
            internal_batch_size,
            one_target,
        )

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._per_block(images, targets).mean(2)

    def _per_block(self, images: Tensor, targets: Tensor) -> Tensor:
        """Relevance of each chosen block, (B, T, L, N)."""
        adapter, maps = self.forward_func, list[Tensor]()
        if not self.per_block_readout:
            return self._from_last_block(images, targets)
        if adapter.pooling == "attention":

            def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
                logits, pooler = trace_readout(adapter, tokens, final_norm=self.final_norm)
                maps.append(self._map(logits, targets, pooler, self._pooled_queries(pooler)))

            stream_blocks(adapter, images, visit, self.blocks, gradients=False)
        else:

            def visit_tail(index: int, tail: BlockTail) -> None:
                maps.append(self._map_of_tail(tail, targets))

            count = targets.shape[1]
            stream_tails(adapter, images, visit_tail, self.blocks, num_targets=count, cut=not rules_apply())
        return torch.stack(maps, 2)

    def _map_of_tail(self, tail: BlockTail, targets: Tensor) -> Tensor:
        """One block's map for each target, (B, T, N)."""
        at_mean = self._gradients_at_mean(tail.tokens, targets)
        record, (_, heads, queries, _) = tail.record, tail.record.shape
        gradients = tail.attention_gradients(at_mean, targets_per_batch=self.targets_per_batch)
        sums = [record.gradient_sums(each, positive=self.relu) for each in gradients]
        return torch.stack(sums, 1) / (heads * queries)

    def _gradients_at_mean(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The gradient of each target's logit at the mean of all tokens, (T, B, D): each target reads a copy of it."""
        means = tokens.detach().mean(1, keepdim=True).repeat(1, targets.shape[1], 1).requires_grad_()  # (B, T, D)
        logits = self.forward_func.readout_of_each(means, final_norm=self.final_norm)  # (B, T, K)
        each = target_gradients(logits.flatten(0, 1), targets.reshape(-1, 1), [means], "the tokens")
        return next(each)[0].transpose(0, 1)

    def _from_last_block(self, images: Tensor, targets: Tensor) -> Tensor:
        adapter = self.forward_func
        traced = trace(adapter, images, gradients=True)
        if traced.pooler is not None:
            return self._map(traced.logits, targets, traced.pooler, self._pooled_queries(traced.pooler))[:, :, None]
        with torch.enable_grad():
            logits = adapter.readout_of_mean(traced.tokens, final_norm=self.final_norm)
        records = [traced.blocks[index] for index in self.blocks]
        per_target = [
            torch.stack([legrad([each], relu=self.relu) for each in gradients], 1)  # (B, L, N)
            for gradients, _ in attention_gradients(logits, targets, records)
        ]
        return torch.stack(per_target, 1)

    def _map(self, logits: Tensor, targets: Tensor, record: AttentionRecord, rows: Tensor | None = None) -> Tensor:
        """One block's or the pooler's map for each target, (B, T, N)."""
        maps = [
            legrad(gradients, relu=self.relu, rows=rows)
            for gradients, _ in attention_gradients(logits, targets, [record])
        ]
        return torch.stack(maps, 1)

    def _pooled_queries(self, pooler: AttentionRecord) -> Tensor:
        """The pooler's queries that the pooled vector reads, (Q',)."""
        return self.forward_func.pool_weights(pooler.shape[2]).nonzero().squeeze(1).to(pooler.output.device)
