"""How concentrated a map is: Gini sparseness, entropy, effective complexity. None knows whether the map is right."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from captum_vit.metrics.functional.maps import check_maps, is_undefined

__all__ = ["effective_complexity", "entropy", "sparseness"]


def sparseness(maps: Tensor) -> Tensor:
    """Gini index of each map's magnitudes: 0 when all pixels are alike, near 1 when one pixel holds everything.

    With magnitudes a₁ ≤ … ≤ aₙ it is Σᵢ (2i − n − 1) aᵢ / (n Σᵢ aᵢ).

    Args:
        maps: (B, H, W); the sign does not count.

    Returns:
        (B,) in [0, 1 − 1/n] with n = H·W; NaN for a map that is constant or holds NaN.

    Raises:
        ValueError: another shape.

    Source: arXiv 1810.06583.

    Example:
        >>> sparseness(torch.tensor([[[0.0, 1.0], [4.0, 8.0]], [[0.0, 0.0], [0.0, 1.0]]]))
        tensor([0.5192, 0.7500])
    """
    maps = check_maps(maps)
    ordered = maps.abs().flatten(1).sort(dim=1).values.double()
    size = ordered.shape[1]
    weights = 2 * torch.arange(1, size + 1, dtype=torch.float64, device=maps.device) - size - 1
    values = (ordered @ weights) / (size * ordered.sum(1))
    return values.to(maps.dtype).masked_fill(is_undefined(maps), torch.nan)


def entropy(maps: Tensor, *, relative: bool = False) -> Tensor:
    """Entropy of each map's magnitudes as shares of their sum: −Σᵢ pᵢ ln pᵢ with pᵢ = |aᵢ| / Σⱼ |aⱼ|.

    Args:
        maps: (B, H, W); the sign does not count.
        relative: divided by ln(H·W), the entropy of equal magnitudes, so that maps of different sizes compare.

    Returns:
        (B,) in [0, ln(H·W)], or in [0, 1] if relative; NaN for a map that is constant or holds NaN.

    Raises:
        ValueError: another shape.

    Source: arXiv 2005.00631, where it is called complexity.

    Example:
        >>> entropy(torch.tensor([[[0.0, 1.0], [4.0, 8.0]], [[0.0, 0.0], [0.0, 1.0]]]))
        tensor([0.8587, 0.0000])
    """
    maps = check_maps(maps)
    magnitudes = maps.abs().flatten(1).double()
    shares = magnitudes / magnitudes.sum(1, keepdim=True)
    values: Tensor = torch.special.entr(shares).sum(1)
    if relative:
        values = values / log(shares.shape[1])
    return values.to(maps.dtype).masked_fill(is_undefined(maps), torch.nan)


def effective_complexity(
    maps: Tensor, *, threshold: float = 1e-5, normalise: bool = True, relative: bool = False
) -> Tensor:
    """Number of pixels whose magnitude is more than a threshold.

    Args:
        maps: (B, H, W); the sign does not count.
        threshold: pixels strictly above it count.
        normalise: each map is first divided by its largest magnitude.
        relative: divided by H·W, so that maps of different sizes compare.

    Returns:
        (B,) in [0, H·W], or in [0, 1] if relative; NaN for a map that is constant or holds NaN.

    Raises:
        ValueError: a negative threshold, or another shape.

    Source: arXiv 2007.07584.

    Example:
        >>> maps = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]])
        >>> effective_complexity(maps), effective_complexity(maps, threshold=0.5, relative=True)
        (tensor([3.]), tensor([0.2500]))
    """
    if threshold < 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}.")
    maps = check_maps(maps)
    magnitudes = maps.abs().flatten(1)
    if normalise:
        magnitudes = magnitudes / magnitudes.amax(1, keepdim=True)
    above = (magnitudes > threshold).to(maps.dtype)
    values = above.sum(1)
    if relative:
        values = values / above.shape[1]
    return values.masked_fill(is_undefined(maps), torch.nan)
