"""Average precision of a map as a detector of the object's pixels, in the two forms that papers call mAP."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_vit.metrics.functional.maps import IGNORE, Normalisation, check_pair, is_unscorable, normalised
from captum_vit.metrics.functional.ranking import counts_by_rank

__all__ = ["average_precision", "foreground_average_precision", "two_channel_average_precision", "two_channels"]


def foreground_average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Average precision of the object's pixels ranked by the map: 1 when they all come first.

    Σ_k (R_k − R_{k−1}) P_k with precision P and recall R at the k-th distinct value: a sum of steps, no trapezoids.

    Args:
        maps: (B, H, W); only their order counts.
        masks: (B, H, W), 1 for the object, 0 for the background, -1 for void pixels, which are left out.

    Returns:
        (B,) in [0, 1], near the object's share of the pixels for a map that knows nothing; NaN for a map that is
        constant or holds NaN and for an empty mask.

    Raises:
        TypeError: masks that are not of integers, or maps that are not of real numbers.
        ValueError: a shape or a value that does not fit.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 2.0], [2.0, 4.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> foreground_average_precision(maps, masks)
        tensor([0.8333])
    """
    maps, masks = check_pair(maps, masks)
    value = average_precision(maps.flatten(1), (masks == 1).flatten(1), (masks != IGNORE).flatten(1))
    return value.to(maps.dtype).masked_fill(is_unscorable(maps, masks), torch.nan)


def two_channel_average_precision(maps: Tensor, masks: Tensor, *, normalise: Normalisation = "min_max") -> Tensor:
    """Average precision of background and foreground in one ranking: the mAP of Chefer et al.

    With R the map in [0, 1], the 2HW scores 1 − R, R are ranked together, where a pixel counts as right in the first
    half if it is background and in the second if it is object. So the *values* of the map matter, not only their
    order, and a map that ranks the object first does not score 1 unless 1 − R and R separate at one value.

    Args:
        maps: (B, H, W).
        masks: (B, H, W), 1 for the object, 0 for the background, -1 for void pixels, which are left out.
        normalise: see `foreground_iou`.

    Returns:
        (B,) in [0, 1]; NaN for a map that is constant or holds NaN and for an empty mask.

    Raises:
        TypeError: masks that are not of integers, or maps that are not of real numbers.
        ValueError: a shape or a value that does not fit; without normalising, maps outside [0, 1].

    Source: segmentation in Chefer et al. (arXiv 2012.09838), as their code computes it.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> two_channel_average_precision(maps, masks), foreground_average_precision(maps, masks)
        (tensor([0.9500]), tensor([1.]))
    """
    maps, masks = check_pair(maps, masks)
    scaled = normalised(maps, normalise)
    value = average_precision(*two_channels(scaled, masks))
    return value.to(maps.dtype).masked_fill(is_unscorable(scaled, masks), torch.nan)


def two_channels(scaled: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and what counts, each (B, 2HW), of maps in [0, 1]: the background's, then the foreground's.

    A map of NaN scores 0 in both.
    """
    outside_scale = scaled[(scaled < 0) | (scaled > 1)]
    if len(outside_scale):
        raise ValueError(
            f"maps must be in [0, 1] for the two-channel average precision, got {float(outside_scale[0])}. "
            "Normalise them: normalise='min_max'."
        )
    scores = torch.stack([1 - scaled, scaled], dim=1).nan_to_num(0)
    labels = torch.stack([masks == 0, masks == 1], dim=1)
    counted = (masks != IGNORE)[:, None].expand_as(labels)
    return scores.flatten(1), labels.flatten(1), counted.flatten(1)


def average_precision(scores: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Average precision (B,) in float64 of each row; NaN in a row without a label.

    Equal scores are one step, as in scikit-learn.

    Args:
        scores: (B, N).
        labels: (B, N) boolean, what is to be found.
        counted: (B, N) boolean, what takes part; holds all labels.
    """
    return (_by_sorting if scores.is_cpu else _by_rank)(scores, labels, counted)


def _by_rank(scores: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    (found, found_before), (seen, _) = counts_by_rank(scores, labels, counted)
    precision = found.double() / seen.clamp(min=1)  # nothing is found where nothing is seen
    return ((found - found_before) * precision).sum(1) / labels.sum(1)


def _by_sorting(scores: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """The same, as the mean precision at what is to be found: a CPU sorts much faster where it need not keep track."""
    rows = zip(*(each.detach().numpy() for each in (scores, labels, counted)), strict=True)
    values = [_mean_precision(np.sort(row[right]), np.sort(row[seen])) for row, right, seen in rows]
    return torch.tensor(values, dtype=torch.float64)


def _mean_precision(right: NDArray[np.floating[Any]], seen: NDArray[np.floating[Any]]) -> float:
    """Of the sorted scores of what is to be found, and of all that take part; NaN where nothing is to be found."""
    if not len(right):
        return nan
    found, met = (len(each) - np.searchsorted(each, right) for each in (right, seen))  # how many are as high
    return float((found / met).mean())
