"""Attention calls and tokens of one forward pass, and the maps that follow, formed a few query rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor

from captum_vit.adapters.fused import Product, Softmax, Source, product_sums
from captum_vit.adapters.sums import column_sums

__all__ = [
    "AttentionLike",
    "AttentionRecord",
    "LazyMap",
    "TokenRecord",
    "additive_mask",
    "blocking_mask",
    "head_groups",
    "propagate",
    "query_chunks",
    "rows_of",
    "source_of",
    "start_row",
]

CHUNK_BYTES = 64 * 2**20
CACHED_CHUNK_BYTES = 4 * 2**20
"""Most memory in bytes that one chunk of an attention map takes; on a CPU it is reduced while it lies in the cache."""

ALL_HEADS = slice(None)


class LazyMap:
    """A tensor of shape (B, h, Q, N) that is never held whole: its query rows are formed on demand.

    Args:
        shape: (B, h, Q, N): batch, heads, query tokens, key tokens.
        form_rows: from an index of query rows (r,) and a slice of the heads to those rows of those heads, (B, g, r, N).
        like: a tensor or map with the dtype and the device of the rows.
        source: what the rows are formed of, for kernels that form and reduce them in one.
    """

    def __init__(
        self,
        shape: Sequence[int],
        form_rows: Callable[[Tensor, slice], Tensor],
        like: Tensor | LazyMap,
        source: Source | None = None,
    ) -> None:
        self.shape = torch.Size(shape)
        self.dtype: torch.dtype = like.dtype
        self.device: torch.device = like.device
        self.source = source
        self._form_rows = form_rows

    def rows(self, index: Tensor, heads: slice = ALL_HEADS) -> Tensor:
        """Forms the query rows ``index`` (r,) of all or some heads; returns (B, g, r, N)."""
        with torch.autocast(self.device.type, enabled=False):
            return self._form_rows(index, heads)

    def full(self) -> Tensor:
        """Forms the whole map (B, h, Q, N)."""
        return self.rows(torch.arange(self.shape[2], device=self.device))


AttentionLike: TypeAlias = Tensor | LazyMap
"""An attention-shaped tensor (B, h, Q, N), held whole or formed row by row."""


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """One call of scaled dot-product attention as the model made it.

    Attributes:
        query: (B, h, Q, d), after rotary embeddings and query normalisation.
        key: (B, h, N, d).
        value: (B, h, N, d).
        output: (B, h, Q, d), the tensor that the model went on with; it carries the graph when gradients were asked
            for.
        scale: factor of the query-key product before the softmax.
        bias: additive mask or position bias, broadcastable to (B, h, Q, N), or None.
        route: the function of PyTorch that the model called.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    scale: float
    bias: Tensor | None = None
    route: str = "scaled_dot_product_attention"

    @property
    def shape(self) -> torch.Size:
        """(B, h, Q, N) of the attention map."""
        return torch.Size((*self.query.shape[:3], self.key.shape[2]))

    @property
    def attention(self) -> LazyMap:
        """The probabilities A = softmax(scale * Q Kᵀ + bias), at least in float32."""
        scores, source = self.scores, Softmax(Product(self.query, self.key), self.scale, self.bias)
        return LazyMap(self.shape, lambda index, heads: scores.rows(index, heads).softmax(-1), scores, source)

    @property
    def scores(self) -> LazyMap:
        """What the softmax is taken of, scale * Q Kᵀ + bias, at least in float32."""
        query, key = relevance_dtype(self.query), relevance_dtype(self.key)

        def form_rows(index: Tensor, heads: slice) -> Tensor:
            scores = query[:, heads, index] * self.scale @ key[:, heads].transpose(-2, -1)  # (B, g, r, N)
            if self.bias is not None:
                bias = self.bias if self.bias.ndim < 3 or self.bias.shape[-3] == 1 else self.bias[..., heads, :, :]
                scores = scores + (bias[..., index, :] if bias.shape[-2] > 1 else bias).to(scores.dtype)
            return scores

        return LazyMap(self.shape, form_rows, query)

    def detached(self) -> AttentionRecord:
        """The same call without a graph, its query, key, value and output at least in float32."""
        return replace(
            self,
            query=relevance_dtype(self.query),
            key=relevance_dtype(self.key),
            value=relevance_dtype(self.value),
            output=relevance_dtype(self.output),
        )

    def without_values(self) -> AttentionRecord:
        """The same call with nothing but what the map is made of: value and output keep no channel, d = 0.

        Query and key get memory of their own where they are views of more (of a joined projection).
        """
        return replace(
            self,
            query=_alone(self.query),
            key=_alone(self.key),
            value=self.value[..., :0].clone(),
            output=self.output[..., :0].clone(),
        )

    def gradient(self, output_gradient: Tensor) -> LazyMap:
        """The gradient of a score with respect to the attention map, ∂s/∂A = G Vᵀ, at least in float32.

        Args:
            output_gradient: G (B, h, Q, d), the gradient of the score at ``output``.
        """
        gradient, value = relevance_dtype(output_gradient), relevance_dtype(self.value)

        def form_rows(index: Tensor, heads: slice) -> Tensor:
            return gradient[:, heads, index] @ value[:, heads].transpose(-2, -1)  # (B, g, r, N)

        return LazyMap(self.shape, form_rows, gradient, Product(output_gradient, self.value))

    def gradient_sums(self, output_gradient: Tensor, *, positive: bool = True) -> Tensor:
        """The sum of (∂s/∂A)⁺ over heads and query tokens, (B, N), at least in float32; no map is held whole.

        Args:
            output_gradient: see `gradient`.
            positive: False sums ∂s/∂A itself.
        """
        fused = product_sums(Product(output_gradient, self.value), "positive" if positive else "plain")
        if fused is not None:
            return fused.sum(1)
        gradient, value = relevance_dtype(output_gradient), relevance_dtype(self.value)
        with torch.autocast(gradient.device.type, enabled=False):
            return column_sums(gradient, value, positive=positive)


