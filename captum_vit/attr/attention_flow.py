"""Attention Flow: the maximum flow from the pooled token to each patch (Abnar & Zuidema 2020)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, propagate, rows_of, start_row
from captum_vit.adapters.capture import trace
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.flow_network import FlowNetwork
from captum_vit.attr.rows import (
    HeadFusion,
    check_rollout_options,
    checked_start_block,
    fuse_heads,
    normalise_rows,
    pad_prefix,
    with_identity,
)

__all__ = ["AttentionFlow", "attention_flow"]


def attention_flow(
    attentions: Sequence[AttentionLike],
    *,
    head_fusion: HeadFusion = "mean",
    residual: float = 0.5,
    start: Tensor | None = None,
    pooler: AttentionLike | None = None,
    sinks: Sequence[int] | None = None,
    warn_above: int = 256,
) -> Tensor:
    """The most that can flow from the pooled vector down to each token through edges as wide as the attention.

    One node a token and layer; ``Ã_l = (1 - residual) A_l + residual I`` (heads fused, rows normalised) is the capacity
    of the edges from block l's output to its input. The source's edges have the capacity of each token's share in the
    pooled vector. Each sink is a problem of its own.

    Dinic's algorithm (scipy) solves it in units of 2⁻³⁰; the value returned is the exact capacity of the minimum cut
    that it finds, which exceeds the maximum flow by no more than 2⁻³⁰ an edge of that cut, and mostly by nothing.

    Args:
        attentions: post-softmax attention A of each block, first to last, each (B, h, N, N).
        head_fusion: how the heads become one map.
        residual: weight of the identity, in [0, 1].
        start: share of each token in the pooled vector, (N,), or per image (B, N); the class token by default. With
            ``pooler`` the tokens are the pooler's queries.
        pooler: attention of an attention pooler (B, h, Q, N), fused like a block but without a residual.
        sinks: tokens to which the flow is found; all by default.
        warn_above: number of tokens above which a warning says how long it will take.

    Returns:
        The flow to each sink, (B, number of sinks), in the dtype of the attention.

    Raises:
        ValueError: an option outside its range.

    Warns:
        UserWarning: more than ``warn_above`` tokens.

    Example:
        >>> first = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]])
        >>> last = torch.tensor([[[[0.4, 0.6], [0.5, 0.5]]]])
        >>> attention_flow([first, last], residual=0.0)  # min(0.4, 0.5) + min(0.6, 0.25) and min(…, 0.5) + min(…, 0.75)
        tensor([[0.6500, 1.0000]])

    References:
        arXiv:2005.00928, section 3; residual as its eq. 1.
    """
    check_rollout_options(head_fusion, residual, 0.0)
    tokens = attentions[-1].shape[3]
    wanted = np.arange(tokens) if sinks is None else np.asarray(sinks)
    if pooler is None:
        shares = start_row(attentions[-1], start)
    else:
        pooled = propagate(start_row(pooler, start), [pooler], lambda _, rows: fuse_heads(rows, head_fusion))
        shares = pad_prefix(normalise_rows(pooled), tokens)
    index = torch.arange(tokens, device=shares.device)
    fused = [fuse_heads(rows_of(each, index), head_fusion) for each in attentions]
    layers = torch.stack([normalise_rows(with_identity(each, index, residual)) for each in fused], 1)  # (B, L, N, N)
    networks = [FlowNetwork.of(*each) for each in zip(_array(shares), _array(layers), strict=True)]
    if tokens > warn_above and len(wanted):
        began = time.perf_counter()
        networks[0].flows(wanted[:1])
        problems = len(wanted) * len(networks)
        _warn(tokens, warn_above, problems, (time.perf_counter() - began) * problems)
    return torch.from_numpy(np.stack([network.flows(wanted) for network in networks])).to(layers)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.cpu().double().numpy()


def _warn(tokens: int, warn_above: int, problems: int, seconds: float) -> None:
    warnings.warn(
        f"Attention Flow solves {problems} maximum-flow problems on a graph of {tokens} tokens a layer, about "
        f"{seconds:.0f} s in all, judged by the first. Attention Rollout takes a moment. To silence this raise "
        f"warn_above, which is {warn_above}.",
        UserWarning,
        stacklevel=3,
    )


class AttentionFlow(ViTAttribution):
    """The most that can flow from the pooled token back to each patch, through edges as wide as the attention.

    Args:
        model: see `ViTAttribution`.
        head_fusion: how the heads of a block become one map: "mean", "max" or "min".
        residual: weight of the identity in each block, in [0, 1].
        start_block: first block that takes part; negative counts from the last.
        warn_above: number of tokens above which a warning says how long it will take.

    Raises:
        ValueError: an option outside its range.
    """

    name = "Attention Flow"
    class_specific = False
    signed = False
    passes = "1 forward + a maximum flow for each patch, on the CPU"
    reference = "arXiv:2005.00928, section 3"

    def __init__(
        self,
        model: nn.Module,
        *,
        head_fusion: HeadFusion = "mean",
        residual: float = 0.5,
        start_block: int = 0,
        warn_above: int = 256,
    ) -> None:
        super().__init__(model)
        check_rollout_options(head_fusion, residual, 0.0)
        self.head_fusion, self.residual, self.warn_above = head_fusion, residual, warn_above
        self.start_block = checked_start_block(start_block, len(self.forward_func.blocks))

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = trace(self.forward_func, images)
        last = traced.pooler or traced.blocks[-1]
        flow = attention_flow(
            [record.attention for record in traced.blocks[self.start_block :]],
            head_fusion=self.head_fusion,
            residual=self.residual,
            start=self.forward_func.pool_weights(last.shape[2]),
            pooler=traced.pooler.attention if traced.pooler else None,
            sinks=range(self.forward_func.num_prefix_tokens, traced.tokens.shape[1]),
            warn_above=self.warn_above,
        )
        return flow[:, None]

    def _why_blank(self) -> str:
        return "no attention reaches the patch tokens; a residual of 1 keeps all flow on the pooled token"
