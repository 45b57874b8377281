"""Reductions of attention-shaped maps that Triton fuses on a GPU: no piece of a map is written to memory.

Each function returns None where its kernel does not apply, and its caller goes on with PyTorch: on any device but a
CUDA GPU of compute capability 8.0 or more, without Triton, in float64, with heads of more than 128 channels, where the
environment variable ``CAPTUM_VIT_TRITON`` is 0, and for a map that is not made of such factors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Kind", "Product", "Softmax", "Source", "product_sums", "softmax_sums"]

SWITCH = "CAPTUM_VIT_TRITON"
DEVICE_TYPES = {"cuda"}
CAPABILITY = (8, 0)
MOST_CHANNELS = 128
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Kind = Literal["positive", "plain", "absolute", "square"]
"""What is summed of each entry: its positive part, the entry itself, its absolute value or its square."""


@dataclass(frozen=True, eq=False)
class Product:
    """The map L Rᵀ.

    Attributes:
        left: (B, h, Q, d).
        right: (B, h, N, d).
    """

    left: Tensor
    right: Tensor

    @property
    def is_taken(self) -> bool:
        """Whether a kernel forms it. What does not fit together is left to PyTorch, which refuses it."""
        left, right = self.left, self.right
        return (
            left.device.type in DEVICE_TYPES
            and left.device == right.device
            and left.dtype == right.dtype
            and left.dtype in _DTYPES
            and (left.shape[:2], left.shape[3]) == (right.shape[:2], right.shape[3])
            and 0 < left.shape[3] <= MOST_CHANNELS
            and 0 not in left.shape
            and 0 not in right.shape
        )

    def is_like(self, other: Product) -> bool:
        """Whether both make maps of one shape, of one dtype, on one device."""
        pairs = ((self.left, other.left), (self.right, other.right))
        return all(a.shape[:3] == b.shape[:3] and a.dtype == b.dtype and a.device == b.device for a, b in pairs)

    def contiguous(self) -> tuple[Tensor, Tensor]:
        """L and R without a graph, each in one piece of memory."""
        return self.left.detach().contiguous(), self.right.detach().contiguous()


@dataclass(frozen=True, eq=False)
class Softmax:
    """The map softmax(scale * L Rᵀ + bias).

    Attributes:
        product: L and R, query and key.
        scale: factor of the product.
        bias: broadcastable to (B, h, Q, N), or None.
    """

    product: Product
    scale: float
    bias: Tensor | None

    @property
    def is_taken(self) -> bool:
        """See `Product.is_taken`."""
        return self.product.is_taken and (self.bias is None or self.bias.dtype in _DTYPES)


Source = Product | Softmax


def product_sums(source: Source | None, kind: Kind) -> Tensor | None:
    """The sum over queries of a function of each entry of L Rᵀ, or None where the kernel does not apply.

    Args:
        source: L Rᵀ.
        kind: the function.

    Returns:
        (B, h, N), float32.

    Raises:
        ValueError: ``CAPTUM_VIT_TRITON`` is neither 0 nor 1.
    """
    if not _is_switched_on() or not isinstance(source, Product) or not source.is_taken:
        return None
    if not _is_available(source.left.device):
        return None
    left, right = source.contiguous()
    sums = left.new_empty(*right.shape[:3], dtype=torch.float32)
    lanes = _lanes(left)
    step = _step(left, lanes)
    arguments = (left, right, sums, left.shape[2], right.shape[2], left.shape[3])
    _launch("product_sums", right, step, *arguments, kind=kind, lanes=lanes)
    return sums


def softmax_sums(row: Tensor, attention: Source | None, *gradient: Source | None) -> Tensor | None:
    """The row times each head's map, ``row A_h``, or with a gradient ``row (∇A_h ∘ A_h)⁺``; None as above.

    Rows of the map that meet a zero in ``row`` are not formed, but for those in one tile with a row that counts.

    Args:
        row: relevance of the query tokens, (B, Q), float32.
        attention: A, a softmax.
        gradient: ∇A, a product of the same shape, or nothing.

    Returns:
        (B, h, N), float32.

    Raises:
        ValueError: ``CAPTUM_VIT_TRITON`` is neither 0 nor 1.
    """
    if not _is_switched_on() or not isinstance(attention, Softmax) or not attention.is_taken:
        return None
    if row.ndim != 2 or row.dtype != torch.float32:
        return None
    scores, product = attention.product, (gradient or (attention.product,))[0]
    if not isinstance(product, Product) or not product.is_taken or not product.is_like(scores):
        return None
    if not _is_available(row.device):
        return None
    query, key = scores.contiguous()
    left, right = product.contiguous() if gradient else (query, key)
    (batch, heads, queries, width), keys = query.shape, key.shape[2]
    weight = row.detach().contiguous()
    bias = query if attention.bias is None else attention.bias.detach().expand(batch, heads, queries, keys)
    normalisers = query.new_empty(batch, heads, queries, dtype=torch.float32)
    sums = query.new_empty(batch, heads, keys, dtype=torch.float32)
    lanes, product_lanes = _lanes(query), _lanes(left)
    step = _step(query, max(lanes, product_lanes))
    of_bias = (attention.scale, *bias.stride())
    biased = attention.bias is not None
    arguments = (query, key, bias, weight, normalisers, heads, queries, keys, width, *of_bias)
    _launch("softmax_normalisers", query, step, *arguments, biased=biased, lanes=lanes)
    widths = (heads, queries, keys, width, left.shape[3])
    arguments = (query, key, bias, left, right, weight, normalisers, sums, *widths, *of_bias)
    options = {"biased": biased, "multiplied": bool(gradient), "lanes": lanes, "product_lanes": product_lanes}
    _launch("softmax_sums", key, step, *arguments, **options)
    return sums


def _is_switched_on() -> bool:
    switch = os.environ.get(SWITCH, "1")
    if switch not in ("0", "1"):
        raise ValueError(f"{SWITCH} must be 0 or 1, got {switch!r}.")
    return switch == "1"


def _is_available(device: torch.device) -> bool:
    return _has_triton() and _is_capable(device)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _is_capable(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= CAPABILITY


def _lanes(factor: Tensor) -> int:
    """The channels of a tile: a power of two, 16 at least."""
    return max(16, 1 << (factor.shape[3] - 1).bit_length())


def _step(factor: Tensor, lanes: int) -> int:
    """The rows and the columns of a tile of the map, fewer where its factors take more memory."""
    return 64 if lanes * factor.dtype.itemsize <= 128 else 32


def _launch(name: str, split: Tensor, step: int, *arguments: Any, **options: Any) -> None:
    """Runs a kernel: a program for each head of each image and each ``step`` rows of ``split``, (B, h, ·, d)."""
    from captum_vit.adapters import triton_kernels

    kernel: Any = getattr(triton_kernels, name)
    interpreted = type(kernel).__name__ == "InterpretedFunction"
    options |= {
        "step": step,
        "widened": interpreted and split.dtype == torch.bfloat16,  # which Triton's interpreter can't multiply
    }
    batch, heads, length, _ = split.shape
    with torch.cuda.device_of(split):
        kernel[batch * heads, -(-length // step)](*arguments, **options, num_warps=4, num_stages=2)
