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
from captum_vit.attr.options import checked_number
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

_GOLDEN_RATIO = (5**0.5 - 1) / 2
_SOONEST = 1.0
"""Seconds, and `_FEWEST` problems, from which the time of all is estimated."""
_FEWEST = 4


def attention_flow(
    attentions: Sequence[AttentionLike],
    *,
    head_fusion: HeadFusion = "mean",
    residual: float = 0.5,
    start: Tensor | None = None,
    pooler: AttentionLike | None = None,
    sinks: Sequence[int] | None = None,
    warn_above: float = 30.0,
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
        warn_above: seconds above which a warning says how long the call will take, as soon as that can be told: by the
            time of the problems solved so far, whose sinks lie spread over the image.

    Returns:
        The flow to each sink, (B, number of sinks), in the dtype of the attention.

    Raises:
        TypeError: an option of another type.
        ValueError: an option outside its range.

    Warns:
        UserWarning: more than ``warn_above`` seconds are expected.

    Example:
        >>> first = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]])
        >>> last = torch.tensor([[[[0.4, 0.6], [0.5, 0.5]]]])
        >>> attention_flow([first, last], residual=0.0)  # min(0.4, 0.5) + min(0.6, 0.25) and min(…, 0.5) + min(…, 0.75)
        tensor([[0.6500, 1.0000]])

    References:
        arXiv:2005.00928, section 3; residual as its eq. 1.
    """
    check_rollout_options(head_fusion, residual, 0.0)
    warn_above = _checked_limit(warn_above)
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
    return torch.from_numpy(_flows(networks, wanted, warn_above)).to(layers)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.cpu().double().numpy()


def _checked_limit(warn_above: float) -> float:
    return checked_number("warn_above", warn_above, 0, finite=False)


def _flows(networks: Sequence[FlowNetwork], sinks: NDArray[np.int64], warn_above: float) -> NDArray[np.float64]:
    """The maximum flow to each sink in each network, (B, S); warns as soon as the whole is expected to take long."""
    flows = np.empty((len(networks), len(sinks)))
    spread = np.argsort(np.arange(len(sinks)) * _GOLDEN_RATIO % 1)  # the first few lie all over the image
    at_once = networks[0].sinks_at_once
    began, solved, warned = time.perf_counter(), 0, False
    for first in range(0, len(sinks), at_once):
        part = spread[first : first + at_once]
        for image, network in enumerate(networks):
            flows[image, part] = network.flows(sinks[part])
            solved += len(part)
            seconds = time.perf_counter() - began
            judged = seconds >= min(_SOONEST, warn_above) and (solved >= _FEWEST or seconds > warn_above)
            if judged and not warned and solved < flows.size and seconds / solved * flows.size > warn_above:
                _warn(flows.shape, len(network.tails), solved, seconds, warn_above)
                warned = True
    return flows


def _warn(shape: tuple[int, ...], edges: int, solved: int, seconds: float, warn_above: float) -> None:
    problems = shape[0] * shape[1]
    warnings.warn(
        f"Attention Flow solves {problems} maximum-flow problems ({shape[0]} images with {shape[1]} sinks) on networks "
        f"of {edges} edges, by a rough estimate {seconds / solved * problems:.0f} s in all: the first {solved} took "
        f"{seconds:.1f} s. Attention Rollout takes a moment. To silence this raise warn_above, which is "
        f"{warn_above:g} s.",
        UserWarning,
        stacklevel=4,
    )


class AttentionFlow(ViTAttribution):
    """The most that can flow from the pooled token back to each patch, through edges as wide as the attention.

    Args:
        model: see `ViTAttribution`.
        head_fusion: how the heads of a block become one map: "mean", "max" or "min".
        residual: weight of the identity in each block, in [0, 1].
        start_block: first block that takes part; negative counts from the last.
        warn_above: seconds above which a warning says how long the images explained at a time will take: a rough
            estimate from the problems solved so far.

    Raises:
        TypeError: an option of another type.
        ValueError: an option outside its range.
    """

    name = "Attention Flow"
    class_specific = False
    signed = False
    passes = "1 forward + a maximum flow for each patch, on the CPU"
    memory = "the maps of all blocks, averaged over heads"
    reference = "arXiv:2005.00928, section 3"

    def __init__(
        self,
        model: nn.Module,
        *,
        head_fusion: HeadFusion = "mean",
        residual: float = 0.5,
        start_block: int = 0,
        warn_above: float = 30.0,
    ) -> None:
        super().__init__(model)
        check_rollout_options(head_fusion, residual, 0.0)
        self.head_fusion, self.residual, self.warn_above = head_fusion, residual, _checked_limit(warn_above)
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
