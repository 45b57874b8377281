"""``F.multi_head_attention_forward`` taken apart: projections, one call of attention, output projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from captum_vit.adapters.attention import AttentionRecord, blocking_mask

__all__ = ["multi_head_attention"]


def multi_head_attention(
    attend: Callable[..., AttentionRecord],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``F.multi_head_attention_forward`` of a batch, (tokens, batch, D), with its inner attention call left to another.

    ``attend`` takes the arguments of ``F.scaled_dot_product_attention``, with query, key and value (B, h, tokens, d),
    and returns the record of that call; all others are the arguments of PyTorch's function.

    Returns:
        The output (tokens, batch, D), and the probabilities if ``need_weights``.

    Raises:
        RuntimeError: causal masking, key or value bias, static or zero attention.
    """
    unusual = (bias_k, bias_v, static_k, static_v)
    if query.ndim != 3 or add_zero_attn or is_causal or any(each is not None for each in unusual):
        raise RuntimeError(
            "nn.MultiheadAttention is captured for batched input without causal masking, key or value bias, static "
            f"or zero attention, got query {tuple(query.shape)}, add_zero_attn={add_zero_attn}, "
            f"is_causal={is_causal}."
        )
    turned = query.transpose(0, 1).is_contiguous()  # batch_first: as (batch, tokens, D) it is projected without a copy
    if in_proj_weight is not None and query is key and key is value:
        projected = _linear(query, in_proj_weight, in_proj_bias, turned).chunk(3, -1)
    else:
        weights: Sequence[Any] = (
            (q_proj_weight, k_proj_weight, v_proj_weight) if in_proj_weight is None else in_proj_weight.chunk(3)
        )
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        projected = tuple(
            _linear(each, weight, bias, turned)
            for each, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
    q, k, v = (each.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for each in projected)  # (B, h, tokens, d)
    bias = blocking_mask(attn_mask, query)
    if bias is not None and bias.ndim == 3:
        bias = bias.unflatten(0, (-1, num_heads))  # (B, h, Q, N)
    padding = blocking_mask(key_padding_mask, query)
    if padding is not None:
        padding = padding[:, None, None, :]  # (B, 1, 1, N)
        bias = padding if bias is None else bias + padding
    record = attend(q, k, v, attn_mask=bias, dropout_p=dropout_p if training else 0.0)
    joined = record.output.transpose(1, 2).flatten(2).transpose(0, 1)  # (tokens, batch, D)
    attended = _linear(joined, out_proj_weight, out_proj_bias, turned)
    if not need_weights:
        return attended, None
    probabilities = record.attention.full().to(query.dtype)  # (B, h, Q, N)
    return attended, probabilities.mean(1) if average_attn_weights else probabilities


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    """``F.linear`` of (tokens, batch, D), computed as (batch, tokens, D) where ``turned``."""
    return F.linear(inputs.transpose(0, 1), weight, bias).transpose(0, 1) if turned else F.linear(inputs, weight, bias)
