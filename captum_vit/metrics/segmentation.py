"""Heat maps as segmentations, over a stream of images: of each image, and of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from captum_vit.metrics.base import RowMetric
from captum_vit.metrics.classes import check_classes
from captum_vit.metrics.functional.average_precision import average_precision, two_channels
from captum_vit.metrics.functional.confusion import Confusion
from captum_vit.metrics.functional.maps import (
    IGNORE,
    Normalisation,
    check_pair,
    is_undefined,
    is_unscorable,
    normalised,
)
from captum_vit.metrics.functional.segmentation import confusion_at, row_f1
from captum_vit.metrics.functional.thresholds import BestOf, Threshold, check_threshold
from captum_vit.metrics.presets import preset_settings

__all__ = ["PooledSegmentation", "Segmentation"]

_PIXEL_MEASURES = ("pixel_accuracy", "iou_background", "iou_foreground", "miou", "f1")
_MEASURES = (*_PIXEL_MEASURES, "ap_two_channel", "ap_foreground")


class Segmentation(RowMetric):
    """Every number by which papers call a heat map a good segmentation, from one pass over the images.

    `compute` returns

    | name | meaning |
    |---|---|
    | `pixel_accuracy` | share of pixels on the right side of the threshold |
    | `iou_background`, `iou_foreground` | intersection over union of each class; the second is the Jaccard index |
    | `miou` | the mean of the two |
    | `f1` | F1 of the foreground, also called Dice |
    | `ap_two_channel` | mean over images of `two_channel_average_precision`: the mAP of Chefer et al. |
    | `ap_foreground` | mean over images of `foreground_average_precision` |

    "mIoU", "mAP" and "F1" mean different things in different papers: see `PRESETS`. Without normalising, maps must be
    in [0, 1], for the average precision of two channels has no meaning elsewhere.

    Args:
        threshold: pixels strictly above it are foreground: a number on the scale of ``normalise``, "mean", "otsu" or a
            `BestOf`. Papers differ, so there is no default.
        normalise: see `foreground_iou`.
        aggregate: "dataset" adds up the pixels of all images before it divides, "image" takes the mean of the images'
            values. With "dataset" a `BestOf` picks one threshold for all images, with "image" one for each; without
            normalising there is none for all.
        f1: the same choice for F1, or "chefer_rows" for `f1_of_rows`.
        undefined: "exclude" leaves out images whose map is constant or holds NaN and those with an empty mask, and
            counts them. "reference" scores them as the code of Chefer et al. does: every pixel of such a map is
            below the threshold, and a ratio of nothing to nothing is 0.
        kwargs: of `torchmetrics.Metric`.

    Attributes:
        images: number of images that count.
        excluded: number of images left out.
        counted: number of images in the mean of each measure, by name; see below.

    A measure may be undefined for an image that counts: without background, and with nothing below the threshold, the
    IoU of the background is nothing by nothing. Such an image is left out of the mean of that measure and of those made
    from it, and ``counted`` says of how many images each mean is. A number from the added pixels of all images is of
    all of them.

    Raises:
        TypeError: a threshold that is neither a number nor a rule.
        ValueError: an unknown choice, or a threshold outside the scale of ``normalise``.

    Example:
        >>> maps = torch.tensor([[[0.0, 1.0], [4.0, 8.0]], [[0.0, 2.0], [2.0, 4.0]]])
        >>> masks = torch.tensor([[[0, 0], [1, 1]], [[0, 0], [1, 1]]])
        >>> metric = Segmentation.preset("chefer")
        >>> metric.update(maps, masks)
        >>> {name: round(value.item(), 4) for name, value in metric.compute().items()}  # doctest: +NORMALIZE_WHITESPACE
        {'pixel_accuracy': 0.875, 'iou_background': 0.8, 'iou_foreground': 0.75, 'miou': 0.775, 'f1': 0.8333,
         'ap_two_channel': 0.8917, 'ap_foreground': 0.9167}
    """

    higher_is_better = True
    range = (0.0, 1.0)
    needs = ("masks",)
    pixels: Tensor
    sums: Tensor
    counts: Tensor
    images: Tensor
    excluded: Tensor

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Segmentation:
        """The metric with the settings of a paper, see `PRESETS`.

        Args:
            name: "chefer", "clip_prs", "legrad", "report_voc" or "review_cam_lrp".
            changes: arguments that are to differ.

        Raises:
            ValueError: an unknown name, or a threshold that the paper does not state and that is not given.
        """
        return cls(**preset_settings(name, changes))

    def __init__(
        self,
        threshold: Threshold,
        *,
        normalise: Normalisation = "min_max",
        aggregate: Literal["dataset", "image"] = "dataset",
        f1: Literal["image", "dataset", "chefer_rows"] = "image",
        undefined: Literal["exclude", "reference"] = "exclude",
        **kwargs: Any,
    ) -> None:
        for argument, value, known in (
            ("aggregate", aggregate, ("dataset", "image")),
            ("f1", f1, ("image", "dataset", "chefer_rows")),
            ("undefined", undefined, ("exclude", "reference")),
        ):
            if value not in known:
                raise ValueError(f"{argument} must be one of {', '.join(known)}, got {value!r}.")
        check_threshold(threshold, normalise)
        if isinstance(threshold, BestOf) and normalise == "none" and aggregate == "dataset":
            raise ValueError(
                f"threshold must be one for all images with aggregate='dataset', got {threshold}, which with "
                "normalise='none' each map has on a scale of its own. Normalise, or take aggregate='image'."
            )
        super().__init__(**kwargs)
        self.threshold, self.normalise, self.aggregate = threshold, normalise, aggregate
        self.f1, self.undefined = f1, undefined
        candidates = threshold.count if isinstance(threshold, BestOf) else 1
        measures = len(_MEASURES)
        self.add_state("pixels", torch.zeros(4, candidates, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(measures, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(measures, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("excluded", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def rows(self, maps: Tensor, masks: Tensor) -> Tensor:
        """(B, 1 + measures + 4T) of maps (B, H, W) and masks (B, H, W), see `functional.foreground_iou`.

        Whether the image counts, its measures, and its pixels at the T candidates for the threshold; float64.
        """
        maps, masks = check_pair(maps, masks)
        scaled = normalised(maps, self.normalise)
        kept = torch.ones_like(is_undefined(scaled))
        if self.undefined == "exclude":
            kept = ~is_unscorable(scaled, masks)
            scaled, masks = scaled[kept], masks[kept]
        pixels = confusion_at(scaled, masks, self.threshold)
        ratios = self._ratios(pixels.best())
        if self.f1 == "chefer_rows":
            ratios[-1] = row_f1(scaled, masks, self.threshold).double()
        values = torch.stack([*ratios, *_average_precisions(scaled, masks)], dim=1)  # (B, measures)
        if self.undefined == "reference":
            values = values.nan_to_num(0)
        rows = values.new_zeros(len(maps), 1 + len(_MEASURES) + self.pixels.numel())
        rows[kept] = torch.cat([torch.ones_like(values[:, :1]), values, torch.stack(pixels, dim=1).flatten(1)], dim=1)
        return rows

    def add_rows(self, rows: Tensor) -> None:
        kept = rows[rows[:, 0] == 1]
        values, pixels = kept[:, 1:].split([len(_MEASURES), self.pixels.numel()], dim=1)
        self.pixels += pixels.sum(0).long().view_as(self.pixels)
        self.sums += values.nansum(0)
        self.counts += (~values.isnan()).sum(0)
        self.images += len(kept)
        self.excluded += len(rows) - len(kept)

    def compute(self) -> dict[str, Tensor]:
        """The numbers by name; NaN where no image counts."""
        return self._aggregated(self.sums / self.counts, self._ratios(Confusion(*self.pixels).best()))

    @property
    def counted(self) -> dict[str, int]:
        """Numbers of images by name: those behind each number of `compute`."""
        found = self._aggregated(self.counts, [self.images] * len(_PIXEL_MEASURES))
        return {name: int(count) for name, count in found.items()}

    def extra_repr(self) -> str:
        """The settings, to be printed with the numbers."""
        names = ("threshold", "normalise", "aggregate", "f1", "undefined")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _aggregated(self, of_images: Tensor, of_pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        """By name, what comes from each image or from the pixels of all, as the settings have it."""
        found = dict(zip(_MEASURES, of_images, strict=True))
        pooled = dict(zip(_PIXEL_MEASURES, of_pixels, strict=True))
        f1 = (pooled if self.f1 == "dataset" else found)["f1"]
        return found | (pooled if self.aggregate == "dataset" else {}) | {"f1": f1}

    def _ratios(self, counts: Confusion) -> list[Tensor]:
        """The pixel measures, in their order."""
        background, foreground = counts.iou_background, counts.iou_foreground
        if self.undefined == "reference":
            background, foreground = background.nan_to_num(0), foreground.nan_to_num(0)
        return [counts.pixel_accuracy, background, foreground, (background + foreground) / 2, counts.f1]


class PooledSegmentation(Metric):
    """How well maps find a class, all pixels of all its images taken together; the mean over classes.

    `compute` returns ``ap``, the average precision of the pixels of a class ranked by the maps, and ``iou``, the
    intersection over union at the threshold that is best for the class. The masks choose that threshold, so ``iou`` is
    an upper bound and no score to compare with one at a fixed threshold. This is what DenseAV calls mAP and mIoU on
    ADE20K prompted by sounds and speech.

    Pixels are counted in a histogram of their values, so that classes of any number of images fit into memory. ``iou``
    is exact: the thresholds lie at edges of the histogram. In ``ap`` the pixels of one bin tie.

    Args:
        num_classes: number of classes.
        thresholds: how many are tried, evenly spaced from 0 to 1, the two ends included; a pixel strictly above is
            foreground.
        bins: of the histogram between two thresholds.
        normalise: "min_max" brings each map to [0, 1], "clip_min_max" does after negative values became 0. DenseAV
            scales the maps of a whole dataset together.
        kwargs: of `torchmetrics.Metric`.

    Attributes:
        images: number of maps that count.
        excluded: number of maps left out, because they are constant or hold NaN.

    A class whose masks hold no pixel has no value and is not part of the means.

    Raises:
        ValueError: an argument out of its range, or an unknown choice.

    Source: DenseAV (arXiv 2406.05629), its evaluation on ADE20K.

    Example:
        >>> metric = PooledSegmentation(2)
        >>> maps, masks = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> metric.update(maps, masks, torch.tensor([1]))
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'ap': 1.0, 'iou': 1.0}
    """

    higher_is_better = True
    full_state_update = False
    is_differentiable = False
    range = (0.0, 1.0)
    needs = ("masks",)
    inside: Tensor
    outside: Tensor
    images: Tensor
    excluded: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        thresholds: int = 20,
        bins: int = 16,
        normalise: Literal["min_max", "clip_min_max"] = "min_max",
        **kwargs: Any,
    ) -> None:
        for name, value, least in (("num_classes", num_classes, 1), ("thresholds", thresholds, 2), ("bins", bins, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if normalise not in ("min_max", "clip_min_max"):
            raise ValueError(f"normalise must be 'min_max' or 'clip_min_max', got {normalise!r}.")
        super().__init__(**kwargs)
        self.num_classes, self.thresholds, self.bins, self.normalise = num_classes, thresholds, bins, normalise
        size = (num_classes, (thresholds - 1) * bins + 1)  # the first holds the values that are exactly 0
        self.add_state("inside", torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("outside", torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("excluded", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor, classes: Tensor) -> None:
        """Takes maps (B, H, W), masks (B, H, W) and each map's class (B,).

        Raises:
            TypeError: see `functional.foreground_iou`.
            ValueError: see `functional.foreground_iou`; a class outside [0, num_classes).
        """
        maps, masks = check_pair(maps, masks)
        classes = check_classes(classes, len(maps), self.num_classes)
        scaled = normalised(maps, self.normalise)
        kept = ~is_undefined(scaled)
        last = self.inside.shape[1] - 1
        edges = torch.arange(last + 1, dtype=torch.float64, device=maps.device) / last
        for values, mask, label in zip(scaled[kept].double(), masks[kept], classes[kept], strict=True):
            places = torch.bucketize(values, edges)  # bin k ends at edge k, which belongs to it
            self.inside[label] += places[mask == 1].bincount(minlength=last + 1)
            self.outside[label] += places[mask == 0].bincount(minlength=last + 1)
        self.images += kept.sum()
        self.excluded += (~kept).sum()

    @property
    def class_ap(self) -> Tensor:
        """(num_classes,); NaN for a class without a pixel."""
        found, wrong = _from_the_top(self.inside), _from_the_top(self.outside)
        precision = found / (found + wrong).clamp(min=1)  # nothing is found where nothing is seen
        return (self.inside * precision).sum(1) / found[:, 0]

    @property
    def class_iou(self) -> Tensor:
        """(num_classes,) at the best threshold; NaN for a class without a pixel."""
        above = [_from_the_top(each) - each for each in (self.inside, self.outside)]
        found, wrong = (each[:, :: self.bins] for each in above)  # (num_classes, thresholds)
        total = self.inside.double().sum(1, keepdim=True)
        return (found / (total + wrong)).amax(1).masked_fill(total[:, 0] == 0, torch.nan)

    def compute(self) -> dict[str, Tensor]:
        """The means over classes; NaN when nothing counts."""
        return {"ap": self.class_ap.nanmean(), "iou": self.class_iou.nanmean()}

    def extra_repr(self) -> str:
        """The settings, to be printed with the numbers."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in ("thresholds", "bins", "normalise"))


def _average_precisions(scaled: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Of both channels and of the foreground, each (B,)."""
    foreground = average_precision(
        scaled.nan_to_num(0).flatten(1), (masks == 1).flatten(1), (masks != IGNORE).flatten(1)
    )
    return average_precision(*two_channels(scaled, masks)), foreground


def _from_the_top(counts: Tensor) -> Tensor:
    """How many pixels lie in each bin and those after it."""
    return counts.double().flip(1).cumsum(1).flip(1)
