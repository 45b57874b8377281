"""Whether maps point at the object, over a stream of images."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from captum_vit.metrics.base import ImageMean
from captum_vit.metrics.classes import check_classes
from captum_vit.metrics.functional.attention_focus import (
    Downsample,
    background_attention_focus,
    foreground_attention_focus,
)
from captum_vit.metrics.functional.localisation import (
    energy_inside,
    localisation_auc,
    relevance_rank_accuracy,
    top_k_inside,
)
from captum_vit.metrics.functional.pointing import Ties, pointing_game

__all__ = [
    "BackgroundAttentionFocus",
    "ClassPointingGame",
    "EnergyInside",
    "ForegroundAttentionFocus",
    "LocalisationAUC",
    "PointingGame",
    "RelevanceRankAccuracy",
    "TopKInside",
]


class PointingGame(ImageMean):
    """Share of images whose map is highest on the object.

    Args:
        tolerance: in pixels, see `pointing_game`.
        ties: see `pointing_game`.
        undefined: see `pointing_game`.
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> metric = PointingGame(tolerance=1)
        >>> metric.update(torch.tensor([[[0.0, 3.0], [1.0, 2.0]]]), torch.tensor([[[0, 0], [1, 1]]]))
        >>> metric.compute().item(), metric.images.item()
        (0.0, 1)
    """

    higher_is_better = True
    range = (0.0, 1.0)
    needs = ("masks",)

    def __init__(
        self,
        *,
        tolerance: float = 15.0,
        ties: Ties = "first",
        undefined: Literal["exclude", "reference"] = "exclude",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tolerance, self.ties, self.undefined = tolerance, ties, undefined

    def rows(self, maps: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps (B, H, W) and masks (B, H, W)."""
        return pointing_game(maps, masks, tolerance=self.tolerance, ties=self.ties, undefined=self.undefined)


class ClassPointingGame(Metric):
    """Mean over classes of the share of maps that are highest on their class: the pointing game as it is reported.

    Args:
        num_classes: number of classes.
        tolerance: in pixels, see `pointing_game`.
        ties: see `pointing_game`.
        empty_class: "skip" takes the mean over the classes that occur; "zero" counts the others as 0, as TorchRay does.
        undefined: see `pointing_game`.
        kwargs: of `torchmetrics.Metric`.

    Attributes:
        images: number of maps that count.
        excluded: number of maps left out.

    Raises:
        ValueError: an unknown choice, or fewer than one class.

    Source: Zhang et al. 2018 (International Journal of Computer Vision 126), as TorchRay counts.

    Example:
        >>> maps = torch.tensor([[[0.0, 3.0], [1.0, 2.0]], [[0.0, 1.0], [3.0, 2.0]], [[0.0, 1.0], [2.0, 3.0]]])
        >>> metric = ClassPointingGame(3, tolerance=1)
        >>> metric.update(maps, torch.tensor([[[0, 0], [1, 1]]]).expand(3, 2, 2), torch.tensor([0, 0, 2]))
        >>> metric.compute(), metric.class_accuracy
        (tensor(0.7500, dtype=torch.float64), tensor([0.5000,    nan, 1.0000], dtype=torch.float64))
    """

    higher_is_better = True
    full_state_update = False
    is_differentiable = False
    range = (0.0, 1.0)
    needs = ("masks",)
    hits: Tensor
    seen: Tensor
    excluded: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        tolerance: float = 15.0,
        ties: Ties = "first",
        empty_class: Literal["skip", "zero"] = "skip",
        undefined: Literal["exclude", "reference"] = "exclude",
        **kwargs: Any,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if empty_class not in ("skip", "zero"):
            raise ValueError(f"empty_class must be 'skip' or 'zero', got {empty_class!r}.")
        super().__init__(**kwargs)
        self.num_classes, self.tolerance, self.ties = num_classes, tolerance, ties
        self.empty_class, self.undefined = empty_class, undefined
        self.add_state("hits", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("excluded", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor, classes: Tensor) -> None:
        """Takes maps (B, H, W), the masks (B, H, W) of each map's class, and the classes (B,).

        Raises:
            TypeError: see `pointing_game`.
            ValueError: see `pointing_game`; a class outside [0, num_classes).
        """
        hits = pointing_game(maps, masks, tolerance=self.tolerance, ties=self.ties, undefined=self.undefined)
        classes = check_classes(classes, len(hits), self.num_classes)
        known = ~hits.isnan()
        self.hits.index_add_(0, classes[known], hits[known].long())
        self.seen += classes[known].bincount(minlength=self.num_classes)
        self.excluded += (~known).sum()

    @property
    def images(self) -> Tensor:
        """Number of maps that count."""
        return self.seen.sum()

    @property
    def class_accuracy(self) -> Tensor:
        """(num_classes,); NaN for a class that does not occur."""
        return self.hits.double() / self.seen

    def compute(self) -> Tensor:
        """The mean; NaN when nothing counts and empty classes are skipped."""
        return self.class_accuracy.nanmean() if self.empty_class == "skip" else self.class_accuracy.nan_to_num(0).mean()


class EnergyInside(ImageMean):
    """Share of a map's positive relevance that lies on the object: the energy-based pointing game."""

    higher_is_better = True
    range = (0.0, 1.0)
    needs = ("masks",)

    def rows(self, maps: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps (B, H, W) and masks (B, H, W)."""
        return energy_inside(maps, masks)


class RelevanceRankAccuracy(ImageMean):
    """Share of a map's highest pixels, as many as the object has, that lie on the object."""

    higher_is_better = True
    range = (0.0, 1.0)
    needs = ("masks",)

    def rows(self, maps: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps (B, H, W) and masks (B, H, W)."""
        return relevance_rank_accuracy(maps, masks)


class TopKInside(ImageMean):
    """Share of a map's k highest pixels that lie on the object.

    Args:
        k: number of pixels.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (0.0, 1.0)
    needs = ("masks",)

    def __init__(self, *, k: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k

    def rows(self, maps: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps (B, H, W) and masks (B, H, W)."""
        return top_k_inside(maps, masks, k=self.k)


class LocalisationAUC(ImageMean):
    """Area under the ROC curve of a map as a detector of the object's pixels; 0.5 for a map that knows nothing."""

    higher_is_better = True
    range = (0.0, 1.0)
    needs = ("masks",)

    def rows(self, maps: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps (B, H, W) and masks (B, H, W)."""
        return localisation_auc(maps, masks)


class ForegroundAttentionFocus(ImageMean):
    """FAF, the share of the attention over the patches that goes to the object.

    Args:
        downsample: how the mask comes to the patch grid, see `foreground_attention_focus`.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (0.0, 1.0)
    needs = ("masks",)

    def __init__(self, *, downsample: Downsample = "area", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.downsample = downsample

    def rows(self, maps: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps (B, gh, gw) on the patch grid and masks (B, H, W) in pixels."""
        return foreground_attention_focus(maps, masks, downsample=self.downsample)


class BackgroundAttentionFocus(ImageMean):
    """BAF, the share of the attention over the patches that goes to the background.

    Args:
        downsample: how the mask comes to the patch grid, see `foreground_attention_focus`.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, 1.0)
    needs = ("masks",)

    def __init__(self, *, downsample: Downsample = "area", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.downsample = downsample

    def rows(self, maps: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps (B, gh, gw) on the patch grid and masks (B, H, W) in pixels."""
        return background_attention_focus(maps, masks, downsample=self.downsample)