@dataclass(frozen=True, eq=False)
class TokenRecord:
    """The tokens at one place of one forward pass.

    Attributes:
        output: what the watched module returned and the model went on with; it carries the graph.
        arrange: brings a tensor of the shape of ``output`` to (B, N, D).
    """

    output: Tensor
    arrange: Callable[[Tensor], Tensor]

    @property
    def tokens(self) -> Tensor:
        """(B, N, D), detached, at least in float32."""
        return relevance_dtype(self.arrange(self.output))

    def gradient(self, output_gradient: Tensor) -> Tensor:
        """The gradient of a score with respect to the tokens, (B, N, D), from that at ``output``."""
        return relevance_dtype(self.arrange(output_gradient))


def relevance_dtype(tensor: Tensor) -> Tensor:
    """Detaches; float16 and bfloat16 become float32."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _alone(tensor: Tensor) -> Tensor:
    is_view = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.itemsize
    return tensor.clone(memory_format=torch.contiguous_format) if is_view else tensor


def rows_of(attention: AttentionLike, index: Tensor, heads: slice = ALL_HEADS) -> Tensor:
    """The query rows ``index`` (r,) of all or some heads of a held or lazy map; returns (B, g, r, N)."""
    return attention.rows(index, heads) if isinstance(attention, LazyMap) else attention[:, heads, index]


def source_of(attention: AttentionLike) -> Source | None:
    """What a lazy map is formed of, where it says so."""
    return attention.source if isinstance(attention, LazyMap) else None


def query_chunks(attention: AttentionLike, rows: Tensor | None = None, *, by_head: bool = False) -> Iterator[Tensor]:
    """Splits query rows so that one chunk of a map (B, h, r, N) stays under the limit on chunks.

    Args:
        attention: the map, of which only shape, dtype and device are read.
        rows: the rows to visit (r,); all by default.
        by_head: whether a chunk is of some heads only (see `head_groups`), and may have more rows.
    """
    batch, heads, queries, keys = attention.shape
    index = torch.arange(queries, device=attention.device) if rows is None else rows
    per_row = batch * (1 if by_head else heads) * keys * attention.dtype.itemsize
    yield from index.split(max(1, _chunk_bytes(attention) // per_row))


def head_groups(attention: AttentionLike, num_rows: int) -> Iterator[slice]:
    """Splits the heads so that a chunk of ``num_rows`` rows (B, g, r, N) stays under the limit on chunks."""
    batch, heads, _, keys = attention.shape
    per_head = batch * max(1, num_rows) * keys * attention.dtype.itemsize
    step = max(1, _chunk_bytes(attention) // per_head)
    yield from (slice(first, first + step) for first in range(0, heads, step))


def _chunk_bytes(attention: AttentionLike) -> int:
    return min(CHUNK_BYTES, CACHED_CHUNK_BYTES) if attention.device.type == "cpu" else CHUNK_BYTES


def start_row(attention: AttentionLike, weights: Tensor | None = None) -> Tensor:
    """The row (B, Q) at which relevance starts: the share of each query token in the pooled vector.

    Args:
        attention: (B, h, Q, N), of which only shape, dtype and device are read.
        weights: shares (Q,); the first token's is 1 by default (a class token).
    """
    batch, _, queries, _ = attention.shape
    if weights is None:
        weights = torch.zeros(queries)
        weights[0] = 1.0
    return weights.to(attention.device, attention.dtype).expand(batch, -1)


def propagate(
    row: Tensor,
    maps: Sequence[AttentionLike],
    fuse: Callable[..., Tensor],
    *,
    join: Callable[[Tensor, Tensor], Tensor] | None = None,
    finish: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """The product ``row @ finish(fuse(*maps))`` without the matrix ever being held.

    Rows of the matrix that meet a zero in ``row`` for every image are not formed at all: from a class token, the last
    block's map costs one row.

    Args:
        row: relevance of the query tokens, (B, Q), or several rows of it, (B, k, Q).
        maps: maps of shape (B, h, Q, N) that ``fuse`` combines.
        fuse: from a row index (r,) and those rows of every map, each (B, h, r, N), to the fused rows (B, r, N).
        join: makes one map of two heads' maps, as ``torch.add`` for a sum over heads. Given, ``fuse`` gets a few heads
            at a time and leaves them apart, (B, g, r, N), which is quicker than many heads of fewer rows.
        finish: from a row index and the fused rows to the rows of the matrix; as they are by default.

    Returns:
        Relevance of the key tokens, (B, N) or (B, k, N).
    """
    relevance = row.new_zeros(*row.shape[:-1], maps[0].shape[3])
    active = row.ne(0).flatten(0, -2).any(0).nonzero().squeeze(1)
    with torch.autocast(row.device.type, enabled=False):
        for index in query_chunks(maps[0], active, by_head=join is not None):
            if join is None:
                fused = fuse(index, *(rows_of(each, index) for each in maps))
            else:
                groups = head_groups(maps[0], len(index))
                parts = (fuse(index, *(rows_of(each, index, heads) for each in maps)) for heads in groups)
                fused = reduce(join, (rows for part in parts for rows in part.unbind(1)))
            fused = fused if finish is None else finish(index, fused)
            relevance += torch.einsum("b...r,brn->b...n", row[..., index].to(fused.dtype), fused)
    return relevance


def additive_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask of ``F.scaled_dot_product_attention`` (True takes part) as an additive bias."""
    if mask is None or mask.dtype != torch.bool:
        return None if mask is None else mask.detach()
    return like.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))


def blocking_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask of ``nn.MultiheadAttention`` (True is left out) as an additive bias."""
    return additive_mask(~mask if mask is not None and mask.dtype == torch.bool else mask, like)
