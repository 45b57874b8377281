"""Positive and negative perturbation over a stream of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from captum_vit.metrics.base import Fixed
from captum_vit.metrics.functional.curves import Curve
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


class _Perturbation(CurveMetric):
    """Area under the accuracy while pixels are removed in one order.

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

    range = (0.0, 100.0)
    _curve: ClassVar[Callable[..., Curve]]

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
            Fixed(
                type(self)._curve,
                score,
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


class PositivePerturbation(_Perturbation):
    """Area under the accuracy while the most relevant pixels are removed.

    Arguments are those of `functional.positive_perturbation`.
    """

    higher_is_better = False
    _curve = positive_perturbation


class NegativePerturbation(_Perturbation):
    """Area under the accuracy while the least relevant pixels are removed.

    Arguments are those of `functional.negative_perturbation`.
    """

    higher_is_better = True
    _curve = negative_perturbation
