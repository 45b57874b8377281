"""p-mIoU: maps against labelled points, over a stream of images and classes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from captum_vit.metrics.classes import check_classes
from captum_vit.metrics.functional.maps import Normalisation, check_maps, check_normalise, is_undefined, normalised
from captum_vit.metrics.functional.points import PointCounts, check_points, count_points
from captum_vit.metrics.functional.thresholds import check_cut, scale_of

__all__ = ["PointMIoU"]


class PointMIoU(Metric):
    """Mean over classes of the intersection over union of positive points and points above a threshold.

    Every image is asked about the classes that are depicted in it: one map for each pair of image and class. The
    official evaluation is not public, so what the papers leave open is an option here, and `repr` names the choice.

    Args:
        num_classes: number of classes; 5,827 in the validation split of OpenImages V7.
        average: "class" adds up the points of each class and takes the mean of the classes that have any; "image" takes
            the mean over all pairs of image and class; "global" adds up all points.
        threshold: on the scale of ``normalise``.
        inclusive: whether a point at the threshold lies above it.
        normalise: see `foreground_iou`.
        undefined: "exclude" leaves out pairs whose map is constant or holds NaN, and counts them; "reference" takes
            such a map to paint nothing. Pairs without a positive point are always left out, for their class is not
            depicted.
        kwargs: of `torchmetrics.Metric`.

    Attributes:
        images: number of pairs that count.
        excluded: number of pairs left out.

    Raises:
        ValueError: an unknown choice, or fewer than one class.

    Source: see `point_iou`.

    Example:
        >>> maps = torch.tensor([[[0.0, 1.0], [4.0, 8.0]], [[8.0, 1.0], [4.0, 0.0]]])
        >>> points = torch.tensor([[[0.9, 0.9], [0.1, 0.1]], [[0.1, 0.1], [0.9, 0.9]]])
        >>> labels = torch.tensor([[1, 0], [1, 1]])
        >>> metric = PointMIoU(3)
        >>> metric.update(maps, points, labels, torch.tensor([2, 0]))
        >>> metric.compute(), metric.class_iou
        (tensor(0.7500, dtype=torch.float64), tensor([0.5000,    nan, 1.0000], dtype=torch.float64))
    """

    higher_is_better = True
    full_state_update = False
    is_differentiable = False
    range = (0.0, 1.0)
    needs = ("points",)
    hits: Tensor
    false_alarms: Tensor
    misses: Tensor
    total: Tensor
    images: Tensor
    excluded: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        average: Literal["class", "image", "global"] = "class",
        threshold: float = 0.5,
        inclusive: bool = False,
        normalise: Normalisation = "min_max",
        undefined: Literal["exclude", "reference"] = "exclude",
        **kwargs: Any,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if average not in ("class", "image", "global"):
            raise ValueError(f"average must be 'class', 'image' or 'global', got {average!r}.")
        if undefined not in ("exclude", "reference"):
            raise ValueError(f"undefined must be 'exclude' or 'reference', got {undefined!r}.")
        check_normalise(normalise)
        check_cut(threshold, scale_of(normalise))
        super().__init__(**kwargs)
        self.num_classes, self.average, self.threshold = num_classes, average, threshold
        self.inclusive, self.normalise, self.undefined = inclusive, normalise, undefined
        for state in PointCounts._fields:
            self.add_state(state, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("excluded", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, maps: Tensor, points: Tensor, labels: Tensor, classes: Tensor) -> None:
        """Takes maps (B, H, W), points (B, P, 2) and labels (B, P) as `point_iou` does, and each map's class (B,).

        Raises:
            TypeError: see `point_iou`.
            ValueError: see `point_iou`; a class outside [0, num_classes).
        """
        maps = check_maps(maps)
        labels = check_points(points, labels, len(maps))
        classes = check_classes(classes, len(maps), self.num_classes)
        scaled = normalised(maps, self.normalise)
        kept = (labels == 1).any(1)
        if self.undefined == "exclude":
            kept &= ~is_undefined(scaled)
        counts = count_points(
            scaled[kept], points[kept], labels[kept], threshold=self.threshold, inclusive=self.inclusive
        )
        for state, found in zip(PointCounts._fields, counts, strict=True):
            getattr(self, state).index_add_(0, classes[kept], found)
        self.total += counts.iou.sum()
        self.images += kept.sum()
        self.excluded += (~kept).sum()

    @property
    def class_iou(self) -> Tensor:
        """(num_classes,); NaN for a class that was not asked about."""
        return PointCounts(self.hits, self.false_alarms, self.misses).iou

    def compute(self) -> Tensor:
        """The mean; NaN when nothing counts."""
        if self.average == "class":
            return self.class_iou.nanmean()
        if self.average == "image":
            return self.total / self.images
        return PointCounts(self.hits.sum(), self.false_alarms.sum(), self.misses.sum()).iou

    def extra_repr(self) -> str:
        """The settings, to be printed with the number."""
        names = ("average", "threshold", "inclusive", "normalise", "undefined")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
