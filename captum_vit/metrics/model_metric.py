"""Metrics that ask the model about changed images, as streams."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_vit.metrics.base import Fixed, ImageMean
from captum_vit.metrics.functional.curves import Curve

__all__ = ["CurveMetric", "ModelMetric"]


class ModelMetric(ImageMean):
    """The mean of a value per image; images, maps and targets come in `update`.

    Args:
        values: images (B, C, H, W), maps (B, H, W) and targets (B,) → (B,), or a result with such a ``score``.
        kwargs: of `torchmetrics.Metric`.
    """

    needs = ("model",)

    def __init__(self, values: Fixed, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._values = values

    def update(self, images: Tensor, maps: Tensor, targets: Tensor) -> None:
        """Takes images (B, C, H, W), maps (B, H, W) and targets (B,)."""
        values = self._values(images, maps, targets)
        self.add(values if isinstance(values, Tensor) else values.score)


class CurveMetric(ImageMean):
    """The mean of the areas under curves, and the mean curve.

    Args:
        values: images (B, C, H, W), maps (B, H, W) and targets (B,) → a curve per image.
        points: of each curve.
        kwargs: of `torchmetrics.Metric`.
    """

    needs = ("model",)
    levels: Tensor

    def __init__(self, values: Fixed, points: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._values = values
        self.add_state("levels", torch.zeros(points, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, images: Tensor, maps: Tensor, targets: Tensor) -> None:
        """Takes images (B, C, H, W), maps (B, H, W) and targets (B,)."""
        curve: Curve = self._values(images, maps, targets)
        self.add(curve.score)
        self.levels += curve.values[~curve.score.isnan()].double().sum(0)

    @property
    def fractions(self) -> list[float]:
        """S shares of the image that are changed at the points of a curve; even steps to within a patch."""
        given = self._values.keywords.get("fractions")
        return torch.linspace(0, 1, len(self.levels)).tolist() if given is None else [float(each) for each in given]

    def mean_curve(self) -> Tensor:
        """(S,) the mean over this process's images; over those of all of them inside ``sync_context()``."""
        return self.levels / self.images
