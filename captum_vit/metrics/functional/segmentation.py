"""How well a thresholded map covers the object, per image."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_vit.metrics.functional.confusion import Confusion, confusion
from captum_vit.metrics.functional.maps import IGNORE, Normalisation, check_pair, is_unscorable, normalised
from captum_vit.metrics.functional.thresholds import Threshold, check_threshold, threshold_values

__all__ = ["class_iou", "confusion_at", "f1", "f1_of_rows", "foreground_iou", "mean_iou", "pixel_accuracy", "row_f1"]


def foreground_iou(
    maps: Tensor, masks: Tensor, *, threshold: Threshold = 0.5, normalise: Normalisation = "min_max"
) -> Tensor:
    """Intersection over union of the object and of the pixels that lie above a threshold, also called Jaccard index.

    TP / (TP + FP + FN): TP are the pixels of the object above the threshold, FP those of the background, FN the rest of
    the object.

    Args:
        maps: (B, H, W).
        masks: (B, H, W), 1 for the object, 0 for the background, -1 for void pixels, which count nowhere.
        threshold: pixels strictly above it are foreground; a number on the scale of ``normalise``, "mean", "otsu" or
            a `BestOf`.
        normalise: "min_max" brings each map to [0, 1] by its smallest and largest value, "clip_min_max" makes negative
            values 0 before, "none" takes the map as it is.

    Returns:
        (B,) in [0, 1]; NaN for a map that is constant or holds NaN, and for an empty mask.

    Raises:
        TypeError: masks that are not of integers, or maps that are not of real numbers.
        ValueError: a shape or a value that does not fit, or a threshold outside the scale of ``normalise``.

    Source: threshold and normalisation as in LeGrad (arXiv 2404.03214, section 4.1).

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> foreground_iou(maps, masks), foreground_iou(maps, masks, threshold="mean")
        (tensor([0.5000]), tensor([1.]))
    """
    maps, masks, counts = _measured(maps, masks, threshold, normalise)
    return _scored(counts.iou_foreground, maps, masks)


def class_iou(
    maps: Tensor, masks: Tensor, *, threshold: Threshold = 0.5, normalise: Normalisation = "min_max"
) -> Tensor:
    """Intersection over union of the background and of the foreground (B, 2).

    Arguments, errors and undefined images are those of `foreground_iou`. A class that is neither in the mask nor
    predicted is NaN.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> class_iou(maps, masks)
        tensor([[0.6667, 0.5000]])
    """
    maps, masks, counts = _measured(maps, masks, threshold, normalise)
    return torch.stack([_scored(iou, maps, masks) for iou in (counts.iou_background, counts.iou_foreground)], dim=1)


def mean_iou(
    maps: Tensor, masks: Tensor, *, threshold: Threshold = 0.5, normalise: Normalisation = "min_max"
) -> Tensor:
    """Mean of the two values of `class_iou` (B,): the "mIoU" of segmentation by heat maps, for one image.

    Chefer et al. and those who follow them add the pixels of all images before they divide: `Segmentation`.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> mean_iou(maps, masks)
        tensor([0.5833])
    """
    return class_iou(maps, masks, threshold=threshold, normalise=normalise).mean(1)


def pixel_accuracy(
    maps: Tensor, masks: Tensor, *, threshold: Threshold = 0.5, normalise: Normalisation = "min_max"
) -> Tensor:
    """Share of the pixels on the right side of the threshold (B,).

    Arguments, errors and undefined images are those of `foreground_iou`.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> pixel_accuracy(maps, masks)
        tensor([0.7500])
    """
    maps, masks, counts = _measured(maps, masks, threshold, normalise)
    return _scored(counts.pixel_accuracy, maps, masks)


def f1(maps: Tensor, masks: Tensor, *, threshold: Threshold = 0.5, normalise: Normalisation = "min_max") -> Tensor:
    """F1 of the foreground (B,), also called Dice coefficient: 2 TP / (2 TP + FP + FN).

    Arguments, errors and undefined images are those of `foreground_iou`.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> f1(maps, masks)
        tensor([0.6667])
    """
    maps, masks, counts = _measured(maps, masks, threshold, normalise)
    return _scored(counts.f1, maps, masks)


def f1_of_rows(
    maps: Tensor, masks: Tensor, *, threshold: Threshold = "mean", normalise: Normalisation = "min_max"
) -> Tensor:
    """Mean over the rows of pixels of each row's F1 (B,): what the code of Chefer et al. computes as F1.

    That code takes the height of an image for the batch size. A row without an object, in the mask and above the
    threshold, counts as 0, so that a perfect map scores below 1. For reproduction only; `f1` is what the name says.

    Raises:
        TypeError: as for `foreground_iou`.
        ValueError: as for `foreground_iou`; void pixels in a mask.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> f1_of_rows(maps, masks)
        tensor([0.5000])
    """
    check_threshold(threshold, normalise)
    maps, masks = check_pair(maps, masks)
    scaled = normalised(maps, normalise)
    return _scored(row_f1(scaled, masks, threshold), scaled, masks)


def row_f1(scaled: Tensor, masks: Tensor, threshold: Threshold) -> Tensor:
    """(B,): `f1_of_rows` of normalised maps; a map of NaN has nothing above the threshold."""
    if (masks == IGNORE).any():
        raise ValueError(f"masks must hold no void pixels ({IGNORE}) for the F1 of rows, got {IGNORE}. Use f1.")
    thresholds = threshold_values(scaled, threshold)
    if thresholds.shape[1] != 1:
        raise ValueError(f"threshold must be one value per map for the F1 of rows, got {threshold!r}.")
    rows = confusion(
        scaled.flatten(0, 1)[:, None],  # (B·H, 1, W)
        masks.flatten(0, 1)[:, None],
        thresholds.repeat_interleave(scaled.shape[1], 0),
    )
    return rows.f1[:, 0].nan_to_num(0).view(scaled.shape[:2]).mean(1)


def confusion_at(scaled: Tensor, masks: Tensor, threshold: Threshold) -> Confusion:
    """The counts (B, T) of normalised maps at every candidate for their threshold."""
    return confusion(scaled, masks, threshold_values(scaled, threshold))


def _measured(
    maps: Tensor, masks: Tensor, threshold: Threshold, normalise: Normalisation
) -> tuple[Tensor, Tensor, Confusion]:
    """Normalised maps, checked masks and the counts (B,) at each map's threshold."""
    check_threshold(threshold, normalise)
    maps, masks = check_pair(maps, masks)
    scaled = normalised(maps, normalise)
    return scaled, masks, confusion_at(scaled, masks, threshold).best()


def _scored(values: Tensor, maps: Tensor, masks: Tensor) -> Tensor:
    return values.to(maps.dtype).masked_fill(is_unscorable(maps, masks), torch.nan)
