"""Positive and negative perturbation over a stream of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captum_vit.metrics.functional.fills import Fill
from captum_vit.metrics.functional.perturbation import (
    TENTHS,
    Summary,
    negative_perturbation,
    positive_perturbation,
)
from captum_vit.metrics.functional.probe import Measure, Score
from captum_vit.metrics.model_metric import CurveMetric

__all__ = ["NegativePerturbation", "PositivePerturbation"]


class PositivePerturbation(CurveMetric):
    """Area under the accuracy while the most relevant pixels are removed.

    Args:
        score: images → (B, K).
        measure: what is read from the model; see `functional.perturbation`, as for the arguments below.
        fractions: shares of the pixels that are removed.
        summary: how the curve becomes one number.
        fill: what replaces a pixel.
        patch: pixels (h, w) that are removed together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, 100.0)

    def __init__(
        self,
        score: Score,
        *,
        measure: Measure = "accuracy",
        fractions: Sequence[float] = TENTHS,
        summary: Summary = "chefer",
        fill: Fill = 0.0,
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            lambda *batch: positive_perturbation(
                score,
                *batch,
                measure=measure,
                fractions=fractions,
                summary=summary,
                fill=fill,
                patch=patch,
                batch_size=batch_size,
            ),
            points=len(fractions),
            **kwargs,
        )


class NegativePerturbation(CurveMetric):
    """Area under the accuracy while the least relevant pixels are removed.

    Args:
        score: images → (B, K).
        measure: what is read from the model; see `functional.perturbation`, as for the arguments below.
        fractions: shares of the pixels that are removed.
        summary: how the curve becomes one number.
        fill: what replaces a pixel.
        patch: pixels (h, w) that are removed together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (0.0, 100.0)

    def __init__(
        self,
        score: Score,
        *,
        measure: Measure = "accuracy",
        fractions: Sequence[float] = TENTHS,
        summary: Summary = "chefer",
        fill: Fill = 0.0,
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            lambda *batch: negative_perturbation(
                score,
                *batch,
                measure=measure,
                fractions=fractions,
                summary=summary,
                fill=fill,
                patch=patch,
                batch_size=batch_size,
            ),
            points=len(fractions),
            **kwargs,
        )
