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

    def rows(self, images: Tensor, maps: Tensor, targets: Tensor) -> Tensor:
        """(B,) values of images (B, C, H, W), maps (B, H, W) and targets (B,).

        Maps of one image may share it, ``image.expand(B, -1, -1, -1)``: what they have in common runs once.
        """
        values = self._values(images, maps, targets)
        return values if isinstance(values, Tensor) else values.score


class CurveMetric(ModelMetric):
    """The mean of the areas under curves, and the mean curve.

    Args:
        values: images (B, C, H, W), maps (B, H, W) and targets (B,) → a curve per image.
        points: of each curve.
        kwargs: of `torchmetrics.Metric`.
    """

    levels: Tensor

    def __init__(self, values: Fixed, points: int, **kwargs: Any) -> None:
        super().__init__(values, **kwargs)
        self.add_state("levels", torch.zeros(points, dtype=torch.float64), dist_reduce_fx="sum")

    def rows(self, images: Tensor, maps: Tensor, targets: Tensor) -> Tensor:
        """(B, 1 + S): the area and the curve of each image; see `ModelMetric.rows`."""
        curve: Curve = self._values(images, maps, targets)
        return torch.cat([curve.score[:, None], curve.values], dim=1)

    def add_rows(self, rows: Tensor) -> None:
        super().add_rows(rows[:, 0])
        self.levels += rows[~rows[:, 0].isnan(), 1:].double().sum(0)

    @property
    def fractions(self) -> list[float]:
        """S shares of the image that are changed at the points of a curve; even steps to within a patch."""
        given = self._values.keywords.get("fractions")
        return torch.linspace(0, 1, len(self.levels)).tolist() if given is None else [float(each) for each in given]

    def mean_curve(self) -> Tensor:
        """(S,) the mean over this process's images; over those of all of them inside ``sync_context()``."""
        return self.levels / self.images
