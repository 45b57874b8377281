"""Foreground and background attention focus: where on the patch grid the attention goes."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from captum_vit.metrics.functional.maps import check_maps, check_masks, is_undefined

__all__ = ["Downsample", "background_attention_focus", "foreground_attention_focus"]

Downsample: TypeAlias = Literal["area", "majority", "nearest"]
"""A patch counts by the object's share of its area, wholly if that is at least one half, or by one of its pixels."""


def foreground_attention_focus(maps: Tensor, masks: Tensor, *, downsample: Downsample = "area") -> Tensor:
    """FAF, the share of the attention that goes to the object: Σ A·M / Σ A over the patches.

    A is the attention on each patch, M how much of the patch belongs to the object. The attention is taken as it is:
    bringing it to [0, 1] before would take the smallest value from every patch and give another share.

    Args:
        maps: (B, gh, gw) on the patch grid, not negative.
        masks: (B, H, W) in pixels, 1 for the object, 0 for the background, -1 for void pixels, which count neither
            above nor below the line.
        downsample: how the mask comes to the grid. "area" takes the object's share of each patch; "majority" the whole
            patch if that is at least one half; "nearest" the pixel ⌊i·H/gh⌋, ⌊j·W/gw⌋. The report names none.

    Returns:
        (B,) in [0, 1]; NaN for a map that is constant or holds NaN and for an empty mask.

    Raises:
        TypeError: masks that are not of integers, or maps that are not of real numbers.
        ValueError: negative attention, a mask smaller than the grid, or another shape or value that does not fit.

    Source: Das and Huddar 2025 (Explainability in Vision Transformers, Chennai Mathematical Institute), section 6.3.

    Example:
        >>> attention = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> mask = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]]])
        >>> foreground_attention_focus(attention, mask)
        tensor([0.3500])
    """
    return _focus(maps, masks, downsample)[0]


def background_attention_focus(maps: Tensor, masks: Tensor, *, downsample: Downsample = "area") -> Tensor:
    """BAF, the share of the attention that goes to the background: 1 − FAF.

    Arguments, errors and undefined images are those of `foreground_attention_focus`.

    Example:
        >>> attention = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> mask = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]]])
        >>> background_attention_focus(attention, mask, downsample="majority")
        tensor([0.6000])
    """
    return _focus(maps, masks, downsample)[1]


def _focus(maps: Tensor, masks: Tensor, downsample: Downsample) -> tuple[Tensor, Tensor]:
    """FAF and BAF, each (B,)."""
    maps, masks = check_maps(maps), check_masks(masks)
    grid = (maps.shape[1], maps.shape[2])
    if len(maps) != len(masks) or grid[0] > masks.shape[1] or grid[1] > masks.shape[2]:
        raise ValueError(
            f"masks must be ({len(maps)}, H, W) with at least {grid[0]}×{grid[1]} pixels, one per patch, "
            f"got {tuple(masks.shape)}."
        )
    negative = maps[maps < 0]
    if len(negative):
        raise ValueError(f"maps must not be negative, got {float(negative[0])}. Use energy_inside for signed maps.")
    foreground, background = (_on_grid((masks == label).to(maps.dtype), grid, downsample) for label in (1, 0))
    if downsample == "majority":
        known = foreground + background > 0
        object_wins = foreground >= background
        foreground, background = (known & object_wins).to(maps.dtype), (known & ~object_wins).to(maps.dtype)
    on_object, on_background = ((maps * share).sum((1, 2)) for share in (foreground, background))
    unscorable = is_undefined(maps) | ~(masks == 1).flatten(1).any(1)
    total = (on_object + on_background).masked_fill(unscorable, torch.nan)
    return on_object / total, on_background / total


def _on_grid(labels: Tensor, grid: tuple[int, int], downsample: Downsample) -> Tensor:
    if downsample == "nearest":
        return interpolate(labels[:, None], grid, mode="nearest")[:, 0]
    if downsample in ("area", "majority"):
        return adaptive_avg_pool2d(labels, grid)
    raise ValueError(f"downsample must be 'area', 'majority' or 'nearest', got {downsample!r}.")
