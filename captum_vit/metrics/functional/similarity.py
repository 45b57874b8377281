"""How alike two maps are: Spearman's rank correlation, SSIM, and the correlation of their gradients' histograms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from captum_vit.metrics.functional.maps import check_maps, is_undefined, min_max

__all__ = ["Similarity", "hog_correlation", "spearman", "ssim"]

Similarity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Two batches of maps (B, H, W) → (B,): 1 for maps that say the same, NaN where one of them says nothing."""

_SSIM_WINDOW = 11
_HOG_BINS = 9
_HOG_BLOCK = 3


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of each pair of maps; equal pixels share their mean rank.

    Args:
        first: (B, H, W); only its order counts.
        second: (B, H, W); only its order counts.

    Returns:
        (B,) in [−1, 1]; NaN where a map is constant or holds NaN.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> first, second = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0.0, 4.0], [1.0, 8.0]]])
        >>> spearman(first, first), spearman(first, second), spearman(first, -first)
        (tensor([1.]), tensor([0.8000]), tensor([-1.]))
    """
    first, second = _checked(first, second)
    correlation = _pearson(_mean_ranks(first), _mean_ranks(second)).to(first.dtype)
    return correlation.masked_fill(is_undefined(first) | is_undefined(second), torch.nan)


def ssim(first: Tensor, second: Tensor, *, normalise: bool = True) -> Tensor:
    """Structural similarity of each pair of maps, with the Gaussian window (11×11, σ = 1.5) of its authors.

    Args:
        first: (B, H, W), at least 11 pixels high and wide.
        second: (B, H, W).
        normalise: each map is first brought to [0, 1] by its smallest and largest value. Without it both must lie
            on that scale, for SSIM's constants are in units of it.

    Returns:
        (B,) in [−1, 1]; NaN where a map is constant or holds NaN.

    Raises:
        ValueError: shapes that differ or are too small.

    Source: Wang et al. 2004 (doi 10.1109/TIP.2003.819861), over the windows that lie within the map.
    """
    first, second = _checked(first, second)
    if min(first.shape[1:]) < _SSIM_WINDOW:
        raise ValueError(
            f"maps must be at least {_SSIM_WINDOW} pixels high and wide for SSIM, got {_size(first)}. "
            "Upsample them to the image's size, or use spearman."
        )
    undefined = is_undefined(first) | is_undefined(second)
    if normalise:
        first, second = min_max(first), min_max(second)
    _, local = structural_similarity_index_measure(
        first[:, None], second[:, None], reduction="none", data_range=1.0, return_full_image=True
    )
    edge = _SSIM_WINDOW // 2  # windows around these pixels reach beyond the map; the authors leave them out
    return local[:, 0, edge:-edge, edge:-edge].mean((1, 2)).masked_fill(undefined, torch.nan)


def hog_correlation(first: Tensor, second: Tensor, *, cell: int = 16, normalise: bool = True) -> Tensor:
    """Pearson correlation of the maps' histograms of oriented gradients: whether edges lie alike.

    Nine unsigned directions per cell, blocks of 3×3 cells with L2-Hys normalisation.

    Args:
        first: (B, H, W), at least three cells high and wide.
        second: (B, H, W).
        cell: side of a cell in pixels.
        normalise: each map is first brought to [0, 1] by its smallest and largest value. It matters to maps of tiny
            numbers only, which the constant in L2-Hys (1e-5) would drown.

    Returns:
        (B,) in [−1, 1]; NaN where a map is constant or holds NaN.

    Raises:
        ValueError: shapes that differ or are too small, or a cell of less than one pixel.

    Source: Dalal and Triggs 2005 (doi 10.1109/CVPR.2005.177), used on maps by arXiv 1810.03292.
    """
    first, second = _checked(first, second)
    if cell < 1:
        raise ValueError(f"cell must be at least 1 pixel, got {cell}.")
    if min(first.shape[1:]) < _HOG_BLOCK * cell:
        raise ValueError(
            f"maps must hold at least {_HOG_BLOCK}×{_HOG_BLOCK} cells of {cell} pixels, got {_size(first)} pixels. "
            "Upsample them to the image's size, or pass a smaller cell."
        )
    undefined = is_undefined(first) | is_undefined(second)
    if normalise:
        first, second = min_max(first), min_max(second)
    first, second = first.masked_fill(undefined[:, None, None], 0), second.masked_fill(undefined[:, None, None], 0)
    return _pearson(_hog(first, cell), _hog(second, cell)).masked_fill(undefined, torch.nan)


def _checked(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    first = check_maps(first)
    return first, check_maps(second, tuple(first.shape))


def _size(maps: Tensor) -> str:
    return f"{maps.shape[1]}×{maps.shape[2]}"


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    """(B,): correlation along the second dimension; NaN where one side does not vary."""
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()  # 0/0 is NaN


def _mean_ranks(maps: Tensor) -> Tensor:
    """(B, HW), float64: twice the rank of every pixel, the mean one among equals; scale is no matter to Pearson."""
    flat = maps.flatten(1)
    ordered = flat.sort(dim=1).values
    below, up_to = torch.searchsorted(ordered, flat), torch.searchsorted(ordered, flat, right=True)
    return (below + up_to).double()


def _hog(maps: Tensor, cell: int) -> Tensor:
    """(B, F): the histograms of all blocks; each pixel's gradient goes to one direction, in full."""
    down, right = torch.zeros_like(maps), torch.zeros_like(maps)
    down[:, 1:-1] = maps[:, 2:] - maps[:, :-2]
    right[:, :, 1:-1] = maps[:, :, 2:] - maps[:, :, :-2]
    angle = torch.atan2(down, right).rad2deg() % 180
    direction = (angle * (_HOG_BINS / 180)).long().clamp(max=_HOG_BINS - 1)  # % 180 of a tiny negative angle is 180
    votes = maps.new_zeros(len(maps), _HOG_BINS, *maps.shape[1:])
    votes.scatter_(1, direction[:, None], torch.hypot(down, right)[:, None])
    cells = torch.nn.functional.avg_pool2d(votes, cell)  # (B, 9, rows, columns)
    blocks = cells.unfold(2, _HOG_BLOCK, 1).unfold(3, _HOG_BLOCK, 1)  # (B, 9, rows − 2, columns − 2, 3, 3)
    blocks = blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)  # (B, rows − 2, columns − 2, 81)
    return _unit_length(_unit_length(blocks).clamp(max=0.2)).flatten(1)


def _unit_length(vectors: Tensor) -> Tensor:
    return vectors / (vectors.square().sum(-1, keepdim=True) + 1e-10).sqrt()
