"""What one forward pass leaves behind: its attention records, all at once or block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from captum_vit.adapters.attention import AttentionRecord
from captum_vit.adapters.base import Adapter
from captum_vit.adapters.sharing import current_passes
from captum_vit.adapters.tail import BlockTail
from captum_vit.adapters.watching import AttentionCapture, Begin, Visit

__all__ = ["Trace", "stream_blocks", "stream_tails", "trace", "trace_calls", "trace_last", "trace_readout"]

VisitTail = Callable[[int, BlockTail], None]
"""Called at the end of a block with its index and its tail."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What one forward pass left behind.

    Attributes:
        logits: (B, K).
        tokens: output of the last block, (B, N, D).
        blocks: the attention record of each block, first to last, or of those that were asked for.
        pooler: the attention pooler's record, or None.
    """

    logits: Tensor
    tokens: Tensor
    blocks: list[AttentionRecord]
    pooler: AttentionRecord | None


def trace(
    adapter: Adapter,
    images: Tensor,
    *,
    gradients: bool = False,
    through_attention: bool = True,
    first: int = 0,
    values: bool = True,
) -> Trace:
    """Runs one forward pass and keeps every attention record; inside `shared_passes` it may take an earlier pass.

    Args:
        adapter: the model.
        images: (B, C, H, W), checked by ``adapter.check_images``.
        gradients: whether logits and outputs carry a graph. It starts at the images where they require gradients, else
            at the attention output of block ``first``, and never reaches a parameter.
        through_attention: False cuts the graph at the attention output of every block, so that gradients come to a
            block through skip connections, MLPs and the pooler, but not through the attention of a later block.
        first: index from 0 of the first block whose record is kept. The number of blocks keeps the pooler's only.
        values: False keeps what attention maps are made of and neither values nor outputs
            (`AttentionRecord.without_values`), where no graph is asked for and the pass is not shared.

    Raises:
        RuntimeError: a block whose attention can't be captured; the message names it and the reason.
    """
    shared = current_passes()
    if shared is None or not through_attention or images.requires_grad:
        return _traced(adapter, images, through_attention, gradients, first, values)
    traced = shared.trace(adapter, images, gradients, partial(_traced, adapter, images, through_attention))
    return replace(traced, blocks=traced.blocks[first:])


def trace_last(
    adapter: Adapter, images: Tensor, *, gradients: bool = False, values: bool = True
) -> tuple[Tensor, AttentionRecord]:
    """Runs one forward pass and keeps the last attention call: the pooler's, or without one the last block's.

    Args:
        adapter: the model.
        images: (B, C, H, W), checked by ``adapter.check_images``.
        gradients: see `trace`; the graph starts at that call's output.
        values: see `trace`.

    Returns:
        The logits (B, K) and the record.
    """
    depth = len(adapter.blocks)
    first = depth if adapter.pooling == "attention" else depth - 1
    traced = trace(adapter, images, gradients=gradients, first=first, values=values)
    return traced.logits, traced.pooler or traced.blocks[-1]


def _traced(
    adapter: Adapter, images: Tensor, through_attention: bool, gradients: bool, first: int = 0, values: bool = True
) -> Trace:
    capture = AttentionCapture(
        adapter, gradients=gradients, through_attention=through_attention, first=first, values=values
    )
    with capture.watch(images, range(len(adapter.blocks))):
        logits = checked_logits(adapter, adapter(images))
    assert capture.tokens is not None
    return Trace(logits, capture.tokens, capture.block_records, capture.pooler_record())


def stream_blocks(
    adapter: Adapter,
    images: Tensor,
    visit: Visit,
    blocks: Sequence[int],
    *,
    gradients: bool = True,
    begin: Begin | None = None,
) -> Tensor:
    """Runs one forward pass and shows each block to ``visit`` as it ends; only one block's graph exists at a time.

    Args:
        adapter: the model.
        images: (B, C, H, W), checked by ``adapter.check_images``.
        visit: called with the index, the record and the tokens of each block of ``blocks``. The graph between
            ``record.output`` and the tokens is cut before and after the block.
        blocks: indices from 0 of the blocks to show.
        gradients: whether that graph is built.
        begin: called with the index and the input tokens of each block of ``blocks``, before it runs.

    Returns:
        The logits (B, K), without a graph.
    """
    capture = AttentionCapture(adapter, gradients=gradients, visit=visit, begin=begin)
    with capture.watch(images, blocks):
        return checked_logits(adapter, adapter(images))


def stream_tails(
    adapter: Adapter,
    images: Tensor,
    visit: VisitTail,
    blocks: Sequence[int],
    *,
    num_targets: int = 1,
    cut: bool = True,
) -> Tensor:
    """`stream_blocks` for gradients of the tokens' mean: shows the tail of each block.

    Args:
        adapter: the model.
        images: (B, C, H, W), checked by ``adapter.check_images``.
        visit: called with the index and the tail of each block of ``blocks``.
        blocks: indices from 0 of the blocks to show.
        num_targets: how many gradients will be sent through each block; for several, derivatives of activations are
            computed once.
        cut: whether the last linear layer of each block's MLP cuts the graph, so that one product with its weight
            serves all tokens (see `BlockTail`); False differentiates the block as it is.

    Returns:
        The logits (B, K), without a graph.
    """
    capture = AttentionCapture(
        adapter,
        gradients=True,
        visit=lambda index, record, tokens: visit(index, BlockTail(record, tokens, capture.cut.calls)),
        cuts=cut,
        saves_derivatives=cut and num_targets > 1,
    )
    with capture.watch(images, blocks):
        return checked_logits(adapter, adapter(images))


def checked_logits(adapter: Adapter, logits: Tensor) -> Tensor:
    """The logits, refused where they aren't (B, K) with the adapter's K."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != adapter.num_outputs:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RuntimeError(f"{adapter.family} must return logits (B, {adapter.num_outputs}), got {got}.")
    return logits


def trace_readout(adapter: Adapter, tokens: Tensor, *, final_norm: bool = True) -> tuple[Tensor, AttentionRecord]:
    """Applies the model's tail with its attention pooler to the tokens of any block, with a graph from the pooler on.

    Args:
        adapter: a model with an attention pooler.
        tokens: (B, N, D).
        final_norm: see `Adapter.readout`.

    Returns:
        The logits (B, K) and the pooler's record.
    """
    capture = AttentionCapture(adapter, gradients=True)
    with torch.no_grad(), capture:
        logits = adapter.readout(tokens.detach(), final_norm=final_norm)
    record = capture.pooler_record()
    assert record is not None
    return logits, record


def trace_calls(adapter: Adapter, run: Callable[[], Tensor]) -> tuple[Tensor, list[AttentionRecord]]:
    """Runs any part of the model, such as its text tower, with a graph from its first attention call on.

    Args:
        adapter: names the model in messages.
        run: calls that part; its attention may be causal.

    Returns:
        What ``run`` returned, and a record of each attention call in their order.
    """
    capture = AttentionCapture(adapter, gradients=True, causal=True)
    with torch.no_grad(), capture:
        result = run()
    return result, capture.calls
