"""Watching one forward pass of one thread: every attention call is seen, no module is changed.

`torch.overrides.TorchFunctionMode` hands every call of ``F.scaled_dot_product_attention`` and
``F.multi_head_attention_forward`` of the current thread to `AttentionCapture`. The model's fused kernel keeps running;
what is kept is its query, key, value and output. Forward hooks, registered for the length of the pass and deaf to other
threads, say which block a call belongs to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_vit.adapters.attention import AttentionRecord, additive_mask
from captum_vit.adapters.base import Adapter
from captum_vit.adapters.multi_head import multi_head_attention
from captum_vit.adapters.parameters import parameters_as_constants
from captum_vit.adapters.sharing import current_passes
from captum_vit.adapters.tail import BlockTail, LinearCut
from captum_vit.adapters.vjp import SavedDerivative

__all__ = ["Trace", "stream_blocks", "stream_tails", "trace", "trace_calls", "trace_last", "trace_readout"]

_ACTIVATIONS = (F.gelu, F.silu)

Visit = Callable[[int, AttentionRecord, Tensor], None]
"""Called at the end of a block with its index, its attention record and its output tokens (B, N, D)."""

VisitTail = Callable[[int, BlockTail], None]
"""Called at the end of a block with its index and its tail."""

Begin = Callable[[int, Tensor], None]
"""Called at the beginning of a block with its index and its input tokens (B, N, D)."""


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


class AttentionCapture(TorchFunctionMode):
    """The function mode and the hooks behind `trace` and `stream_blocks`.

    Args:
        adapter: the model to watch.
        gradients: whether the attention output starts (or continues) a graph.
        visit: called at the end of each block; the block's graph is cut afterwards.
        through_attention: whether a block's attention continues the graph of the blocks before it.
        begin: called at the beginning of each block.
        causal: whether attention that looks at earlier tokens only is taken.
        cuts: whether the graph is cut at the last linear layer of each block's MLP.
        saves_derivatives: whether derivatives of activations are computed once for all gradients.
        first: see `trace`.
        values: see `trace`.

    Attributes:
        calls: attention calls since the last block began or ended.
        cut: the cuts in the current block.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        gradients: bool,
        visit: Visit | None = None,
        through_attention: bool = True,
        begin: Begin | None = None,
        causal: bool = False,
        cuts: bool = False,
        saves_derivatives: bool = False,
        first: int = 0,
        values: bool = True,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.gradients = gradients
        self.through_attention = through_attention
        self.visit = visit
        self.begin = begin
        self.causal = causal
        self.first = first
        self.values = values or gradients
        self.tokens: Tensor | None = None
        self.block_records: list[AttentionRecord] = []
        self.calls: list[AttentionRecord] = []
        self.cut = LinearCut(None)
        self._cuts = cuts
        self._saves_derivatives = saves_derivatives
        self._watching = visit is None  # with `visit`, only the calls inside its blocks count
        self._num_tokens: int | None = None
        self._num_ended = 0  # blocks of a pass that is not streamed
        self._from_images = False
        self._thread = threading.get_ident()

    def pooler_record(self) -> AttentionRecord | None:
        """The record of the one attention call after the last block; None where the outputs use no such pooler."""
        is_read = self.adapter.pooling == "attention"
        expected = int(is_read or self.adapter.has_unread_pooler)
        if len(self.calls) != expected:
            raise RuntimeError(
                f"{self.adapter.family} pools by {self.adapter.pooling}, but made {len(self.calls)} calls of fused "
                f"attention after its last block instead of {expected}. "
                f"{_sentence(self.adapter.fused_attention_switch)}"
            )
        return self.calls[0] if is_read else None

    @contextmanager
    def watch(self, images: Tensor, blocks: Sequence[int]) -> Iterator[None]:
        """Hooks the blocks and enters the mode for one forward pass.

        There is no graph before the first attention, unless the images require gradients.
        """
        self._from_images = self.gradients and images.requires_grad
        gh, gw = self.adapter.grid(*images.shape[-2:])
        self._num_tokens = self.adapter.num_prefix_tokens + gh * gw
        handles = []
        try:
            for index in blocks:
                block = self.adapter.blocks[index]
                handles.append(block.register_forward_pre_hook(partial(self._block_begins, index)))
                handles.append(block.register_forward_hook(partial(self._block_ends, index)))
            with torch.set_grad_enabled(self._from_images), self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and self.cut.takes(args):
            return self.cut(*args, **kwargs)
        if self._saves_derivatives and func in _ACTIVATIONS and args[0].requires_grad and not kwargs.get("inplace"):
            return SavedDerivative.apply(args[0], partial(func, *args[1:], **kwargs))
        if self.gradients:
            args, kwargs = parameters_as_constants(func, args, kwargs)
        if self._watching:
            if func is F.scaled_dot_product_attention:
                return self._attention(*args, **kwargs)
            if func is F.multi_head_attention_forward:
                return multi_head_attention(self._multi_head_call, *args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if self.gradients and (self._num_ended > self.first or self._from_images) and not torch.is_grad_enabled():
            raise RuntimeError(
                f"{self.adapter.family} turns gradients off inside its forward (torch.no_grad) before block "
                f"{self._num_ended}, so the target's gradient would not reach all blocks."
            )
        if is_causal and self.causal and attn_mask is None:
            attn_mask = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
            is_causal = False
        self._check_heads(query, enable_gqa, is_causal)
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, scale=scale
        )
        if self.gradients and (self._num_ended >= self.first or self._from_images):
            in_block = self._num_ended < len(self.adapter.blocks)
            if not output.requires_grad or (in_block and not self.through_attention):
                if self._from_images:
                    raise RuntimeError(
                        f"gradients do not reach the images: {self.adapter.family} detaches its tokens before block "
                        f"{self._num_ended} (.detach())."
                    )
                output = output.detach().requires_grad_()
            torch.set_grad_enabled(True)  # until the block ends, or the pass: `watch` restores the caller's mode
        self.calls.append(
            AttentionRecord(
                query=query.detach(),
                key=key.detach(),
                value=value.detach(),
                output=output,
                scale=query.shape[-1] ** -0.5 if scale is None else scale,
                bias=additive_mask(attn_mask, query),
            )
        )
        return output

    def _check_heads(self, query: Tensor, enable_gqa: bool, is_causal: bool) -> None:
        if query.ndim != 4 or enable_gqa or is_causal:
            raise RuntimeError(
                f"attention of {self.adapter.family} must be (batch, heads, tokens, dimension) without grouped or "
                "causal heads to be captured, got "
                f"query {tuple(query.shape)}, enable_gqa={enable_gqa}, is_causal={is_causal}."
            )

    def _multi_head_call(self, *args: Any, **kwargs: Any) -> AttentionRecord:
        """The attention call inside ``nn.MultiheadAttention``."""
        self._attention(*args, **kwargs)
        self.calls[-1] = replace(self.calls[-1], route="multi_head_attention_forward")
        return self.calls[-1]

    def _block_begins(self, index: int, block: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self._watching = True
        self.calls.clear()
        has_linear = any(isinstance(each, nn.Linear) for each in block.modules())
        self.cut = LinearCut(self.adapter.mlp_output(index).weight if self._cuts and has_linear else None)
        if self.begin is not None:
            if not args or not isinstance(args[0], Tensor):
                raise RuntimeError(f"{self._named(index)} must be given its tokens as the first argument.")
            self.begin(index, self.adapter.block_tokens(args[0]))

    def _block_ends(self, index: int, block: nn.Module, args: Any, output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return None
        tokens = self.adapter.block_tokens(output)
        record = self._only_block_record(index, tokens)
        self.calls.clear()
        if self.visit is None:
            self.tokens = tokens
            if self._num_ended >= self.first:
                self.block_records.append(record if self.values else record.without_values())
            self._num_ended += 1
            return None
        self._watching = False
        self.visit(index, record, tokens)
        self.cut = LinearCut(None)
        torch.set_grad_enabled(False)
        return (output[0].detach(), *output[1:]) if isinstance(output, tuple) else output.detach()

    def _only_block_record(self, index: int, tokens: Tensor) -> AttentionRecord:
        if not self.calls:
            raise RuntimeError(
                f"{self._named(index)} of {self.adapter.family} made no call of fused attention, so its attention "
                f"can't be captured. {_sentence(self.adapter.fused_attention_switch)}"
            )
        if len(self.calls) > 1:
            raise RuntimeError(
                f"{self._named(index)} made {len(self.calls)} attention calls; blocks with one are supported."
            )
        if tokens.shape[1] != self._num_tokens:
            raise RuntimeError(
                f"{self._named(index)} returned {tokens.shape[1]} tokens, but {self.adapter.num_prefix_tokens} prefix "
                f"tokens and the patch grid of {self.adapter.family} make {self._num_tokens}."
            )
        record = self.calls[0]
        batch, _, queries, keys = record.shape
        if (batch, queries, keys) != (tokens.shape[0], tokens.shape[1], tokens.shape[1]):
            raise RuntimeError(
                f"{self._named(index)} attends from {queries} to {keys} tokens in batches of {batch}, but returns "
                f"{tokens.shape[1]} tokens in batches of {tokens.shape[0]}: window attention is not supported."
            )
        return record

    def _named(self, index: int) -> str:
        return f"block {index} ({self.adapter.block_name(index)})"


def _sentence(remedy: str) -> str:
    return f"To switch it on: {remedy}."
