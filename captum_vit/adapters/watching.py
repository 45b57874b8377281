"""Watching one forward pass of one thread: every attention call is seen, no module is changed.

`torch.overrides.TorchFunctionMode` hands every call of ``F.scaled_dot_product_attention`` and
``F.multi_head_attention_forward`` of the current thread to `AttentionCapture`. The model's fused kernel keeps running;
what is kept is its query, key, value and output. Forward hooks, registered for the length of the pass and deaf to other
threads, say which block a call belongs to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_vit.adapters.attention import AttentionRecord, additive_mask
from captum_vit.adapters.base import Adapter
from captum_vit.adapters.hidden import MANY_TOKENS, HiddenLayers
from captum_vit.adapters.multi_head import multi_head_attention
from captum_vit.adapters.parameters import parameters_as_constants
from captum_vit.adapters.tail import LinearCut
from captum_vit.adapters.vjp import SavedDerivative

__all__ = ["AttentionCapture", "Begin", "Visit"]

_ACTIVATIONS = (F.gelu, F.silu)

Visit = Callable[[int, AttentionRecord, Tensor], None]
"""Called at the end of a block with its index, its attention record and its output tokens (B, N, D)."""

Begin = Callable[[int, Tensor], None]
"""Called at the beginning of a block with its index and its input tokens (B, N, D)."""


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
        self._hidden: HiddenLayers | None = None
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
        keeps_graph = self.gradients and self.visit is None
        self._hidden = HiddenLayers() if keeps_graph and self._num_tokens > MANY_TOKENS else None
        handles = []
        try:
            for index in blocks:
                block = self.adapter.blocks[index]
                handles.append(block.register_forward_pre_hook(partial(self._block_begins, index)))
                handles.append(block.register_forward_hook(partial(self._block_ends, index)))
            saving = nullcontext() if self._hidden is None else self._hidden.forgotten()
            with torch.set_grad_enabled(self._from_images), saving, self:
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
        saves = self._saves_derivatives and func in _ACTIVATIONS and bool(args)
        if saves and args[0].requires_grad and not kwargs.get("inplace"):
            return SavedDerivative.apply(args[0], partial(func, *args[1:], **kwargs))
        if self.gradients:
            args, kwargs = parameters_as_constants(func, args, kwargs)
        if self._hidden is not None and func is F.linear and len(args) > 1:
            return self._hidden.linear(*args, **kwargs)
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
