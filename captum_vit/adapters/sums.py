"""Column sums of (G Vᵀ)⁺, whose products are formed in pieces and never held whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["column_sums"]

PIECE_BYTES = 64 * 2**20
CACHED_PIECE_BYTES = 4 * 2**20
"""Most memory in bytes of one piece; on a CPU it is summed while it still lies in a core's cache."""


def column_sums(gradient: Tensor, value: Tensor, *, positive: bool = True) -> Tensor:
    """The sum over heads and query tokens of (G Vᵀ)⁺.

    Args:
        gradient: G, (B, h, Q, d).
        value: V, (B, h, N, d).
        positive: False sums G Vᵀ itself.

    Returns:
        (B, N).
    """
    (batch, heads, queries, _), keys = gradient.shape, value.shape[2]
    limit = (CACHED_PIECE_BYTES if gradient.device.type == "cpu" else PIECE_BYTES) // gradient.dtype.itemsize
    rows = _most(queries, limit // keys)
    some_heads = _most(heads, limit // (rows * keys))
    images = _most(batch, limit // (some_heads * rows * keys))
    piece = gradient.new_empty(images * some_heads * rows * keys)  # memory that is asked for once
    sums = gradient.new_zeros(batch, keys)
    for total, of_images, values in zip(sums.split(images), gradient.split(images), value.split(images), strict=True):
        for of_heads, head_values in zip(of_images.split(some_heads, 1), values.split(some_heads, 1), strict=True):
            for of_rows in of_heads.split(rows, 2):
                shape = (*of_rows.shape[:3], keys)
                product = torch.matmul(of_rows, head_values.mT, out=piece[: math.prod(shape)].view(shape))
                total += (product.clamp_(min=0) if positive else product).sum((1, 2))
    return sums


def _most(available: int, limit: int) -> int:
    return max(1, min(available, limit))
