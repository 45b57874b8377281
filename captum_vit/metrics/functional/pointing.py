"""The pointing game: whether the highest point of a map lies on the object."""

from __future__ import annotations

from math import ceil, sqrt
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from captum_vit.metrics.functional.fills import is_repeated
from captum_vit.metrics.functional.maps import check_pair, is_unscorable

__all__ = ["Ties", "pointing_game"]

Ties: TypeAlias = Literal["first", "any"]
"""Where several pixels are highest: the first in reading order, or the luckiest."""


def pointing_game(
    maps: Tensor,
    masks: Tensor,
    *,
    tolerance: float = 15.0,
    ties: Ties = "first",
    undefined: Literal["exclude", "reference"] = "exclude",
) -> Tensor:
    """Whether the highest point of each map lies on the object, or nearer to it than a tolerance.

    A hit is a mask pixel with (row − row')² + (column − column')² < tolerance², strictly, as TorchRay counts: a
    tolerance of 0 never hits, one of 1 asks for the pixel itself.

    Args:
        maps: (B, H, W).
        masks: (B, H, W), 1 for the object; void pixels count as background.
        tolerance: in pixels; the field's 15 is meant for photographs in their own size.
        ties: where several pixels are highest, "first" takes the first in reading order and "any" the luckiest, as
            Quantus does.
        undefined: "exclude" gives NaN where there is nothing to measure; "reference" scores it as TorchRay does: the
            first pixel stands for a constant map, and an empty mask is missed.

    Returns:
        (B,) 1 for a hit, 0 for a miss; NaN for a map that holds NaN, and unless "reference" for a constant map and for
        an empty mask.

    Raises:
        TypeError: masks that are not of integers, or maps that are not of real numbers.
        ValueError: a shape or a value that does not fit.

    Source: Zhang et al. 2018 (International Journal of Computer Vision 126), as TorchRay counts.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.long)
        >>> mask[0, 0, 0] = 1
        >>> peak = torch.zeros(1, 4, 4)
        >>> peak[0, 0, 2] = 1
        >>> pointing_game(peak, mask, tolerance=2), pointing_game(peak, mask, tolerance=3)
        (tensor([0.]), tensor([1.]))
    """
    if not 0 <= tolerance < torch.inf:
        raise ValueError(f"tolerance must be at least 0 pixels, got {tolerance}.")
    if ties not in ("first", "any"):
        raise ValueError(f"ties must be 'first' or 'any', got {ties!r}.")
    if undefined not in ("exclude", "reference"):
        raise ValueError(f"undefined must be 'exclude' or 'reference', got {undefined!r}.")
    maps, masks = check_pair(maps, masks)
    once = masks[:1] if is_repeated(masks) else masks
    near = _nearer_than(tolerance, once == 1).expand_as(masks).flatten(1)
    flat = maps.flatten(1)
    if ties == "first":
        hits = near.gather(1, flat.argmax(1, keepdim=True))[:, 0]
    else:
        hits = (near & (flat == flat.amax(1, keepdim=True))).any(1)
    unknown = is_unscorable(maps, masks) if undefined == "exclude" else ~flat.isfinite().all(1)
    return hits.to(maps.dtype).masked_fill(unknown, torch.nan)


def _nearer_than(tolerance: float, inside: Tensor) -> Tensor:
    """(B, H, W): the pixels nearer than ``tolerance`` to a pixel of the mask."""
    height, width = inside.shape[1:]
    columns = torch.arange(width, device=inside.device)
    before = pad(inside.cumsum(2), (1, 0))  # (B, H, W + 1): mask pixels of the row to the left of each column
    near = torch.zeros_like(inside)
    for rows in range(min(ceil(tolerance), height)):
        reach = ceil(sqrt(tolerance**2 - rows**2)) - 1
        met = before[..., (columns + reach + 1).clamp(max=width)] > before[..., (columns - reach).clamp(min=0)]
        near[:, rows:] |= met[:, : height - rows]
        near[:, : height - rows] |= met[:, rows:]
    return near
