"""Maps against labelled points: what p-mIoU is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_vit.metrics.functional.maps import (
    IGNORE,
    Normalisation,
    check_maps,
    check_normalise,
    is_undefined,
    normalised,
)
from captum_vit.metrics.functional.thresholds import check_cut, scale_of

__all__ = ["PointCounts", "check_points", "count_points", "point_iou"]


class PointCounts(NamedTuple):
    """Numbers of points, of one shape throughout.

    Attributes:
        hits: positive points above the threshold.
        false_alarms: negative points above the threshold.
        misses: positive points not above the threshold.
    """

    hits: Tensor
    false_alarms: Tensor
    misses: Tensor

    @property
    def iou(self) -> Tensor:
        """TP / (TP + FP + FN); NaN of nothing."""
        return self.hits.double() / (self.hits + self.false_alarms + self.misses)


def point_iou(
    maps: Tensor,
    points: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.5,
    inclusive: bool = False,
    normalise: Normalisation = "min_max",
) -> Tensor:
    """Intersection over union of the positive points and of the points that lie above a threshold, per map.

    TP / (TP + FP + FN): TP are positive points above the threshold, FP negative ones above it, FN the other positive
    ones. A point takes the value of the pixel that it lies in: row ⌊Y·H⌋ and column ⌊X·W⌋, at most the last.

    Args:
        maps: (B, H, W), one for each pair of an image and a class that is depicted in it.
        points: (B, P, 2) coordinates (X, Y) in [0, 1] from the top left corner, as shares of the width and height that
            the map covers. Points of an image that was cropped must be moved into the crop first.
        labels: (B, P), 1 for a point on the object, 0 for one beside it, -1 for one that is not to count, such as
            padding or a point whose label is unsure.
        threshold: on the scale of ``normalise``.
        inclusive: whether a point at the threshold lies above it.
        normalise: see `foreground_iou`.

    Returns:
        (B,) in [0, 1]; NaN for a map that is constant or holds NaN, and where no point is positive.

    Raises:
        TypeError: labels that are not of integers, or maps that are not of real numbers.
        ValueError: a shape or a value that does not fit.

    Source: the p-mIoU of GEM (arXiv 2312.00878) and LeGrad (arXiv 2404.03214) on the points of OpenImages V7
    (arXiv 2210.14142). No code was published; averages over images and classes are `PointMIoU`'s.

    Example:
        >>> maps = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]])
        >>> points = torch.tensor([[[0.9, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.1]]])
        >>> labels = torch.tensor([[1, 1, 1, 0]])
        >>> point_iou(maps, points, labels), point_iou(maps, points, labels, inclusive=True)
        (tensor([0.3333]), tensor([0.6667]))
    """
    check_normalise(normalise)
    check_cut(threshold, scale_of(normalise))
    maps = check_maps(maps)
    labels = check_points(points, labels, len(maps))
    scaled = normalised(maps, normalise)
    counts = count_points(scaled, points, labels, threshold=threshold, inclusive=inclusive)
    unscorable = is_undefined(scaled) | ~(labels == 1).any(1)
    return counts.iou.to(maps.dtype).masked_fill(unscorable, torch.nan)


def count_points(scaled: Tensor, points: Tensor, labels: Tensor, *, threshold: float, inclusive: bool) -> PointCounts:
    """The counts (B,) of normalised maps; a map of NaN has no point above the threshold."""
    height, width = scaled.shape[1:]
    columns = (points[..., 0].double() * width).long().clamp(max=width - 1)
    rows = (points[..., 1].double() * height).long().clamp(max=height - 1)
    values = scaled.flatten(1).gather(1, rows * width + columns)  # (B, P)
    above = values >= threshold if inclusive else values > threshold
    positive, negative = labels == 1, labels == 0
    return PointCounts((above & positive).sum(1), (above & negative).sum(1), (~above & positive).sum(1))


def check_points(points: Tensor, labels: Tensor, batch: int) -> Tensor:
    """The labels as integers (B, P), if points and labels fit each other and the maps.

    Raises:
        TypeError: labels that are not integers.
        ValueError: another shape; a coordinate outside [0, 1]; another label.
    """
    if points.ndim != 3 or points.shape[::2] != (batch, 2):
        raise ValueError(f"points must have shape ({batch}, P, 2), coordinates (X, Y), got {tuple(points.shape)}.")
    outside = points[~((points >= 0) & (points <= 1))]
    if len(outside):
        raise ValueError(f"points must be in [0, 1], shares of width and height, got {float(outside[0])}.")
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be a tensor of integers (B, P), got {labels.dtype}.")
    if labels.shape != points.shape[:2]:
        raise ValueError(f"labels must have shape {tuple(points.shape[:2])}, one per point, got {tuple(labels.shape)}.")
    labels = labels.long()
    wrong = labels[(labels < IGNORE) | (labels > 1)]
    if len(wrong):
        raise ValueError(f"labels must hold 1 (on the object), 0 (beside) and {IGNORE} (ignored), got {int(wrong[0])}.")
    return labels
