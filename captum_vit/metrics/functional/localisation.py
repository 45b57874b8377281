"""How much of a map lies on the object: its energy, its highest pixels, its ranking of all pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_vit.metrics.functional.maps import IGNORE, check_pair, is_unscorable
from captum_vit.metrics.functional.ranking import counts_by_rank

__all__ = ["energy_inside", "localisation_auc", "relevance_rank_accuracy", "top_k_inside"]


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of a map's positive relevance that lies on the object: Σ A·M / Σ A.

    Negative relevance counts as none. Void pixels count neither above nor below the line.

    Args:
        maps: (B, H, W).
        masks: (B, H, W), 1 for the object, 0 for the background, -1 for void pixels.

    Returns:
        (B,) in [0, 1]; NaN for a map that is constant, holds NaN or has nothing positive, and for an empty mask.

    Raises:
        TypeError: masks that are not of integers, or maps that are not of real numbers.
        ValueError: a shape or a value that does not fit.

    Source: energy-based pointing game (arXiv 1910.01279), also known as relevance mass accuracy (arXiv 2003.07258).

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> energy_inside(maps, masks)
        tensor([0.9231])
    """
    maps, masks = check_pair(maps, masks)
    positive = maps.clamp(min=0).masked_fill(masks == IGNORE, 0)
    inside = masks == 1
    share = (positive * inside).sum((1, 2)) / positive.sum((1, 2))  # 0/0 is NaN
    return share.masked_fill(is_unscorable(maps, masks), torch.nan)


def relevance_rank_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the K highest pixels that lie on the object, where K is the object's number of pixels.

    Args:
        maps: (B, H, W); only their order counts. Void pixels are left out.
        masks: (B, H, W).

    Returns:
        (B,) in [0, 1]; NaN for a map that is constant or holds NaN and for an empty mask.

    Raises:
        TypeError: masks that are not of integers, or maps that are not of real numbers.
        ValueError: a shape or a value that does not fit.

    Source: Arras et al. (arXiv 2003.07258).

    Example:
        >>> maps, masks = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), torch.tensor([[[1, 1], [0, 0]]])
        >>> relevance_rank_accuracy(maps, masks)
        tensor([0.5000])
    """
    maps, masks = check_pair(maps, masks)
    inside = masks == 1
    size = inside.sum((1, 2))
    return (_found(maps, masks, size).to(maps.dtype) / size).masked_fill(is_unscorable(maps, masks), torch.nan)


def top_k_inside(maps: Tensor, masks: Tensor, *, k: int = 1000) -> Tensor:
    """Share of the ``k`` highest pixels that lie on the object.

    Args:
        maps: (B, H, W); only their order counts. Void pixels are left out.
        masks: (B, H, W).
        k: number of pixels.

    Returns:
        (B,) in [0, 1]; NaN for a map that is constant or holds NaN, for an empty mask, and where fewer than k
        pixels are not void.

    Raises:
        ValueError: more pixels asked for than there are, or a shape or a value that does not fit.

    Source: top-k intersection, Theiner et al. 2022 (Interpretable semantic photo geolocation, WACV); a thousand pixels
    as in Quantus.

    Example:
        >>> maps, masks = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), torch.tensor([[[1, 1], [0, 0]]])
        >>> top_k_inside(maps, masks, k=3)
        tensor([0.6667])
    """
    maps, masks = check_pair(maps, masks)
    pixels = masks[0].numel()
    if not 1 <= k <= pixels:
        raise ValueError(f"k must be in [1, {pixels}], the number of pixels, got {k}.")
    too_few = (masks != IGNORE).sum((1, 2)) < k
    found = _found(maps, masks, torch.full_like(masks[:, 0, 0], k))
    return (found.to(maps.dtype) / k).masked_fill(is_unscorable(maps, masks) | too_few, torch.nan)


def localisation_auc(maps: Tensor, masks: Tensor) -> Tensor:
    """Area under the ROC curve of a map as a detector of the object's pixels.

    It is the probability that a pixel of the object ranks above one of the background; equal pixels count half.

    Args:
        maps: (B, H, W); only their order counts. Void pixels are left out.
        masks: (B, H, W).

    Returns:
        (B,) in [0, 1], 0.5 for a map that knows nothing; NaN for a map that is constant or holds NaN, for an empty
        mask, and for one without background.

    Raises:
        TypeError: masks that are not of integers, or maps that are not of real numbers.
        ValueError: a shape or a value that does not fit.

    Example:
        >>> maps, masks = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), torch.tensor([[[1, 1], [0, 0]]])
        >>> localisation_auc(maps, masks)
        tensor([0.7500])
    """
    maps, masks = check_pair(maps, masks)
    inside, outside = (masks == 1).flatten(1), (masks == 0).flatten(1)
    (found, found_before), (passed, passed_before) = counts_by_rank(maps.flatten(1), inside, outside)
    # each pixel of the object loses to the background above it, and half to that beside it
    losses = ((found - found_before) * (passed + passed_before) / 2).double().sum(1)
    area = 1 - losses / (inside.sum(1) * outside.sum(1))  # 0/0 is NaN
    return area.to(maps.dtype).masked_fill(is_unscorable(maps, masks), torch.nan)


def _found(maps: Tensor, masks: Tensor, size: Tensor) -> Tensor:
    """(B,): how many of the ``size`` (B,) highest pixels lie on the object; equal ones in reading order."""
    flat = maps.flatten(1).masked_fill(masks.flatten(1) == IGNORE, -torch.inf)
    order = flat.argsort(dim=1, descending=True, stable=True)
    inside = (masks.flatten(1) == 1).gather(1, order)
    return (inside & (torch.arange(order.shape[1], device=order.device) < size[:, None])).sum(1)
