"""What the rollout-type methods share: where the row starts, how it enters the blocks, what becomes of each map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_vit.adapters.attention import AttentionLike, head_groups, propagate, query_chunks, rows_of, source_of
from captum_vit.adapters.fused import Kind, product_sums, softmax_sums
from captum_vit.attr.options import checked_block, checked_choice, checked_number

__all__ = [
    "JOINS",
    "HeadFusion",
    "check_rollout_options",
    "checked_start_block",
    "discard_smallest",
    "fuse_heads",
    "head_sums",
    "normalise_rows",
    "pad_prefix",
    "weighted_row",
    "with_identity",
]

HeadFusion = Literal["mean", "max", "min"]

_FUSIONS: dict[HeadFusion, Callable[[Tensor], Tensor]] = {
    "mean": lambda rows: rows.mean(1),
    "max": lambda rows: rows.amax(1),
    "min": lambda rows: rows.amin(1),
}

JOINS: dict[HeadFusion, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}
"""What `propagate` joins heads with; for the mean their sum, which is still to be divided by their number."""


def check_rollout_options(head_fusion: HeadFusion, residual: float, discard_ratio: float) -> None:
    """Refuses what is out of range.

    Raises:
        TypeError: no number.
        ValueError: another fusion, or a number outside its interval.
    """
    checked_choice("head_fusion", head_fusion, _FUSIONS)
    checked_number("residual", residual, 0, 1)
    checked_number("discard_ratio", discard_ratio, 0, 1, below=True)


def fuse_heads(rows: Tensor, head_fusion: HeadFusion) -> Tensor:
    """The rows of all heads (B, h, r, N) as those of one map, (B, r, N)."""
    return _FUSIONS[head_fusion](rows)


_OF: dict[Kind, Callable[[Tensor], Tensor]] = {
    "positive": lambda rows: rows.clamp(min=0),
    "plain": lambda rows: rows,
    "absolute": torch.abs,
    "square": torch.square,
}


def head_sums(attention: AttentionLike, kind: Kind) -> Tensor:
    """The sum of a function of each entry over each head's map, (B, h), without a map being held."""
    fused = product_sums(source_of(attention), kind)
    if fused is not None:
        return fused.sum(2)
    of = _OF[kind]
    total = torch.zeros(attention.shape[:2], dtype=attention.dtype, device=attention.device)
    for index in query_chunks(attention, by_head=True):
        for heads in head_groups(attention, len(index)):
            total[:, heads] += of(rows_of(attention, index, heads)).sum((2, 3))
    return total


def weighted_row(
    row: Tensor, attention: AttentionLike, *, gradient: AttentionLike | None = None, head_weights: Tensor | None = None
) -> Tensor:
    """``row Σ_h w_h A_h``, or with a gradient ``row Σ_h w_h (∇A_h ∘ A_h)⁺``, without a map being held.

    Args:
        row: relevance of the query tokens, (B, Q).
        attention: A, (B, h, Q, N).
        gradient: ∇A, of the same shape.
        head_weights: w, (B, h); 1 by default.

    Returns:
        Relevance of the key tokens, (B, N).
    """
    maps = [attention] if gradient is None else [attention, gradient]
    fused = softmax_sums(row, *map(source_of, maps))
    if fused is not None:
        return (fused if head_weights is None else fused * head_weights[..., None]).sum(1)
    if head_weights is not None:
        maps.append(head_weights[:, :, None, None].expand(-1, -1, attention.shape[2], 1))  # a map of one column

    def fuse(_: Tensor, rows: Tensor, *factors: Tensor) -> Tensor:
        if gradient is not None:
            rows = (factors[0] * rows).clamp_(min=0)
        return rows if head_weights is None else rows * factors[-1]

    return propagate(row, maps, fuse, join=torch.add)


def with_identity(rows: Tensor, index: Tensor, residual: float) -> Tensor:
    """``(1 - residual) rows + residual I`` for the rows ``index`` (r,) of a map, (B, r, N)."""
    mixed = rows * (1 - residual)
    mixed[:, torch.arange(len(index), device=index.device), index] += residual
    return mixed


def normalise_rows(rows: Tensor) -> Tensor:
    """Each row (…, N) divided by its sum; a row of zeros, which leads nowhere, stays."""
    total = rows.sum(-1, keepdim=True)
    return rows / total.where(total > 0, 1.0)


def discard_smallest(
    maps: Sequence[AttentionLike], fuse: Callable[..., Tensor], ratio: float, *, keep_first: bool
) -> Tensor:
    """The fused map (B, 1, N, N), held whole, with its ``int(N² · ratio)`` smallest entries at zero.

    Args:
        maps: maps of shape (B, h, N, N) that ``fuse`` combines.
        fuse: see `propagate`.
        ratio: share of the entries, in [0, 1).
        keep_first: whether the first token's value for itself is kept in any case.
    """
    chunks = [fuse(index, *(rows_of(each, index) for each in maps)) for index in query_chunks(maps[0])]
    fused = torch.cat(chunks, 1)  # (B, N, N)
    flat = fused.flatten(1)
    first = flat[:, 0].clone()
    flat = flat.scatter(1, flat.topk(int(flat.shape[1] * ratio), largest=False).indices, 0.0)
    if keep_first:
        flat[:, 0] = first
    return flat.view_as(fused)[:, None]


def pad_prefix(row: Tensor, num_tokens: int) -> Tensor:
    """A pooler's row over patch tokens only, (…, gh·gw), as a row over all N tokens, (…, N)."""
    return F.pad(row, (num_tokens - row.shape[-1], 0))


def checked_start_block(start_block: int, num_blocks: int) -> int:
    """The index from 0 of the first block that takes part.

    Raises:
        TypeError: no integer.
        ValueError: no such block.
    """
    return checked_block("start_block", start_block, num_blocks)
